"""Conversion between styles: there and back bit for bit, alpha folded once, headers kept."""

from __future__ import annotations

from pathlib import Path

import lora_samples as samples
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from synclora.adapters.convert import convert
from synclora.adapters.rules import KNOWN, rules_of
from synclora.diffusion.lora_file import LoraError, read_lora
from synclora.diffusion.lora_keys import STYLES

HEADER = {"base_fingerprint": "f" * 64, "reference_downscale_factor": "2", "reference_temporal_scale_factor": "1"}
HEADER |= {"reference_attention": "joint", "steps": "7", "trigger_prompt": "3d1t", "notes": '{"by": "hand"}'}
FAMILIES = ("ltx-video", "ltx-2")


def header(path: Path) -> dict[str, str]:
    with safe_open(path, framework="pt") as file:
        return file.metadata() or {}


def out(folder: Path, style: str, name: str = "out") -> tuple[Path, Path]:
    """Where to write a style, and the file that is then there (PEFT's is in a folder)."""
    path = folder / (f"{name}-{style}" if style == "peft" else f"{name}-{style}.safetensors")
    return path, path / "adapter_model.safetensors" if style == "peft" else path


def same_bits(one: Path, other: Path) -> bool:
    a, b = load_file(one), load_file(other)
    return a.keys() == b.keys() and all(a[k].dtype == b[k].dtype and torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("style", STYLES)
def test_there_and_back_bit_for_bit(family: str, style: str, tmp_path: Path):
    """A -> B -> A for every pair of styles, alpha = rank, bfloat16: the same tensors, dtypes and header strings."""
    matrices = samples.lora(family, alpha=None, dtype=torch.bfloat16)
    first = samples.write(tmp_path / "first.safetensors", style, family, matrices, HEADER)
    for other in STYLES:
        there, there_file = out(tmp_path, other, f"there-{style}")
        convert(first, there, other)
        back, back_file = out(tmp_path, style, f"back-{other}")
        convert(there, back, style)
        assert same_bits(back_file, first), other
        assert header(there_file) == header(back_file) == HEADER


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_alpha_is_folded_to_rounding(dtype: torch.dtype, tmp_path: Path):
    """alpha 6 at ranks 4 and 6: what each style holds is B A times alpha / rank to 2^-8 (bfloat16) or 2^-23, and from
    then on nothing is rounded again; kohya to kohya keeps alpha itself."""
    matrices = samples.lora("ltx-2", alpha=6.0, dtype=dtype)
    first = samples.write(tmp_path / "first.safetensors", "kohya", "ltx-2", matrices, HEADER)
    convert(first, tmp_path / "kohya.safetensors", "kohya")
    assert same_bits(first, tmp_path / "kohya.safetensors")
    result = convert(first, tmp_path / "comfyui.safetensors", "comfyui")
    assert result.folded == sum(len(a) == 4 for a, _, _ in matrices.values()) > 0
    convert(tmp_path / "comfyui.safetensors", tmp_path / "again.safetensors", "kohya")
    again = read_lora(tmp_path / "again.safetensors").modules
    for name, (_, b, alpha) in matrices.items():
        wanted, found = b.float() * alpha / b.shape[1], again[name].b.float() * again[name].scale
        assert (found - wanted).abs().max() <= wanted.abs().max() * torch.finfo(dtype).eps
    convert(tmp_path / "again.safetensors", tmp_path / "third.safetensors", "comfyui")
    assert same_bits(tmp_path / "comfyui.safetensors", tmp_path / "third.safetensors")


def test_dtypes_and_ranks_stay(tmp_path: Path):
    """Each tensor keeps its own dtype (float16 beside bfloat16) and each module its own rank."""
    matrices = samples.lora("ltx-video", alpha=None)
    matrices = {
        name: (a.to(kind), b.to(kind), alpha)
        for (name, (a, b, alpha)), kind in zip(
            matrices.items(), [torch.float16, torch.bfloat16, torch.float32] * len(matrices), strict=False
        )
    }
    first = samples.write(tmp_path / "first.safetensors", "comfyui", "ltx-video", matrices)
    convert(first, tmp_path / "k.safetensors", "kohya")
    for name, module in read_lora(tmp_path / "k.safetensors").modules.items():
        a, b, _ = matrices[name]
        assert torch.equal(module.a, a) and torch.equal(module.b, b) and module.a.dtype == a.dtype


def test_published_adapter_keeps_its_rules_under_another_name(tmp_path: Path):
    """The table finds it by its file name; the copy's header says the same: prompt 3d1t, 512x512x81 at 25 fps, joint,
    LTX-2.3."""
    matrices = samples.lora("ltx-2", alpha=None, trunk=False)
    first = samples.write(tmp_path / KNOWN[0].file, "comfyui", "ltx-2", matrices)
    convert(first, tmp_path / "mine.safetensors", "kohya")
    copy = header(tmp_path / "mine.safetensors")
    assert copy["trigger_prompt"] == "3d1t" and copy["window"] == "512x512x81@25"
    rules, expected = rules_of("mine.safetensors", copy), KNOWN[0].rules
    assert (rules.prompt, rules.window, rules.attention, rules.sampling, rules.base) == (
        expected.prompt,
        expected.window,
        expected.attention,
        expected.sampling,
        expected.base,
    )


def test_refused(tmp_path: Path):
    """An unknown style, a name that is no .safetensors file, PEFT's folder that is there already, a text connector's
    layer (its name in other styles is not known), half a pair; nothing is written."""
    matrices = samples.lora("ltx-2", alpha=None)
    first = samples.write(tmp_path / "first.safetensors", "comfyui", "ltx-2", matrices)
    with pytest.raises(LoraError, match="no such style"):
        convert(first, tmp_path / "x.safetensors", "webui")
    with pytest.raises(LoraError, match=r"ends in \.safetensors"):
        convert(first, tmp_path / "x.bin", "kohya")
    with pytest.raises(LoraError, match="PEFT's adapters are folders"):
        convert(first, tmp_path, "peft")
    tensors = load_file(first)
    key = "text_embedding_projection.aggregate_embed.lora_"
    save_file({**tensors, f"{key}A.weight": torch.ones(2, 4), f"{key}B.weight": torch.ones(4, 2)}, first)
    with pytest.raises(LoraError, match=r"text_embedding_projection\.aggregate_embed is no layer"):
        convert(first, tmp_path / "x.safetensors", "kohya")
    save_file({name: t for name, t in tensors.items() if name != "diffusion_model.patchify_proj.lora_B.weight"}, first)
    with pytest.raises(LoraError, match="proj_in lacks lora_A or lora_B"):
        convert(first, tmp_path / "x.safetensors", "kohya")
    assert [path.name for path in tmp_path.iterdir()] == ["first.safetensors"]
