"""How late one curve is against another, how sure that is, and whether it drifts over a long clip.

The lag of best fit is the whole number of frames k, within 6, at which Pearson's r is highest, refined by a parabola
through its neighbours. Whether it may be told depends on what is left of the edited curve there: a slow curve fits its
exact copy at one lag only, but tells nothing under an edit that changes it. A lag is named where every rival l, any
whole lag but k, is less likely by a factor of e^`SURE`; so it is sure to which frame it rounds:

    L(l) = (1 + v) / 2 * ln((n2 + v E(l)) / (n2 + v E)) >= SURE

    E(l)   mean square of e(t + l) - g s(t) about its mean, over the frames that both clips show; s the source, e the
           edited clip, g the gain of least squares at lag k
    E      E(k); against a rival within `BETWEEN` of the refined lag, that at the refined lag, by the parabola through
           E(k - 1), E(k), E(k + 1): half a frame late, two whole lags fit alike, and worse
    v      (N - 3) / c: the effective number of frames; N the fewer of those compared at k and at l, less gain, offset
           and lag, which are fitted
    c      the larger of 1 and (n2 + sum_j Rw(j) Rd(j) / Rd(0)) / (n2 + Rw(0)): how much more a residual w of this
           colour varies along d(t) = g (s(t - k) - s(t - l)) than a white one; R are the autocorrelation sums
    n2     (1 + g^2) n^2, n the deviation of the tracker's noise

This is the ratio of the marginal likelihoods of normal residuals of unknown variance, which the tracker's noise, known
from other clips, foretells with the weight of one frame (the scaled inverse chi-square prior; Gelman et al., Bayesian
Data Analysis, 3rd ed., 2.6); c is how Bartlett (1935, J. R. Stat. Soc. 98, 536) counts autocorrelated samples. Where a
rival is too likely the lag is None; r at lag 0 says all there is to say. Limits from tests/sync/measure_robustness.py.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

MAX_LAG = 6  # frames
MIN_FRAMES = 5  # that both clips show, for r to mean anything
FITTED = 3  # gain, offset and lag
BETWEEN = 0.6  # frames; a lag of half a frame lies between two whole ones that fit alike
MIN_OVERLAP = 2 / 3  # of the frames, at any lag
SURE = 6.0  # log of the odds; e^6 = 400
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


def lagged(source: Array, edited: Array) -> tuple[list[int], Array]:
    """Pearson's r of source[t] and edited[t + lag] for each lag; NaN where too few frames overlap or one is flat."""
    frames = len(source)
    reach = _reach(frames)
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


def why_no_lag(source: Array, edited: Array, lag: float, noise: float) -> str:
    """Why the curves [F] cannot tell their `lag` of best fit (see the module); empty where they can.

    noise: deviation of the tracker's noise, in the curves' unit.
    """
    best, reach = round(lag), _reach(len(source))
    rivals = [best - 1, best + 1, *(at for at in range(-reach, reach + 1) if abs(at - best) > 1)]
    if _odds(source, edited, best, rivals, noise, lag)[1] >= SURE:
        return ""
    rival, odds = _odds(source, _delayed(source, [best])[0], best, rivals, noise, best)  # of an exact copy
    if odds >= SURE:
        return "fits too loosely to tell a lag"
    if abs(rival - best) == 1:
        return "moves too slowly to tell a lag"
    return f"repeats itself after {abs(rival - best)} frames, so a lag cannot be told"


def _reach(frames: int) -> int:
    """The greatest lag at which enough of a clip of `frames` overlaps."""
    return min(MAX_LAG, int((1 - MIN_OVERLAP) * frames))


def _odds(
    source: Array, edited: Array, best: int, rivals: list[int], noise: float, refined: float
) -> tuple[int, float]:
    """The rival that comes nearest to the best lag, and the module's L there; infinite where none can be compared.

    rivals: the best lag's neighbours, and then others.
    """
    delayed = _delayed(source, [best, *rivals])
    known = np.isfinite(delayed) & np.isfinite(edited)
    count = known.sum(axis=1)
    s, e = _centred(delayed, known), _centred(np.broadcast_to(edited, known.shape), known)
    gain = max(0.0, float(s[0] @ e[0]) / float(s[0] @ s[0])) if s[0].any() else 0.0
    rest = e - gain * s
    error = (rest**2).sum(axis=1) / np.maximum(count, 1)
    both = known & known[0]
    apart = _centred(gain * (delayed[0] - delayed), both)
    left = np.where(both, rest[0], 0)
    expected = (1 + gain**2) * noise**2
    colour = (expected + _along(left, apart)) / (expected + (left**2).sum(axis=1))
    frames = np.maximum(np.minimum(count, count[0]) - FITTED, 0) / np.maximum(colour, 1)
    near = np.abs(np.array([best, *rivals]) - refined) <= BETWEEN
    bottom = _bottom(error[1], error[0], error[2]) if (count[:3] >= MIN_FRAMES).all() else error[0]
    least = np.where(near, bottom, error[0])
    odds = (1 + frames) / 2 * np.log((expected + frames * error) / (expected + frames * least))
    odds[count < MIN_FRAMES] = np.inf
    nearest = 1 + int(odds[1:].argmin())
    return rivals[nearest - 1], float(odds[nearest])


def _bottom(before: float, at: float, after: float) -> float:
    """The least value of the parabola through three errors, the middle one the least; not below 0."""
    bend = before - 2 * at + after
    return max(0.0, at - (before - after) ** 2 / (8 * bend)) if bend > 0 else at


def _delayed(curve: Array, lags: list[int]) -> Array:
    """The curve [F] so many frames later, [lags, F]; NaN where nothing comes in."""
    at = np.arange(len(curve)) - np.array(lags)[:, None]
    inside = (at >= 0) & (at < len(curve))
    return np.where(inside, curve[np.where(inside, at, 0)], np.nan)


def _centred(curves: Array, known: NDArray[np.bool_]) -> Array:
    """Each row less its mean over its known frames, and 0 in the others."""
    mean = np.where(known, curves, 0).sum(axis=1) / np.maximum(known.sum(axis=1), 1)
    return np.where(known, curves - mean[:, None], 0)


def _along(rest: Array, apart: Array) -> Array:
    """sum_j Rw(j) Rd(j) / Rd(0) of the rows of w = `rest` and d = `apart`, by their spectra; 0 where d is."""
    size = 2 * rest.shape[1]  # so that ends do not meet
    spectra = np.abs(np.fft.fft(rest, size)) ** 2 * np.abs(np.fft.fft(apart, size)) ** 2
    power = (apart**2).sum(axis=1)
    return np.divide(spectra.sum(axis=1) / size, power, out=np.zeros_like(power), where=power > 0)


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
