"""A sync report in plain words: what is wrong, in which channel, and at which frames.

The limits here choose words for a reader. They judge nothing: the score is `score.py`'s, and what a pair needs to be
kept is the gate's.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from statistics import median
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from synclora.faces.signals import Blink, MotionSignals
from synclora.sync.score import (
    BLINK_TOLERANCE,
    CHANNELS,
    MAX_LAG,
    BlinkScore,
    ChannelScore,
    SyncReport,
    counted_blinks,
)

Array = NDArray[np.float64]
Severity = Literal["bad", "warn", "good"]
Span = tuple[int, int]  # first and last frame, counted from 0

NAMES = {
    "mouth": "mouth",
    "mouth_width": "mouth width",
    "eyes": "eyes",
    "gaze_x": "sideways gaze",
    "gaze_y": "vertical gaze",
    "yaw": "head yaw",
    "pitch": "head pitch",
    "roll": "head roll",
    "brows": "brows",
}
PLURAL = {"eyes", "brows"}

LATE = 0.5  # frames: less than half a frame is not called a lag
EXPLAINED = 0.5  # a lag is named where moving the curve by it removes at least this part of 1 - r
ALIKE = 1.0  # frames: channels whose lags are no further from their median are late together
LOST_R, LOOSE_R = 0.5, 0.7  # below these a channel does not follow, or follows loosely
SMALL, LARGE = 0.6, 1.6  # amplitudes outside are damped or exaggerated
NEARLY_STILL = 0.35  # an amplitude below it, of motion that does not follow, is hardly motion at all
AT_MOST = 3  # places named in one sentence


@dataclass(frozen=True)
class Finding:
    """One thing to know. channel: a name of `CHANNELS`, "blinks", "face" or "all". frames: where it shows, in order of
    time, each the first and the last frame of a stretch."""

    severity: Severity
    channel: str
    text: str
    frames: tuple[Span, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain values for JSON."""
        frames = [list(span) for span in self.frames]
        return {"severity": self.severity, "channel": self.channel, "text": self.text, "frames": frames}


@dataclass(frozen=True)
class BlinkMarks:
    """Blinks of both clips by fate: index pairs (source, edited) that match within one frame; pairs of which the
    edited one is up to 6 frames off; and what is left on either side."""

    matched: tuple[tuple[int, int], ...]
    moved: tuple[tuple[int, int], ...]
    missing: tuple[int, ...]
    extra: tuple[int, ...]


def findings(report: SyncReport, source: MotionSignals, edited: MotionSignals) -> list[Finding]:
    """Say in plain words what `compare(source, edited)` found; the worst comes first, at least one finding in all."""
    late = _common_lag(report)
    drift = _drift(report)
    found = [
        *_face(source, edited),
        *_hidden(source, edited),
        *(drift or _lags(report, source, edited, late)),
        *_blinks(source, edited, late, bool(drift)),
        *_motion(report, source, edited, late is not None or bool(drift)),
    ]
    if report.overall is None:
        found.append(Finding("warn", "all", f"Nothing could be judged: {report.why}."))
    elif not found:
        found.append(Finding("good", "all", "In step: everything judged moves on the source's frames."))
    return sorted(found, key=lambda finding: ("bad", "warn", "good").index(finding.severity))


def mark_blinks(source: Sequence[Blink], edited: Sequence[Blink]) -> BlinkMarks:
    """Tell matched, moved, missing and extra blinks apart; both lists in order of time.

    Onsets within one frame match, as in the score. Of the rest, those up to 6 frames apart are one blink that moved.
    """
    matched = _pairs(
        [(i, b.onset) for i, b in enumerate(source)], [(i, b.onset) for i, b in enumerate(edited)], BLINK_TOLERANCE
    )
    left = [(i, b.onset) for i, b in enumerate(source) if i not in {pair[0] for pair in matched}]
    right = [(i, b.onset) for i, b in enumerate(edited) if i not in {pair[1] for pair in matched}]
    moved = _pairs(left, right, MAX_LAG)
    missing = {i for i, _ in left} - {pair[0] for pair in moved}
    extra = {i for i, _ in right} - {pair[1] for pair in moved}
    return BlinkMarks(tuple(matched), tuple(moved), tuple(sorted(missing)), tuple(sorted(extra)))


