"""Make pairs: the same motion twice, on a person and on the edited person.

    synclora pairs generate --generator procedural --count 64 --seed 0 --out out/pairs

The procedural generator draws both clips with `synclora.portraits`, so a pair is synchronous by construction and its
true motion curves are known. Everything about a pair follows from its seed: generating again gives the same pair.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from multiprocessing import get_context, parent_process
from pathlib import Path
from time import monotonic

import torch
from torch import Tensor

from synclora.errors import SyncloraError
from synclora.pairs.store import MEDIA, PairRow, PairStore, media_row_fields

GENERATORS = ("procedural",)
MEDIA_CRF = 12  # near-transparent: the pairs are training truth, and the files stay small at portrait sizes
SIZES = (64, 1024)  # px, what the renderer draws
MAX_EDITS = 3  # edits applied to one person
SECONDS_BETWEEN_TABLES = 5.0  # how much finished work a kill can cost


@dataclass(frozen=True)
class Pair:
    """Two clips of one motion."""

    id: str
    source: Tensor  # uint8 [F, H, W, 3]
    target: Tensor  # uint8 [F, H, W, 3]
    fps: Fraction
    prompt: str  # caption of the target
    edit_kinds: list[str]
    seed: int
    curves: dict[str, list[float]] | None  # true motion, one value per frame; None where unknown


def procedural_pair(
    seed: int, *, size: int = 128, frames: int = 33, fps: Fraction | float = 25, test: bool = False
) -> Pair:
    """Render one pair of `frames` (8k + 1) square frames of `size` px.

    `test=True` draws from the seeds kept apart for evaluation (`TEST_SEED_START` + seed), which training never sees.

    Raises:
        SyncloraError: a seed outside its range, or frames not 8k + 1.
    """
    from synclora import portraits

    _check_frames(frames)
    if not 0 <= seed < portraits.TEST_SEED_START:
        raise SyncloraError(
            f"seed {seed}: pair seeds run from 0 to {portraits.TEST_SEED_START - 1}; later ones are kept for testing. "
            "Choose a smaller seed or count."
        )
    seed = seed + portraits.TEST_SEED_START if test else seed
    rate = Fraction(fps).limit_denominator(1001)
    person = portraits.sample_person(seed)
    motion = portraits.sample_motion(seed, frames, float(rate))
    edited, kinds = portraits.sample_edit(person, seed, 1 + seed % MAX_EDITS)
    return Pair(
        id=f"procedural-{seed:07d}",
        source=portraits.render(person, motion, size),
        target=portraits.render(edited, motion, size),
        fps=rate,
        prompt=portraits.caption(edited),
        edit_kinds=list(kinds),
        seed=seed,
        curves=motion.curves(),
    )


def procedural_pairs(
    count: int, seed: int = 0, *, size: int = 128, frames: int = 33, fps: Fraction | float = 25, test: bool = False
) -> Iterator[Pair]:
    """`count` pairs of seeds seed, seed + 1, ..., rendered one at a time as they are asked for."""
    for index in range(seed, seed + count):
        yield procedural_pair(index, size=size, frames=frames, fps=fps, test=test)


def save_pair(root: Path | str, pair: Pair, *, generator: str = "procedural") -> PairRow:
    """Write a pair's two media files under `root`/media and return its row; `PairStore.append` is what admits it."""
    from synclora.clip import Clip, write_clip

    root = Path(root)
    source, target = (root / MEDIA / f"{pair.id}.{side}.mp4" for side in ("source", "target"))
    for path, frames in ((source, pair.source), (target, pair.target)):
        write_clip(path, Clip(frames, pair.fps), crf=MEDIA_CRF, audio=False)
    count, height, width, _ = pair.source.shape
    curves = None
    if pair.curves is not None:
        rounded = {name: [round(float(value), 5) for value in values] for name, values in pair.curves.items()}
        curves = json.dumps(rounded, allow_nan=False, separators=(",", ":"))
    return PairRow(
        id=pair.id,
        **media_row_fields(root, source, target),
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
    )


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
    progress: Callable[[str, int, int], None] | None = None,
) -> int:
    """Fill the store at `root` with `count` pairs; returns how many were made in this run.

    Pairs that are already there and whole are skipped, altered or missing ones are made again, so running the same
    command after a kill finishes the work. `progress(stage, done, total)` is called as pairs are finished.

    Raises:
        SyncloraError: a bad setting, a store of other settings, another run at work in the same folder, a full disk.
    """
    root = Path(root)
    _check_settings(count, size, frames, workers, generator)
    root.mkdir(parents=True, exist_ok=True)
    with _only_run(root):
        store = PairStore(root)
        present = {row.id: row for row in store.rows()} if store.exists() else {}
        todo: list[int] = []
        for done, index in enumerate(range(seed, seed + count), start=1):
            row = present.get(f"procedural-{index:07d}")
            if row is not None and (row.frames, row.width, row.height) != (frames, size, size):
                raise SyncloraError(
                    f"{store.table_path}: {row.id} is {row.frames} frames of {row.width}x{row.height}, but {frames} "
                    f"frames of {size}x{size} were asked for. Use the same settings to resume, or another --out."
                )
            if row is None or not store.is_whole(row):
                todo.append(index)
            if progress:
                progress("Checking what is there", done, count)
        store.append([])  # an empty store is a store: it opens from the start
        waiting: list[PairRow] = []
        last = monotonic()
        try:
            for made, row in enumerate(_make(root, todo, size, frames, fps, workers), start=1):
                waiting.append(row)
                if monotonic() - last > SECONDS_BETWEEN_TABLES:
                    store.append(waiting, replace=True)
                    waiting, last = [], monotonic()
                if progress:
                    progress("Generating pairs", made, len(todo))
        finally:
            if waiting:
                store.append(waiting, replace=True)
    return len(todo)


