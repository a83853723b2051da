"""The LTX-Video backbone: latents, text and geometry."""

from __future__ import annotations

from typing import Any

import ltx_tiny
import pytest
import torch
from torch import Tensor

from synclora.backbones.base import Geometry, Text
from synclora.backbones.ltx import DECODE_NOISE_SCALE, DECODE_TIMESTEP
from synclora.backbones.ltx_video import LTXVideoBackbone
from synclora.errors import SyncloraError


@pytest.fixture(scope="module")
def backbone() -> LTXVideoBackbone:
    return ltx_tiny.backbone()


def video(batch: int = 1, frames: int = 17) -> Tensor:
    return torch.rand(batch, 3, frames, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_geometry_of_frames():
    """8k + 1: 1, 9, 17 ...; latent frames (F - 1) / 8 + 1; one latent row or column for 32 pixels."""
    geometry = Geometry(512, 256, 81, 25.0)
    valid = [n for n in range(-3, 40) if geometry.valid_frames(n)]
    assert valid == [1, 9, 17, 25, 33]
    assert [geometry.fit_down(n) for n in (0, 1, 8, 9, 16, 17)] == [1, 1, 1, 9, 9, 17]
    assert [geometry.fit_up(n) for n in (0, 1, 2, 9, 10, 17)] == [1, 1, 9, 9, 17, 17]
    assert geometry.latent_grid() == (11, 8, 16)
    assert geometry.latent_grid(9) == (2, 8, 16)
    with pytest.raises(ValueError, match="such as 73 or 81"):
        geometry.latent_grid(80)


def test_geometry_comes_from_the_modules(backbone: LTXVideoBackbone):
    """Compression and channels are the VAE's own."""
    assert backbone.geometry == Geometry(64, 64, 17, 25.0, spatial=32, temporal=8, channels=8)
    assert backbone.encode(video(2)).shape == (2, 8, *backbone.geometry.latent_grid())


def test_an_image_encodes_as_the_first_frame_of_its_video(backbone: LTXVideoBackbone):
    """The encoder is causal: latent frame 0 knows pixel frame 0 only, so the edited image can stand in for it."""
    whole, image = backbone.encode(video()), backbone.encode(video()[:, :, :1])
    assert image.shape == (1, 8, 1, 2, 2)
    torch.testing.assert_close(image, whole[:, :, :1], atol=1e-5, rtol=0)


def test_latents_are_normalised(backbone: LTXVideoBackbone):
    """(z - mean) * scaling_factor / std of the posterior's mode, as diffusers' LTX pipelines have it; 0.5 here."""
    with torch.no_grad():
        mode = backbone.vae.encode(video(), return_dict=False)[0].mode()
    column = (1, -1, 1, 1, 1)
    mean, std = torch.linspace(-0.3, 0.3, 8).view(column), torch.linspace(0.5, 2, 8).view(column)
    torch.testing.assert_close(backbone.encode(video()), (mode - mean) * 0.5 / std, atol=1e-6, rtol=0)


def test_decode_undoes_the_normalisation_and_clamps(backbone: LTXVideoBackbone):
    """The decoder is handed z * std / 0.5 + mean; the video stays in [-1, 1]."""
    latents = 5 * torch.randn(1, 8, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    column = (1, -1, 1, 1, 1)
    raw = latents * torch.linspace(0.5, 2, 8).view(column) / 0.5 + torch.linspace(-0.3, 0.3, 8).view(column)
    with torch.no_grad():
        expected = backbone.vae.decode(raw, return_dict=False)[0]
    decoded = backbone.decode(latents)
    assert decoded.shape == (1, 3, 17, 64, 64)
    torch.testing.assert_close(decoded, expected.clamp(-1, 1), atol=1e-5, rtol=0)
    assert expected.abs().max() > 1 >= decoded.abs().max()


def test_timestep_conditioned_decoder():
    """VAEs of 0.9.1 on are told 0.05 and given latents with 2.5 % noise; the same noise each time."""
    backbone, seen = ltx_tiny.backbone(timestep_conditioning=True), []
    latents = torch.randn(2, 8, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    backbone.vae.decoder.register_forward_pre_hook(lambda module, inputs: seen.append(inputs))
    assert torch.equal(backbone.decode(latents), backbone.decode(latents))
    given, timestep = seen[0]
    assert timestep.tolist() == [pytest.approx(DECODE_TIMESTEP)] * 2 == [pytest.approx(0.05)] * 2
    mean, std = backbone.latent_statistics()
    noise = (given - 0.975 * (latents * std + mean)) / DECODE_NOISE_SCALE
    assert DECODE_NOISE_SCALE == 0.025 and noise.std().item() == pytest.approx(1, abs=0.15)


def test_text_is_padded_to_sixteen(backbone: LTXVideoBackbone):
    """Bytes and an end mark, padded to the longest's next multiple of 16; "" is its end mark alone."""
    text = backbone.embed(["a hat", "", "a man with red hair"])
    assert text.hidden.shape == (3, 32, 16) and text.hidden.dtype == torch.float32
    assert text.mask.sum(dim=1).tolist() == [6, 1, 20]
    assert backbone.embed(["", "a hat"]).hidden.shape[1] == 16


def test_text_is_cut_at_the_limit(backbone: LTXVideoBackbone):
    """No more than prompt_tokens = 32, end mark included."""
    text = backbone.embed(["x" * 100])
    assert text.mask.shape == (1, 32) and text.mask.all()


def test_text_has_no_dropout(backbone: LTXVideoBackbone):
    """A text encoder fresh from its constructor is in training mode; embedding the same prompt twice must agree."""
    assert torch.equal(backbone.embed(["a hat"]).hidden, backbone.embed(["a hat"]).hidden)


@torch.no_grad()
def test_padding_is_not_read(backbone: LTXVideoBackbone):
    """A prompt alone (16 tokens) and beside a longer one (32) means the same, whatever lies in the padding."""
    sequence = ltx_tiny.full_sequence(0.5, batch=1)
    alone, beside = backbone.embed(["a hat"]), backbone.embed(["a hat", "a man with red hair"])
    filled = Text(torch.where(beside.mask[..., None], beside.hidden, 100), beside.mask)
    expected = backbone.velocity(sequence, 0.5, alone)
    for text in (beside, filled):
        velocity = backbone.velocity(sequence, 0.5, Text(text.hidden[:1], text.mask[:1]))
        torch.testing.assert_close(velocity, expected, atol=1e-5, rtol=0)


def test_encoders_keep_no_gradients(backbone: LTXVideoBackbone):
    """Encoding a data set must not build graphs."""
    latents = backbone.encode(video())
    assert not any(x.requires_grad for x in (latents, backbone.decode(latents), backbone.embed([""]).hidden))


def test_without_a_text_encoder():
    """Training from cached text needs none; asking for one says so."""
    bare = LTXVideoBackbone.from_modules(ltx_tiny.transformer(), ltx_tiny.vae(), name="bare")
    with pytest.raises(SyncloraError, match="without a text encoder"):
        bare.embed(["a hat"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": 72}, "multiples of 32"),
        ({"frames": 16}, "such as 9"),
        ({"height": 60}, "multiples of 32"),
        ({"prompt_tokens": 100}, "multiple of 16"),
    ],
)
def test_geometry_that_does_not_fit(changes: dict[str, Any], message: str):
    """Sizes the latents cannot hold, and a prompt's length the tokenizer cannot pad to, are refused at once."""
    with pytest.raises(SyncloraError, match=message):
        LTXVideoBackbone.from_modules(ltx_tiny.transformer(), ltx_tiny.vae(), **changes)


def test_modules_of_two_models():
    """A transformer of 8 channels cannot use a VAE of 16."""
    with pytest.raises(SyncloraError, match="16 latent channels and the transformer takes 8"):
        LTXVideoBackbone.from_modules(ltx_tiny.transformer(), ltx_tiny.vae(latent_channels=16))
