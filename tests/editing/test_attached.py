"""What an edit adds to a head: found where something is added and nowhere else, and taken where the head goes."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from synclora import portraits
from synclora.editing import attached as module
from synclora.editing.attached import Attached, find_attached
from synclora.editing.carry import Carrier, _known
from synclora.faces.head import STABLE
from synclora.faces.tracker import track
from synclora.optical_flow import move

SIZE, SEED = 128, portraits.TEST_SEED_START + 17
WALL = torch.tensor([90, 150, 200], dtype=torch.uint8)
RED = torch.tensor([220, 20, 30], dtype=torch.uint8)


@cache
def portrait() -> Tensor:
    """A rendered person before a plain wall, with room above the head: uint8 [128, 128, 3]."""
    frame = portraits.render(portraits.sample_person(SEED), portraits.Motion.still(1), SIZE, "cpu")[0]
    mask = torch.from_numpy(module._person(frame.numpy()) > 0.5)
    return moved(torch.where(mask[..., None], frame, WALL), 0, 18)


def moved(frame: Tensor, right: int, down: int) -> Tensor:
    shown = frame.roll((down, right), (0, 1))
    shown[:down], shown[:, :right] = WALL, WALL
    return shown


def top_of(frame: Tensor) -> tuple[int, int]:
    """The highest pixel of the person, x and y."""
    on = (frame != WALL).any(-1).numpy()
    y = int(np.flatnonzero(on[:, 20:108].any(1))[0])
    return int(np.flatnonzero(on[y]).mean()), y


def with_box(frame: Tensor, x: int, y: int) -> Tensor:
    """A red box over the head's top at x, y: half of it before the wall."""
    shown = frame.clone()
    shown[max(0, y - 12) : y + 12, x - 22 : x + 23] = RED
    return shown


def found(edited: Tensor, own: Tensor) -> Attached | None:
    return _known(edited.numpy(), own.numpy()).drawn.attached


def boxed() -> tuple[Attached, NDArray[np.float64], int, int]:
    """What is attached to the portrait with a box, the portrait's landmarks, and where the box is."""
    own = portrait()
    x, y = top_of(own)
    attached = found(with_box(own, x, y), own)
    assert attached is not None
    return attached, track(own[None].numpy())[0], x, y


def reds(frame: Tensor) -> NDArray[np.bool_]:
    near = (frame.float() - RED.float()).abs().amax(-1) < 60
    return near.numpy()


def test_a_box_on_the_head_goes_with_it_and_leaves_nothing_behind() -> None:
    """The head goes 10 px right and 6 px down before the wall, and the model, which drew the box where it was: the box
    goes along to a pixel and a half, and the wall is bare where it was."""
    own = portrait()
    x, y = top_of(own)
    edited = with_box(own, x, y)
    later = moved(own, 10, 6)
    source = torch.stack([own, later])
    made = torch.stack([edited, torch.where(torch.from_numpy(reds(edited))[..., None], edited, later)])
    shown = Carrier({0: edited}).show(source, 0, made)
    assert torch.equal(shown[0], edited)
    here, there = np.argwhere(reds(shown[1])).mean(0), np.argwhere(reds(edited)).mean(0)
    assert np.abs(here - there - (6, 10)).max() < 1.5
    left = reds(edited) & ~reds(with_box(later, x + 10, y + 6)) & (later == WALL).all(-1).numpy()
    assert left.sum() > 150
    off = (shown[1].float() - WALL.float()).abs().amax(-1).numpy()
    assert off[left].mean() < 20


def rendered(kind: str, seed: int) -> tuple[Tensor, Tensor]:
    """A rendered person with an edit, and without."""
    person, motion = portraits.sample_person(seed), portraits.sample_motion(seed, 1)
    edited = portraits.apply_edit(person, kind, seed)
    return portraits.render(edited, motion, SIZE, "cpu")[0], portraits.render(person, motion, SIZE, "cpu")[0]


@pytest.mark.parametrize("kind", ["hair_color", "skin", "makeup", "background", "smile", "clothes"])
def test_what_adds_nothing_to_the_head_is_left_to_the_flow(kind: str) -> None:
    for seed in (SEED, SEED + 2, SEED + 14):
        assert found(*rendered(kind, seed)) is None, seed


def test_hats_are_found_whole() -> None:
    """Most of the pixels that a rendered hat changes, and hardly any other."""
    for seed in (SEED, SEED + 28):
        new, own = rendered("hat", seed)
        changed = (new.float() - own.float()).abs().amax(-1).numpy() > 40
        attached = found(new, own)
        assert attached is not None
        mask = attached.added > 0.5
        assert (mask & changed).sum() > 0.8 * changed.sum() and (mask & changed).sum() > 0.8 * mask.sum()


def test_a_scarf_below_the_chin_and_a_picture_on_the_wall_stay_where_they_are() -> None:
    own = portrait()
    chin = round(float(track(own[None].numpy())[0][module.CHIN, 1]))
    scarf, picture = own.clone(), own.clone()
    scarf[chin + 4 : chin + 18, 20:108] = RED
    picture[10:40, 4:30] = RED
    assert found(scarf, own) is None and found(picture, own) is None


