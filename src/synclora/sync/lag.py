"""How late one curve is against another, how sure that is, and whether it drifts over a long clip.

The lag of best fit is the whole number of frames, within 6, at which Pearson's r is highest, refined by a parabola
through its neighbours. Three things make such a lag worthless:

    slow     The tracker's noise n on both curves moves the best fit by about sqrt(2) n / sqrt(sum s'(t)^2) frames, s
             the source's curve (the Cramer-Rao bound for a delay); more than `SURE` is too much. So is a curve that
             fits itself two frames later with r > `SLOW`: what an edit by itself changes in a curve costs as much.
    repeats  Shifted by 2 frames or more, s fits itself again nearly as well, past a dip: one syllable like the next.
    loose    What remains of the edited curve at the best fit, e(t), moves the fit by about sqrt(sum_k Re(k) Rs'(k) / N)
             / sum s'(t)^2 frames, R the autocorrelation sums (the error of least squares with coloured noise); more
             than `SURE` is too much as well.

A lag is then None; r at lag 0 says all there is to say.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

MAX_LAG = 6  # frames
MIN_FRAMES = 5  # that both clips show, for r to mean anything
MIN_OVERLAP = 2 / 3  # of the frames, at any lag
SURE = 0.25  # frames; half a frame is then two deviations away
SLOW = 0.98  # r of the source with itself
REPEATS = 0.9  # r of the source with itself
WINDOW, HOP = 33, 11  # frames, of the windows that a drift is read from
MIN_R = 0.3  # below it nothing in the two curves fits, and no lag is named
MIN_DRIFT = 1.0  # frames between the first window and the last
SIGNIFICANT = 3.0  # standard errors of the slope


@dataclass(frozen=True)
class Window:
    """A stretch of a long clip and how late all judged channels together are in it; None where nothing fits."""

    start: int
    frames: int
    lag: float | None


@dataclass(frozen=True)
class Drift:
    """The lag over a long clip. slope: frames of lag per 100 frames, the line of least squares through the windows.
    drifts: whether the lag changes by a frame or more, and by more than chance; None, as slope, where too few fit."""

    windows: list[Window]
    slope: float | None
    drifts: bool | None


def lagged(source: Array, edited: Array, reach: int = MAX_LAG) -> tuple[list[int], Array]:
    """Pearson's r of source[t] and edited[t + lag] for each lag; NaN where too few frames overlap or one is flat."""
    frames = len(source)
    reach = min(reach, int((1 - MIN_OVERLAP) * frames))
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
    return lags, values


def best_lag(lags: list[int], values: Array) -> float:
    """The top of the parabola through the best value and its two neighbours; the best itself at an end."""
    best = int(np.nanargmax(values))
    if 0 < best < len(lags) - 1 and np.isfinite(values[best - 1 : best + 2]).all():
        before, top, after = values[best - 1 : best + 2]
        bend = before - 2 * top + after
        if bend < 0:
            return lags[best] + float(0.5 * (before - after) / bend)
    return float(lags[best])


def why_no_lag(source: Array, noise: float) -> str:
    """Why the source's curve [F] cannot tell a lag; empty where it can. noise: deviation of the tracker's."""
    speed = np.diff(source)
    change = float(np.nansum(np.maximum(speed**2 - 2 * noise**2, 0)))  # less what the noise itself adds
    error = np.sqrt(2) * noise / np.sqrt(change) if change > 0 else np.inf
    if error > SURE:
        return "moves too slowly to tell a lag"
    lags, values = lagged(source, source, 2 * MAX_LAG)
    late = values[len(lags) // 2 :]  # symmetric: r of a curve with itself, from lag 0 on
    if len(late) > 2 and late[2] > SLOW:
        return "moves too slowly to tell a lag"
    if len(late) > 2 and np.isfinite(late).all():
        dip = np.minimum.accumulate(late)
        again = int(np.argmax(np.where(late > dip, late, -1)))
        if late[again] > REPEATS and late[again] > dip[again]:
            return f"repeats itself after {again} frames, so a lag cannot be told"
    return ""


def is_loose(source: Array, edited: Array, lag: float) -> bool:
    """Whether the curves [F] fit too loosely at their lag of best fit for it to mean anything."""
    whole, frames = round(lag), len(source)
    a = source[max(0, -whole) : frames - max(0, whole)]
    b = edited[max(0, whole) : frames - max(0, -whole)]
    known = np.isfinite(a) & np.isfinite(b)
    at = np.arange(len(a))
    a, b = (np.interp(at, at[known], curve[known] - curve[known].mean()) for curve in (a, b))
    gain = float(a @ b) / float(a @ a)
    if gain <= 0:
        return True
    rest, speed = b / gain - a, np.gradient(a)
    coloured = float(np.correlate(rest, rest, "full") @ np.correlate(speed, speed, "full")) / len(a)
    return np.sqrt(max(0.0, coloured)) > SURE * float(speed @ speed)


def find_drift(curves: list[tuple[float, Array, Array]]) -> Drift | None:
    """How the lag changes over a clip; None for one shorter than two windows.

    Args:
        curves: per judged channel its weight, the source's curve and the edited clip's, [F] each.
    """
    frames = len(curves[0][1]) if curves else 0
    if frames < 2 * WINDOW:
        return None
    windows = []
    moved = 0  # whole frames by which the edited clip's window follows the lag found so far
    for start in range(0, frames - WINDOW + 1, HOP):
        first = min(max(start + moved, 0), frames - WINDOW)
        lag = _common_lag([(w, s[start : start + WINDOW], e[first : first + WINDOW]) for w, s, e in curves])
        lag = None if lag is None else lag + first - start
        moved = moved if lag is None else round(lag)
        windows.append(Window(start, WINDOW, None if lag is None else round(lag, 3)))
    known = [(window.start, window.lag) for window in windows if window.lag is not None]
    if len(known) < 4:
        return Drift(windows, None, None)
    at, late = np.array(known, dtype=float).T
    at -= at.mean()
    slope = float(at @ (late - late.mean()) / (at @ at))
    rest = late - late.mean() - slope * at
    error = float(np.sqrt(rest @ rest / (len(late) - 2) / (at @ at) * WINDOW / HOP))  # the windows overlap
    drifts = abs(slope) * np.ptp(at) >= MIN_DRIFT and abs(slope) > SIGNIFICANT * error
    return Drift(windows, round(100 * slope, 4), bool(drifts))


def _common_lag(curves: list[tuple[float, Array, Array]]) -> float | None:
    """The lag at which the weighted mean of all channels' r is highest."""
    total, lags = np.zeros(2 * MAX_LAG + 1), list(range(-MAX_LAG, MAX_LAG + 1))
    weights = 0.0
    for weight, source, edited in curves:
        lags, values = lagged(source, edited)
        if np.isfinite(values).all():
            total += weight * values
            weights += weight
    if not weights or total.max() < MIN_R * weights:
        return None
    return best_lag(lags, total)
