"""Fill a store with pairs: the same motion twice, on a person and on the edited person.

    synclora pairs generate --generator procedural --count 64 --seed 0 --out out/pairs

Everything about a pair follows from its seed, so generating again gives the same pair, and a run that was stopped goes
on where it was.
"""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from synclora.atomic import sha256
from synclora.errors import SyncloraError
from synclora.pairs.filling import admitting, only_run
from synclora.pairs.procedural import Pair, check_frames, check_seed, procedural_pair
from synclora.pairs.store import MEDIA, PairRow, PairStore

if TYPE_CHECKING:
    from synclora.clip import Clip

GENERATORS = ("procedural",)
MEDIA_CRF = 12  # near-transparent: the pairs are training truth, and the files stay small at portrait sizes
SIZES = (64, 1024)  # px, what the renderer draws


@dataclass(frozen=True)
class Recipe:
    """What is drawn of each seed."""

    size: int = 128  # px
    frames: int = 33
    fps: Fraction | float = 25
    defects: bool = False  # half of the pairs with a known defect

    def id_of(self, seed: int) -> str:
        """The name of a seed's pair."""
        return f"procedural{'-defects' if self.defects else ''}-{seed:07d}"

    def pair_of(self, seed: int) -> Pair:
        """Draw a seed's pair."""
        if self.defects:
            from synclora.pairs.defects import defect_pool_pair

            return defect_pool_pair(seed, size=self.size, frames=self.frames, fps=self.fps)
        return procedural_pair(seed, size=self.size, frames=self.frames, fps=self.fps)


def save_pair(store: PairStore | Path | str, pair: Pair, *, generator: str = "procedural") -> PairRow:
    """Write a pair's two media files into `store`/media and return its row; `PairStore.append` is what admits it."""
    from synclora.clip import Clip

    store = store if isinstance(store, PairStore) else PairStore(store)
    source, target = (f"{MEDIA}/{pair.id}.{side}.mp4" for side in ("source", "target"))
    count, height, width, _ = pair.source.shape
    curves = None
    if pair.curves is not None:
        rounded = {name: [round(float(value), 5) for value in values] for name, values in pair.curves.items()}
        curves = json.dumps(rounded, allow_nan=False, separators=(",", ":"))
    return PairRow(
        id=pair.id,
        source=source,
        target=target,
        fps=str(pair.fps),
        frames=count,
        width=width,
        height=height,
        prompt=pair.prompt,
        edit_kinds=pair.edit_kinds,
        generator=generator,
        seed=pair.seed,
        motion=curves,
        sync=None,
        verdict="unjudged",
        reason="",
        sha256_source=_write_media(store, source, Clip(pair.source, pair.fps)),
        sha256_target=_write_media(store, target, Clip(pair.target, pair.fps)),
        defect=pair.defect,
    )


def _write_media(store: PairStore, relative: str, clip: Clip) -> str:
    """Write one clip into the store and return its sha256."""
    from synclora.clip import write_clip

    if store.is_local:  # write_clip is atomic itself and names the file in its errors
        write_clip(store.root / relative, clip, crf=MEDIA_CRF, audio=False)
        return sha256(store.root / relative)
    with store.writing(relative) as path:
        write_clip(path, clip, crf=MEDIA_CRF, audio=False)
        return sha256(path)


