"""Backgrounds to put a filmed person in front of: still, out of focus, drawn from a seed."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from synclora.bench.pixels import Picture, blurred

Rng = np.random.Generator


def scene(height: int, width: int, seed: int) -> NDArray[np.uint8]:
    """A picture, uint8 [height, width, 3]: a studio, lights at night, a garden, hills at dusk, or a room."""
    rng = np.random.default_rng(seed)
    picture = SCENES[int(rng.integers(len(SCENES)))](height, width, rng)
    grain = rng.normal(0, 1.2, (height, width, 1))  # banding would show in smooth colours
    return np.clip(picture + grain, 0, 255).astype(np.uint8)


def _studio(height: int, width: int, rng: Rng) -> Picture:
    """Seamless paper, lit in the middle."""
    papers = ((168, 120, 108), (96, 128, 152), (118, 138, 112), (190, 180, 166), (88, 82, 104))
    paper = np.array(papers[int(rng.integers(len(papers)))], np.float32)
    x, y = _axes(height, width)
    far = np.hypot((x - rng.uniform(0.35, 0.65)) / 0.9, (y - rng.uniform(0.3, 0.5)) / 1.1)
    return np.asarray(paper * (1.25 - 0.85 * np.clip(far, 0, 1) ** 1.5)[..., None], np.float32)


def _lights(height: int, width: int, rng: Rng) -> Picture:
    """Street lights far behind the focus."""
    picture = _ramp(height, width, (24, 26, 44), (44, 34, 48))
    tints = ((255, 196, 120), (255, 150, 80), (255, 228, 190), (120, 180, 255), (255, 110, 110))
    for _ in range(42):
        at = rng.uniform(0, 1, 2) * (width, height)
        radius = rng.uniform(0.018, 0.06) * height
        tint = np.array(tints[int(rng.integers(len(tints)))], np.float32)
        picture = _with_disc(picture, at, radius, tint, rng.uniform(0.12, 0.5))
    return blurred(picture, height / 160)


def _garden(height: int, width: int, rng: Rng) -> Picture:
    """Leaves with the sun through them."""
    picture = _ramp(height, width, (112, 142, 84), (40, 66, 36))
    for size, strength in ((8, 26), (16, 18), (32, 10)):
        picture = picture + strength * _noise(height, width, size, rng)[..., None] * np.array(
            [0.9, 1.0, 0.5], np.float32
        )
    for _ in range(26):
        at = rng.uniform(0, 1, 2) * (width, 0.75 * height)
        picture = _with_disc(picture, at, rng.uniform(0.02, 0.055) * height, (226, 234, 170), rng.uniform(0.08, 0.35))
    return blurred(picture, height / 110)


def _dusk(height: int, width: int, rng: Rng) -> Picture:
    """A low sun over hills, each row of them paler than the one before it."""
    warm = rng.uniform(0, 1)
    picture = _ramp(height, width, (92, 104 + 20 * warm, 150), (250, 176 + 20 * warm, 118))
    x, y = _axes(height, width)
    sun = np.exp(-(np.hypot(x - rng.uniform(0.1, 0.9), y - 0.5) ** 2) / 0.03)
    picture = picture + 60 * sun[..., None] * np.array([1.0, 0.8, 0.45], np.float32)
    for row, tone in enumerate(((178, 128, 128), (122, 94, 112), (70, 60, 82), (42, 40, 54))):
        ridge = (
            0.5
            + 0.13 * row
            + sum(
                rng.uniform(0.01, 0.045) / wave * np.sin(2 * np.pi * (wave * x + rng.uniform())) for wave in (1, 2, 4)
            )
        )
        over = np.clip((y - ridge) * height / 3 + 0.5, 0, 1)[..., None]
        picture = picture * (1 - over) + np.array(tone, np.float32) * over
    return blurred(np.asarray(picture, np.float32), height / 150)


def _room(height: int, width: int, rng: Rng) -> Picture:
    """A wall with a window and a shelf of books, soft."""
    walls = ((206, 196, 180), (170, 184, 188), (188, 170, 156))
    picture = _ramp(height, width, walls[int(rng.integers(len(walls)))], (150, 136, 122))
    mirrored = rng.uniform() < 0.5
    _block(picture, (0.06, 0.08, 0.36, 0.6), (236, 240, 244))
    for bar in ((0.2, 0.08, 0.22, 0.6), (0.06, 0.32, 0.36, 0.335)):
        _block(picture, bar, (190, 178, 164))
    for shelf in (0.14, 0.38, 0.62):
        _block(picture, (0.62, shelf + 0.19, 1.0, shelf + 0.21), (112, 82, 58))
        at = 0.63
        while at < 0.97:
            thick, tall = rng.uniform(0.014, 0.035), rng.uniform(0.11, 0.175)
            cover = np.float32(rng.uniform((60, 50, 50), (200, 160, 150)))
            _block(picture, (at, shelf + 0.19 - tall, min(at + thick, 0.98), shelf + 0.19), cover)
            at += thick + 0.003
    return blurred(picture[:, ::-1] if mirrored else picture, height / 85)


SCENES: tuple[Callable[[int, int, Rng], Picture], ...] = (_studio, _lights, _garden, _dusk, _room)


def _axes(height: int, width: int) -> tuple[Picture, Picture]:
    y, x = np.mgrid[:height, :width].astype(np.float32)
    return x / width, y / height


def _ramp(height: int, width: int, top: tuple[float, ...], bottom: tuple[float, ...]) -> Picture:
    down = _axes(height, width)[1][..., None]
    return np.asarray(np.array(top, np.float32) * (1 - down) + np.array(bottom, np.float32) * down, np.float32)


def _noise(height: int, width: int, cells: int, rng: Rng) -> Picture:
    """Smooth noise of deviation 1 or less, [H, W]."""
    import cv2

    coarse = rng.normal(0, 1, (cells, cells)).astype(np.float32)
    return np.asarray(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC), np.float32)


def _with_disc(picture: Picture, at: NDArray, radius: float, tint: object, strength: float) -> Picture:
    """A lens's disc of light on the picture, a little brighter at its rim."""
    y, x = np.mgrid[: picture.shape[0], : picture.shape[1]].astype(np.float32)
    far = np.hypot(x - at[0], y - at[1]) / radius
    cover = np.clip((1 - far) * radius / 2, 0, 1) * (0.75 + 0.25 * np.clip(far, 0, 1) ** 4) * strength
    light = np.asarray(tint, np.float32)
    return np.asarray(picture + cover[..., None] * (light - 0.35 * picture), np.float32)


def _block(picture: Picture, box: tuple[float, float, float, float], tone: object) -> None:
    """Fill left, top, right, bottom (parts of the size) in place."""
    height, width = picture.shape[:2]
    left, top, right, bottom = box
    picture[round(top * height) : round(bottom * height), round(left * width) : round(right * width)] = tone
