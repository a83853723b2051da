"""Warped pictures: one motion in every look, seen by optical flow; lids that close in time; a first frame at rest."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch import Tensor

from synclora.portraits import TEST_SEED_START, warps
from synclora.portraits.patterns import FIELDS, pattern
from synclora.portraits.warps import MARGIN, SEEDS_TOGETHER, Warp, move, sample_surface, sample_warp

torch.set_num_threads(1)
SEEDS = range(TEST_SEED_START, TEST_SEED_START + 10)


def test_patterns_are_seeded_pictures_and_never_flat() -> None:
    """The same seed, the same picture; values in [0, 1]; brightness varies by 0.05; every kind can be drawn."""
    pictures = [pattern(seed, 48, 64) for seed in range(30)]
    assert torch.equal(pictures[3], pattern(3, 48, 64)) and not torch.equal(pictures[3], pictures[4])
    for picture in pictures:
        assert picture.shape == (3, 48, 64) and picture.isfinite().all()
        assert picture.min() >= 0 and picture.max() <= 1 and picture.mean(0).std() > 0.05
    x = torch.linspace(-1, 1, 32)
    for name, field in FIELDS.items():
        drawn = field(random.Random(1), x[None, :], x[:, None])
        assert drawn.shape == (32, 32) and drawn.min() >= -1e-4 and drawn.max() <= 1 + 1e-4, name


def test_everything_follows_from_the_seeds() -> None:
    """The same seed and look give the same pixels; another look differs in picture, another seed in motion."""
    seed = TEST_SEED_START
    clips = [move(sample_warp(s, 5, 25.0, 48), sample_surface(t, look, 48)) for s, t, look in
             ((seed, seed, 0), (seed, seed, 0), (seed, seed, 1), (seed + 1, seed, 0))]  # fmt: skip
    assert clips[0].shape == (5, 48, 48, 3) and clips[0].dtype == torch.uint8
    assert torch.equal(clips[0], clips[1])
    assert (clips[0].int() - clips[2].int()).abs().float().mean() > 10
    assert not torch.equal(clips[0][4], clips[3][4])


def test_the_first_frame_is_hardly_warped() -> None:
    """Its places are the pixels' own, but for the skin about a mouth that is open; its eyes are open."""
    line = torch.linspace(-1.0, 1.0, 48) * (1.0 - 1.0 / 48) / MARGIN
    own = torch.stack(torch.meshgrid(line, line, indexing="xy"), -1)
    moved = []
    for seed in SEEDS:
        warp = sample_warp(seed, 9, 25.0, 48)
        layers = [warp.ground] if warp.figure is None else [warp.ground, warp.figure]
        for layer in layers:
            away = (layer[0] - own).abs().amax(-1)
            assert away.median() < 1e-5 and away.mean() < 0.01 and away.max() < 0.2
            assert layer.isfinite().all()
            moved.append(float((layer[8] - own).norm(dim=-1).mean()))
        assert warp.eyes[0].sum() >= 0.7 * warp.eyes.sum((1, 2, 3)).max() or warp.eyes.sum() == 0
    assert np.median(moved) > 0.02  # a pixel and more of 48


def test_lids_close_within_a_few_frames_and_open_again() -> None:
    """Eyes go from 0.8 to 0.2 of their opening in 4 frames of 1/25 s, unless an eye has its own time (a fifth have)."""
    closing, clips = [], 0
    for seed in SEEDS:
        opened = sample_warp(seed, 33, 25.0, 40).eyes.sum((1, 2, 3))
        if opened[0] == 0:
            continue
        clips += 1
        share = opened / opened[0]
        if share.min() > 0.2:
            continue
        shut = int((share < 0.2).nonzero()[0])
        closing.append(shut - int((share[:shut] > 0.8).nonzero()[-1]))
    assert clips >= 4 and len(closing) >= clips / 2
    assert np.median(closing) <= 3 and np.mean([frames <= 4 for frames in closing]) >= 0.75, closing


def _flow(clip: Tensor, gap: int) -> tuple[np.ndarray, np.ndarray]:
    """Dense flow [n, h, w, 2] over `gap` frames, and how much there is to follow at each pixel."""
    import cv2

    grey = [cv2.equalizeHist(cv2.cvtColor(frame.numpy(), cv2.COLOR_RGB2GRAY)) for frame in clip]
    search = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    empty = np.zeros((*grey[0].shape, 2), np.float32)
    flows = [search.calc(a, b, empty.copy()) for a, b in zip(grey[:-gap:gap], grey[gap::gap], strict=True)]
    rough = [cv2.GaussianBlur(abs(cv2.Laplacian(a.astype(np.float32), cv2.CV_32F)), (0, 0), 3) for a in grey[:-gap:gap]]
    return np.stack(flows), np.stack(rough)


def _agreement(a: Tensor, b: Tensor) -> float:
    """Correlation of two clips' flows where both have texture."""
    (flow_a, rough_a), (flow_b, rough_b) = _flow(a, 4), _flow(b, 4)
    both = np.minimum(rough_a, rough_b)
    there = both > np.quantile(both, 0.5)
    return float(np.corrcoef(flow_a[there].ravel(), flow_b[there].ravel())[0, 1])


def test_looks_move_alike() -> None:
    """Optical flow, which knows nothing of how they were made: r over 0.9 between looks, near 0 between motions."""
    pytest.importorskip("cv2")
    same, other = [], []
    for seed in SEEDS[:7]:
        warp, foreign = (sample_warp(s, 13, 25.0, 96) for s in (seed, seed + 100))
        one, two = (sample_surface(seed, look, 96) for look in range(2))
        clip = move(warp, one)
        same.append(_agreement(clip, move(warp, two)))
        other.append(_agreement(clip, move(foreign, two)))
    assert np.median(same) > 0.9 and min(same) > 0.5, same
    assert np.median(np.abs(other)) < 0.4, other


def _folded(warp: Warp) -> float:
    """Share of a layer's places whose neighbours have changed sides."""
    places = warp.ground if warp.figure is None else warp.figure
    across, down = places.diff(dim=2)[:, :-1], places.diff(dim=1)[:, :, :-1]
    return float((across[..., 0] * down[..., 1] - across[..., 1] * down[..., 0] <= 0).float().mean())


def test_warps_fold_nothing_over() -> None:
    """Where no lid covers an eye, the places' Jacobian stays positive for all but a few."""
    plain = [warp for seed in SEEDS if (warp := sample_warp(seed, 17, 25.0, 40)).eyes.sum() + warp.mouths.sum() == 0]
    assert plain and all(_folded(warp) < 0.005 for warp in plain)


@pytest.mark.parametrize("first", [0, 900_000, TEST_SEED_START])
def test_people_on_surfaces_come_from_the_seeds_own_block(first: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Training, validation and test seeds lie in blocks of their own, so no person is in two of them."""
    asked: list[int] = []
    real = warps.sample_person
    monkeypatch.setattr(warps, "sample_person", lambda seed: asked.append(seed) or real(first))
    for seed in range(first, first + 12):
        sample_surface(seed, 0, 32, portraits=True)
    assert asked and all(first <= seed < first + SEEDS_TOGETHER for seed in asked)


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="seed -1"):
        sample_warp(-1, 9, 25.0, 64)
