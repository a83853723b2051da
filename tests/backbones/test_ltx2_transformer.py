"""Our forward pass of LTX-2's video stream against diffusers' own, its streams isolated, for LTX-2.0, 2.3 and 2.5."""

from __future__ import annotations

from typing import Any

import ltx2_tiny
import ltx_tiny
import pytest
import torch
from torch import Tensor, nn

from synclora.backbones.ltx2 import LTX2Backbone
from synclora.backbones.ltx2_transformer import drop_audio, forward, midpoints
from synclora.diffusion.attention import dense_mask
from synclora.diffusion.lora import AUDIO, add_lora, fingerprint
from synclora.diffusion.sequence import Anchor, FirstFrame, Keyframe, Reference, Sequence, build

SIGMA = torch.tensor([0.3, 0.8])
SEQUENCES = {
    "all": ltx_tiny.full_sequence(SIGMA),
    "target": build(ltx_tiny.latents(), 25, []),
    "reference": ltx_tiny.full_sequence(SIGMA).reference_only(),
}


def theirs(version: str, transformer: Any, sequence: Sequence, **changes: Any) -> Tensor:
    text = ltx2_tiny.text(version)
    return ltx2_tiny.isolated(
        transformer,
        hidden_states=sequence.tokens,
        encoder_hidden_states=text.hidden,
        encoder_attention_mask=text.mask,
        timestep=1000 * sequence.timesteps(SIGMA),
        sigma=1000 * SIGMA,
        video_coords=midpoints(sequence),
        **changes,
    )


def ours(version: str, transformer: Any, sequence: Sequence) -> Tensor:
    text = ltx2_tiny.text(version)
    return forward(transformer, sequence, SIGMA, text.hidden, text.mask)[0]


@pytest.mark.parametrize("version", ltx2_tiny.VERSIONS)
@pytest.mark.parametrize("name", SEQUENCES)
@torch.no_grad()
def test_forward_is_diffusers(version: str, name: str):
    """Equal within 1e-5, two sigmas in the batch, whatever sound lies beside; LoRA layers act alike in both."""
    transformer = ltx2_tiny.transformer(version)
    bare = ours(version, transformer, SEQUENCES[name])
    torch.testing.assert_close(bare, theirs(version, transformer, SEQUENCES[name]), atol=1e-5, rtol=0)
    for parameter in add_lora(transformer, rank=2):
        nn.init.normal_(parameter, std=0.3)
    expected = theirs(version, transformer, SEQUENCES[name])
    torch.testing.assert_close(ours(version, transformer, SEQUENCES[name]), expected, atol=2e-5, rtol=0)
    assert (expected - bare).abs().max() > 1e-2


@pytest.mark.parametrize("version", ltx2_tiny.VERSIONS)
@torch.no_grad()
def test_sound_is_not_needed(version: str):
    """Without its weights the numbers are the same, bit for bit, and so is the fingerprint a LoRA names."""
    transformer = ltx2_tiny.transformer(version)
    expected, name = ours(version, transformer, SEQUENCES["all"]), fingerprint(transformer)
    whole = sum(p.numel() for p in transformer.parameters())
    drop_audio(transformer)
    assert torch.equal(ours(version, transformer, SEQUENCES["all"]), expected)
    assert fingerprint(transformer) == name
    assert not any(AUDIO.search(n) for n in transformer.state_dict())
    assert sum(p.numel() for p in transformer.parameters()) < 0.6 * whole  # of the tiny model


@pytest.mark.parametrize("version", ltx2_tiny.VERSIONS)
@pytest.mark.parametrize("skip", [(), (1,)], ids=["", "skipped"])
@torch.no_grad()
def test_cached_attention_is_the_dense_one(version: str, skip: tuple[int, ...]):
    """Reference once, alone, the rest reading its keys and values: diffusers' whole forward under `dense_mask`.

    With block 1's attention skipped (spatio-temporal guidance) too. LTX-2.3 modulates the text by sigma, which a cached
    reference reads as at 0; that dependence is taken out here, and tested below.
    """
    backbone, sequence = ltx2_tiny.backbone(version), SEQUENCES["all"]
    if version == "2.3":
        nn.init.zeros_(backbone.transformer.prompt_adaln.linear.weight)
    dense = theirs(
        version,
        backbone.transformer,
        sequence,
        video_self_attention_mask=dense_mask(sequence).float(),
        spatio_temporal_guidance_blocks=list(skip),
    )
    text = ltx2_tiny.text(version)
    cache = backbone.reference_cache(sequence, text, skip_blocks=skip)
    for given in (cache, None):
        velocity = backbone.velocity(sequence, SIGMA, text, cache=given, skip_blocks=skip)
        torch.testing.assert_close(velocity, dense[:, : velocity.shape[1]], atol=1e-5, rtol=0)
    without = backbone.velocity(sequence, SIGMA, text, attention="joint", skip_blocks=skip)
    assert (without - dense[:, : without.shape[1]]).abs().max() > 1e-3


