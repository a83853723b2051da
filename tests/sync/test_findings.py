"""What a report says in words, on curves whose defect is known."""

from __future__ import annotations

import json

import numpy as np
import pytest

from synclora.faces import Blink, MotionSignals
from synclora.sync import compare
from synclora.sync.findings import Finding, difference, findings, lag_words, mark_blinks, runs
from tests.sync.test_score import FRAMES, face, replaced

LIDS_OPEN = 0.3


def told(source: MotionSignals, edited: MotionSignals) -> list[Finding]:
    return findings(compare(source, edited), source, edited)


def without_blinks(signals: MotionSignals, onsets: list[int]) -> MotionSignals:
    lids = signals.eye_left.copy()
    for onset in onsets:
        lids[onset : onset + 3] = LIDS_OPEN
    return replaced(signals, eye_left=lids, eye_right=lids)


def lost(signals: MotionSignals, first: int, last: int) -> MotionSignals:
    curves = {name: getattr(signals, name).copy() for name in MotionSignals.names()}
    for curve in curves.values():
        curve[first : last + 1] = np.nan
    return replaced(signals, **curves)


def test_a_clip_in_step_is_said_to_be() -> None:
    """Nothing wrong: one finding, good, without frames."""
    [finding] = told(face(), face())
    assert (finding.severity, finding.channel, finding.frames) == ("good", "all", ())


@pytest.mark.parametrize(("late", "words"), [(3, "3 frames late (0.12 s)"), (-2, "2 frames early (0.08 s)")])
def test_a_shifted_clip_is_one_finding(late: int, words: str) -> None:
    """All channels late by the same frames is one thing to say, and the blinks that moved along are not missing."""
    [finding] = told(face(), face(start=-late))
    assert (finding.severity, finding.channel) == ("bad", "all") and words in finding.text


def test_one_late_channel_is_named_alone() -> None:
    """Only the mouth is late: it is named, with the second in which it is off most; nothing else is said."""
    source, late = face(), face(start=-3)
    [finding] = told(source, replaced(source, mouth=late.mouth))
    assert finding.channel == "mouth" and finding.text == "Mouth is 3 frames late."
    [(first, last)] = finding.frames
    off = np.abs(source.mouth - late.mouth)
    assert last - first == 24 and off[first : last + 1].mean() > off.mean()


def test_missing_and_extra_blinks_are_placed() -> None:
    """Blinks of the source at frames 15, 40 and 65; the edited clip lacks the one at 40 (1.6 s), and the reverse."""
    source = face()
    onsets = [blink.onset for blink in source.blinks()]
    assert onsets == [15, 40, 65]
    [missing] = [f for f in told(source, without_blinks(source, [40])) if f.channel == "blinks"]
    assert missing.text == "1 of 3 blinks is missing: at 1.6 s." and missing.frames == ((40, 42),)
    [extra] = [f for f in told(without_blinks(source, [40]), source) if f.channel == "blinks"]
    assert extra.text == "1 blink is not in the source: at 1.6 s."
    json.dumps([f.to_json() for f in (missing, extra)])


def test_a_blink_that_moved_is_late_and_not_missing() -> None:
    """A blink 4 frames late in a clip that is on time."""
    source = face()
    lids = without_blinks(source, [40]).eye_left
    lids[44:47] = 0.02
    [finding] = [f for f in told(source, replaced(source, eye_left=lids, eye_right=lids)) if f.channel == "blinks"]
    assert finding.text == "1 of 3 blinks comes 4 frames late: at 1.6 s."


def test_a_drifting_lag_is_told_with_its_ends() -> None:
    """A clip that takes 3 % longer is 3 frames later after every 100: the drift is the one thing said of its lag."""
    frames = np.arange(200)
    source, slow = face(frames=200), frames / 1.03
    edited = replaced(source, **{n: np.interp(slow, frames, getattr(source, n)) for n in MotionSignals.names()})
    found = told(source, edited)
    assert found[0].text.startswith("The lag drifts: ") and found[0].text.endswith("(+3.0 frames every 100).")
    (first, last) = found[0].frames
    assert first[0] < 20 and last[1] > 180
    assert not [f for f in found[1:] if f.channel in ("all", "blinks") or "late" in f.text]


def test_hidden_eyes_are_a_remark() -> None:
    """Behind sunglasses nothing is said to be missing: eyes, gaze and blinks are not judged, and that is all."""
    source = face()
    [finding] = told(source, face(blinks=False).including(frozenset({"eyes"}), {}))
    assert (finding.severity, finding.channel) == ("warn", "eyes")
    assert finding.text == "The eyes cannot be seen in the edited clip: eyes, gaze and blinks are not judged."


def test_a_shift_also_explains_channels_that_cannot_tell_a_lag() -> None:
    """A mouth that repeats itself names no lag; in a clip that is late as a whole it is not said to be wrong."""
    times = np.arange(400)
    talk = 0.05 * np.sin(2 * np.pi * times / 8)
    source, late = replaced(face(), mouth=talk[100:181]), replaced(face(start=-3), mouth=talk[97:178])
    report = compare(source, late)
    assert report.channels["mouth"].lag is None and (report.channels["mouth"].r or 0) < 0
    [finding] = findings(report, source, late)
    assert "whole clip is 3 frames late" in finding.text


