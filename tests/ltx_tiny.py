"""LTX-Video's own classes with a few thousand random weights: small enough to test numbers on."""

from __future__ import annotations

from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl_ltx import AutoencoderKLLTXVideo
from diffusers.models.transformers.transformer_ltx import LTXVideoTransformer3DModel
from diffusers.pipelines.ltx.pipeline_ltx_condition import LTXConditionPipeline
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from torch import Tensor
from transformers import ByT5Tokenizer, T5Config, T5EncoderModel

from synclora.backbones.base import Text
from synclora.backbones.ltx_video import LTXVideoBackbone
from synclora.diffusion.flow import add_noise, noise_for
from synclora.diffusion.sequence import FirstFrame, Keyframe, Reference, Sequence, build

CHANNELS, SIZE, FRAMES, FPS = 8, 64, 17, 25.0


def transformer(seed: int = 0, layers: int = 3) -> LTXVideoTransformer3DModel:
    """Width 32: not a multiple of 6, so that the rotation has channels it must leave alone."""
    torch.manual_seed(seed)
    return LTXVideoTransformer3DModel(
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        num_attention_heads=2,
        attention_head_dim=16,
        cross_attention_dim=32,
        num_layers=layers,
        caption_channels=16,
    ).eval()


def vae(seed: int = 0, **changes: Any) -> AutoencoderKLLTXVideo:
    """32 x 32 pixels by 8 frames a latent; mean, std and scale of the latents are not 0, 1 and 1."""
    torch.manual_seed(seed)
    small: dict[str, Any] = {
        "latent_channels": CHANNELS,
        "block_out_channels": (8, 8, 8, 8),
        "decoder_block_out_channels": (8, 8, 8, 8),
        "layers_per_block": (1, 1, 1, 1, 1),
        "decoder_layers_per_block": (1, 1, 1, 1, 1),
        "scaling_factor": 0.5,
    }
    model = AutoencoderKLLTXVideo(**small | changes).eval()
    model.latents_mean.copy_(torch.linspace(-0.3, 0.3, len(model.latents_mean)))
    model.latents_std.copy_(torch.linspace(0.5, 2, len(model.latents_std)))
    return model


def text_encoder(seed: int = 0) -> T5EncoderModel:
    """Left in training mode with dropout, as a fresh one is: a backbone must not pass the dropout on."""
    torch.manual_seed(seed)
    return T5EncoderModel(T5Config(vocab_size=384, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2))


def backbone(seed: int = 0, **changes: Any) -> LTXVideoBackbone:
    """64 x 64 pixels, 17 frames: latents 3 x 2 x 2 of 8 channels. `changes` to the VAE's configuration."""
    return LTXVideoBackbone.from_modules(
        transformer(seed),
        vae(seed, **changes),
        text_encoder(seed),
        ByT5Tokenizer(extra_ids=0),
        width=SIZE,
        height=SIZE,
        frames=FRAMES,
        fps=FPS,
        prompt_tokens=32,
        name="tiny",
    )


def pipeline(backbone: LTXVideoBackbone) -> LTXConditionPipeline:
    """diffusers' own pipeline over a backbone's modules."""
    modules: Any = (backbone.vae, backbone.text_encoder, backbone.tokenizer, backbone.transformer)
    return LTXConditionPipeline(FlowMatchEulerDiscreteScheduler(), *modules)


def latents(seed: int = 0, batch: int = 2, frames: int = 3) -> Tensor:
    return torch.randn(batch, CHANNELS, frames, 2, 2, generator=torch.Generator().manual_seed(seed))


def full_sequence(sigma: Tensor | float, batch: int = 2) -> Sequence:
    """First frame, a keyframe and a reference, the rest noised to sigma."""
    conditions = [FirstFrame(latents(1, batch, 1)), Keyframe(latents(2, batch, 1), 5), Reference(latents(3, batch))]
    clean = build(latents(0, batch), FPS, conditions)
    return add_noise(clean, noise_for(clean, torch.Generator().manual_seed(4)), sigma)


def text(batch: int = 2, tokens: int = 16) -> Text:
    """Random text of which the second half is padding in the last prompt."""
    mask = torch.ones(batch, tokens, dtype=torch.bool)
    mask[-1, tokens // 2 :] = False
    return Text(torch.randn(batch, tokens, 16, generator=torch.Generator().manual_seed(5)), mask)
