"""The flow against numbers worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from synclora.diffusion.flow import (
    add_noise,
    euler_step,
    masked_mse,
    noise_for,
    quantile_sigmas,
    sample_loop,
    sample_sigmas,
    shift_mu,
    sigma_schedule,
    velocity_target,
)
from synclora.diffusion.sequence import FirstFrame, Reference, Sequence, build


@pytest.fixture
def clean() -> Sequence:
    """12 target tokens, the first 4 clean, and 12 of a reference; 2 items of 5 channels."""
    torch.manual_seed(0)
    return build(
        torch.randn(2, 5, 3, 2, 2), 25, [FirstFrame(torch.randn(2, 5, 1, 2, 2)), Reference(torch.randn(2, 5, 3, 2, 2))]
    )


@pytest.mark.parametrize(("tokens", "mu"), [(1024, 0.95), (4096, 2.05), (2816, 1.59167), (80, 0.61198)])
def test_shift(tokens: int, mu: float):
    """mu(L) = 0.95 + 1.10 (L - 1024) / 3072; mu(2816) = 1.5917 for 512 x 512 x 81."""
    assert shift_mu(tokens) == pytest.approx(mu, abs=1e-5)


def test_schedule_by_hand():
    """e^mu s / (1 + (e^mu - 1) s) at L = 1024, e^0.95 = 2.58571; s = 3/4: 1.93928 / 2.18928 = 0.88581, and so on."""
    expected = torch.tensor([1, 0.88581, 0.72112, 0.46292, 0])
    torch.testing.assert_close(sigma_schedule(4, 1024), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("steps", [1, 8, 30])
def test_schedule_descends_from_one_to_zero(steps: int):
    """steps + 1 levels, from pure noise to the video."""
    sigmas = sigma_schedule(steps, 2816)
    assert len(sigmas) == steps + 1 and sigmas[0] == 1 and sigmas[-1] == 0
    assert (sigmas.diff() < 0).all()


def test_schedule_needs_a_step():
    """No steps make no video."""
    with pytest.raises(ValueError, match="at least 1"):
        sigma_schedule(0, 1024)


def test_training_and_sampling_share_the_shift():
    """The schedule's middle is sigmoid(mu): the median of what training draws."""
    sigmas = sample_sigmas(20_000, 2816, torch.Generator().manual_seed(0))
    assert sigmas.median().item() == pytest.approx(1 / (1 + math.exp(-shift_mu(2816))), abs=0.01)
    assert sigma_schedule(2, 2816)[1] == pytest.approx(1 / (1 + math.exp(-shift_mu(2816))), abs=1e-6)


def test_sigmas_are_logit_normal():
    """logit(sigma) - mu is N(0, 1): mean 0, std 1, 15.9 % below -1."""
    z = torch.logit(sample_sigmas(20_000, 1024, torch.Generator().manual_seed(0)).double()) - 0.95
    assert z.mean().item() == pytest.approx(0, abs=0.03)
    assert z.std().item() == pytest.approx(1, abs=0.03)
    assert (z < -1).double().mean().item() == pytest.approx(0.1587, abs=0.01)


def test_quantile_sigmas_by_hand():
    """4 quantiles: normal deviates at 1/8, 3/8, 5/8, 7/8 are -1.15035, -0.31864, +0.31864, +1.15035."""
    expected = torch.sigmoid(0.95 + torch.tensor([-1.15035, -0.31864, 0.31864, 1.15035]))
    torch.testing.assert_close(quantile_sigmas(4, 1024), expected, atol=1e-5, rtol=0)


def test_noise_moves_only_unclean_tokens(clean: Sequence):
    """x = (1 - sigma) x0 + sigma noise, with each item's own sigma; first frame and reference stay."""
    noise = noise_for(clean, torch.Generator().manual_seed(1))
    noised = add_noise(clean, noise, torch.tensor([0.25, 0.75]))
    torch.testing.assert_close(noised.tokens[0, 4:12], 0.75 * clean.tokens[0, 4:12] + 0.25 * noise[0, 4:])
    torch.testing.assert_close(noised.tokens[1, 4:12], 0.25 * clean.tokens[1, 4:12] + 0.75 * noise[1, 4:])
    assert torch.equal(noised.tokens[clean.clean], clean.tokens[clean.clean])


def test_noise_follows_the_seed_alone(clean: Sequence):
    """Conditions do not change what a seed draws, so an edit with and without reference start from the same noise."""
    draws = [noise_for(s, torch.Generator().manual_seed(3)) for s in (clean, clean.without_reference())]
    assert torch.equal(*draws)


def test_masked_mse_by_hand():
    """Errors 1, 2, 3 of which the last two count: mean(0, 4, 9) / mean(0, 1, 1) = (13 / 3) / (2 / 3) = 6.5.

    The fourth prediction and mask value belong to no target token.
    """
    prediction = torch.tensor([1.0, 2, 3, 100]).reshape(1, 4, 1)
    mask = torch.tensor([[False, True, True, True]])
    assert masked_mse(prediction, torch.zeros(1, 3, 1), mask).item() == pytest.approx(6.5)


def test_the_true_velocity_leads_to_the_video(clean: Sequence):
    """v = noise - x0 is constant along the path, so Euler steps of any number end at x0 exactly."""
    noise = noise_for(clean, torch.Generator().manual_seed(1))
    velocity = velocity_target(clean, noise)
    for steps in (1, 7):
        end = sample_loop(lambda *_: velocity, add_noise(clean, noise, 1.0), sigma_schedule(steps, clean.num_target))
        torch.testing.assert_close(end.tokens, clean.tokens, atol=1e-5, rtol=0)


def test_clean_tokens_are_never_stepped(clean: Sequence):
    """Whatever the network says of a clean token, even NaN, it keeps its value bit for bit."""
    velocity = torch.full((2, 12, 5), float("nan"))
    stepped = euler_step(clean, velocity, 1.0, 0.5)
    assert torch.equal(stepped.tokens[clean.clean], clean.tokens[clean.clean])
    assert stepped.tokens[clean.noisy].isnan().all()


def test_loop_asks_at_each_level_and_reports(clean: Sequence):
    """The network is asked at every level but the last; the callback counts from 1 and may stop the loop."""
    asked: list[float] = []
    told: list[tuple[int, int]] = []

    def velocity(sequence: Sequence, sigma: float) -> torch.Tensor:
        asked.append(sigma)
        return torch.zeros(2, 12, 5)

    sigmas = torch.tensor([1, 0.5, 0.25, 0])
    sample_loop(velocity, clean, sigmas, lambda done, steps: told.append((done, steps)))
    assert asked == [1, 0.5, 0.25] and told == [(1, 3), (2, 3), (3, 3)]

    class Stop(Exception):
        pass

    def stop(done: int, steps: int) -> None:
        raise Stop

    with pytest.raises(Stop):
        sample_loop(velocity, clean, sigmas, stop)
    assert len(asked) == 4
