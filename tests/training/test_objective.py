"""What a step learns from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import tiny_run
import torch

from synclora.backbones.base import Attention, Backbone
from synclora.backbones.ltx_video import LTXVideoBackbone
from synclora.clip import to_model
from synclora.diffusion.flow import shift_mu, sigma_schedule
from synclora.diffusion.lora import add_lora
from synclora.diffusion.sequence import Anchor, Continuation, FirstFrame, Reference, build, patchify
from synclora.training.latents import LatentCache, pad_texts
from synclora.training.objective import (
    Batch,
    Draws,
    Later,
    load_batch,
    pixel_weights,
    precision_context,
    step_loss,
    velocity_loss,
)


def make_batch(count: int = 4, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    source, target = torch.randn(2, count, 8, 2, 2, 2, generator=generator)
    return Batch(source, target, pad_texts(list(torch.randn(count, 5, 16, generator=generator))))


def test_training_shows_the_sequence_editing_builds(backbone: LTXVideoBackbone) -> None:
    """Tokens, positions and masks = build(anything, [FirstFrame(encoded edited image), Reference(encoded source)])."""
    clips = tiny_run.NoiseClips()
    source, target = (backbone.encode(to_model(clips.clip(number))) for number in (0, 1))
    text = pad_texts([torch.zeros(1, 16)])
    trained = Batch(source, target, text).sequence(backbone)
    image = backbone.encode(to_model(clips.clip(1)[:1]))
    edited = build(torch.zeros_like(target), 25.0, [Reference(source), FirstFrame(image)])
    for name in ("positions", "clean", "target", "reference"):
        assert torch.equal(getattr(trained, name), getattr(edited, name)), name
    torch.testing.assert_close(trained.tokens[trained.clean], edited.tokens[edited.clean], rtol=1e-4, atol=1e-4)


def test_later_windows_are_what_editing_shows_them() -> None:
    """Of a clip of 6 latent frames, from frame 2 on with 1 made: tokens, positions and masks are those of an edit with
    Continuation, Anchor and Reference; the faults lie on what is made, and the loss on the 3 frames after it."""
    generator = torch.Generator().manual_seed(0)
    source, target = torch.randn(2, 2, 8, 6, 2, 2, generator=generator)
    batch, seen = Batch(source, target, pad_texts([torch.zeros(1, 16)] * 2)), {}

    def velocity(sequence: Any, sigma: Any, text: Any, *, attention: str) -> torch.Tensor:
        seen["sequence"] = sequence
        return torch.zeros_like(sequence.tokens[:, :16])

    geometry = SimpleNamespace(fps=25.0, spatial=32, temporal=8)
    fake = cast(Backbone, SimpleNamespace(geometry=geometry, velocity=velocity))
    draws = Draws.of_step(0, 0, 2, 24, 8, 0.0)
    draws = replace(draws, later=Later(start=2, known=1))
    loss = step_loss(fake, batch, draws, "self")

    noise = draws.noise[:, -16:]
    faults = draws.noise[:, :4] * draws.fault[:, None, None]
    made = patchify(target[:, :, 2:3]) + faults
    context = Continuation(made.transpose(1, 2).unflatten(2, (1, 2, 2)))
    anchor = Anchor(target[:, :, :1], source[:, :, :1], frames_before=8)
    edited = build(torch.zeros_like(target[:, :, 2:]), 25.0, [Reference(source[:, :, 2:]), context, anchor])
    for name in ("positions", "clean", "target", "reference"):
        assert torch.equal(getattr(seen["sequence"], name), getattr(edited, name)), name
    torch.testing.assert_close(seen["sequence"].tokens[edited.clean], edited.tokens[edited.clean])
    x0 = patchify(target[:, :, 2:])
    torch.testing.assert_close(loss, (noise - x0)[:, 4:].square().mean())
    assert 0 < faults.abs().max() < 1 and (draws.fault <= 0.2).all()


def test_tokens_that_the_edit_changes_count_more() -> None:
    """Of six latent frames, the last two columns of frames 3 on differ by 2 and by 0.5: with 5 for changed tokens they
    count 5 and 3, all others 1, in the clip's first window and in a later one; with 1 the loss is the plain one."""
    generator = torch.Generator().manual_seed(0)
    source = torch.randn(2, 8, 6, 2, 4, generator=generator)
    target = source.clone()
    target[:, :, 3:, :, 2] += 2.0
    target[:, :, 3:, :, 3] -= 0.5
    batch = Batch(source, target, pad_texts([torch.zeros(1, 16)] * 2))
    expected = torch.ones(2, 6, 2, 4)
    expected[:, 3:, :, 2], expected[:, 3:, :, 3] = 5.0, 3.0
    torch.testing.assert_close(batch.token_weights(5.0), expected.flatten(1))
    torch.testing.assert_close(batch.token_weights(5.0, Later(2, 1)), expected[:, 2:].flatten(1))

    geometry = SimpleNamespace(fps=25.0, spatial=32, temporal=8)
    nothing = SimpleNamespace(
        geometry=geometry, velocity=lambda s, *a, **k: torch.zeros_like(s.tokens[:, : s.num_target])
    )
    fake, draws = cast(Backbone, nothing), Draws.of_step(0, 0, 2, 48, 8, 0.0)
    error = (draws.noise - patchify(target)).square().mean(2)[:, 8:]
    weight = expected.flatten(1)[:, 8:]
    torch.testing.assert_close(step_loss(fake, batch, draws, "self", 5.0), (error * weight).sum() / weight.sum())
    torch.testing.assert_close(step_loss(fake, batch, draws, "self"), error.mean())


