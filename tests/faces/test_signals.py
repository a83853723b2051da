"""Motion signals from landmarks whose motion is known exactly."""

from __future__ import annotations

import json
from fractions import Fraction

import numpy as np
import pytest

from synclora.errors import SyncloraError
from synclora.faces import head as h
from synclora.faces import irises as i
from synclora.faces import signals as s
from synclora.faces.signals import Blink, MotionSignals, find_blinks, signals_from_landmarks

FRAMES = 40


def head() -> np.ndarray:
    """A made-up face [478, 3] that is its own mirror image, looking into the camera; eye corners 2 apart."""
    points = np.random.default_rng(0).normal(size=(478, 3))
    points[:, 2] *= 0.5
    places = {0: (1.0, 0.0, 0.2), 1: (0.4, 0.0, 0.1)}
    for k, (left, right) in enumerate(zip(h.LEFT_SIDE, h.RIGHT_SIDE, strict=True)):
        points[right] = (0.3 + 0.1 * k, -1 + 0.15 * k, 0.05 * k)
        points[left] = points[right] * [-1, 1, 1]
    for k, index in enumerate(h.MIDLINE):  # comes forward from hairline to nose as faces do
        points[index] = (0, -1.5 + 0.2 * k, -0.3 - 0.2 * k * np.tan(np.radians(h.MIDLINE_TILT)))
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
    """Degrees in the module's signs: the nose (0, 0, -1) goes right with yaw and up (-y) with pitch; roll turns the
    picture clockwise."""
    a, b, c = np.radians([yaw, pitch, roll])
    about_y = np.array([[np.cos(a), 0, -np.sin(a)], [0, 1, 0], [np.sin(a), 0, np.cos(a)]])
    about_x = np.array([[1, 0, 0], [0, np.cos(b), np.sin(b)], [0, -np.sin(b), np.cos(b)]])
    about_z = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    return about_z @ about_x @ about_y


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
    """x = s Rz(roll) Rx(pitch) Ry(yaw) head + t: gap, yaw and roll come back exactly, whatever the other angles do."""
    np.testing.assert_allclose(getattr(signals, name), curves[name], atol=1e-6)


def test_pitch_without_what_is_none(signals: MotionSignals, curves: dict[str, np.ndarray]) -> None:
    """pitch = true pitch - 16 deg * lip gap + 0.04 |yaw|: what the mesh takes for pitch is taken away."""
    false = s.PITCH_BY_LIPS * curves["mouth"] + s.PITCH_BY_YAW * abs(curves["yaw"])
    np.testing.assert_allclose(signals.pitch, curves["pitch"] - false, atol=1e-6)


def test_picture_turned_changes_roll_alone() -> None:
    """Rz(a) Rz(roll) Rx(pitch) Ry(yaw): a picture turned by a degrees adds a to roll and nothing to yaw and pitch."""
    level = np.stack([head() @ rotation(yaw, 5, 3).T for yaw in (-20, 0, 15)])
    turned = level @ rotation(0, 0, 12).T
    both = signals_from_landmarks(np.concatenate([level, turned]).astype(np.float64), 25)
    for name, change in (("yaw", 0), ("pitch", 0), ("roll", 12)):
        before, after = np.split(getattr(both, name), 2)
        np.testing.assert_allclose(after - before, change, atol=1e-6, err_msg=name)


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


def test_hidden_parts_and_body_travel_along(signals: MotionSignals) -> None:
    """Slices and JSON keep what is hidden and the body's points; older JSON has neither; hidden eyes do not blink."""
    points = np.arange(2.0 * FRAMES).reshape(FRAMES, 2)
    points[3] = np.nan
    more = signals.including(frozenset({"eyes"}), {"wrist_left": points})
    back = MotionSignals.from_dict(json.loads(json.dumps(more.to_dict(), allow_nan=False)))[2:9]
    assert back.hidden == {"eyes"} and back.blinks() == []
    np.testing.assert_array_equal(back.body["wrist_left"], points[2:9])
    old = {name: values for name, values in more.to_dict().items() if name not in ("hidden", "body")}
    assert MotionSignals.from_dict(old).hidden == frozenset() and MotionSignals.from_dict(old).body == {}
    assert signals.hidden == frozenset(), "the original is left alone"


