"""The LoRA: what it adds, its file, and the files it refuses."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import ltx_tiny
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from synclora.backbones.ltx_video import LTXVideoBackbone
from synclora.diffusion.lora import (
    ATTENTION_TARGETS,
    LoraError,
    add_lora,
    fingerprint,
    load_lora,
    lora_state,
    remove_lora,
    save_lora,
    set_lora_enabled,
)

SIGMA = torch.tensor([0.3, 0.8])
KEY = "diffusion_model.transformer_blocks.1.attn1.to_q.lora_A.weight"


def velocity(backbone: LTXVideoBackbone) -> Tensor:
    with torch.no_grad():
        return backbone.velocity(ltx_tiny.full_sequence(SIGMA), SIGMA, ltx_tiny.text())


def trained(backbone: LTXVideoBackbone, rank: int = 4, alpha: float = 6) -> None:
    torch.manual_seed(1)
    for parameter in add_lora(backbone.transformer, rank, alpha):
        nn.init.normal_(parameter, std=0.3)


@pytest.fixture
def backbone() -> LTXVideoBackbone:
    return ltx_tiny.backbone()


@pytest.fixture
def file(backbone: LTXVideoBackbone, tmp_path: Path) -> Path:
    """A LoRA of rank 4 and alpha 6 in float32, trained on `backbone`'s base; the backbone is left without it."""
    path = tmp_path / "lora.safetensors"
    trained(backbone)
    header: dict[str, Any] = {"base_fingerprint": backbone.fingerprint(), "metadata": {"steps": "7"}}
    save_lora(path, backbone.transformer, dtype=torch.float32, **header)
    remove_lora(backbone.transformer)
    return path


def rewrite(path: Path, tensors: dict[str, Tensor], **header: str) -> None:
    with safe_open(path, framework="pt") as whole:
        old = whole.metadata()
    save_file(tensors, path, metadata={**old, **header})


def test_new_lora_changes_nothing_and_trains_alone(backbone: LTXVideoBackbone):
    """B starts at 0, so y = W x + B A x = W x; 10 layers a block, A and B each, are all that is trainable."""
    before = velocity(backbone)
    parameters = add_lora(backbone.transformer, rank=4)
    assert torch.equal(velocity(backbone), before)
    trainable = [p for p in backbone.transformer.parameters() if p.requires_grad]
    assert len(parameters) == 3 * 10 * 2 and {id(p) for p in trainable} == {id(p) for p in parameters}
    assert {p.dtype for p in parameters} == {torch.float32}


def test_parameters_are_float32_on_a_bfloat16_base(backbone: LTXVideoBackbone):
    """An optimiser's small steps vanish in bfloat16."""
    nn.Module.to(backbone.transformer, torch.bfloat16)
    assert {p.dtype for p in add_lora(backbone.transformer, rank=4)} == {torch.float32}
    assert velocity(backbone).isfinite().all()


def test_targets(backbone: LTXVideoBackbone):
    """Attention alone: 8 layers a block; a second LoRA replaces the first."""
    add_lora(backbone.transformer, rank=4)
    assert len(add_lora(backbone.transformer, 2, targets=ATTENTION_TARGETS)) == 3 * 8 * 2
    assert not any(".ff." in name for name in lora_state(backbone.transformer))


def test_alpha_is_folded_into_b(backbone: LTXVideoBackbone):
    """The file's B is alpha / rank = 6 / 4 times the layer's, its A the layer's own."""
    trained(backbone)
    layer: Any = backbone.transformer.get_submodule("transformer_blocks.1.attn1.to_q")
    state = lora_state(backbone.transformer)
    assert torch.equal(state[KEY], layer.lora_A["default"].weight)
    assert torch.equal(state[KEY.replace("lora_A", "lora_B")], 1.5 * layer.lora_B["default"].weight)


