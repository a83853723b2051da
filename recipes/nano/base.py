"""Step 2 of nano: the base image-to-video model. It knows first frame + caption -> video, and no reference.

    CPU:  python recipes/nano/base.py --vae runs/nano/vae_start --pool runs/nano/pool --output runs/nano/base17 \
              --frames 17 --steps 320
          python recipes/nano/base.py --vae runs/nano/vae_start --pool runs/nano/pool --output runs/nano/base \
              --from runs/nano/base17/model --steps 480 --lr 2e-3
    GPU:  python recipes/nano/base.py --vae runs/nano/vae/model --pool runs/nano/pool --output runs/nano/base \
              --steps 30000 --batch 128 --device cuda

Run the same line again to resume from the newest checkpoint; `--from FOLDER` starts from another nano's weights. The
transformer and the text encoder are trained together, on latents cached once. Writes the whole backbone, an ordinary
diffusers folder in bf16, to `OUTPUT/model` and `OUTPUT/log.jsonl`.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch
from diffusers.models.autoencoders.autoencoder_kl_ltx import AutoencoderKLLTXVideo
from diffusers.models.transformers.transformer_ltx import LTXVideoTransformer3DModel
from model import GEOMETRY, new_text_encoder, new_transformer, save_nano
from muon import Muon
from rich.progress import track
from torch import Tensor
from transformers import ByT5Tokenizer, T5EncoderModel

from synclora.atomic import atomic_path
from synclora.backbones.base import Text
from synclora.backbones.ltx_video import LTXVideoBackbone
from synclora.diffusion.flow import add_noise, masked_mse, quantile_sigmas, sample_sigmas, velocity_target
from synclora.diffusion.sequence import FirstFrame, build
from synclora.training.clips import open_clips
from synclora.training.config import Data, Procedural
from synclora.training.latents import LatentCache
from synclora.training.objective import precision_context
from synclora.training.state import (
    PairSampler,
    TrainState,
    latest_checkpoint,
    load_checkpoint,
    save_checkpoint,
    set_lr,
    step_generator,
    warmup_cosine,
)

WARMUP = 30
CAPTION_DROPOUT = 0.3  # the prompt is optional when editing
EVALUATION_QUANTILES = 4


def embed(backbone: LTXVideoBackbone, captions: list[str]) -> Text:
    """`backbone.embed`, but with gradients: the text encoder learns here."""
    tokens = backbone.tokenizer(
        captions, max_length=backbone.prompt_tokens, truncation=True, padding=True, pad_to_multiple_of=16,
        return_tensors="pt",
    ).to(backbone.device)  # fmt: skip
    assert backbone.text_encoder is not None
    hidden = backbone.text_encoder(tokens.input_ids, attention_mask=tokens.attention_mask).last_hidden_state
    return Text(hidden, tokens.attention_mask.bool())


def loss_at(backbone: LTXVideoBackbone, latents: Tensor, captions: list[str], sigma: Tensor, noise: Tensor) -> Tensor:
    """Velocity error of image-to-video at `sigma` [B]: frame 0 is given, the rest is predicted."""
    geometry = backbone.geometry
    clean = build(
        latents, geometry.fps, [FirstFrame(latents[:, :, :1])], spatial=geometry.spatial, temporal=geometry.temporal
    )
    with precision_context(backbone.device, "bf16"):
        velocity = backbone.velocity(add_noise(clean, noise, sigma), sigma, embed(backbone, captions))
    return masked_mse(velocity, velocity_target(clean, noise), clean.noisy)


@torch.no_grad()
def validation_loss(backbone: LTXVideoBackbone, cache: LatentCache) -> float:
    """Mean loss over held-out clips at fixed noise levels and fixed noise."""
    clips = list(range(sum(len(part) for part in cache.clips.shards)))
    latents, captions = cache.latents(clips).to(backbone.device), cache.captions(clips)
    tokens = latents[0, 0].numel()
    noise = torch.randn(len(clips), tokens, latents.shape[1], generator=torch.Generator().manual_seed(0))
    losses = []
    for sigma in quantile_sigmas(EVALUATION_QUANTILES, tokens):
        level = sigma.expand(len(clips)).to(backbone.device)
        losses.append(loss_at(backbone, latents, captions, level, noise.to(backbone.device)))
    return torch.stack(losses).mean().item()


def main() -> None:
    parser = argparse.ArgumentParser(description="Train nano's base image-to-video model.")
    parser.add_argument("--vae", type=Path, required=True)
    parser.add_argument("--pool", type=Path, required=True, help="folder of rendered clips; filled as needed")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--motions", type=int, default=512)
    parser.add_argument("--looks", type=int, default=3)
    parser.add_argument("--frames", type=int, help="first frames of each clip to train on, 8k + 1; all by default")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--from", dest="start", type=Path, help="nano folder whose transformer and text encoder to start from"
    )
    parser.add_argument("--checkpoint-every", type=int, default=250)
    arguments = parser.parse_args()

    torch.manual_seed(arguments.seed)
    if arguments.start:
        transformer = LTXVideoTransformer3DModel.from_pretrained(arguments.start / "transformer").float()
        text_encoder = T5EncoderModel.from_pretrained(arguments.start / "text_encoder").float()
    else:
        transformer, text_encoder = new_transformer(), new_text_encoder()
    vae = AutoencoderKLLTXVideo.from_pretrained(arguments.vae, torch_dtype=torch.bfloat16).eval()
    backbone = LTXVideoBackbone.from_modules(
        transformer.to(arguments.device),
        vae.to(arguments.device),
        text_encoder.to(arguments.device),
        ByT5Tokenizer(extra_ids=0),
        name="nano",
        **GEOMETRY,
    )
    drawn = Procedural(motions=arguments.motions, looks=arguments.looks, pool=arguments.pool)
    training, held_out = (
        LatentCache(arguments.output / "cache", clips, backbone)
        for clips in open_clips(Data(procedural=drawn, frames=arguments.frames), backbone.geometry)
    )
    for cache in (held_out, training):
        cache.fill(print, lambda done, total: print(f"latents: shard {done} of {total}", end="\r", flush=True))

    parameters = [*transformer.parameters(), *text_encoder.parameters()]
    optimizer = Muon(parameters, arguments.lr, weight_decay=0.01)
    state = TrainState({"transformer": transformer, "text_encoder": text_encoder}, optimizer)
    checkpoints = arguments.output / "checkpoints"
    if newest := latest_checkpoint(checkpoints):
        load_checkpoint(newest, state)
        print(f"resuming at step {state.step}")
    sampler = PairSampler(arguments.motions * arguments.looks, arguments.batch, arguments.seed)

    started = time.time()
    for step in track(range(state.step, arguments.steps), "base"):
        set_lr(optimizer, warmup_cosine(step, WARMUP, arguments.steps, arguments.lr, floor=0.02))
        generator = step_generator(arguments.seed, step)
        clips = sampler.indices(step)
        latents = training.latents(clips).to(arguments.device)
        dropped = torch.rand(len(clips), generator=generator) < CAPTION_DROPOUT
        captions = ["" if drop else text for drop, text in zip(dropped.tolist(), training.captions(clips), strict=True)]
        tokens = latents[0, 0].numel()
        sigma = sample_sigmas(len(clips), tokens, generator).to(arguments.device)
        noise = torch.randn(len(clips), tokens, latents.shape[1], generator=generator).to(arguments.device)
        loss = loss_at(backbone, latents, captions, sigma, noise)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        state.step = step + 1
        last = state.step == arguments.steps
        if state.step % 50 == 0 or last:
            record = {"step": state.step, "loss": loss.item(), "seconds": round(time.time() - started, 1)}
            if state.step % arguments.checkpoint_every == 0 or last:
                record["validation_loss"] = validation_loss(backbone, held_out)
            print(json.dumps(record), flush=True)
            with open(arguments.output / "log.jsonl", "a", encoding="utf-8") as log:
                log.write(json.dumps(record) + "\n")
        if state.step % arguments.checkpoint_every == 0 or last:
            save_checkpoint(checkpoints, state)

    with atomic_path(arguments.output / "model") as folder:
        save_nano(folder, vae, transformer, text_encoder)


if __name__ == "__main__":
    main()
