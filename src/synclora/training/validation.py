"""How a training is doing: the loss on held-out pairs at fixed noise levels, and sample edits to look at."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from synclora.atomic import atomic_path
from synclora.backbones.base import Attention, Backbone
from synclora.clip import from_model
from synclora.diffusion.flow import add_noise, noise_for, quantile_sigmas, sample_loop, sigma_schedule
from synclora.training.latents import LatentCache
from synclora.training.objective import Batch, load_batch, velocity_loss
from synclora.training.state import step_generator

QUANTILES = 4  # noise levels the held-out loss is measured at
SAMPLE_STEPS = 8  # denoising steps of a sample edit
COLUMNS = 8  # frames shown in a strip
GAP, LABEL = 4, 72  # px


@torch.no_grad()
def held_out_loss(
    backbone: Backbone, cache: LatentCache, empty: Tensor, attention: Attention, batch: int, seed: int
) -> dict[str, float]:
    """Velocity loss over all held-out pairs at fixed quantiles of the training's noise levels, with fixed noise.

    The same pairs, noise and levels at every call, so values compare from step to step. Returns `validation/loss` (the
    mean) and one value for each level, e.g. `validation/loss_at_0.420`.
    """
    geometry = backbone.geometry
    pairs = list(range(len(cache.clips.pairs)))
    totals = torch.zeros(QUANTILES, dtype=torch.float64)
    levels = torch.zeros(QUANTILES)
    for first in range(0, len(pairs), batch):
        part = pairs[first : first + batch]
        data = load_batch(cache, part, empty).to(backbone.device)
        tokens = data.target[0, 0].numel()
        levels = quantile_sigmas(QUANTILES, tokens)
        for index, level in enumerate(levels):
            generator = step_generator(seed, first, f"validation {index}")
            noise = torch.randn(len(part), tokens, geometry.channels, generator=generator).to(backbone.device)
            sigma = level.expand(len(part)).to(backbone.device)
            totals[index] += velocity_loss(backbone, data, sigma, noise, attention).item() * len(part)
    losses = (totals / len(pairs)).tolist()
    return {"validation/loss": sum(losses) / QUANTILES} | {
        f"validation/loss_at_{level:.3f}": loss for level, loss in zip(levels.tolist(), losses, strict=True)
    }


@torch.no_grad()
def edit_latents(backbone: Backbone, batch: Batch, attention: Attention, steps: int, seed: int) -> Tensor:
    """The pairs' sources edited to the targets' first frames: latents [B, C, f, h, w]."""
    sequence = batch.sequence(backbone)
    sequence = add_noise(sequence, noise_for(sequence, torch.Generator().manual_seed(seed)), 1.0)
    cache = backbone.reference_cache(sequence, batch.text) if attention == "self" else None
    edited = sample_loop(
        lambda now, sigma: backbone.velocity(now, sigma, batch.text, attention=attention, cache=cache),
        sequence,
        sigma_schedule(steps, sequence.num_target),
    )
    return edited.target_latents()


def sample_edits(
    backbone: Backbone, cache: LatentCache, empty: Tensor, attention: Attention, count: int, seed: int, path: Path
) -> dict[str, float]:
    """Edit the first `count` held-out pairs and write one strip image of them.

    Each pair shows the source, the edited and the true clip over time, the given first frame at the left. Source and
    truth went through the VAE as well, so what differs is the edit's doing. Returns `samples/psnr` (dB, edited against
    true, frame 0 left out) and `samples/psnr_repeat`, what repeating the given frame would score.
    """
    strips, psnrs, repeats = [], [], []
    for pair in range(min(count, len(cache.clips.pairs))):
        batch = load_batch(cache, [pair], empty).to(backbone.device)
        edited = from_model(backbone.decode(edit_latents(backbone, batch, attention, SAMPLE_STEPS, seed)))
        source, true = from_model(backbone.decode(batch.source)), from_model(backbone.decode(batch.target))
        strips.append(strip(source, edited, true))
        psnrs.append(_psnr(edited[1:], true[1:]))
        repeats.append(_psnr(true[:1].expand_as(true[1:]), true[1:]))
    height = sum(image.height for image in strips)
    sheet = Image.new("RGB", (max(image.width for image in strips), height), "white")
    top = 0
    for image in strips:
        sheet.paste(image, (0, top))
        top += image.height
    with atomic_path(path) as temporary:
        sheet.save(temporary)
    return {"samples/psnr": sum(psnrs) / len(psnrs), "samples/psnr_repeat": sum(repeats) / len(repeats)}


def strip(source: Tensor, edited: Tensor, true: Tensor) -> Image.Image:
    """Labelled rows over time (source, edited, true; uint8 [F, H, W, 3]) and the given first frame at the left."""
    count, height, width, _ = source.shape
    columns = torch.linspace(0, count - 1, min(COLUMNS, count)).round().long().tolist()
    across = LABEL + (width + GAP) * (1 + len(columns)) + 3 * GAP
    image = Image.new("RGB", (across, 3 * (height + GAP) + GAP), "white")
    draw = ImageDraw.Draw(image)
    for row, (label, frames) in enumerate((("source", source), ("edited", edited), ("true", true))):
        top = GAP + row * (height + GAP)
        draw.text((GAP, top + height // 2 - 6), label, fill="black")
        for place, frame in enumerate(columns):
            left = LABEL + (width + GAP) * (1 + place) + 3 * GAP
            image.paste(Image.fromarray(frames[frame].cpu().numpy()), (left, top))
    top = GAP + height + GAP
    draw.text((LABEL, top - 14), "first frame", fill="black")
    image.paste(Image.fromarray(true[0].cpu().numpy()), (LABEL, top))
    return image


def _psnr(a: Tensor, b: Tensor) -> float:
    error = (a.float() - b.float()).square().mean().item()
    return 10 * math.log10(255**2 / max(error, 1e-3))
