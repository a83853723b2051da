"""Reading a model folder: what is read, and how damage is told."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import ltx_tiny
import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl_ltx import AutoencoderKLLTXVideo
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors.torch import load_file, save_file

from synclora.backbones import checkpoint, presets
from synclora.backbones.checkpoint import Settings, read_settings
from synclora.backbones.presets import PRESETS, default_dtype, load_backbone, nano_lora_path
from synclora.errors import SyncloraError

TRANSFORMER = "transformer/diffusion_pytorch_model.safetensors"
WEIGHTS = [TRANSFORMER, "vae/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors"]
SETTINGS = {"width": 64, "height": 96, "frames": 17, "fps": 12.5, "prompt_tokens": 32}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What diffusers itself writes for an LTX pipeline, plus synclora.json."""
    folder = tmp_path_factory.mktemp("model") / "tiny"
    ltx_tiny.pipeline(ltx_tiny.backbone()).save_pretrained(folder)
    (folder / "synclora.json").write_text(json.dumps(SETTINGS))
    return folder


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    return shutil.copytree(whole, tmp_path / "tiny")


def refused(folder: Path | str, message: str) -> None:
    with pytest.raises(SyncloraError, match=message) as error:
        load_backbone(folder, dtype=torch.float32)
    assert str(folder) in str(error.value)


def edit(path: Path, change: Callable[[dict], object]) -> None:
    """Change the tensors of a safetensors file."""
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def test_loads_what_diffusers_wrote(whole: Path):
    """The same weights (fingerprint), text and latents as the modules saved; frozen; size from synclora.json."""
    loaded, original = load_backbone(whole, dtype=torch.float32), ltx_tiny.backbone()
    assert loaded.fingerprint() == original.fingerprint()
    assert torch.equal(loaded.embed(["a hat"]).hidden, original.embed(["a hat"]).hidden)
    video = torch.rand(1, 3, 9, 64, 64)
    assert torch.equal(loaded.encode(video), original.encode(video))
    assert (loaded.geometry.width, loaded.geometry.height) == (64, 96)
    assert (loaded.geometry.frames, loaded.geometry.fps) == (17, 12.5)
    assert loaded.embed(["x" * 100]).hidden.shape[1] == 32
    assert not any(p.requires_grad for p in loaded.transformer.parameters()) and not loaded.transformer.training


def test_dtype(whole: Path):
    """Weights in what was asked for; latents, text and velocities in float32 all the same."""
    loaded = load_backbone(whole, dtype=torch.bfloat16)
    assert loaded.dtype == torch.bfloat16
    assert loaded.fingerprint() == ltx_tiny.backbone().fingerprint()
    latents = loaded.encode(torch.rand(1, 3, 9, 64, 64))
    text = loaded.embed([""])
    assert {latents.dtype, loaded.decode(latents).dtype, text.hidden.dtype} == {torch.float32}
    assert default_dtype("cuda") == torch.bfloat16


def test_defaults_without_synclora_json(folder: Path):
    """512 x 512, 81 frames at 25 fps: what LTX in-context LoRAs are trained on."""
    (folder / "synclora.json").unlink()
    geometry = load_backbone(folder).geometry
    assert (geometry.width, geometry.height, geometry.frames, geometry.fps) == (512, 512, 81, 25.0)
    assert read_settings(folder) == Settings()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not readable JSON"),
        ('{"widht": 64}', "widht"),
        ('{"width": 64.5}', "width is 64.5"),
        ('{"fps": 0}', "fps is 0"),
        ('{"frames": true}', "frames is True"),
        ("[1]", "content"),
        ('{"width": 70}', "multiples of 32"),
        ('{"frames": 16}', "8k"),
    ],
)
def test_settings_that_are_wrong(folder: Path, content: str, message: str):
    """Each with the name and the value found."""
    (folder / "synclora.json").write_text(content)
    with pytest.raises(SyncloraError, match=message):
        load_backbone(folder)


