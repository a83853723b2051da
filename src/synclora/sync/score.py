"""How well an edited clip keeps its source's motion: per channel, per blink, and as one number.

Per channel, over the frames in which both clips show it: Pearson's r at lag 0, the lag that fits best and r there, and
the ratio a of the standard deviations (edited / source). The overall score is

    overall = coverage * sum(w_c * q_c) / sum(w_c)        over the channels judged, and the blinks
    q_c     = max(r_c, 0) * 2 a_c / (1 + a_c^2)           r_c at lag 0
    q_blink = F1 of the blinks                            where either clip has any

with the weights below. q_c is Lin's concordance coefficient (Lin 1989, Biometrics 45(1)) without the difference of
the means, since an edit may change how wide a mouth or an eye is at rest: 1 means the same motion at the same size.
Coverage is the part of the source's frames with a face whose edited frames have one too.

A channel counts where the SOURCE moves enough to tell motion from the tracker's noise. Where the source moves and the
edited clip stands still, r is 0: losing a motion is a failure, not a gap in the data.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from synclora.errors import SyncloraError
from synclora.faces.signals import Blink, MotionSignals

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Channel:
    """weight: in the overall score. floor: least standard deviation of the source for the channel to be judged, in the
    channel's unit (set by eye from the tracker's noise on three real clips at 480 and 512 px; not calibrated)."""

    weight: float
    floor: float


CHANNELS: dict[str, Channel] = {
    "mouth": Channel(3.0, 0.008),
    "mouth_width": Channel(1.0, 0.01),
    "eyes": Channel(1.0, 0.006),
    "gaze_x": Channel(1.0, 0.006),
    "gaze_y": Channel(0.5, 0.004),
    "yaw": Channel(1.0, 0.7),
    "pitch": Channel(1.0, 0.7),
    "roll": Channel(1.0, 0.5),
    "brows": Channel(0.5, 0.008),
}
BLINK_WEIGHT = 1.0
BLINK_TOLERANCE = 1  # frames
MAX_LAG = 6  # frames
MIN_FRAMES = 5  # that both clips show, for r to mean anything
MIN_OVERLAP = 2 / 3  # of the frames, at any lag
MIN_R = 0.3  # below it nothing in the two curves fits, and no lag is named
STILL = 0.02  # an edited clip moving less than this part of the source's motion stands still


@dataclass(frozen=True)
class ChannelScore:
    """One channel. Numbers are None where they cannot be told; `why` says so when the channel is not judged.

    r: Pearson at lag 0, in [-1, 1]. lag: of the best fit within 6 frames, to parts of a frame; positive where the
    edited clip is late; None where nothing fits. r_best: r at the best whole lag. amplitude: deviation, edited over
    source.
    """

    judged: bool
    why: str
    r: float | None
    lag: float | None
    r_best: float | None
    amplitude: float | None

    @property
    def quality(self) -> float:
        """q_c of the module's formula, in [0, 1]."""
        r, a = self.r or 0.0, self.amplitude or 0.0
        return max(r, 0.0) * 2 * a / (1 + a * a)


@dataclass(frozen=True)
class BlinkScore:
    """Blinks of the edited clip matched one to one with the source's, onsets at most one frame apart.

    precision: part of the edited clip's blinks that the source has; recall: part of the source's that the edited clip
    has; f1: their harmonic mean. None where there is nothing to count.
    """

    source: int
    edited: int
    matched: int
    precision: float | None
    recall: float | None
    f1: float | None


@dataclass(frozen=True)
class SyncReport:
    """What `compare` found. overall: in [0, 1], None where nothing could be judged, with `why`."""

    frames: int
    fps: str
    coverage: float
    overall: float | None
    why: str
    channels: dict[str, ChannelScore]
    blinks: BlinkScore

    def to_json(self) -> dict[str, Any]:
        """Plain values for JSON, None (null) where a number cannot be told."""
        return asdict(self)

    def dumps(self) -> str:
        """The report as a JSON string."""
        return json.dumps(self.to_json(), allow_nan=False)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> SyncReport:
        """The inverse of `to_json`."""
        channels = {name: ChannelScore(**score) for name, score in values["channels"].items()}
        return cls(**{**values, "channels": channels, "blinks": BlinkScore(**values["blinks"])})


