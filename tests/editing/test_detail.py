"""The source's detail in an edit: of a model that loses all detail, it comes back where the edit leaves it alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from echo import editor, grey_clip
from torch import Tensor

from synclora import Editor
from synclora.adapters.rules import Rules
from synclora.clip import Clip
from synclora.editing.adapter import Adapter
from synclora.editing.detail import CHANGED, NOISE, keep_detail
from synclora.errors import SyncloraError


def textured(frames: int, size: int = 64) -> Clip:
    """Greys that wander, under a texture that the echo's latents (means of 32x32 pixels) cannot hold."""
    clip = grey_clip(frames, size)
    texture = torch.randint(-20, 21, (1, size, size, 3), generator=torch.Generator().manual_seed(0))
    texture = texture - texture.float().mean((1, 2), keepdim=True).round().int()
    return replace(clip, frames=(clip.frames.int() + texture).to(torch.uint8))


def planes(*levels: float) -> Tensor:
    return torch.tensor(levels).view(-1, 1, 1, 1).expand(-1, 48, 48, 3).round().to(torch.uint8)


def test_an_edit_that_changes_nothing_is_the_source_bit_for_bit() -> None:
    """Over three windows of a long clip, though the model itself draws grey blocks."""
    made, _ = editor()
    clip = textured(40)
    assert not torch.equal(made.edit(clip, clip.frames[0], detail="model").frames, clip.frames)
    assert torch.equal(made.edit(clip, clip.frames[0], detail="source").frames, clip.frames)


def test_what_the_edit_leaves_alone_is_the_source_and_what_it_changes_has_none_of_it() -> None:
    """The edit makes the right half 60 levels lighter: away from the border the left half is the source bit for bit,
    the right half is the model's but for a share of the source's texture that shrinks with the change."""
    made, _ = editor()
    clip = textured(17)
    first = clip.frames[0].clone()
    first[:, 32:] += 60
    twin, model = (made.edit(clip, image, detail="model").frames for image in (clip.frames[0], first))
    shown, model = keep_detail(clip.frames, twin, model).int(), model.int()
    assert torch.equal(shown[:, :, :24], clip.frames[:, :, :24].int())
    kept = 1 / (1 + (60 / CHANGED) ** 2)
    right, texture = slice(40, None), (clip.frames.int() - grey_clip(17).frames.int()).float()
    beyond = (shown - model)[:, :, right].float() - kept * texture[:, :, right]
    assert (beyond.abs().mean() < 1.0) and kept < 0.2


def test_differences_as_small_as_the_models_noise_do_not_show() -> None:
    """Of an even difference d the share 1 - (NOISE / d)^2 shows, none below NOISE; the source's own 10 levels that the
    model lost come back by 1 / (1 + (d / CHANGED)^2)."""
    for difference in (0.0, 2.0, NOISE, 8.0, 30.0, 100.0):
        source, twin = planes(100.0), planes(90.0)
        shown = keep_detail(source, twin, planes(90.0 + difference)).float()
        real = max(0.0, 1 - (NOISE / max(difference, NOISE)) ** 2)
        kept = 1 / (1 + (difference / CHANGED) ** 2)
        assert (shown - (90 + 10 * kept + real * difference)).abs().max() <= 0.51, difference


def test_keyframes_and_long_clips_keep_the_detail() -> None:
    """The twin of a keyframe is the source's own frame there: an edit whose frames are the source's, all of them and in
    every window, is the source; with another keyframe its window follows it."""
    made, _ = editor()
    clip = textured(60)
    own = {20: clip.frames[20], 47: clip.frames[47]}
    assert torch.equal(made.edit(clip, clip.frames[0], keyframes=own, detail="source").frames, clip.frames)


def test_the_twin_has_the_same_noise_and_not_the_users_words() -> None:
    """Both runs start from the same noise, and the source is encoded once; the words are of the edit alone."""
    made, echo = editor()
    prompts: list[str] = []
    embed, encode = echo.embed, echo.encode
    windows: list[int] = []
    echo.embed = lambda p: prompts.extend(p) or embed(p)  # type: ignore[method-assign]
    echo.encode = lambda x: windows.append(x.shape[2]) or encode(x)  # type: ignore[method-assign]
    clip = textured(17)
    made.edit(clip, 255 - clip.frames[0], "a hat", detail="source", seed=3)
    edit, twin = echo.sequences
    free = ~edit.clean[0]
    assert torch.equal(edit.tokens[:, free], twin.tokens[:, free])
    assert not torch.equal(edit.tokens[:, :4], twin.tokens[:, :4])
    assert torch.equal(edit.reference_only().tokens, twin.reference_only().tokens)
    assert prompts == ["a hat", ""] and windows == [17, 1, 1]


def test_an_adapters_own_prompt_is_the_twins_too() -> None:
    made, echo = editor()
    made.adapter = Adapter(Path("x.safetensors"), "self", 1, Rules(prompt="3d1t"))
    prompts: list[str] = []
    embed = echo.embed
    echo.embed = lambda p: prompts.extend(p) or embed(p)  # type: ignore[method-assign]
    made.edit(textured(17), textured(17).frames[0], detail="source")
    assert set(prompts) == {"3d1t"}


def test_default_is_the_source_with_an_adapter_for_few_steps() -> None:
    assert Editor("nano").check_detail(None) == "source"
    assert Editor("nano", None).check_detail(None) == "model"
    assert editor()[0].check_detail(None) == "model" and editor()[0].check_detail("source") == "source"


def test_refusals() -> None:
    made, _ = editor()
    clip = textured(17)
    with pytest.raises(SyncloraError, match="--detail 'sharp' is not known; choose one of: source, model"):
        made.edit(clip, clip.frames[0], detail="sharp")
    made.adapter = None
    with pytest.raises(SyncloraError, match="without a LoRA the model does not see the source"):
        made.edit(clip, clip.frames[0], detail="source")
