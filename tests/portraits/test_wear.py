"""Photographic wear: one camera and light for every look of a motion, a finish for each; and portraits in patterns."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from synclora.portraits import TEST_SEED_START, render, sample_motion, sample_person
from synclora.portraits.costume import dress, render_dressed
from synclora.portraits.patterns import pattern
from synclora.portraits.renderer import bake
from synclora.portraits.wear import (
    QUANTUM,
    Finish,
    Shot,
    blurred,
    compressed,
    film,
    sample_finish,
    sample_shot,
)  # fmt: skip

torch.set_num_threads(1)
FRAMES, SIZE = 9, 64
SEEDS = range(TEST_SEED_START, TEST_SEED_START + 40)


def still_shot(frames: int = FRAMES, size: int = SIZE) -> Shot:
    """A shot that changes nothing."""
    line = torch.linspace(-1.0, 1.0, size) * (1.0 - 1.0 / size)
    places = torch.stack(torch.meshgrid(line, line, indexing="xy"), -1).expand(frames, -1, -1, -1)
    return Shot(places, torch.ones(frames, 3, 1, 1), None, None, None, 5)


def drawing(seed: int, frames: int = FRAMES, size: int = SIZE) -> Tensor:
    """A pattern held still, uint8 [F, S, S, 3]."""
    return pattern(seed, size, size).permute(1, 2, 0).mul(255).byte().expand(frames, -1, -1, -1)


def test_everything_follows_from_the_seeds() -> None:
    """The same seed and look give the same pixels; another seed another shot; another look another finish."""
    clip = drawing(1, size=80)
    worn = [film(clip, sample_shot(seed, FRAMES, 25.0, SIZE), sample_finish(seed, look))
            for seed, look in ((7, 0), (7, 0), (7, 1), (8, 0))]  # fmt: skip
    assert worn[0].shape == (FRAMES, SIZE, SIZE, 3) and worn[0].dtype == torch.uint8
    assert torch.equal(worn[0], worn[1])
    assert not torch.equal(worn[0], worn[2]) and not torch.equal(worn[0], worn[3])
    assert len({sample_finish(seed, look) for seed in range(20) for look in range(3)}) == 60


def test_a_plain_finish_in_a_still_shot_changes_nothing() -> None:
    """Resampling at the pixels' own places and the default finish: off by one level at most."""
    clip = drawing(2)
    assert (film(clip, still_shot(), Finish()).int() - clip.int()).abs().max() <= 1


def test_looks_share_camera_and_light() -> None:
    """A white dot moves alike under finishes that change its colours: its centre to 0.15 px; light is 1 in frame 0."""
    moving = 0
    for seed in SEEDS[:12]:
        shot = sample_shot(seed, FRAMES, 8.0, SIZE)
        assert (shot.light[0] == 1).all() and (shot.focus is None or shot.focus[0] == 0)
        assert shot.passing is None or shot.passing[0][0].max() == 0
        steady = dataclasses.replace(shot, light=torch.ones_like(shot.light), shade=None, focus=None, passing=None)
        side = shot.drawn_size
        assert side % 2 == 0 and 1.08 * SIZE <= side <= 1.42 * SIZE
        line = torch.arange(side) - side / 2 + 0.5
        dot = torch.exp(-(line[:, None] ** 2 + line[None, :] ** 2) / 8.0)
        clip = (dot * 255).byte()[None, :, :, None].expand(FRAMES, -1, -1, 3)
        paths = []
        for finish in (Finish(), Finish(mix=((0.5, 0.2, 0.0),) * 3, gamma=1.3, softness=0.8, contrast=0.3)):
            light = film(clip, steady, finish).double().mean(-1)
            total = light.sum((1, 2))
            at = torch.arange(SIZE).double()
            paths.append(torch.stack([(light.sum(1) @ at) / total, (light.sum(2) @ at) / total]))
        inside = ((paths[0] > 8) & (paths[0] < SIZE - 8)).all(0)
        assert ((paths[0] - paths[1]).abs().amax(0)[inside] < 0.15).all()
        moving += int((paths[0][:, 0] - paths[0][:, -1]).abs().max() > 1.0)
    assert moving >= 3


def test_light_multiplies_every_look_alike() -> None:
    """Display values are roots of light: grey 100 under a factor f is 100 f in each frame, in each channel."""
    shot = dataclasses.replace(
        still_shot(), light=torch.linspace(0.8, 1.4, FRAMES)[:, None, None, None].repeat(1, 3, 1, 1)
    )
    grey = torch.full((FRAMES, SIZE, SIZE, 3), 100, dtype=torch.uint8)
    seen = film(grey, shot, Finish()).float().mean((1, 2))
    assert torch.allclose(seen, 100 * shot.light[..., 0, 0], atol=0.6)