def test_the_face_is_never_part_of_it() -> None:
    """Everything above the chin new, far beyond the outline: eyes, nose and mouth go their own ways all the same."""
    own = portrait()
    landmarks = track(own[None].numpy())[0]
    edited = own.clone()
    x, y = top_of(own)
    edited[y - 12 : 100, x - 36 : x + 36] = RED
    edited[70:76, x - 3 : x + 3] = own[70:76, x - 3 : x + 3]
    attached = found(edited, own)
    assert attached is not None and attached.added[y - 6, x] > 0.9
    for point in (33, 263, 1, 13, 61, 291):  # eyes, nose, lips
        px, py = landmarks[point, :2].round().astype(int)
        assert attached.added[py, px] < 0.1


def test_the_way_undoes_scale_roll_and_shift() -> None:
    """Landmarks turned in the picture by 20 degrees, a fifth larger and 7 px aside: the way leads back."""
    attached, landmarks, x, y = boxed()
    angle = np.radians(20)
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    flow = attached.way(1.2 * landmarks @ turn.T + (7, 0, 0))
    assert flow is not None
    for q in ((x, y), (x + 15, y + 5)):
        px, py = 1.2 * turn[:2, :2] @ q + (7, 0)
        assert min(px, py) >= 0 and max(px, py) < SIZE - 1
        grid = np.indices((SIZE, SIZE))[::-1].transpose(1, 2, 0).astype(np.float32)
        back = move(grid + flow, np.broadcast_to(np.array([px, py], np.float32), (SIZE, SIZE, 2)) - grid)[0, 0]
        assert np.abs(back - q).max() < 0.1
    lost = landmarks.copy()
    lost[STABLE[0]] = np.nan
    assert attached.way(lost) is None


def test_under_a_turn_the_outline_stays_and_the_surface_slides() -> None:
    """A head that turns aside by 15 degrees: the middle of what is on it goes further than its left and right."""
    attached, landmarks, x, y = boxed()
    angle = np.radians(15)
    turn = np.array([[np.cos(angle), 0, -np.sin(angle)], [0, 1, 0], [np.sin(angle), 0, np.cos(angle)]])
    middle = landmarks[STABLE].mean(0)
    flow = attached.way((landmarks - middle) @ turn.T + middle)
    flat = replace(attached, relief=np.zeros_like(attached.relief)).way((landmarks - middle) @ turn.T + middle)
    assert flow is not None and flat is not None
    slid = np.abs(flow - flat)[y, :, 0]
    assert slid[x] > 3 and min(slid[x - 28 : x + 29]) < slid[x] / 4


def test_while_the_head_is_not_seen_what_it_wears_stays() -> None:
    own = portrait()
    x, y = top_of(own)
    edited = with_box(own, x, y)
    empty = WALL.expand(SIZE, SIZE, 3)
    shown = Carrier({0: edited}).show(torch.stack([own, own, empty]), 0, torch.stack([own, own, empty]))
    assert reds(shown[2]).sum() > 0.8 * reds(shown[1]).sum() > 500


def test_a_shaved_head_shows_the_wall_where_its_hair_was() -> None:
    """Hair that the edit takes off gives way to the edited image's background."""
    seed = portraits.TEST_SEED_START + 43
    removed = []
    for number in range(seed, seed + 140, 14):
        new, own = rendered("hair_style", number)
        attached = found(new, own)
        if attached is not None and attached.removed.any():
            gone = attached.removed * attached.bare > 0.5
            assert not (gone & (module._person(new.numpy()) > 0.5)).any()
            removed.append(number)
    assert removed


def test_pictures_without_a_face_have_nothing_attached() -> None:
    noise = torch.randint(0, 256, (2, 64, 64, 3), generator=torch.Generator().manual_seed(3), dtype=torch.uint8)
    assert find_attached(noise[0].numpy(), noise[1].numpy(), *np.ones((2, 64, 64), np.float32)) is None


def test_landmarks_are_steadied_and_still_follow_what_they_see() -> None:
    """Trembling of a head that moves evenly shrinks to less than three quarters, and its path stays as it is; so does a
    jump. A frame without a face has none, and those beside it take nothing from it."""
    generator = np.random.default_rng(1)
    path = np.arange(40.0)[:, None, None] * (0.5, -0.2, 0.1) + generator.normal(size=(1, 60, 3))
    trembling = 0.2 * generator.normal(size=(40, 1, 3))
    steady = module._steadied(path + trembling, SIZE)
    assert (steady - path)[3:-3].std() < 0.75 * trembling[3:-3].std()
    assert np.allclose(module._steadied(path, SIZE), path)
    path[20:] += 30
    assert np.allclose(module._steadied(path, SIZE), path, atol=0.01)
    path[10] = np.nan
    steady = module._steadied(path, SIZE)
    assert np.isnan(steady[10]).all() and np.allclose(np.delete(steady, 10, 0), np.delete(path, 10, 0), atol=0.01)
