"""A training small enough for tests: a random backbone of a few thousand weights and clips of coloured noise."""

from __future__ import annotations

import os

import torch
from diffusers.models.autoencoders.autoencoder_kl_ltx import AutoencoderKLLTXVideo
from diffusers.models.transformers.transformer_ltx import LTXVideoTransformer3DModel
from rich.console import Console
from torch import Tensor, nn
from transformers import ByT5Tokenizer, T5Config, T5EncoderModel

from synclora.backbones.ltx_video import LTXVideoBackbone
from synclora.training import trainer

SIZE, FRAMES, FPS = 64, 9, 25.0


def tiny_backbone(seed: int = 0, dtype: torch.dtype = torch.float32) -> LTXVideoBackbone:
    """2 layers of width 32; latents 2 x 2 x 2 of 8 channels."""
    torch.manual_seed(seed)
    transformer = LTXVideoTransformer3DModel(
        in_channels=8,
        out_channels=8,
        num_attention_heads=2,
        attention_head_dim=16,
        cross_attention_dim=32,
        num_layers=2,
        caption_channels=16,
    )
    vae = AutoencoderKLLTXVideo(
        latent_channels=8,
        block_out_channels=(8, 8, 8, 8, 8),
        down_block_types=("LTXVideo095DownBlock3D",) * 4,
        decoder_block_out_channels=(8, 8, 8),
        layers_per_block=(1, 1, 1, 1, 1),
        decoder_layers_per_block=(1, 1, 1, 1),
        spatio_temporal_scaling=(True,) * 4,
        decoder_spatio_temporal_scaling=(True,) * 3,
        decoder_inject_noise=(False,) * 4,
        downsample_type=("spatial", "temporal", "spatiotemporal", "spatiotemporal"),
        upsample_residual=(True,) * 3,
        upsample_factor=(1, 1, 2),
        patch_size=4,
        spatial_compression_ratio=32,
        temporal_compression_ratio=8,
    )
    text_encoder = T5EncoderModel(
        T5Config(vocab_size=384, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, dropout_rate=0.0)
    )
    for module in (transformer, vae, text_encoder):
        nn.Module.to(module, dtype).eval()
    return LTXVideoBackbone.from_modules(
        transformer,
        vae,
        text_encoder,
        ByT5Tokenizer(extra_ids=0),
        width=SIZE,
        height=SIZE,
        frames=FRAMES,
        fps=FPS,
        prompt_tokens=32,
        name="tiny",
    )


class NoiseClips:
    """A `ClipSet` of coloured noise: `count` clips, each neighbouring two a pair both ways."""

    def __init__(self, name: str = "train", count: int = 6, seed: int = 0, per_shard: int = 4) -> None:
        self.name, self.seed = name, seed
        self.pairs = [pair for clip in range(0, count, 2) for pair in ((clip, clip + 1), (clip + 1, clip))]
        self.shards = [range(first, min(first + per_shard, count)) for first in range(0, count, per_shard)]
        self.identity = self.content = f"noise {name} {count} {seed}"
        self.loaded: list[int] = []

    def load(self, shard: int) -> tuple[Tensor, list[str]]:
        self.loaded.append(shard)
        clips = [self.clip(number) for number in self.shards[shard]]
        return torch.stack(clips), [f"clip {number}" * (1 + number % 3) for number in self.shards[shard]]

    def clip(self, number: int) -> Tensor:
        generator = torch.Generator().manual_seed(1000 * self.seed + number)
        return torch.randint(0, 256, (FRAMES, SIZE, SIZE, 3), dtype=torch.uint8, generator=generator)


def noise_clips(*_: object) -> tuple[NoiseClips, NoiseClips]:
    """Stands in for `open_clips`."""
    return NoiseClips(), NoiseClips("validation", count=2, seed=7)


def values(output: object, **changes: object) -> dict[str, object]:
    """A configuration of a few steps, as plain values."""
    data = {"procedural": {"motions": 3, "looks": 2}}
    base: dict[str, object] = {
        "backbone": "tiny", "output": str(output), "data": data, "rank": 4, "steps": 8, "batch": 2, "lr": 1e-2,
        "warmup": 2, "checkpoint_every": 2, "validate_every": 100, "sample_every": 100, "samples": 0, "log_every": 1,
        "threads": 1,
    }  # fmt: skip
    return base | changes


def main(config: str) -> None:
    """One training run, as a process that can be killed."""
    torch.set_num_threads(1)
    trainer.open_clips = noise_clips  # type: ignore[assignment]
    with open(os.devnull, "w") as nowhere:
        trainer.train(config, backbone=tiny_backbone(dtype=torch.bfloat16), console=Console(file=nowhere))
