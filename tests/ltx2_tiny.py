"""LTX-2's own classes with a few thousand random weights, as LTX-2.0, 2.3 and 2.5 configure them."""

from __future__ import annotations

from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl_ltx2 import AutoencoderKLLTX2Video
from diffusers.models.autoencoders.autoencoder_kl_ltx2_audio import AutoencoderKLLTX2Audio
from diffusers.models.transformers.transformer_ltx2 import LTX2VideoTransformer3DModel
from diffusers.pipelines.ltx2.connectors import LTX2TextConnectors
from diffusers.pipelines.ltx2.pipeline_ltx2_ic_lora import LTX2InContextPipeline
from diffusers.pipelines.ltx2.vocoder import LTX2Vocoder
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from torch import Tensor
from transformers import (
    ByT5Tokenizer,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma4UnifiedConfig,
    Gemma4UnifiedForConditionalGeneration,
)

from synclora.backbones.base import Text
from synclora.backbones.ltx2 import LTX2Backbone

CHANNELS, SIZE, FRAMES, FPS = 8, 64, 17, 25.0
WIDTH, AUDIO_WIDTH, TEXT_WIDTH, PROMPT_TOKENS = 32, 16, 16, 16

_LATER: dict[str, Any] = {
    "rope_type": "split",
    "gated_attn": True,
    "audio_gated_attn": True,
    "cross_attn_mod": True,
    "audio_cross_attn_mod": True,
    "use_prompt_embeddings": False,
    "perturbed_attn": True,
}
VERSIONS: dict[str, dict[str, Any]] = {
    "2.0": {"rope_type": "interleaved", "perturbed_attn": True},
    "2.3": _LATER,
    "2.5": _LATER | {"ff_bias": False, "use_prompt_adaln_single": False, "use_keyframes_abs_pos_embedding": True},
}


def transformer(version: str = "2.3", seed: int = 0, layers: int = 3) -> LTX2VideoTransformer3DModel:
    torch.manual_seed(seed)
    return LTX2VideoTransformer3DModel(
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        num_attention_heads=2,
        attention_head_dim=WIDTH // 2,
        cross_attention_dim=WIDTH,
        audio_in_channels=4,
        audio_out_channels=4,
        audio_num_attention_heads=2,
        audio_attention_head_dim=AUDIO_WIDTH // 2,
        audio_cross_attention_dim=AUDIO_WIDTH,
        num_layers=layers,
        caption_channels=TEXT_WIDTH,
        **VERSIONS[version],
    ).eval()


def vae(seed: int = 0) -> AutoencoderKLLTX2Video:
    """32 x 32 pixels by 8 frames a latent; mean and std of the latents are not 0 and 1."""
    torch.manual_seed(seed)
    model = AutoencoderKLLTX2Video(
        latent_channels=CHANNELS,
        block_out_channels=(8, 8, 8, 8),
        decoder_block_out_channels=(8, 16, 32),
        layers_per_block=(1, 1, 1, 1, 1),
        decoder_layers_per_block=(1, 1, 1, 1),
        decoder_causal=False,
        spatial_compression_ratio=32,
        temporal_compression_ratio=8,
    ).eval()
    model.latents_mean.copy_(torch.linspace(-0.3, 0.3, CHANNELS))
    model.latents_std.copy_(torch.linspace(0.5, 2, CHANNELS))
    return model


def text_encoder(version: str = "2.3", seed: int = 0) -> Any:
    """Gemma 3, and for LTX-2.5 Gemma 4, whose full-attention layers have heads of another size."""
    torch.manual_seed(seed)
    small: dict[str, Any] = {
        "vocab_size": 400,
        "hidden_size": TEXT_WIDTH,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 8,
        "sliding_window": 8,
        "layer_types": ["sliding_attention", "full_attention"],
    }
    if version == "2.5":
        later = {"global_head_dim": 16, "attention_k_eq_v": True, "num_global_key_value_heads": 1}
        return Gemma4UnifiedForConditionalGeneration(Gemma4UnifiedConfig(text_config=small | later)).eval()
    eyes = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 28,
        "patch_size": 14,
    }
    return Gemma3ForConditionalGeneration(
        Gemma3Config(text_config=small, vision_config=eyes, mm_tokens_per_image=4, image_token_index=399)
    ).eval()


