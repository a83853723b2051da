"""Image-editing pipelines of diffusers' own classes with a few thousand random weights, as folders on disk."""

# pyright: reportPrivateImportUsage=false, reportArgumentType=false
from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from synclora.portraits import TEST_SEED_START

WIDTH = 32  # of the text


def pix2pix(folder: Path) -> Path:
    """InstructPix2Pix, 8 px a latent."""
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionInstructPix2PixPipeline, UNet2DConditionModel

    torch.manual_seed(TEST_SEED_START)
    unet = UNet2DConditionModel(
        block_out_channels=(4, 8),
        layers_per_block=1,
        sample_size=8,
        in_channels=8,
        out_channels=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=WIDTH,
        attention_head_dim=4,
        norm_num_groups=2,
    )
    vae = AutoencoderKL(**_vae(), latent_channels=4, norm_num_groups=2)
    StableDiffusionInstructPix2PixPipeline(
        vae=vae,
        text_encoder=_clip(),
        tokenizer=_letters(),
        unet=unet,
        scheduler=DDIMScheduler(),
        safety_checker=None,  # pyright: ignore[reportArgumentType]
        feature_extractor=None,  # pyright: ignore[reportArgumentType]
        image_encoder=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)
    return folder


def kontext(folder: Path) -> Path:
    """FLUX.1 Kontext, 8 px a latent, 16 a token."""
    from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxKontextPipeline, FluxTransformer2DModel
    from transformers import ByT5Tokenizer, T5Config, T5EncoderModel

    torch.manual_seed(TEST_SEED_START)
    transformer = FluxTransformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        pooled_projection_dim=WIDTH,
        axes_dims_rope=(4, 4, 8),
        guidance_embeds=True,
    )
    vae = AutoencoderKL(**_vae(), latent_channels=4, norm_num_groups=2, shift_factor=0.1, scaling_factor=1.5)
    t5 = T5Config(vocab_size=384, d_model=WIDTH, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
    FluxKontextPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=vae,
        text_encoder=_clip(),
        tokenizer=_letters(),
        text_encoder_2=T5EncoderModel(t5),
        tokenizer_2=ByT5Tokenizer(extra_ids=0),  # pyright: ignore[reportArgumentType]
        transformer=transformer,
        image_encoder=None,  # pyright: ignore[reportArgumentType]
        feature_extractor=None,  # pyright: ignore[reportArgumentType]
    ).save_pretrained(folder)
    return folder


def klein(folder: Path, *, distilled: bool = True) -> Path:
    """FLUX.2 [klein], 8 px a latent, 16 a token."""
    from diffusers import (
        AutoencoderKLFlux2,
        FlowMatchEulerDiscreteScheduler,
        Flux2KleinPipeline,
        Flux2Transformer2DModel,
    )
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(TEST_SEED_START)
    vae = AutoencoderKLFlux2(**_vae(), latent_channels=4, norm_num_groups=2)
    transformer = Flux2Transformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=3 * WIDTH,
        timestep_guidance_channels=16,
        axes_dims_rope=(4, 4, 4, 4),
        guidance_embeds=False,
    )
    text = Qwen3Config(
        vocab_size=320,
        hidden_size=WIDTH,
        intermediate_size=32,
        num_hidden_layers=28,  # the prompt's features are read after layers 9, 18 and 27
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
    )
    Flux2KleinPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=vae,
        text_encoder=Qwen3ForCausalLM(text),
        tokenizer=_qwen_tokenizer(),
        transformer=transformer,
        is_distilled=distilled,
    ).save_pretrained(folder)
    return folder


