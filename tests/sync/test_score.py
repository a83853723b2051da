"""The synchrony score against curves whose relation is known."""

from __future__ import annotations

import json
from fractions import Fraction
from itertools import pairwise, permutations

import numpy as np
import pytest

from synclora.errors import SyncloraError
from synclora.faces import Blink, MotionSignals
from synclora.sync import CHANNELS, SyncReport, compare
from synclora.sync.lag import best_lag, lagged, why_no_lag
from synclora.sync.score import match_blinks

FRAMES = 81
SIZES = {"yaw": 8.0, "pitch": 6.0, "roll": 5.0}


def smooth(seed: int, frames: int) -> np.ndarray:
    """Smooth noise of deviation 1: what speech looks like to a correlation."""
    noise = np.random.default_rng(seed).normal(size=frames + 20)
    curve = np.convolve(noise, np.hanning(9), "same")[10:-10]
    return (curve - curve.mean()) / curve.std()


def face(start: int = 0, frames: int = FRAMES, size: float = 1.0, blinks: bool = True) -> MotionSignals:
    """A stretch of one long made-up motion, from frame `start`."""
    total = {n: SIZES.get(n, 0.05) * size * smooth(k, 400) for k, n in enumerate(MotionSignals.names())}
    lids = np.full(400, 0.3)
    lids += 0.01 * smooth(99, 400)
    if blinks:
        for onset in range(115, 400, 25):
            lids[onset : onset + 3] = 0.02
    total["eye_left"] = total["eye_right"] = lids
    window = slice(100 + start, 100 + start + frames)
    return MotionSignals(Fraction(25), **{name: curve[window].copy() for name, curve in total.items()})


def replaced(signals: MotionSignals, **arrays: np.ndarray) -> MotionSignals:
    values = {name: getattr(signals, name) for name in MotionSignals.names()}
    return MotionSignals(signals.fps, **{**values, **arrays})


def test_a_clip_agrees_with_itself() -> None:
    """r = 1 at lag 0, amplitude 1, every blink matched, overall 1."""
    report = compare(face(), face())
    assert report.overall == 1.0 and report.coverage == 1.0
    for name, score in report.channels.items():
        assert score.judged and (score.r, score.lag, score.amplitude) == (1, pytest.approx(0, abs=1e-3), 1), name
    assert report.blinks.source >= 3 and report.blinks.f1 == 1


@pytest.mark.parametrize("late", [-4, -1, 2, 5])
def test_lag_is_found_and_positive_when_late(late: int) -> None:
    """edited[t] = source[t - late] has its best fit, r = 1, at lag = late; the overall score falls."""
    report = compare(face(), face(start=-late))
    for name, score in report.channels.items():
        assert score.lag == pytest.approx(late, abs=0.15), name
        assert score.r_best == pytest.approx(1) and score.r is not None and score.r < 0.995, name
    assert report.overall is not None and report.overall < 0.98


def test_half_a_frame_of_lag() -> None:
    """The mean of two neighbouring frames is half a frame late; the parabola tells."""
    now, before = face(), face(start=-1)
    report = compare(now, replaced(now, mouth=(now.mouth + before.mouth) / 2))
    assert report.channels["mouth"].lag == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize("factor", [0.25, 0.5, 3.0])
def test_amplitude(factor: float) -> None:
    """edited = factor * source: r stays 1, amplitude = factor, and too little costs what too much does."""
    now = face()
    score = compare(now, replaced(now, mouth=factor * now.mouth)).channels["mouth"]
    assert score.r == 1 and score.amplitude == pytest.approx(factor)
    other = compare(now, replaced(now, mouth=now.mouth / factor))
    assert compare(now, replaced(now, mouth=factor * now.mouth)).overall == pytest.approx(other.overall, abs=1e-4) != 1


