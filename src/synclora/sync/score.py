"""How well an edited clip keeps its source's motion: per channel, per blink, and as one number.

Per channel, over the frames in which both clips show it: Pearson's r at lag 0, the lag that fits best and r there, and
the ratio a of the standard deviations (edited / source). The overall score is

    overall = coverage * mouth^0.25 * lids^0.1 * head^0.5 * gaze^0.2 * blinks^0.75

    mouth, lids, head, gaze = max(r, 0) * exp(-k * ln(a)^2)       r: weighted mean at lag 0; ln(a): weighted mean
    blinks = F1                                                   where either clip has any

over the parts that can be judged, none below 0.05 unless all are: then it is 0. It is a product, for a clip is as out
of step as its worst part: a mean let sound channels hide a lost blink or a frozen gaze (tests/pairs/measure_gate.py).
The channels of a part are averaged first, as one alone is noisy in a short clip. An edited clip that moves a times as
far loses by exp(-k ln(a)^2), the same for half as far as for twice; k is large for the head, whose motion is measured
well. Gaze loses only where it moves too little, as the iris is so small that noise alone makes it move more.
Differences of the means cost nothing, since an edit may change how wide a mouth or an eye is at rest. Blinks are
hardly ever counted wrongly, hence their exponent. Brows are reported only: their curve is the noisiest. Coverage is the
part of the source's frames with a face whose edited frames have one too.

A channel counts where the SOURCE moves enough to tell motion from the tracker's noise: by 4 times the noise, at which
noise alone on both curves brings r down to 16 / 17 = 0.94. Where the source moves and the edited clip stands still, r
is 0: losing a motion is a failure, not a gap in the data. What cannot be seen is such a gap: eyes behind sunglasses, a
mouth under a mask are not judged. A lag is named only where the two curves can tell one (`synclora.sync.lag`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from synclora.errors import SyncloraError
from synclora.faces.signals import Blink, MotionSignals
from synclora.sync.lag import (
    MAX_LAG,
    MIN_FRAMES,
    MIN_R,
    Drift,
    Window,
    best_lag,
    find_drift,
    lagged,
    why_no_lag,
)

__all__ = [
    "BLINK_TOLERANCE", "CHANNELS", "MAX_LAG", "BlinkScore", "Channel", "ChannelScore", "Drift", "SyncReport", "Window",
    "compare", "counted_blinks", "match_blinks",
]  # fmt: skip

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Channel:
    """weight: within its group. group: the part of the overall score, "" for none. part: what must be visible for it, a
    name of `MotionSignals.hidden`. noise: deviation of what is not motion in a measured curve, in the channel's unit:
    its square is half the variance of the difference between real clips and their re-encoded, brightened, darkened,
    recoloured, halved and grainy versions, rounded up (tests/sync/measure_robustness.py)."""

    weight: float
    noise: float
    part: str = ""
    group: str = ""

    @property
    def floor(self) -> float:
        """Least deviation of the source for the channel to be judged."""
        return FLOOR * self.noise


FLOOR = 4.0
CHANNELS: dict[str, Channel] = {
    "mouth": Channel(3.0, 0.004, "mouth", "mouth"),
    "mouth_width": Channel(1.0, 0.0047, "mouth", "mouth"),
    "eyes": Channel(1.0, 0.0013, "eyes", "lids"),
    "gaze_x": Channel(1.0, 0.0008, "eyes", "gaze"),
    "gaze_y": Channel(0.5, 0.0016, "eyes", "gaze"),
    "yaw": Channel(1.0, 0.15, "", "head"),
    "pitch": Channel(0.5, 0.17, "", "head"),
    "roll": Channel(1.0, 0.075, "", "head"),
    "brows": Channel(0.5, 0.0022),
}
# Of each group: its exponent in the overall score, and k, how much too little or too much motion costs.
GROUPS = {"mouth": (0.25, 0.5), "lids": (0.1, 0.5), "head": (0.5, 4.0), "gaze": (0.2, 1.0)}
BLINK_EXPONENT = 0.75
LEAST = 0.05  # of a part of the score; a part that is lost altogether does not make all clips alike
BODY_NOISE = 0.01  # eye distances, of shoulders and wrists; not calibrated, as the renderer draws neither
BLINK_TOLERANCE = 1  # frames
SHALLOW = 0.7  # of the usual lid opening: a blink this shallow counts where it answers one of the other clip
STILL = 0.02  # an edited clip moving less than this part of the source's motion stands still


@dataclass(frozen=True)
class ChannelScore:
    """One channel. Numbers are None where they cannot be told; `why` says so when the channel is not judged.

    r: Pearson at lag 0, in [-1, 1]. lag: of the best fit within 6 frames, to parts of a frame; positive where the
    edited clip is late; None where nothing fits, or where the curves cannot tell a lag: `lag_why` then says so. r_best:
    r at the best whole lag. amplitude: deviation, edited over source.
    """

    judged: bool
    why: str
    r: float | None
    lag: float | None
    r_best: float | None
    amplitude: float | None
    lag_why: str = ""


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
    """What `compare` found. overall: in [0, 1], None where nothing could be judged, with `why`.

    lost: frames without a face in the "source" and in the "edited" clip. drift: of the lag over time, for clips of two
    windows (66 frames) or more. body: shoulders and wrists, where both clips were measured with them; not in overall.
    """

    frames: int
    fps: str
    coverage: float
    overall: float | None
    why: str
    channels: dict[str, ChannelScore]
    blinks: BlinkScore
    lost: dict[str, int] = field(default_factory=dict)
    drift: Drift | None = None
    body: dict[str, ChannelScore] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain values for JSON, None (null) where a number cannot be told."""
        return asdict(self)

    def dumps(self) -> str:
        """The report as a JSON string."""
        return json.dumps(self.to_json(), allow_nan=False)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> SyncReport:
        """The inverse of `to_json`."""
        channels, body = (
            {name: ChannelScore(**score) for name, score in values.get(part, {}).items()}
            for part in ("channels", "body")
        )
        drift = values.get("drift")
        if drift is not None:
            drift = Drift(**{**drift, "windows": [Window(**window) for window in drift["windows"]]})
        blinks = BlinkScore(**values["blinks"])
        return cls(**{**values, "channels": channels, "blinks": blinks, "drift": drift, "body": body})


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
        name: _hidden(source, edited, channel) or _score(getattr(source, name), getattr(edited, name), channel.noise)
        for name, channel in CHANNELS.items()
    }
    blinks = match_blinks(*counted_blinks(source, edited))
    if "eyes" in source.hidden | edited.hidden:
        blinks = BlinkScore(blinks.source, blinks.edited, 0, None, None, None)
    faces = int(source.found.sum())
    coverage = float((source.found & edited.found).sum() / faces) if faces else 0.0
    overall, why = None, ""
    if not faces:
        why = "no face in the source"
    elif (motion := _motion_score(channels, blinks)) is None:
        why = "the source hardly moves in any channel"
    else:
        overall = _tidy(coverage * motion)
    moving = [name for name, score in channels.items() if score.judged and score.r_best is not None]
    return SyncReport(
        frames=source.num_frames,
        fps=str(source.fps),
        coverage=round(coverage, 6),
        overall=overall,
        why=why,
        channels=channels,
        blinks=blinks,
        lost={"source": int((~source.found).sum()), "edited": int((~edited.found).sum())},
        drift=find_drift([(CHANNELS[name].weight, getattr(source, name), getattr(edited, name)) for name in moving]),
        body=_body(source, edited),
    )