def test_round_trip(backbone: LTXVideoBackbone, tmp_path: Path):
    """Saved and loaded in float32, the very same numbers, and the same velocity."""
    trained(backbone)
    state, expected, path = lora_state(backbone.transformer), velocity(backbone), tmp_path / "a" / "lora.safetensors"
    save_lora(path, backbone.transformer, base_fingerprint=backbone.fingerprint(), dtype=torch.float32)
    fresh = ltx_tiny.backbone()
    load_lora(fresh.transformer, path, base_fingerprint=fresh.fingerprint())
    loaded = lora_state(fresh.transformer)
    assert loaded.keys() == state.keys() and all(torch.equal(loaded[name], state[name]) for name in state)
    torch.testing.assert_close(velocity(fresh), expected, atol=1e-6, rtol=0)
    assert not any(p.requires_grad for name, p in fresh.transformer.named_parameters() if "lora" in name)


def test_file_layout(file: Path, backbone: LTXVideoBackbone, tmp_path: Path):
    """`diffusion_model.` keys, A [rank, in], B [out, rank], bfloat16 by default, no alpha; and the header."""
    load_lora(backbone.transformer, file, base_fingerprint=None)
    save_lora(tmp_path / "b.safetensors", backbone.transformer, base_fingerprint="f", reference_attention="joint")
    tensors = load_file(tmp_path / "b.safetensors")
    assert {t.dtype for t in tensors.values()} == {torch.bfloat16}
    assert tensors[KEY].shape == (4, 32) and tensors[KEY.replace("lora_A", "lora_B")].shape == (32, 4)
    assert all(re.fullmatch(r"diffusion_model\..+\.lora_[AB]\.weight", name) for name in tensors)
    with safe_open(file, framework="pt") as whole:
        assert whole.metadata() == {
            "base_fingerprint": backbone.fingerprint(),
            "reference_attention": "self",
            "reference_downscale_factor": "1",
            "reference_temporal_scale_factor": "1",
            "steps": "7",
        }


def test_loads_into_diffusers_pipeline(file: Path, backbone: LTXVideoBackbone):
    """`load_lora_weights` of an LTX pipeline takes the file as it is, to the same effect as ours."""
    theirs = ltx_tiny.backbone()
    ltx_tiny.pipeline(theirs).load_lora_weights(str(file))
    bare = velocity(backbone)
    load_lora(backbone.transformer, file, base_fingerprint=backbone.fingerprint())
    assert (velocity(backbone) - bare).abs().max() > 1e-2
    torch.testing.assert_close(velocity(theirs), velocity(backbone), atol=1e-6, rtol=0)


def test_switching_off_and_removing_give_the_base_back(file: Path, backbone: LTXVideoBackbone):
    """Off, or removed, the base answers bit for bit as before; on again, the LoRA."""
    bare, names = velocity(backbone), backbone.transformer.state_dict().keys()
    load_lora(backbone.transformer, file, base_fingerprint=None)
    with_lora = velocity(backbone)
    set_lora_enabled(backbone.transformer, False)
    assert torch.equal(velocity(backbone), bare)
    set_lora_enabled(backbone.transformer, True)
    assert torch.equal(velocity(backbone), with_lora)
    remove_lora(backbone.transformer)
    assert torch.equal(velocity(backbone), bare) and backbone.transformer.state_dict().keys() == names


def test_loading_twice_is_loading_once(file: Path, backbone: LTXVideoBackbone):
    """The second file replaces the first and is not added to it."""
    load_lora(backbone.transformer, file, base_fingerprint=None)
    once = velocity(backbone)
    load_lora(backbone.transformer, file, base_fingerprint=None)
    assert torch.equal(velocity(backbone), once)


