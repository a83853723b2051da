"""Our forward pass against diffusers' own, on the same weights."""

from __future__ import annotations

import ltx_tiny
import pytest
import torch
from torch import Tensor, nn

from synclora.backbones import ltx_transformer
from synclora.diffusion.lora import add_lora
from synclora.diffusion.sequence import Sequence, build


def theirs(transformer, sequence: Sequence, sigma: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    text = ltx_tiny.text(len(sequence.tokens))
    return transformer(
        hidden_states=sequence.tokens.to(dtype),
        encoder_hidden_states=text.hidden.to(dtype),
        timestep=1000 * sequence.timesteps(sigma),
        encoder_attention_mask=text.mask,
        video_coords=sequence.positions,
        return_dict=False,
    )[0]


def ours(transformer, sequence: Sequence, sigma: Tensor) -> Tensor:
    text = ltx_tiny.text(len(sequence.tokens))
    return ltx_transformer.forward(transformer, sequence, sigma, text.hidden, text.mask)[0]


SIGMA = torch.tensor([0.3, 0.8])
SEQUENCES = {
    "all": ltx_tiny.full_sequence(SIGMA),
    "target": build(ltx_tiny.latents(), 25, []),
    "reference": ltx_tiny.full_sequence(SIGMA).reference_only(),
}


@pytest.mark.parametrize("name", SEQUENCES)
@torch.no_grad()
def test_forward_is_diffusers(name: str):
    """Equal within 1e-6 though the timestep network sees 2 rows an item, not one a token; two sigmas in the batch."""
    transformer = ltx_tiny.transformer()
    expected = theirs(transformer, SEQUENCES[name], SIGMA)
    assert expected.abs().max() > 0.1
    torch.testing.assert_close(ours(transformer, SEQUENCES[name], SIGMA), expected, atol=1e-6, rtol=0)


@torch.no_grad()
def test_forward_with_lora_is_diffusers():
    """LoRA layers sit inside the linear layers, so they act alike in both."""
    transformer = ltx_tiny.transformer()
    bare = ours(transformer, SEQUENCES["all"], SIGMA)
    for parameter in add_lora(transformer, rank=2, alpha=4):
        nn.init.normal_(parameter, std=0.3)
    expected = theirs(transformer, SEQUENCES["all"], SIGMA)
    torch.testing.assert_close(ours(transformer, SEQUENCES["all"], SIGMA), expected, atol=2e-6, rtol=0)
    assert (expected - bare).abs().max() > 1e-2


@torch.no_grad()
def test_forward_in_bfloat16_is_diffusers():
    """The order of casts is theirs too: bfloat16 weights give the same bfloat16 numbers (an ulp at 1 is 1/128)."""
    transformer = nn.Module.to(ltx_tiny.transformer(), torch.bfloat16)
    expected = theirs(transformer, SEQUENCES["all"], SIGMA, torch.bfloat16)
    torch.testing.assert_close(ours(transformer, SEQUENCES["all"], SIGMA), expected, atol=1 / 64, rtol=0)


def test_gradients_are_diffusers():
    """All weights of the base, timestep network included: a base can be trained through our forward."""
    transformer = ltx_tiny.transformer()
    wanted = [p for name, p in transformer.named_parameters()]
    for a, b in zip(
        *(torch.autograd.grad(f(transformer, SEQUENCES["all"], SIGMA).square().mean(), wanted) for f in (ours, theirs)),
        strict=True,
    ):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-4)


@torch.no_grad()
def test_timestep_network_runs_on_two_rows_an_item():
    """What makes it quick: 2 x 2 rows go through the timestep network, not 2 x 28."""
    transformer, rows = ltx_tiny.transformer(), []
    transformer.time_embed.linear.register_forward_hook(lambda module, inputs, output: rows.append(len(inputs[0])))
    ours(transformer, SEQUENCES["all"], SIGMA)
    assert rows == [4]
