"""The sequence: positions, masks and layout against numbers worked out by hand."""

from __future__ import annotations

from dataclasses import fields
from itertools import permutations

import pytest
import torch
from torch import Tensor

from synclora.diffusion.flow import add_noise, noise_for
from synclora.diffusion.sequence import (
    FirstFrame,
    Keyframe,
    Reference,
    Sequence,
    build,
    patchify,
    positions,
    unpatchify,
)

GRID = (3, 2, 2)  # 17 frames of 64 x 64 pixels; 12 tokens, 4 a latent frame


def latents(value: float = 0.0, frames: int = 3, size: int = 2, batch: int = 2) -> Tensor:
    return value + torch.arange(batch * 5 * frames * size * size).reshape(batch, 5, frames, size, size).float() / 1000


def assert_same(a: Sequence, b: Sequence) -> None:
    for field in fields(Sequence):
        x, y = getattr(a, field.name), getattr(b, field.name)
        assert torch.equal(x, y) if isinstance(x, Tensor) else x == y, field.name


def test_time_positions():
    """max(8f - 7, 0) / fps: at 25 fps, latent frames 0..4 start at 0, 1/25, 9/25, 17/25, 25/25 s."""
    time = positions((5, 1, 1), 25)[0]
    torch.testing.assert_close(time, torch.tensor([0, 0.04, 0.36, 0.68, 1.0]))


def test_space_positions():
    """32 pixels a latent row and column; tokens run column first, then row, then frame."""
    at = positions((2, 2, 3), 8)
    assert at[1].tolist() == [0, 0, 0, 32, 32, 32] * 2
    assert at[2].tolist() == [0, 32, 64, 0, 32, 64] * 2
    assert at[0].tolist() == [0] * 6 + [1 / 8] * 6


def test_patchify_order():
    """Token f * h * w + y * w + x holds latents[:, :, f, y, x], and unpatchify undoes it."""
    x = latents()
    tokens = patchify(x)
    assert torch.equal(tokens[1, 1 * 4 + 1 * 2 + 0], x[1, :, 1, 1, 0])
    assert torch.equal(unpatchify(tokens, GRID), x)


def test_masks_of_a_full_sequence():
    """12 target tokens (4 of them clean: the first frame), 4 of a keyframe, 12 of the reference; 28 in all."""
    sequence = build(latents(), 25, [FirstFrame(latents(1, 1)), Keyframe(latents(2, 1), 5), Reference(latents(3))])
    rows = {
        "clean": [1] * 4 + [0] * 8 + [1] * 16,
        "target": [1] * 12 + [0] * 16,
        "reference": [0] * 16 + [1] * 12,
        "noisy": [0] * 4 + [1] * 8 + [0] * 16,
    }
    for name, row in rows.items():
        assert getattr(sequence, name).int().tolist() == [row, row], name
    assert (sequence.num_target, sequence.num_reference) == (12, 12)
    assert sequence.tokens.shape == (2, 28, 5)
    assert sequence.positions.shape == (2, 3, 28)


def test_contents_of_a_full_sequence():
    """Frame 0 holds the edited image, frames 1.. the target, then the keyframe, then the reference."""
    first, key, reference = latents(1, 1), latents(2, 1), latents(3)
    sequence = build(latents(), 25, [FirstFrame(first), Keyframe(key, 5), Reference(reference)])
    parts = [patchify(first), patchify(latents())[:, 4:], patchify(key), patchify(reference)]
    assert torch.equal(sequence.tokens, torch.cat(parts, dim=1))


def test_reference_has_the_targets_positions():
    """Reference and target carry identical (t, y, x); only timesteps differ."""
    sequence = build(latents(), 25, [FirstFrame(latents(1, 1)), Reference(latents(3))])
    assert torch.equal(sequence.positions[..., :12], sequence.positions[..., 12:])


def test_downscaled_reference_spans_the_same_picture():
    """Half the rows and columns: index * 32 * 2 pixels, so 0 and 64 where the target has 0, 32, 64, 96."""
    sequence = build(latents(size=4), 25, [Reference(latents(size=2), downscale=2)])
    assert sequence.positions[0, 1, -12:].tolist() == [0, 0, 64, 64] * 3
    assert sequence.positions[0, 2, -12:].tolist() == [0, 64, 0, 64] * 3
    assert torch.equal(sequence.positions[0, 0, -12::4], sequence.positions[0, 0, :48:16])


