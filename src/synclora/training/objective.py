"""What one training step learns from: the sequence editing will build, noised, and the error of its velocity.

    given: the source clip (reference) and frame 0 of the target (clean)      learn: the rest of the target

The target's own latent frame 0 stands for the encoded edited image: the VAE is causal, so both are the same numbers.

A share of the steps may be of later windows of a long clip (`Later`), as `synclora.editing.sampler` makes them:

    given: the source from latent frame s on, the target's frames s to s + known - 1, with faults as made frames have
           them, and frame 0 of both just before the window      learn: the rest of the target
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from synclora.backbones.base import Attention, Backbone, Text
from synclora.diffusion.flow import add_noise, masked_mse, sample_sigmas, sigma_schedule, velocity_target
from synclora.diffusion.sequence import (
    Anchor,
    Condition,
    Continuation,
    FirstFrame,
    Reference,
    Sequence,
    build,
    patchify,
    unpatchify,
)
from synclora.training.latents import LatentCache, pad_texts
from synclora.training.state import step_generator

LEAST_FRAMES = 4  # latent frames of a clip from which later windows can be cut
MOST_KNOWN = 3  # latent frames of a later window that are made already
PROBE = (3, 8, 8)  # latent frames, rows and columns on which the decoder is tried out
PROBE_SIZE = 0.2  # deviation of what is tried; latents have a deviation of about 1
FAULT = 0.2  # greatest deviation of the faults in them; latents have a deviation of about 1


@dataclass(frozen=True)
class Later:
    """A later window: from latent frame `start` on, its first `known` latent frames made already."""

    start: int
    known: int

    @classmethod
    def draw(cls, frames: int, generator: torch.Generator) -> Later:
        """One of a clip of so many latent frames, at least `LEAST_FRAMES`, of which it keeps half or more."""
        start = int(torch.randint(1, frames // 2 + 1, (), generator=generator))
        known = int(torch.randint(1, min(MOST_KNOWN, frames - start - 1) + 1, (), generator=generator))
        return cls(start, known)


@dataclass(frozen=True)
class Batch:
    """Pairs: `source` and `target` latents [B, C, f, h, w] float32, and the target's prompt."""

    source: Tensor
    target: Tensor
    text: Text

    def sequence(self, backbone: Backbone, later: Later | None = None, faults: Tensor | None = None) -> Sequence:
        """The clean sequence of these pairs, as an edit would have it.

        Args:
            backbone: its geometry is used.
            later: the window to cut from the pairs; None for the clip's first.
            faults: [B, C, known, h, w], added to the frames that are made already.
        """
        geometry, target, conditions = backbone.geometry, self.target, self._conditions()
        if later is not None:
            target = target[:, :, later.start :]
            known = target[:, :, : later.known] + (0 if faults is None else faults)
            anchor = Anchor(self.target[:, :, :1], self.source[:, :, :1], geometry.temporal)
            conditions = [Reference(self.source[:, :, later.start :]), Continuation(known), anchor]
        return build(target, geometry.fps, conditions, spatial=geometry.spatial, temporal=geometry.temporal)

    def token_weights(self, changed: float, later: Later | None = None) -> Tensor:
        """What each target token counts in the loss, [B, tokens] from 1 to `changed`.

        1 where target and source agree, growing with the root mean square of their difference over the channels to
        `changed` where that is 1, the size of latents, or more.
        """
        start = later.start if later else 0
        apart = (self.target - self.source)[:, :, start:].square().mean(1, keepdim=True).sqrt()
        return 1 + (changed - 1) * patchify(apart.clamp(max=1))[..., 0]

    def _conditions(self) -> list[Condition]:
        return [Reference(self.source), FirstFrame(self.target[:, :, :1])]

    def to(self, device: torch.device) -> Batch:
        """The batch on another device."""
        return Batch(self.source.to(device), self.target.to(device), self.text.to(device))


@dataclass(frozen=True)
class Draws:
    """A step's random numbers for B pairs: sigma [B] in (0, 1), noise [B, target tokens, C], no_prompt [B] bool,
    fault [B] the deviation of the faults in what is made already; and the later window they are of, if any."""

    sigma: Tensor
    noise: Tensor
    no_prompt: Tensor
    fault: Tensor
    later: Later | None = None

    @classmethod
    def of_step(
        cls,
        seed: int,
        step: int,
        pairs: int,
        tokens: int,
        channels: int,
        caption_dropout: float,
        later_share: float = 0.0,
        latent_frames: int = 1,
        sampling_steps: int | None = None,
    ) -> Draws:
        """Drawn on the CPU from (seed, step) alone, for all forward passes of the step at once.

        Args:
            tokens: of the target.
            later_share: probability that the step is of a later window; clips too short to cut one from have none.
            latent_frames: of the target.
            sampling_steps: draw the noise levels that editing in so many steps visits, each as often, and no others.
        """
        generator = step_generator(seed, step, "noise")
        if sampling_steps is None:
            sigma = sample_sigmas(pairs, tokens, generator)
        else:
            visited = sigma_schedule(sampling_steps, tokens)[:-1]
            sigma = visited[torch.randint(sampling_steps, (pairs,), generator=generator)]
        noise = torch.randn(pairs, tokens, channels, generator=generator)
        no_prompt = torch.rand(pairs, generator=generator) < caption_dropout
        fault = FAULT * torch.rand(pairs, generator=generator)
        is_later = torch.rand((), generator=generator).item() < later_share and latent_frames >= LEAST_FRAMES
        return cls(sigma, noise, no_prompt, fault, Later.draw(latent_frames, generator) if is_later else None)

    def __getitem__(self, part: slice) -> Draws:
        return Draws(self.sigma[part], self.noise[part], self.no_prompt[part], self.fault[part], self.later)

    def to(self, device: torch.device) -> Draws:
        """The draws on another device."""
        return Draws(
            self.sigma.to(device), self.noise.to(device), self.no_prompt.to(device), self.fault.to(device), self.later
        )


