"""Cutting and resizing frames."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from synclora.errors import SyncloraError


@dataclass(frozen=True)
class Crop:
    """A rectangle of the source, in pixels after rotation, and the size it is resized to."""

    left: int
    top: int
    width: int
    height: int
    out_width: int
    out_height: int

    def __post_init__(self) -> None:
        if min(self.left, self.top) < 0 or min(self.width, self.height, self.out_width, self.out_height) < 1:
            raise SyncloraError(f"{self}: a crop needs left and top of at least 0 and sizes of at least 1 px.")


def centered_crop(width: int, height: int, out_width: int, out_height: int) -> Crop:
    """Return the largest centred crop of a width x height picture that has the aspect of the output size (pixels)."""
    if min(width, height, out_width, out_height) < 1:
        raise SyncloraError(f"crop of {width}x{height} to {out_width}x{out_height}: every size must be at least 1 px.")
    if width * out_height >= height * out_width:
        crop_height, crop_width = height, max(1, min(width, round(height * out_width / out_height)))
    else:
        crop_width, crop_height = width, max(1, min(height, round(width * out_height / out_width)))
    left, top = (width - crop_width) // 2, (height - crop_height) // 2
    return Crop(left, top, crop_width, crop_height, out_width, out_height)


def apply_crop(frames: Tensor, crop: Crop) -> Tensor:
    """Cut and resize frames with antialiased bicubic interpolation.

    Args:
        frames: uint8 [F, H, W, 3].
        crop: the rectangle; it must lie inside the frames.

    Returns:
        uint8 [F, out_height, out_width, 3], contiguous.

    Raises:
        SyncloraError: the rectangle reaches outside the frames.
    """
    height, width = frames.shape[1:3]
    right, bottom = crop.left + crop.width, crop.top + crop.height
    if right > width or bottom > height:
        raise SyncloraError(
            f"crop {crop.width}x{crop.height} at ({crop.left}, {crop.top}) reaches outside the {width}x{height} frame. "
            "Choose a rectangle inside it; centered_crop gives the largest one."
        )
    cut = frames[:, crop.top : bottom, crop.left : right]
    if (crop.width, crop.height) == (crop.out_width, crop.out_height):
        return cut.contiguous()
    resized = torch.empty(len(frames), crop.out_height, crop.out_width, 3, dtype=torch.uint8, device=frames.device)
    for index, frame in enumerate(cut):  # one by one: the resize works in a few times the frame's memory
        resized[index] = F.interpolate(
            frame.permute(2, 0, 1)[None], size=(crop.out_height, crop.out_width), mode="bicubic", antialias=True
        )[0].permute(1, 2, 0)
    return resized