def _motion_score(channels: dict[str, ChannelScore], blinks: BlinkScore) -> float | None:
    """The overall score but for coverage, in [0, 1]; None where nothing can be judged."""
    parts = [(BLINK_EXPONENT, blinks.f1)] if blinks.f1 is not None else []
    for group, (exponent, k) in GROUPS.items():
        told = [(CHANNELS[n].weight, s) for n, s in channels.items() if s.judged and CHANNELS[n].group == group]
        if told:
            total = sum(weight for weight, _ in told)
            r = sum(weight * max(score.r or 0.0, 0.0) for weight, score in told) / total
            most = 1.0 if group == "gaze" else math.inf
            factors = [(weight, min(max(score.amplitude or 0.0, STILL), most)) for weight, score in told]
            log_a = sum(weight * math.log(factor) for weight, factor in factors) / total
            parts.append((exponent, r * math.exp(-k * log_a**2)))
    if all(value <= LEAST for _, value in parts):
        return 0.0 if parts else None
    return math.prod(max(value, LEAST) ** exponent for exponent, value in parts)


def counted_blinks(source: MotionSignals, edited: MotionSignals) -> tuple[list[Blink], list[Blink]]:
    """The blinks of both clips that count: every clear one, and a shallow one that answers a clear one of the other.

    A half-closed blink near the threshold may pass it in one clip and miss it by the tracker's noise in the other; that
    is no lost blink.
    """

    def counted(own: MotionSignals, other: MotionSignals) -> list[Blink]:
        clear = {blink.onset: blink for blink in own.blinks()}
        answers = [blink.onset for blink in other.blinks()]
        for blink in own.blinks(SHALLOW):
            if any(abs(blink.onset - onset) <= BLINK_TOLERANCE for onset in answers):
                clear.setdefault(blink.onset, blink)
        return [clear[onset] for onset in sorted(clear)]

    return counted(source, edited), counted(edited, source)


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