def test_overall_is_the_written_formula() -> None:
    """overall = coverage * mouth^0.25 * lids^0.1 * head^0.5 * gaze^0.2 * blinks^0.75, recomputed from the channels:
    each part is the mean of max(r, 0) times exp(-k (mean of ln a)^2), k 4 for the head, 1 for gaze, 0.5 for the others,
    and none is below 0.05. Yaw runs backwards here: two fifths of the head's r are lost."""
    source = face()
    edited = replaced(
        face(start=-1, size=0.7), yaw=-source.yaw, roll=np.where(np.arange(FRAMES) < 9, np.nan, source.roll)
    )
    edited = replaced(edited, yaw=np.where(np.arange(FRAMES) < 9, np.nan, edited.yaw))
    report = compare(source, edited)
    assert report.coverage == pytest.approx(72 / 81)
    assert report.channels["yaw"].r == -1 and report.blinks.f1 is not None

    def part(k: float, **weights: float) -> float:
        total = sum(weights.values())
        r = sum(w * max(report.channels[name].r or 0, 0) for name, w in weights.items()) / total
        log_a = sum(w * np.log(report.channels[name].amplitude or 0) for name, w in weights.items()) / total
        return max(r * np.exp(-k * log_a**2), 0.05)

    mouth, lids = part(0.5, mouth=3, mouth_width=1), part(0.5, eyes=1)
    head, gaze = part(4, yaw=1, pitch=0.5, roll=1), part(1, gaze_x=1, gaze_y=0.5)
    expected = mouth**0.25 * lids**0.1 * head**0.5 * gaze**0.2 * max(report.blinks.f1, 0.05) ** 0.75
    assert report.overall == pytest.approx(72 / 81 * expected, abs=1e-5)


def test_still_edit_counts_as_zero_and_still_source_is_not_judged() -> None:
    """A motion that the edit loses scores 0; a motion the source does not make is left out, with the reason."""
    moves = face()
    still = replaced(moves, **{name: np.full(FRAMES, 0.3) for name in MotionSignals.names()})
    lost = compare(moves, still)
    assert lost.overall == 0
    assert all(score.judged and score.r == 0 for score in lost.channels.values())
    none = compare(still, moves)
    assert not any(score.judged for score in none.channels.values())
    assert "too flat" in none.channels["mouth"].why
    assert none.blinks.precision == 0 and none.blinks.recall is None
    nothing = compare(still, still)
    assert nothing.overall is None and "hardly moves" in nothing.why


def test_unrelated_motion_scores_low_and_names_no_lag() -> None:
    """Independent curves: |r| small, overall far below that of a late clip."""
    overall = [compare(face(), face(start=at)).overall or 0 for at in (100, 130, 160)]
    assert max(overall) < 0.35
    wild = compare(face(), replaced(face(), mouth=np.random.default_rng(5).normal(size=FRAMES)))
    assert wild.channels["mouth"].lag is None and wild.channels["mouth"].r_best is not None


def test_missing_faces() -> None:
    """Frames without a face in either clip are left out of r; losing the face in the edit lowers the coverage."""
    source = face()
    holes = {name: getattr(source, name).copy() for name in MotionSignals.names()}
    for curve in holes.values():
        curve[30:50] = np.nan
    report = compare(source, replaced(source, **holes))
    assert report.channels["mouth"].r == 1 and report.coverage == pytest.approx(61 / 81, abs=1e-6)
    assert report.overall is not None and report.overall < report.coverage + 1e-9
    empty = {name: np.full(FRAMES, np.nan) for name in MotionSignals.names()}
    assert compare(replaced(source, **empty), source).why == "no face in the source"
    gone = compare(source, replaced(source, **empty))
    assert gone.overall == 0 and gone.coverage == 0


@pytest.mark.parametrize("frames", [1, 5, 9, 25])
def test_short_clips(frames: int) -> None:
    """At any lag at least 2/3 of the frames overlap, so that a few frames cannot fit by chance; one is no motion."""
    report = compare(face(frames=frames), face(frames=frames))
    json.loads(report.dumps())
    if frames == 1:
        assert report.overall is None or report.blinks.source
    for score in report.channels.values():
        if score.judged and frames >= 5:
            assert score.r == 1 and (score.lag_why or score.lag == pytest.approx(0, abs=0.1))


def test_json_round_trip() -> None:
    """JSON has no NaN; unknown numbers are null; reading gives the same report."""
    flat = replaced(face(), mouth=np.full(FRAMES, 0.1))
    report = compare(flat, face(start=3))
    text = report.dumps()
    assert "NaN" not in text and json.loads(text)["channels"]["mouth"]["r"] is None
    assert SyncReport.from_json(json.loads(text)) == report


def test_unequal_clips_are_refused() -> None:
    with pytest.raises(SyncloraError, match="81 frames at 25 fps, the edited clip 80"):
        compare(face(), face()[:80])
    other = MotionSignals(Fraction(30), **{name: getattr(face(), name) for name in MotionSignals.names()})
    with pytest.raises(SyncloraError, match="at 30"):
        compare(face(), other)


def test_blink_matching_is_the_best_one_to_one() -> None:
    """The greedy count equals the most pairs over all assignments (brute force), onsets at most one frame apart."""
    rng = np.random.default_rng(0)
    for _ in range(60):
        a, b = (sorted(rng.integers(0, 12, rng.integers(0, 6)).tolist()) for _ in range(2))
        short, long = sorted((a, b), key=len)
        most = max(sum(abs(x - y) <= 1 for x, y in zip(short, p, strict=False)) for p in permutations(long, len(short)))
        assert match_blinks([Blink(x, 2) for x in a], [Blink(y, 2) for y in b]).matched == most


