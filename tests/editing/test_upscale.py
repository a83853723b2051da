"""Edits at twice the model's size: what each of the two stages is shown, and which upsamplers are taken.

Tiny random models of LTX-Video's and LTX-2's real classes, upsamplers included.
"""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import ltx2_tiny
import ltx_tiny
import pytest
import torch
from diffusers.pipelines.ltx.modeling_latent_upsampler import LTXLatentUpsamplerModel
from diffusers.pipelines.ltx2.latent_upsampler import LTX2LatentUpsamplerModel
from echo import Echo
from safetensors.torch import save_file
from torch import Tensor, nn

from synclora.backbones.upsampler import Upsampler, load_upsampler
from synclora.clip import Clip, to_model
from synclora.diffusion.lora import add_lora, save_lora
from synclora.diffusion.sequence import Sequence
from synclora.editing.editor import Editor
from synclora.editing.sampler import REFINE_SIGMAS, _shrink
from synclora.errors import SyncloraError

SIZE, FRAMES = ltx_tiny.SIZE, ltx_tiny.FRAMES
SMALL: dict[str, Any] = {"in_channels": 8, "mid_channels": 32, "num_blocks_per_stage": 1}
CLASSES = {"ltx-video": LTXLatentUpsamplerModel, "ltx-2": LTX2LatentUpsamplerModel}


def tiny(family: str) -> Any:
    return ltx_tiny.backbone() if family == "ltx-video" else ltx2_tiny.backbone("2.3")


def network(family: str, **changes: Any) -> Any:
    torch.manual_seed(7)
    return CLASSES[family](**SMALL | changes).eval()


def random_frames(count: int, seed: int, size: int = 2 * SIZE) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, size, size, 3), generator=rng).to(torch.uint8)


@pytest.fixture(params=CLASSES)
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.mark.parametrize("attention", ["joint", "self"])
def test_both_stages_are_shown_everything(family: str, attention: Any, tmp_path: Path):
    """Stage 1 of 64 px: 3 x 2 x 2 target and reference tokens; stage 2 of 128 px: 3 x 4 x 4 of each.

    The clean first frame and the reference are those of the stage's own size, at its own positions, and the LoRA is in
    place; stage 2 begins at the first of its levels, from the upsampled latents of stage 1.
    """
    backbone, lora = tiny(family), tmp_path / "lora.safetensors"
    for parameter in add_lora(backbone.transformer, rank=2):
        nn.init.normal_(parameter, std=0.1)
    save_lora(lora, backbone.transformer, base_fingerprint=backbone.fingerprint(), reference_attention=attention)
    network(family).save_pretrained(tmp_path / "up")
    editor = Editor(backbone, lora, upscale=tmp_path / "up")
    source, image = random_frames(FRAMES, 1), random_frames(1, 2)
    calls: list[tuple[Sequence, float]] = []
    run, run_network = backbone._network, []
    backbone._network = lambda s, sigma, *rest: calls.append((s, float(sigma))) or run(s, sigma, *rest)
    upsample = editor.upsampler
    assert upsample is not None
    upsample.network.register_forward_hook(lambda m, given, made: run_network.append((given[0], made)))

    edited = editor.edit(Clip(source, Fraction(25)), image[0], steps=2, seed=3)
    assert edited.frames.shape == (FRAMES, 2 * SIZE, 2 * SIZE, 3)

    noisy = [(s, sigma) for s, sigma in calls if s.num_target and (s.target & ~s.clean).any()]
    alone = [s for s, sigma in calls if not s.target.any()]
    assert len(alone) == (2 if attention == "self" else 0)  # one reference cache a stage
    assert [sigma for _, sigma in noisy[2:]] == pytest.approx(REFINE_SIGMAS[:-1])
    for stage, ((sequence, _), smaller, tokens) in enumerate(((noisy[0], 2, 4), (noisy[2], 1, 16))):
        assert sequence.grid == (3, tokens**0.5, tokens**0.5)
        seen = torch.cat([sequence.tokens, alone[stage].tokens], 1) if alone else sequence.tokens
        where = torch.cat([sequence.positions, alone[stage].positions], 2) if alone else sequence.positions
        assert seen.shape[1] == 2 * 3 * tokens
        first = backbone.encode(to_model(_shrink(image, smaller))).flatten(2).transpose(1, 2)
        reference = backbone.encode(to_model(_shrink(source, smaller))).flatten(2).transpose(1, 2)
        torch.testing.assert_close(seen[:, :tokens], first, atol=1e-5, rtol=0)
        torch.testing.assert_close(seen[:, 3 * tokens :], reference, atol=1e-5, rtol=0)
        assert torch.equal(where[..., 3 * tokens :], where[..., : 3 * tokens])
        assert where[:, 1:].max() == 32 * (tokens**0.5 - 1)

    (given, made), (mean, std) = run_network[0], backbone.latent_statistics()
    assert given.shape[-2:] == (2, 2) and made.shape[-2:] == (4, 4)
    begin = upsample((given - mean) / std).flatten(2).transpose(1, 2)
    sigma, tokens = REFINE_SIGMAS[0], noisy[2][0].tokens[:, 16:48]
    noise = (tokens - (1 - sigma) * begin[:, 16:]) / sigma
    assert 0.9 < noise.std() < 1.1 and abs(noise.mean()) < 0.1  # 256 numbers of a Gaussian


