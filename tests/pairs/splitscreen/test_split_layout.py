"""The canvas of two halves: sizes, cutting at the seam, and a bar that moves, leaks or is gone."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from synclora.clip import Clip, read_clip, write_clip
from synclora.errors import SyncloraError
from synclora.pairs.splitscreen.layout import Frames, Layout, Picture, compose, measure_seam, split
from synclora.portraits import TEST_SEED_START, apply_edit, render, sample_motion, sample_person

FRAMES = 9
LAYOUT = Layout.of(width=112, height=112, trim=8, gutter=16, multiple=16)


@pytest.fixture(scope="module")
def talk() -> tuple[Frames, Frames]:
    """A person and the edited person under one motion, 128 px: both halves of a perfect video."""
    seed = TEST_SEED_START + 61
    person, motion = sample_person(seed), sample_motion(seed, FRAMES, 25.0)
    people = (person, apply_edit(person, "background", seed))
    left, right = (render(one, motion, 128).numpy() for one in people)
    return left, right


def video(talk: tuple[Frames, Frames]) -> tuple[Frames, Picture, int]:
    composed = [compose(*halves, LAYOUT) for halves in zip(*talk, strict=True)]
    grey = composed[0][1]
    frames = np.stack([compose_with(left, right, grey) for left, right in zip(*talk, strict=True)])
    return frames, composed[0][0], grey


def compose_with(left: Picture, right: Picture, grey: int) -> Picture:
    bar = np.full((LAYOUT.half[1], LAYOUT.gutter, 3), grey, np.uint8)
    return np.concatenate([left, bar, right], axis=1)


@pytest.mark.parametrize(
    ("size", "trim", "gutter", "multiple", "canvas", "bar"),
    [
        ((512, 512), 16, 32, 32, (1120, 544), 32),
        ((480, 480), 16, 16, 32, (1056, 512), 32),
        ((512, 512), 0, 0, 16, (1024, 512), 0),
        ((480, 512), 16, 8, 16, (1040, 544), 16),
    ],
)
def test_the_bar_grows_until_the_canvas_fits(
    size: tuple[int, int], trim: int, gutter: int, multiple: int, canvas: tuple[int, int], bar: int
) -> None:
    layout = Layout.of(*size, trim, gutter, multiple)
    assert (layout.canvas, layout.gutter) == (canvas, bar)
    assert layout.canvas[0] % multiple == layout.canvas[1] % multiple == 0


def test_a_height_that_cannot_fit_is_told_with_a_trim_that_does() -> None:
    with pytest.raises(SyncloraError, match=r"520 px high; .* multiple of 32\. Set trim: 16"):
        Layout.of(512, 512, 4, 0, 32)


def test_splitting_gives_back_what_was_composed(talk: tuple[Frames, Frames]) -> None:
    """Exactly: the halves without the trim, left and right."""
    frames, canvas, _ = video(talk)
    assert (canvas == frames[0]).all()
    left, right = split(frames, LAYOUT)
    assert left.shape == right.shape == (FRAMES, 112, 112, 3)
    assert (left == talk[0][:, 8:-8, 8:-8]).all() and (right == talk[1][:, 8:-8, 8:-8]).all()


@pytest.mark.parametrize(("left", "right", "grey"), [(255, 240, 0), (10, 20, 255), (0, 255, 128), (128, 120, 255)])
def test_the_bar_stands_out_from_both_borders(left: int, right: int, grey: int) -> None:
    """Of black, middle grey and white the one farthest from the nearer of both borders."""
    halves = [np.full((128, 128, 3), value, np.uint8) for value in (left, right)]
    assert compose(halves[0], halves[1], LAYOUT)[1] == grey


def test_a_bar_that_stays_is_found_in_place_after_encoding(talk: tuple[Frames, Frames], tmp_path: Path) -> None:
    """Also through H.264 as the raw videos are stored: within 0.3 px, leak below 0.01, no frame bad."""
    frames, canvas, grey = video(talk)
    write_clip(tmp_path / "raw.mp4", Clip(torch.from_numpy(frames), Fraction(25)), crf=4, audio=False)
    seam = measure_seam(read_clip(tmp_path / "raw.mp4").frames.numpy(), canvas, LAYOUT, grey)
    assert seam.shift is not None and np.abs(seam.shift).max() < 0.3
    assert seam.leak is not None and seam.leak.max() < 0.01
    assert seam.first_bad(1.0, 0.05) is None


@pytest.mark.parametrize("by", [-5, 4])
def test_a_bar_that_moves_is_measured_and_its_frame_named(talk: tuple[Frames, Frames], by: int) -> None:
    """From frame 4 on the whole canvas is moved sideways by so many pixels."""
    frames, canvas, grey = video(talk)
    frames[4:] = np.roll(frames[4:], by, axis=2)
    seam = measure_seam(frames, canvas, LAYOUT, grey)
    assert seam.shift is not None
    assert np.abs(seam.shift[:4]).max() < 0.3 and np.abs(seam.shift[4:] - by).max() < 0.3
    bad = seam.first_bad(1.5, None)
    assert bad is not None and bad[0] == 4 and f"moved by {by:+d}.0 px in frame 4" in bad[1]


def test_a_bar_that_is_painted_over_is_gone(talk: tuple[Frames, Frames]) -> None:
    """Frame 6 is one portrait across the whole canvas."""
    frames, canvas, grey = video(talk)
    wide = np.repeat(talk[0][6], 3, axis=1)[:, 40:]
    frames[6] = wide[:, : frames.shape[2]]
    seam = measure_seam(frames, canvas, LAYOUT, grey)
    bad = seam.first_bad(1.5, 0.08)
    assert bad is not None and bad[0] == 6
    assert seam.leak is not None and seam.leak[6] > 0.1 > 0.01 > seam.leak[5]


def test_what_leaks_into_the_bar_is_measured(talk: tuple[Frames, Frames]) -> None:
    """Frame 3: the bar takes on half of the colour 60 away from its grey: 30 of 255."""
    frames, canvas, grey = video(talk)
    other = grey + 60 if grey < 128 else grey - 60
    bar = slice(LAYOUT.half[0], LAYOUT.half[0] + LAYOUT.gutter)
    frames[3, :, bar] = (grey + other) // 2
    seam = measure_seam(frames, canvas, LAYOUT, grey)
    assert seam.leak is not None and seam.leak[3] == pytest.approx(30 / 255, abs=1e-6)
    bad = seam.first_bad(None, 0.08)
    assert bad is not None and bad[0] == 3 and "leaks into the bar" in bad[1]
    assert seam.first_bad(None, None) is None


def test_without_contrast_the_seam_is_not_judged() -> None:
    """Two halves of one grey and no bar: no edge to look for, no shift told."""
    layout = Layout.of(112, 112, 8, 0, 16)
    flat = np.full((128, 128, 3), 100, np.uint8)
    canvas, grey = compose(flat, flat, layout)
    seam = measure_seam(canvas[None].repeat(2, 0), canvas, layout, grey)
    assert seam.shift is None and seam.leak is None and seam.first_bad(0.5, 0.01) is None