def difference(report: SyncReport, source: MotionSignals, edited: MotionSignals) -> Array:
    """How far the edited clip is off at each frame [F], in [0, 1].

    Per judged channel the curves' distance about their means, in the source's standard deviations and at most 2 of
    them; the mean over channels with the score's weights, halved. 1 where only the source shows a face, 0 where the
    source shows none.
    """
    total, weights = np.zeros(source.num_frames), np.zeros(source.num_frames)
    for name, score in report.channels.items():
        if score.judged:
            off = _off(getattr(source, name), getattr(edited, name))
            known = np.isfinite(off)
            total[known] += CHANNELS[name].weight * np.minimum(off[known], 2) / 2
            weights[known] += CHANNELS[name].weight
    total = np.divide(total, weights, out=np.zeros_like(total), where=weights > 0)
    total[source.found & ~edited.found] = 1
    total[~source.found] = 0
    return total


def runs(mask: NDArray[np.bool_]) -> list[Span]:
    """The stretches of True in a mask [F], each as its first and last frame."""
    edges = np.diff(np.concatenate([[0], np.asarray(mask, int), [0]]))
    starts, stops = np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)
    return [(int(a), int(b) - 1) for a, b in zip(starts, stops, strict=True)]


def lag_words(lag: float) -> str:
    """ "3 frames late", "half a frame early", "on time": to a half of a frame."""
    halves = round(2 * abs(lag))
    if halves == 0:
        return "on time"
    count = {1: "half a frame", 2: "1 frame"}.get(halves, f"{halves / 2:g} frames")
    return f"{count} {'late' if lag > 0 else 'early'}"


def is_late(score: ChannelScore) -> bool:
    """Whether a channel's lag is worth words: half a frame or more, and moving the curve by it removes at least half of
    what r lacks of 1. Where little is to be gained, the best fit lies wherever the noise puts it."""
    return score.lag is not None and abs(score.lag) >= LATE and _explained(score)


def blink_words(blinks: BlinkScore) -> str:
    """ "5 of 6 blinks on their frame", or why there is nothing to count."""
    if not blinks.source and not blinks.edited:
        return "no blinks in either clip"
    if blinks.f1 is None:
        return "blinks not judged"
    if not blinks.source:
        return "the source never blinks"
    return f"{blinks.matched} of {blinks.source} blinks on their frame"


def _explained(score: ChannelScore) -> bool:
    """Whether a lag, known or not, removes at least half of what r lacks of 1."""
    if score.r is None or score.r_best is None or score.r == score.r_best:
        return False
    return 1 - score.r_best <= (1 - EXPLAINED) * (1 - score.r)


def _common_lag(report: SyncReport) -> float | None:
    """The lag that channels of at least half the judged weight share; None where they are on time or disagree."""
    judged = {name: score for name, score in report.channels.items() if score.judged}
    lags = {name: score.lag for name, score in judged.items() if score.lag is not None and is_late(score)}
    if not lags:
        return None
    middle = median(lags.values())
    alike = _weight(name for name, lag in lags.items() if abs(lag - middle) <= ALIKE)
    return middle if len(lags) > 1 and 2 * alike >= _weight(judged) else None


def _weight(names: Iterable[str]) -> float:
    return sum(CHANNELS[name].weight for name in names)


def _lags(report: SyncReport, source: MotionSignals, edited: MotionSignals, late: float | None) -> list[Finding]:
    found = []
    if late is not None:
        seconds = abs(late) / float(source.fps)
        worst = _worst(difference(report, source, edited), source.fps)
        found.append(Finding("bad", "all", f"The whole clip is {lag_words(late)} ({seconds:.2f} s).", (worst,)))
    for name, score in report.channels.items():
        if score.judged and score.lag is not None and is_late(score):
            if late is not None and abs(score.lag - late) <= ALIKE:
                continue
            severity: Severity = "bad" if abs(score.lag) >= 1 else "warn"
            text = f"{NAMES[name].capitalize()} {_is(name)} {lag_words(score.lag)}."
            found.append(Finding(severity, name, text, _where(name, source, edited)))
    return found


