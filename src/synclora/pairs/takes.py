"""A stretch of procedural motion that can be looked up at any instant, before, within and after a clip.

    take = draw_take(seed=3, frames=33, fps=25.0, accept=lambda take: True)
    late = take.motion(take.times - 2.5)   # the same motion, 2.5 frames late, nothing missing and nothing repeated

The curves are sampled at several times the frame rate and read between by straight lines; at whole frames they are
exact.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from synclora.errors import SyncloraError
from synclora.portraits import TEST_SEED_START, Motion, sample_motion
from synclora.portraits.motion import CHANNELS

FINE = 8  # samples a frame; a lid or a saccade takes more than one frame
MARGIN = 8  # frames known beyond each end of a clip, at least
SLACK = 100  # frames in which the clip's start is chosen
WINDOWS = 12  # starts tried in one motion
MOTIONS = 200  # motions tried before giving up
SHUT = 0.02  # lid closure above which an eye is in a blink


@dataclass(frozen=True)
class Take:
    """`fine` is the motion at `FINE` samples a frame; the clip's frame 0 lies `start` frames into it."""

    fine: Motion
    start: int
    frames: int
    other: Motion  # of another clip, sampled alike; for defects that borrow from one
    seed: int  # what a defect's own draws follow from

    @property
    def times(self) -> Tensor:
        """The clip's instants in frames: 0, 1, ..., F - 1."""
        return torch.arange(self.frames, dtype=torch.float64)

    @property
    def clean(self) -> Motion:
        """The clip's own motion."""
        return self.motion(self.times)

    def motion(self, times: Tensor) -> Motion:
        """The motion at `times` [F] (frames after the clip's start, fractions and negative ones allowed)."""
        return _at(self.fine, times + self.start)

    def other_motion(self) -> Motion:
        """The other clip's motion over the same instants."""
        return _at(self.other, self.times + self.start)

    def rng(self, purpose: str) -> random.Random:
        """Draws of this take for one purpose, the same every time."""
        return random.Random(f"{purpose}-{self.seed}")


def draw_take(seed: int, frames: int, fps: float, accept: Callable[[Take], bool]) -> Take:
    """The first stretch of motion, in the order that the seed gives, that `accept` takes.

    Seeds from TEST_SEED_START on draw their motions there, others below it.

    Raises:
        SyncloraError: nothing acceptable was found.
    """
    rng = random.Random(f"take-{seed}")
    margin = MARGIN + math.ceil(0.15 * frames)
    length = (frames + 2 * margin + SLACK) * FINE + 1
    own = seed
    for _ in range(MOTIONS):
        other = _relative(seed, rng)
        take = Take(sample_motion(own, length, fps * FINE), 0, frames, sample_motion(other, length, fps * FINE), seed)
        for start in sorted(rng.sample(range(margin, margin + SLACK), WINDOWS), key=lambda _: rng.random()):
            candidate = replace(take, start=start)
            if accept(candidate):
                return candidate
        own = _relative(seed, rng)
    raise SyncloraError(
        f"seed {seed}: no motion of {frames} frames at {fps:g} fps shows the defect asked for. "
        "Use more frames (33 or more at 25 fps), or another seed."
    )


def blinks(closure: Tensor) -> list[range]:
    """Runs of samples in which a lid curve [F] is in a blink, those cut off at either end left out."""
    shut = (closure > SHUT).tolist()
    edges = [i for i in range(1, len(shut)) if shut[i] != shut[i - 1]]
    if shut and shut[0]:
        edges = edges[1:]
    return [range(first, end) for first, end in zip(edges[::2], edges[1::2], strict=False)]


def _relative(seed: int, rng: random.Random) -> int:
    """Another motion seed on the same side of TEST_SEED_START."""
    return (seed >= TEST_SEED_START) * TEST_SEED_START + rng.randrange(TEST_SEED_START)


def _at(fine: Motion, times: Tensor) -> Motion:
    place = times * FINE
    low = place.floor().clamp(0, len(fine) - 2)
    share = (place - low).clamp(0, 1).float()
    index = low.long()
    curves = {name: torch.lerp(curve[index], curve[index + 1], share) for name, curve in _curves(fine).items()}
    return Motion(**curves, fps=fine.fps / FINE)


def _curves(motion: Motion) -> dict[str, Tensor]:
    return {name: getattr(motion, name) for name in CHANNELS}
