"""What `inspect` tells of a file, and the command line of the group."""

from __future__ import annotations

import json
from pathlib import Path

import lora_samples as samples
import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from synclora.adapters.bases import BASES, base_of_config, config_of, guess_base
from synclora.adapters.inspect import extract_metadata, inspect_lora
from synclora.adapters.rules import KNOWN
from synclora.backbones.presets import nano_lora_path
from synclora.cli import app
from synclora.diffusion.lora_file import LoraError


def run(*arguments: object):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def shapes(width: int, blocks: int, *more: str) -> dict[str, tuple[int, int]]:
    """Layers of a LoRA of self-attention and feed-forward for a transformer of that width."""
    found = {f"transformer_blocks.{i}.attn1.to_q": (width, width) for i in range(blocks)}
    found |= {f"transformer_blocks.{i}.ff.net.2": (4 * width, width) for i in range(blocks)}
    return found | dict.fromkeys(more, (width, 32))


@pytest.mark.parametrize(
    ("width", "blocks", "more", "header", "bases"),
    [
        (256, 6, (), {}, ("nano",)),
        (2048, 28, (), {}, ("ltxv-2b",)),
        (4096, 48, (), {}, ("ltxv-13b", "ltx-2.0", "ltx-2.3", "ltx-2.5")),
        (4096, 48, (), {"model_version": "2.3.0"}, ("ltx-2.3",)),
        (4096, 48, (), {"base_model": "Lightricks/LTX-2.5-dev"}, ("ltx-2.5",)),
        (4096, 48, (), {"ss_base_model_version": "ltxv-13b-0.9.8"}, ("ltxv-13b",)),
        (4096, 48, (), {"base_model": "ltxv-13b", "backbone": "runs/ltx-2.3-and-others/model"}, ("ltxv-13b",)),
        (4096, 48, ("transformer_blocks.0.audio_ff.net.2",), {}, ("ltx-2.0", "ltx-2.3", "ltx-2.5")),
        (4096, 48, ("transformer_blocks.0.attn1.to_gate_logits",), {}, ("ltx-2.3", "ltx-2.5")),
        (1024, 6, (), {}, ()),
        (2048, 48, (), {}, ()),
    ],
)
def test_base_by_layers_and_header(
    width: int, blocks: int, more: tuple[str, ...], header: dict[str, str], bases: tuple[str, ...]
):
    """Width and blocks tell most bases; 13B and LTX-2.x share theirs, told apart by extra layers or the header only."""
    assert guess_base(shapes(width, blocks, *more), header).bases == bases


def test_header_against_layers_is_told():
    """A header of LTX-2.3 on layers of width 2048 is a conflict, not a verdict."""
    guess = guess_base(shapes(2048, 28), {"model_version": "2.3"})
    assert guess.bases == ("ltxv-2b",) and "the header names LTX-2.3 22B" in guess.conflict


def test_base_of_a_transformer():
    """By class and configuration: nano's own file, LTX-2's versions by the switches that are new in them."""
    nano = json.loads((nano_lora_path().parent / "transformer" / "config.json").read_text())
    assert base_of_config(nano) == "nano"
    big = {"_class_name": "LTX2VideoTransformer3DModel", "num_attention_heads": 32, "attention_head_dim": 128}
    assert base_of_config(big) == "ltx-2.0"
    assert base_of_config({**big, "gated_attn": True}) == "ltx-2.3"
    assert base_of_config({**big, "gated_attn": True, "ff_bias": False}) == "ltx-2.5"
    assert base_of_config(config_of(samples.transformer("ltx-2"))) is None
    assert base_of_config({"_class_name": "WanTransformer3DModel"}) is None


def test_nano_lora():
    """The LoRA that comes with nano: 60 layers in 6 blocks, one rank, bfloat16, self attention, nothing to warn of."""
    found = inspect_lora(nano_lora_path())
    assert (found.styles, found.modules, found.blocks, found.bases) == (["comfyui"], 60, 6, ["nano"])
    assert found.layers["attn1.to_q"] == 6 and len(found.layers) == 10
    assert found.alphas == {"folded": 60} and found.dtypes == {"bfloat16": 120}
    assert found.rules is not None and found.rules.attention == "self" and found.warnings == []
    assert "sampling     1 step, without guidance" in found.lines()
    assert found.base_fingerprint == found.header["base_fingerprint"] and found.bytes == nano_lora_path().stat().st_size


