"""What one training step learns from: the sequence editing will build, noised, and the error of its velocity.

    given: the source clip (reference) and frame 0 of the target (clean)      learn: the rest of the target

The target's own latent frame 0 stands for the encoded edited image: the VAE is causal, so both are the same numbers.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from synclora.backbones.base import Attention, Backbone, Text
from synclora.diffusion.flow import add_noise, masked_mse, sample_sigmas, velocity_target
from synclora.diffusion.sequence import FirstFrame, Reference, Sequence, build
from synclora.training.latents import LatentCache, pad_texts
from synclora.training.state import step_generator


@dataclass(frozen=True)
class Batch:
    """Pairs: `source` and `target` latents [B, C, f, h, w] float32, and the target's prompt."""

    source: Tensor
    target: Tensor
    text: Text

    def sequence(self, backbone: Backbone) -> Sequence:
        """The clean sequence of these pairs, as an edit would have it."""
        conditions = [FirstFrame(self.target[:, :, :1]), Reference(self.source)]
        geometry = backbone.geometry
        return build(self.target, geometry.fps, conditions, spatial=geometry.spatial, temporal=geometry.temporal)

    def to(self, device: torch.device) -> Batch:
        """The batch on another device."""
        return Batch(self.source.to(device), self.target.to(device), self.text.to(device))


@dataclass(frozen=True)
class Draws:
    """A step's random numbers for B pairs: sigma [B] in (0, 1), noise [B, target tokens, C], no_prompt [B] bool."""

    sigma: Tensor
    noise: Tensor
    no_prompt: Tensor

    @classmethod
    def of_step(cls, seed: int, step: int, pairs: int, tokens: int, channels: int, caption_dropout: float) -> Draws:
        """Drawn on the CPU from (seed, step) alone, for all forward passes of the step at once."""
        generator = step_generator(seed, step, "noise")
        return cls(
            sample_sigmas(pairs, tokens, generator),
            torch.randn(pairs, tokens, channels, generator=generator),
            torch.rand(pairs, generator=generator) < caption_dropout,
        )

    def __getitem__(self, part: slice) -> Draws:
        return Draws(self.sigma[part], self.noise[part], self.no_prompt[part])


def load_batch(cache: LatentCache, pairs: list[int], empty: Tensor, no_prompt: Tensor | None = None) -> Batch:
    """Pairs by number; where `no_prompt` [B] is set, `empty` [T, D] (the embedded empty prompt) replaces the prompt."""
    sources, targets = zip(*(cache.clips.pairs[pair] for pair in pairs), strict=True)
    texts = cache.text(list(targets))
    if no_prompt is not None:
        texts = [empty if dropped else text for text, dropped in zip(texts, no_prompt.tolist(), strict=True)]
    return Batch(cache.latents(list(sources)), cache.latents(list(targets)), pad_texts(texts))


def velocity_loss(backbone: Backbone, batch: Batch, sigma: Tensor, noise: Tensor, attention: Attention) -> Tensor:
    """Mean squared error of the velocity at `sigma` [B] over the tokens that were noised."""
    clean = batch.sequence(backbone)
    noisy = add_noise(clean, noise, sigma)
    predicted = backbone.velocity(noisy, sigma, batch.text, attention=attention)
    return masked_mse(predicted, velocity_target(clean, noise), clean.noisy)


def precision_context(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """bf16: matrix products in bfloat16 while LoRA weights and their gradients stay float32; fp32: nothing."""
    if precision == "bf16":
        return torch.autocast(device.type, torch.bfloat16)
    return nullcontext()