def test_blink_scores() -> None:
    """precision = matched / edited, recall = matched / source, F1 = 2 matched / (source + edited)."""
    source, edited = [Blink(10, 3), Blink(30, 3), Blink(50, 3)], [Blink(11, 2), Blink(32, 3)]
    score = match_blinks(source, edited)
    assert (score.matched, score.precision, score.recall, score.f1) == (1, 1 / 2, 1 / 3, 2 / 5)
    assert match_blinks([], []).f1 is None


def test_hidden_parts_are_not_judged() -> None:
    """Sunglasses: eyes, gaze and blinks are left out, whatever the mesh draws; the rest scores as before."""
    source = face()
    dark = face(start=40).including(frozenset({"eyes"}), {})
    edited = replaced(source, eye_left=dark.eye_left, eye_right=dark.eye_right, gaze_x=dark.gaze_x, gaze_y=dark.gaze_y)
    report = compare(source, edited.including(frozenset({"eyes"}), {}))
    assert {name for name, score in report.channels.items() if not score.judged} == {"eyes", "gaze_x", "gaze_y"}
    assert "eyes cannot be seen in the edited clip" in report.channels["eyes"].why
    assert report.blinks.f1 is None and report.overall == 1.0
    masked = compare(source.including(frozenset({"mouth"}), {}), source)
    assert "source" in masked.channels["mouth"].why and masked.channels["mouth_width"].judged is False
    seen = compare(source, replaced(source, eye_left=np.full(FRAMES, 0.3), eye_right=np.full(FRAMES, 0.3)))
    assert seen.channels["eyes"].judged and seen.channels["eyes"].r == 0, "eyes that stand still in plain sight"


def test_a_lasting_expression_costs_nothing() -> None:
    """A smile (wider mouth, narrower eyes, raised brows throughout) is an offset: r, amplitude and overall stay 1."""
    source = face()
    smiling = replaced(
        source,
        mouth=source.mouth + 0.05,
        mouth_width=source.mouth_width + 0.1,
        brows=source.brows + 0.03,
        pitch=source.pitch + 4,
    )
    assert compare(source, smiling).overall == 1.0


def test_a_blink_at_the_threshold_is_not_lost() -> None:
    """Shut to 0.54 of the usual opening in one clip and to 0.57 in the other (threshold 0.55): one blink, matched. Shut
    to 0.9: lost."""
    source = face(blinks=False)
    lids = {}
    for depth in (0.54, 0.57, 0.9):
        opening = np.full(FRAMES, 0.3)
        opening[30:33] = depth * 0.3
        lids[depth] = replaced(source, eye_left=opening, eye_right=opening)
    for one, other in ((0.54, 0.57), (0.57, 0.54)):
        assert compare(lids[one], lids[other]).blinks.f1 == 1
    assert compare(lids[0.57], lids[0.57]).blinks.source == 0
    assert compare(lids[0.54], lids[0.9]).blinks.recall == 0


def test_lost_faces_are_counted() -> None:
    source, edited = face(), face()
    for signals, lost in ((source, 3), (edited, 11)):
        for name in MotionSignals.names():
            getattr(signals, name)[:lost] = np.nan
    assert compare(source, edited).lost == {"source": 3, "edited": 11}


def test_a_straight_line_names_no_lag() -> None:
    """A line later is the same line lower, so E(l) = 0 at every lag: judged, r told, lag None with the reason."""
    source = face()
    slow = replaced(source, yaw=np.linspace(0, 1, FRAMES) * 6 * CHANNELS["yaw"].floor)
    score = compare(slow, slow).channels["yaw"]
    assert score.judged and score.r == 1 and score.lag is None and "too slowly" in score.lag_why
    assert compare(source, source).channels["yaw"].lag_why == ""


def slow(seed: int) -> np.ndarray:
    """Smooth noise of deviation 1 whose r with itself a frame later is 0.98."""
    curve = np.convolve(smooth(seed, 400), np.hanning(15), "same")[100 : 106 + FRAMES]
    return curve / curve.std()