def test_keyframe_time():
    """A keyframe at pixel frame 5 of 25 fps lies at 5 / 25 = 0.2 s, at the target's own rows and columns."""
    sequence = build(latents(), 25, [Keyframe(latents(2, 1), 5)])
    torch.testing.assert_close(sequence.positions[:, 0, 12:], torch.full((2, 4), 0.2))
    assert torch.equal(sequence.positions[:, 1:, 12:], sequence.positions[:, 1:, :4])


def test_keyframe_at_zero_is_the_first_frame():
    """Frame 0 has a latent frame of its own, so it is overwritten and not appended."""
    image = latents(2, 1)
    assert_same(build(latents(), 25, [Keyframe(image, 0)]), build(latents(), 25, [FirstFrame(image)]))


def test_conditions_commute():
    """Whatever the order in which conditions are named, the sequence is the same."""
    conditions = [FirstFrame(latents(1, 1)), Keyframe(latents(2, 1), 5), Reference(latents(3))]
    expected = build(latents(), 25, conditions)
    for order in permutations(conditions):
        assert_same(build(latents(), 25, order), expected)


def test_timesteps():
    """sigma of its own item for each unclean token, 0 for clean ones."""
    sequence = build(latents(), 25, [FirstFrame(latents(1, 1)), Reference(latents(3))])
    assert sequence.timesteps(torch.tensor([0.25, 0.5])).tolist() == [
        [0] * 4 + [0.25] * 8 + [0] * 12,
        [0] * 4 + [0.5] * 8 + [0] * 12,
    ]
    assert torch.equal(sequence.timesteps(0.5)[0], sequence.timesteps(torch.tensor([0.5, 0.5]))[1])


def test_training_and_sampling_see_the_same_sequence():
    """At sigma 1 nothing of the target is left: training's sequence, noised, is editing's, field for field."""
    conditions = [FirstFrame(latents(1, 1)), Keyframe(latents(2, 1), 5), Reference(latents(3))]
    training = build(latents(7), 25, conditions)
    noise = noise_for(training, torch.Generator().manual_seed(0))
    editing = build(unpatchify(noise, GRID), 25, conditions)
    assert_same(add_noise(training, noise, 1.0), editing)


def test_parts_and_target_latents():
    """Without the reference and the reference alone are the whole; the target decodes from its first 12 tokens."""
    sequence = build(latents(), 25, [FirstFrame(latents(1, 1)), Keyframe(latents(2, 1), 5), Reference(latents(3))])
    rest, reference = sequence.without_reference(), sequence.reference_only()
    assert (rest.tokens.shape[1], reference.tokens.shape[1]) == (16, 12)
    assert reference.reference.all() and not rest.reference.any()
    assert torch.equal(torch.cat([rest.positions, reference.positions], dim=2), sequence.positions)
    assert torch.equal(sequence.target_latents()[:, :, :1], latents(1, 1))
    assert torch.equal(sequence.target_latents()[:, :, 1:], latents()[:, :, 1:])


def test_nothing_is_changed_in_place():
    """Sequences and latents are values: building from them leaves them alone."""
    target, start = latents(), Sequence.start(latents(), 25)
    FirstFrame(latents(1, 1)).apply_to(start)
    build(target, 25, [FirstFrame(latents(1, 1))])
    assert torch.equal(target, latents()) and not start.clean.any()


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        (FirstFrame(latents(frames=2)), "do not fit"),
        (Reference(latents(frames=2)), r"needed \(2, 5, 3, 2, 2\)"),
        (Reference(latents(batch=1)), "do not fit"),
        (Reference(latents(), downscale=2), r"needed \(2, 5, 3, 1, 1\)"),
        (Keyframe(latents(frames=1), 17), "frames 0 to 16"),
        (Keyframe(latents(frames=1), -1), "frames 0 to 16"),
    ],
)
def test_conditions_that_do_not_fit(condition: FirstFrame | Keyframe | Reference, message: str):
    """A condition of another size, batch or time than the target is refused, and what is needed is named."""
    with pytest.raises(ValueError, match=message):
        build(latents(), 25, [condition])


def test_one_reference_only():
    """Two source videos would claim the same positions."""
    with pytest.raises(ValueError, match="one source video"):
        build(latents(), 25, [Reference(latents()), Reference(latents())])
