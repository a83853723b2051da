"""The synchrony score against curves whose relation is known."""

from __future__ import annotations

import json
from fractions import Fraction
from itertools import permutations

import numpy as np
import pytest

from synclora.errors import SyncloraError
from synclora.faces import Blink, MotionSignals
from synclora.sync import CHANNELS, SyncReport, compare
from synclora.sync.score import BLINK_WEIGHT, match_blinks

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
    """edited = factor * source: r stays 1, amplitude = factor, q = 2a / (1 + a^2)."""
    now = face()
    score = compare(now, replaced(now, mouth=factor * now.mouth)).channels["mouth"]
    assert score.r == 1 and score.amplitude == pytest.approx(factor)
    assert score.quality == pytest.approx(2 * factor / (1 + factor**2))


def test_overall_is_the_written_formula() -> None:
    """overall = coverage * sum(w q) / sum(w), with q_blink = F1, recomputed from the parts."""
    source = face()
    edited = replaced(
        face(start=-1, size=0.7), yaw=-source.yaw, roll=np.where(np.arange(FRAMES) < 9, np.nan, source.roll)
    )
    edited = replaced(edited, yaw=np.where(np.arange(FRAMES) < 9, np.nan, edited.yaw))
    report = compare(source, edited)
    assert report.coverage == pytest.approx(72 / 81)
    assert report.channels["yaw"].r == -1 and report.channels["yaw"].quality == 0
    parts = [(CHANNELS[name].weight, score.quality) for name, score in report.channels.items()]
    assert report.blinks.f1 is not None
    parts.append((BLINK_WEIGHT, report.blinks.f1))
    expected = report.coverage * sum(w * q for w, q in parts) / sum(w for w, _ in parts)
    assert report.overall == pytest.approx(expected, abs=1e-5)


def test_still_edit_counts_as_zero_and_still_source_is_not_judged() -> None:
    """A motion that the edit loses scores 0; a motion the source does not make is left out, with the reason."""
    moves = face()
    still = replaced(moves, **{name: np.full(FRAMES, 0.3) for name in MotionSignals.names()})
    lost = compare(moves, still)
    assert lost.overall == 0 and all(score.judged and score.r == 0 for score in lost.channels.values())
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
            assert score.r == 1 and score.lag == pytest.approx(0, abs=0.1)


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
