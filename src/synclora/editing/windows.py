"""Clips of any length, in windows of the model's length that overlap.

    clip      |0 ........................................ 79|
    window 0  |0 ......... 32|
    window 1            |24 ......... 56|                     24 to 32: made by window 0, known to window 1
    window 2                      |48 ................ 79|

A window is shown what it continues, and the edited image it must stay true to (`synclora.editing.sampler`); the frames
that two windows share are faded from one to the other. One window is in memory at a time, and each window but the last
makes as many new frames, so the cost grows with the length and memory does not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from synclora.backbones.base import Geometry

OVERLAP = 4  # the windows share about one part in so many of their length; what 8 costs is in docs/editing.md


def overlap_of(geometry: Geometry) -> int:
    """How many frames two neighbouring windows share: whole latent frames, and at least one frame of each is new."""
    if geometry.frames == 1:
        return 0
    return min(geometry.fit_up(geometry.frames // OVERLAP), geometry.fit_down(geometry.frames - 1))


def starts(frames: int, length: int, overlap: int) -> list[int]:
    """The first frames of the windows that cover a clip of so many frames."""
    return list(range(0, max(frames - overlap, 1), length - overlap))


def slices(frames: Tensor, length: int, overlap: int) -> Iterator[Tensor]:
    """The windows of frames that are in memory, as `synclora.clip.iter_windows` reads them from a file."""
    for start in starts(len(frames), length, overlap):
        yield frames[start : start + length]


def run(
    windows: Iterable[Tensor], overlap: int, make: Callable[[Tensor, int, Tensor | None], Tensor]
) -> Iterator[Tensor]:
    """Make a clip window by window: every frame once, in order, and no more than one window of them held.

    Args:
        windows: uint8 [n, H, W, 3] of the source each, beginning with the `overlap` frames the one before ended with.
        overlap: frames that neighbours share.
        make: (window, its first frame's number, the `overlap` frames already made or None) -> n frames made.

    Yields:
        uint8 [m, h, w, 3], m > 0.
    """
    start, made = 0, None
    for window in windows:
        if made is None:
            made = make(window, 0, None)
        else:
            keep = len(made) - overlap
            start += keep
            if keep:
                yield made[:keep]
            context = made[keep:]
            fresh = make(window, start, context)
            made = torch.cat([crossfade(context, fresh[:overlap]), fresh[overlap:]])
    if made is not None:
        yield made


def crossfade(before: Tensor, after: Tensor) -> Tensor:
    """Frames that go over from one version to the other evenly, neither of them ever alone: uint8 [n, H, W, 3]."""
    count = len(before)
    share = (torch.arange(1, count + 1) / (count + 1)).view(-1, 1, 1, 1)
    return torch.lerp(before.float(), after.float(), share).round().to(torch.uint8)
