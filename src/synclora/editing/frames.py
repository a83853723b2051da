"""How many frames of the source are edited, and how a length the model does not take is made one that it does."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from synclora.clip import ClipInfo, count_frames
from synclora.errors import SyncloraError

if TYPE_CHECKING:
    from synclora.backbones.base import Geometry

FIT_CHOICES = ("pad", "trim", "error")


def frames_to_read(source: Path | str, info: ClipInfo, geometry: Geometry, frames: int | None, fit: str) -> int | None:
    """How many frames of the file are edited; None for all of them, as long as nothing depends on their number.

    The frames are counted (decoded, not converted) only where the container's own number will not do.

    Raises:
        SyncloraError: as `frames_to_use`, or `frames` below 1.
    """
    if frames is not None and frames < 1:
        raise SyncloraError(f"{source}: --frames {frames}; at least 1 is needed. Leave --frames out to edit all.")
    if frames is None and fit == "pad":
        return None
    if frames is not None and frames < 0.9 * info.frames and not info.variable:
        return frames
    return frames_to_use(source, count_frames(source), geometry, frames, fit)


def frames_to_use(source: Path | str, available: int, geometry: Geometry, frames: int | None, fit: str) -> int:
    """How many of the `available` frames are edited; the output has exactly so many.

    Args:
        available: frames of the clip, any number.
        frames: the number asked for, or None.
        fit: "pad" takes all, "trim" the longest length of the model's kind (8k + 1), "error" all if they are of it.

    Raises:
        SyncloraError: fewer frames than asked for, or a length that `fit` does not allow.
    """
    if frames is not None:
        if available < frames:
            raise SyncloraError(
                f"{source}: the clip ends after {available} frames, but --frames {frames} was asked for. "
                f"Pass --frames {available} or fewer, or leave --frames out."
            )
        return frames
    if fit == "trim":
        return geometry.fit_down(available)
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
