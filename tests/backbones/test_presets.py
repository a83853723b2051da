"""Published models by name, and checkpoints of one file."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import ltx2_tiny
import ltx_tiny
import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import save_file
from torch import Tensor, nn

from synclora.backbones.presets import PUBLISHED, load_backbone
from synclora.backbones.single_file import open_single_file
from synclora.errors import SyncloraError

SETTINGS = json.dumps({"width": 64, "height": 64, "frames": 17, "prompt_tokens": 16})


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders ltx-video and ltx-2, as diffusers writes them."""
    folder = tmp_path_factory.mktemp("models")
    ltx_tiny.pipeline(ltx_tiny.backbone()).save_pretrained(folder / "ltx-video")
    ltx2_tiny.pipeline("2.3").save_pretrained(folder / "ltx-2")
    for name in ("ltx-video", "ltx-2"):
        (folder / name / "synclora.json").write_text(SETTINGS)
    return folder


@pytest.mark.parametrize("name", PUBLISHED)
def test_weights_that_are_not_here(name: str, empty_cache: Path):
    """Nothing is fetched: size, licence, and the command that fetches it, sound left out."""
    with pytest.raises(SyncloraError) as error:
        load_backbone(name)
    said, published = str(error.value), PUBLISHED[name]
    assert f"hf download {published.repo} --include" in said and f"{published.gigabytes} GB" in said
    assert published.licence in said and "audio" not in said and '"transformer/*"' in said
    assert ("hf auth login" in said) == (name == "ltx-2.5")
    assert not empty_cache.exists() or not any(empty_cache.rglob("*.safetensors"))


def test_weights_in_the_hubs_cache(models: Path, empty_cache: Path):
    """What `hf download` left there is used, without a network and under the preset's name."""
    downloaded(models, empty_cache)
    backbone = load_backbone("ltx-2.3", dtype=torch.float32)
    assert backbone.name == "ltx-2.3" and backbone.fingerprint() == ltx2_tiny.backbone("2.3").fingerprint()


def downloaded(models: Path, cache: Path) -> Path:
    """LTX-2.3 as `hf download` leaves it in the hub's cache; the folder."""
    repo = cache / f"models--{PUBLISHED['ltx-2.3'].repo.replace('/', '--')}"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text("abc")
    return shutil.copytree(models / "ltx-2", repo / "snapshots" / "abc")


@pytest.mark.parametrize(
    "missing", ["transformer/config.json", "transformer/*.safetensors", "text_encoder/*.safetensors", "connectors/"]
)
def test_weights_that_are_partly_here(missing: str, models: Path, empty_cache: Path):
    """Which files lack, and as for a model that is wholly absent: size, licence and the command."""
    folder, published = downloaded(models, empty_cache), PUBLISHED["ltx-2.3"]
    for file in list(folder.glob(f"{missing}*" if missing.endswith("/") else missing)):
        file.unlink()
    with pytest.raises(SyncloraError) as error:
        load_backbone("ltx-2.3")
    said = str(error.value)
    assert f"{folder} lacks {missing} (about {published.gigabytes} GB in all; {published.licence})" in said
    assert published.command in said


def test_a_file_spares_the_parts_that_it_holds(models: Path, empty_cache: Path, tmp_path: Path):
    """One file with the transformer, the hub's cache with everything but its weights."""
    folder = downloaded(models, empty_cache)
    for file in folder.glob("transformer/*.safetensors"):
        file.unlink()
    save_file(published_transformer(ltx2_tiny.transformer("2.3")), tmp_path / "alone.safetensors")
    loaded = load_backbone(tmp_path / "alone.safetensors", dtype=torch.float32)
    assert loaded.fingerprint() == ltx2_tiny.backbone("2.3").fingerprint()


@pytest.mark.parametrize(("family", "with_vae"), [("ltx-video", False), ("ltx-2", False), ("ltx-2", True)])
@torch.no_grad()
def test_a_checkpoint_of_one_file(family: str, with_vae: bool, models: Path, tmp_path: Path):
    """Lightricks' names, in a model's folder: transformer and VAE from the file, all else from the folder."""
    folder = shutil.copytree(models / family, tmp_path / family)
    other = ltx_tiny.backbone(seed=1) if family == "ltx-video" else ltx2_tiny.backbone("2.3", seed=1)
    tensors = published_transformer(other.transformer)
    if with_vae:
        tensors |= published_ltx2_vae(other.vae)
    save_file(tensors, folder / "model.safetensors")
    loaded, folders = (load_backbone(x, dtype=torch.float32) for x in (folder / "model.safetensors", folder))
    assert loaded.fingerprint() == other.fingerprint() != folders.fingerprint()
    assert torch.equal(loaded.embed(["a hat"]).hidden, folders.embed(["a hat"]).hidden)
    video = torch.rand(1, 3, 9, 64, 64)
    assert torch.equal(loaded.encode(video), (other if with_vae else folders).encode(video))
    latents = loaded.encode(video)
    assert torch.equal(loaded.decode(latents), (other if with_vae else folders).decode(latents))