def test_long_clips(tmp_path: Path):
    """The second window continues the first's own frames and is anchored, at both sizes."""
    backbone = tiny("ltx-video")
    network("ltx-video").save_pretrained(tmp_path / "up")
    editor = Editor(backbone, None, upscale=tmp_path / "up")
    grids: list[tuple[Any, int, int]] = []
    run = backbone._network
    backbone._network = lambda s, *rest: (
        grids.append((s.grid, int(s.clean[0, : s.num_target].sum()), s.tokens.shape[1] - s.num_target)) or run(s, *rest)
    )
    edited = editor.edit(Clip(random_frames(25, 1), Fraction(25)), random_frames(1, 2)[0], steps=1)
    assert edited.frames.shape == (25, 2 * SIZE, 2 * SIZE, 3)
    small, large = (3, 2, 2), (3, 4, 4)
    refined = [(large, 16, 0)] * 4, [((3, 4, 4), 32, 16)] * 4
    assert grids == [(small, 4, 0), *refined[0], (small, 8, 4), *refined[1]]


def test_statistics_are_kept_for_ltx_video_only():
    """AdaIN: each channel's mean and spread are those before; LTX-2's are what its upsampler makes of them."""
    for family, kept in (("ltx-video", True), ("ltx-2", False)):
        backbone, latents = tiny(family), ltx_tiny.latents(4, batch=2)

        large = Upsampler(network(family), backbone, "")(latents)
        assert large.shape == (2, 8, 3, 4, 4)
        same = torch.allclose(large.std((2, 3, 4)), latents.std((2, 3, 4)), atol=1e-4)
        assert same == kept, family


@pytest.mark.parametrize("layout", ["folder", "file", "model", "default"])
def test_where_upsamplers_are_found(family: str, layout: str, tmp_path: Path):
    """A folder, a file, a model's own folder, and "default" give one network; its sizes come from the weights."""
    original, backbone, where = network(family, dims=2), tiny(family), tmp_path / "latent_upsampler"
    original.save_pretrained(where)
    given: Any = {"folder": where, "model": tmp_path, "default": "default"}.get(layout)
    if layout == "file":
        given = tmp_path / "upscaler.safetensors"
        save_file(original.state_dict(), given)
    loaded = load_upsampler(given, backbone, tmp_path).network
    x = torch.randn(1, 8, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(loaded(x), original(x))


def test_refusals(tmp_path: Path):
    """What is no 2x upsampler of the model is refused, by what it is."""
    backbone = tiny("ltx-2")
    with pytest.raises(SyncloraError, match=r"comes without an upsampler(?s:.*)hf download Lightricks/LTX-2 "):
        load_upsampler("default", backbone, tmp_path)
    network("ltx-video").save_pretrained(tmp_path / "other")
    with pytest.raises(SyncloraError, match="another family than tiny"):
        load_upsampler(tmp_path / "other", backbone, tmp_path)
    network("ltx-2", spatial_upsample=False, temporal_upsample=True).save_pretrained(tmp_path / "time")
    with pytest.raises(SyncloraError, match="twice the rows and columns"):
        load_upsampler(tmp_path / "time", backbone, tmp_path)
    network("ltx-2", rational_spatial_scale=1.5).save_pretrained(tmp_path / "half")
    with pytest.raises(SyncloraError, match="twice the rows and columns"):
        load_upsampler(tmp_path / "half", backbone, tmp_path)
    network("ltx-2", in_channels=4).save_pretrained(tmp_path / "narrow")
    with pytest.raises(SyncloraError, match="upsamples 4 latent channels, and tiny has 8"):
        load_upsampler(tmp_path / "narrow", backbone, tmp_path)
    save_file({"x": torch.zeros(1)}, tmp_path / "x.safetensors")
    with pytest.raises(SyncloraError, match="not a latent upsampler"):
        load_upsampler(tmp_path / "x.safetensors", backbone, tmp_path)
    (tmp_path / "other" / "config.json").write_text(json.dumps({}))
    load_upsampler(tmp_path / "other", backbone, tmp_path)  # nothing tells
    with pytest.raises(SyncloraError, match="no upsamplers for this model"):
        load_upsampler(tmp_path / "other", Echo(), tmp_path)
