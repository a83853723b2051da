"""The gate: each limit rejects what breaks it, says so with the figures, and lets everything else pass."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from synclora.errors import SyncloraError
from synclora.faces import MotionSignals
from synclora.sync import CHANNELS, BlinkScore, ChannelScore, SyncReport, compare
from synclora.sync.appearance import Appearance
from synclora.sync.gate import (
    Thresholds,
    common_lag,
    gaze_followed,
    head_motion,
    judge,
    load_thresholds,
    parse_thresholds,
)
from synclora.sync.score import Drift

GOOD = ChannelScore(judged=True, why="", r=0.98, lag=0.1, r_best=0.98, amplitude=1.0)
HIDDEN = ChannelScore(judged=False, why="too flat", r=None, lag=None, r_best=None, amplitude=None)
STEADY = Appearance(flicker=0.002, change=0.01, change_at=5, frames=33)
GATE = parse_thresholds(
    """
    overall: 0.6
    coverage: 0.9
    lag: 0.5
    drift: 1
    gaze: 0.5
    head: [0.6, 1.5]
    channels:
      mouth: {r: 0.7, lag: 0.75, amplitude: [0.6, 1.6]}
      gaze_x: {r: 0.5}
    blinks: 0
    flicker: 0.01
    change: 0.1
    """
)


def make_report(**changes: object) -> SyncReport:
    """A pair in step in every channel, with changes."""
    fields = {
        "frames": 33,
        "fps": "25",
        "coverage": 1.0,
        "overall": 0.95,
        "why": "",
        "channels": dict.fromkeys(CHANNELS, GOOD),
        "blinks": BlinkScore(2, 2, 2, 1.0, 1.0, 1.0),
    }
    return replace(compared(), **{**fields, **changes})


def compared() -> SyncReport:
    """A report made by `compare` itself, so that fields added to it are there with true values."""
    wave = np.sin(np.arange(33) / 3)
    motion = MotionSignals(Fraction(25), **dict.fromkeys(MotionSignals.names(), wave))
    return compare(motion, motion)


def reasons(report: SyncReport, look: Appearance = STEADY, gate: Thresholds = GATE) -> list[str]:
    return [reason.text for reason in judge(report, look, gate).reasons]


def with_all(**changes: object) -> SyncReport:
    return make_report(channels=dict.fromkeys(CHANNELS, replace(GOOD, **changes)))


def with_head(**changes: object) -> SyncReport:
    turned = dict.fromkeys(("yaw", "pitch", "roll"), replace(GOOD, **changes))
    return make_report(channels={**dict.fromkeys(CHANNELS, GOOD), **turned})


def with_mouth(**changes: object) -> SyncReport:
    return make_report(channels={**dict.fromkeys(CHANNELS, GOOD), "mouth": replace(GOOD, **changes)})


def test_a_pair_in_step_is_kept() -> None:
    verdict = judge(make_report(), STEADY, GATE)
    assert verdict.keep and verdict.reasons == ()


@pytest.mark.parametrize(
    ("report", "look", "said"),
    [
        (make_report(overall=0.41), STEADY, "overall score 0.41 (at least 0.6)"),
        (
            make_report(coverage=0.71),
            STEADY,
            "a face is found in 71 % of the frames where the source shows one (at least 90 %)",
        ),
        (with_mouth(r=0.31), STEADY, "mouth follows the source with r 0.31 (at least 0.7)"),
        (with_mouth(lag=3.12), STEADY, "mouth is 3.1 frames late (at most 0.75)"),
        (with_mouth(lag=-2.0), STEADY, "mouth is 2.0 frames early (at most 0.75)"),
        (with_mouth(amplitude=0.42), STEADY, "mouth moves 0.42 times as far as in the source (0.6 to 1.6)"),
        (with_mouth(amplitude=1.9), STEADY, "mouth moves 1.90 times as far as in the source (0.6 to 1.6)"),
        (
            make_report(blinks=BlinkScore(3, 2, 1, 0.5, 1 / 3, 0.4)),
            STEADY,
            "2 blinks are missing and 1 blink is extra (at most 0)",
        ),
        (make_report(blinks=BlinkScore(1, 0, 0, None, 0.0, 0.0)), STEADY, "1 blink is missing (at most 0)"),
        (make_report(), replace(STEADY, flicker=0.034), "the picture flickers by 3.4 % (at most 1 %)"),
        (
            make_report(),
            replace(STEADY, change=0.3, change_at=17),
            "the look changes by 30 % at frame 17 (at most 10 %)",
        ),
        (with_all(lag=0.7), STEADY, "the motion is 0.7 frames late (at most 0.5)"),
        (
            make_report(frames=120, drift=Drift([], slope=-2.0, drifts=True)),
            STEADY,
            "the lag drifts by 2.4 frames over the clip (at most 1)",
        ),
        (with_head(amplitude=0.5), STEADY, "the head moves 0.50 times as far as in the source (0.6 to 1.5)"),
        (
            make_report(channels={**dict.fromkeys(CHANNELS, GOOD), "gaze_x": replace(GOOD, r=0.9, amplitude=0.25)}),
            STEADY,
            "37 % of the gaze's motion is followed (at least 50 %)",
        ),
        (with_head(amplitude=0.0), STEADY, "the head moves 0.00 times as far as in the source (0.6 to 1.5)"),
        (
            make_report(overall=None, why="no face in the source"),
            STEADY,
            "nothing could be judged: no face in the source",
        ),
    ],
)
def test_each_limit_rejects_with_its_figures(report: SyncReport, look: Appearance, said: str) -> None:
    assert reasons(report, look) == [said]


def test_all_broken_limits_are_told() -> None:
    report = with_mouth(r=0.2, lag=4.0)
    assert len(reasons(report, replace(STEADY, flicker=0.05))) == 3


def test_what_cannot_be_told_breaks_no_limit() -> None:
    """A hidden channel, a lag that nothing fits, looks in too few frames, and a limit that is not set."""
    channels = {**dict.fromkeys(CHANNELS, GOOD), "mouth": HIDDEN, "gaze_x": replace(GOOD, lag=None, r=0.6)}
    report = make_report(channels=channels, blinks=BlinkScore(0, 0, 0, None, None, None))
    assert reasons(report, Appearance(None, None, None, 2)) == []
    assert reasons(make_report(overall=0.1), replace(STEADY, flicker=0.5), Thresholds()) == []
    assert reasons(make_report(channels={})) == []
    assert reasons(make_report(frames=120, drift=Drift([], slope=2.0, drifts=False))) == []
    assert reasons(make_report(frames=120, drift=Drift([], slope=None, drifts=None))) == []


def test_the_common_lag_is_the_weighted_median_of_what_fits() -> None:
    """One channel far off, or one that hardly fits anywhere, does not move it; one without a lag does not count."""
    channels = {**dict.fromkeys(CHANNELS, GOOD), "yaw": replace(GOOD, lag=6.0), "roll": replace(GOOD, lag=None)}
    assert common_lag(make_report(channels=channels)) == 0.1
    poor = dict.fromkeys(CHANNELS, replace(GOOD, lag=5.0, r_best=0.45))
    assert common_lag(make_report(channels={**poor, "gaze_y": replace(GOOD, lag=2.0)})) == 2.0
    assert common_lag(make_report(channels=poor)) is None


def test_the_head_motion_is_the_geometric_mean() -> None:
    """0.5 * 2 * 1 has the mean 1; a channel that is not judged does not count; none, and nothing is known."""
    heads = {"yaw": replace(GOOD, amplitude=0.5), "pitch": GOOD, "roll": replace(GOOD, amplitude=2.0)}
    assert head_motion(make_report(channels=heads)) == pytest.approx(1)
    assert head_motion(make_report(channels={**heads, "roll": HIDDEN, "pitch": HIDDEN})) == pytest.approx(0.5)
    assert head_motion(make_report(channels={})) is None


def test_the_gaze_followed_is_mean_r_times_mean_amplitude_up_to_one() -> None:
    """Weights 1 and 1/2: r of 0.9 and 0.6 is 0.8; amplitudes of 0.5 and 1 make 0.5^(2/3); 2 and 2 count as 1."""
    gaze = {"gaze_x": replace(GOOD, r=0.9, amplitude=0.5), "gaze_y": replace(GOOD, r=0.6, amplitude=1.0)}
    assert gaze_followed(make_report(channels=gaze)) == pytest.approx(0.8 * 0.5 ** (2 / 3))
    wild = {name: replace(score, amplitude=2.0) for name, score in gaze.items()}
    assert gaze_followed(make_report(channels=wild)) == pytest.approx(0.8)
    assert gaze_followed(make_report(channels={"gaze_x": HIDDEN})) is None


def test_the_score_ranks_by_the_overall_score_and_the_greatest_strain() -> None:
    """overall * exp(-s^2 / 2); strains: flicker 0.02 of 0.01 is 2, r 0.85 of 0.7 is 0.5, a factor 0.6^2 of 0.6 is 2."""
    flickers = judge(make_report(overall=0.8), replace(STEADY, flicker=0.02), GATE)
    assert flickers.score == pytest.approx(0.8 * math.exp(-2), abs=1e-6) and not flickers.keep
    follows = judge(with_mouth(r=0.85), STEADY, parse_thresholds("channels: {mouth: {r: 0.7}}"))
    assert follows.score == pytest.approx(0.95 * math.exp(-0.125), abs=1e-6) and follows.keep
    assert follows.nearest is not None and follows.nearest.strain == pytest.approx(0.5)
    still = judge(with_mouth(amplitude=0.36), STEADY, GATE)
    assert still.nearest is not None and still.nearest.strain == pytest.approx(2)
    assert judge(make_report(overall=None), STEADY, GATE).score == 0.0
    assert judge(make_report(overall=0.7), STEADY, Thresholds()).score == 0.7


def test_the_package_brings_thresholds_that_judge_all_that_matters() -> None:
    """The default limits score, looks, blinks, lag, head and mouth, and survives a round trip."""
    default = load_thresholds()
    assert judge(make_report(), STEADY, default).keep
    assert None not in (default.overall, default.coverage, default.blinks, default.flicker, default.change)
    assert default.lag is not None and default.head is not None and default.channels["mouth"].r is not None
    assert parse_thresholds(default.to_yaml()) == default


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("overal: 0.6", "unknown field overal.*The fields are overall, coverage"),
        ("overall: 1.5", "overall is 1.5; input should be less than 1"),
        ("channels: {mouht: {r: 0.5}}", "no channel is called mouht; the channels are mouth,"),
        ("channels: {mouth: {amplitude: [2, 1]}}", "needs \\[least, most\\]"),
        ("flicker: 0", "flicker is 0; input should be greater than 0"),
        ("[1, 2]", "holds list, needs fields such as"),
        ("overall: [", "not valid YAML"),
    ],
)
def test_bad_thresholds_are_told(text: str, said: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    with pytest.raises(SyncloraError, match=f"mine.yaml: .*{said}"):
        load_thresholds(file)


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(SyncloraError, match=r"none\.yaml: cannot be read"):
        load_thresholds(tmp_path / "none.yaml")