def eye_picture(iris_x: float, iris_y: float, glint: bool = True) -> np.ndarray:
    """A drawn pair of eyes [200, 400, 3], corners 200 px apart: iris of radius 14 px, cut by lids 22 px apart."""
    y, x = np.mgrid[:200, :400] + 0.5
    picture = np.full((200, 400), 150.0)
    for middle in (130.0, 270.0):
        white = (abs(x - middle) < 30) & (abs(y - 100) < 11)
        iris = np.hypot(x - middle - iris_x, y - 100 - iris_y) < 14
        picture[white] = 220
        picture[white & iris] = 70
        if glint:
            picture[white & (np.hypot(x - middle - iris_x - 5, y - 100 - iris_y + 4) < 3.5)] = 255
    return np.repeat(picture[..., None], 3, axis=-1).round().astype(np.uint8)


def eye_head(frames: int) -> h.Head:
    """Landmarks for `eye_picture`, the mesh's irises always in the middle and a fifth too small."""
    own = np.zeros((frames, 478, 3))
    for (upper, lower), iris, middle in zip(i.EYES, i.IRISES, (-0.35, 0.35), strict=True):
        own[:, upper, 0] = own[:, lower, 0] = middle + np.linspace(-0.15, 0.15, 9)
        own[:, upper[1:-1], 1], own[:, lower[1:-1], 1] = -0.055, 0.055
        own[:, iris, 0] = middle
        own[:, iris + 1 : iris + 5] = own[:, [iris]] + 0.058 * np.array([(1, 0, 0), (0, 1, 0), (-1, 0, 0), (0, -1, 0)])
    return h.Head(
        own, np.tile(np.eye(3), (frames, 1, 1)), np.full(frames, 200.0), np.tile([200.0, 100, 0], (frames, 1))
    )


def test_irises_are_found_in_the_picture() -> None:
    """Drawn irises that move by up to 6 px under glints, the mesh's staying put: both eyes follow with r > 0.97 in x
    and in y, by at least half of the way, and stay within 2 px."""
    moves = np.array([(0, 0), (-6, 0), (6, 0), (0, -3.5), (0, 3.5), (4, -2), (-3, 3)])
    found = i.find_irises(np.stack([eye_picture(*move) for move in moves]), eye_head(len(moves))) * 200
    for eye in (0, 1):
        for axis in (0, 1):
            assert np.corrcoef(found[:, eye, axis], moves[:, axis])[0, 1] > 0.97
            assert 0.5 < np.polyfit(moves[:, axis], found[:, eye, axis], 1)[0] < 1.2
    assert abs(found - moves[:, None]).max() < 2


def test_a_narrow_eye_tells_no_gaze(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lids at half of their usual distance, in every third frame: no iris there, and the same ones in the others."""
    moves = np.array([(-4, 0), (4, 0), (0, 2), (2, 1), (-2, -1), (3, 0)] * 2)
    frames, head = np.stack([eye_picture(*move) for move in moves]), eye_head(len(moves))
    narrow = np.arange(len(moves)) % 3 == 2
    for upper, lower in i.EYES:
        for lid in (upper[1:-1], lower[1:-1]):
            head.own[np.ix_(np.flatnonzero(narrow), lid, np.array([1]))] *= 0.5
    found = i.find_irises(frames, head)
    assert np.isnan(found[narrow]).all() and np.isfinite(found[~narrow]).all()
    assert abs(found[~narrow] * 200 - moves[~narrow, None]).max() < 2
    monkeypatch.setattr(i, "WIDE", 0.0)
    assert np.isfinite(i.find_irises(frames, head)).all()  # something would have been found


def test_without_irises_in_the_picture_the_mesh_is_all_there_is() -> None:
    blank = np.full((4, 200, 400, 3), 90, np.uint8)
    np.testing.assert_array_equal(i.find_irises(blank, eye_head(4)), i.mesh_irises(eye_head(4)))


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
    assert find_blinks(opening, depth=0.75) == [Blink(0, 2), Blink(20, 10), Blink(47, 3)]


def test_wrong_shapes_are_named() -> None:
    with pytest.raises(SyncloraError, match=r"\[4, 468, 3\].*478"):
        signals_from_landmarks(np.zeros((4, 468, 3)), 25)
