"""The pipelines of the real classes with a few thousand random weights, saved as folders of diffusers' layout."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

diffusers: Any = import_module("diffusers")  # any: its lazy exports are unknown to type checkers
SEED = 1_000_041
T5_WIDTH = 32


def stable_diffusion(folder: Path) -> Path:
    """Text to image, 8 px a latent."""
    from transformers import CLIPTextModel

    torch.manual_seed(SEED)
    unet = diffusers.UNet2DConditionModel(
        block_out_channels=(4, 8),
        layers_per_block=1,
        sample_size=8,
        in_channels=4,
        out_channels=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=T5_WIDTH,
        attention_head_dim=4,
        norm_num_groups=2,
    )
    vae = diffusers.AutoencoderKL(
        block_out_channels=[4, 4, 4, 4],
        down_block_types=["DownEncoderBlock2D"] * 4,
        up_block_types=["UpDecoderBlock2D"] * 4,
        norm_num_groups=2,
        latent_channels=4,
    )
    diffusers.StableDiffusionPipeline(
        vae=vae,
        text_encoder=CLIPTextModel(_clip_text()),
        tokenizer=_clip_tokenizer(),
        unet=unet,
        scheduler=diffusers.DDIMScheduler(steps_offset=1, clip_sample=False),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)
    return folder


def wan(folder: Path) -> Path:
    """Wan 2.2's large model: two transformers, the second for the low noise; 8 px by 4 frames a latent."""
    torch.manual_seed(SEED)
    vae = diffusers.AutoencoderKLWan(
        base_dim=3, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1, temperal_downsample=[False, True, True]
    )
    first, second = (
        diffusers.WanTransformer3DModel(
            patch_size=(1, 2, 2),
            num_attention_heads=2,
            attention_head_dim=12,
            in_channels=36,
            out_channels=16,
            text_dim=T5_WIDTH,
            freq_dim=32,
            ffn_dim=32,
            num_layers=1,
            cross_attn_norm=True,
            qk_norm="rms_norm_across_heads",
            rope_max_seq_len=32,
        )
        for _ in range(2)
    )
    diffusers.WanImageToVideoPipeline(
        tokenizer=_byte_tokenizer(),
        text_encoder=_umt5(),
        vae=vae,
        scheduler=diffusers.UniPCMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
        ),
        transformer=first,
        transformer_2=second,
        boundary_ratio=0.9,
    ).save_pretrained(folder)
    return folder


def ltx(folder: Path, pipeline: str = "LTXPipeline") -> Path:
    """LTX-Video, 32 px by 8 frames a latent; its index names the text-to-video class, as the hub's does."""

    from tests.ltx_tiny import backbone
    from tests.ltx_tiny import pipeline as tiny_pipeline

    tiny_pipeline(backbone(SEED)).save_pretrained(folder)
    _rename(folder, pipeline)
    return folder


def ltx2(folder: Path) -> Path:
    """LTX-2.3, 32 px by 8 frames a latent, with its audio networks; its index names the text-to-video class."""
    import inspect

    from tests.ltx2_tiny import pipeline as tiny_pipeline

    parts = tiny_pipeline("2.3", SEED).components
    takes = inspect.signature(diffusers.LTX2ImageToVideoPipeline.__init__).parameters
    diffusers.LTX2ImageToVideoPipeline(**{name: part for name, part in parts.items() if name in takes}).save_pretrained(
        folder
    )
    _rename(folder, "LTX2Pipeline")
    return folder


def _rename(folder: Path, name: str) -> None:
    path = folder / "model_index.json"
    index = json.loads(path.read_text())
    path.write_text(json.dumps(index | {"_class_name": name}))


def _clip_text() -> Any:
    from transformers import CLIPTextConfig

    return CLIPTextConfig(
        bos_token_id=0,
        eos_token_id=2,
        hidden_size=T5_WIDTH,
        intermediate_size=37,
        num_attention_heads=4,
        num_hidden_layers=2,
        pad_token_id=1,
        vocab_size=300,
        projection_dim=T5_WIDTH,
    )


def _clip_tokenizer() -> Any:
    """Letters alone, each at the end of a word or not."""
    from transformers import CLIPTokenizer

    letters = "abcdefghijklmnopqrstuvwxyz0123456789.,;:-'"
    words = ["<|startoftext|>", "<|pad|>", "<|endoftext|>", *letters, *(f"{letter}</w>" for letter in letters)]
    return CLIPTokenizer(vocab={word: n for n, word in enumerate(words)}, merges=[], model_max_length=77)


def _byte_tokenizer() -> Any:
    from transformers import ByT5Tokenizer

    return ByT5Tokenizer(extra_ids=0)


def _umt5() -> Any:
    from transformers import UMT5Config, UMT5EncoderModel

    return UMT5EncoderModel(UMT5Config(vocab_size=384, d_model=T5_WIDTH, d_kv=8, d_ff=32, num_layers=1, num_heads=2))
