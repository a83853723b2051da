"""Laying the edited portrait onto the portrait: what is put right, what is refused, and what is done without a face."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from synclora.pairs.splitscreen.align import Limits, Unfit, fit
from synclora.pairs.splitscreen.layout import Picture
from synclora.portraits import TEST_SEED_START, apply_edit, render, sample_motion, sample_person

SIZE = 256


@pytest.fixture(scope="module")
def pictures() -> dict[str, Picture]:
    """A portrait, its edit, and the edited person with the head turned by 20 degrees more."""
    seed = TEST_SEED_START + 62
    person, motion = sample_person(seed), sample_motion(seed, 1, 25.0)
    edited = apply_edit(person, "glasses", seed)
    turned = sample_motion(seed, 1, 25.0)
    object.__setattr__(turned, "yaw", motion.yaw + 20)
    drawn = {"portrait": (person, motion), "edited": (edited, motion), "turned": (edited, turned)}
    return {name: render(*what, SIZE)[0].numpy() for name, what in drawn.items()}


def test_a_shifted_turned_and_scaled_edit_is_put_back(pictures: dict[str, Picture]) -> None:
    """6 px, 3 degrees and 4 % off: told as such, and inside the margin within 2 grey levels of the unmoved edit."""
    matrix = cv2.getRotationMatrix2D((SIZE / 2, SIZE / 2), 3.0, 1.04)
    matrix[:, 2] += [6, -3]
    moved = cv2.warpAffine(pictures["edited"], matrix, (SIZE, SIZE), flags=cv2.INTER_CUBIC)
    laid, found = fit(pictures["portrait"], np.asarray(moved, np.uint8), Limits())
    assert found is not None
    assert found["scale"] == pytest.approx(1 / 1.04, abs=0.015) and abs(found["degrees"]) == pytest.approx(3, abs=0.8)
    inner = slice(40, -40)
    apart = np.abs(laid[inner, inner].astype(float) - pictures["edited"][inner, inner]).mean()
    before = np.abs(moved[inner, inner].astype(float) - pictures["edited"][inner, inner]).mean()
    assert apart < min(2.5, 0.4 * before)


def test_a_head_that_is_turned_is_refused_with_the_angle(pictures: dict[str, Picture]) -> None:
    with pytest.raises(Unfit, match=r"turned by [+-]\d+\.\d degrees of yaw \(limit 8\)|too much to put right"):
        fit(pictures["portrait"], pictures["turned"], Limits())


def test_an_edit_that_changed_nothing_and_two_faces_are_refused(pictures: dict[str, Picture]) -> None:
    portrait = pictures["portrait"]
    with pytest.raises(Unfit, match=r"changed 0\.0000 of the picture"):
        fit(portrait, portrait.copy(), Limits())
    two = np.concatenate([portrait, portrait], axis=1)
    with pytest.raises(Unfit, match="the edited picture shows 2 faces"):
        fit(np.concatenate([portrait, np.full_like(portrait, 90)], axis=1), two, Limits())


def test_without_a_face_the_pair_is_kept_or_refused_as_told(pictures: dict[str, Picture]) -> None:
    noise = np.random.default_rng(TEST_SEED_START).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
    with pytest.raises(Unfit, match="no face was found in the edited picture"):
        fit(pictures["portrait"], noise, Limits())
    kept, found = fit(pictures["portrait"], noise, Limits(no_face="keep"))
    assert found is None and (kept == noise).all()
