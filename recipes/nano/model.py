"""What nano is: LTX-Video's own classes, small.

    python recipes/nano/model.py        # prints the parameter counts

Sizes are chosen so that everything shipped (VAE, transformer, text encoder, adapter) stays under 40 MB in bf16.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl_ltx import AutoencoderKLLTXVideo
from diffusers.models.transformers.transformer_ltx import LTXVideoTransformer3DModel
from diffusers.pipelines.ltx.pipeline_ltx_condition import LTXConditionPipeline
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from torch import nn
from transformers import ByT5Tokenizer, T5Config, T5EncoderModel

WIDTH, LAYERS, HEADS = 256, 6, 4
TEXT_WIDTH = 128
LATENT_NOISE = 0.05  # standard deviation of the posterior
PROMPT_TOKENS = 96  # bytes of a caption, end mark included
GEOMETRY = {"width": 128, "height": 128, "frames": 33, "fps": 25.0, "prompt_tokens": PROMPT_TOKENS}


def new_vae() -> AutoencoderKLLTXVideo:
    """The 0.9.5 layout of the LTX VAE (space-to-depth residual sampling): 8-pixel patches, then one sampling.

    A token spans 16x16 pixels by 2 frames where LTX-Video's spans 32x32 by 8: a small picture holds more detail a
    pixel, an eye of nano's is five pixels wide, and a blink is over in three frames.
    """
    vae = AutoencoderKLLTXVideo(
        latent_channels=128,
        block_out_channels=(64, 512),
        down_block_types=("LTXVideo095DownBlock3D",),
        decoder_block_out_channels=(128,),
        layers_per_block=(1, 0),
        decoder_layers_per_block=(2, 2),
        spatio_temporal_scaling=(True,),
        decoder_spatio_temporal_scaling=(True,),
        decoder_inject_noise=(False,) * 2,
        downsample_type=("spatiotemporal",),
        upsample_residual=(True,),
        upsample_factor=(2,),
        patch_size=8,
        spatial_compression_ratio=16,
        temporal_compression_ratio=2,
    )
    # The last channel is the posterior's log variance. It stays what it is here: training adds noise of this size to
    # latents of about unit scale. Learnt freely, it grew before the decoder had any use for latents, and drowned them.
    last: Any = vae.encoder.conv_out.conv
    with torch.no_grad():
        last.weight[-1:].zero_()
        last.bias[-1:].fill_(2 * math.log(LATENT_NOISE))
    return vae


def new_transformer() -> LTXVideoTransformer3DModel:
    """Gates and output start at zero, as is usual for diffusion transformers: each block begins as the identity."""
    transformer = LTXVideoTransformer3DModel(
        in_channels=128,
        out_channels=128,
        num_attention_heads=HEADS,
        attention_head_dim=WIDTH // HEADS,
        cross_attention_dim=WIDTH,
        num_layers=LAYERS,
        caption_channels=TEXT_WIDTH,
    )
    torch.nn.init.zeros_(transformer.proj_out.weight)
    torch.nn.init.zeros_(transformer.proj_out.bias)
    blocks: Any = transformer.transformer_blocks
    for block in blocks:
        torch.nn.init.zeros_(block.attn2.to_out[0].weight)
    return transformer


def new_text_encoder() -> T5EncoderModel:
    """A T5 encoder over bytes: ByT5's tokenizer needs no vocabulary file."""
    return T5EncoderModel(
        T5Config(
            vocab_size=384,
            d_model=TEXT_WIDTH,
            d_kv=32,
            d_ff=2 * TEXT_WIDTH,
            num_layers=2,
            num_heads=4,
            dropout_rate=0.0,
            feed_forward_proj="gated-gelu",
        )
    )


def new_scheduler() -> FlowMatchEulerDiscreteScheduler:
    """A plain flow-match scheduler: diffusers' LTXConditionPipeline hands it timesteps that are shifted already, and
    synclora takes its noise levels from `diffusion.flow`."""
    return FlowMatchEulerDiscreteScheduler()


def save_nano(
    folder: Path,
    vae: AutoencoderKLLTXVideo,
    transformer: LTXVideoTransformer3DModel,
    text_encoder: T5EncoderModel,
) -> None:
    """Write an ordinary diffusers folder in bf16, plus `synclora.json` with the window nano was trained on."""
    for module in (vae, transformer, text_encoder):
        nn.Module.to(module, torch.bfloat16)
    parts: dict[str, Any] = {"scheduler": new_scheduler(), "tokenizer": ByT5Tokenizer(extra_ids=0)}
    LTXConditionPipeline(vae=vae, transformer=transformer, text_encoder=text_encoder, **parts).save_pretrained(folder)
    (folder / "synclora.json").write_text(json.dumps(GEOMETRY, indent=2) + "\n")


if __name__ == "__main__":
    for name, make in (("vae", new_vae), ("transformer", new_transformer), ("text encoder", new_text_encoder)):
        count = sum(parameter.numel() for parameter in make().parameters())
        print(f"{name:14}{count / 1e6:7.2f} M parameters{count * 2 / 1e6:7.1f} MB in bf16")
