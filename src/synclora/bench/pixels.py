"""Small operations on pictures that the composites share: colours in Lab, soft-edged shapes, mixing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Frames = NDArray[np.uint8]  # [F, H, W, 3] or [H, W, 3]
Picture = NDArray[np.float32]  # [H, W, 3], 0 to 255 in RGB; L in [0, 100], a and b in Lab
Mask = NDArray[np.float32]  # [F, H, W] or [H, W], 0 to 1
Colour = tuple[int, int, int]

FINE = 4  # pixels drawn for one of the picture


def to_lab(picture: NDArray) -> Picture:
    """sRGB, 0 to 255, [H, W, 3] -> CIE Lab, float32."""
    import cv2

    return np.asarray(cv2.cvtColor(np.asarray(picture, np.float32) / 255, cv2.COLOR_RGB2LAB), np.float32)


def to_rgb(lab: NDArray) -> Picture:
    """The inverse of `to_lab`, clipped to 0 to 255."""
    import cv2

    return np.clip(255 * np.asarray(cv2.cvtColor(np.asarray(lab, np.float32), cv2.COLOR_LAB2RGB), np.float32), 0, 255)


def labs_of(colours: Sequence[Colour]) -> Array:
    """Colours as Lab [N, 3]."""
    return to_lab(np.array([colours]))[0].astype(np.float64)


def mixed(frame: NDArray, cover: Mask, over: NDArray) -> Frames:
    """`over` on a frame [H, W, 3] where the mask [H, W] is 1; where it is 0 the frame stays as it is."""
    part = np.clip(cover, 0, 1)[..., None]
    return np.clip((frame + part * (over - frame)).round(), 0, 255).astype(np.uint8)


def filled(polygons: Sequence[Array], size: tuple[int, int]) -> Mask:
    """Polygons [N, 2] in pixels as a soft-edged mask of (height, width)."""
    import cv2

    canvas = np.zeros((size[0] * FINE, size[1] * FINE), np.uint8)
    for polygon in polygons:
        cv2.fillPoly(canvas, [_fine(polygon)], (255,), cv2.LINE_AA, 4)
    return _coarse(canvas, size)


def stroked(lines: Sequence[Array], thick: float, size: tuple[int, int]) -> Mask:
    """Lines [N, 2] in pixels, `thick` pixels wide, as a soft-edged mask of (height, width)."""
    import cv2

    canvas = np.zeros((size[0] * FINE, size[1] * FINE), np.uint8)
    cv2.polylines(canvas, [_fine(line) for line in lines], False, (255,), max(1, round(thick * FINE)), cv2.LINE_AA, 4)
    return _coarse(canvas, size)


def blurred(image: NDArray, sigma: float) -> NDArray[np.float32]:
    """A gaussian blur, sigma in pixels (at least 0.4)."""
    import cv2

    return np.asarray(cv2.GaussianBlur(np.asarray(image, np.float32), (0, 0), max(sigma, 0.4)), np.float32)


def smooth_in_time(values: Array) -> Array:
    """A quarter, a half, a quarter of three frames in a row; symmetric, so nothing is late."""
    padded = np.concatenate([values[:1], values, values[-1:]])
    return 0.25 * padded[:-2] + 0.5 * padded[1:-1] + 0.25 * padded[2:]


def _fine(points: Array) -> NDArray[np.int32]:
    return np.round(((points + 0.5) * FINE - 0.5) * 16).astype(np.int32)


def _coarse(canvas: NDArray[np.uint8], size: tuple[int, int]) -> Mask:
    import cv2

    return np.asarray(cv2.resize(canvas, (size[1], size[0]), interpolation=cv2.INTER_AREA), np.float32) / 255
