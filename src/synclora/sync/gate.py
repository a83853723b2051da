"""What a pair must keep of its source's motion and of its own look to be trained on.

    thresholds = load_thresholds()                 # gate.yaml of this package; or load_thresholds("gate.yaml")
    verdict = judge(report, look, thresholds)      # a SyncReport and an Appearance
    verdict.keep, [reason.text for reason in verdict.reasons], verdict.score

Judging is arithmetic on what was measured: the same measurements can be judged again with other thresholds at no cost.
Each limit gives a strain, 0 where nothing is amiss and 1 at the limit; a pair is kept whose every strain is at most 1:

    least r, score or coverage m            (1 - value) / (1 - m)
    most lag, drift, flicker or change m    |value| / m
    motion from a to b times                log value / log b, or log value / log a where it is below 1
    most blinks unmatched n                 count / (n + 1/2)

The score ranks the pairs, kept or not, by the overall score and by what they come nearest to breaking:

    score = overall * exp(-(greatest strain)^2 / 2)

Three figures are pooled over channels, since one channel's alone is noisy in a short clip: the common lag, the median
of the judged channels' lags weighted by (the channel's weight) * r_best^2, of those that fit at all (r_best at least
0.5); the motion of the head, the weighted geometric mean of the amplitudes of yaw, pitch and roll; and the part of the
gaze that is followed, the weighted mean r of gaze_x and gaze_y times their mean amplitude, where that is below 1.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from synclora.errors import SyncloraError
from synclora.sync.appearance import Appearance
from synclora.sync.score import CHANNELS, ChannelScore, SyncReport

DEFAULT = "gate.yaml"  # beside this module
HEAD = ("yaw", "pitch", "roll")
GAZE = ("gaze_x", "gaze_y")
MIN_FIT = 0.5  # r_best from which a channel's lag counts in the common lag


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def _around_one(value: tuple[float, float] | None) -> tuple[float, float] | None:
    if value is not None and not 0 < value[0] < 1 < value[1]:
        raise ValueError(f"is {list(value)}; needs [least, most] with 0 < least < 1 < most")
    return value


class ChannelLimits(_Model):
    """What one channel must hold to where it is judged; a limit left out is not applied."""

    r: float | None = Field(default=None, ge=-1, lt=1, description="least correlation with the source at lag 0")
    lag: float | None = Field(default=None, gt=0, description="most frames early or late, where a lag can be told")
    amplitude: tuple[float, float] | None = Field(
        default=None, description="least and most motion, as a multiple of the source's"
    )

    _around = field_validator("amplitude")(_around_one)


class Thresholds(_Model):
    """The gate's limits; one that is left out is not applied."""

    overall: float | None = Field(default=None, ge=0, lt=1, description="least overall score")
    coverage: float | None = Field(default=None, ge=0, lt=1, description="least part of the source's faces found again")
    lag: float | None = Field(default=None, gt=0, description="most frames of common lag, either way")
    drift: float | None = Field(default=None, gt=0, description="most frames of lag gained over a long clip")
    head: tuple[float, float] | None = Field(
        default=None, description="least and most motion of the head, as a multiple"
    )
    gaze: float | None = Field(default=None, ge=0, lt=1, description="least part of the source's gaze that is followed")
    channels: dict[str, ChannelLimits] = Field(default_factory=dict, description="limits by channel")
    blinks: int | None = Field(default=None, ge=0, description="most blinks missing and extra, together")
    flicker: float | None = Field(default=None, gt=0, description="most flicker, as a part of the brightness")
    change: float | None = Field(default=None, gt=0, description="most change of the look, as a part of the brightness")

    _around = field_validator("head")(_around_one)

    @field_validator("channels")
    @classmethod
    def _known(cls, value: dict[str, ChannelLimits]) -> dict[str, ChannelLimits]:
        unknown = sorted(set(value) - set(CHANNELS))
        if unknown:
            raise ValueError(f"no channel is called {', '.join(unknown)}; the channels are {', '.join(CHANNELS)}")
        return value

    def to_yaml(self) -> str:
        """All limits as YAML that `load_thresholds` reads back."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)


@dataclass(frozen=True)
class Reason:
    """One limit and how a pair stands to it. kind: what it is counted under, such as "mouth lag"; text: in figures."""

    kind: str
    text: str
    strain: float  # see the module; above 1 the limit is broken


@dataclass(frozen=True)
class Verdict:
    """keep: no limit is broken. reasons: the limits broken, the worst first. score: in [0, 1], to rank by."""

    keep: bool
    reasons: tuple[Reason, ...]
    score: float
    nearest: Reason | None = None  # the limit of the greatest strain, broken or not


def load_thresholds(path: Path | str | None = None) -> Thresholds:
    """Read thresholds from a YAML file; None: those that come with the package.

    Raises:
        SyncloraError: no such file, not YAML, an unknown field or a value out of range.
    """
    if path is None:
        text = resources.files("synclora.sync").joinpath(DEFAULT).read_text(encoding="utf-8")
        return parse_thresholds(text, DEFAULT)
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        what = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise SyncloraError(f"{path}: cannot be read ({what}). A YAML file of thresholds is needed.") from error
    return parse_thresholds(text, str(path))


def parse_thresholds(text: str, origin: str = "thresholds") -> Thresholds:
    """Thresholds from YAML text; `origin` is what errors call it. Raises SyncloraError as `load_thresholds` does."""
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise SyncloraError(f"{origin}: not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise SyncloraError(f"{origin}: holds {type(values).__name__}, needs fields such as `overall: 0.6`.")
    try:
        return Thresholds.model_validate(values)
    except ValidationError as error:
        problems = "; ".join(_problem(item) for item in error.errors())
        raise SyncloraError(
            f"{origin}: {problems}. The fields are {', '.join(Thresholds.model_fields)}; correct it and run again."
        ) from error


def judge(report: SyncReport, look: Appearance, thresholds: Thresholds) -> Verdict:
    """Hold what was measured of a pair against the thresholds. A pair of which nothing can be judged is not kept."""
    if report.overall is None:
        nothing = Reason("nothing to judge", f"nothing could be judged: {report.why}", math.inf)
        return Verdict(False, (nothing,), 0.0, nothing)
    found = sorted(_strains(report, look, thresholds), key=lambda reason: -reason.strain)
    broken = tuple(reason for reason in found if reason.strain > 1)
    nearest = found[0] if found else None
    score = report.overall * math.exp(-((nearest.strain if nearest else 0.0) ** 2) / 2)
    return Verdict(not broken, broken, round(score, 6), nearest)


def common_lag(report: SyncReport) -> float | None:
    """The module's common lag, in frames, late where positive; None where no channel tells a lag."""
    told = [
        (score.lag, CHANNELS[name].weight * score.r_best**2)
        for name, score in report.channels.items()
        if score.judged and score.lag is not None and score.r_best is not None and score.r_best >= MIN_FIT
    ]
    half, total = sum(weight for _, weight in told) / 2, 0.0
    for lag, weight in sorted(told):
        total += weight
        if total >= half:
            return lag
    return None


