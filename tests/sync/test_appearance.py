"""Looks over time: what an edit does to every frame alike is no fault; flicker and another face are, by their size."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray

from synclora import portraits
from synclora.errors import SyncloraError
from synclora.faces import track
from synclora.portraits import TEST_SEED_START
from synclora.sync.appearance import Appearance, appearance

FRAMES, SIZE = 17, 128
SEED = TEST_SEED_START + 41
FLICKER, CHANGE = 0.012, 0.09  # what a steady clip stays below


@dataclass(frozen=True)
class Shot:
    frames: NDArray[np.uint8]
    landmarks: NDArray[np.float64]

    def then(self, other: Shot, frame: int) -> Shot:
        """This clip up to a frame, and another from there on."""
        return Shot(
            *(np.concatenate([getattr(self, n)[:frame], getattr(other, n)[frame:]]) for n in ("frames", "landmarks"))
        )

    def gained(self, gain: NDArray[np.float64]) -> Shot:
        """The clip with each frame's colours [F, 3] multiplied."""
        return Shot(np.clip(self.frames * gain[:, None, None] + 0.5, 0, 255).astype(np.uint8), self.landmarks)


def look(source: Shot, edited: Shot) -> Appearance:
    return appearance(source.frames, edited.frames, source.landmarks, edited.landmarks)


def shoot(person: portraits.Person) -> Shot:
    frames = portraits.render(person, portraits.sample_motion(SEED, FRAMES, 25.0), SIZE).numpy()
    return Shot(frames, track(frames))


@pytest.fixture(scope="module")
def person() -> portraits.Person:
    return portraits.sample_person(SEED)


@pytest.fixture(scope="module")
def source(person: portraits.Person) -> Shot:
    return shoot(person)


@pytest.fixture(scope="module")
def other() -> Shot:
    """Somebody else in the same motion."""
    return shoot(portraits.sample_person(SEED + 2))


def test_a_clip_against_itself_changes_nothing(source: Shot) -> None:
    assert look(source, source) == Appearance(0.0, 0.0, 3, FRAMES)


@pytest.mark.parametrize("kind", ["hat", "skin", "light"])
def test_an_edit_that_lasts_is_no_fault(kind: str, person: portraits.Person, source: Shot) -> None:
    result = look(source, shoot(portraits.apply_edit(person, kind, SEED)))
    assert result.flicker is not None and result.flicker < FLICKER
    assert result.change is not None and result.change < CHANGE


def test_another_person_from_start_to_end_is_no_fault(source: Shot, other: Shot) -> None:
    result = look(source, other)
    assert result.flicker is not None and result.flicker < FLICKER
    assert result.change is not None and result.change < CHANGE


@pytest.mark.parametrize("frame", [6, 9, 12])
def test_a_face_that_turns_into_another_is_found_with_its_frame(source: Shot, other: Shot, frame: int) -> None:
    """Cut from one person to another: at least twice a steady clip's change, and the cut's frame to one."""
    result = look(source, source.then(other, frame))
    assert result.change is not None and result.change > 2 * CHANGE
    assert result.change_at is not None and abs(result.change_at - frame) <= 1


def test_flicker_is_the_deviation_of_the_jitter(source: Shot) -> None:
    """Normal gains of deviation s on each frame measure as s less what DARK takes off, in rising order."""
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((FRAMES, 1)) * np.ones(3)
    measured = [look(source, source.gained(1 + s * noise)).flicker or 0.0 for s in (0.01, 0.02, 0.05, 0.1)]
    assert measured == sorted(measured)
    exact = float(np.sqrt((np.diff(noise[:, 0], n=2) ** 2).mean() / 6))
    for s, value in zip((0.02, 0.05, 0.1), measured[1:], strict=True):
        assert 0.6 < value / (s * exact) < 1.25
    coloured = 1 + 0.05 * rng.standard_normal((FRAMES, 3))  # of each channel by itself
    assert (look(source, source.gained(coloured)).flicker or 0.0) > 0.03


def test_flicker_of_the_face_alone_and_of_the_surroundings_alone_both_count(source: Shot) -> None:
    gain = 1 + 0.06 * np.random.default_rng(1).standard_normal((FRAMES, 1)) * np.ones(3)
    flickering = source.gained(gain).frames
    centre = source.landmarks[:, 168, :2]
    y, x = np.mgrid[:SIZE, :SIZE]
    inside = np.hypot(x - centre[:, :1, None], y - centre[:, 1:, None])[..., None] < SIZE * 0.28
    for mask in (inside, ~inside):
        mixed = Shot(np.where(mask, flickering, source.frames), source.landmarks)
        assert (look(source, mixed).flicker or 0.0) > 1.5 * FLICKER


def test_frames_without_a_face_are_left_out(source: Shot, other: Shot) -> None:
    """Two lost frames change nothing; with no face at all, only the whole picture's flicker is known."""
    lost = Shot(source.frames, source.landmarks.copy())
    lost.landmarks[7:9] = np.nan
    result = look(lost, lost.then(other, 11))
    assert result.frames == FRAMES - 2 and (result.change or 0) > CHANGE and result.change_at in (10, 11, 12)
    lost.landmarks[:] = np.nan
    nothing = look(lost, source)
    assert (nothing.flicker, nothing.change, nothing.change_at, nothing.frames) == (0.0, None, None, 0)


def test_the_sizes_of_the_clips_may_differ(source: Shot) -> None:
    """A clip against itself at twice the size: next to nothing changes."""
    twice = Shot(source.frames.repeat(2, axis=1).repeat(2, axis=2), source.landmarks * 2 + 0.5)
    result = look(source, twice)
    assert (result.flicker or 0) < 0.004 and (result.change or 0) < 0.02


def test_json_round_trip(source: Shot, other: Shot) -> None:
    result = look(source, other)
    assert Appearance.from_json(result.to_json()) == result


def test_unequal_lengths_are_told(source: Shot) -> None:
    with pytest.raises(SyncloraError, match=r"frames|lengths"):
        appearance(source.frames, source.frames[:5], source.landmarks, source.landmarks[:5])
