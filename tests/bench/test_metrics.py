"""Image distances against their formulas written out."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from synclora.bench import bootstrap_interval, end_to_start, flicker, gradient_error, psnr, retention, ssim
from synclora.bench.metrics import bootstrap_ratio_interval
from synclora.errors import SyncloraError


def video(seed: int, frames: int = 3, height: int = 20, width: int = 24) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (frames, height, width, 3), dtype=torch.uint8, generator=generator)


def test_psnr_of_a_known_error() -> None:
    """An error of 5 everywhere: 10 log10(255^2 / 25) = 34.15 dB; equal videos: infinite; frame 0 does not count."""
    truth = torch.full((4, 12, 12, 3), 100, dtype=torch.uint8)
    assert psnr(truth + 5, truth) == pytest.approx(20 * math.log10(255 / 5), abs=1e-6)
    other = truth.clone()
    other[0] = 0
    assert (
        psnr(other, truth) == math.inf and ssim(other, truth) == pytest.approx(1) and gradient_error(other, truth) == 0
    )


def test_ssim_is_the_papers_formula() -> None:
    """Wang et al. 2004, eq. 13, with an 11x11 gaussian of sigma 1.5, each window written out in float64."""
    a, b = video(1, 2, 13, 12), video(2, 2, 13, 12)
    offsets = np.arange(-5, 6)
    weights = np.exp(-(offsets[:, None] ** 2 + offsets[None] ** 2) / (2 * 1.5**2))
    weights /= weights.sum()
    c1, c2, values = (0.01 * 255) ** 2, (0.03 * 255) ** 2, []
    for top in range(3):
        for left in range(2):
            for color in range(3):
                x, y = (v[1, top : top + 11, left : left + 11, color].double().numpy() for v in (a, b))
                mx, my = (weights * x).sum(), (weights * y).sum()
                vx, vy = (weights * (x - mx) ** 2).sum(), (weights * (y - my) ** 2).sum()
                cov = (weights * (x - mx) * (y - my)).sum()
                values.append((2 * mx * my + c1) * (2 * cov + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2)))
    assert ssim(a, b) == pytest.approx(float(np.mean(values)), abs=1e-4)


def test_gradient_error_sees_edges_and_not_brightness() -> None:
    """A step of 40 at one column of 10: right-gradients differ by 40 at 1 of 9 places, down-gradients nowhere."""
    flat = torch.full((2, 10, 10, 3), 50, dtype=torch.uint8)
    step = flat.clone()
    step[:, :, 5:] += 40
    assert gradient_error(step, flat) == pytest.approx(40 / 9 / 2)
    assert gradient_error(flat + 30, flat) == 0


def test_bootstrap_interval() -> None:
    """For many values the 95 % interval of the mean nears mean +- 1.96 s / sqrt(n); one value has none."""
    values = np.random.default_rng(3).normal(2, 1, 400)
    low, high = bootstrap_interval(values.tolist()) or (0, 0)
    half = 1.96 * values.std() / 20
    assert (low, high) == (pytest.approx(values.mean() - half, abs=0.02), pytest.approx(values.mean() + half, abs=0.02))
    assert bootstrap_interval([1.0]) is None


def test_flicker_is_the_noise_added() -> None:
    """White noise of deviation 4 on a moving ramp: 4 within 3 %; a still, a late or a slowly fading clip: 0 or near."""
    x, t = np.arange(48, dtype=float), np.arange(40, dtype=float)
    moving = 120 + 60 * np.sin((x[None, :] + 1.5 * t[:, None]) / 9)
    clip = np.repeat(np.repeat(moving[:, None, :, None], 40, 1), 3, 3)
    noise = np.random.default_rng(5).normal(0, 4, clip.shape)
    truth, noisy = (torch.from_numpy(np.clip(c.round(), 0, 255).astype(np.uint8)) for c in (clip, clip + noise))
    assert flicker(noisy, truth) == pytest.approx(4, rel=0.03)
    assert flicker(truth, truth) == 0 and flicker(truth[:1].expand_as(truth), truth) == 0
    assert flicker(truth.roll(2, 0)[2:], truth[2:]) < 0.4
    fading = (truth.float() * (1 - torch.arange(40) / 100).view(-1, 1, 1, 1)).round().to(torch.uint8)
    assert flicker(fading, truth) < 0.4


def test_retention_is_last_error_over_first() -> None:
    """Errors of 2 in the first second (frames 1 to 10 at 10 fps) and 6 in the last: 3; with 8 in the last frame, 4 for
    it alone. Clips under two seconds: quarters; under one, all of it is the first second."""
    truth = torch.full((31, 8, 8, 3), 100, dtype=torch.uint8)
    edited = truth.clone()
    edited[1:11] += 2
    edited[11:21] += 50
    edited[21:] += 6
    assert end_to_start(edited, truth, 10) == retention(edited, truth, 10) == pytest.approx(3)
    assert end_to_start(truth, truth, 10) == retention(truth, truth, 10) == 1
    short, fps = edited[:13], 10  # 12 counted frames: quarters of 3
    assert end_to_start(short, truth[:13], fps) == pytest.approx(math.sqrt((2**2 + 2 * 50**2) / 3) / 2)
    assert retention(short, truth[:13], fps) == pytest.approx(25)
    assert retention(edited[:6], truth[:6], fps) == pytest.approx(1)
    edited[-1] += 2
    assert retention(edited, truth, 10) == pytest.approx(4)


def test_bootstrap_of_a_ratio() -> None:
    """Every clip at 1 of 2: exactly one half; clips with nothing to count are left out; a spread is wide."""
    assert bootstrap_ratio_interval([1, 2, 0], [2, 4, 0]) == (0.5, 0.5)
    assert bootstrap_ratio_interval([1, 0], [2, 0]) is None
    low, high = bootstrap_ratio_interval([0, 2] * 20, [2, 2] * 20) or (0, 0)
    assert (low, high) == (pytest.approx(0.5 - 1.96 * 0.5 / 40**0.5, abs=0.03), pytest.approx(0.655, abs=0.03))


def test_videos_that_do_not_match_are_refused() -> None:
    with pytest.raises(SyncloraError, match="one shape"):
        psnr(video(1, 3), video(1, 4))
    with pytest.raises(SyncloraError, match="at least 2 frames"):
        ssim(video(1, 1), video(1, 1))
    with pytest.raises(SyncloraError, match="11x11"):
        ssim(video(1, 2, 8, 8), video(1, 2, 8, 8))
