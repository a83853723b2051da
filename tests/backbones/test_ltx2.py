"""The LTX-2 backbone: reading what diffusers wrote, without its sound; latents and text; what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ltx2_tiny
import ltx_tiny
import pytest
import torch
from safetensors.torch import load_file, save_file

from synclora.backbones.base import Geometry
from synclora.backbones.ltx2 import LTX2Backbone
from synclora.backbones.presets import load_backbone
from synclora.diffusion.lora import AUDIO
from synclora.errors import SyncloraError

SETTINGS = {"width": 64, "height": 64, "frames": 17, "prompt_tokens": 16}
TRANSFORMER = "transformer/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def backbone() -> LTX2Backbone:
    return ltx2_tiny.backbone("2.3")


@pytest.fixture(scope="module", params=["2.0", "2.3", "2.5"])
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A version, and the folder that diffusers' own pipeline of it writes, sound and all, plus synclora.json."""
    folder = tmp_path_factory.mktemp("model") / request.param
    ltx2_tiny.pipeline(request.param).save_pretrained(folder)
    (folder / "synclora.json").write_text(json.dumps(SETTINGS))
    return request.param, folder


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "tiny"
    ltx2_tiny.pipeline("2.3").save_pretrained(folder)
    (folder / "synclora.json").write_text(json.dumps(SETTINGS))
    return folder


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    return shutil.copytree(whole, tmp_path / "tiny")


@torch.no_grad()
def test_loads_what_diffusers_wrote(saved: tuple[str, Path]):
    """The same text, latents and velocity as the modules saved, though no weight of its sound was read; frozen."""
    version, where = saved
    loaded, original = load_backbone(where, dtype=torch.float32), ltx2_tiny.backbone(version)
    assert isinstance(loaded, LTX2Backbone)
    assert not any(AUDIO.search(name) for name in loaded.transformer.state_dict())
    assert loaded.fingerprint() == original.fingerprint()
    text = original.embed(["a hat"])
    assert torch.equal(loaded.embed(["a hat"]).hidden, text.hidden)
    video = torch.rand(1, 3, 9, 64, 64)
    assert torch.equal(loaded.encode(video), original.encode(video))
    sequence = ltx_tiny.full_sequence(0.5, batch=1)
    assert torch.equal(loaded.velocity(sequence, 0.5, text), original.velocity(sequence, 0.5, text))
    assert not any(p.requires_grad for p in loaded.transformer.parameters()) and not loaded.transformer.training


def test_dtype(whole: Path):
    """Weights in what was asked for; latents, text and velocities in float32 all the same."""
    loaded = load_backbone(whole, dtype=torch.bfloat16)
    assert {p.dtype for p in loaded.transformer.parameters()} == {torch.bfloat16} == {loaded.dtype}
    assert loaded.fingerprint() == ltx2_tiny.backbone("2.3").fingerprint()
    latents, text = loaded.encode(torch.rand(1, 3, 9, 64, 64)), loaded.embed([""])
    velocity = loaded.velocity(ltx_tiny.full_sequence(0.5, batch=1), 0.5, text)
    assert {latents.dtype, loaded.decode(latents).dtype, text.hidden.dtype, velocity.dtype} == {torch.float32}


def test_prompts_are_1024_tokens_by_default(folder: Path):
    """As in diffusers' pipelines: the registers that fill a prompt up are part of what the network reads."""
    (folder / "synclora.json").unlink()
    loaded = load_backbone(folder, dtype=torch.float32)
    assert loaded.embed(["a hat"]).hidden.shape == (1, 1024, ltx2_tiny.WIDTH)
    (folder / "synclora.json").write_text('{"width": 64}')
    assert load_backbone(folder, dtype=torch.float32).embed([""]).hidden.shape[1] == 1024


