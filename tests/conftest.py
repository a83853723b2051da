"""A tiny backbone on disk and a drawn talking head, for tests of what is built on top of them."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from types import ModuleType

import pytest
import torch

torch.set_num_threads(1)  # the models here are so small that waiting for a second thread costs more than it gives

RECIPES = Path(__file__).parents[1] / "recipes" / "nano"
TINY = {"width": 128, "height": 128, "frames": 17, "fps": 25.0, "prompt_tokens": 32}


@pytest.fixture(scope="session")
def tiny_backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A diffusers folder of LTX-Video's classes with random weights and a Sync-LoRA beside them; edits in a second."""
    folder = tmp_path_factory.mktemp("tiny") / "backbone"
    make_tiny(folder, seed=0)
    return folder


@pytest.fixture(scope="session")
def other_backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same shapes, other weights."""
    folder = tmp_path_factory.mktemp("other") / "backbone"
    make_tiny(folder, seed=1)
    return folder


def make_tiny(folder: Path, seed: int) -> None:
    from diffusers.models.autoencoders.autoencoder_kl_ltx import AutoencoderKLLTXVideo
    from diffusers.models.transformers.transformer_ltx import LTXVideoTransformer3DModel
    from transformers import ByT5Tokenizer, T5Config, T5EncoderModel

    from synclora.backbones.presets import LORA_NAME
    from synclora.diffusion.lora import add_lora, fingerprint, save_lora

    torch.manual_seed(seed)
    vae = AutoencoderKLLTXVideo(
        latent_channels=16,
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
    transformer = LTXVideoTransformer3DModel(
        in_channels=16,
        out_channels=16,
        num_attention_heads=2,
        attention_head_dim=16,
        cross_attention_dim=32,
        num_layers=2,
        caption_channels=16,
    )
    text_encoder = T5EncoderModel(
        T5Config(vocab_size=384, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2, feed_forward_proj="gated-gelu")
    )
    vae.save_pretrained(folder / "vae")
    transformer.save_pretrained(folder / "transformer")
    text_encoder.save_pretrained(folder / "text_encoder")
    ByT5Tokenizer(extra_ids=0).save_pretrained(folder / "tokenizer")
    index = {
        "_class_name": "LTXConditionPipeline",
        "transformer": ["diffusers", "LTXVideoTransformer3DModel"],
        "vae": ["diffusers", "AutoencoderKLLTXVideo"],
        "text_encoder": ["transformers", "T5EncoderModel"],
        "tokenizer": ["transformers", "ByT5Tokenizer"],
    }
    (folder / "model_index.json").write_text(json.dumps(index))
    (folder / "synclora.json").write_text(json.dumps(TINY))
    base = fingerprint(transformer)
    for parameter in add_lora(transformer, rank=4):
        torch.nn.init.normal_(parameter, std=0.2)
    save_lora(folder / LORA_NAME, transformer, base_fingerprint=base, reference_attention="self")


@pytest.fixture(scope="session")
def sample_recipe() -> ModuleType:
    """recipes/nano/sample.py as a module."""
    spec = importlib.util.spec_from_file_location("nano_sample", RECIPES / "sample.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def samples(tmp_path_factory: pytest.TempPathFactory, sample_recipe: ModuleType) -> Path:
    """source.mp4 (17 frames of a drawn talking head at 25 fps, 128 px, with sound), edited.png and prompt.txt."""
    folder = tmp_path_factory.mktemp("samples")
    sample_recipe.make_sample(folder, seed=1_000_007, edit="hat", frames=17, size=128)
    return folder


@pytest.fixture
def make_video(tmp_path: Path) -> Callable[..., Path]:
    """make_video(name, frames=9, width=128, height=128, fps=25) -> path of a silent video of moving stripes."""

    def make(name: str = "plain.mp4", frames: int = 9, width: int = 128, height: int = 128, fps: float = 25) -> Path:
        from synclora.clip import Clip, write_clip

        columns = torch.arange(width, dtype=torch.int64).expand(height, width)
        pictures = torch.stack([((columns + 3 * frame) * 4 % 256) for frame in range(frames)]).to(torch.uint8)
        path = tmp_path / name
        write_clip(path, Clip(pictures[..., None].repeat(1, 1, 1, 3), Fraction(fps)), preset="ultrafast")
        return path

    return make
