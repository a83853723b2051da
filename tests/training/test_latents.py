"""The latent cache: what it holds, and when it is made again."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import tiny_run
import torch

from synclora.backbones.ltx_video import LTXVideoBackbone
from synclora.clip import to_model
from synclora.errors import SyncloraError
from synclora.training.latents import LatentCache, pad_texts


def test_holds_what_the_backbone_encodes(tmp_path: Path, backbone: LTXVideoBackbone) -> None:
    """Clip by clip: encode(clip) rounded to bf16, and the prompt's embedding without its padding."""
    clips = tiny_run.NoiseClips()
    cache = LatentCache(tmp_path, clips, backbone)
    assert cache.fill() == 2
    order = [5, 0, 3]
    for clip, latents, text in zip(order, cache.latents(order), cache.text(order), strict=True):
        expected = backbone.encode(to_model(clips.clip(clip)))[0]
        torch.testing.assert_close(latents, expected.bfloat16().float(), rtol=0.01, atol=0.01)
        prompt = backbone.embed([f"clip {clip}" * (1 + clip % 3)])
        torch.testing.assert_close(text, prompt.hidden[0][prompt.mask[0]].bfloat16().float(), rtol=0.02, atol=0.02)


def test_first_latent_frame_is_the_encoded_first_frame(tmp_path: Path, backbone: LTXVideoBackbone) -> None:
    """The VAE is causal: latent frame 0 of a clip = the encoding of its frame 0 alone, which is what editing feeds."""
    clips = tiny_run.NoiseClips()
    alone = backbone.encode(to_model(clips.clip(1)[:1]))
    torch.testing.assert_close(backbone.encode(to_model(clips.clip(1)))[:, :, :1], alone, rtol=1e-4, atol=1e-4)


def test_captions_and_progress(tmp_path: Path, backbone: LTXVideoBackbone) -> None:
    """Captions are kept in words, by clip number; progress counts shards."""
    told: list[tuple[int, int]] = []
    cache = LatentCache(tmp_path, tiny_run.NoiseClips(), backbone)
    cache.fill(progress=lambda *counts: told.append(counts))
    assert cache.captions([4, 0]) == ["clip 4clip 4", "clip 0"] and told == [(1, 2), (2, 2)]


def test_second_fill_encodes_nothing(tmp_path: Path, backbone: LTXVideoBackbone) -> None:
    """A whole and fresh cache is not touched, and no clip is rendered or read."""
    LatentCache(tmp_path, tiny_run.NoiseClips(), backbone).fill()
    clips = tiny_run.NoiseClips()
    assert LatentCache(tmp_path, clips, backbone).fill() == 0 and clips.loaded == []


def test_runs_that_share_a_cache_fill_it_one_at_a_time(tmp_path: Path, backbone: LTXVideoBackbone) -> None:
    """A second run begun in the midst of filling says so, waits, and encodes nothing; what the first has half written
    stays."""
    notices: list[str] = []
    clips = tiny_run.NoiseClips()
    first, second = LatentCache(tmp_path, tiny_run.NoiseClips(), backbone), LatentCache(tmp_path, clips, backbone)
    steps = first.steps()
    next(steps)
    half = tmp_path / ".train-00001.0.part.safetensors"
    half.touch()
    with ThreadPoolExecutor(1) as other:
        waiting = other.submit(second.fill, notices.append)
        while not notices:
            time.sleep(0.01)
        assert half.exists() and not waiting.done()
        assert list(steps) == [True]
        assert waiting.result(timeout=60) == 0 and clips.loaded == []
    assert notices == [f"{tmp_path}: another run is filling this cache; waiting until it has."]


@pytest.mark.parametrize("change", ["data", "vae", "geometry"])
def test_stale_cache_is_made_again_with_a_notice(tmp_path: Path, backbone: LTXVideoBackbone, change: str) -> None:
    """Other clips, another VAE or size: all shards anew, and the notice says what changed."""
    LatentCache(tmp_path, tiny_run.NoiseClips(), backbone).fill()
    clips = tiny_run.NoiseClips(seed=1 if change == "data" else 0)
    if change == "geometry":
        backbone.geometry = type(backbone.geometry)(64, 64, 17, 25.0, channels=8)
    elif change != "data":
        with torch.no_grad():
            next(backbone.vae.parameters()).add_(1)
    notices: list[str] = []
    cache = LatentCache(tmp_path, clips, backbone)
    assert cache.fill(notices.append) == 2
    assert len(notices) == 1 and f"stale latents ({change} changed)" in notices[0]
    fresh = backbone.encode(to_model(clips.clip(4)))[0]
    torch.testing.assert_close(cache.latents([4])[0], fresh.bfloat16().float(), rtol=0.01, atol=0.01)