def test_geometry_and_latents(backbone: LTX2Backbone):
    """Compression and channels are the VAE's own; encoding normalises, decoding undoes it, clamped."""
    assert backbone.geometry == Geometry(64, 64, 17, 25.0, spatial=32, temporal=8, channels=8)
    video = torch.rand(1, 3, 17, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    column = (1, -1, 1, 1, 1)
    mean, std = torch.linspace(-0.3, 0.3, 8).view(column), torch.linspace(0.5, 2, 8).view(column)
    with torch.no_grad():
        mode = backbone.vae.encode(video, return_dict=False)[0].mode()
        raw = backbone.vae.decode(mode, return_dict=False)[0]
    torch.testing.assert_close(backbone.encode(video), (mode - mean) / std, atol=1e-6, rtol=0)
    torch.testing.assert_close(backbone.decode(backbone.encode(video)), raw.clamp(-1, 1), atol=1e-5, rtol=0)
    whole, image = backbone.encode(video), backbone.encode(video[:, :, :1])
    torch.testing.assert_close(image, whole[:, :, :1], atol=1e-5, rtol=0)


def test_a_prompt_means_the_same_beside_others(backbone: LTX2Backbone):
    """Alone and in a batch; "" too; too long a one is cut; spaces around it mean nothing."""
    alone, beside = backbone.embed(["a hat"]), backbone.embed(["", "a hat", " a hat "])
    torch.testing.assert_close(beside.hidden[1:2], alone.hidden, atol=1e-5, rtol=0)
    torch.testing.assert_close(beside.hidden[2], beside.hidden[1], atol=0, rtol=0)
    assert backbone.embed(["x" * 99]).hidden.shape == (1, 16, ltx2_tiny.WIDTH)
    assert (beside.hidden[0] - beside.hidden[1]).abs().max() > 1e-2


def test_without_a_text_encoder():
    """Training from cached text needs none; asking for one says so."""
    bare = LTX2Backbone.from_modules(ltx2_tiny.transformer(), ltx2_tiny.vae(), name="bare")
    with pytest.raises(SyncloraError, match="without a text encoder"):
        bare.embed(["a hat"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"width": 72}, "multiples of 32"), ({"frames": 16}, "such as 9"), ({"prompt_tokens": 20}, "multiple of the con")],
)
def test_sizes_that_do_not_fit(changes: dict[str, Any], message: str):
    """Sizes the latents or the text's registers cannot hold are refused at once."""
    with pytest.raises(SyncloraError, match=message):
        LTX2Backbone.from_modules(ltx2_tiny.transformer(), ltx2_tiny.vae(), ltx2_tiny.connectors(), **changes)


@pytest.mark.parametrize(
    ("key", "value"), [("patch_size", 2), ("causal_offset", 0), ("vae_scale_factors", [8, 16, 16])]
)
def test_positions_that_would_be_wrong(key: str, value: Any):
    """A transformer whose tokens lie elsewhere than ours is refused, by the configuration's own name."""
    transformer = ltx2_tiny.transformer()
    transformer.register_to_config(**{key: value})
    with pytest.raises(SyncloraError, match=f"has {key}"):
        LTX2Backbone.from_modules(transformer, ltx2_tiny.vae())


def damage(change: Callable[[dict], object], folder: Path) -> None:
    tensors = load_file(folder / TRANSFORMER)
    change(tensors)
    save_file(tensors, folder / TRANSFORMER)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors: tensors.pop("proj_out.weight"), "proj_out.weight is missing"),
        (lambda tensors: tensors["proj_in.bias"].fill_(float("nan")), "proj_in.bias holds NaN"),
        (lambda tensors: tensors.update({"proj_out.bias": torch.zeros(3)}), "cannot be loaded .*proj_out.bias|Error"),
    ],
    ids=["missing", "nan", "shape"],
)
def test_damaged_transformer(folder: Path, change: Callable[[dict], object], message: str):
    """Told by the tensor's name; damage to the sound, which is not read, does not matter."""
    damage(lambda tensors: tensors.pop("audio_proj_out.weight"), folder)
    load_backbone(folder, dtype=torch.float32)
    damage(change, folder)
    with pytest.raises(SyncloraError, match=message):
        load_backbone(folder, dtype=torch.float32)


def test_no_weights(folder: Path):
    """A folder whose download stopped before the weights, or within them."""
    (folder / TRANSFORMER).write_bytes(b"cut short")
    with pytest.raises(SyncloraError, match="cannot be loaded"):
        load_backbone(folder, dtype=torch.float32)
    (folder / TRANSFORMER).unlink()
    with pytest.raises(SyncloraError, match=r"holds no \.safetensors"):
        load_backbone(folder, dtype=torch.float32)


def test_classes_that_are_not_known(folder: Path):
    """A text encoder of a later transformers, and a transformer of another family, by name."""
    path = folder / "model_index.json"
    index = json.loads(path.read_text())
    path.write_text(json.dumps(index | {"text_encoder": ["transformers", "Gemma9Unified"]}))
    with pytest.raises(SyncloraError, match=r"Gemma9Unified.*Update transformers"):
        load_backbone(folder, dtype=torch.float32)
    path.write_text(json.dumps(index | {"transformer": ["diffusers", "WanTransformer3DModel"]}))
    with pytest.raises(SyncloraError, match="WanTransformer3DModel"):
        load_backbone(folder, dtype=torch.float32)
