"""Reference attention: the cached two-pass computation against a dense masked one made by diffusers itself."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import ltx_tiny
import pytest
import torch
from diffusers.models.transformers.transformer_ltx import apply_rotary_emb
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from synclora.backbones.ltx_video import LTXVideoBackbone
from synclora.diffusion.attention import dense_mask, rotate
from synclora.diffusion.lora import add_lora
from synclora.diffusion.sequence import FirstFrame, Reference, Sequence, build

SIGMA = torch.tensor([0.3, 0.8])


class MaskedProcessor:
    """Self-attention of diffusers' LTX blocks with a dense mask: the slow, obvious way."""

    def __init__(self, mask: Tensor) -> None:
        self.mask = mask

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, image_rotary_emb=None):
        q, k = (
            apply_rotary_emb(norm(linear(hidden_states)), image_rotary_emb)
            for norm, linear in ((attn.norm_q, attn.to_q), (attn.norm_k, attn.to_k))
        )
        q, k, v = (x.unflatten(2, (attn.heads, -1)).transpose(1, 2) for x in (q, k, attn.to_v(hidden_states)))
        out = scaled_dot_product_attention(q, k, v, attn_mask=self.mask[:, None])
        return attn.to_out[0](out.transpose(1, 2).flatten(2))


def dense(transformer: Any, sequence: Sequence) -> Tensor:
    """diffusers' whole forward under `dense_mask`, the non-reference tokens' part."""
    text, attentions = ltx_tiny.text(), [block.attn1 for block in transformer.transformer_blocks]
    processors = [attention.processor for attention in attentions]
    for attention in attentions:
        attention.set_processor(MaskedProcessor(dense_mask(sequence)))
    output = transformer(
        hidden_states=sequence.tokens,
        encoder_hidden_states=text.hidden,
        timestep=1000 * sequence.timesteps(SIGMA),
        encoder_attention_mask=text.mask,
        video_coords=sequence.positions,
        return_dict=False,
    )[0]
    for attention, processor in zip(attentions, processors, strict=True):
        attention.set_processor(processor)
    return output[:, : output.shape[1] - sequence.num_reference]


def gradients(backbone: LTXVideoBackbone, output: Tensor) -> list[Tensor]:
    parameters = [p for p in backbone.transformer.parameters() if p.requires_grad]
    return list(torch.autograd.grad(output.square().mean(), parameters))


@pytest.fixture
def backbone() -> LTXVideoBackbone:
    backbone = ltx_tiny.backbone()
    for parameter in add_lora(backbone.transformer, rank=4):
        nn.init.normal_(parameter, std=0.3)
    return backbone


@pytest.fixture
def sequence() -> Sequence:
    return ltx_tiny.full_sequence(SIGMA)


def test_dense_mask_by_hand():
    """One target token, one keyframe, one reference: only the reference is barred, from all but itself."""
    one = torch.zeros(1, 4, 1, 1, 1)
    assert dense_mask(build(one, 25, [Reference(one)])).int().tolist() == [[[1, 1], [0, 1]]]


@torch.no_grad()
def test_cached_attention_is_the_dense_one(backbone: LTXVideoBackbone, sequence: Sequence):
    """Reference once, alone; the rest reading its keys and values: equal to the masked whole within 1e-5."""
    expected = dense(backbone.transformer, sequence)
    cache = backbone.reference_cache(sequence, ltx_tiny.text())
    for given in (cache, None):
        velocity = backbone.velocity(sequence, SIGMA, ltx_tiny.text(), cache=given)
        torch.testing.assert_close(velocity, expected, atol=1e-5, rtol=0)


@torch.no_grad()
def test_cache_serves_every_step(backbone: LTXVideoBackbone, sequence: Sequence):
    """The reference does not see sigma or the target: one cache is right at any of them."""
    cache = backbone.reference_cache(sequence, ltx_tiny.text())
    for sigma in (0.1, 0.9):
        other = ltx_tiny.full_sequence(sigma)
        velocity = backbone.velocity(other, sigma, ltx_tiny.text(), cache=cache)
        expected = backbone.velocity(other, sigma, ltx_tiny.text())
        torch.testing.assert_close(velocity, expected, atol=1e-6, rtol=0)


