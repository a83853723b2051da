"""Clips of any length: the plan of the windows, what each is shown, what comes out, and how much is held."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from echo import T, editor, grey_clip
from PIL import Image
from torch import Tensor

from synclora import edit
from synclora.adapters.rules import Rules
from synclora.backbones.base import Geometry
from synclora.clip import Clip, Crop, write_clip
from synclora.diffusion.sequence import Anchor, Continuation, FirstFrame, Reference, build
from synclora.editing.adapter import Adapter
from synclora.editing.facecrop import Placement
from synclora.editing.sampler import Sampler
from synclora.editing.stages import Stages
from synclora.editing.windows import crossfade, overlap_of, run, slices, starts
from synclora.media.picture import to_rgb

NANO = Geometry(128, 128, 33, 25.0, spatial=16, temporal=2, channels=128)


@pytest.mark.parametrize("frames", [1, 2, 9, 28, 29, 33, 34, 61, 62, 100, 1500])
def test_windows_cover_every_frame(frames: int) -> None:
    """Window w starts at w * (length - overlap); each adds frames, and the last one reaches the clip's end."""
    length, overlap = 33, 5
    firsts = starts(frames, length, overlap)
    assert firsts == [28 * w for w in range(len(firsts))]
    assert firsts[-1] + length >= frames and (len(firsts) == 1 or firsts[-1] + overlap < frames)
    cut = list(slices(torch.arange(frames), length, overlap))
    assert [int(window[0]) for window in cut] == firsts
    whole = torch.cat([cut[0], *(window[overlap:] for window in cut[1:])])
    assert whole.tolist() == list(range(frames))