def test_channels_that_show_more_count_more() -> None:
    """Of four latent channels the first shows three times as strongly as the next two, in all of three pictures, the
    second too, the third in two, the last not at all: they count 27, 3, 2 and 0 over their mean, and a step's loss is
    the mean of the errors so weighted."""
    gains = torch.tensor([3.0, 1.0, 1.0, 0.0])
    made: list[torch.Tensor] = []

    def velocity(sequence: Any, sigma: Any, text: Any, *, attention: str) -> torch.Tensor:
        made.append(sequence.tokens[:, : sequence.num_target] / 2)
        return made[-1]

    geometry = SimpleNamespace(fps=25.0, spatial=32, temporal=8, channels=4)
    parts = {"geometry": geometry, "device": torch.device("cpu"), "velocity": velocity}
    fake = cast(Backbone, SimpleNamespace(decode=lambda z: (gains.view(-1, 1, 1, 1) * z).cumsum(1)[:, -3:], **parts))
    found = pixel_weights(fake)
    torch.testing.assert_close(found, 4 * torch.tensor([27.0, 3.0, 2.0, 0.0]) / 32)

    batch = make_batch(2)
    batch = Batch(batch.source[:, :4], batch.target[:, :4], batch.text)
    draws = Draws.of_step(0, 0, 2, 8, 4, 0.0)
    loss = step_loss(fake, batch, draws, "self", 1.0, found)
    error = (made[0] - (draws.noise - patchify(batch.target))).square()[:, 4:]
    torch.testing.assert_close(loss, (error * found).mean())


def test_later_windows_are_drawn_as_often_as_asked() -> None:
    """A share of 0.3 gives 0.3 of the steps within 4 standard errors; every window keeps half of the clip or more,
    with a latent frame at least to be made; clips of 3 latent frames have none, and a share of 0 changes no draw."""
    drawn = [Draws.of_step(0, step, 1, 1, 1, 0.0, 0.3, 9).later for step in range(600)]
    later = [window for window in drawn if window is not None]
    assert abs(len(later) / 600 - 0.3) < 4 * (0.3 * 0.7 / 600) ** 0.5
    assert {window.start for window in later} == {1, 2, 3, 4} and {window.known for window in later} == {1, 2, 3}
    short = [Later.draw(4, torch.Generator().manual_seed(seed)) for seed in range(20)]
    assert all(window.start + window.known < 4 for window in short)
    assert all(Draws.of_step(0, step, 1, 1, 1, 0.0, 1.0, 3).later is None for step in range(20))
    none, some = Draws.of_step(0, 5, 2, 4, 3, 0.5), Draws.of_step(0, 5, 2, 4, 3, 0.5, 1.0, 9)
    assert torch.equal(none.sigma, some.sigma) and torch.equal(none.noise, some.noise)


