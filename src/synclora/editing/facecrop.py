"""Where in the source's picture the model's picture lies, and how the edit goes back into it.

A model edits a small picture of one aspect; sources are 1080p. The part it sees is one fixed rectangle for the whole
clip, so that nothing swims: with "face", the one that holds head and shoulders in all frames, as large in it as in the
portraits the models learn from; with "center", the largest in the middle. A face crop is pasted back, and the
picture keeps its size:

    out = source + border * (pasted - source)            border: 1 inside, falling to 0 at the crop's edge
    pasted = enlarged(edited) + kept * (source - enlarged(reduced(source)))

The second term is the source's detail that the model's picture is too small to hold. Where the edit kept the source's
structure (`kept` near 1: skin, eyes, a tinted lock), this is the source itself plus the low-frequency colour difference
that the edit makes; where the edit put something else (`kept` near 0: a hat, another background), the source's detail
does not belong and is left out. `kept` is the structure term of SSIM (Wang et al., 2004), the local correlation
of edited and reduced source.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from synclora.clip import Crop, apply_crop, centered_crop, iter_windows, probe
from synclora.errors import SyncloraError

if TYPE_CHECKING:
    from synclora.faces.graphs import Box

CROP_CHOICES = ("face", "center")
LOOKS = Fraction(4)  # a second: how often the face is looked for
SEEN_SIDE = 640  # px: larger pictures are reduced to look for the face
SHOULDERS = 1.2  # the crop's height in face squares (`synclora.faces.graphs.around`): as in nano's portraits
EYE_LINE = 0.57  # height of the face square's middle in the crop
MARGIN = 1.05  # the face square with hair
NEARLY_ALL = 0.85  # a crop of so much of the largest one's height gains nothing: the largest is taken
BORDER = 0.08  # of the crop's shorter side: how wide the border is along which the edit fades in
STRUCTURE_WINDOW = 7  # px of the model's picture
STRUCTURE_FLOOR = 12.0  # variance of grey levels below which there is no structure to lose
STRUCTURE_RANGE = (0.4, 0.8)  # correlation from which detail is kept, and at which all of it is


@dataclass(frozen=True)
class Placement:
    """The model's picture in the source's: `crop` of frames of width x height; whether the edit is pasted back."""

    crop: Crop
    width: int
    height: int
    pasted: bool

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the output."""
        if not self.pasted:
            return self.crop.out_width, self.crop.out_height
        return self.width - self.width % 2, self.height - self.height % 2

    @property
    def read_crop(self) -> Crop | None:
        """How frames are cut while they are read: to the crop alone, or to the even size that H.264 needs."""
        if not self.pasted:
            return self.crop
        even = self.size
        return None if even == (self.width, self.height) else Crop(0, 0, *even, *even)

    @property
    def large_crop(self) -> Crop:
        """The crop in the size in which it is pasted; in the model's where it is not."""
        crop = self.crop
        return replace(crop, out_width=crop.width, out_height=crop.height) if self.pasted else crop

    @property
    def window(self) -> tuple[slice, slice]:
        """The crop's rows and columns in the output's pictures, where the edit is pasted."""
        crop = self.crop
        return slice(crop.top, crop.top + crop.height), slice(crop.left, crop.left + crop.width)

    def model_frames(self, frames: Tensor) -> Tensor:
        """What the model sees of frames that were read with `read_crop`: uint8 [F, h, w, 3]."""
        return apply_crop(frames, self.crop) if self.pasted else frames

    def paste(self, source: Tensor, seen: Tensor, edited: Tensor) -> Tensor:
        """The source's frames with the edit in its place, hard-edged: see the module.

        Args:
            source: uint8 [F, H, W, 3] as read.
            seen: uint8 [F, h, w, 3], what the model saw of them.
            edited: uint8 [F, h, w, 3].

        Returns:
            uint8 [F, H, W, 3]; outside the crop the source.
        """
        if not self.pasted:
            return edited
        crop, out = self.crop, source.clone()
        rows, columns = self.window
        for index in range(len(source)):  # one by one: large frames as floats take room
            part = _planes(source[index, rows, columns])
            small, changed = _planes(seen[index]), _planes(edited[index])
            detail = part - _resize(small, crop.height, crop.width)
            kept = _resize(kept_structure(small, changed), crop.height, crop.width).clamp(0, 1)
            pasted = _resize(changed, crop.height, crop.width) + kept * detail
            out[index, rows, columns] = pasted[0].permute(1, 2, 0).round().clamp(0, 255).to(torch.uint8)
        return out

    def border(self) -> Tensor | None:
        """How much of the edit shows, float [H, W] in [0, 1]; 0 outside the crop. None where nothing is pasted.

        The sides of the crop that are sides of the picture need no border.
        """
        if not self.pasted:
            return None
        (width, height), crop = self.size, self.crop
        soft = max(2, round(BORDER * min(crop.width, crop.height)))
        down = _ramp(crop.height, soft, crop.top > 0, crop.top + crop.height < height)
        across = _ramp(crop.width, soft, crop.left > 0, crop.left + crop.width < width)
        alpha = torch.zeros(height, width)
        alpha[crop.top : crop.top + crop.height, crop.left : crop.left + crop.width] = down[:, None] * across
        return alpha


