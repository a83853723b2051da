"""Training at several sizes: which clip is trained at which, and which step trains at which.

    data: {pairs: my_pairs, buckets: [{width: 512, height: 512, frames: 81}, {width: 768, height: 448, frames: 49}]}

A pair goes to the bucket whose shape is nearest to its own; of buckets of one shape, to the longest it fills. All pairs
of a step, over all processes, are of one bucket: no batch mixes sizes, and no process waits for one with larger clips.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from synclora.backbones.base import Geometry
from synclora.errors import SyncloraError
from synclora.training.config import Bucket
from synclora.training.state import PairSampler, step_generator, step_seed

if TYPE_CHECKING:
    from synclora.training.clips import ClipSet


def check_buckets(buckets: Sequence[Bucket], geometry: Geometry) -> None:
    """Refuse sizes the backbone cannot take; SyncloraError."""
    for bucket in buckets:
        pitch, step, most = geometry.spatial, geometry.temporal, geometry.frames
        if bucket.width % pitch or bucket.height % pitch:
            near = "x".join(str(max(round(side / pitch), 1) * pitch) for side in (bucket.width, bucket.height))
            raise SyncloraError(
                f"data.buckets: {bucket}; width and height must be multiples of {pitch}, such as {near}."
            )
        if not geometry.valid_frames(bucket.frames) or bucket.frames > most:
            raise SyncloraError(
                f"data.buckets: {bucket}; the backbone takes {step}k+1 frames up to {most}, "
                f"such as {min(geometry.fit_down(bucket.frames), most)}."
            )
    if len(set(map(str, buckets))) < len(buckets):
        raise SyncloraError(f"data.buckets: {', '.join(map(str, buckets))}; one is there twice. Leave it out.")


def geometry_of(bucket: Bucket, geometry: Geometry) -> Geometry:
    """The backbone's geometry at a bucket's size."""
    return replace(geometry, width=bucket.width, height=bucket.height)


def nearest(width: int, height: int, frames: int, buckets: Sequence[Bucket]) -> Bucket:
    """The bucket for a clip of `width` x `height` pixels and `frames` frames at the backbone's rate.

    Nearest in aspect ratio (as a factor); then the longest that is not longer than the clip, or the shortest there is;
    then nearest in area.
    """

    def distance(bucket: Bucket) -> tuple[float, int, float]:
        shape = abs(math.log(bucket.width * height / (bucket.height * width)))
        length = -bucket.frames if bucket.frames <= frames else bucket.frames
        return round(shape, 6), length, abs(math.log(bucket.width * bucket.height / (width * height)))

    return min(buckets, key=distance)


class JoinedClips:
    """Several `ClipSet`s, each of one size, as one: clips, shards and pairs of the second follow those of the first.

    Attributes:
        buckets: pair numbers of each.
        others: see `ClipSet`.
    """

    def __init__(self, name: str, parts: Sequence[ClipSet]) -> None:
        self.name, self._parts = name, parts
        self.pairs: list[tuple[int, int]] = []
        self.shards: list[range] = []
        self.buckets: list[range] = []
        self._shard_of: list[tuple[ClipSet, int]] = []
        clips = 0
        for part in parts:
            first = len(self.pairs)
            self.pairs += [(clips + i, clips + j) for i, j in part.pairs]
            self.buckets.append(range(first, len(self.pairs)))
            shards: list[range] = part.shards
            self.shards += [range(clips + shard.start, clips + shard.stop) for shard in shards]
            self._shard_of += [(part, index) for index in range(len(shards))]
            clips += sum(map(len, shards))
        self.identity = _digest([part.identity for part in parts])
        self.content = _digest([part.content for part in parts])

    def load(self, shard: int) -> tuple[Tensor, list[str]]:
        """See `ClipSet.load`."""
        part, index = self._shard_of[shard]
        return part.load(index)


def buckets_of(clips: ClipSet) -> list[range]:
    """The pair numbers of each size; most sets are of one."""
    return getattr(clips, "buckets", None) or [range(len(clips.pairs))]


class BucketSampler:
    """Which pairs step `step` trains on: all of one bucket, each bucket in its share of the pairs.

    An epoch is one step for every `batch` pairs of a bucket, rounded, but at least one, in an order that depends on
    (seed, epoch) alone. Within a bucket, and with one bucket alone, the order is `PairSampler`'s.
    """

    def __init__(self, buckets: Sequence[range], batch: int, seed: int) -> None:
        self.buckets, self.seed = [bucket for bucket in buckets if len(bucket)], seed
        alone = len(self.buckets) == 1
        seeds = [seed if alone else step_seed(seed, index, "bucket") for index in range(len(self.buckets))]
        self._samplers = [PairSampler(len(bucket), batch, own) for bucket, own in zip(self.buckets, seeds, strict=True)]
        self._visits = [max(1, round(len(bucket) / batch)) for bucket in self.buckets]

    def indices(self, step: int) -> list[int]:
        """Pair numbers for 0-based step `step`; a pure function of it."""
        epoch, place = divmod(step, sum(self._visits))
        steps = [index for index, visits in enumerate(self._visits) for _ in range(visits)]
        shuffled = torch.randperm(len(steps), generator=step_generator(self.seed, epoch, "buckets")).tolist()
        order = [steps[at] for at in shuffled]
        bucket = order[place]
        before = epoch * self._visits[bucket] + order[:place].count(bucket)
        return [self.buckets[bucket][index] for index in self._samplers[bucket].indices(before)]


def _digest(names: list[str]) -> str:
    return hashlib.sha256("\n".join(names).encode()).hexdigest()
