"""`synclora pairs generate`: the generator that is asked for, with the settings that are its own.

synclora pairs generate --generator procedural --count 64 --size 128 --out out/pairs
synclora pairs generate --generator split-screen --count 64 --config recipes/pairs/split_screen.yaml --out out/pairs
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from synclora.errors import SyncloraError
from synclora.pairs.generate import GENERATORS, generate_store

SPLIT_SCREEN = "split-screen"


def generate_pairs(
    out: Path | str,
    count: int,
    seed: int = 0,
    *,
    generator: str = "procedural",
    defects: bool = False,
    size: int | None = None,
    frames: int | None = None,
    workers: int | None = None,
    config: Path | None = None,
    prompts: Path | None = None,
    executor: str | None = None,
    ray_address: str | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> tuple[list[str], bool]:
    """Fill the store at `out` with the pairs of `count` seeds; returns what to print, and whether there are any pairs.

    `defects`, `size` (128 px), `frames` (33) and `workers` (1) are for drawn pairs; `config`, `prompts`, `executor`
    ("local") and `ray_address` for split-screen.

    Raises:
        SyncloraError: a setting of the other generator, or as the generators do.
    """
    known = (*GENERATORS, SPLIT_SCREEN)
    if generator not in known:
        raise SyncloraError(f"generator {generator!r} is not known; choose one of: {', '.join(known)}.")
    drawn = {"--size": size, "--frames": frames, "--workers": workers, "--defects": defects or None}
    made = {"--config": config, "--prompts": prompts, "--executor": executor, "--ray-address": ray_address}
    if generator == SPLIT_SCREEN:
        _refuse(generator, drawn, "Sizes, frames and workers are in its configuration.")
        if config is None:
            raise SyncloraError("the generator split-screen needs --config, e.g. recipes/pairs/split_screen.yaml.")
        from synclora.pairs.splitscreen.run import generate_split_screen

        done = generate_split_screen(
            out,
            count,
            config,
            seed,
            prompts=prompts,
            executor=executor or "local",
            ray_address=ray_address,
            progress=progress,
        )
        return done.summary(str(out)), bool(done.made + done.present)
    _refuse(generator, made, f"They are for --generator {SPLIT_SCREEN}.")
    chosen = {"size": size, "frames": frames, "workers": workers}
    given: dict[str, Any] = {name: value for name, value in chosen.items() if value is not None}
    new = generate_store(out, count, seed, generator=generator, defects=defects, progress=progress, **given)
    return [f"{out}: {new} pairs generated, {count - new} were already there."], True


def _refuse(generator: str, settings: dict[str, object], why: str) -> None:
    foreign = [name for name, value in settings.items() if value is not None]
    if foreign:
        raise SyncloraError(f"the generator {generator} takes no {' or '.join(foreign)}. {why}")