def test_number_of_windows_is_linear() -> None:
    """Six times the length takes six times the windows, to one."""
    assert abs(len(starts(1500, 33, 5)) - 6 * len(starts(250, 33, 5))) <= 6
    assert len(starts(1500, 33, 5)) == -(-(1500 - 5) // 28)


@pytest.mark.parametrize(
    ("frames", "temporal", "overlap"),
    [(33, 2, 9), (33, 4, 9), (81, 8, 25), (17, 8, 9), (9, 8, 1), (3, 2, 1), (1, 8, 0)],
)
def test_overlap_is_whole_latent_frames(frames: int, temporal: int, overlap: int) -> None:
    """A quarter of the window, up to whole latent frames; windows then start on a multiple of the latents' frames."""
    geometry = replace(NANO, frames=frames, temporal=temporal)
    assert overlap_of(geometry) == overlap < frames
    assert (frames - overlap) % temporal == 0 or frames == 1


def test_every_frame_comes_once_and_joins_are_faded() -> None:
    """Windows that make 30 times their number: two shared frames go over by 1/3 and 2/3 of the way."""
    windows = list(slices(torch.zeros(10, 1, 1, 3, dtype=torch.uint8), 4, 2))
    seen: list[tuple[int, int | None]] = []

    def make(window: Tensor, start: int, context: Tensor | None) -> Tensor:
        seen.append((start, None if context is None else int(context[0, 0, 0, 0])))
        return torch.full_like(window, 30 * len(seen))

    made = torch.cat(list(run(windows, 2, make)))[:, 0, 0, 0].tolist()
    assert made == [30, 30, 40, 50, 70, 80, 100, 110, 120, 120]
    assert [start for start, _ in seen] == [0, 2, 4, 6] and seen[0][1] is None


def test_crossfade_rounds() -> None:
    black, white = torch.zeros(3, 1, 1, 3, dtype=torch.uint8), torch.full((3, 1, 1, 3), 255, dtype=torch.uint8)
    assert crossfade(black, white)[:, 0, 0, 0].tolist() == [64, 128, 191]


@pytest.mark.parametrize("frames", [30, 600])
def test_memory_is_flat(frames: int) -> None:
    """However long the clip, no more than three windows' frames are alive: one read, one made, one handed out."""
    alive: weakref.WeakSet[Tensor] = weakref.WeakSet()
    most = 0

    def windows() -> Iterator[Tensor]:
        nonlocal most
        for start in starts(frames, 9, 3):
            window = torch.zeros(min(9, frames - start), 2, 2, 3, dtype=torch.uint8)
            alive.add(window)
            gc.collect(0)
            most = max(most, len(alive))
            yield window

    def make(window: Tensor, start: int, context: Tensor | None) -> Tensor:
        nonlocal most
        made = window.clone()
        alive.add(made)
        most = max(most, len(alive))
        return made

    count = 0
    for batch in run(windows(), 3, make):
        count += len(batch)
        del batch
    assert count == frames and most <= 4


def test_files_stream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From file to file, pasted into a larger picture: four times the frames, and no more of them decoded at once."""
    alive = most = 0

    def counted(*arguments: Any) -> np.ndarray:
        nonlocal alive, most
        picture = to_rgb(*arguments)
        alive += 1
        most = max(most, alive)
        weakref.finalize(picture, lost)
        return picture

    def lost() -> None:
        nonlocal alive
        alive -= 1

    made, _ = editor()
    Image.fromarray(np.full((64, 64, 3), 160, np.uint8)).save(tmp_path / "f.png")
    placement = Placement(Crop(16, 0, 64, 64, 64, 64), 96, 64, pasted=True)
    monkeypatch.setattr("synclora.editing.editor.place", lambda *_: placement)
    monkeypatch.setattr("synclora.editing.editor.check_first_frame", lambda *_: [])
    monkeypatch.setattr("synclora.media.reader.to_rgb", counted)
    peaks = {}
    for frames in (40, 160):
        clip = grey_clip(frames, width=96)
        write_clip(tmp_path / "a.mp4", Clip(clip.frames, clip.fps), preset="ultrafast")
        most = before = alive  # the clips of the round before are still held here
        result = edit(tmp_path / "a.mp4", tmp_path / "f.png", tmp_path / "o.mp4", editor=made, steps=1)
        peaks[frames] = most - before
        assert result.frames == frames and result.settings["size"] == [96, 64]
        source, edited = (c.frames[..., 0].float() for c in result.clips())
        assert ((edited - source)[:, :, :14].abs() < 4).all() and ((edited - source)[:, 20:44, 40:56] > 40).all()
    assert peaks[160] <= peaks[40] + 2 < 60


@pytest.mark.parametrize("frames", [1, 16, 17, 18, 31, 32, 61])
def test_a_long_edit_is_the_source_plus_the_edit(frames: int) -> None:
    """With a perfect model every frame is the source's plus 50, to the context's rounding: joins and padded end too."""
    made, echo = editor()
    clip = grey_clip(frames)
    edited = made.edit(clip, (clip.frames[0].int() + 50).to(torch.uint8), steps=2)
    assert (edited.num_frames, edited.fps, edited.origin) == (frames, clip.fps, clip.origin)
    assert (edited.frames.int() - clip.frames.int() - 50).abs().max() <= 1
    assert len(echo.sequences) == len(starts(frames, 17, 5))


def test_a_window_continues_and_is_shown_the_edit_again() -> None:
    """Window 1: its first 3 latent frames are clean; the edited frame and its source frame 2 frames before it."""
    made, echo = editor()
    clip = grey_clip(25)
    made.edit(clip, (clip.frames[0].int() + 50).to(torch.uint8), steps=1)
    first, second = echo.sequences
    n = second.num_target
    assert n == 28 and first.clean[0, :36].tolist() == [True] * 4 + [False] * 32
    assert second.clean[0, :n].tolist() == [True] * 12 + [False] * 16
    anchor = slice(n, n + 4)
    assert torch.equal(second.tokens[0, anchor], first.tokens[0, :4])  # the edited first frame
    assert second.positions[0, 0, anchor].tolist() == pytest.approx([-T / 25] * 4)
    assert second.reference[0].sum() == n + 4 and second.reference[0, n + 4 :].all()
    before = second.reference[0] & (second.positions[0, 0] < 0)
    assert torch.equal(second.tokens[0, before], first.tokens[0, first.reference[0]][:4])  # the source's frame 0


def test_an_adapter_for_few_steps_begins_each_window_anew() -> None:
    """Nothing that is made already is shown to it: the anchor and the source alone."""
    _, echo = editor()
    clip = grey_clip(25)
    adapter = Adapter(Path("x"), "self", 1, Rules(steps=2))
    sampler = Sampler(echo, adapter, {0: clip.frames[0]}, "", 2, "self", 25.0, torch.Generator(), Stages())
    assert [type(c) for c in sampler._conditions(clip.frames[:17], 0, None)] == [Reference, FirstFrame]
    assert [type(c) for c in sampler._conditions(clip.frames[14:25], 14, clip.frames[14:17])] == [Reference, Anchor]


def test_without_lora_only_the_edit_is_shown_again() -> None:
    """The base model sees no source, so the anchor has none beside it."""
    _, echo = editor()
    clip = grey_clip(25)
    sampler = Sampler(echo, None, {0: clip.frames[0]}, "", 1, "self", 25.0, torch.Generator(), Stages())
    assert [type(condition) for condition in sampler._conditions(clip.frames[:17], 0, None)] == [FirstFrame]
    continuation, anchor = sampler._conditions(clip.frames[14:25], 14, clip.frames[14:17])
    assert isinstance(continuation, Continuation) and isinstance(anchor, Anchor) and anchor.source is None


def latents(frames: int, value: float = 1.0) -> Tensor:
    return torch.full((1, 3, frames, 2, 2), value)


def test_continuation_of_one_frame_is_a_first_frame() -> None:
    one, other = (build(latents(4), 25, [c(latents(1, 7.0))], temporal=2) for c in (Continuation, FirstFrame))
    assert torch.equal(one.tokens, other.tokens) and torch.equal(one.clean, other.clean)


def test_anchor_and_reference_commute() -> None:
    """The same tokens at the same positions, whichever comes first; only one reference is taken all the same."""
    anchor, reference = Anchor(latents(1, 2.0), latents(1, 3.0), 4), Reference(latents(4, 5.0))
    found = []
    for order in ([anchor, reference], [reference, anchor]):
        sequence = build(latents(4), 25, order, temporal=2)
        rows = torch.cat([sequence.positions[0].T, sequence.tokens[0], sequence.reference[0][:, None]], 1)
        found.append(sorted(map(tuple, rows.tolist())))
        assert sequence.num_reference == 20 and sequence.target[0].sum() == 16
    assert found[0] == found[1]
    with pytest.raises(ValueError, match="one source video"):
        build(latents(4), 25, [anchor, reference, reference], temporal=2)


def test_anchor_lies_before_the_window() -> None:
    with pytest.raises(ValueError, match="at least 1 is needed"):
        build(latents(4), 25, [Anchor(latents(1), None, 0)], temporal=2)


def test_more_than_the_window_cannot_be_continued() -> None:
    with pytest.raises(ValueError, match="do not fit"):
        build(latents(4), 25, [Continuation(latents(5))], temporal=2)


def test_progress_runs_once_over_all_windows() -> None:
    """Three windows of two steps: 0 to 6 of 6, never back; every stage ends full."""
    made, _ = editor()
    told: list[tuple[str, int, int]] = []
    clip = grey_clip(40)
    made.edit(clip, clip.frames[0], steps=2, progress=lambda *step: told.append(step))
    denoising = [(done, total) for stage, done, total in told if stage == "Denoising"]
    assert [done for done, _ in denoising] == sorted(done for done, _ in denoising)
    assert denoising[0] == (0, 6) and denoising[-1] == (6, 6)
    last = {stage: (done, total) for stage, done, total in told}
    assert all(done == total for done, total in last.values())
