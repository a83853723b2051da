"""A run of split-screen generation: plan what is missing, run the stages, admit the pairs.

    synclora pairs generate --generator split-screen --config recipes/pairs/split_screen.yaml --count 8 --out out/pairs

Whatever is finished in the store's `stages/` is kept: the same command again does only what is missing, whatever
instant it was killed at, and ends with the same store.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from synclora.errors import SyncloraError
from synclora.pairs.exchange import REFUSED
from synclora.pairs.filling import admitting, only_run
from synclora.pairs.splitscreen.calls import Role
from synclora.pairs.splitscreen.config import SplitScreenConfig, StageConfig, deciding, load_config
from synclora.pairs.splitscreen.files import FAILED, STAGES, Failure, Item, ItemFiles
from synclora.pairs.splitscreen.models import Model, find
from synclora.pairs.splitscreen.pools import EXECUTORS, OnRay
from synclora.pairs.splitscreen.prompts import PortraitPrompt, portrait, read_prompts
from synclora.pairs.splitscreen.stages import RECORD, STAGE_CLASSES, Stage, Work
from synclora.pairs.store import PairRow, PairStore

SETTINGS = f"{STAGES}/settings.json"
PROMPT = "prompt.json"
MOST_SEED = 2**31

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Generated:
    """What a run did."""

    made: int  # pairs admitted by this run
    present: int  # pairs asked for that were there already
    refused: list[Failure]

    def summary(self, out: str) -> list[str]:
        """The result in words, one line each."""
        refused = f", {len(self.refused)} refused (see {out}/{REFUSED})" if self.refused else ""
        return [
            *map(str, self.refused),
            f"{out}: {self.made} pairs generated, {self.present} were already there{refused}.",
        ]


def generate_split_screen(
    root: Path | str,
    count: int,
    config: SplitScreenConfig | Path | str,
    seed: int = 0,
    *,
    prompts: Path | str | None = None,
    executor: str = "local",
    ray_address: str | None = None,
    progress: Progress | None = None,
) -> Generated:
    """Make the pairs of `count` seeds from `seed` on, in the store at `root` (a folder or a URL).

    prompts: a file of one's own prompts (`read_prompts`), the first for the first seed, instead of the grammar.
    executor: "local", one stage after the other in this process, or "ray", all stages at once as actors.

    A pair that cannot be made is told in the result and in the store's `refused.jsonl`, and stops no other. Those
    whose making failed are tried anew by the next run; those refused for what they show are not.

    Raises:
        SyncloraError: a bad setting, a model that is not here or cannot be loaded, a store made with other settings or
            prompts, or another run at work in it.
    """
    config = config if isinstance(config, SplitScreenConfig) else load_config(config)
    _check(count, seed, executor, ray_address)
    words = _words(count, seed, prompts)
    parts: dict[Role, StageConfig] = {"portrait": config.portrait, "edit": config.edit, "video": config.video}
    work = Work(PairStore(root).url, config, _models(parts))
    _check_sizes(work)
    store = PairStore(root)
    with only_run(store):
        _check_settings(store, work)
        items = [Item(f"split-screen-{number:07d}", number, words[number]) for number in words]
        whole = _whole(store, items, progress)
        todo = [item for item in items if item.id not in whole]
        _check_prompts(store, todo)
        plan = _plan(store, todo)
        store.append([])  # an empty store is a store: it opens from the start
        run = OnRay(ray_address) if executor == "ray" else _locally
        made = 0
        with admitting(store) as admit:
            for item in run(work, plan, progress):
                admit(PairRow(**ItemFiles(store, item.id).read_json(RECORD)["row"]))
                made += 1
        refused = [failure for item in todo if (failure := ItemFiles(store, item.id).read_failure())]
        _write_refused(store, refused)
    return Generated(made, len(whole), refused)


def _locally(work: Work, plan: dict[str, list[Item]], progress: Progress | None) -> Iterator[Item]:
    """One stage after the other over all items, so that one model at a time is in memory; yields finished items."""
    ready: list[Item] = []
    for kind in STAGE_CLASSES:
        todo = sorted([*ready, *plan[kind.name]], key=lambda item: item.seed)
        stage, ready = kind(work), []
        for start in range(0, len(todo), stage.batch):
            done = stage(todo[start : start + stage.batch])
            if kind is STAGE_CLASSES[-1]:
                yield from done
            ready += done
            if progress:
                progress(kind.title, min(start + stage.batch, len(todo)), len(todo))
        stage.close()


def _plan(store: PairStore, items: list[Item]) -> dict[str, list[Item]]:
    """The stage at which each item goes on. What failed for a reason that may pass is tried anew."""
    plan: dict[str, list[Item]] = {kind.name: [] for kind in STAGE_CLASSES}
    for item in items:
        files = ItemFiles(store, item.id)
        _sweep(store, item)
        failure = files.read_failure()
        if failure is not None:
            if failure.final:
                continue
            files.remove(FAILED)
        plan[_next(files).name].append(item)
    return plan


def _next(files: ItemFiles) -> type[Stage]:
    """The stage after the last whose output is there; the last one is done again, as its clips may be missing."""
    for before, kind in zip(STAGE_CLASSES[-2::-1], STAGE_CLASSES[:0:-1], strict=True):
        if files.has(before.output):
            return kind
    return STAGE_CLASSES[0]


def _sweep(store: PairStore, item: Item) -> None:
    """Remove what a killed run was writing."""
    if store.is_local:
        for leftover in (store.root / STAGES / item.id).glob(".*.part.*"):
            leftover.unlink(missing_ok=True)


def _whole(store: PairStore, items: list[Item], progress: Progress | None) -> set[str]:
    """The ids whose pairs are in the store, media unaltered."""
    wanted = {item.id for item in items}
    whole: set[str] = set()
    for row in store.iter_rows() if store.exists() else ():
        if row.id in wanted and store.is_whole(row):
            whole.add(row.id)
            if progress:
                progress("Checking what is there", len(whole), len(items))
    return whole


def _words(count: int, seed: int, prompts: Path | str | None) -> dict[int, PortraitPrompt]:
    """The prompt of each seed."""
    seeds = range(seed, seed + count)
    if prompts is None:
        return {number: portrait(number) for number in seeds}
    found = read_prompts(prompts)
    if len(found) < count:
        raise SyncloraError(
            f"{prompts}: holds {len(found)} prompts, but --count is {count}. Ask for {len(found)} pairs."
        )
    return dict(zip(seeds, found, strict=False))


def _check(count: int, seed: int, executor: str, ray_address: str | None) -> None:
    if count < 1:
        raise SyncloraError(f"count is {count}; at least 1 pair is needed.")
    if not 0 <= seed <= MOST_SEED - count:
        raise SyncloraError(f"seed {seed}, count {count}: seeds run from 0 to {MOST_SEED - 1}. Choose a smaller seed.")
    if executor not in EXECUTORS:
        raise SyncloraError(f"executor {executor!r} is not known here; choose one of: {', '.join(EXECUTORS)}.")
    if ray_address is not None and executor != "ray":
        raise SyncloraError(f"the Ray address {ray_address!r} is of no use to the executor {executor!r}; choose ray.")


def _models(parts: dict[Role, StageConfig]) -> dict[str, Model]:
    """The model of each stage; one error tells all that are not here, so that they can be downloaded at once."""
    found: dict[str, Model] = {}
    problems: list[str] = []
    for role, part in parts.items():
        try:
            found[role] = find(role, part)
        except SyncloraError as error:
            problems.append(str(error))
    if problems:
        raise SyncloraError("\n\n".join(problems))
    return found


def _check_sizes(work: Work) -> None:
    """Sizes that the models take; raises SyncloraError."""
    _ = work.layout
    for role in ("portrait", "edit"):
        for name in ("width", "height"):
            px, multiple = getattr(work.config.portrait, name), work.models[role].call.multiple
            if px % multiple:
                raise SyncloraError(
                    f"portrait.{name} is {px}; the model of `{role}` needs a multiple of {multiple},"
                    f" e.g. {max(px // multiple, 1) * multiple}."
                )
    edit, size = work.models["edit"], (work.config.portrait.width, work.config.portrait.height)
    if (call := edit.call.editing) and call.rescales and (best := call.size_for(*size)) != size:
        raise SyncloraError(
            f"portrait.width and height are {size[0]} and {size[1]}; {edit.pipeline} brings each picture to"
            f" {best[0]}x{best[1]}, and what it draws at another size shows it larger or smaller. Make the portraits"
            f" {best[0]}x{best[1]}."
        )


def _check_settings(store: PairStore, work: Work) -> None:
    """Hold the settings to those that the store was begun with, or record them."""
    now: dict[str, Any] = deciding(work.config)
    for role, model in work.models.items():
        now[role] |= model.told()
    now = json.loads(json.dumps(now))
    if not store.has(SETTINGS):
        store.write_bytes(SETTINGS, (json.dumps(now, indent=2) + "\n").encode())
        return
    try:
        before = json.loads(store.read_bytes(SETTINGS))
    except ValueError as error:
        raise SyncloraError(
            f"{store.url}/{SETTINGS}: is damaged, so it cannot be told with which settings the store was begun. If they"
            " are those of now, delete it and run again."
        ) from error
    for path, old, new in _differences(before, now):
        raise SyncloraError(
            f"{store.url}: was begun with {path} {old!r}, and now it is {new!r}. Use the same settings to go on, or"
            " another --out."
        )


def _differences(before: Any, now: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    if not (isinstance(before, dict) and isinstance(now, dict)):
        if before != now:
            yield path, before, now
        return
    for name in sorted({*before, *now}):
        yield from _differences(before.get(name), now.get(name), f"{path}.{name}" if path else name)


def _check_prompts(store: PairStore, items: list[Item]) -> None:
    """Record each item's words before anything is made of them, and hold them to what is recorded."""
    for item in items:
        files, now = ItemFiles(store, item.id), item.prompt.model_dump()
        if not files.has(PROMPT):
            files.write_json(PROMPT, now)
        elif (before := files.read_json(PROMPT)) != now:
            field, old, new = next(_differences(before, now))
            raise SyncloraError(
                f"{store.url}: {item.id} was begun with the {field} {old!r}, and now it is {new!r}. Use the same"
                " prompts to go on, or another --out or --seed."
            )


def _write_refused(store: PairStore, refused: list[Failure]) -> None:
    """All refusals of this run's items, or none left of a run before."""
    if refused:
        lines = [json.dumps({"id": f.id, "stage": f.stage, "why": f.reason}, ensure_ascii=False) for f in refused]
        store.write_bytes(REFUSED, ("\n".join(lines) + "\n").encode())
    else:
        store.remove(REFUSED)