def place(source: Path | str, width: int, height: int, crop: str = "face") -> Placement:
    """Choose the part of a video that a model of width x height px edits: the same for each run on the same file.

    "face" looks for the face where the source's picture is larger than the model's, and pastes the edit back; where no
    face is found, the crop is the largest in the middle. "center" is that, and the output is the crop alone.

    Raises:
        SyncloraError: the video cannot be read, or `crop` is unknown.
    """
    if crop not in CROP_CHOICES:
        raise SyncloraError(f"--crop {crop!r} is not known; choose one of: {', '.join(CROP_CHOICES)}.")
    info = probe(source)
    middle = centered_crop(info.width, info.height, width, height)
    larger = min(middle.width / width, middle.height / height) > 1
    if crop == "center" or not larger:
        return Placement(middle, info.width, info.height, pasted=False)
    even = (info.width - info.width % 2, info.height - info.height % 2)
    largest = centered_crop(*even, width, height)
    found = face_crop(_boxes(source, *even), largest, *even)
    return Placement(found or largest, info.width, info.height, pasted=True)


def face_crop(boxes: list[Box], largest: Crop, width: int, height: int) -> Crop | None:
    """The rectangle that holds head and shoulders in all looks: None without a face.

    Args:
        boxes: the face in each look; x, y and side in pixels.
        largest: the largest crop of the model's aspect, whose size is the upper bound.
        width, height: of the picture.
    """
    if not boxes:
        return None
    half = MARGIN / 2
    left, right = min(b.x - half * b.side for b in boxes), max(b.x + half * b.side for b in boxes)
    top, bottom = min(b.y - half * b.side for b in boxes), max(b.y + half * b.side for b in boxes)
    aspect = largest.out_width / largest.out_height
    needed = max(SHOULDERS * median(b.side for b in boxes), bottom - top, (right - left) / min(aspect, 1.0))
    if needed >= NEARLY_ALL * largest.height:
        crop_width, crop_height = largest.width, largest.height
    else:
        crop_height = min(round(needed), largest.height)
        crop_width = min(round(crop_height * aspect), largest.width)
    x, y = (left + right) / 2, (top + bottom) / 2
    corner_x = min(max(round(x - crop_width / 2), 0), width - crop_width)
    corner_y = min(max(round(y - EYE_LINE * crop_height), 0), height - crop_height)
    return Crop(corner_x, corner_y, crop_width, crop_height, largest.out_width, largest.out_height)


def kept_structure(source: Tensor, edited: Tensor) -> Tensor:
    """How far the edit keeps the source's structure, [1, 1, h, w] in [0, 1]; float [1, 3, h, w] of 0 to 255 each."""
    grey_s, grey_e = (x.mean(1, keepdim=True) for x in (source, edited))
    mean_s, mean_e = _blur(grey_s), _blur(grey_e)
    covariance = _blur(grey_s * grey_e) - mean_s * mean_e
    variances = [(_blur(g * g) - m * m).clamp(min=0) for g, m in ((grey_s, mean_s), (grey_e, mean_e))]
    correlation = (covariance + STRUCTURE_FLOOR) / ((variances[0] * variances[1]).sqrt() + STRUCTURE_FLOOR)
    low, high = STRUCTURE_RANGE
    return _blur(((correlation - low) / (high - low)).clamp(0, 1))


def _boxes(source: Path | str, width: int, height: int) -> list[Box]:
    """The face's square in each look at the video, in pixels; none where MediaPipe is missing."""
    try:
        from synclora.faces import track
        from synclora.faces.graphs import around
    except ImportError:
        return []
    scale = min(1.0, SEEN_SIDE / max(width, height))
    seen = Crop(0, 0, width, height, max(1, round(width * scale)), max(1, round(height * scale)))
    looks: list[Any] = []
    for window in iter_windows(source, 64, fps=min(LOOKS, probe(source).fps), crop=seen):
        landmarks = track(window.frames) / scale
        looks += [around(points) for points in landmarks if math.isfinite(points[0, 0])]
    return looks


def _ramp(length: int, soft: int, at_start: bool, at_end: bool) -> Tensor:
    """[length]: 1, but falling evenly towards 0 over `soft` pixels at the ends asked for."""
    away = torch.arange(length) + 0.5
    ramp = torch.ones(length)
    if at_start:
        ramp = torch.minimum(ramp, away / soft)
    if at_end:
        ramp = torch.minimum(ramp, away.flip(0) / soft)
    return ramp


def _planes(frame: Tensor) -> Tensor:
    return frame.permute(2, 0, 1)[None].float()


def _resize(planes: Tensor, height: int, width: int) -> Tensor:
    return F.interpolate(planes, size=(height, width), mode="bicubic", antialias=True)


def _blur(planes: Tensor) -> Tensor:
    reach = STRUCTURE_WINDOW // 2
    return F.avg_pool2d(F.pad(planes, [reach] * 4, mode="replicate"), STRUCTURE_WINDOW, stride=1)
