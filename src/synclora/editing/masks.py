"""Masks of where an edit may show: a picture or a video, white where it may, black where the source stays as it is.

    synclora edit talk.mp4 --first-frame frame-edited.png --mask mask.png -o edited.mp4

A mask shows the whole source's picture, or the crop that the model sees (what `synclora first-frame` writes). Its edge
is softened inwards, so that nothing outside its outline is touched.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from synclora.clip import ClipInfo, Crop, centered_crop, count_frames, iter_windows, probe
from synclora.editing.facecrop import Placement
from synclora.editing.pictures import open_picture, same_aspect
from synclora.errors import SyncloraError

if TYPE_CHECKING:
    from fractions import Fraction

SOFT = 0.015  # of the picture's shorter side: how wide the soft edge is
BLACK, WHITE = 16, 239  # grey levels that count as black and white: videos are compressed
VIDEO_SUFFIXES = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v")

Alpha = Callable[[int], Tensor]
"""The mask of the next so many frames, float [n or 1, H, W] in [0, 1]: asked for in order, each frame once."""


def soft_inside(mask: Tensor) -> Tensor:
    """A mask [n, H, W] with its edge softened inwards: 0 stays 0, and the sides of the picture are no edge."""
    steps = max(1, round(SOFT * min(mask.shape[-2:])))
    total, eroded = mask.clone(), mask[:, None]
    for _ in range(steps - 1):
        eroded = -F.max_pool2d(-eroded, 3, stride=1, padding=1)
        total = total + eroded[:, 0]
    return total / steps


def still(mask: Tensor) -> Alpha:
    """A mask [H, W] that is the same in all frames."""
    soft = soft_inside(mask[None])
    return lambda count: soft


def moving(masks: Tensor | Iterator[Tensor]) -> Alpha:
    """Masks [F, H, W], or batches of them, one for each frame; the last one stays where they end."""
    batches = iter([masks]) if isinstance(masks, Tensor) else masks
    held = torch.empty(0)
    last = torch.empty(0)

    def take(count: int) -> Tensor:
        nonlocal held, last
        while len(held) < count and (batch := next(batches, None)) is not None:
            soft = soft_inside(batch)
            held, last = (torch.cat([held, soft]) if len(held) else soft), soft[-1:]
        taken, held = held[:count], held[count:]
        missing = count - len(taken)
        return torch.cat([taken, last.expand(missing, -1, -1)]) if missing else taken

    return take


def mask_of(mask: Tensor, frames: int, height: int, width: int) -> Alpha:
    """A mask given as a tensor: [H, W] or [F, H, W], bool, uint8 (0 to 255) or float (0 to 1).

    Raises:
        SyncloraError: another size or length, or nothing in it to edit.
    """
    scale = 255.0 if mask.dtype == torch.uint8 else 1.0
    values = (mask.float() / scale).clamp(0, 1)
    if tuple(values.shape) not in ((height, width), (frames, height, width)):
        raise SyncloraError(
            f"mask: {list(mask.shape)}; [{height}, {width}] or [{frames}, {height}, {width}] is needed, as the frames."
        )
    if not bool((values > 0).any()):
        raise SyncloraError("mask: empty, so nothing would be edited. Make it 1 (white) where the edit may show.")
    return still(values) if values.ndim == 2 else moving(values)


def load_mask(path: Path | str, placement: Placement, fps: Fraction, frames: int) -> Alpha:
    """Read a mask file for an output that lies as `placement` says: a picture, or a video of `frames` frames.

    It shows the whole source's picture, or the crop alone (the picture that `synclora first-frame` writes).

    Raises:
        SyncloraError: not readable, of another aspect, a video that ends before the clip, or nothing white in it.
    """
    path = Path(path)
    if path.suffix.lower() in VIDEO_SUFFIXES:
        info = probe(path)
        crop, whole = _mask_crop(path, (info.width, info.height), placement)
        _check_video(path, info, fps, frames)

        def batches() -> Iterator[Tensor]:
            for window in iter_windows(path, 16, fps=fps, crop=crop):
                yield _levels(window.frames, placement, whole)

        if not any(bool((batch > 0).any()) for batch in batches()):
            raise _empty(path)
        return moving(batches())
    image = open_picture(path, "the mask", "--mask mask.png")[0].convert("L")
    crop, whole = _mask_crop(path, image.size, placement)
    from PIL import Image

    box = (crop.left, crop.top, crop.left + crop.width, crop.top + crop.height)
    fitted = image.resize((crop.out_width, crop.out_height), Image.Resampling.BILINEAR, box=box)
    mask = _levels(torch.from_numpy(np.array(fitted))[None, ..., None], placement, whole)[0]
    if not bool((mask > 0).any()):
        raise _empty(path)
    return still(mask)


def _mask_crop(path: Path, size: tuple[int, int], placement: Placement) -> tuple[Crop, bool]:
    """How a mask of that size is cut and resized, and whether it then has the output's size (else the crop's)."""
    width, height = size
    crop, model = placement.crop, (placement.crop.out_width, placement.crop.out_height)
    whole = (placement.width, placement.height)
    if same_aspect(size, whole) and not (same_aspect(size, model) and size == model and placement.pasted):
        if placement.pasted:
            return Crop(0, 0, width, height, *placement.size), True
        return centered_crop(width, height, *model), True
    if same_aspect(size, model):
        return Crop(0, 0, width, height, *((crop.width, crop.height) if placement.pasted else model)), False
    raise SyncloraError(
        f"{path}: {width}x{height} px, an aspect of {width / height:.3f}; the mask needs the source's "
        f"({whole[0]}x{whole[1]}) or that of the edited frame ({model[0]}x{model[1]})."
    )


def _levels(frames: Tensor, placement: Placement, whole: bool) -> Tensor:
    """uint8 [n, h, w, 1 or 3] as a mask [n, H, W] in [0, 1] of the output's size."""
    grey = frames.float().mean(-1)
    mask = ((grey - BLACK) / (WHITE - BLACK)).clamp(0, 1)
    if whole or not placement.pasted:
        return mask
    (width, height), crop = placement.size, placement.crop
    out = torch.zeros(len(mask), height, width)
    out[:, crop.top : crop.top + crop.height, crop.left : crop.left + crop.width] = mask
    return out


def _check_video(path: Path, info: ClipInfo, fps: Fraction, frames: int) -> None:
    """A mask's video may lack a frame or two by rounding; more is a mistake."""
    slack = max(2, frames // 50)
    missing = frames - round(info.duration * fps)
    if missing > slack:
        missing = frames - round(count_frames(path) / info.fps * fps)
    if missing > slack:
        raise SyncloraError(
            f"{path}: the mask ends {missing} frames before the clip of {frames}. Make it as long, or give a picture "
            "to use one mask for all frames."
        )


def _empty(path: Path) -> SyncloraError:
    return SyncloraError(
        f"{path}: the mask is black all over, so nothing would be edited. Paint white what may change."
    )