def test_grain_has_its_strength_and_is_the_same_film_in_every_look() -> None:
    """On middle grey the standard deviation is `grain`; two looks' grains agree, two frames' do not."""
    grey = torch.full((FRAMES, SIZE, SIZE, 3), 128, dtype=torch.uint8)
    fine, coarse = (film(grey, still_shot(), Finish(grain=g)).float()[..., 0] - 128 for g in (0.02, 0.05))
    assert coarse.std() / 255 == pytest.approx(0.05, rel=0.05)
    assert fine.std() / 255 == pytest.approx(0.02, rel=0.05)
    assert torch.corrcoef(torch.stack([fine.flatten(), coarse.flatten()]))[0, 1] > 0.99
    assert torch.corrcoef(torch.stack([coarse[0].flatten(), coarse[1].flatten()]))[0, 1].abs() < 0.1


def test_blur_spreads_by_its_sigma() -> None:
    """The second moment of a blurred point is sigma squared; its sum is kept."""
    point = torch.zeros(1, 1, 33, 33)
    point[..., 16, 16] = 1.0
    for sigma in (1.0, 2.0):
        spread = blurred(point, sigma)[0, 0]
        at = torch.arange(33) - 16.0
        assert spread.sum() == pytest.approx(1.0, abs=1e-5)
        assert (spread.sum(0) * at**2).sum() == pytest.approx(sigma**2, rel=0.06)


def test_compression_rounds_blocks_and_freezes_what_stands_still() -> None:
    """A block's mean is off by at most 2/3 of its quantum (a coefficient is 8 times the mean); still frames settle."""
    clip = torch.rand(FRAMES, 3, 32, 40, generator=torch.Generator().manual_seed(0)) * 0.5 + 0.25
    grey = torch.tensor([0.299, 0.587, 0.114])
    for coarseness in (0.3, 1.0):
        seen = compressed(clip, coarseness)
        means = [torch.einsum("c,fchw->fhw", grey, x).unflatten(2, (5, 8)).unflatten(1, (4, 8)).mean((2, 4))
                 for x in (clip, seen)]  # fmt: skip
        assert (means[0] - means[1]).abs().max() < 2 / 3 * QUANTUM * coarseness / 8 + 2e-3
    still = compressed(clip[:1].expand(FRAMES, -1, -1, -1), 1.0)
    assert (still[1:] - still[:1]).abs().max() < 1e-5
    errors = [(compressed(clip, c) - clip).square().mean() for c in (0.3, 1.0, 3.0)]
    assert errors[0] < errors[1] < errors[2]


def test_no_finish_hides_the_picture() -> None:
    """Each of 40 finishes keeps a fifth of its picture's contrast at least, and most change it visibly."""
    clip = drawing(4, 2)
    shot, changed = still_shot(2), 0
    for seed in SEEDS:
        seen = film(clip, shot, sample_finish(seed, 0)).float()
        assert seen.std((0, 1, 2)).max() > 0.2 * clip.float().std((0, 1, 2)).max(), seed
        changed += int((seen - clip.float()).abs().mean() > 8)
    assert changed > 20


def test_dress_changes_colours_and_no_shape() -> None:
    """Relief, covers and head stay exactly; a dress that does nothing renders what `render` does."""
    person, motion = sample_person(TEST_SEED_START), sample_motion(TEST_SEED_START, 3)
    baked = bake(person, SIZE, torch.device("cpu"))
    dressed = [dress(baked, TEST_SEED_START, look) for look in range(8)]
    for other in dressed:
        assert other.volume is baked.volume
        assert torch.equal(other.face[:, 3:], baked.face[:, 3:]) and torch.equal(other.body[:, 3:], baked.body[:, 3:])
        for tensor, top in ((other.backdrop, 255.0), (other.body[:, :3], 255.0), (other.face[:, :3], 1.0)):
            assert tensor.isfinite().all() and tensor.min() >= 0 and tensor.max() <= top + 1e-3
    changed = [not torch.equal(other.body, baked.body) for other in dressed]
    assert 1 <= sum(changed) <= 7
    seen = render_dressed(person, motion, SIZE, TEST_SEED_START, 1)
    assert torch.equal(seen, render_dressed(person, motion, SIZE, TEST_SEED_START, 1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("synclora.portraits.costume.dress", lambda still, *_: still)
        assert torch.equal(render_dressed(person, motion, SIZE, 0, 0), render(person, motion, SIZE))


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="9 frames in the clip, 8 in the shot"):
        film(drawing(1), still_shot(8), Finish())
    with pytest.raises(ValueError, match="fps"):
        sample_shot(1, 9, 0.0, 64)
