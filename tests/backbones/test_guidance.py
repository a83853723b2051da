"""Guidance over a real (tiny) backbone: the formula, how often the network runs, and the caches of `self` attention."""

from __future__ import annotations

import ltx2_tiny
import ltx_tiny
import pytest
import torch

from synclora.backbones.base import Attention, Text
from synclora.backbones.ltx2 import LTX2Backbone
from synclora.diffusion.guidance import DEV, Guidance, guided

SIGMA = 0.7
NEGATIVE = Text(-ltx2_tiny.text("2.3").hidden, ltx2_tiny.text("2.3").mask)
FULL = Guidance(cfg=3.0, stg=0.5, stg_blocks=(0, 2))


@pytest.fixture(scope="module")
def backbone() -> LTX2Backbone:
    return ltx2_tiny.backbone("2.3")


@pytest.mark.parametrize("attention", ["joint", "self"])
@torch.no_grad()
def test_formula(backbone: LTX2Backbone, attention: Attention):
    """v + (cfg - 1)(v - negative) + stg (v - skipped), each answer with a reference of its own."""
    sequence, text = ltx_tiny.full_sequence(SIGMA), ltx2_tiny.text("2.3")
    v = backbone.velocity(sequence, SIGMA, text, attention=attention)
    negative = backbone.velocity(sequence, SIGMA, NEGATIVE, attention=attention)
    skipped = backbone.velocity(sequence, SIGMA, text, attention=attention, skip_blocks=(0, 2))
    expected = v + 2.0 * (v - negative) + 0.5 * (v - skipped)
    answer = guided(backbone, sequence, text, FULL, NEGATIVE, attention=attention)(sequence, SIGMA)
    torch.testing.assert_close(answer, expected, atol=1e-5, rtol=0)
    assert min((v - negative).abs().max(), (v - skipped).abs().max()) > 1e-2


@torch.no_grad()
def test_rescale_brings_the_spread_of_x0_back(backbone: LTX2Backbone):
    """rescale 1: std(x - sigma v) is what it was without guidance, over every token."""
    sequence, text = ltx_tiny.full_sequence(SIGMA), ltx2_tiny.text("2.3")

    def spread(guidance: Guidance) -> float:
        network = guided(backbone, sequence, text, guidance, NEGATIVE, attention="joint")
        v = network(sequence, SIGMA)
        return float((sequence.tokens[:1, : v.shape[1]] - SIGMA * v[:1]).std())

    whole = backbone.velocity(sequence, SIGMA, text, attention="joint", whole=True)
    wanted = float((sequence.tokens[:1] - SIGMA * whole[:1]).std())
    assert spread(Guidance(cfg=8.0, rescale=1.0)) == pytest.approx(wanted, rel=1e-4)
    assert spread(Guidance(cfg=8.0, rescale=1e-9)) > 1.1 * wanted


@pytest.mark.parametrize(("guidance", "passes"), [(Guidance(), 1), (Guidance(cfg=2), 2), (FULL, 3), (DEV, 3)])
@torch.no_grad()
def test_reference_runs_once_for_each_pass(
    backbone: LTX2Backbone, monkeypatch: pytest.MonkeyPatch, guidance: Guidance, passes: int
):
    """Two steps under `self`: the reference runs once for each pass, the rest twice, without the reference."""
    lengths: list[int] = []
    network = backbone._network
    monkeypatch.setattr(
        backbone, "_network", lambda sequence, *a: lengths.append(sequence.tokens.shape[1]) or network(sequence, *a)
    )
    sequence = ltx_tiny.full_sequence(SIGMA)
    velocity = guided(backbone, sequence, ltx2_tiny.text("2.3"), guidance, NEGATIVE, attention="self")
    for _ in range(2):
        velocity(sequence, SIGMA)
    rest = sequence.tokens.shape[1] - sequence.num_reference
    assert guidance.passes == passes
    assert sorted(lengths) == sorted([sequence.num_reference] * passes + [rest] * 2 * passes)


def test_what_is_missing_is_told(backbone: LTX2Backbone):
    """STG without blocks would silently do nothing; CFG without a negative prompt cannot be."""
    with pytest.raises(ValueError, match="stg_blocks"):
        Guidance(stg=1.0)
    with pytest.raises(ValueError, match="negative prompt"):
        guided(backbone, ltx_tiny.full_sequence(SIGMA), ltx2_tiny.text("2.3"), Guidance(cfg=3.0), attention="joint")