def load_batch(cache: LatentCache, pairs: list[int], empty: Tensor, no_prompt: Tensor | None = None) -> Batch:
    """Pairs by number; where `no_prompt` [B] is set, `empty` [T, D] (the embedded empty prompt) replaces the prompt."""
    sources, targets = zip(*(cache.clips.pairs[pair] for pair in pairs), strict=True)
    texts = cache.text(list(targets))
    if no_prompt is not None:
        texts = [empty if dropped else text for text, dropped in zip(texts, no_prompt.tolist(), strict=True)]
    return Batch(cache.latents(list(sources)), cache.latents(list(targets)), pad_texts(texts))


def pixel_weights(backbone: Backbone) -> Tensor:
    """How much an error in each latent channel shows in pixels, [C] with mean 1, on the backbone's device.

    The squared change of the decoded picture over that of the latent, for small noise in one channel at a time around
    the mean latent, where the decoder is linear enough.
    """
    channels = backbone.geometry.channels
    rest = torch.zeros(1, channels, *PROBE, device=backbone.device)
    noise = PROBE_SIZE * torch.randn(PROBE, generator=torch.Generator().manual_seed(0)).to(backbone.device)
    picture = backbone.decode(rest)
    shown = []
    for channel in range(channels):
        nudged = rest.clone()
        nudged[:, channel] += noise
        shown.append((backbone.decode(nudged) - picture).square().mean())
    shares = torch.stack(shown)
    return shares / shares.mean()


def step_loss(
    backbone: Backbone,
    batch: Batch,
    draws: Draws,
    attention: Attention,
    changed_weight: float = 1.0,
    channel_weights: Tensor | None = None,
) -> Tensor:
    """`velocity_loss` of what a training step has drawn: the clip's first window, or a later one.

    `changed_weight` as in `Batch.token_weights`, `channel_weights` as `pixel_weights` returns them; the loss
    is the weighted mean.
    """
    weights = batch.token_weights(changed_weight, draws.later)
    given = (attention, weights, channel_weights)
    if draws.later is None:
        return _loss(backbone, batch.sequence(backbone), batch.text, draws.sigma, draws.noise, *given)
    rows, columns = batch.target.shape[-2:]
    grid = (draws.later.known, rows, columns)
    unused = draws.noise[:, : math.prod(grid)]  # of tokens before the window
    faults = unpatchify(unused * draws.fault.view(-1, 1, 1), grid)
    clean = batch.sequence(backbone, draws.later, faults)
    noise = draws.noise[:, -clean.num_target :]
    return _loss(backbone, clean, batch.text, draws.sigma, noise, *given)


def velocity_loss(backbone: Backbone, batch: Batch, sigma: Tensor, noise: Tensor, attention: Attention) -> Tensor:
    """Mean squared error of the velocity at `sigma` [B] over the tokens that were noised, [B, tokens, C] of `noise`."""
    return _loss(backbone, batch.sequence(backbone), batch.text, sigma, noise, attention)


def _loss(
    backbone: Backbone,
    clean: Sequence,
    text: Text,
    sigma: Tensor,
    noise: Tensor,
    attention: Attention,
    weights: Tensor | None = None,
    channels: Tensor | None = None,
) -> Tensor:
    noisy = add_noise(clean, noise, sigma)
    predicted = backbone.velocity(noisy, sigma, text, attention=attention)
    counted = clean.noisy[:, : clean.num_target]
    counted = counted if weights is None else counted * weights
    return masked_mse(predicted, velocity_target(clean, noise), counted, channels)


def precision_context(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """bf16: matrix products in bfloat16 while LoRA weights and their gradients stay float32; fp32: nothing.

    Weights are cast where they are used. Autocast would keep the bfloat16 copies of all of them until the pass ends,
    1.2 GiB of a LoRA of rank 128 in 13B, although recomputed blocks cast again, and under `self` would add up the
    gradients of both passes in bfloat16.
    """
    if precision == "bf16":
        return torch.autocast(device.type, torch.bfloat16, cache_enabled=False)
    return nullcontext()