def test_noise_levels_can_be_those_that_sampling_visits() -> None:
    """With 3 sampling steps the levels drawn are the three of the editor's schedule, each a third of the time."""
    visited = sigma_schedule(3, 50)[:-1]
    sigma = Draws.of_step(0, 0, 900, 50, 1, 0.0, sampling_steps=3).sigma
    assert visited[0] == 1 and torch.isin(sigma, visited).all()
    for level in visited:
        assert abs((sigma == level).float().mean() - 1 / 3) < 0.06


def test_loss_is_the_mean_over_noised_tokens() -> None:
    """Prediction c against noise - x0: the loss is mean((c - noise + x0)^2) over target tokens of latent frames 1..;
    the network sees (1 - s) x0 + s noise there and x0 in latent frame 0 and the reference."""
    batch, seen = make_batch(3), {}

    def velocity(sequence: Any, sigma: Any, text: Any, *, attention: str) -> torch.Tensor:
        seen.update(sequence=sequence, attention=attention)
        return torch.full_like(sequence.tokens[:, :8], 0.25)

    geometry = SimpleNamespace(fps=25.0, spatial=32, temporal=8)
    fake = cast(Backbone, SimpleNamespace(geometry=geometry, velocity=velocity))
    sigma, noise = torch.tensor([0.1, 0.5, 0.9]), torch.randn(3, 8, 8)
    loss = velocity_loss(fake, batch, sigma, noise, "joint")
    x0 = batch.target.flatten(2).transpose(1, 2)
    torch.testing.assert_close(loss, (0.25 - noise + x0)[:, 4:].square().mean())
    tokens, level = seen["sequence"].tokens, sigma[:, None, None]
    torch.testing.assert_close(tokens[:, 4:8], ((1 - level) * x0 + level * noise)[:, 4:])
    assert torch.equal(tokens[:, :4], x0[:, :4]) and seen["attention"] == "joint"
    assert torch.equal(tokens[:, 8:], batch.source.flatten(2).transpose(1, 2))


@pytest.mark.parametrize("attention", ["self", "joint"])
def test_gradient_checkpointing_changes_no_gradient(backbone: LTXVideoBackbone, attention: Any) -> None:
    """Recomputing activations gives the gradients that keeping them does, through the cached keys and values too."""
    torch.manual_seed(0)
    parameters = add_lora(backbone.transformer, 4)
    with torch.no_grad():
        for parameter in parameters:
            parameter.normal_(std=0.1)
    batch, noise = make_batch(), torch.randn(4, 8, 8)
    gradients = []
    for checkpointing in (False, True):
        backbone.transformer.gradient_checkpointing = checkpointing  # type: ignore[assignment]
        loss = velocity_loss(backbone, batch, torch.full((4,), 0.5), noise, attention)
        gradients.append(torch.autograd.grad(loss, parameters))
    assert all(gradient.abs().max() > 0 for gradient in gradients[0])
    for kept, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(kept, recomputed, rtol=1e-5, atol=1e-8)


def test_reference_gets_gradients_in_self_attention(backbone: LTXVideoBackbone) -> None:
    """With `self`, the loss depends on how the reference is read: its pass is trained, not only the target's."""
    source = make_batch().source.requires_grad_()
    batch = Batch(source, make_batch().target, make_batch().text)
    loss = velocity_loss(backbone, batch, torch.full((4,), 0.5), torch.randn(4, 8, 8), "self")
    assert torch.autograd.grad(loss, source)[0].abs().max() > 0


