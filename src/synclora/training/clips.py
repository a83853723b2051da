"""Where training clips come from: a pair store on disk, or portraits drawn on the spot.

Both are a `ClipSet`: clips by number, and which of them are pairs. A pair (i, j) says: given clip i and the first frame
of clip j, make clip j.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from itertools import permutations
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from synclora.backbones.base import Geometry
from synclora.errors import SyncloraError
from synclora.training.buckets import JoinedClips, check_buckets, geometry_of, nearest
from synclora.training.config import VALIDATION_SEED_START, Bucket, Data, Procedural
from synclora.training.pool import MOTIONS_PER_SHARD, ClipPool

if TYPE_CHECKING:
    from synclora.pairs.store import PairRow, PairStore

CLIPS_PER_SHARD = 16  # of a store; what a kill while encoding can cost
VALIDATION_LOOKS = 2


class ClipSet(Protocol):
    """Numbered clips, and which of them are pairs.

    Attributes:
        name: short, a file name: `train` or `validation`.
        pairs: (source, target) clip numbers.
        shards: clip numbers that are loaded and stored together; in order, they cover all clips.
        identity: digest of what was asked for; the same on every machine.
        content: digest of what the clips hold; when it changes, latents made from them are stale.
    """

    name: str
    pairs: list[tuple[int, int]]
    shards: list[range]
    identity: str
    content: str

    def load(self, shard: int) -> tuple[Tensor, list[str]]:
        """Clips of a shard, uint8 [n, F, H, W, 3], and a caption for each."""
        ...


def open_clips(data: Data, geometry: Geometry) -> tuple[ClipSet, ClipSet]:
    """Training and validation clips; no motion or source video is in both.

    Raises:
        SyncloraError: frames the backbone cannot take, a store with faults (each named) or with too few pairs.
    """
    frames = geometry.frames if data.frames is None else data.frames
    if not geometry.valid_frames(frames) or frames > geometry.frames:
        step, most = geometry.temporal, geometry.frames
        raise SyncloraError(
            f"data.frames is {frames}; the backbone takes {step}k+1 frames up to {most}, "
            f"such as {min(geometry.fit_down(frames), most)}. Change data.frames or leave it out."
        )
    if data.procedural is not None:
        drawn = data.procedural
        held_out = Procedural.model_construct(
            motions=data.validation, looks=VALIDATION_LOOKS, seed=VALIDATION_SEED_START, pool=drawn.pool, mix=drawn.mix
        )
        return DrawnClips("train", drawn, geometry, frames), DrawnClips("validation", held_out, geometry, frames)
    assert data.pairs is not None
    if data.buckets is not None:
        check_buckets(data.buckets, geometry)
    one_size = [Bucket(width=geometry.width, height=geometry.height, frames=frames)]
    return _open_store(data.pairs, data.validation, geometry, data.buckets or one_size)


class DrawnClips:
    """Procedural portraits: clip m * looks + k is look k of motion m; every ordered pair of looks is a pair."""

    def __init__(self, name: str, drawn: Procedural, geometry: Geometry, frames: int) -> None:
        if geometry.width != geometry.height:
            raise SyncloraError(
                f"data.procedural: the backbone's clips are {geometry.width}x{geometry.height}, and drawn portraits "
                "are square. Use data.pairs with this backbone."
            )
        self.name, self._on_disk = name, drawn.pool is not None
        self._pool = ClipPool(
            drawn.pool or Path(), drawn.motions, drawn.looks, drawn.seed, geometry.width, frames, geometry.fps,
            mix=drawn.mix,
        )  # fmt: skip
        looks = range(drawn.looks)
        self.pairs = [
            (m * drawn.looks + i, m * drawn.looks + j) for m in range(drawn.motions) for i, j in permutations(looks, 2)
        ]
        count, step = drawn.motions * drawn.looks, MOTIONS_PER_SHARD * drawn.looks
        self.shards = [range(first, min(first + step, count)) for first in range(0, count, step)]
        self.identity = _digest("drawn", drawn.model_dump(exclude={"pool"}), geometry.width, frames, geometry.fps)
        self.content = _digest(self.identity, self._pool.digest())

    def load(self, shard: int) -> tuple[Tensor, list[str]]:
        """See `ClipSet.load`."""
        drawn = self._pool.shard(shard) if self._on_disk else self._pool.render(shard)
        return drawn.frames.flatten(0, 1), [caption for captions in drawn.captions for caption in captions]


@dataclass
class StoredClips:
    """Clips of a pair store, cropped to the backbone's size and resampled to its rate, cut into windows.

    Clip 2i is the source and 2i + 1 the target of window i.
    """

    name: str
    store: PairStore
    windows: list[tuple[PairRow, int]]  # a row and the first frame of a window in it
    geometry: Geometry
    frames: int
    pairs: list[tuple[int, int]] = field(init=False)
    shards: list[range] = field(init=False)
    identity: str = field(init=False)
    content: str = field(init=False)

    def __post_init__(self) -> None:
        count = 2 * len(self.windows)
        self.pairs = [(clip, clip + 1) for clip in range(0, count, 2)]
        self.shards = [range(first, min(first + CLIPS_PER_SHARD, count)) for first in range(0, count, CLIPS_PER_SHARD)]
        rows = [(row.id, row.prompt, row.sha256_source, row.sha256_target, first) for row, first in self.windows]
        self.identity = self.content = _digest("stored", rows, asdict(self.geometry), self.frames)

    def load(self, shard: int) -> tuple[Tensor, list[str]]:
        """See `ClipSet.load`. SyncloraError names a pair whose clip cannot be read or is too short."""
        clips, captions = [], []
        for clip in self.shards[shard]:
            row, first = self.windows[clip // 2]
            path = self.store.target_path(row) if clip % 2 else self.store.source_path(row)
            if not self.store.is_whole(row):
                raise SyncloraError(
                    f"{path}: the files of pair {row.id} are missing or not what the table recorded (sha256). "
                    "Generate the pair again or take it out of the store."
                )
            frames = _read(path, self.geometry, first, self.frames)
            if len(frames) < self.frames:
                raise SyncloraError(
                    f"{path} (pair {row.id}): {first + len(frames)} frames at {self.geometry.fps:g} fps; "
                    f"{first + self.frames} are needed. Lower data.frames or take the pair out of the store."
                )
            clips.append(frames)
            captions.append(row.prompt)
        return torch.stack(clips), captions


def _read(path: Path, geometry: Geometry, first: int, frames: int) -> Tensor:
    from synclora.clip import centered_crop, probe, read_clip

    info = probe(path)
    crop = centered_crop(info.width, info.height, geometry.width, geometry.height)
    return read_clip(path, start=first, frames=frames, fps=geometry.fps, crop=crop).frames


def _open_store(root: Path, held_out: int, geometry: Geometry, buckets: list[Bucket]) -> tuple[ClipSet, ClipSet]:
    from synclora.pairs.store import PairStore

    store = PairStore(root)
    rows = [row for row in store.rows() if row.verdict != "reject"]
    problems = store.verify(deep=False)
    if problems:
        shown = "; ".join(str(problem) for problem in problems[:5])
        raise SyncloraError(
            f"{root}: {len(problems)} faults in the pair store: {shown}. "
            f"`synclora pairs check {root}` lists all; generate those pairs again or take them out."
        )
    chosen_bucket = {row.id: nearest(row.width, row.height, _resampled(row, geometry), buckets) for row in rows}
    short = [row for row in rows if not _window_starts(row, geometry, chosen_bucket[row.id].frames)]
    if short:
        longest = geometry.fit_down(min(_resampled(row, geometry) for row in short))
        least = min(chosen_bucket[row.id].frames for row in short)
        named = ", ".join(f"{row.id} ({row.frames} frames at {row.fps} fps)" for row in short[:5])
        way_out = f"Set data.frames to {longest}" if len(buckets) == 1 else f"Add a bucket of {longest} frames"
        raise SyncloraError(
            f"{root}: {len(short)} pairs are shorter than {least} frames at {geometry.fps:g} fps: {named}. "
            f"{way_out} or take them out."
        )
    # One source video may be in several pairs; it goes to one side as a whole.
    sources = sorted({row.sha256_source for row in rows}, key=lambda name: _digest("held out", name))
    chosen: set[str] = set()
    while sources and sum(row.sha256_source in chosen for row in rows) < held_out:
        chosen.add(sources.pop())
    if not sources:
        raise SyncloraError(
            f"{root}: {len(rows)} usable pairs; data.validation holds out {held_out} and none is left to learn from. "
            "Add pairs or lower data.validation."
        )
    return (
        _stored("train", store, [row for row in rows if row.sha256_source not in chosen], geometry, chosen_bucket),
        _stored("validation", store, [row for row in rows if row.sha256_source in chosen], geometry, chosen_bucket),
    )


def _stored(
    name: str, store: PairStore, rows: list[PairRow], geometry: Geometry, bucket_of: dict[str, Bucket]
) -> ClipSet:
    """The windows of rows, those for validation only the first of each; a set of one size, or several joined."""
    parts = []
    used = {str(bucket_of[row.id]): bucket_of[row.id] for row in rows}
    for _, bucket in sorted(used.items()):
        own = [row for row in rows if bucket_of[row.id] == bucket]
        starts = {row.id: _window_starts(row, geometry, bucket.frames) for row in own}
        windows = [(row, at) for row in own for at in (starts[row.id] if name == "train" else [0])]
        parts.append(StoredClips(name, store, windows, geometry_of(bucket, geometry), bucket.frames))
    return parts[0] if len(parts) == 1 else JoinedClips(name, parts)


def _resampled(row: PairRow, geometry: Geometry) -> int:
    """Frames of a row's clips at the backbone's rate: those whose time lies within the last source frame's."""
    return int((row.frames - 1) / Fraction(row.fps) * Fraction(geometry.fps)) + 1


def _window_starts(row: PairRow, geometry: Geometry, frames: int) -> list[int]:
    return list(range(0, _resampled(row, geometry) - frames + 1, frames))


def _digest(*parts: object) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()