@pytest.mark.parametrize("harm", ["other text encoder", "other connectors", "shorter prompts", "damaged file"])
def test_captions_alone_are_embedded_again(tmp_path: Path, backbone: Any, harm: str) -> None:
    """Whatever embedded them changed, or a file is damaged: captions are embedded anew with a notice, no clip is."""
    backbone.connectors = torch.nn.Linear(2, 2)  # as LTX-2 has, but not used
    first = LatentCache(tmp_path, tiny_run.NoiseClips(), backbone)
    first.fill()
    before = first.text([2])[0]
    if harm == "damaged file":
        (tmp_path / "train-text.safetensors").write_bytes(b"cut")
    elif harm == "shorter prompts":
        backbone.prompt_tokens = 16
    else:
        with torch.no_grad():
            part = backbone.connectors if harm == "other connectors" else backbone.text_encoder
            next(part.parameters()).mul_(2)
    clips, notices = tiny_run.NoiseClips(), []
    again = LatentCache(tmp_path, clips, backbone)
    assert again.fill(notices.append) == 0 and clips.loaded == []
    prompt = backbone.embed(again.captions([2]))
    expected = prompt.hidden[0][prompt.mask[0]].bfloat16().float()
    torch.testing.assert_close(again.text([2])[0], expected, rtol=0.02, atol=0.02)
    assert len(notices) == 1 and "captions are embedded again" in notices[0]
    assert torch.equal(again.text([2])[0], before) == (harm in ("damaged file", "other connectors"))
    assert LatentCache(tmp_path, tiny_run.NoiseClips(), backbone).text([2])[0].equal(again.text([2])[0])


def test_other_transformer_keeps_the_cache(tmp_path: Path, backbone: LTXVideoBackbone) -> None:
    """Latents do not depend on the transformer: training another one on the same VAE reuses them."""
    LatentCache(tmp_path, tiny_run.NoiseClips(), backbone).fill()
    with torch.no_grad():
        backbone.transformer.proj_in.weight.add_(1)  # type: ignore[union-attr, operator]
    assert LatentCache(tmp_path, tiny_run.NoiseClips(), backbone).fill() == 0


@pytest.mark.parametrize("harm", ["cut", "flip", "missing"])
def test_damaged_shard_alone_is_made_again(tmp_path: Path, backbone: LTXVideoBackbone, harm: str) -> None:
    """One bad shard: that shard is encoded, the other is not, and the result equals the first."""
    first = LatentCache(tmp_path, tiny_run.NoiseClips(), backbone)
    first.fill()
    before = first.latents(list(range(6)))
    path = tmp_path / "train-00001.safetensors"
    data = bytearray(path.read_bytes())
    if harm == "cut":
        path.write_bytes(data[: len(data) // 2])
    elif harm == "flip":
        data[-5] ^= 8
        path.write_bytes(data)
    else:
        path.unlink()
    clips, notices = tiny_run.NoiseClips(), []
    again = LatentCache(tmp_path, clips, backbone)
    assert again.fill(notices.append) == 1 and clips.loaded == [1]
    assert "train-00001" in notices[0] and ("missing" if harm == "missing" else "damaged") in notices[0]
    assert torch.equal(again.latents(list(range(6))), before)


def test_stopped_encoding_goes_on(tmp_path: Path, backbone: LTXVideoBackbone) -> None:
    """Shards done before a stop are kept; what a kill left half-written is removed."""
    steps = LatentCache(tmp_path, tiny_run.NoiseClips(), backbone).steps()
    assert next(steps) is True
    steps.close()
    (tmp_path / ".train-00001.abcd1234.part.safetensors").write_bytes(b"half")
    clips = tiny_run.NoiseClips()
    assert LatentCache(tmp_path, clips, backbone).fill() == 1 and clips.loaded == [1]
    names = [".lock", "train-00000.safetensors", "train-00001.safetensors", "train.json"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names


def test_values_that_are_not_numbers_are_refused(tmp_path: Path, backbone: LTXVideoBackbone) -> None:
    """An encoder that makes NaN stops before it poisons a cache; the clip is named."""
    with torch.no_grad():
        next(backbone.vae.parameters()).fill_(float("nan"))
    with pytest.raises(SyncloraError, match="clip 0 of the train data"):
        LatentCache(tmp_path, tiny_run.NoiseClips(), backbone).fill()
    assert not list(tmp_path.glob("*.safetensors"))


def test_pad_texts() -> None:
    """Lengths 3 and 17 pad to 32 tokens; the mask tells real tokens from padding."""
    text = pad_texts([torch.ones(3, 4), 2 * torch.ones(17, 4)])
    assert text.hidden.shape == (2, 32, 4) and text.mask.sum(1).tolist() == [3, 17]
    assert text.hidden[0].sum() == 12 and text.mask[1, 16] and not text.mask[1, 17]
