"""Shifted and harmed clips: the report tells a clip's own motion again (`measure_robustness.py` has the full table)."""

from __future__ import annotations

import os
from fractions import Fraction
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from measure_robustness import HARMS, grainy, measure_robustness, real_clips, reencoded, shares_of_lags

from synclora import portraits
from synclora.clip import Clip
from synclora.faces import MotionSignals, measure
from synclora.sync import compare

FOOTAGE = Path(os.environ.get("SYNCLORA_FOOTAGE", Path(__file__).resolve().parents[3] / "shared" / "footage"))
needs_footage = pytest.mark.skipif(
    not any(FOOTAGE.glob("*.mp4")), reason="real footage is not part of the repository; set SYNCLORA_FOOTAGE"
)


@pytest.fixture(scope="module")
def talker() -> Clip:
    """A held-out person, 40 frames of 160 px."""
    seed = portraits.TEST_SEED_START + 12
    pictures = portraits.render(portraits.sample_person(seed), portraits.sample_motion(seed, 40, 25.0), 160)
    return Clip(pictures, Fraction(25))


@pytest.fixture(scope="module")
def motion(talker: Clip) -> MotionSignals:
    return measure(talker)


def test_shifts_of_a_rendered_clip_are_told(motion: MotionSignals) -> None:
    """A clip against itself k frames off, though at 160 px: every lag named rounds to k, and in 97 % of the windows
    every judged channel names one."""
    of = shares_of_lags(motion, motion)
    assert of.judged > 20 and of.right == of.named and of.told >= 0.97 * of.windows


@pytest.mark.parametrize("late", [-5, -2, 3])
def test_shifts_survive_grain_and_compression(talker: Clip, motion: MotionSignals, late: int) -> None:
    """CRF 28 and grain on top of a shift by `late`: the median lag of the judged channels is within a third of it."""
    first = max(0, late)
    source = motion[first : first + 33]
    edited = measure(reencoded(grainy(talker, 4), crf=28))[first - late : first - late + 33]
    lags = [s.lag for s in compare(source, edited).channels.values() if s.judged and s.lag is not None]
    assert len(lags) >= 2 and np.median(lags) == pytest.approx(late, abs=1 / 3)


def test_harm_hardly_costs(talker: Clip, motion: MotionSignals) -> None:
    """Gamma 0.8 and grain of 4 levels, at 160 px: overall at least 0.9 (0.95 at 512 px), lag 0 everywhere."""
    for harmed in (HARMS["gamma 0.8"](talker), grainy(talker, 4)):
        report = compare(motion, measure(harmed))
        assert report.overall is not None and report.overall >= 0.9
        assert all(round(s.lag) == 0 for s in report.channels.values() if s.judged and s.lag is not None)


def test_blank_pictures_are_lost_faces_not_motion() -> None:
    blank = Clip(torch.full((6, 96, 96, 3), 128, dtype=torch.uint8), Fraction(25))
    report = compare(measure(blank), measure(blank))
    assert report.overall is None and report.lost == {"source": 6, "edited": 6}


@needs_footage
def test_real_footage_shifted_and_brightened() -> None:
    """44 frames of two clips: every judged channel tells the shift in at least 97 % of the windows, no lag named is
    wrong, hardly one is named for two people who have nothing to do with each other; overall at least 0.95 after
    gamma 1.2."""
    found = measure_robustness(islice(real_clips(FOOTAGE, 44), 2), {"gamma 1.2": HARMS["gamma 1.2"]})
    of = found.shift["plain"]
    assert of.windows > 20 and of.right == of.named and of.told >= 0.97 * of.windows
    assert found.shift["strangers"].named <= 0.1 * found.shift["strangers"].judged
    assert min(found.overall["gamma 1.2"]) >= 0.95
    assert all(round(lag) == 0 for lag in found.lags["gamma 1.2"])
