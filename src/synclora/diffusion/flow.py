"""The flow: how noise becomes video, and how a network learns to do it.

    x_sigma = (1 - sigma) * x0 + sigma * noise        sigma in [0, 1]: 0 is the video, 1 is pure noise
    v       = noise - x0 = d x_sigma / d sigma        what the network predicts
    editing : start at sigma = 1, walk down a schedule, x += (next_sigma - sigma) * v
    training: pick a sigma, add noise, score the predicted v

Clean tokens (first frame, keyframes, reference) take no part: never noised, never stepped, never scored.

One shift serves training and sampling. More tokens show the same picture at more resolution and so need more noise to
hide it: mu(L) = 0.95 + 1.10 * (L - 1024) / 3072 for L target tokens. Training draws sigma = sigmoid(mu + N(0, 1));
sampling bends an even schedule by the same mu (the exponential time shift of SD3 and Flux).
Sources: rectified flow (Liu et al., 2022); mu's constants, the loss and its mask as in Lightricks' public LTX trainers.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

from synclora.diffusion.sequence import Sequence


def shift_mu(num_target_tokens: int) -> float:
    """The shift for a video of that many target tokens; 512 x 512 x 81 frames on LTX: L = 2816, mu = 1.5917."""
    return 0.95 + 1.10 * (num_target_tokens - 1024) / 3072


def sample_sigmas(batch: int, num_target_tokens: int, generator: torch.Generator | None = None) -> Tensor:
    """Noise levels `[batch]` for training: sigmoid(mu + N(0, 1)), drawn on the CPU."""
    return torch.sigmoid(shift_mu(num_target_tokens) + torch.randn(batch, generator=generator))


def quantile_sigmas(count: int, num_target_tokens: int) -> Tensor:
    """`count` fixed noise levels, ascending: the middles of equal slices of what `sample_sigmas` draws from.

    A held-out loss measured at these is comparable from one evaluation to the next.
    """
    levels = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    return torch.sigmoid(shift_mu(num_target_tokens) + torch.special.ndtri(levels)).float()


def sigma_schedule(steps: int, num_target_tokens: int) -> Tensor:
    """Noise levels `[steps + 1]` from 1 down to 0: even steps s bent to e^mu / (e^mu + 1/s - 1)."""
    if steps < 1:
        raise ValueError(f"{steps} denoising steps; at least 1 is needed")
    even = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
    shift = math.exp(shift_mu(num_target_tokens))
    return (shift * even / (1 + (shift - 1) * even)).float()


def noise_for(sequence: Sequence, generator: torch.Generator | None = None) -> Tensor:
    """Gaussian noise `[B, target tokens, C]`, drawn on the CPU: a seed gives the same noise on every device."""
    batch, _, channels = sequence.tokens.shape
    noise = torch.randn(batch, sequence.num_target, channels, generator=generator)
    return noise.to(sequence.tokens.device)


def add_noise(sequence: Sequence, noise_BTC: Tensor, sigma: Tensor | float) -> Sequence:
    """The sequence with its unclean tokens at x_sigma = (1 - sigma) x0 + sigma noise; sigma: `[B]` or a number."""
    n = sequence.num_target
    sigma_BT1 = sequence.timesteps(sigma)[:, :n, None]  # 0 where clean: those tokens stay as they are
    noised = (1 - sigma_BT1) * sequence.tokens[:, :n] + sigma_BT1 * noise_BTC
    return sequence.with_tokens(torch.cat([noised, sequence.tokens[:, n:]], dim=1))


def velocity_target(sequence: Sequence, noise_BTC: Tensor) -> Tensor:
    """What the network should answer, `[B, target tokens, C]`: noise - x0, where `sequence` holds x0."""
    return noise_BTC - sequence.tokens[:, : sequence.num_target]


def masked_mse(
    prediction_BNC: Tensor, target_BTC: Tensor, mask_BN: Tensor, channel_weights_C: Tensor | None = None
) -> Tensor:
    """Mean squared error over masked target tokens, as mean(error * mask) / mean(mask).

    Predictions and masks may run on beyond the T target tokens (keyframes, reference); those are left out. Weights of
    the channels, where there are any, have mean 1.
    """
    n = target_BTC.shape[1]
    mask_BT1 = mask_BN[:, :n, None].float()
    error_BTC = (prediction_BNC[:, :n].float() - target_BTC.float()).square()
    if channel_weights_C is not None:
        error_BTC = error_BTC * channel_weights_C
    return (error_BTC * mask_BT1).mean() / mask_BT1.mean()


def euler_step(sequence: Sequence, velocity_BnC: Tensor, sigma: float, next_sigma: float) -> Sequence:
    """Move the unclean tokens from `sigma` to `next_sigma` along the velocity of the first n (non-reference) tokens."""
    n = velocity_BnC.shape[1]
    old = sequence.tokens[:, :n]
    stepped = torch.where(sequence.clean[:, :n, None], old, old + (next_sigma - sigma) * velocity_BnC.float())
    return sequence.with_tokens(torch.cat([stepped, sequence.tokens[:, n:]], dim=1))


def sample_loop(
    velocity: Callable[[Sequence, float], Tensor],
    sequence: Sequence,
    sigmas: Tensor,
    callback: Callable[[int, int], None] | None = None,
) -> Sequence:
    """Denoise: the whole of sampling.

    Args:
        velocity: the network, `(sequence, sigma) -> [B, non-reference tokens, C]`.
        sequence: noise (see `add_noise` at sigma 1) among clean tokens.
        sigmas: `[steps + 1]` descending to 0, from `sigma_schedule`.
        callback: told `(steps done, steps in all)` after each step; what it raises ends the loop.
    """
    steps = len(sigmas) - 1
    for done, (sigma, next_sigma) in enumerate(pairwise(sigmas.tolist()), start=1):
        sequence = euler_step(sequence, velocity(sequence, sigma), sigma, next_sigma)
        if callback is not None:
            callback(done, steps)
    return sequence