def test_frozen_damped_and_exaggerated_channels() -> None:
    """A frozen gaze stands still; half the size is damped, twice is exaggerated; each on its own channel."""
    source = face()
    noise = 1e-4 * np.random.default_rng(0).normal(size=FRAMES)
    edited = replaced(source, gaze_x=0.05 + noise, mouth=0.5 * source.mouth, brows=2 * source.brows)
    texts = {f.channel: f.text for f in told(source, edited)}
    assert set(texts) == {"gaze_x", "mouth", "brows"}
    assert "stands still" in texts["gaze_x"]
    assert texts["mouth"] == "Mouth is damped: 50 % of the source's motion."
    assert texts["brows"] == "Brows are exaggerated: 200 % of the source's motion."


def test_a_channel_that_does_not_follow() -> None:
    """Unrelated motion of the right size does not follow, and no lag is claimed for it."""
    source = face()
    wild = 0.05 * np.random.default_rng(5).normal(size=FRAMES)
    [finding] = told(source, replaced(source, yaw=8 * wild / wild.std()))
    assert finding.channel == "yaw" and finding.text.startswith("Head yaw does not follow the source (r ")


def test_another_motion_is_said_once() -> None:
    """Two unrelated motions: one finding for all channels that do not follow, not one each."""
    source, other = face(), face(start=130, blinks=False)
    found = told(source, other)
    [whole] = [f for f in found if f.channel == "all"]
    assert "The motion is not the source's" in whole.text and "do not follow" in whole.text
    assert not [f for f in found if "not follow" in f.text and f is not whole]
    still = replaced(source, **{name: np.full(FRAMES, 0.3) for name in MotionSignals.names()})
    assert {f.text for f in told(source, still)} >= {"The edited clip stands nearly still."}
    assert len(told(source, still)) == 2  # and the blinks


def test_lost_faces_are_named_by_frames() -> None:
    """Frames 40 to 52 without a face in the edited clip; in the source they are a remark, not a fault."""
    source = face()
    [finding] = told(source, lost(source, 40, 52))
    assert finding.text == "The edited clip loses the face in frames 40-52 (from 1.6 s)."
    assert (finding.severity, finding.frames) == ("bad", ((40, 52),))
    [away] = told(lost(source, 40, 52), source)
    assert away.severity == "warn" and "source shows no face in frames 40-52" in away.text
    gone = told(source, lost(source, 0, FRAMES - 1))
    assert [f.text for f in gone] == ["The edited clip shows no face in any frame."]


def test_slow_channels_are_not_called_late_for_noise() -> None:
    """Where moving a curve removes less than half of what r lacks of 1, no lag is named."""
    times = np.arange(FRAMES)
    source = replaced(face(), roll=5 * np.sin(times / 25))
    edited = replaced(source, roll=source.roll + 1.2 * np.random.default_rng(1).normal(size=FRAMES))
    report = compare(source, edited)
    assert not [f for f in findings(report, source, edited) if "late" in f.text or "early" in f.text]


def test_worst_comes_first() -> None:
    source = face()
    edited = lost(replaced(source, mouth=0.4 * source.mouth), 3, 5)
    order = [f.severity for f in told(lost(source, 70, 75), edited)]
    assert order == sorted(order, key=("bad", "warn", "good").index) and {"bad", "warn"} <= set(order)


def test_difference_shows_where() -> None:
    """0 for a clip against itself; near 0 outside the frames that differ; 1 where the edited clip loses the face."""
    source = face()
    assert difference(compare(source, source), source, source).max() == 0
    mouth = source.mouth.copy()
    mouth[30:40] += 0.2
    edited = lost(replaced(source, mouth=mouth), 60, 64)
    off = difference(compare(source, edited), source, edited)
    assert off[30:40].min() > 3 * off[:30].max() and (off[60:65] == 1).all() and off.max() <= 1


def test_blinks_by_fate() -> None:
    """Onsets 10|11 match, 30|34 moved, 50 is missing, 70 is extra; the count of matches is the score's."""
    source, edited = [Blink(10, 3), Blink(30, 3), Blink(50, 3)], [Blink(11, 3), Blink(34, 3), Blink(70, 3)]
    marks = mark_blinks(source, edited)
    assert marks.matched == ((0, 0),) and marks.moved == ((1, 1),) and marks.missing == (2,) and marks.extra == (2,)


def test_runs_and_words() -> None:
    assert runs(np.array([1, 1, 0, 1, 0, 0, 1], bool)) == [(0, 1), (3, 3), (6, 6)] and runs(np.zeros(3, bool)) == []
    words = [lag_words(lag) for lag in (0.2, 0.5, 1, -1.6, 3.02)]
    assert words == ["on time", "half a frame late", "1 frame late", "1.5 frames early", "3 frames late"]
