"""Histograms as inline SVG, coloured by the page's style: kept pairs in class k, rejected ones stacked in class d."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

WIDTH, HEIGHT, BASE, TOP = 240, 96, 80, 14  # px
BINS = 30
TAIL = 0.01  # of the values on each side may lie beyond the axis, in the outermost bars


def histogram(
    values: NDArray[np.float64], kept: NDArray[np.bool_], least: float | None = None, most: float | None = None
) -> str:
    """An SVG histogram of finite values [N], kept [N] ones in one colour and the others stacked on them.

    least, most: limits to draw, with what lies beyond them shaded; the axis always shows them.
    """
    limits = [limit for limit in (least, most) if limit is not None]
    low, high = _span(values, limits)
    edges = np.linspace(low, high, BINS + 1)
    inside = np.clip(values, low, high)
    below, above = np.histogram(inside[kept], edges)[0], np.histogram(inside[~kept], edges)[0]
    tallest = max(1, int((below + above).max()))
    scale = (BASE - TOP) / tallest
    step = WIDTH / BINS
    shapes = []
    outside = [] if least is None else [(0.0, _at(least, low, high))]
    outside += [] if most is None else [(_at(most, low, high), float(WIDTH))]
    for start, stop in outside:
        shapes.append(f'<rect class="out" x="{start:.1f}" y="{TOP}" width="{stop - start:.1f}" height="{BASE - TOP}"/>')
    for index, (down, up) in enumerate(zip(below, above, strict=True)):
        for style, count, start in (("k", down, 0), ("d", up, down)):
            if count:
                tall = max(1.0, count * scale)
                y = BASE - start * scale - tall
                shapes.append(
                    f'<rect class="{style}" x="{index * step + 0.5:.1f}" y="{y:.1f}" width="{step - 1:.1f}" '
                    f'height="{tall:.1f}"/>'
                )
    shapes.append(f'<line class="axis" x1="0" x2="{WIDTH}" y1="{BASE}" y2="{BASE}"/>')
    for limit in limits:
        x = _at(limit, low, high)
        anchor = "start" if x < WIDTH * 0.12 else "end" if x > WIDTH * 0.88 else "middle"
        shapes.append(f'<line class="limit" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{BASE}"/>')
        shapes.append(f'<text class="limit" x="{x:.1f}" y="{TOP - 4}" text-anchor="{anchor}">{limit:g}</text>')
    shapes.append(f'<text x="0" y="{HEIGHT - 3}">{_short(low)}</text>')
    shapes.append(f'<text x="{WIDTH}" y="{HEIGHT - 3}" text-anchor="end">{_short(high)}</text>')
    label = f"histogram of {len(values)} values from {_short(float(values.min()))} to {_short(float(values.max()))}"
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">{"".join(shapes)}</svg>'


def _span(values: NDArray[np.float64], limits: list[float]) -> tuple[float, float]:
    """The axis: nearly all values and every limit, with a little room around the limits."""
    low, high = (float(v) for v in np.quantile(values, [TAIL, 1 - TAIL]))
    room = 0.06 * max(high - low, max((abs(limit) for limit in limits), default=0.0), 1e-3)
    low, high = min([low, *(limit - room for limit in limits)]), max([high, *(limit + room for limit in limits)])
    return (low, high) if high > low else (low - room, high + room)


def _at(value: float, low: float, high: float) -> float:
    return WIDTH * (value - low) / (high - low)


def _short(value: float) -> str:
    """A number in at most three digits."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    return f"{value:.{max(0, 2 - math.floor(math.log10(abs(value))))}f}".rstrip("0").rstrip(".") or "0"