@torch.no_grad()
def test_a_cached_reference_reads_the_text_at_sigma_0():
    """LTX-2.3: the reference's keys and values do not depend on sigma, the target's do."""
    backbone, text = ltx2_tiny.backbone("2.3"), ltx2_tiny.text("2.3")
    reference = SEQUENCES["reference"]
    caches = [forward(backbone.transformer, reference, s, text.hidden, text.mask)[1] for s in (0.0, 0.7)]
    assert (caches[0].layers[1][0] - caches[1].layers[1][0]).abs().max() > 1e-3
    used = backbone.reference_cache(ltx_tiny.full_sequence(0.7), text)
    assert torch.equal(used.layers[1][0], caches[0].layers[1][0])


@torch.no_grad()
def test_whole_answers_for_the_reference_too():
    """Under `joint`: all 40 tokens rather than the first 28, which are the same."""
    backbone, text, sequence = ltx2_tiny.backbone("2.3"), ltx2_tiny.text("2.3"), SEQUENCES["all"]
    whole = backbone.velocity(sequence, SIGMA, text, attention="joint", whole=True)
    part = backbone.velocity(sequence, SIGMA, text, attention="joint")
    assert whole.shape[1] == sequence.tokens.shape[1] == part.shape[1] + sequence.num_reference
    assert torch.equal(whole[:, : part.shape[1]], part)


@pytest.mark.parametrize("attention", ["joint", "self"])
def test_gradient_checkpointing(attention: Any):
    """Recomputed blocks give the same gradients to a LoRA; sound has no part in them."""
    backbone = ltx2_tiny.backbone("2.3")
    drop_audio(backbone.transformer)
    parameters = add_lora(backbone.transformer, rank=2)
    for parameter in parameters:
        nn.init.normal_(parameter, std=0.3)

    def gradients(model: LTX2Backbone) -> list[Tensor]:
        loss = model.velocity(SEQUENCES["all"], SIGMA, ltx2_tiny.text("2.3"), attention=attention).square().mean()
        return list(torch.autograd.grad(loss, parameters))

    plain = gradients(backbone)
    backbone.transformer.enable_gradient_checkpointing()
    for a, b in zip(plain, gradients(backbone), strict=True):
        torch.testing.assert_close(a, b, atol=1e-7, rtol=1e-5)
    assert max(x.abs().max() for x in plain) > 1e-4


@torch.no_grad()
def test_bfloat16():
    """bfloat16 weights, as the real ones are: diffusers' numbers within two of bfloat16's steps at 1."""
    transformer: Any = nn.Module.to(ltx2_tiny.transformer("2.3"), torch.bfloat16)
    sequence, text = SEQUENCES["all"], ltx2_tiny.text("2.3")
    given = {"hidden_states": sequence.tokens.bfloat16(), "encoder_hidden_states": text.hidden.bfloat16()}
    expected = ltx2_tiny.isolated(
        transformer,
        **given,
        encoder_attention_mask=text.mask,
        timestep=1000 * sequence.timesteps(SIGMA),
        sigma=1000 * SIGMA,
        video_coords=midpoints(sequence),
    )
    torch.testing.assert_close(ours("2.3", transformer, sequence), expected, atol=1 / 64, rtol=0)


def test_midpoints_by_hand():
    """25 fps, 2 x 2 latents: the middles of [0, 1), [1, 9), [9, 17) frames; a keyframe's [5, 6), an anchor's [-8, -7).

    Rows of 32 pixels at 16 and 48; one reference row of half the size spans 64 pixels, its middle at 32.
    """
    one = ltx_tiny.latents(1, 1, 1)
    small = ltx_tiny.latents(2, 1)[..., :1, :1]
    conditions = [FirstFrame(one), Keyframe(one, 5), Reference(small, 2), Anchor(one, small[:, :, :1], 8, 2)]
    seconds, rows, columns = midpoints(build(ltx_tiny.latents(0, 1), 25.0, conditions))[0]
    frames = [0.5] * 4 + [5.0] * 4 + [13.0] * 4 + [5.5] * 4 + [-7.5] * 4
    torch.testing.assert_close(seconds[:20] * 25, torch.tensor(frames), atol=1e-5, rtol=0)
    assert sorted((seconds[20:] * 25).round(decimals=3).tolist()) == [-7.5, 0.5, 5.0, 13.0]
    assert rows[:4].tolist() == [16, 16, 48, 48] and columns[:4].tolist() == [16, 48, 16, 48]
    assert rows[20:].tolist() == columns[20:].tolist() == [32.0] * 4