def compare(source: MotionSignals, edited: MotionSignals) -> SyncReport:
    """Score an edited clip's motion against its source's, frame by frame.

    Raises:
        SyncloraError: the clips differ in length or frame rate, so frames do not correspond.
    """
    if source.num_frames != edited.num_frames or source.fps != edited.fps:
        raise SyncloraError(
            f"clips to compare: the source has {source.num_frames} frames at {source.fps} fps, the edited clip "
            f"{edited.num_frames} at {edited.fps}; both need the same. Trim or resample one of them first."
        )
    channels = {
        name: _score(getattr(source, name), getattr(edited, name), channel.floor) for name, channel in CHANNELS.items()
    }
    blinks = match_blinks(source.blinks(), edited.blinks())
    faces = int(source.found.sum())
    coverage = float((source.found & edited.found).sum() / faces) if faces else 0.0
    parts = [(CHANNELS[name].weight, score.quality) for name, score in channels.items() if score.judged]
    if blinks.f1 is not None:
        parts.append((BLINK_WEIGHT, blinks.f1))
    overall, why = None, ""
    if not faces:
        why = "no face in the source"
    elif not parts:
        why = "the source hardly moves in any channel"
    else:
        overall = _tidy(coverage * sum(w * q for w, q in parts) / sum(w for w, _ in parts))
    return SyncReport(
        source.num_frames, str(source.fps), round(coverage, 6), overall, why, channels=channels, blinks=blinks
    )


def match_blinks(source: Sequence[Blink], edited: Sequence[Blink], tolerance: int = BLINK_TOLERANCE) -> BlinkScore:
    """Match blinks one to one, onsets at most `tolerance` frames apart, in order of time.

    Taking for each source blink the earliest edited one still free within reach gives the most matches there can be
    (both lists are sorted and all windows are equally wide).
    """
    matched, free = 0, 0
    for blink in source:
        while free < len(edited) and edited[free].onset < blink.onset - tolerance:
            free += 1
        if free < len(edited) and edited[free].onset <= blink.onset + tolerance:
            matched, free = matched + 1, free + 1
    precision = matched / len(edited) if edited else None
    recall = matched / len(source) if source else None
    total = len(source) + len(edited)
    return BlinkScore(len(source), len(edited), matched, precision, recall, 2 * matched / total if total else None)


def _score(source: Array, edited: Array, floor: float) -> ChannelScore:
    both = np.isfinite(source) & np.isfinite(edited)
    known = source[np.isfinite(source)]
    moves = float(known.std()) if known.size else 0.0
    if known.size < MIN_FRAMES:
        return ChannelScore(False, f"measured in {known.size} source frames; needs {MIN_FRAMES}", *[None] * 4)
    if moves < floor:
        return ChannelScore(False, f"too flat: the source moves by {moves:.4f} (deviation); needs {floor}", *[None] * 4)
    if both.sum() < MIN_FRAMES:
        return ChannelScore(True, f"both clips show it in {both.sum()} frames; counted as lost", 0.0, None, None, 0.0)
    shared = float(source[both].std())
    amplitude = float(edited[both].std()) / shared if shared > 0 else 0.0
    if amplitude < STILL:
        return ChannelScore(True, "the edited clip stands still", 0.0, None, None, _tidy(amplitude))
    lags, values = _lagged(source, edited)
    best = int(np.nanargmax(values))
    r_best = float(values[best])
    lag = _peak(lags, values, best) if r_best >= MIN_R else None
    r = float(values[lags.index(0)])
    return ChannelScore(True, "", _tidy(r), _tidy(lag), _tidy(r_best), _tidy(amplitude))


def _lagged(source: Array, edited: Array) -> tuple[list[int], Array]:
    """Pearson's r of source[t] and edited[t + lag], for each lag; NaN where too few frames overlap or one is flat."""
    frames = len(source)
    reach = min(MAX_LAG, int((1 - MIN_OVERLAP) * frames))
    lags = list(range(-reach, reach + 1))
    values = np.full(len(lags), np.nan)
    for index, lag in enumerate(lags):
        a = source[max(0, -lag) : frames - max(0, lag)]
        b = edited[max(0, lag) : frames - max(0, -lag)]
        both = np.isfinite(a) & np.isfinite(b)
        if both.sum() >= MIN_FRAMES:
            a, b = a[both] - a[both].mean(), b[both] - b[both].mean()
            power = np.sqrt((a @ a) * (b @ b))
            values[index] = np.clip(a @ b / power, -1, 1) if power > 0 else np.nan
    middle = lags.index(0)
    values[middle] = 0.0 if np.isnan(values[middle]) else values[middle]
    return lags, values


def _peak(lags: list[int], values: Array, best: int) -> float:
    """The top of the parabola through the best r and its two neighbours."""
    if 0 < best < len(lags) - 1 and np.isfinite(values[best - 1 : best + 2]).all():
        before, top, after = values[best - 1 : best + 2]
        bend = before - 2 * top + after
        if bend < 0:
            return lags[best] + float(0.5 * (before - after) / bend)
    return float(lags[best])


def _tidy(value: float | None) -> float | None:
    return None if value is None else round(float(value), 6)