def test_files_of_other_tools(file: Path, backbone: LTXVideoBackbone):
    """diffusers' `transformer.` prefix, alpha tensors (folded on reading) and ranks that differ are all understood."""
    load_lora(backbone.transformer, file, base_fingerprint=None)
    expected, tensors = velocity(backbone), load_file(file)
    b = KEY.replace("lora_A", "lora_B")
    tensors[KEY] = torch.cat([tensors[KEY], torch.zeros(2, 32)])  # rank 6 where the others have 4
    tensors[b] = torch.cat([tensors[b], torch.zeros(32, 2)], dim=1) * 2
    tensors[KEY.replace("lora_A.weight", "alpha")] = torch.tensor(3.0)  # 3 / 6 = 1/2
    save_file({name.replace("diffusion_model.", "transformer."): t for name, t in tensors.items()}, file)
    load_lora(backbone.transformer, file, base_fingerprint=backbone.fingerprint())
    torch.testing.assert_close(velocity(backbone), expected, atol=1e-6, rtol=0)


def test_fingerprint():
    """Same for float32 and bfloat16 and with a LoRA in place; another for other weights."""
    backbone = ltx_tiny.backbone()
    original = backbone.fingerprint()
    assert fingerprint(ltx_tiny.transformer(0)) == original != fingerprint(ltx_tiny.transformer(1))
    trained(backbone)
    assert backbone.fingerprint() == original
    nn.Module.to(backbone.transformer, torch.bfloat16)
    assert backbone.fingerprint() == original
    with torch.no_grad():
        backbone.transformer.get_parameter("transformer_blocks.2.attn1.to_q.base_layer.weight")[0, 0] += 1
    assert backbone.fingerprint() != original


def test_wrong_base_is_refused(file: Path):
    """A LoRA trained on seed 0's weights does not go into seed 1's; the transformer stays as it was."""
    other = ltx_tiny.backbone(seed=1)
    with pytest.raises(LoraError, match="trained on another base model"):
        load_lora(other.transformer, file, base_fingerprint=other.fingerprint())
    assert not lora_state(other.transformer)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_refused(file: Path, backbone: LTXVideoBackbone, value: float):
    """A diverged LoRA is neither loaded nor saved, and the LoRA in place survives."""
    trained(backbone)
    before = velocity(backbone)
    tensors = load_file(file)
    tensors[KEY][0, 0] = value
    rewrite(file, tensors)
    with pytest.raises(LoraError, match="NaN or infinite"):
        load_lora(backbone.transformer, file, base_fingerprint=None)
    assert torch.equal(velocity(backbone), before)
    next(p for p in backbone.transformer.parameters() if p.requires_grad).data[0, 0] = value
    with pytest.raises(LoraError, match="NaN or infinite"):
        save_lora(file.with_name("new.safetensors"), backbone.transformer, base_fingerprint="")
    assert not file.with_name("new.safetensors").exists()


def test_files_that_do_not_fit_are_refused(file: Path, backbone: LTXVideoBackbone):
    """Missing, cut short, other keys, half a pair, a layer that is not there, another width: each told apart."""
    whole = load_file(file)

    def refused(message: str, tensors: dict[str, Tensor] | None = None) -> None:
        if tensors is not None:
            rewrite(file, tensors)
        with pytest.raises(LoraError, match=message):
            load_lora(backbone.transformer, file, base_fingerprint=None)

    refused("no part of a plain LoRA", {**whole, "diffusion_model.x.dora_scale": torch.ones(1)})
    refused("lacks lora_A or lora_B", {name: t for name, t in whole.items() if name != KEY})
    refused("this base model lacks", {name.replace("blocks.1", "blocks.9"): t for name, t in whole.items()})
    refused(r"needs \(rank, 32\)", {**whole, KEY: torch.zeros(4, 33)})
    refused("holds no tensors", {})
    file.write_bytes(file.read_bytes()[:30])
    refused("not a whole safetensors file")
    file.unlink()
    refused("no such LoRA file")
    assert not lora_state(backbone.transformer)


def test_saving_without_a_lora(backbone: LTXVideoBackbone, tmp_path: Path):
    """An empty file would look like success."""
    with pytest.raises(LoraError, match="holds no LoRA"):
        save_lora(tmp_path / "x.safetensors", backbone.transformer, base_fingerprint="")
