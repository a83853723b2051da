"""The head's pose read from pictures of a drawn surface whose pose is known exactly."""

from __future__ import annotations

import numpy as np
import pytest

from synclora.faces import register as r
from synclora.faces.head import Head, angles, turned
from synclora.faces.irises import EYES

FRAMES, SIDE, UNIT = 8, 160, 90.0


def depth(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """A dome with a nose, nearest (least z) in the middle."""
    return 0.5 * x**2 + 0.3 * y**2 - 0.25 * np.exp(-((x / 0.12) ** 2) - ((y - 0.2) / 0.2) ** 2)


def landmarks() -> np.ndarray:
    """478 points of the dome, with lids and brows where faces have them."""
    own = np.random.default_rng(1).uniform(-0.8, 0.8, (478, 3))
    for (upper, lower), middle in zip(EYES, (-0.35, 0.35), strict=True):
        own[upper, 0] = own[lower, 0] = middle + np.linspace(-0.15, 0.15, 9)
        own[upper, 1], own[lower, 1] = -0.05, 0.05
    own[r.LOW_BROWS, 0], own[r.LOW_BROWS, 1] = np.linspace(-0.5, 0.5, len(r.LOW_BROWS)), -0.2
    own[:, 2] = depth(own[:, 0], own[:, 1])
    return own


def drawn(head: Head, brows: np.ndarray) -> np.ndarray:
    """Pictures [F, S, S, 3] of a patterned dome in the head's poses; above the brows the pattern moves by `brows`."""
    pixels = np.stack(np.meshgrid(np.arange(SIDE) + 0.5, np.arange(SIDE) + 0.5), axis=-1).reshape(-1, 2)
    pictures = []
    for axes, unit, middle, lift in zip(head.axes, head.unit, head.middle, brows, strict=True):
        place = np.zeros_like(pixels)
        for _ in range(30):  # parallel rays onto the surface
            behind = np.outer(depth(*place.T), axes[:2, 2])
            place = np.linalg.solve(axes[:2, :2], ((pixels - middle[:2]) / unit - behind).T).T.clip(-1.2, 1.2)
        x, y = place.T
        y = np.where(y < -0.22, y - lift, y)
        light = np.sin(23 * x + 3 * y) + np.sin(19 * y - 5 * x) + np.sin(11 * (x + y))
        pictures.append((128 + 25 * light).round().astype(np.uint8).reshape(SIDE, SIDE))
    return np.repeat(np.stack(pictures)[..., None], 3, axis=-1)


def posed(turns: np.ndarray, moves: np.ndarray) -> Head:
    """turns: degrees [F, 3] (yaw, pitch, roll); moves: [F, 3] of eye distances in x and y, and of size."""
    own = np.tile(landmarks(), (FRAMES, 1, 1))
    middle = np.column_stack([SIDE / 2 + UNIT * moves[:, :2], np.zeros(FRAMES)])
    return Head(own, turned(*turns.T), UNIT * np.exp(moves[:, 2]), middle)


@pytest.fixture(scope="module")
def cases() -> tuple[Head, Head]:
    """The true head, and the mesh's: off by 1.5 degrees and 1 % at random."""
    random = np.random.default_rng(0)
    turns, moves = random.uniform(-1, 1, (FRAMES, 3)) * [15, 8, 6], random.uniform(-0.03, 0.03, (FRAMES, 3))
    off = random.normal(size=(FRAMES, 6)) * [1.5, 1.5, 1, 0.01, 0.01, 0.01]
    return posed(turns, moves), posed(turns + off[:, :3], moves + off[:, 3:])


def errors(found: Head, true: Head) -> np.ndarray:
    """Deviation over the frames of yaw, pitch, roll (degrees), x, y (eye distances) and size from the true ones."""
    apart = [a - b for a, b in zip(angles(found.axes), angles(true.axes), strict=True)]
    apart += [*(found.middle - true.middle)[:, :2].T / UNIT, found.unit / true.unit]
    return np.std(apart, axis=1)


def test_a_wrong_pose_is_mended(cases: tuple[Head, Head]) -> None:
    """Errors of 1.5 degrees and 1 % of the eye distance fall to a third or less in all six motions."""
    true, mesh = cases
    found = r.register(drawn(true, np.zeros(FRAMES)), mesh)
    assert (errors(found, true) < errors(mesh, true) / 3).all(), (errors(found, true), errors(mesh, true))
    np.testing.assert_allclose(found.to_picture(found.own), mesh.to_picture(mesh.own), atol=1e-6)


def test_a_moving_forehead_is_no_nod(cases: tuple[Head, Head]) -> None:
    """A forehead that slides up and down by 4 % of the eye distance changes no angle by more than 0.25 degrees."""
    true, mesh = cases
    still = r.register(drawn(true, np.zeros(FRAMES)), mesh)
    sliding = r.register(drawn(true, 0.04 * np.cos(np.arange(FRAMES))), mesh)
    for name, one, other in zip(("yaw", "pitch", "roll"), angles(still.axes), angles(sliding.axes), strict=True):
        np.testing.assert_allclose(one, other, atol=0.25, err_msg=name)


def test_order_of_frames_does_not_matter(cases: tuple[Head, Head]) -> None:
    """Played backwards, each frame has the same pose: nothing moves in time."""
    true, mesh = cases
    frames = drawn(true, np.zeros(FRAMES))
    forwards = r.register(frames, mesh)
    backwards = r.register(frames[::-1], Head(mesh.own[::-1], mesh.axes[::-1], mesh.unit[::-1], mesh.middle[::-1]))
    np.testing.assert_allclose(backwards.axes[::-1], forwards.axes, atol=1e-4)
    np.testing.assert_allclose(backwards.middle[::-1], forwards.middle, atol=1e-2)


def test_without_a_pattern_the_mesh_is_all_there_is(cases: tuple[Head, Head]) -> None:
    """Pictures of one grey leave the pose as it was."""
    _, mesh = cases
    blank = np.full((FRAMES, SIDE, SIDE, 3), 90, np.uint8)
    np.testing.assert_allclose(r.register(blank, mesh).axes, mesh.axes, atol=1e-6)
    np.testing.assert_allclose(r.register(blank, mesh).middle, mesh.middle, atol=1e-6)


def test_a_face_cut_by_the_border_of_the_picture(cases: tuple[Head, Head]) -> None:
    """A head half outside, or far smaller than the map, gives finite poses."""
    true, mesh = cases
    frames = drawn(true, np.zeros(FRAMES))
    for head in (
        Head(mesh.own, mesh.axes, mesh.unit, mesh.middle + np.array([SIDE / 2, -SIDE / 2, 0])),
        Head(mesh.own, mesh.axes, mesh.unit / 20, mesh.middle),
        Head(mesh.own, mesh.axes, mesh.unit * 5, mesh.middle),
    ):
        found = r.register(frames, head)
        assert np.isfinite(found.axes).all() and np.isfinite(found.own).all() and np.isfinite(found.middle).all()
