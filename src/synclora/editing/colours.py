"""What an edit does to the source's colours, told by the colours themselves, place by place.

Another skin, another hair colour, make-up, age, light on a wall: there the edited image is a function of the source's.
Around each pixel of the image that function is taken to be affine,

    edited - own = A colour + b + rest,    A = (cov(colour, colour) + FLAT)^-1 cov(colour, edited - own)

by least squares in a Gaussian window, as in the guided filter (He, Sun and Tang 2013, IEEE PAMI 35(6)). Applied to
another frame's own colours it draws what no motion tells: an eye that closes, teeth, the rim of a pair of glasses, the
edge of the hair. What it leaves over, `rest`, has to be carried along: what is new in the picture.

Small windows tell apart what lies side by side, but have seen few colours; of a small window and a large one each
counts by the spread r of its rest and the Mahalanobis distance m of the frame's colour from the window's:

    weight = exp(-m^2 / FAR) / (r^2 + LEAST^2)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from synclora.optical_flow import Flow, move

Array = NDArray[np.float32]
Affine = NDArray[np.float32]

WINDOWS = (1 / 100, 1 / 30)  # of the picture's height: standard deviations
FLAT = 5.0  # squared grey levels: with less variance than that, a window's colours tell nothing
FAR = 5.0
LEAST = 1.0  # grey levels
LEFT_OVER = 100.0  # grey levels: with a rest that spreads so far, colours tell 1/e of the edit


@dataclass(frozen=True)
class _Window:
    """Fits in windows of one size: `affine` of the change, `distance` of colours from the window's own as an affine map
    as well, whose length is the Mahalanobis distance; `spread` of the rest, all channels together, [H, W] in grey
    levels."""

    affine: Affine
    distance: Affine
    spread: Array


class ColourChange:
    """How an edited image changes the colours of the source's frame `own`, float [H, W, 3] of 0 to 255 both.

    An affine map of colours, here and below, is [3, H, W, 4]: for each colour that comes out, what red, green, blue and
    1 are multiplied by.

    Args:
        counts: how far each pixel counts, [H, W] in [0, 1].
    """

    def __init__(self, own: Array, edited: Array, counts: Array) -> None:
        change = edited - own
        self._windows = [_fit(own, change, counts, window * len(own)) for window in WINDOWS]

    def at(self, here: Array, flow: Flow) -> tuple[Affine, Array]:
        """For a frame of the source, [H, W, 3], whose pixels are `flow` from their places in `own`: the affine map from
        its colours to their change, and how far colours tell the edit there, [H, W] in [0, 1]."""
        small, large = ((move(window.spread, flow), self._seen(window, here, flow)) for window in self._windows)
        weights = [seen / (spread**2 + LEAST**2) for spread, seen in (small, large)]
        affine, other = (np.stack([move(part, flow) for part in window.affine]) for window in self._windows)
        affine += (weights[1] / (weights[0] + weights[1]))[..., None] * (other - affine)
        return affine, np.exp(-((large[0] / LEFT_OVER) ** 2))

    @staticmethod
    def _seen(window: _Window, here: Array, flow: Flow) -> Array:
        """How far a window has seen the colours of a frame: exp(-m^2 / FAR), [H, W], never quite 0."""
        away = recolour(np.stack([move(part, flow) for part in window.distance]), here)
        return np.exp(-np.minimum(np.einsum("hwc,hwc->hw", away, away) / FAR, 30))


def recolour(affine: Affine, here: Array) -> Array:
    """What an affine map makes of a picture's colours, [H, W, 3]."""
    red, green, blue = (here[..., channel].copy() for channel in range(3))  # in one piece each: twice as fast
    return np.stack([p[..., 0] * red + p[..., 1] * green + p[..., 2] * blue + p[..., 3] for p in affine], -1)


def _fit(own: Array, change: Array, counts: Array, sigma: float) -> _Window:
    total = _blurred(counts, sigma)[..., None] + 1e-3

    def mean(picture: Array) -> Array:
        return _blurred(picture * counts[..., None], sigma) / total

    def covariance(a: Array, b: Array) -> Array:
        shared = np.stack([mean(a[..., channel : channel + 1] * b) for channel in range(3)], -2)
        return shared - mean(a)[..., :, None] * mean(b)[..., None, :]

    away = own - np.float32(128)  # so that squares stay small
    spread, shared = covariance(away, away), covariance(away, change)
    root = _inverse_root(spread + FLAT * np.eye(3, dtype=np.float32))
    slope = root @ (root.swapaxes(-1, -2) @ shared)
    left = (mean(change**2) - mean(change) ** 2).sum(-1) - (slope * shared).sum((-1, -2))
    middle = mean(own)
    return _Window(
        _affine(slope, middle, mean(change)), _affine(root, middle, np.zeros_like(own)), np.sqrt(np.clip(left, 0, None))
    )


def _inverse_root(matrices: Array) -> Array:
    """R with R R^T the inverse, of positive definite matrices [..., 3, 3]: their Cholesky factors' inverse, transposed.
    LAPACK, asked for so many small ones, takes ten times as long."""
    (a, _, _), (b, d, _), (c, e, f) = (np.moveaxis(matrices[..., row, :], -1, 0) for row in range(3))
    first = 1 / np.sqrt(a)
    below, last = b * first, c * first
    second = 1 / np.sqrt(d - below**2)
    side = (e - last * below) * second
    third = 1 / np.sqrt(f - last**2 - side**2)
    across = -below * first * second
    root = np.zeros_like(matrices)
    root[..., 0, 0], root[..., 1, 1], root[..., 2, 2] = first, second, third
    root[..., 0, 1], root[..., 1, 2] = across, -side * second * third
    root[..., 0, 2] = -(last * first + side * across) * third
    return root


def _affine(slope: Array, start: Array, end: Array) -> Affine:
    """The affine map with this slope [H, W, in, out] that takes the colours `start` to `end`."""
    offset = end - (start[..., None, :] @ slope)[..., 0, :]
    return np.concatenate([slope, offset[..., None, :]], -2).transpose(3, 0, 1, 2).astype(np.float32, order="C")


def _blurred(picture: Array, sigma: float) -> Array:
    import cv2

    return np.asarray(cv2.GaussianBlur(picture, (0, 0), sigma), np.float32)


def resized(affine: Affine, height: int, width: int) -> Affine:
    """The map for the same picture in another size."""
    import cv2

    enlarged = [cv2.resize(np.asarray(part), (width, height), interpolation=cv2.INTER_LINEAR) for part in affine]
    return np.stack(enlarged).astype(np.float32, copy=False)