def test_what_an_edit_leaves_decides_whether_a_slow_curve_tells_its_lag() -> None:
    """A slow curve two frames late: an exact copy tells it, and so does one under white noise. An edit that adds as
    slow a wander of its own leaves r high, the lag beside the point and None."""
    source, late = replaced(face(), yaw=8 * slow(5)[2:-4]), 8 * slow(5)[:-6]
    wander, white = 4 * slow(6)[2:-4], 0.5 * np.random.default_rng(0).normal(size=FRAMES)
    copy, noisy, loose = (
        compare(source, replaced(source, yaw=late + extra)).channels["yaw"] for extra in (0 * white, white, wander)
    )
    assert copy.lag == pytest.approx(2, abs=0.1) and noisy.lag == pytest.approx(2, abs=0.3)
    assert loose.r_best is not None and loose.r_best > 0.7 and loose.lag is None and "loosely" in loose.lag_why


def test_named_lags_are_right_and_strangers_name_hardly_any() -> None:
    """33 frames of smooth noise. Two frames late under white noise of 0, 0.3 and 0.6 deviations: at most 1 in 40 of
    the named lags is wrong, and the less the noise, the more are named. Unrelated curves: at most 1 in 20 names one."""
    rng, frames, named = np.random.default_rng(3), 33, []
    curves = [smooth(seed, frames + 2) for seed in range(100, 200)]
    for noise in (0.0, 0.3, 0.6):
        lags = [_lag(c[2:], c[:-2] + noise * rng.normal(size=frames)) for c in curves]
        told = [lag for lag in lags if lag is not None]
        assert sum(round(lag) != 2 for lag in told) <= len(told) / 40
        named.append(len(told))
    assert named[0] == 100 and named[0] >= named[1] > named[2] > 10
    strangers = [_lag(a[2:], b[2:]) for a, b in pairwise(curves)]
    assert sum(lag is not None for lag in strangers) <= len(strangers) / 20


def _lag(source: np.ndarray, edited: np.ndarray) -> float | None:
    lag = best_lag(*lagged(source, edited))
    return None if why_no_lag(source, edited, lag, noise=0.1) else lag


def test_a_curve_that_repeats_names_no_lag() -> None:
    """A sine of 6 frames fits itself again 6 frames later; one of 40 frames does not within reach."""
    t = np.arange(FRAMES)
    for period, certain in ((6, False), (40, True)):
        source = replaced(face(), mouth=0.1 + 0.08 * np.sin(2 * np.pi * t / period))
        score = compare(source, source).channels["mouth"]
        assert score.r == 1 and (score.lag is not None) == certain and ("repeats" in score.lag_why) != certain


def stretched(rate: float, frames: int) -> MotionSignals:
    """The made-up motion, played at `rate` of its speed from its frame 100 on."""
    total = face(start=-90, frames=380, blinks=False)
    at = 90 + rate * np.arange(frames)
    return replaced(total[:frames], **{n: np.interp(at, np.arange(380), getattr(total, n)) for n in total.names()})


@pytest.mark.parametrize("rate", [1.0, 0.97, 0.99, 1.04])
def test_drift(rate: float) -> None:
    """Played at `rate` of the speed, source frame t shows at t / rate: lag = t (1 / rate - 1), also beyond 6 frames."""
    report = compare(stretched(1.0, 240), stretched(rate, 240))
    assert report.drift is not None and report.drift.slope is not None
    assert report.drift.slope == pytest.approx(100 * (1 / rate - 1), abs=0.12)
    assert report.drift.drifts == (rate != 1.0)
    for window in report.drift.windows:
        middle = window.start + window.frames / 2
        assert window.lag == pytest.approx(middle * (1 / rate - 1), abs=0.4)
    assert SyncReport.from_json(json.loads(report.dumps())) == report


def test_a_constant_lag_is_no_drift_and_a_short_clip_has_none() -> None:
    drift = compare(face(frames=200), face(start=-3, frames=200)).drift
    assert drift is not None and drift.drifts is False and abs(drift.slope or 9) < 0.1
    assert {round(window.lag or 0) for window in drift.windows} == {3}
    assert compare(face(frames=65), face(frames=65)).drift is None


def test_body_is_reported_beside_the_score() -> None:
    """Shoulders two frames late show as lag 2 in `body` and change nothing in overall; without them `body` is empty."""

    def points(start: int) -> dict[str, np.ndarray]:
        curve = smooth(7, 400)[100 - start : 100 - start + FRAMES] * 0.1
        both = np.stack([curve, curve], axis=1)
        return dict.fromkeys(("shoulder_left", "shoulder_right", "wrist_left", "wrist_right"), both)

    report = compare(face().including(frozenset(), points(0)), face().including(frozenset(), points(2)))
    assert report.body["shoulders"].lag == pytest.approx(2, abs=0.1) and report.overall == 1.0
    assert compare(face(), face()).body == {}
