"""Merging: the merged folder is the base with the adapter, in diffusers' own hands, or nothing is written at all."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import lora_samples as samples
import pytest
import torch
from diffusers.models.transformers.transformer_ltx import LTXVideoTransformer3DModel
from diffusers.pipelines.ltx.pipeline_ltx_condition import LTXConditionPipeline
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from synclora.adapters import merge as merging
from synclora.adapters.merge import MERGED_NAME, merge, merged_rules
from synclora.backbones.presets import LORA_NAME, load_backbone
from synclora.diffusion.lora import fingerprint, load_lora
from synclora.diffusion.lora_file import LoraError

FAMILIES = ("ltx-video", "ltx-2")


def saved(folder: Path, family: str, dtype: torch.dtype = torch.float32, **options: Any) -> Path:
    """A base folder that holds the tiny transformer and a file beside it."""
    model = samples.transformer(family)
    torch.nn.Module.to(model, dtype)
    model.save_pretrained(folder / "transformer", **options)
    (folder / "model_index.json").write_text("{}")
    (folder / "vae").mkdir()
    (folder / "vae" / "config.json").write_text('{"a": 1}')
    return folder


def loaded(folder: Path, family: str) -> Any:
    return type(samples.transformer(family)).from_pretrained(folder / "transformer").eval()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("style", ["comfyui", "kohya"])
def test_merged_is_base_with_adapter(family: str, style: str, tmp_path: Path):
    """Velocity of the merged folder, through diffusers' from_pretrained, is the base's with the adapter to 1e-3 (fp32);
    strength 0.5 is half the change of the weights; the other files are as they were and the base is untouched."""
    base, matrices = saved(tmp_path / "base", family), samples.lora(family)
    before = {path: path.read_bytes() for path in base.rglob("*") if path.is_file()}
    file = samples.write(tmp_path / "lora.safetensors", style, family, matrices)
    done = merge(file, base, tmp_path / "merged")
    with_adapter = samples.transformer(family)
    load_lora(with_adapter, file, base_fingerprint=None)
    found = samples.velocity(loaded(tmp_path / "merged", family))
    torch.testing.assert_close(found, samples.velocity(with_adapter), atol=1e-3, rtol=0)
    assert (found - samples.velocity(samples.transformer(family))).abs().max() > 0.05
    assert done.modules == len(matrices) and done.dtype == "float32" and done.lost < 1e-6 and not done.checked
    assert (tmp_path / "merged" / "vae" / "config.json").read_text() == '{"a": 1}'
    assert before == {path: path.read_bytes() for path in base.rglob("*") if path.is_file()}

    merge(file, base, tmp_path / "half", strength=0.5)
    state, half = samples.transformer(family).state_dict(), loaded(tmp_path / "half", family).state_dict()
    whole = loaded(tmp_path / "merged", family).state_dict()
    assert all(torch.allclose(half[n] - state[n], (whole[n] - state[n]) / 2, atol=1e-6) for n in state)


def test_sharded_bfloat16_base(tmp_path: Path):
    """Several shards stay several, named by their index; weights stay bfloat16, and what rounding took is told."""
    base = saved(tmp_path / "base", "ltx-video", torch.bfloat16, max_shard_size="20KB")
    shards = sorted(path.name for path in (base / "transformer").iterdir())
    assert len(shards) > 3
    file = samples.write(tmp_path / "lora.safetensors", "comfyui", "ltx-video", samples.lora("ltx-video"))
    done = merge(file, base, tmp_path / "merged")
    assert sorted(path.name for path in (tmp_path / "merged" / "transformer").iterdir()) == shards
    model = LTXVideoTransformer3DModel.from_pretrained(tmp_path / "merged" / "transformer", dtype=torch.bfloat16)
    assert model.dtype == torch.bfloat16 and done.dtype == "bfloat16" and 1e-4 < done.lost < 0.02


def test_runs_in_diffusers_pipeline_and_as_a_backbone(tiny_backbone: Path, tmp_path: Path):
    """The whole tiny model with the Sync-LoRA beside it: the merged folder opens in diffusers' pipeline and in ours, no
    longer has the LoRA beside it (made for the old weights), and keeps how the reference is read."""
    done = merge(tiny_backbone / LORA_NAME, tiny_backbone, tmp_path / "merged")
    assert done.checked and not (tmp_path / "merged" / LORA_NAME).exists()
    pipeline: Any = LTXConditionPipeline.from_pretrained(tmp_path / "merged", scheduler=None)
    model = LTXVideoTransformer3DModel.from_pretrained(tiny_backbone / "transformer")
    load_lora(model, tiny_backbone / LORA_NAME, base_fingerprint=fingerprint(model))
    merged = load_backbone(tmp_path / "merged", dtype=torch.float32)
    weights: Any = model.get_submodule("transformer_blocks.1.attn2.to_v")
    expected = weights.get_base_layer().weight + weights.get_delta_weight("default")
    for found in (pipeline.transformer, merged.transformer):
        torch.testing.assert_close(found.get_submodule("transformer_blocks.1.attn2.to_v").weight, expected)
    rules = merged_rules(tmp_path / "merged")
    assert rules is not None and rules.attention == "self" and merged_rules(tiny_backbone) is None
    record = json.loads((tmp_path / "merged" / MERGED_NAME).read_text())
    assert record["base_fingerprint"] == fingerprint(model) != merged.fingerprint()


def test_other_bases_are_refused(tiny_backbone: Path, other_backbone: Path, tmp_path: Path):
    """Another base's fingerprint, other widths, another family; nothing is left behind."""
    with pytest.raises(LoraError, match="trained on another base model"):
        merge(tiny_backbone / LORA_NAME, other_backbone, tmp_path / "merged")
    video = samples.write(tmp_path / "v.safetensors", "comfyui", "ltx-video", samples.lora("ltx-video"))
    with pytest.raises(LoraError, match=r"this base model (needs|lacks)"):
        merge(video, tiny_backbone, tmp_path / "merged")
    header = {"model_version": "2.3"}
    ltx2 = samples.write(tmp_path / "2.safetensors", "comfyui", "ltx-2", samples.lora("ltx-2", trunk=False), header)
    with pytest.raises(LoraError, match=r"trained on LTX-2\.3 22B, and this base is LTXVideoTransformer3DModel"):
        merge(ltx2, saved(tmp_path / "base", "ltx-video"), tmp_path / "merged")
    assert not (tmp_path / "merged").exists() and not list(tmp_path.glob(".*"))


