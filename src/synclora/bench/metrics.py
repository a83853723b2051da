"""Distances between an edited clip and the true one, and intervals for their means.

All leave out frame 0: it is given to every method, and counting it would flatter them all.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from synclora.errors import SyncloraError

SSIM_WINDOW = 11
SSIM_SIGMA = 1.5
SSIM_K1, SSIM_K2 = 0.01, 0.03
RESAMPLES = 2000
HALF_LEVEL = 0.5  # of 255: what rounding alone may do


def psnr(edited: Tensor, truth: Tensor) -> float:
    """Peak signal-to-noise ratio of two videos, uint8 [F, H, W, 3], in dB: 10 log10(255^2 / MSE).

    The squared error is pooled over frames 1..F-1. Infinite for equal videos. Raises SyncloraError for unequal shapes.
    """
    a, b = _given_aside(edited, truth)
    error = (a - b).square().mean(dtype=torch.float64).item()
    return math.inf if error == 0 else 10 * math.log10(255**2 / error)


def ssim(edited: Tensor, truth: Tensor) -> float:
    """Mean structural similarity of two videos, uint8 [F, H, W, 3], over frames 1..F-1, colours and places; at most 1.

    Gaussian window 11x11 of sigma 1.5, K1 = 0.01, K2 = 0.03, only where the window fits (Wang et al. 2004, IEEE TIP
    13(4), section III.B). Raises SyncloraError for unequal shapes or frames smaller than the window.
    """
    a, b = _given_aside(edited, truth)
    if min(a.shape[1:3]) < SSIM_WINDOW:
        raise SyncloraError(f"ssim: frames of {a.shape[2]}x{a.shape[1]}; at least {SSIM_WINDOW}x{SSIM_WINDOW} needed.")
    c1, c2 = (SSIM_K1 * 255) ** 2, (SSIM_K2 * 255) ** 2
    values = []
    for x, y in zip(a, b, strict=True):
        x, y = x.permute(2, 0, 1)[:, None], y.permute(2, 0, 1)[:, None]
        mean_x, mean_y, xx, yy, xy = (_blur(v) for v in (x, y, x * x, y * y, x * y))
        var_x, var_y, covariance = xx - mean_x**2, yy - mean_y**2, xy - mean_x * mean_y
        top = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
        values.append((top / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))).mean())
    return float(torch.stack(values).mean())


def gradient_error(edited: Tensor, truth: Tensor) -> float:
    """Mean absolute difference of the spatial gradients (neighbouring pixels, right and down) of two videos, uint8
    [F, H, W, 3], in grey levels of 255 over frames 1..F-1: blur raises it where PSNR hardly notices."""
    a, b = _given_aside(edited, truth)
    difference = a - b  # taking the gradient is linear
    right, down = difference.diff(dim=2).abs().mean(), difference.diff(dim=1).abs().mean()
    return float((right + down) / 2)


def flicker(edited: Tensor, truth: Tensor) -> float:
    """How much more a video trembles from frame to frame than the true one, in grey levels of 255; at least 0.

        flicker = sqrt(max(0, J(edited)^2 - J(truth)^2)),   J(x) = sqrt(mean((x[t-1] - 2 x[t] + x[t+1])^2) / 6)

    J is the deviation of white noise that has such second differences; steady motion and slow drifts hardly count.
    So it is the noise that would have to be added to the truth for it to tremble as much. A still picture has 0.
    """
    a, b = _given_aside(edited, truth)
    if len(a) < 3:
        return 0.0
    excess = (a.diff(n=2, dim=0).square().mean() - b.diff(n=2, dim=0).square().mean()).item()
    return math.sqrt(max(0.0, excess) / 6)


def retention(edited: Tensor, truth: Tensor, fps: float) -> float:
    """How well the edit holds to the end: the last frame's root mean square error over the first second's; 1 is well.

    Errors below half a grey level count as that.
    """
    square = _squares(edited, truth)
    return _root(square[-1:]) / _root(square[: round(fps)])


def end_to_start(edited: Tensor, truth: Tensor, fps: float) -> float:
    """The root mean square error of the last second over that of the first; of quarters where they are shorter.

    Stricter than `retention` on clips of a second or two, where a first second is most of the clip.
    """
    square = _squares(edited, truth)
    part = round(fps) if len(square) >= 2 * round(fps) else max(1, len(square) // 4)
    return _root(square[-part:]) / _root(square[:part])


def _squares(edited: Tensor, truth: Tensor) -> Tensor:
    """Each counted frame's mean squared error, [F - 1]."""
    a, b = _given_aside(edited, truth)
    return (a - b).square().mean((1, 2, 3))


def _root(squares: Tensor) -> float:
    return max(HALF_LEVEL, math.sqrt(float(squares.mean())))


def bootstrap_interval(values: Sequence[float], *, level: float = 0.95, seed: int = 0) -> tuple[float, float] | None:
    """Percentile bootstrap interval of the mean (Efron 1979), clips drawn with replacement; None for fewer than two."""
    if len(values) < 2:
        return None
    array = np.asarray(values, float)
    draws = np.random.default_rng(seed).integers(0, len(array), (RESAMPLES, len(array)))
    low, high = np.quantile(array[draws].mean(1), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def bootstrap_ratio_interval(
    parts: Sequence[float], wholes: Sequence[float], *, level: float = 0.95, seed: int = 0
) -> tuple[float, float] | None:
    """The same for sum(parts) / sum(wholes), a clip's two numbers drawn together; None for fewer than two clips that
    count."""
    array = np.array([pair for pair in zip(parts, wholes, strict=True) if pair[1] > 0], float)
    if len(array) < 2:
        return None
    draws = np.random.default_rng(seed).integers(0, len(array), (RESAMPLES, len(array)))
    sums = array[draws].sum(1)
    low, high = np.quantile(sums[:, 0] / sums[:, 1], [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _given_aside(edited: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """Frames 1..F-1 of both as float32 in [0, 255]."""
    if edited.shape != truth.shape or edited.ndim != 4 or len(edited) < 2:
        raise SyncloraError(
            f"videos to compare: {list(edited.shape)} and {list(truth.shape)}; both need one shape [frames, height, "
            "width, 3] with at least 2 frames (the first is given and not counted)."
        )
    return edited[1:].float(), truth[1:].float()


def _blur(images: Tensor) -> Tensor:
    """Gaussian-weighted mean around every place where the window fits: [N, 1, H, W] -> [N, 1, H-10, W-10]."""
    offsets = torch.arange(SSIM_WINDOW, dtype=images.dtype) - SSIM_WINDOW // 2
    weights = torch.exp(-(offsets**2) / (2 * SSIM_SIGMA**2))
    weights = (weights / weights.sum()).to(images.device)
    across = functional.conv2d(images, weights.view(1, 1, 1, -1))
    return functional.conv2d(across, weights.view(1, 1, -1, 1))