def test_counts_of_a_kohya_file(tmp_path: Path):
    """Ranks, alphas and numbers of every module of a file with ranks 4 and 6 and alpha 6."""
    matrices = samples.lora("ltx-2")
    found = inspect_lora(samples.write(tmp_path / "k.safetensors", "kohya", "ltx-2", matrices))
    high = sum(len(a) == 6 for a, _, _ in matrices.values())
    assert found.ranks == {"4": len(matrices) - high, "6": high} and found.alphas == {"6": len(matrices)}
    assert found.parameters == sum(a.numel() + b.numel() for a, b, _ in matrices.values())
    assert found.styles == ["kohya"] and found.bases == [] and "no known base" in found.base_reason
    assert any("audio stream" in warning for warning in found.warnings)
    assert any("joint attention is taken" in warning for warning in found.warnings)


def test_warnings(tmp_path: Path):
    """Unknown keys, mixed styles, half a pair, NaN, alpha in the header alone, B of zeros, a header that is refused."""
    matrices = {name: ab for name, ab in samples.lora("ltx-video", alpha=None).items() if "ff" not in name}
    file = samples.write(tmp_path / "c.safetensors", "comfyui", "ltx-video", matrices)
    whole = load_file(file)
    block = "transformer_blocks.0"

    def warned(tensors: dict[str, torch.Tensor], header: dict[str, str] | None = None) -> str:
        save_file(tensors, file, metadata=header)
        return "\n".join(inspect_lora(file).warnings)

    assert "dora_scale: 1 is no part of a plain LoRA" in warned({**whole, f"{block}.x.dora_scale": torch.ones(1)})
    key = f"transformer.{block}.ff.net.2.lora_"
    pair = {f"{key}A.weight": torch.ones(4, 128), f"{key}B.weight": torch.ones(32, 4)}
    assert f"{len(whole)} comfyui, 2 diffusers keys" in warned(whole | pair)
    assert f"{block}.ff.net.2: 1 is only half of a pair" in warned({**whole, f"{key}A.weight": torch.ones(4, 128)})
    assert "1 is not finite" in warned({**whole, **pair, f"{key}B.weight": torch.full((32, 4), torch.nan)})
    assert "do not fit" in warned({**whole, f"diffusion_model.{block}.attn1.to_q.lora_A.weight": torch.tensor(1.0)})
    assert "underdriven" in warned(whole, {"lora_alpha": "16", "lora_rank": "4"})
    assert "changes nothing" in warned({k: torch.zeros_like(t) if "lora_B" in k else t for k, t in whole.items()})
    assert "synclora refuses it: reference_temporal_scale_factor is 2" in warned(
        whole, {"reference_temporal_scale_factor": "2"}
    )
    assert "lies" in warned({**whole, "text_embedding_projection.lies.lora_A.weight": torch.ones(1, 2)})
    with pytest.raises(LoraError, match="holds nothing of a LoRA for LTX-Video"):
        warned({"weight": torch.ones(2, 2)})
    flux = "lora_unet_double_blocks_0_img_attn_qkv.lora_"
    with pytest.raises(LoraError, match=r"img_attn_qkv.lora_down.weight', of another architecture than a LoRA for LTX"):
        warned({f"{flux}down.weight": torch.ones(4, 8), f"{flux}up.weight": torch.ones(24, 4)})


def test_command_line(tmp_path: Path):
    """inspect in words and as JSON, extract-metadata, convert, merge; errors are one paragraph and exit code 2."""
    file = tmp_path / KNOWN[0].file
    header = {"steps": "5000", "config": '{"rank": 256}'}
    samples.write(file, "comfyui", "ltx-2", samples.lora("ltx-2", alpha=None, trunk=False), header)
    words = run("lora", "inspect", file).stdout
    assert "'3d1t', exactly" in words and "512x512x81@25" in words and BASES["ltx-2.3"].title in words
    told = json.loads(run("lora", "inspect", file, "--json").stdout)
    assert told["rules"]["prompt"] == "3d1t" and told["bases"] == ["ltx-2.3"] and told["header"] == header
    assert json.loads(run("lora", "extract-metadata", file).stdout) == {"steps": "5000", "config": {"rank": 256}}
    assert extract_metadata(file)["config"] == {"rank": 256}
    done = run("lora", "convert", file, "-o", tmp_path / "k.safetensors", "--to", "kohya")
    assert done.exit_code == 0 and "comfyui to kohya" in done.stdout
    merged = run("lora", "merge", nano_lora_path(), "-o", tmp_path / "merged", "--backbone", "nano")
    assert merged.exit_code == 0 and "60 layers merged in bfloat16" in merged.stdout
    again = run("lora", "merge", file, "-o", tmp_path / "other")
    assert again.exit_code == 2 and "trained on LTX-2.3 22B, and this base is synclora's nano" in again.stderr
    assert run("lora", "inspect", tmp_path / "none.safetensors").exit_code == 2
    assert run("lora", "convert", file, "-o", "x.safetensors", "--to", "webui").exit_code == 2
