"""The baselines that move or colour pixels, on pictures whose true result is known."""

from __future__ import annotations

import numpy as np
import pytest

from synclora import portraits
from synclora.bench import warps
from synclora.faces import LANDMARKS, signals_from_landmarks, track

SIZE = 96


def texture(seed: int, size: int = SIZE) -> np.ndarray:
    """Smooth noise with detail at several scales, uint8 [H, W, 3]."""
    import cv2

    rng = np.random.default_rng(seed)
    picture = np.full((size, size, 3), 128.0)
    for cells in (4, 8, 16, 32):
        picture += cv2.resize(rng.normal(0, 18, (cells, cells, 3)), (size, size), interpolation=cv2.INTER_CUBIC)
    return np.clip(picture, 0, 255).astype(np.uint8)


def error(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a.astype(float) - b).mean())


def test_flow_warp_follows_a_shifted_picture() -> None:
    """A pan of 2 px a frame over 6 frames: the edited frame (colours inverted) arrives 12 px on, within 5 levels where
    it is in view; repeated in place it is 20 or more off."""
    wide = texture(1, 160)
    source = np.stack([wide[20:116, 30 - 2 * t : 126 - 2 * t] for t in range(7)])
    edited = 255 - source[0]
    moved = warps.flow_warp(source, edited)
    assert np.array_equal(moved[0], edited)
    inner = np.s_[12:-12, 20:-12]
    assert error(moved[6][inner], (255 - source[6])[inner]) < 5
    assert error(edited[inner], (255 - source[6])[inner]) > 20


def test_flow_difference_moves_what_was_added_and_keeps_the_rest() -> None:
    """The same pan; the edit halves the light on a disc. It arrives 12 px on, within 1.5 levels of the true picture on
    average; where it never is, the output is the source; a still clip keeps the edited frame exactly."""
    import cv2

    wide = texture(1, 160)
    source = np.stack([wide[20:116, 30 - 2 * t : 126 - 2 * t] for t in range(7)])
    disc = np.zeros((96, 96, 1), np.uint8)
    cv2.circle(disc, (40, 48), 12, (1,), -1)
    edited = np.where(disc, source[0] // 2, source[0])
    made = warps.flow_difference(source, edited)
    assert np.array_equal(made[0], edited)
    truth = np.where(np.roll(disc, 12, 1), source[6] // 2, source[6])
    assert error(made[6], truth) < 1.5 and error(made[6], source[6]) > 2.5
    assert error(made[6][:20], source[6][:20]) < 0.5
    still = np.repeat(source[:1], 3, 0)
    assert np.array_equal(warps.flow_difference(still, edited)[2], edited)


def test_colour_transfer_finds_an_affine_map() -> None:
    """Colours mapped by a matrix that is not symmetric and an offset: every frame to the level, frame 0 exactly."""
    source = np.stack([texture(seed) // 2 + 60 for seed in (3, 4, 5)])
    matrix = np.array([[0.7, 0.2, 0.0], [0.1, 0.6, 0.1], [-0.2, 0.1, 0.9]])
    truth = (source @ matrix.T + [10, 20, -5]).round().clip(0, 255).astype(np.uint8)
    mapped = warps.colour_transfer(source, truth[0])
    assert np.array_equal(mapped[0], truth[0])
    assert np.abs(mapped.astype(int) - truth).max() <= 1


@pytest.fixture(scope="module")
def talking() -> tuple[np.ndarray, np.ndarray]:
    """A rendered person who speaks: 13 frames of 128 px, and their landmarks."""
    frames = portraits.render(
        portraits.sample_person(1_000_003), portraits.sample_motion(1_000_003, 13, 25.0), 128, "cpu"
    )
    return frames.numpy(), track(frames)


def test_mesh_warp_moves_the_lips_and_the_head(talking: tuple[np.ndarray, np.ndarray]) -> None:
    """Warped from its own first frame, a clip's mouth and yaw follow the source's (r above 0.9), and inside the face
    the picture is nearer to the source than the repeated frame is, by a third at least."""
    frames, landmarks = talking
    warped = warps.mesh_warp(frames, frames[0], landmarks)
    source, made = (signals_from_landmarks(points, 25) for points in (landmarks, track(warped)))
    for name in ("mouth", "yaw"):
        r = np.corrcoef(getattr(source, name), getattr(made, name))[0, 1]
        assert r > 0.9, name
    assert np.array_equal(warped[0], frames[0])
    (left, top), (right, bottom) = landmarks[8, :, :2].min(0).astype(int), landmarks[8, :, :2].max(0).astype(int)
    face = np.s_[top:bottom, left:right]
    assert error(warped[8][face], frames[8][face]) < 0.67 * error(frames[0][face], frames[8][face])


def test_mesh_warp_keeps_the_last_warp_where_the_face_is_lost(talking: tuple[np.ndarray, np.ndarray]) -> None:
    frames, landmarks = talking
    lost = landmarks[:5].copy()
    lost[3:] = np.nan
    warped = warps.mesh_warp(frames[:5], frames[0], lost)
    assert np.array_equal(warped[3], warped[2]) and np.array_equal(warped[4], warped[2])
    assert not np.array_equal(warped[2], warped[1])
    nobody = np.full((5, LANDMARKS, 3), np.nan)
    assert (warps.mesh_warp(frames[:5], frames[0], nobody) == frames[0]).all()


def test_mesh_warp_leaves_the_border_and_a_still_face(talking: tuple[np.ndarray, np.ndarray]) -> None:
    """Unmoved landmarks move nothing by more than rounding; moved ones leave the picture's corners where they are."""
    frames, landmarks = talking
    still = warps.mesh_warp(frames[:2], frames[0], np.repeat(landmarks[:1], 2, 0))
    assert np.abs(still[1].astype(int) - frames[0]).max() <= 2
    moved = landmarks[:2].copy()
    moved[1, :, 0] += 6
    warped = warps.mesh_warp(frames[:2], frames[0], moved)
    assert error(warped[1][:2, :2], frames[0][:2, :2]) < 6
    middle = landmarks[0, 5, :2].round().astype(int)
    patch = np.s_[middle[1] - 6 : middle[1] + 6, middle[0] - 6 : middle[0] + 6]
    beside = np.s_[middle[1] - 6 : middle[1] + 6, middle[0] : middle[0] + 12]
    assert error(warped[1][beside], frames[0][patch]) < 4
