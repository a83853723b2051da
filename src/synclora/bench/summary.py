"""What a benchmark measures on each edited clip, and how the clips of a method are summed up."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Any

from torch import Tensor

from synclora.bench.baselines import BenchPair
from synclora.bench.identity import identity_similarity
from synclora.bench.metrics import (
    bootstrap_interval,
    bootstrap_ratio_interval,
    end_to_start,
    flicker,
    gradient_error,
    psnr,
    retention,
    ssim,
)
from synclora.clip import Clip
from synclora.faces import MotionSignals, measure
from synclora.sync import CHANNELS, SyncReport, compare
from synclora.sync.lag import MIN_R

ONE_LEVEL = 20 * math.log10(255)  # dB: an error of one grey level; a clip counts at most this much in a mean
ON_TIME = 0.5  # frames


@dataclass(frozen=True)
class Result:
    """What was measured on one edited clip; psnr is infinite where it equals the truth."""

    psnr: float
    ssim: float
    gradient_error: float
    flicker: float
    retention: float
    end_to_start: float
    identity: float | None
    seconds: float
    report: SyncReport


def judge(pair: BenchPair, source: MotionSignals, edited: Tensor, seconds: float) -> Result:
    """Measure an edited clip, uint8 [F, H, W, 3], against the pair's truth and the motion of its source."""
    return Result(
        psnr(edited, pair.truth),
        ssim(edited, pair.truth),
        gradient_error(edited, pair.truth),
        flicker(edited, pair.truth),
        retention(edited, pair.truth, float(pair.source.fps)),
        end_to_start(edited, pair.truth, float(pair.source.fps)),
        identity_similarity(edited, pair.truth),
        seconds,
        compare(source, measure(Clip(edited, pair.source.fps))),
    )


def summary(rows: Sequence[Result], kinds: Sequence[str]) -> dict[str, Any]:
    """The numbers of one method over all clips, as bench.json holds them; `kinds` are the clips' edits.

    See `synclora.bench.suite.run_procedural` for what they are.
    """
    sync = _sync_values(rows)
    blinks = [row.report.blinks for row in rows]
    pairs, totals = [2 * blink.matched for blink in blinks], [blink.source + blink.edited for blink in blinks]
    channels = [score for row in rows for score in row.report.channels.values() if score.judged]
    # A channel too slow to tell a lag says nothing here; one that the edit lost counts against it.
    told = [score for score in channels if score.lag is not None or (score.r_best or 0.0) < MIN_R]
    lags = [lag for row in rows if (lag := clip_lag(row.report)) is not None]
    on_time = [float(abs(lag) <= ON_TIME) for lag in lags]
    found = [abs(lag) for lag in lags if math.isfinite(lag)]
    return {
        **_ratio(rows),
        **_mean("ssim", [row.ssim for row in rows]),
        **_mean("gradient_error", [row.gradient_error for row in rows]),
        **_mean("flicker", [row.flicker for row in rows]),
        **_geometric_mean("retention", [row.retention for row in rows]),
        **_geometric_mean("end_to_start", [row.end_to_start for row in rows]),
        **_mean("identity", [row.identity for row in rows if row.identity is not None]),
        "sync": {name: tidy(fmean(v)) if v else None for name, v in sync.items()},
        "sync_ci": {name: _interval(v) for name, v in sync.items()},
        "sync_clips": {name: len(v) for name, v in sync.items()},
        "blink_f1": tidy(sum(pairs) / sum(totals)) if sum(totals) else None,
        "blink_f1_ci": _tidy_all(bootstrap_ratio_interval(pairs, totals)),
        "blinks": {"source": sum(b.source for b in blinks), "edited": sum(b.edited for b in blinks)},
        "lag": tidy(fmean(found)) if found else None,
        **_mean("lag0_clips", on_time),
        "lag0_share": tidy(fmean(s.lag is not None and abs(s.lag) <= ON_TIME for s in told)) if told else None,
        "seconds_per_clip": tidy(median(row.seconds for row in rows)),
        "by_kind": {
            kind: _of_kind([r for r, k in zip(rows, kinds, strict=True) if k == kind]) for kind in _once(kinds)
        },
    }


def clip_row(result: Result) -> dict[str, Any]:
    """One clip of one method, as bench.json holds it; psnr is null where the clip equals the truth."""
    return {
        "psnr": None if math.isinf(result.psnr) else tidy(result.psnr),
        "ssim": tidy(result.ssim),
        "gradient_error": tidy(result.gradient_error),
        "flicker": tidy(result.flicker),
        "retention": tidy(result.retention),
        "end_to_start": tidy(result.end_to_start),
        "identity": None if result.identity is None else tidy(result.identity),
        "seconds": tidy(result.seconds),
        "sync": result.report.to_json(),
    }


def clip_lag(report: SyncReport) -> float | None:
    """How many frames a clip is late as a whole: the weighted median of its channels' lags.

    Infinite where channels with half of the weight or more fit at no lag; None where no channel can tell a lag.
    """
    judged = [(CHANNELS[name].weight, score) for name, score in report.channels.items() if score.judged]
    lags = sorted((score.lag, weight) for weight, score in judged if score.lag is not None)
    lost = sum(weight for weight, score in judged if score.lag is None and (score.r_best or 0.0) < MIN_R)
    found = sum(weight for _, weight in lags)
    if not found and not lost:
        return None
    if lost >= found:
        return math.inf
    reached = 0.0
    for lag, weight in lags:
        reached += weight
        if reached >= found / 2:
            return float(lag)
    return float(lags[-1][0])


def tidy(value: float) -> float:
    """Four decimals."""
    return round(float(value), 4)


def _sync_values(rows: Sequence[Result]) -> dict[str, list[float]]:
    """The overall score and r at lag 0 per channel, over the clips in which each is judged."""
    values = {"overall": [row.report.overall for row in rows if row.report.overall is not None]}
    for name in CHANNELS:
        scores = [row.report.channels[name] for row in rows]
        values[name] = [score.r or 0.0 for score in scores if score.judged]
    return values


def _ratio(rows: Sequence[Result]) -> dict[str, Any]:
    if all(math.isinf(row.psnr) for row in rows):
        return {"psnr": None, "psnr_ci": None}
    return _mean("psnr", [min(row.psnr, ONE_LEVEL) for row in rows])


def _of_kind(rows: Sequence[Result]) -> dict[str, Any]:
    overall = _sync_values(rows)["overall"]
    return {
        "clips": len(rows),
        **_ratio(rows),
        "ssim": tidy(fmean(row.ssim for row in rows)),
        "overall": tidy(fmean(overall)) if overall else None,
    }


def _mean(name: str, values: Sequence[float]) -> dict[str, Any]:
    return {name: tidy(fmean(values)) if values else None, f"{name}_ci": _interval(values)}


def _geometric_mean(name: str, ratios: Sequence[float]) -> dict[str, Any]:
    logs = [math.log(ratio) for ratio in ratios]
    interval = bootstrap_interval(logs)
    return {
        name: tidy(math.exp(fmean(logs))),
        f"{name}_ci": None if interval is None else [tidy(math.exp(bound)) for bound in interval],
    }


def _interval(values: Sequence[float]) -> list[float] | None:
    return _tidy_all(bootstrap_interval(values))


def _tidy_all(interval: tuple[float, float] | None) -> list[float] | None:
    return None if interval is None else [tidy(bound) for bound in interval]


def _once(names: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(names))
