"""Frame rates: what a file's rate is, and frames by timestamps at a constant rate."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from fractions import Fraction
from itertools import pairwise
from typing import TypeVar

from synclora.errors import SyncloraError

MIN_RATE, MAX_RATE = Fraction(1), Fraction(240)
_NTSC = [Fraction(n * 1000, 1001) for n in (24, 30, 48, 60, 120)]
_USUAL = [Fraction(n) for n in (10, 12, 15, 20, 24, 25, 30, 48, 50, 60, 90, 120, 240)]
_Item = TypeVar("_Item")


def to_rate(fps: Fraction | float) -> Fraction:
    """Turn a frame rate into a fraction; 29.97 and its kind become the exact n * 1000/1001.

    Raises:
        SyncloraError: it lies outside 1 to 240 or is not finite.
    """
    if not math.isfinite(fps) or not MIN_RATE <= fps <= MAX_RATE:
        raise SyncloraError(f"frame rate {fps}: between {MIN_RATE} and {MAX_RATE} frames a second are needed.")
    if isinstance(fps, (Fraction, int)):
        return Fraction(fps)
    near = min([*_NTSC, Fraction(round(fps))], key=lambda rate: abs(float(rate) - fps))
    return near if abs(float(near) - fps) <= 0.005 else Fraction(fps).limit_denominator(1001)


def nominal_rate(times: list[Fraction], tick: Fraction, average: Fraction) -> tuple[Fraction, bool]:
    """Tell the rate that frames were meant to come at, and whether their spacing varies.

    Constant spacing gives the container's average rate, freed of rounding (a whole or NTSC rate within 0.25 %). Spacing
    that varies by over a fifth (and over two ticks of the clock) is taken as steps left out of a regular beat: each
    step is a whole number of beats, the median one a single beat. Frames that a phone left out in the dark so do not
    lower the rate, which is rounded to a usual one (within 3 %) or a whole one.

    Args:
        times: increasing presentation times (seconds) of some consecutive frames.
        tick: the resolution of these times (seconds).
        average: the container's average rate; 0 where it tells none.

    Returns:
        (rate, variable); rate is 0 where nothing tells it.
    """
    steps = sorted(b - a for a, b in pairwise(times) if b > a)
    if not steps:
        return average, False
    median = steps[len(steps) // 2]
    if steps[-1] - steps[0] > max(2 * tick, median / 5):
        beats = sum(round(step / median) for step in steps)
        rate = beats / sum(steps, Fraction(0))
        usual = min(_USUAL, key=lambda u: abs(u - rate))
        return (usual if abs(usual - rate) <= usual * 3 / 100 else Fraction(max(1, round(rate)))), True
    average = average or (len(times) - 1) / (times[-1] - times[0])
    near = min([Fraction(max(1, round(average))), *_NTSC], key=lambda rate: abs(rate - average))
    return (near if abs(near - average) <= near / 400 else average.limit_denominator(1001)), False


def at_constant_rate(
    timed: Iterable[tuple[Fraction, Fraction, _Item]],
    fps: Fraction,
    step: Fraction,
    start: int = 0,
    stop: int | None = None,
) -> Iterator[tuple[Fraction, _Item]]:
    """Give each instant k / fps after the first frame the frame nearest in time, the earlier one of two as near.

    An instant up to step / 8 after a frame is given to it without waiting for the next, so that reading can stop there.

    Args:
        timed: (presentation time, duration, frame), times in seconds and increasing.
        fps: output rate.
        step: usual distance of the incoming frames (seconds).
        start: first k wanted.
        stop: k at which to stop; None: where the last frame's duration ends.

    Yields:
        (time of the first frame, frame).
    """
    count = 0
    zero = time = end = Fraction(0)
    held: tuple[_Item] | None = None

    def until(limit: Fraction, item: _Item) -> Iterator[tuple[Fraction, _Item]]:
        nonlocal count
        while (stop is None or count < stop) and zero + count / fps <= limit:
            count += 1
            if count > start:
                yield zero, item

    for next_time, length, item in timed:
        if held is None:
            zero = next_time
        else:
            yield from until((time + next_time) / 2, held[0])
        time, end, held = next_time, next_time + length, (item,)
        yield from until(time + step / 8, item)
        if stop is not None and count >= stop:
            return
    if held is not None:
        yield from until(end - 1 / (2 * fps), held[0])