def test_bf16_keeps_lora_gradients_in_float32() -> None:
    """bf16 base under the precision context: LoRA weights and gradients are float32, near the float32 gradients."""
    gradients = []
    parameters: list[torch.nn.Parameter] = []
    for dtype, precision in ((torch.float32, "fp32"), (torch.bfloat16, "bf16")):
        backbone = tiny_run.tiny_backbone(dtype=dtype)
        torch.manual_seed(0)
        parameters = add_lora(backbone.transformer, 4)
        with precision_context(backbone.device, precision):
            generator = torch.Generator().manual_seed(1)
            noise = torch.randn(4, 8, 8, generator=generator)
            loss = velocity_loss(backbone, make_batch(), torch.full((4,), 0.5), noise, "self")
        gradients.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters)]))
    exact, half = gradients
    assert half.dtype == torch.float32 and parameters[0].dtype == torch.float32
    assert torch.nn.functional.cosine_similarity(exact, half, dim=0) > 0.98


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("attention", ["joint", "self"])
def test_bf16_without_kept_copies_is_the_same(attention: Attention, checkpointing: bool) -> None:
    """Casting at each use gives autocast's own loss bit for bit; and its gradients where a LoRA is used once (`joint`),
    while those of the two passes of `self`, which autocast adds up in bfloat16, agree to its 8 bits."""
    backbone = tiny_run.tiny_backbone(dtype=torch.bfloat16)
    torch.manual_seed(0)
    parameters = add_lora(backbone.transformer, 4)
    with torch.no_grad():
        for parameter in parameters:
            parameter.normal_(std=0.1)
    backbone.transformer.gradient_checkpointing = checkpointing  # type: ignore[assignment]
    batch, noise, found = make_batch(), torch.randn(4, 8, 8), []
    for context in (torch.autocast("cpu", torch.bfloat16), precision_context(backbone.device, "bf16")):
        with context:
            loss = velocity_loss(backbone, batch, torch.full((4,), 0.5), noise, attention)
        found.append((loss, torch.autograd.grad(loss, parameters)))
    (kept_loss, kept), (loss, gradients) = found
    assert torch.equal(loss, kept_loss)
    for one, other in zip(gradients, kept, strict=True):
        error = 0.0 if attention == "joint" else 2**-7 * float(other.abs().max())
        torch.testing.assert_close(one, other, rtol=0, atol=error)


def test_draws_follow_from_seed_and_step() -> None:
    """Same (seed, step): same draws; another step or seed: others. mean logit(sigma) = mu, prompts dropped at p."""
    first, again = Draws.of_step(3, 7, 4, 8, 8, 0.5), Draws.of_step(3, 7, 4, 8, 8, 0.5)
    assert torch.equal(first.noise, again.noise) and torch.equal(first.sigma, again.sigma)
    for other in (Draws.of_step(3, 8, 4, 8, 8, 0.5), Draws.of_step(4, 7, 4, 8, 8, 0.5)):
        assert not torch.equal(first.noise, other.noise) and not torch.equal(first.sigma, other.sigma)
    many = Draws.of_step(0, 0, 4000, 8, 1, 0.25)
    assert many.sigma.logit().mean().item() == pytest.approx(shift_mu(8), abs=0.06)
    assert many.no_prompt.float().mean().item() == pytest.approx(0.25, abs=0.03)
    assert torch.equal(first[2:].noise, first.noise[2:]) and len(first[2:].sigma) == 2


def test_load_batch(tmp_path: Path, backbone: LTXVideoBackbone) -> None:
    """Pair p gives source and target latents of its clips, the target's prompt, and the empty one where dropped."""
    cache = LatentCache(tmp_path, tiny_run.NoiseClips(), backbone)
    cache.fill()
    empty = torch.full((1, 16), 9.0)
    batch = load_batch(cache, [0, 3], empty, torch.tensor([False, True]))
    assert cache.clips.pairs[0] == (0, 1) and cache.clips.pairs[3] == (3, 2)
    assert torch.equal(batch.source, cache.latents([0, 3])) and torch.equal(batch.target, cache.latents([1, 2]))
    lengths = batch.text.mask.sum(1).tolist()
    assert lengths == [len(cache.text([1])[0]), 1] and torch.equal(batch.text.hidden[1, 0], empty[0])