def _make(root: Path, seeds: list[int], size: int, frames: int, fps: Fraction | float, workers: int):
    """Rows of finished pairs, in whatever order the workers finish them."""
    if workers == 1 or len(seeds) < 2:
        for seed in seeds:
            yield _render_and_save(root, seed, size, frames, fps)
        return
    # spawn: torch's thread pools do not survive a fork
    pool = ProcessPoolExecutor(min(workers, len(seeds)), mp_context=get_context("spawn"), initializer=_start_worker)
    try:
        # a short queue, so that an interrupt waits for a pair or two and not for all of them
        queue = iter(seeds)
        running = {pool.submit(_render_and_save, root, s, size, frames, fps) for s in islice(queue, 2 * workers)}
        while running:
            finished, running = wait(running, return_when=FIRST_COMPLETED)
            for future in finished:
                yield future.result()
            for seed in islice(queue, len(finished)):
                running.add(pool.submit(_render_and_save, root, seed, size, frames, fps))
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _render_and_save(root: Path, seed: int, size: int, frames: int, fps: Fraction | float) -> PairRow:
    return save_pair(root, procedural_pair(seed, size=size, frames=frames, fps=fps))


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


@contextmanager
def _only_run(root: Path) -> Iterator[None]:
    """Hold the store's lock (freed by the system however the process ends) and sweep up what a killed run left."""
    with open(root / ".lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise SyncloraError(
                f"{root}: another run is generating pairs here. Wait for it, or choose another --out."
            ) from error
        for leftover in [*root.glob(".*.part.parquet"), *(root / MEDIA).glob(".*.part.mp4")]:
            leftover.unlink(missing_ok=True)
        yield


def _check_settings(count: int, size: int, frames: int, workers: int, generator: str) -> None:
    if generator not in GENERATORS:
        raise SyncloraError(f"generator {generator!r} is not known; choose one of: {', '.join(GENERATORS)}.")
    if count < 1:
        raise SyncloraError(f"count is {count}; at least 1 pair is needed.")
    if not SIZES[0] <= size <= SIZES[1] or size % 32:
        nearest = min(max(size // 32 * 32, SIZES[0]), SIZES[1])
        raise SyncloraError(
            f"size is {size} px; a multiple of 32 from {SIZES[0]} to {SIZES[1]} is needed, e.g. {nearest}."
        )
    if workers < 1:
        raise SyncloraError(f"workers is {workers}; at least 1 is needed.")
    _check_frames(frames)


def _check_frames(frames: int) -> None:
    if frames < 1 or frames % 8 != 1:
        raise SyncloraError(
            f"frames is {frames}; a pair needs 8k+1 frames, e.g. {max(frames // 8, 1) * 8 + 1}, "
            "because the autoencoder packs eight frames into one after the first."
        )