def connectors(version: str = "2.3", seed: int = 0) -> LTX2TextConnectors:
    torch.manual_seed(seed)
    changes: dict[str, Any] = {
        "video_connector_attention_head_dim": TEXT_WIDTH // 2,
        "audio_connector_attention_head_dim": TEXT_WIDTH // 2,
    }
    if version != "2.0":
        changes = {
            "video_connector_attention_head_dim": WIDTH // 2,
            "audio_connector_attention_head_dim": AUDIO_WIDTH // 2,
            "per_modality_projections": True,
            "proj_bias": True,
            "video_gated_attn": True,
            "audio_gated_attn": True,
            "video_hidden_dim": WIDTH,
            "audio_hidden_dim": AUDIO_WIDTH,
            "rope_type": "split",
        }
    return LTX2TextConnectors(
        caption_channels=TEXT_WIDTH,
        text_proj_in_factor=3,
        video_connector_num_attention_heads=2,
        video_connector_num_layers=1,
        video_connector_num_learnable_registers=8,
        audio_connector_num_attention_heads=2,
        audio_connector_num_layers=1,
        audio_connector_num_learnable_registers=8,
        **changes,
    ).eval()


def backbone(version: str = "2.3", seed: int = 0) -> LTX2Backbone:
    """64 x 64 pixels, 17 frames: latents 3 x 2 x 2 of 8 channels."""
    return LTX2Backbone.from_modules(
        transformer(version, seed),
        vae(seed),
        connectors(version, seed),
        text_encoder(version, seed),
        ByT5Tokenizer(extra_ids=0),
        width=SIZE,
        height=SIZE,
        frames=FRAMES,
        fps=FPS,
        prompt_tokens=PROMPT_TOKENS,
        name="tiny",
    )


def pipeline(version: str = "2.3", seed: int = 0) -> LTX2InContextPipeline:
    """diffusers' own pipeline over modules of the same weights as `backbone`'s, its audio networks included."""
    torch.manual_seed(seed)
    audio_vae = AutoencoderKLLTX2Audio(
        base_channels=4,
        ch_mult=(1,),
        num_res_blocks=1,
        resolution=32,
        latent_channels=2,
        norm_type="pixel",
        mel_bins=8,
    )
    vocoder = LTX2Vocoder(
        in_channels=16,
        hidden_channels=8,
        upsample_kernel_sizes=[4, 4],
        upsample_factors=[2, 2],
        resnet_kernel_sizes=[3],
        resnet_dilations=[[1, 3, 5]],
    )
    tokenizer = ByT5Tokenizer(extra_ids=0)
    tokenizer.padding_side = "left"  # as Gemma's is
    return LTX2InContextPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=vae(seed),
        audio_vae=audio_vae,
        text_encoder=text_encoder(version, seed),
        tokenizer=tokenizer,
        connectors=connectors(version, seed),
        transformer=transformer(version, seed),
        vocoder=vocoder,
    )


def text(version: str = "2.3", batch: int = 2, tokens: int = 16) -> Text:
    """Random text as wide as the transformer reads it, of which the second half is padding in the last prompt."""
    mask = torch.ones(batch, tokens, dtype=torch.bool)
    mask[-1, tokens // 2 :] = False
    width = TEXT_WIDTH if version == "2.0" else WIDTH
    return Text(torch.randn(batch, tokens, width, generator=torch.Generator().manual_seed(5)), mask)


def isolated(transformer: LTX2VideoTransformer3DModel, **given: Any) -> Tensor:
    """diffusers' own forward beside random sound, its streams isolated: the video's velocity."""
    batch, tokens, dtype = len(given["hidden_states"]), given["encoder_hidden_states"].shape[1], transformer.dtype
    width = TEXT_WIDTH if transformer.config["use_prompt_embeddings"] else AUDIO_WIDTH
    rng = torch.Generator().manual_seed(6)
    return transformer(
        audio_hidden_states=torch.randn(batch, 3, 4, generator=rng).to(dtype),
        audio_encoder_hidden_states=torch.randn(batch, tokens, width, generator=rng).to(dtype),
        audio_timestep=given["sigma"],
        audio_num_frames=3,
        isolate_modalities=True,
        use_cross_timestep=True,
        return_dict=False,
        **given,
    )[0]
