"""How many frames of the source are edited, and how a length the model does not take is made one that it does."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from synclora.errors import SyncloraError

if TYPE_CHECKING:
    from synclora.backbones.base import Geometry

FIT_CHOICES = ("pad", "trim", "error")


def frames_to_read(source: Path | str, geometry: Geometry, frames: int | None) -> int:
    """How many frames to read at most: those asked for, or one more than the window, to see whether it is exceeded.

    Raises:
        SyncloraError: `frames` below 1 or above the window.
    """
    if frames is None:
        return geometry.frames + 1
    if not 1 <= frames <= geometry.frames:
        raise SyncloraError(
            f"{source}: --frames {frames}; the model takes 1 to {geometry.frames} frames at a time. "
            f"Pass --frames {geometry.frames} or fewer."
        )
    return frames


def frames_to_use(source: Path | str, available: int, geometry: Geometry, frames: int | None, fit: str) -> int:
    """How many of the `available` frames are edited; the output has exactly so many.

    Args:
        available: frames read with `frames_to_read` as the limit.
        frames: the number asked for, or None.
        fit: "pad" takes all, "trim" the longest length of the model's kind (8k + 1), "error" all if they are of it.

    Raises:
        SyncloraError: fewer frames than asked for, or a length that `fit` does not allow.
    """
    window = geometry.frames
    if frames is not None:
        if available < frames:
            raise SyncloraError(
                f"{source}: the clip ends after {available} frames, but --frames {frames} was asked for. "
                f"Pass --frames {available} or fewer, or leave --frames out."
            )
        return frames
    if fit == "trim":
        return geometry.fit_down(min(available, window))
    if available > window:
        raise SyncloraError(
            f"{source}: more than {window} frames, the longest the model takes at a time. "
            f"Edit the start of it with --frames {window}, or let --fit trim choose."
        )
    if fit == "error" and not geometry.valid_frames(available):
        temporal = geometry.temporal
        raise SyncloraError(
            f"{source}: {available} frames; with --fit error {temporal}k+1 are needed. Pass "
            f"--frames {geometry.fit_down(available)}, or let --fit trim or --fit pad make it fit."
        )
    return available


def pad_frames(frames: Tensor, count: int) -> Tensor:
    """uint8 [F, H, W, 3] -> [count, H, W, 3], the last frame repeated; count >= F."""
    missing = count - frames.shape[0]
    return frames if missing == 0 else torch.cat([frames, frames[-1:].expand(missing, -1, -1, -1)])
