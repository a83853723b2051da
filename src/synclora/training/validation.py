"""How a training is doing: the loss on held-out pairs at fixed noise levels, and sample edits to look at."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from synclora.atomic import atomic_path
from synclora.backbones.base import Attention, Backbone
from synclora.clip import Clip, from_model
from synclora.diffusion.flow import add_noise, noise_for, quantile_sigmas, sample_loop, sigma_schedule
from synclora.training.buckets import buckets_of
from synclora.training.latents import LatentCache
from synclora.training.objective import Batch, load_batch, velocity_loss
from synclora.training.state import step_generator
from synclora.training.world import World

QUANTILES = 4  # noise levels the held-out loss is measured at
SAMPLE_STEPS = 8  # denoising steps of a sample edit where training is not for a certain number
COLUMNS = 8  # frames shown in a strip
GAP, LABEL = 4, 72  # px


@torch.no_grad()
def held_out_loss(
    backbone: Backbone,
    cache: LatentCache,
    empty: Tensor,
    attention: Attention,
    batch: int,
    seed: int,
    world: World | None = None,
    sampling_steps: int | None = None,
) -> dict[str, float]:
    """Velocity loss over all held-out pairs at fixed quantiles of the training's noise levels, with fixed noise.

    With `sampling_steps` at the levels that editing in so many steps visits.

    The same pairs, noise and levels at every call, so values compare from step to step. Returns `validation/loss` (the
    mean) and one value for each level, e.g. `validation/loss_at_0.420`; with clips of several sizes, whose levels
    differ, one for each quantile, e.g. `validation/loss_q1`.

    Several processes share the batches, all of them call this, and each runs the network as often as the others.
    """
    world = world or World()
    parts = [
        list(bucket[first : first + batch])
        for bucket in buckets_of(cache.clips)
        for first in range(0, len(bucket), batch)
    ]
    count = sampling_steps or QUANTILES
    totals = torch.zeros(count, dtype=torch.float64)
    shown: list[tuple[float, ...]] = []
    for turn in range(0, len(parts), world.size):
        idle = turn + world.rank >= len(parts)  # runs the network, which may need all processes, to no purpose
        part = parts[turn if idle else turn + world.rank]
        data = load_batch(cache, part, empty).to(backbone.device)
        tokens = data.target[0, 0].numel()
        levels = sigma_schedule(count, tokens)[:-1] if sampling_steps else quantile_sigmas(count, tokens)
        shown.append(tuple(levels.tolist()))
        for index, level in enumerate(levels):
            generator = step_generator(seed, part[0], f"validation {index}")
            noise = torch.randn(len(part), tokens, backbone.geometry.channels, generator=generator).to(backbone.device)
            sigma = level.expand(len(part)).to(backbone.device)
            loss = velocity_loss(backbone, data, sigma, noise, attention).item()
            totals[index] += 0 if idle else loss * len(part)
    losses = (world.total(totals) / len(cache.clips.pairs)).tolist()
    of_all = sorted({levels for share in world.gather(shown) for levels in share})
    names = [f"at_{level:.3f}" for level in of_all[0]] if len(of_all) == 1 else [f"q{i + 1}" for i in range(count)]
    return {"validation/loss": sum(losses) / count} | {
        f"validation/loss_{name}": loss for name, loss in zip(names, losses, strict=True)
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


@dataclass(frozen=True)
class _Sample:
    """One sample edit, drawn and measured; sync is None where it could not be judged."""

    strip: Image.Image
    psnr: float  # dB, edited against true, frame 0 left out
    psnr_repeat: float  # dB, of repeating the given frame
    sync: float | None  # in [0, 1], edited against source
    notice: str = ""


def sample_edits(
    backbone: Backbone,
    cache: LatentCache,
    empty: Tensor,
    attention: Attention,
    count: int,
    seed: int,
    path: Path,
    world: World | None = None,
    notice: Callable[[str], None] = lambda _: None,
    sampling_steps: int | None = None,
) -> dict[str, float]:
    """Edit the first `count` held-out pairs and write one strip image of them.

    Each pair shows the source, the edited and the true clip over time, the given first frame at the left. Source and
    truth went through the VAE as well, so what differs is the edit's doing. Returns `samples/psnr` (dB, edited against
    true, frame 0 left out), `samples/psnr_repeat`, what repeating the given frame would score, and, where faces can be
    measured, `samples/sync`: the mean sync score of the edited clips against their sources.

    Several processes share the pairs, each measuring its own, and all of them call this. `notice` is told why there is
    no sync score, if MediaPipe is missing.
    """
    world = world or World()
    pairs = list(range(min(count, len(cache.clips.pairs))))
    samples: list[_Sample] = []
    for turn in range(0, len(pairs), world.size):
        idle = turn + world.rank >= len(pairs)
        pair = pairs[turn if idle else turn + world.rank]
        batch = load_batch(cache, [pair], empty).to(backbone.device)
        edited = edit_latents(backbone, batch, attention, sampling_steps or SAMPLE_STEPS, seed)
        samples += [s for s in world.gather(None if idle else _sample(backbone, batch, edited)) if s is not None]
    if world.main:
        _write_sheet(path, [sample.strip for sample in samples])
    for text in dict.fromkeys(sample.notice for sample in samples if sample.notice):
        notice(text)
    values = {
        "samples/psnr": _mean([sample.psnr for sample in samples]),
        "samples/psnr_repeat": _mean([sample.psnr_repeat for sample in samples]),
    }
    scores = [sample.sync for sample in samples if sample.sync is not None]
    return values | ({"samples/sync": _mean(scores)} if scores else {})


def _sample(backbone: Backbone, batch: Batch, edited_latents: Tensor) -> _Sample:
    edited = from_model(backbone.decode(edited_latents)).cpu()
    source, true = (from_model(backbone.decode(latents)).cpu() for latents in (batch.source, batch.target))
    sync, notice = _sync(source, edited, backbone.geometry.fps)
    repeated = true[:1].expand_as(true[1:])
    return _Sample(strip(source, edited, true), _psnr(edited[1:], true[1:]), _psnr(repeated, true[1:]), sync, notice)


def _sync(source: Tensor, edited: Tensor, fps: float) -> tuple[float | None, str]:
    """The sync score of two clips, uint8 [F, H, W, 3], and why there is none if faces cannot be measured here."""
    try:
        from synclora.faces import measure
        from synclora.sync import compare

        motions = [measure(Clip(frames, Fraction(fps).limit_denominator(1001))) for frames in (source, edited)]
    except ImportError as error:
        return None, f"sample edits are not scored for synchrony: {error}"
    return compare(*motions).overall, ""


def _write_sheet(path: Path, strips: list[Image.Image]) -> None:
    sheet = Image.new("RGB", (max(image.width for image in strips), sum(image.height for image in strips)), "white")
    top = 0
    for image in strips:
        sheet.paste(image, (0, top))
        top += image.height
    with atomic_path(path) as temporary:
        sheet.save(temporary)


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


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _psnr(a: Tensor, b: Tensor) -> float:
    error = (a.float() - b.float()).square().mean().item()
    return 10 * math.log10(255**2 / max(error, 1e-3))