def published_transformer(transformer: nn.Module) -> dict[str, Tensor]:
    """The state under the names of Lightricks' files: diffusers' conversion the other way round."""
    renamed = {}
    for name, tensor in transformer.state_dict().items():
        for here, there in (
            ("audio_proj_in", "audio_patchify_proj"),
            ("av_cross_attn_video_scale_shift", "av_ca_video_scale_shift_adaln_single"),
            ("av_cross_attn_video_a2v_gate", "av_ca_a2v_gate_adaln_single"),
            ("av_cross_attn_audio_scale_shift", "av_ca_audio_scale_shift_adaln_single"),
            ("av_cross_attn_audio_v2a_gate", "av_ca_v2a_gate_adaln_single"),
            ("video_a2v_cross_attn_scale_shift_table", "scale_shift_table_a2v_ca_video"),
            ("audio_a2v_cross_attn_scale_shift_table", "scale_shift_table_a2v_ca_audio"),
            ("norm_q", "q_norm"),
            ("norm_k", "k_norm"),
        ):
            name = name.replace(here, there)
        if name.startswith("proj_in"):
            name = name.replace("proj_in", "patchify_proj")
        name = name.replace("time_embed.", "adaln_single.") if "time_embed." in name else name
        renamed[f"model.diffusion_model.{name}"] = tensor
    return renamed


def published_ltx2_vae(vae: nn.Module) -> dict[str, Tensor]:
    """Encoder blocks down 0, downsampler 1, down 2 ... middle 8; decoder middle 0, upsampler 1, up 2 ..."""
    renamed = {}
    for name, tensor in vae.state_dict().items():
        if name.startswith("latents_"):
            renamed[f"vae.per_channel_statistics.{name[8:]}-of-means"] = tensor
            continue
        half, block, rest = name.split(".", 2)
        if block == "mid_block":
            block = "down_blocks.8" if half == "encoder" else "up_blocks.0"
        elif block in ("down_blocks", "up_blocks"):
            number, rest = rest.split(".", 1)
            sampler = rest.startswith(("downsamplers.0.", "upsamplers.0."))
            rest = rest.split(".", 2)[2] if sampler else rest
            at = 2 * int(number) + (sampler if block == "down_blocks" else 2 - sampler)
            block = f"{block}.{at}"
        renamed[f"vae.{half}.{block}.{rest}".replace("resnets", "res_blocks")] = tensor
    return renamed


def test_one_file_alone(models: Path, tmp_path: Path, empty_cache: Path):
    """Without a model beside it the text encoder is missing: which preset has it, and how to get that."""
    alone = tmp_path / "alone.safetensors"
    save_file(published_transformer(ltx2_tiny.transformer("2.3")), alone)
    with pytest.raises(
        SyncloraError, match=r"no text encoder.*model_index\.json beside it(?s:.*)hf download diffusers/LTX-2\.3"
    ):
        load_backbone(alone)


@pytest.mark.parametrize("version", ltx2_tiny.VERSIONS)
def test_the_version_of_one_file(version: str, tmp_path: Path):
    """Told by its layers: gates since 2.3, no modulation of the text by sigma in 2.5."""
    save_file(published_transformer(ltx2_tiny.transformer(version)), tmp_path / "x.safetensors")
    single = open_single_file(tmp_path / "x.safetensors")
    assert single.published == f"ltx-{version}" and single.holds("transformer") and not single.holds("vae")


def test_files_that_are_no_model(tmp_path: Path):
    """A path that is not there, a damaged file, a LoRA, something else: each told as what it is."""
    path = tmp_path / "x.safetensors"
    with pytest.raises(SyncloraError, match="no such file"):
        load_backbone(path)
    path.write_bytes(b"nothing")
    with pytest.raises(SyncloraError, match="not a whole safetensors file"):
        load_backbone(path)
    save_file({"diffusion_model.transformer_blocks.0.attn1.to_q.lora_A.weight": torch.zeros(2, 2)}, path)
    with pytest.raises(SyncloraError, match="a LoRA, not a model"):
        load_backbone(path)
    save_file({"weight": torch.zeros(2)}, path)
    with pytest.raises(SyncloraError, match="holds no transformer"):
        load_backbone(path)
