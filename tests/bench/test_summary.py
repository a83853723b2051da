"""How a method's clips are summed up."""

from __future__ import annotations

import math

import pytest

from synclora.bench.summary import ONE_LEVEL, Result, clip_lag, summary
from synclora.sync import SyncReport
from synclora.sync.score import BlinkScore, ChannelScore


def channel(lag: float | None, r: float = 0.9, judged: bool = True) -> ChannelScore:
    return ChannelScore(judged, "" if judged else "hardly moves", r, lag, r if lag is None else 0.95, 1.0)


def report(blinks: tuple[int, int, int] = (0, 0, 0), **channels: ChannelScore) -> SyncReport:
    names = ("mouth", "mouth_width", "eyes", "gaze_x", "gaze_y", "yaw", "pitch", "roll", "brows")
    still = channel(None, judged=False)
    scores = {name: channels.get(name, still) for name in names}
    return SyncReport(33, "25", 1.0, 0.5, "", scores, BlinkScore(*blinks, None, None, None))


def result(ratio: float = 30.0, retention: float = 1.0, identity: float | None = None, **kept: object) -> Result:
    told = kept.get("report", report())
    assert isinstance(told, SyncReport)
    return Result(ratio, 0.9, 1.0, 0.5, retention, 2 * retention, identity, 2.0, told)


def test_a_clips_lag_is_its_channels_weighted_median() -> None:
    """Mouth (weight 3) at 2, yaw and roll (1 each) at 0: 2. Half or more of the weight without a fit: infinite."""
    assert clip_lag(report(mouth=channel(2.0), yaw=channel(0.0), roll=channel(0.1))) == 2
    assert clip_lag(report(yaw=channel(0.0), roll=channel(0.2), eyes=channel(3.0))) == 0.2
    assert clip_lag(report(mouth=channel(None, r=0.1), yaw=channel(0.0), roll=channel(0.0))) == math.inf
    assert clip_lag(report(mouth=channel(0.0), yaw=channel(None, r=0.1))) == 0
    assert clip_lag(report(mouth=channel(None, r=0.9))) is None  # fits, but too slow to tell a lag
    assert clip_lag(report()) is None


def test_lags_over_clips() -> None:
    """Lags 0.2, 2, lost, and none to tell: one of three clips on time, 1.1 frames late on average where it fits."""
    lags = (channel(0.2), channel(2.0), channel(None, r=0.0), channel(None))
    rows = [result(report=report(mouth=one)) for one in lags]
    told = summary(rows, ["a", "a", "b", "b"])
    assert told["lag0_clips"] == pytest.approx(1 / 3, abs=1e-4) and told["lag"] == pytest.approx(1.1)
    assert told["sync"]["mouth"] == pytest.approx((0.9 + 0.9 + 0.0 + 0.9) / 4)
    assert told["by_kind"]["b"]["clips"] == 2


def test_means_over_clips() -> None:
    """An exact clip counts 48.13 dB; ratios are geometric means; blinks of all clips are counted together."""
    rows = [result(math.inf, 2.0, report=report((2, 1, 1))), result(30.0, 0.5, report=report((1, 2, 1)))]
    told = summary(rows, ["a", "b"])
    assert told["psnr"] == pytest.approx((ONE_LEVEL + 30) / 2, abs=1e-3) and round(ONE_LEVEL, 2) == 48.13
    assert told["by_kind"]["a"]["psnr"] is None and told["by_kind"]["b"]["psnr"] == 30
    assert told["retention"] == 1 and told["retention_ci"] == [0.5, 2.0]
    assert told["end_to_start"] == 2 and told["end_to_start_ci"] == [1.0, 4.0]
    assert told["blink_f1"] == pytest.approx(4 / 6, abs=1e-4)
    assert told["identity"] is None
    assert summary([result(identity=0.5), result(identity=0.7)], ["a", "a"])["identity"] == pytest.approx(0.6)