@pytest.mark.parametrize("part", ["transformer", "vae", "text_encoder", "tokenizer"])
def test_missing_part(folder: Path, part: str):
    """Which of the folders is missing."""
    shutil.rmtree(folder / part)
    refused(folder, f"has no {part} folder")


@pytest.mark.parametrize("file", WEIGHTS)
def test_weights_missing_or_cut_short(folder: Path, file: str):
    """A file that did not arrive, or not whole."""
    path = folder / file
    path.write_bytes(path.read_bytes()[:200])
    refused(folder, rf"{path.parent.name}(/{path.name})?: cannot be loaded")
    path.unlink()
    refused(folder, rf"{path.parent.name}: (cannot be loaded|holds no .safetensors files)")


def test_a_missing_file_is_told_in_our_words_alone(folder: Path):
    """diffusers logs "An error occurred while trying to fetch ..." too; it stays quiet while we load, not after."""
    records: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = records.append  # type: ignore[method-assign]
    logging.getLogger("diffusers").addHandler(handler)
    try:
        (folder / "vae/diffusion_pytorch_model.safetensors").unlink()
        refused(folder, "vae: cannot be loaded")
        assert not records
        with pytest.raises(OSError):
            AutoencoderKLLTXVideo.from_pretrained(folder, subfolder="vae", local_files_only=True)
        assert records
    finally:
        logging.getLogger("diffusers").removeHandler(handler)


@pytest.mark.parametrize("part", ["transformer", "vae", "text_encoder"])
def test_damaged_config(folder: Path, part: str):
    """config.json that is not JSON."""
    (folder / part / "config.json").write_text("{")
    refused(folder, f"{part}: cannot be loaded")


def test_missing_tensor(folder: Path):
    """diffusers would only warn and leave it empty."""
    edit(folder / TRANSFORMER, lambda tensors: tensors.pop("proj_out.weight"))
    refused(folder, "proj_out.weight is missing")


@pytest.mark.parametrize("file", WEIGHTS)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite(folder: Path, file: str, value: float):
    """One bad value anywhere would turn every video grey; it is told on loading."""
    edit(folder / file, lambda tensors: next(iter(tensors.values())).view(-1)[-1:].fill_(value))
    refused(folder, f"{(folder / file).parent.name}: .* holds NaN or infinite")


@pytest.mark.parametrize("name", ["no/such/folder", "./nothing", "mega", "/tmp/none"])
def test_no_such_model(name: str):
    """Neither a preset, a folder nor of a hub id's form."""
    refused(name, "no such model folder")


def test_hub_out_of_reach(monkeypatch: pytest.MonkeyPatch):
    """A hub id without a network, or misspelt, says where it was looked for."""

    def offline(*_: object) -> str:
        raise LocalEntryNotFoundError("no network")

    monkeypatch.setattr(checkpoint, "hf_hub_download", offline)
    refused("someone/some-model", "not to be had from the Hugging Face hub")


def test_a_file_is_not_a_model(folder: Path):
    """The folder is what is named, not a file in it."""
    refused(folder / "model_index.json", "no such model folder")


def test_device_that_is_not_there(folder: Path):
    """Said before anything is loaded."""
    with pytest.raises(SyncloraError, match="not usable here"):
        load_backbone(folder, device="nonsense")


def test_nano_missing_from_the_installation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A package without its weights says so, and what to do."""
    monkeypatch.setitem(presets.PRESETS, "nano", tmp_path / "nano")
    with pytest.raises(SyncloraError, match="Install synclora again"):
        load_backbone("nano")
    with pytest.raises(SyncloraError, match="Sync-LoRA is missing"):
        nano_lora_path()


@pytest.mark.skipif(not (PRESETS["nano"] / "model_index.json").is_file(), reason="no nano")
def test_nano_loads():
    """The shipped weights are whole, and its LoRA was trained on them."""
    from synclora.diffusion.lora import load_lora

    backbone = load_backbone("nano")
    assert backbone.name == "nano"
    header = load_lora(backbone.transformer, nano_lora_path(), base_fingerprint=backbone.fingerprint())
    assert header["base_fingerprint"] == backbone.fingerprint()
    assert header["reference_attention"] in ("self", "joint")