def _drift(report: SyncReport) -> list[Finding]:
    """What is said instead of one lag, where the lag changes over the clip."""
    drift = report.drift
    if drift is None or not drift.drifts or drift.slope is None:
        return []
    known = [(window, window.lag) for window in drift.windows if window.lag is not None]
    (first, start), (last, end) = known[0], known[-1]
    text = (
        f"The lag drifts: {lag_words(start)} at the start, {lag_words(end)} at the end "
        f"({drift.slope:+.1f} frames every 100)."
    )
    return [Finding("bad", "all", text, tuple((w.start, w.start + w.frames - 1) for w in (first, last)))]


def _hidden(source: MotionSignals, edited: MotionSignals) -> list[Finding]:
    lost = {"eyes": "eyes, gaze and blinks are not judged", "mouth": "its motion is not judged"}
    return [
        Finding("warn", part, f"The {part} cannot be seen in {clip}: {what}.")
        for part, what in lost.items()
        for clip, signals in (("the source", source), ("the edited clip", edited))
        if part in signals.hidden
    ]


def _face(source: MotionSignals, edited: MotionSignals) -> list[Finding]:
    found = []
    if not edited.found.any():
        return [Finding("bad", "face", "The edited clip shows no face in any frame.")] if source.found.any() else []
    if lost := runs(source.found & ~edited.found):
        text = f"The edited clip loses the face in {_stretches(lost, source.fps)}."
        found.append(Finding("bad", "face", text, tuple(lost)))
    if source.found.any() and (away := runs(~source.found)):
        text = f"The source shows no face in {_stretches(away, source.fps)}; not counted."
        found.append(Finding("warn", "face", text, tuple(away)))
    return found


def _blinks(source: MotionSignals, edited: MotionSignals, late: float | None, drifts: bool) -> list[Finding]:
    if "eyes" in source.hidden | edited.hidden:
        return []
    ours, theirs = counted_blinks(source, edited)
    marks = mark_blinks(ours, theirs)
    fps, found = source.fps, []
    # A blink that moved as the whole clip did is told already.
    moved = [(i, theirs[j].onset - ours[i].onset) for i, j in marks.moved]
    moved = [(i, by) for i, by in moved if not drifts and (late is None or abs(by - late) > BLINK_TOLERANCE)]
    for by in sorted({by for _, by in moved}):
        at = [ours[i] for i, lag in moved if lag == by]
        found.append(_about(at, len(ours), fps, "of {total} blinks {come} " + lag_words(by)))
    # Where the other clip shows no face, that is what there is to say, and it is said already.
    if missing := [ours[i] for i in marks.missing if _shown(ours[i], edited)]:
        found.append(_about(missing, len(ours), fps, "of {total} blinks {is} missing"))
    if extra := [theirs[i] for i in marks.extra if _shown(theirs[i], source)]:
        found.append(_about(extra, len(extra), fps, "{blinks} {is} not in the source"))
    return found


def _shown(blink: Blink, signals: MotionSignals) -> bool:
    return bool(signals.found[blink.onset : blink.onset + blink.length].any())


def _about(blinks: list[Blink], total: int, fps: Fraction, what: str) -> Finding:
    one = len(blinks) == 1
    forms = (
        {"come": "comes", "is": "is", "blinks": "blink"} if one else {"come": "come", "is": "are", "blinks": "blinks"}
    )
    words = what.format(total=total, **forms)
    text = f"{len(blinks)} {words}: at {_list([_seconds(b.onset, fps) for b in blinks])}."
    return Finding("bad", "blinks", text, tuple((int(b.onset), int(b.onset + b.length - 1)) for b in blinks))


