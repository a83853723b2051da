"""Training and editing show the network the same sequence, field for field, for LTX-Video and LTX-2."""

from __future__ import annotations

from dataclasses import fields
from fractions import Fraction
from pathlib import Path
from typing import Any

import ltx2_tiny
import ltx_tiny
import pytest
import torch
from torch import Tensor, nn

from synclora.backbones.ltx2_transformer import midpoints
from synclora.clip import Clip, to_model
from synclora.diffusion.lora import add_lora, save_lora
from synclora.diffusion.sequence import Sequence
from synclora.editing.editor import Editor
from synclora.training.objective import Batch, velocity_loss


@pytest.fixture(params=["ltx-video", "ltx-2.3"])
def backbone(request: pytest.FixtureRequest) -> Any:
    return ltx_tiny.backbone() if request.param == "ltx-video" else ltx2_tiny.backbone("2.3")


@pytest.mark.parametrize("attention", ["joint", "self"])
def test_training_and_editing_build_one_sequence(backbone: Any, tmp_path: Path, attention: Any):
    """What each hands to the network: tokens, positions, roles, sigma and text, and LTX-2's own positions.

    The edit's first step is at sigma 1, so training takes sigma 1 and the edit's noise. A target whose frame 0 is the
    edited image gives training the latents that the edit encodes from the image.
    """
    lora = tmp_path / "lora.safetensors"
    for parameter in add_lora(backbone.transformer, rank=2):
        nn.init.normal_(parameter, std=0.1)
    save_lora(lora, backbone.transformer, base_fingerprint=backbone.fingerprint(), reference_attention=attention)
    rng = torch.Generator().manual_seed(0)
    shape = (ltx_tiny.FRAMES, ltx_tiny.SIZE, ltx_tiny.SIZE, 3)
    source, target = (torch.randint(0, 256, shape, generator=rng).to(torch.uint8) for _ in range(2))

    edited = recorded(backbone)
    Editor(backbone, lora).edit(Clip(source, Fraction(25)), target[0], "a hat", steps=1, seed=3)
    trained = recorded(backbone)
    batch = Batch(backbone.encode(to_model(source)), backbone.encode(to_model(target)), backbone.embed(["a hat"]))
    clean = batch.sequence(backbone)
    noise = edited[-1][0].tokens[:, : clean.num_target].clone()
    noise[clean.clean[:, : clean.num_target]] = 7.0  # may be anything where the sequence is clean
    velocity_loss(backbone, batch, torch.tensor([1.0]), noise, attention)

    assert len(edited) == len(trained) == {"joint": 1, "self": 2}[attention]
    for (one, one_sigma, one_text), (two, two_sigma, two_text) in zip(edited, trained, strict=True):
        for field in fields(Sequence):
            ours, theirs = getattr(one, field.name), getattr(two, field.name)
            if isinstance(ours, Tensor) and ours.dtype == torch.float32:
                torch.testing.assert_close(ours, theirs, atol=1e-5 if field.name == "tokens" else 0, rtol=0)
            else:
                assert torch.equal(ours, theirs) if isinstance(ours, Tensor) else ours == theirs, field.name
        assert torch.equal(midpoints(one), midpoints(two))
        assert torch.as_tensor(one_sigma).flatten().tolist() == torch.as_tensor(two_sigma).flatten().tolist()
        assert torch.equal(one_text.hidden, two_text.hidden) and torch.equal(one_text.mask, two_text.mask)


def recorded(backbone: Any) -> list[tuple[Sequence, Any, Any]]:
    """A list that every sequence, sigma and text which the network runs on is noted in, from now on."""
    calls: list[tuple[Sequence, Any, Any]] = []
    network = type(backbone)._network.__get__(backbone)

    def note(sequence: Sequence, sigma: Any, text: Any, *rest: Any) -> Any:
        calls.append((sequence, sigma, text))
        return network(sequence, sigma, text, *rest)

    backbone._network = note
    return calls