def test_refused_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """An output that is there, no model folder, a shard missing, 8-bit weights, NaN, a strength that is no number, no
    room, a failure half way."""
    base, matrices = saved(tmp_path / "base", "ltx-video"), samples.lora("ltx-video")
    file, target = samples.write(tmp_path / "l.safetensors", "kohya", "ltx-video", matrices), tmp_path / "merged"

    def refused(message: str, folder: Path = base, output: Path = target) -> None:
        with pytest.raises(LoraError, match=message):
            merge(file, folder, output)
        assert not target.exists() and not list(tmp_path.glob(".*"))

    refused("is there already", output=tmp_path / "base")
    with pytest.raises(LoraError, match="strength is nan; a number is needed"):
        merge(file, base, target, float("nan"))
    refused("no diffusers folder", folder=tmp_path)
    weights = base / "transformer" / "diffusion_pytorch_model.safetensors"
    whole = load_file(weights)
    save_file({name: tensor.to(torch.float8_e4m3fn) for name, tensor in whole.items()}, weights)
    refused("swallow the adapter")
    weights.unlink()
    refused("is missing")
    save_file(whole, weights)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1000, 900, 100))  # type: ignore[attr-defined]
    refused("are free")
    monkeypatch.undo()

    def broken(*_: Any) -> Any:
        raise RuntimeError("killed")

    monkeypatch.setattr(merging, "dump_tensors", broken)
    with pytest.raises(RuntimeError, match="killed"):
        merge(file, base, target)
    assert not target.exists() and not list(tmp_path.glob(".*"))
    monkeypatch.undo()
    tensors = load_file(file)
    tensors["lora_unet_proj_out.lora_up.weight"][0, 0] = torch.nan
    save_file(tensors, file)
    refused("NaN or infinite")


def test_fingerprint_of_files_is_that_of_the_loaded_model(tmp_path: Path):
    """From shards on disk and from the model in memory: one identity, so that a header's is checked without loading."""
    base = saved(tmp_path / "base", "ltx-2", max_shard_size="20KB")
    assert merging._State(merging._shards(base)).fingerprint() == fingerprint(loaded(base, "ltx-2"))
    with safe_open(next((base / "transformer").glob("*.safetensors")), framework="pt") as file:
        assert file.metadata()["format"] == "pt"