def _motion(report: SyncReport, source: MotionSignals, edited: MotionSignals, shifted: bool) -> list[Finding]:
    """Channels that stand still, do not follow, or move too little or too far. What is merely late is left out, and in
    a clip that is shifted as a whole whatever a lag explains. Where most of the motion does not follow, that is said
    once."""
    judged = {name: score for name, score in report.channels.items() if score.judged}
    present = {name: s for name, s in judged.items() if not is_late(s) and not (shifted and _explained(s))}
    own = [name for name, score in present.items() if (score.r or 0) < LOST_R]
    found = []
    if not edited.found.any():
        return []
    if most := len(own) > 1 and 2 * _weight(own) > _weight(judged):
        text = f"The motion is not the source's: {len(own)} of {len(judged)} channels do not follow it."
        if all((judged[name].amplitude or 0) < NEARLY_STILL for name in own):
            text = "The edited clip stands nearly still."
        found.append(Finding("bad", "all", text, (_worst(difference(report, source, edited), source.fps),)))
    for name, score in present.items():
        said = _how(name, score)
        if said and not (most and name in own):
            found.append(Finding(said[0], name, f"{NAMES[name].capitalize()}{said[1]}.", _where(name, source, edited)))
    return found


def _how(name: str, score: ChannelScore) -> tuple[Severity, str] | None:
    """What is wrong with a channel's motion, to follow its name; None where nothing is."""
    if score.r is None or score.amplitude is None:
        return None
    is_, (do, follow) = _is(name), ("do", "follow") if name in PLURAL else ("does", "follows")
    share = f"{100 * score.amplitude:.0f} % of the source's motion"
    if score.why:
        return "bad", f": {score.why}"
    if score.r < LOST_R and score.amplitude < NEARLY_STILL:
        return "bad", f" {is_} nearly still: {share}, and not with it (r {score.r:.2f})"
    if score.r < LOST_R:
        return "bad", f" {do} not follow the source (r {score.r:.2f})"
    if score.amplitude < SMALL:
        return "bad", f" {is_} damped: {share}"
    if score.amplitude > LARGE:
        return "bad", f" {is_} exaggerated: {share}"
    return ("warn", f" only loosely {follow} (r {score.r:.2f})") if score.r < LOOSE_R else None


def _off(source: Array, edited: Array) -> Array:
    """Distance of two curves about their means in the source's deviations [F]; NaN where either is unknown."""
    both = np.isfinite(source) & np.isfinite(edited)
    off = np.full(len(source), np.nan)
    if both.any() and source[both].std() > 0:
        a, b = source[both], edited[both]
        off[both] = np.abs((a - a.mean()) - (b - b.mean())) / a.std()
    return off


def _where(name: str, source: MotionSignals, edited: MotionSignals) -> tuple[Span, ...]:
    off = _off(getattr(source, name), getattr(edited, name))
    return (_worst(np.nan_to_num(off), source.fps),) if np.isfinite(off).any() else ()


def _worst(off: Array, fps: Fraction) -> Span:
    """The second of the clip in which the curves differ most."""
    length = min(len(off), max(1, round(fps)))
    sums = np.convolve(off**2, np.ones(length), "valid")
    start = int(sums.argmax())
    return start, start + length - 1


def _pairs(left: list[tuple[int, int]], right: list[tuple[int, int]], reach: int) -> list[tuple[int, int]]:
    """Pair (index, frame) lists one to one in order of time, frames at most `reach` apart; the most pairs there are."""
    pairs, free = [], 0
    for index, frame in left:
        while free < len(right) and right[free][1] < frame - reach:
            free += 1
        if free < len(right) and right[free][1] <= frame + reach:
            pairs.append((index, right[free][0]))
            free += 1
    return pairs


def _is(name: str) -> str:
    return "are" if name in PLURAL else "is"


def _seconds(frame: int, fps: Fraction) -> str:
    return f"{float(frame / fps):.1f} s"


def _stretches(spans: Sequence[Span], fps: Fraction) -> str:
    parts = [f"frame {a}" if a == b else f"frames {a}-{b}" for a, b in spans]
    return f"{_list(parts)} (from {_seconds(spans[0][0], fps)})"


def _list(parts: Sequence[str]) -> str:
    """ "a", "a and b", "a, b and c", "a, b, c and 4 more"."""
    if len(parts) > AT_MOST:
        return f"{', '.join(parts[:AT_MOST])} and {len(parts) - AT_MOST} more"
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)