def qwen(folder: Path, *, plus: bool = True) -> Path:
    """Qwen-Image-Edit, 8 px a latent, 16 a token; `plus`: the class of 2509 and later. See `small_qwen`."""
    from diffusers import (
        AutoencoderKLQwenImage,
        FlowMatchEulerDiscreteScheduler,
        QwenImageEditPipeline,
        QwenImageEditPlusPipeline,
        QwenImageTransformer2DModel,
    )
    from transformers import (
        Qwen2_5_VLConfig,
        Qwen2_5_VLForConditionalGeneration,
        Qwen2VLImageProcessor,
        Qwen2VLProcessor,
    )

    torch.manual_seed(TEST_SEED_START)
    tokenizer = _qwen_tokenizer()
    ids = {name: int(tokenizer.convert_tokens_to_ids(f"<|{name}|>")) for name in ("image_pad", "video_pad")}
    text = {
        "vocab_size": 320,
        "hidden_size": WIDTH,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]},
    }
    vision = {
        "depth": 1,
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_heads": 2,
        "out_hidden_size": WIDTH,
        "fullatt_block_indexes": [0],
    }
    config = Qwen2_5_VLConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=ids["image_pad"],
        video_token_id=ids["video_pad"],
        vision_start_token_id=int(tokenizer.convert_tokens_to_ids("<|vision_start|>")),
        vision_end_token_id=int(tokenizer.convert_tokens_to_ids("<|vision_end|>")),
    )
    kind = QwenImageEditPlusPipeline if plus else QwenImageEditPipeline
    kind(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=AutoencoderKLQwenImage(
            base_dim=4,
            z_dim=4,
            dim_mult=[1, 1, 1, 1],
            num_res_blocks=1,
            temperal_downsample=[False, True, True],
            latents_mean=[0.0] * 4,
            latents_std=[1.0] * 4,
        ),
        text_encoder=Qwen2_5_VLForConditionalGeneration(config),
        tokenizer=tokenizer,
        processor=Qwen2VLProcessor(Qwen2VLImageProcessor(min_pixels=28 * 28, max_pixels=4 * 28 * 28), tokenizer),
        transformer=QwenImageTransformer2DModel(
            in_channels=16,
            out_channels=4,
            num_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=WIDTH,
            axes_dims_rope=(4, 6, 6),
        ),
    ).save_pretrained(folder)
    return folder


def small_qwen(monkeypatch: pytest.MonkeyPatch, side: int) -> None:
    """Let Qwen-Image-Edit's classes work at side x side px, and without torchvision.

    Its processor for videos alone needs that and gets no work from these classes, so it is left out of Qwen2VLProcessor
    here; everything else is transformers' and diffusers' own.
    """
    from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit, pipeline_qwenimage_edit_plus
    from transformers import Qwen2VLProcessor

    from synclora.editing import pipelines

    for module in (pipeline_qwenimage_edit, pipeline_qwenimage_edit_plus):
        sized = module.calculate_dimensions
        monkeypatch.setattr(module, "calculate_dimensions", lambda area, ratio, f=sized: f(side * side, ratio))
    monkeypatch.setattr(pipelines, "find_spec", lambda name: name)
    whole = Qwen2VLProcessor.__init__

    def without_videos(
        self: Any, image_processor: Any = None, tokenizer: Any = None, chat_template: Any = None
    ) -> None:
        whole(self, image_processor, tokenizer, None, chat_template)

    monkeypatch.setattr(Qwen2VLProcessor, "__init__", without_videos)


def _vae() -> dict[str, Any]:
    return {
        "block_out_channels": (4, 4, 4, 4),
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
    }


def _clip() -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel

    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=300,
            hidden_size=WIDTH,
            intermediate_size=32,
            num_attention_heads=2,
            num_hidden_layers=1,
            bos_token_id=0,
            eos_token_id=2,
            pad_token_id=1,
            projection_dim=WIDTH,
        )
    )


def _letters() -> Any:
    """CLIP's tokenizer that knows letters alone."""
    from transformers import CLIPTokenizer

    letters = "abcdefghijklmnopqrstuvwxyz0123456789.,;:-'"
    words = ["<|startoftext|>", "<|pad|>", "<|endoftext|>", *letters, *(f"{letter}</w>" for letter in letters)]
    return CLIPTokenizer(vocab={word: n for n, word in enumerate(words)}, merges=[], model_max_length=77)


def _qwen_tokenizer() -> Any:
    """Qwen's tokenizer over bytes alone, with its marks."""
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import Qwen2Tokenizer

    marks = ["endoftext", "im_start", "im_end", "vision_start", "vision_end", "image_pad", "video_pad"]
    names = [f"<|{mark}|>" for mark in marks]
    vocab = {letter: n for n, letter in enumerate(sorted(ByteLevel.alphabet()))}
    tokenizer = Qwen2Tokenizer(vocab=vocab, merges=[], model_max_length=512)
    tokenizer.add_special_tokens({"additional_special_tokens": names})
    tokenizer.chat_template = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    return tokenizer
