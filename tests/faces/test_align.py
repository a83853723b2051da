"""One portrait laid onto another: moves of known size are found and undone, edits and strangers notwithstanding."""

from __future__ import annotations

import dataclasses
import math

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from synclora import portraits
from synclora.errors import SyncloraError
from synclora.faces.align import Alignment, align, align_background
from synclora.portraits import TEST_SEED_START

SIDE = 256
SEED = TEST_SEED_START + 50


def still(seed: int, **curves: float) -> portraits.Motion:
    """One frame of a motion, with some curves set."""
    motion = portraits.sample_motion(seed, 9)[:1]
    return dataclasses.replace(motion, **{name: torch.tensor([value]) for name, value in curves.items()})


def drawn(person: portraits.Person, motion: portraits.Motion) -> Tensor:
    return portraits.render(person, motion, size=SIDE)[0]


def moved(picture: Tensor, x: float, y: float, scale: float, degrees: float) -> tuple[Tensor, np.ndarray]:
    """The picture enlarged and turned (top to the right) about its middle and shifted, and the matrix that does it."""
    turn = math.radians(degrees)
    linear = scale * np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    middle = np.array([SIDE, SIDE]) / 2
    matrix = np.column_stack([linear, middle + np.array([x, y]) - linear @ middle])
    shifted = matrix.copy()
    shifted[:, 2] += linear @ [0.5, 0.5] - 0.5
    border = cv2.BORDER_REFLECT_101
    return torch.from_numpy(
        cv2.warpAffine(picture.numpy(), shifted, (SIDE, SIDE), flags=cv2.INTER_CUBIC, borderMode=border)
    ), matrix


def apart(one: Tensor, other: Tensor) -> float:
    """Mean difference of grey levels away from the borders."""
    inner = slice(SIDE // 8, -SIDE // 8)
    return float((one[inner, inner].float() - other[inner, inner].float()).abs().mean())


MOVES = [(9.0, -7.0, 1.05, 3.5), (-10.0, 4.0, 0.95, -4.0), (5.0, 8.0, 1.0, 1.0)]


@pytest.mark.parametrize(
    ("kind", "move"), [*zip(("hat", "beard", "hair_color"), MOVES, strict=True), ("skin", MOVES[0])]
)
def test_a_known_move_of_an_edited_portrait_is_undone(kind: str, move: tuple[float, ...]) -> None:
    """Shift within 1 px (the aligned picture differs from the unmoved edit by less than a third of what a 1 px shift
    makes), scale within 0.5 %, angle within 0.2 degrees, though the edit itself displaces the landmarks."""
    person, motion = portraits.sample_person(SEED), still(SEED)
    onto = drawn(person, motion)
    edited = drawn(portraits.apply_edit(person, kind, SEED), motion)
    picture, _ = moved(edited, *move)
    found = align(picture, onto)
    assert found is not None and found.applied and found.small
    assert found.scale == pytest.approx(1 / move[2], abs=0.005)
    assert found.degrees == pytest.approx(-move[3], abs=0.2)
    assert apart(found.picture, edited) < apart(torch.roll(edited, 1, 1), edited) / 3
    assert apart(picture, edited) > 3 * apart(found.picture, edited)
    yaw, pitch, roll = found.pose_difference
    assert roll == pytest.approx(move[3], abs=1) and abs(yaw) < 3 and abs(pitch) < 4


def test_the_distance_is_the_true_one_over_the_face() -> None:
    """A pure shift of (6, -8) px moves everything by 10 px."""
    onto = drawn(portraits.sample_person(SEED), still(SEED))
    found = align(moved(onto, 6, -8, 1, 0)[0], onto)
    assert found is not None and found.moved_px == pytest.approx(10, abs=0.2)


@pytest.mark.parametrize("kind", ["hat", "age"])
def test_an_edit_in_its_place_is_left_bit_for_bit(kind: str) -> None:
    """An edit alone displaces the landmarks by more than a pixel; nothing is moved for that."""
    person, motion = portraits.sample_person(SEED + 3), still(SEED + 3)
    edited = drawn(portraits.apply_edit(person, kind, SEED), motion)
    found = align(edited, drawn(person, motion))
    assert found is not None and not found.applied and found.small
    assert found.moved_px < 0.3 and torch.equal(found.picture, edited)


def test_another_pose_is_told_in_degrees() -> None:
    """A head turned by 16 degrees more reads as a yaw difference of 16 within 5, and not as a turn in the plane."""
    person = portraits.sample_person(SEED + 1)
    poses = [still(SEED + 1, yaw=yaw, pitch=0.0, roll=0.0, shift_x=0.0, shift_y=0.0) for yaw in (-8.0, 8.0)]
    found = align(drawn(person, poses[1]), drawn(person, poses[0]))
    assert found is not None
    assert found.pose_difference[0] == pytest.approx(16, abs=5) and abs(found.degrees) < 3


def test_more_than_a_small_correction_is_not_made() -> None:
    """A head drawn 30 % larger is measured and told, and the picture left as it is."""
    onto = drawn(portraits.sample_person(SEED), still(SEED))
    picture, _ = moved(onto, 0, 0, 1.3, 0)
    found = align(picture, onto)
    assert found is not None and not found.small and not found.applied
    assert found.scale == pytest.approx(1 / 1.3, abs=0.03) and torch.equal(found.picture, picture)


def faceless(seed: int) -> Tensor:
    """Smooth random shapes, uint8 [SIDE, SIDE, 3]."""
    noise = torch.rand(1, 3, 24, 24, generator=torch.Generator().manual_seed(seed))
    picture = torch.nn.functional.interpolate(noise, size=(SIDE, SIDE), mode="bicubic")[0]
    return (picture.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous()


def test_without_a_face_the_background_is_laid_onto_the_other() -> None:
    """A third of the picture is painted over; shift, scale and angle are found as closely as with a face."""
    onto = faceless(TEST_SEED_START)
    edited = onto.clone()
    edited[60:200, 80:170] = torch.tensor([200, 40, 40], dtype=torch.uint8)
    picture, matrix = moved(edited, *MOVES[0])
    assert align(picture, onto) is None
    found = align_background(picture, onto)
    assert found is not None and found.applied
    assert found.scale == pytest.approx(1 / 1.05, abs=0.003) and found.degrees == pytest.approx(-3.5, abs=0.1)
    assert apart(found.picture, edited) < apart(torch.roll(edited, 1, 1), edited) / 3
    corners = np.array([[0, 0], [SIDE, 0], [0, SIDE], [SIDE, SIDE]])
    away = np.linalg.norm(corners @ matrix[:, :2].T + matrix[:, 2] - corners, axis=1)
    assert 0.3 * away.mean() < found.moved_px < away.max()
    assert all(math.isnan(angle) for angle in found.pose_difference)


def test_pictures_with_nothing_in_common_are_not_aligned() -> None:
    assert align_background(faceless(TEST_SEED_START), faceless(TEST_SEED_START + 1)) is None


def test_pictures_of_two_sizes_are_refused() -> None:
    with pytest.raises(SyncloraError, match=r"\[256, 256, 3\] and \[128, 256, 3\]"):
        align(faceless(TEST_SEED_START), faceless(TEST_SEED_START)[:128])


def test_alignment_is_frozen() -> None:
    found = align_background(faceless(TEST_SEED_START), faceless(TEST_SEED_START))
    assert isinstance(found, Alignment) and not found.applied and found.moved_px < 0.05
