"""Motion signals from landmarks whose motion is known exactly."""

from __future__ import annotations

import json
from fractions import Fraction

import numpy as np
import pytest

from synclora.errors import SyncloraError
from synclora.faces import signals as s
from synclora.faces.signals import Blink, MotionSignals, find_blinks, signals_from_landmarks

FRAMES = 40


def head() -> np.ndarray:
    """A made-up face [478, 3] that is its own mirror image, looking into the camera; eye corners 2 apart."""
    points = np.random.default_rng(0).normal(size=(478, 3))
    points[:, 2] *= 0.5
    places = {0: (1.0, 0.0, 0.2), 1: (0.4, 0.0, 0.1)}
    for k, (left, right) in enumerate(zip(s.LEFT_SIDE, s.RIGHT_SIDE, strict=True)):
        points[right] = (0.3 + 0.1 * k, -1 + 0.15 * k, 0.05 * k)
        points[left] = points[right] * [-1, 1, 1]
    for k, index in enumerate(s.MIDLINE):
        points[index] = (0, -1.5 + 0.2 * k, -0.3)
    for (outer, inner), sign in (((33, 133), -1), ((263, 362), 1)):
        points[outer] = np.array(places[0]) * [sign, 1, 1]
        points[inner] = np.array(places[1]) * [sign, 1, 1]
    for lids, middle in ((s.LEFT_LIDS, -0.7), (s.RIGHT_LIDS, 0.7)):
        for k, (upper, lower) in enumerate(lids):
            points[upper], points[lower] = (middle + 0.1 * k, -0.15, 0), (middle + 0.1 * k, 0.15, 0)
    points[468], points[473] = (-0.7, 0, 0.15), (0.7, 0, 0.15)
    for k, (upper, lower) in enumerate(s.LIPS):
        points[upper], points[lower] = (0.1 * k - 0.2, 1.0, -0.2), (0.1 * k - 0.2, 1.0, -0.2)
    points[61], points[291] = (-0.5, 1, 0), (0.5, 1, 0)
    return points


def rotation(yaw: float, pitch: float, roll: float) -> np.ndarray:
    """Degrees in the module's signs: the nose (0, 0, -1) goes right with yaw and up (-y) with pitch; roll clockwise."""
    a, b, c = np.radians([yaw, pitch, roll])
    about_y = np.array([[np.cos(a), 0, -np.sin(a)], [0, 1, 0], [np.sin(a), 0, np.cos(a)]])
    about_x = np.array([[1, 0, 0], [0, np.cos(b), np.sin(b)], [0, -np.sin(b), np.cos(b)]])
    about_z = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    return about_y @ about_x @ about_z


def moving(mouth: np.ndarray, yaw: np.ndarray, pitch: np.ndarray, roll: np.ndarray) -> np.ndarray:
    frames = []
    for k in range(len(mouth)):
        points = head()
        points[s.LIPS[:, 1], 1] += 2 * mouth[k]  # the unit is the eye corners' distance, 2 here
        points = 50 * (1 + 0.002 * k) * points @ rotation(yaw[k], pitch[k], roll[k]).T + [200 + k, 150, 0]
        frames.append(points)
    return np.stack(frames)


@pytest.fixture(scope="module")
def curves() -> dict[str, np.ndarray]:
    t = np.arange(FRAMES) / FRAMES * 2 * np.pi
    return {
        "mouth": 0.1 + 0.08 * np.sin(5 * t),
        "yaw": 25 * np.sin(t),
        "pitch": 12 * np.cos(2 * t),
        "roll": 10 * np.sin(3 * t),
    }


@pytest.fixture(scope="module")
def signals(curves: dict[str, np.ndarray]) -> MotionSignals:
    return signals_from_landmarks(moving(**curves), 25)


@pytest.mark.parametrize("name", ["mouth", "yaw", "roll"])
def test_known_motion_is_read_back(signals: MotionSignals, curves: dict[str, np.ndarray], name: str) -> None:
    """x = s R(yaw, pitch, roll) head + t: gap, yaw and roll come back exactly, whatever the other angles do."""
    np.testing.assert_allclose(getattr(signals, name), curves[name], atol=1e-6)


def test_pitch_up_to_the_zero(signals: MotionSignals, curves: dict[str, np.ndarray]) -> None:
    """Pitch has the right sign and size; its zero is the tilt of the face's own midline, here not vertical."""
    offset = signals.pitch - curves["pitch"]
    np.testing.assert_allclose(offset, offset.mean(), atol=1e-6)