def lag_gained(report: SyncReport) -> float | None:
    """Frames by which the lag changes over a clip, 0 where it does by chance only; None where that cannot be told."""
    drift = report.drift
    if drift is None or drift.slope is None:
        return None
    return abs(drift.slope) / 100 * report.frames if drift.drifts else 0.0


def head_motion(report: SyncReport) -> float | None:
    """How far the edited head moves, as a multiple of the source's; None where the source's hardly moves."""
    return _mean_amplitude(report, HEAD)


def gaze_followed(report: SyncReport) -> float | None:
    """The module's part of the gaze that is followed, at most 1; None where the source's gaze hardly moves."""
    told = [(weight, score.r) for weight, score in _judged(report, GAZE) if score.r is not None]
    motion = _mean_amplitude(report, GAZE)
    if not told or motion is None:
        return None
    return min(motion, 1.0) * sum(weight * r for weight, r in told) / sum(weight for weight, _ in told)


def _judged(report: SyncReport, names: Sequence[str]) -> list[tuple[float, ChannelScore]]:
    """The judged ones of some channels, with their weights."""
    there = [(CHANNELS[name].weight, report.channels[name]) for name in names if name in report.channels]
    return [(weight, score) for weight, score in there if score.judged]


def _mean_amplitude(report: SyncReport, names: Sequence[str]) -> float | None:
    """Weighted geometric mean of the amplitudes of some channels; None where none is judged."""
    told = [(weight, score.amplitude) for weight, score in _judged(report, names) if score.amplitude is not None]
    if not told:
        return None
    if any(amplitude <= 0 for _, amplitude in told):
        return 0.0
    return math.exp(sum(w * math.log(a) for w, a in told) / sum(w for w, _ in told))


