"""Step 7 of nano on a CPU, step 1 on a GPU: the video autoencoder.

    CPU:  python recipes/nano/vae.py --output runs/nano/vae --pool runs/nano/pool --from runs/nano/vae_start \
              --decoder-only --noise 0.1 --steps 1400 --batch 4 --frames 17 --lr 3e-4 --compile
    GPU:  python recipes/nano/vae.py --output runs/nano/vae --pool runs/nano/pool --steps 12000 --batch 32 --device cuda

On a CPU the encoder is that of `principal.py`, and the decoder alone is trained, beside the steps that need the latents
only. Run the same line again to resume from the newest checkpoint; `--from FOLDER` starts from another VAE's weights,
and `--decoder-only` leaves the latents as they are and sharpens what is decoded from them. Writes a diffusers folder to
`OUTPUT/model` and `OUTPUT/log.jsonl`.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from pathlib import Path

import torch
from diffusers.models.autoencoders.autoencoder_kl_ltx import AutoencoderKLLTXVideo
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from model import LATENT_NOISE, new_vae
from muon import Muon
from rich.progress import track
from torch import Tensor, nn

from synclora.atomic import atomic_path
from synclora.training.pool import ClipPool
from synclora.training.state import (
    TrainState,
    latest_checkpoint,
    load_checkpoint,
    save_checkpoint,
    set_lr,
    step_generator,
    step_seed,
    warmup_cosine,
)

VALIDATION_SEED = 900_000  # motions kept from training
SCALE_WEIGHT = 0.01  # holds the latents' mean square to 1 from above; the noise holds it from below
EDGE_WEIGHT = 0.5
LOSS_SCALE = 20.0  # brings the loss to about 0.1, where the latents' penalty is small beside it
RAMP = 400  # steps over which noise and edge loss grow; early latents carry too little to stand either
MOTION_WEIGHT = 2.0


def batch_at(pool: ClipPool, step: int, batch: int, frames: int, seed: int) -> Tensor:
    """Clips of step `step`, float [B, 3, frames, H, W] in [-1, 1]: a pure function of (seed, step).

    Early steps draw from the pool's first motions only, so that training can start while the rest is being rendered.
    Each clip is mirrored half of the time and its colour channels get gains of 0.8 to 1.2.
    """
    rng = random.Random(step_seed(seed, step, "clips"))
    motions = min(pool.motions, 32 + step // 2)
    clips = []
    for _ in range(batch):
        clip = pool.clip(rng.randrange(motions), rng.randrange(pool.looks))
        start = rng.randint(0, pool.frames - frames)
        x_FHWC = clip[start : start + frames].float() / 127.5 - 1
        if rng.random() < 0.5:
            x_FHWC = x_FHWC.flip(2)
        gain = torch.tensor([rng.uniform(0.8, 1.2) for _ in range(3)])
        clips.append((((x_FHWC + 1) * gain).clamp(0, 2) - 1).permute(3, 0, 1, 2))
    return torch.stack(clips)


def reconstruction_loss(y: Tensor, x: Tensor, ramp: float = 1.0) -> Tensor:
    """Squared error of pixels and of their spatial differences; what moves in the clip weighs up to 1 + MOTION_WEIGHT.

    Eyes and mouth are a few percent of the picture and most of the motion; the weight is there for them. Squares, and
    not absolute values: those ask for the median, and the median of an eye that is seldom shut is an open eye.
    """
    moving = (x - x.mean(2, keepdim=True)).abs().mean(1, keepdim=True)
    weight = 1 + MOTION_WEIGHT * (moving * 8).clamp(max=1)
    error = y - x
    edges = sum((error.diff(dim=d).square() * weight.narrow(d, 1, weight.shape[d] - 1)).mean() for d in (3, 4))
    return LOSS_SCALE * ((error.square() * weight).mean() + ramp * EDGE_WEIGHT * edges)


def encode(vae: AutoencoderKLLTXVideo, x: Tensor) -> DiagonalGaussianDistribution:
    """The posterior over latents of video [B, 3, F, H, W] in [-1, 1]."""
    return vae.encode(x, return_dict=False)[0]


def decode(vae: AutoencoderKLLTXVideo, latents: Tensor) -> Tensor:
    """Video [B, 3, F, H, W] float32."""
    return vae.decode(latents, return_dict=False)[0].float()


def step_loss(
    vae: AutoencoderKLLTXVideo, x: Tensor, ramp: float, generator: torch.Generator, latent_noise: float = LATENT_NOISE
) -> tuple[Tensor, Tensor]:
    """(total loss, mean square of the latents); the noise on the latents is drawn on the CPU from `generator`."""
    with torch.autocast(x.device.type, torch.bfloat16):
        mean = encode(vae, x).mean.float()
        noise = torch.randn(mean.shape, generator=generator).to(mean.device)
        y = decode(vae, mean + ramp * latent_noise * noise)
    power = mean.square().mean()
    return reconstruction_loss(y, x, ramp) + SCALE_WEIGHT * (power - 1).clamp(min=0), power


@torch.no_grad()
def validation_psnr(vae: AutoencoderKLLTXVideo, pool: ClipPool) -> float:
    """Mean PSNR (dB, 8 bit) of the round trip of whole windows over the validation motions."""
    values = []
    for motion in range(pool.motions):
        clip = pool.clip(motion, motion % pool.looks)
        x = (clip.float() / 127.5 - 1).permute(3, 0, 1, 2)[None].to(vae.device)
        with torch.autocast(x.device.type, torch.bfloat16):
            y = decode(vae, encode(vae, x).mode()).clamp(-1, 1)
        values.append(-10 * torch.log10(((y - x) / 2).square().mean()))
    return torch.stack(values).mean().item()


@torch.no_grad()
def measure_latents(vae: AutoencoderKLLTXVideo, pool: ClipPool, motions: int) -> None:
    """Set `latents_mean` and `latents_std`: latents leave the encoder with mean 0 and mean square 1 over all channels.

    A channel's deviation is drawn towards the others', not made equal to it: the square root of a channel's deviation
    is divided out. Channels of fine detail then count less in the flow's loss than those that carry the picture.
    """
    latents = []
    for motion in range(min(motions, pool.motions)):
        x = (pool.clip(motion, motion % pool.looks).float() / 127.5 - 1).permute(3, 0, 1, 2)[None].to(vae.device)
        with torch.autocast(x.device.type, torch.bfloat16):
            latents.append(encode(vae, x).mode().float().transpose(0, 1).flatten(1))
    values = torch.cat(latents, 1)
    vae.latents_mean.copy_(values.mean(1))
    spread = values.std(1)
    vae.latents_std.copy_(spread.sqrt() * spread.mean().sqrt())  # deviations left: sqrt(spread / mean spread)


def main() -> None:
    parser = argparse.ArgumentParser(description="Train nano's video autoencoder.")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--pool", type=Path, required=True, help="folder of rendered clips; filled as needed")
    parser.add_argument("--motions", type=int, default=512)
    parser.add_argument("--looks", type=int, default=3)
    parser.add_argument("--steps", type=int, default=700)
    parser.add_argument("--batch", type=int, default=6)
    parser.add_argument("--frames", type=int, default=9, help="frames of a training clip, 8k + 1")
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--from", dest="start", type=Path, help="diffusers folder of a VAE to start from")
    parser.add_argument("--decoder-only", action="store_true")
    parser.add_argument(
        "--noise",
        type=float,
        default=LATENT_NOISE,
        help="deviation of the noise on the latents; more of it teaches the decoder to clean up after sampling",
    )
    parser.add_argument("--compile", action="store_true", help="1.2x a step on a CPU core, after a minute of compiling")
    parser.add_argument("--checkpoint-every", type=int, default=200)
    arguments = parser.parse_args()

    torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)
    vae = AutoencoderKLLTXVideo.from_pretrained(arguments.start) if arguments.start else new_vae()
    nn.Module.to(vae, arguments.device, torch.float32)
    if arguments.decoder_only:
        vae.encoder.requires_grad_(False)
    if arguments.compile:
        vae.encoder.compile(dynamic=False)
        vae.decoder.compile(dynamic=False)
    pool = ClipPool(arguments.pool, arguments.motions, arguments.looks, device=arguments.device)
    held_out = ClipPool(arguments.pool, 16, 2, VALIDATION_SEED, device=arguments.device)
    parameters = [parameter for parameter in vae.parameters() if parameter.requires_grad]
    optimizer = Muon(parameters, arguments.lr)
    state = TrainState({"vae": vae}, optimizer)
    checkpoints = arguments.output / "checkpoints"
    if newest := latest_checkpoint(checkpoints):
        load_checkpoint(newest, state)
        print(f"resuming at step {state.step}")
    arguments.output.mkdir(parents=True, exist_ok=True)

    started = time.time()
    for step in track(range(state.step, arguments.steps), "VAE"):
        set_lr(optimizer, warmup_cosine(step, 50, arguments.steps, arguments.lr, floor=0.02))
        x = batch_at(pool, step, arguments.batch, arguments.frames, arguments.seed).to(arguments.device)
        ramp = 1.0 if arguments.start else min(step / RAMP, 1.0)
        loss, power = step_loss(vae, x, ramp, step_generator(arguments.seed, step), arguments.noise)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        state.step = step + 1
        last = state.step == arguments.steps
        if state.step % 20 == 0:
            record = {
                "step": state.step,
                "loss": loss.item(),
                "latent_power": power.item(),
                "seconds": round(time.time() - started, 1),
            }
            if state.step % arguments.checkpoint_every == 0 or last:
                record["validation_psnr"] = validation_psnr(vae, held_out)
            print(json.dumps(record), flush=True)
            with open(arguments.output / "log.jsonl", "a", encoding="utf-8") as log:
                log.write(json.dumps(record) + "\n")
        if state.step % arguments.checkpoint_every == 0 or last:
            save_checkpoint(checkpoints, state)

    if not arguments.decoder_only:
        measure_latents(vae, pool, 256)
    with atomic_path(arguments.output / "model") as folder:
        nn.Module.to(vae, torch.bfloat16)
        vae.save_pretrained(folder)


if __name__ == "__main__":
    main()