def test_turning_the_head_is_not_talking(curves: dict[str, np.ndarray]) -> None:
    """With the lips at rest, 25 degrees of yaw leave the measured gap, lids, gaze and brows constant."""
    still = signals_from_landmarks(moving(**{**curves, "mouth": np.full(FRAMES, 0.1)}), 25)
    for name in ("mouth", "mouth_width", "eye_left", "eye_right", "gaze_x", "gaze_y", "brows"):
        assert np.ptp(getattr(still, name)) < 1e-9, name
    assert np.ptp(still.yaw) > 40


def test_gaze_signs_and_hidden_irises() -> None:
    """Irises moved right and up give positive gaze; with the lids shut gaze is NaN and nothing else is."""
    points = np.stack([head() for _ in range(8)])
    points[2, [468, 473]] += [0.2, -0.1, 0]
    for lids in (s.LEFT_LIDS, s.RIGHT_LIDS):
        points[5, lids[:, 0], 1] = points[5, lids[:, 1], 1]
    signals = signals_from_landmarks(points, 25)
    np.testing.assert_allclose(signals.gaze_x[2] - signals.gaze_x[0], 0.1, atol=1e-9)
    np.testing.assert_allclose(signals.gaze_y[2] - signals.gaze_y[0], 0.05, atol=1e-9)
    assert np.flatnonzero(np.isnan(signals.gaze_x)).tolist() == [5]
    assert signals.found.all() and np.isfinite(signals.mouth).all()
    assert signals.blinks() == [Blink(5, 1)]


def test_left_and_right_are_the_pictures() -> None:
    """Shutting the eye on the picture's left (x < 0) closes eye_left only."""
    points = np.stack([head(), head()])
    points[1, s.LEFT_LIDS[:, 0], 1] = points[1, s.LEFT_LIDS[:, 1], 1]
    signals = signals_from_landmarks(points, 25)
    assert signals.eye_left[1] == pytest.approx(0) and signals.eye_right[1] == pytest.approx(0.15)


def test_frames_without_a_face_are_nan(curves: dict[str, np.ndarray], signals: MotionSignals) -> None:
    """NaN exactly where the landmarks are; the other frames as without the gap."""
    points = moving(**curves)
    points[7:9] = np.nan
    gapped = signals_from_landmarks(points, 25)
    for name in MotionSignals.names():
        assert np.flatnonzero(np.isnan(getattr(gapped, name))).tolist() == [7, 8], name
    np.testing.assert_allclose(gapped.mouth[9:], signals.mouth[9:], atol=1e-9)
    nothing = signals_from_landmarks(np.full((3, 478, 3), np.nan), 25)
    assert not nothing.found.any() and nothing.blinks() == []


def test_json_round_trip_and_slices(signals: MotionSignals) -> None:
    """to_dict is JSON without NaN, from_dict its inverse to 6 digits; slicing keeps the arrays together."""
    holed = MotionSignals(Fraction(30000, 1001), **{n: getattr(signals, n).copy() for n in MotionSignals.names()})
    holed.mouth[3] = np.nan
    back = MotionSignals.from_dict(json.loads(json.dumps(holed.to_dict(), allow_nan=False)))
    assert back.fps == Fraction(30000, 1001)
    np.testing.assert_allclose(back.mouth, holed.mouth, atol=1e-6)
    assert signals[5:15].num_frames == 10 and signals[5:15].yaw[0] == signals.yaw[5]


def test_blink_onset_does_not_depend_on_depth() -> None:
    """Onset = first frame past half of the blink's own depth: equal for a full blink and one of 60 % depth."""
    shape = np.zeros(60)
    shape[20:27] = [0.2, 0.6, 1, 1, 0.8, 0.4, 0.1]
    full, shallow = find_blinks(0.1 * (1 - shape)), find_blinks(0.1 * (1 - 0.6 * shape))
    assert full == shallow == [Blink(21, 4)]


def test_blinks_at_the_ends_and_squints() -> None:
    """A clip may start or end shut; a squint to 70 % is no blink."""
    opening = np.full(50, 0.1)
    opening[:2] = opening[-3:] = 0
    opening[20:30] = 0.07
    assert find_blinks(opening) == [Blink(0, 2), Blink(47, 3)]


def test_wrong_shapes_are_named() -> None:
    with pytest.raises(SyncloraError, match=r"\[4, 468, 3\].*478"):
        signals_from_landmarks(np.zeros((4, 468, 3)), 25)