def _strains(report: SyncReport, look: Appearance, limits: Thresholds) -> Iterator[Reason]:
    """Every limit that is set and can be told of this pair."""
    if limits.overall is not None and report.overall is not None:
        text = f"overall score {report.overall:.2f} (at least {limits.overall:g})"
        yield Reason("overall", text, _short(report.overall, limits.overall))
    if limits.coverage is not None:
        seen = f"a face is found in {100 * report.coverage:.0f} % of the frames where the source shows one"
        text = f"{seen} (at least {100 * limits.coverage:g} %)"
        yield Reason("face lost", text, _short(report.coverage, limits.coverage))
    if limits.lag is not None and (lag := common_lag(report)) is not None:
        yield _late("lag", "the motion", lag, limits.lag)
    if limits.drift is not None and (gained := lag_gained(report)) is not None:
        text = f"the lag drifts by {gained:.1f} frames over the clip (at most {limits.drift:g})"
        yield Reason("drift", text, gained / limits.drift)
    if limits.head is not None and (motion := head_motion(report)) is not None:
        yield _moves("head motion", "the head", motion, limits.head)
    if limits.gaze is not None and (followed := gaze_followed(report)) is not None:
        text = f"{100 * max(followed, 0):.0f} % of the gaze's motion is followed (at least {100 * limits.gaze:g} %)"
        yield Reason("gaze", text, _short(followed, limits.gaze))
    for name, bounds in limits.channels.items():
        score = report.channels.get(name)
        if score is not None and score.judged:
            yield from _channel(name.replace("_", " "), score, bounds)
    if limits.blinks is not None:
        missing, extra = (
            report.blinks.source - report.blinks.matched,
            report.blinks.edited - report.blinks.matched,
        )
        counts = [_blinks(count, what) for count, what in ((missing, "missing"), (extra, "extra")) if count]
        text = f"{' and '.join(counts) or 'no blink is missing'} (at most {limits.blinks})"
        yield Reason("blinks", text, (missing + extra) / (limits.blinks + 0.5))
    if limits.flicker is not None and look.flicker is not None:
        text = f"the picture flickers by {100 * look.flicker:.1f} % (at most {100 * limits.flicker:g} %)"
        yield Reason("flicker", text, look.flicker / limits.flicker)
    if limits.change is not None and look.change is not None:
        text = f"the look changes by {100 * look.change:.0f} % at frame {look.change_at}"
        text = f"{text} (at most {100 * limits.change:g} %)"
        yield Reason("look changes", text, look.change / limits.change)


def _channel(name: str, score: ChannelScore, limits: ChannelLimits) -> Iterator[Reason]:
    if limits.r is not None and score.r is not None:
        text = f"{name} follows the source with r {score.r:.2f} (at least {limits.r:g})"
        yield Reason(f"{name} r", text, _short(score.r, limits.r))
    if limits.lag is not None and score.lag is not None:
        yield _late(f"{name} lag", name, score.lag, limits.lag)
    if limits.amplitude is not None and score.amplitude is not None:
        yield _moves(f"{name} motion", name, score.amplitude, limits.amplitude)


def _late(kind: str, what: str, lag: float, most: float) -> Reason:
    side = "late" if lag > 0 else "early"
    return Reason(kind, f"{what} is {abs(lag):.1f} frames {side} (at most {most:g})", abs(lag) / most)


def _moves(kind: str, what: str, times: float, limits: tuple[float, float]) -> Reason:
    least, most = limits
    text = f"{what} moves {times:.2f} times as far as in the source ({least:g} to {most:g})"
    strain = math.inf if times <= 0 else math.log(times) / math.log(most if times > 1 else least)
    return Reason(kind, text, strain)


def _short(value: float, least: float) -> float:
    """Strain of a value in [-1, 1] that should be 1."""
    return max(0.0, 1 - value) / (1 - least)


def _blinks(count: int, what: str) -> str:
    return f"{count} {'blink is' if count == 1 else 'blinks are'} {what}"


def _problem(item: Any) -> str:
    """One pydantic error in words: field, value found, what is allowed."""
    field = ".".join(str(part) for part in item["loc"]) or "the whole"
    if item["type"] == "extra_forbidden":
        return f"unknown field {field}"
    if item["type"] == "value_error":
        return f"{field}: {item['ctx']['error']}"
    return f"{field} is {item['input']!r}; {item['msg'][0].lower()}{item['msg'][1:]}"