@torch.no_grad()
def test_the_reference_matters_and_joint_differs(backbone: LTXVideoBackbone, sequence: Sequence):
    """`self`, `joint` and no reference at all are three different computations."""
    text = ltx_tiny.text()
    outcomes = [
        backbone.velocity(sequence, SIGMA, text),
        backbone.velocity(sequence, SIGMA, text, attention="joint"),
        backbone.velocity(sequence.without_reference(), SIGMA, text),
    ]
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert (outcomes[a] - outcomes[b]).abs().max() > 1e-3


def test_gradients_reach_the_lora_through_both_passes(backbone: LTXVideoBackbone, sequence: Sequence):
    """d loss / d LoRA of the two-pass computation equals that of the dense one, reference path included."""
    ours = gradients(backbone, backbone.velocity(sequence, SIGMA, ltx_tiny.text()))
    theirs = gradients(backbone, dense(backbone.transformer, sequence))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-3)
    with torch.no_grad():
        cache = backbone.reference_cache(sequence, ltx_tiny.text())
    through_target_only = gradients(backbone, backbone.velocity(sequence, SIGMA, ltx_tiny.text(), cache=cache))
    assert max((a - b).abs().max() for a, b in zip(ours, through_target_only, strict=True)) > 1e-5


@pytest.mark.parametrize("attention", ["self", "joint"])
def test_gradient_checkpointing_changes_nothing(backbone: LTXVideoBackbone, sequence: Sequence, attention):
    """Recomputing blocks in the backward pass gives the very same gradients."""
    plain = gradients(backbone, backbone.velocity(sequence, SIGMA, ltx_tiny.text(), attention=attention))
    backbone.transformer.enable_gradient_checkpointing()
    checkpointed = gradients(backbone, backbone.velocity(sequence, SIGMA, ltx_tiny.text(), attention=attention))
    for a, b in zip(plain, checkpointed, strict=True):
        torch.testing.assert_close(a, b, atol=1e-7, rtol=0)


@torch.no_grad()
def test_two_edits_in_two_threads(backbone: LTXVideoBackbone):
    """Keys and values belong to the call: edits that share a transformer do not mix their references."""

    def edit(seed: int) -> Tensor:
        conditions = [FirstFrame(ltx_tiny.latents(seed, frames=1)), Reference(ltx_tiny.latents(seed))]
        sequence = build(ltx_tiny.latents(9), 25, conditions)
        cache = backbone.reference_cache(sequence, ltx_tiny.text())
        return torch.stack([backbone.velocity(sequence, s, ltx_tiny.text(), cache=cache) for s in (0.9, 0.5, 0.1)])

    alone = [edit(seed) for seed in range(4)]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(edit, range(4)))
    for a, b in zip(alone, together, strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=0)


def test_bfloat16_weights_and_autocast(backbone: LTXVideoBackbone, sequence: Sequence):
    """bfloat16 (8 bits of mantissa) stays within a few percent of float32, and autocast trains."""
    with torch.no_grad():
        exact = backbone.velocity(sequence, SIGMA, ltx_tiny.text())
    with torch.autocast("cpu", torch.bfloat16):
        output = backbone.velocity(sequence, SIGMA, ltx_tiny.text())
    assert output.dtype == torch.float32
    assert (output - exact).abs().max() < 0.05 * exact.abs().max()
    assert all(g.isfinite().all() and g.abs().max() > 0 for g in gradients(backbone, output))
    nn.Module.to(backbone.transformer, torch.bfloat16)
    with torch.no_grad():
        output = backbone.velocity(sequence, SIGMA, ltx_tiny.text())
    assert output.dtype == torch.float32
    assert (output - exact).abs().max() < 0.05 * exact.abs().max()


def test_rotation_is_diffusers():
    """(a, b) -> (a cos - b sin, b cos + a sin) for each pair of channels."""
    x, cos, sin = torch.randn(3, 2, 5, 12).unbind(0)
    torch.testing.assert_close(rotate(x, (cos, sin)), apply_rotary_emb(x, (cos, sin)), atol=1e-6, rtol=0)