def generate_store(
    root: Path | str,
    count: int,
    seed: int = 0,
    *,
    size: int = 128,
    frames: int = 33,
    fps: Fraction | float = 25,
    workers: int = 1,
    generator: str = "procedural",
    defects: bool = False,
    progress: Callable[[str, int, int], None] | None = None,
) -> int:
    """Fill the store at `root` (a folder or a URL) with `count` pairs; returns how many were made in this run.

    With `defects` every second pair has a known defect (see `synclora.pairs.defects`). Pairs that are already there
    and whole are skipped, altered or missing ones are made again, so running the same command after a kill finishes
    the work. `progress(stage, done, total)` is called as pairs are finished.

    Raises:
        SyncloraError: a bad setting, a store of other settings, another run at work in the same folder, a full disk.
    """
    store = PairStore(root)
    recipe = Recipe(size, frames, fps, defects)
    _check_settings(count, seed, recipe, workers, generator)
    with only_run(store):
        todo = _unfinished(store, recipe, range(seed, seed + count), progress)
        store.append([])  # an empty store is a store: it opens from the start
        with admitting(store) as admit:
            for made, row in enumerate(_make(store.url, todo, recipe, workers), start=1):
                admit(row)
                if progress:
                    progress("Generating pairs", made, len(todo))
    return len(todo)


def _unfinished(
    store: PairStore, recipe: Recipe, seeds: range, progress: Callable[[str, int, int], None] | None
) -> list[int]:
    """The seeds whose pairs are not in the store, or not whole."""
    wanted = {recipe.id_of(seed): seed for seed in seeds}
    whole: set[int] = set()
    rows = store.iter_rows() if store.exists() else iter(())
    for row in rows:
        if row.id not in wanted:
            continue
        asked = (recipe.frames, recipe.size, recipe.size)
        if (row.frames, row.width, row.height) != asked:
            raise SyncloraError(
                f"{store.url}: {row.id} is {row.frames} frames of {row.width}x{row.height}, but {recipe.frames} "
                f"frames of {recipe.size}x{recipe.size} were asked for. Use the same settings to resume, or another "
                "--out."
            )
        if store.is_whole(row):
            whole.add(wanted[row.id])
        if progress:
            progress("Checking what is there", len(whole), len(seeds))
    return [seed for seed in seeds if seed not in whole]


def _make(url: str, seeds: list[int], recipe: Recipe, workers: int) -> Iterator[PairRow]:
    """Rows of finished pairs, in whatever order the workers finish them."""
    if workers == 1 or len(seeds) < 2:
        for seed in seeds:
            yield _render_and_save(url, seed, recipe)
        return
    # spawn: torch's thread pools do not survive a fork
    pool = ProcessPoolExecutor(min(workers, len(seeds)), mp_context=get_context("spawn"), initializer=_start_worker)
    try:
        # a short queue, so that an interrupt waits for a pair or two and not for all of them
        queue = iter(seeds)
        running = {pool.submit(_render_and_save, url, s, recipe) for s in islice(queue, 2 * workers)}
        while running:
            finished, running = wait(running, return_when=FIRST_COMPLETED)
            for future in finished:
                yield future.result()
            for seed in islice(queue, len(finished)):
                running.add(pool.submit(_render_and_save, url, seed, recipe))
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _render_and_save(url: str, seed: int, recipe: Recipe) -> PairRow:
    return save_pair(url, recipe.pair_of(seed))


def _start_worker() -> None:
    """One thread a worker; Ctrl-C is the parent's to handle; and no worker outlives it, however it died."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    parent = parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def _check_settings(count: int, seed: int, recipe: Recipe, workers: int, generator: str) -> None:
    if generator not in GENERATORS:
        raise SyncloraError(f"generator {generator!r} is not known; choose one of: {', '.join(GENERATORS)}.")
    if count < 1:
        raise SyncloraError(f"count is {count}; at least 1 pair is needed.")
    size = recipe.size
    if not SIZES[0] <= size <= SIZES[1] or size % 32:
        nearest = min(max(size // 32 * 32, SIZES[0]), SIZES[1])
        raise SyncloraError(
            f"size is {size} px; a multiple of 32 from {SIZES[0]} to {SIZES[1]} is needed, e.g. {nearest}."
        )
    if workers < 1:
        raise SyncloraError(f"workers is {workers}; at least 1 is needed.")
    check_seed(seed)
    check_seed(seed + count - 1)
    check_frames(recipe.frames)
    if recipe.defects:
        from synclora.pairs.defects import check_length

        check_length(recipe.frames)
