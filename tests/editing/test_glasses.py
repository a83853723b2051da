"""Glasses that an edit adds: found on the face, taken along with the head, and not with what moves beneath them."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from synclora import portraits
from synclora.editing import attached as module
from synclora.editing.attached import Attached
from synclora.editing.carry import Carrier, _enlarged, _known
from synclora.editing.glasses import find_glasses
from synclora.faces.tracker import track

SIZE, FIRST = 128, portraits.TEST_SEED_START + 400
IRISES = (468, 473)


def pair(kind: str, seed: int, frames: int = 1) -> tuple[Tensor, Tensor]:
    """A rendered clip with an edit, and without."""
    person, motion = portraits.sample_person(seed), portraits.sample_motion(seed, frames)
    edited = portraits.apply_edit(person, kind, seed)
    return portraits.render(edited, motion, SIZE, "cpu"), portraits.render(person, motion, SIZE, "cpu")


def found(edited: Tensor, own: Tensor) -> Attached | None:
    return _known(edited.numpy(), own.numpy()).drawn.attached


def changed(edited: Tensor, own: Tensor) -> NDArray[np.bool_]:
    difference = (edited.float() - own.float()).abs().amax(-1) > 40
    return difference.numpy()


def test_rendered_glasses_are_found_and_the_eyes_behind_them_are_not() -> None:
    several = 0
    for seed in range(FIRST, FIRST + 12):
        new, own = (clip[0] for clip in pair("glasses", seed))
        attached = found(new, own)
        if attached is None:
            continue
        several += 1
        mask = attached.added > 0.5
        assert (mask & changed(new, own)).sum() > 0.6 * changed(new, own).sum(), seed
        landmarks = track(own[None].numpy())[0]
        for iris in IRISES:
            x, y = landmarks[iris, :2].round().astype(int)
            assert attached.added[y, x] < 0.1, seed
    assert several >= 8


@pytest.mark.parametrize("kind", ["hair_color", "skin", "age", "beard", "makeup", "eye_color", "smile", "light"])
def test_what_changes_a_face_is_not_taken_for_glasses(kind: str) -> None:
    for seed in range(FIRST, FIRST + 6):
        new, own = (clip[0] for clip in pair(kind, seed))
        attached = found(new, own)
        assert attached is None or np.array_equal(attached.added, attached.outer), seed


def test_dark_lenses_are_part_of_the_glasses() -> None:
    """Two black discs and a bar between them, painted over the eyes: the eyes behind them are not seen, so that they do
    not move on in them."""
    own = portraits.render(portraits.sample_person(FIRST), portraits.Motion.still(1), SIZE, "cpu")[0]
    landmarks = track(own[None].numpy())[0]
    painted = own.numpy().copy()
    centres = [landmarks[iris, :2].round().astype(int) for iris in IRISES]
    for x, y in centres:
        cv2.circle(painted, (int(x), int(y)), 9, (5, 5, 5), -1)
    cv2.line(painted, centres[0].tolist(), centres[1].tolist(), (5, 5, 5), 3)
    attached = found(torch.from_numpy(painted), own)
    assert attached is not None
    for x, y in centres:
        assert attached.added[y - 4 : y + 5, x - 4 : x + 5].min() > 0.9


def test_glasses_stay_whole_on_a_head_that_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """On clips whose heads turn: nearer to the true edit than by the source's optical flow alone."""
    with_head, by_flow = [], []
    find = module.find_glasses
    for seed in range(FIRST, FIRST + 6):
        new, own = pair("glasses", seed, 17)
        for errors, search in ((with_head, find), (by_flow, lambda new, *_: np.zeros(new.shape[:2], np.float32))):
            monkeypatch.setattr(module, "find_glasses", search)
            shown = Carrier({0: new[0]}).show(own, 0, own)
            errors.append(float((shown.float() - new.float()).square().mean()))
    assert np.mean(with_head) < 0.9 * np.mean(by_flow)


def test_a_face_at_the_border_is_looked_at_as_far_as_it_is_seen() -> None:
    """Landmarks half or wholly outside the picture: no error, and nothing found where no eye is."""
    own = portraits.render(portraits.sample_person(FIRST), portraits.Motion.still(1), SIZE, "cpu")[0].numpy()
    landmarks = track(own[None])[0]
    edited = own.copy()
    edited[30:80] = 0
    changed = np.where((edited != own).any(-1), 1, 0).astype(np.float32)
    half, gone = (find_glasses(edited, own, changed, landmarks - np.array([left, 0, 0])) for left in (60, 400))
    assert np.isfinite(half).all() and half[100:].max() == 0 and not gone.any()


def test_in_a_larger_output_too_glasses_are_there_once() -> None:
    """In twice the size as well, what goes with the head is no part of what the optical flow takes along."""
    person, motion = portraits.sample_person(FIRST), portraits.Motion.still(1)
    looks = (portraits.apply_edit(person, "glasses", FIRST), person)
    new, own = (portraits.render(look, motion, 2 * SIZE, "cpu")[0] for look in looks)
    small = [portraits.render(look, motion, SIZE, "cpu")[0].numpy() for look in looks]
    known = _known(*small)
    assert known.drawn.attached is not None
    mask = known.drawn.attached.added
    for drawn, source in ((known.drawn, small[1]), (_enlarged(known, new, own), own.numpy())):
        added = cv2.resize(mask, drawn.rest.shape[1::-1], interpolation=cv2.INTER_LINEAR) > 0.9
        assert added.sum() > 100
        assert np.abs(drawn.rest[added]).mean() < 2 < 15 < np.abs(drawn.edited - source)[added].mean()