def _not_judged(why: str) -> ChannelScore:
    return ChannelScore(False, why, r=None, lag=None, r_best=None, amplitude=None)


def _hidden(source: MotionSignals, edited: MotionSignals, channel: Channel) -> ChannelScore | None:
    """Not judged, where the part of the face that shows a channel is hidden."""
    for clip, signals in (("the source", source), ("the edited clip", edited)):
        if channel.part in signals.hidden:
            return _not_judged(f"the {channel.part} cannot be seen in {clip}")
    return None


def _score(source: Array, edited: Array, noise: float) -> ChannelScore:
    both = np.isfinite(source) & np.isfinite(edited)
    known = source[np.isfinite(source)]
    moves, floor = float(known.std()) if known.size else 0.0, FLOOR * noise
    if known.size < MIN_FRAMES:
        return _not_judged(f"measured in {known.size} source frames; needs {MIN_FRAMES}")
    if moves < floor:
        return _not_judged(f"too flat: the source moves by {moves:.4f} (deviation); needs {floor:.4f}")
    if both.sum() < MIN_FRAMES:
        return ChannelScore(True, f"both clips show it in {both.sum()} frames; counted as lost", 0.0, None, None, 0.0)
    shared = float(source[both].std())
    amplitude = float(edited[both].std()) / shared if shared > 0 else 0.0
    if amplitude < STILL:
        return ChannelScore(True, "the edited clip stands still", 0.0, None, None, _tidy(amplitude))
    lags, values = lagged(source, edited)
    zero = lags.index(0)
    values[zero] = 0.0 if np.isnan(values[zero]) else values[zero]
    r, r_best = float(values[zero]), float(np.nanmax(values))
    lag = best_lag(lags, values)
    lag_why = "nothing fits" if r_best < MIN_R else why_no_lag(source, edited, lag, noise)
    lag = None if lag_why else lag
    return ChannelScore(True, "", _tidy(r), _tidy(lag), _tidy(r_best), _tidy(amplitude), lag_why)


def _body(source: MotionSignals, edited: MotionSignals) -> dict[str, ChannelScore]:
    """Height of the shoulders and of each wrist, the parts of the upper body that a portrait shows moving."""
    curves = {
        "shoulders": ("shoulder_left", "shoulder_right"),
        "wrist_left": ("wrist_left",),
        "wrist_right": ("wrist_right",),
    }

    def height(signals: MotionSignals, names: tuple[str, ...]) -> Array:
        return np.mean([signals.body[name][:, 1] for name in names], axis=0)

    if not (source.body and edited.body):
        return {}
    return {name: _score(height(source, parts), height(edited, parts), BODY_NOISE) for name, parts in curves.items()}


def _tidy(value: float | None) -> float | None:
    return None if value is None else round(float(value), 6)
