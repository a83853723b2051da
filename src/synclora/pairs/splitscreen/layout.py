"""Two portraits on one canvas, and the video of it cut into two again.

+----------+--+----------+
|  left    |g |  right   |     left, right: the pair's size and `trim` more on each side
|          |  |          |     g: a bar of one grey, by which a seam that moves is seen
+----------+--+----------+

layout = Layout.of(width=512, height=512, trim=16, gutter=32, multiple=32)     # a canvas of 1120 x 544
canvas, grey = compose(portrait, edited, layout)
left, right = split(frames, layout)                                            # 512 x 512 each, nothing resized
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from synclora.errors import SyncloraError

Picture = NDArray[np.uint8]  # [H, W, 3]
Frames = NDArray[np.uint8]  # [F, H, W, 3]

GREYS = (0, 128, 255)  # of the bar
CLEAR = 12.0  # of 255: contrast that an edge of the bar needs to be found again
LEFT_OF_EDGE = 0.3  # part of an edge's contrast that must be left; less, and it counts as gone
REACH = 16  # px to either side in which an edge is looked for


@dataclass(frozen=True)
class Layout:
    """Where things are on the canvas, in pixels.

    Attributes:
        width, height: of each clip of the pair.
        trim: cut off every side of a half, all around.
        gutter: width of the bar between the halves.
    """

    width: int
    height: int
    trim: int
    gutter: int

    @staticmethod
    def of(width: int, height: int, trim: int, gutter: int, multiple: int) -> Layout:
        """A layout whose canvas has sides that are multiples of `multiple`; the bar grows to make it so.

        Raises:
            SyncloraError: no bar makes it so, or the height is no multiple.
        """
        if (height + 2 * trim) % multiple:
            fit = next((t for t in range(trim, trim + multiple) if (height + 2 * t) % multiple == 0), None)
            way = f"Set trim: {fit}" if fit is not None else f"Choose a height that is a multiple of {multiple}"
            raise SyncloraError(
                f"height {height} and trim {trim} make a canvas {height + 2 * trim} px high; the video model needs a"
                f" multiple of {multiple}. {way}."
            )
        halves = 2 * (width + 2 * trim)
        grown = -(-(halves + gutter) // multiple) * multiple - halves
        return Layout(width, height, trim, grown)

    @property
    def half(self) -> tuple[int, int]:
        """Width and height of a half, `trim` included."""
        return self.width + 2 * self.trim, self.height + 2 * self.trim

    @property
    def canvas(self) -> tuple[int, int]:
        """Width and height of the whole."""
        return 2 * self.half[0] + self.gutter, self.half[1]


@dataclass(frozen=True)
class Seam:
    """How the bar fared, one value a frame.

    Attributes:
        shift: px by which an edge of the bar is off its place, the worse of the two; NaN where an edge is gone. None
            where the edges had too little contrast from the start to be looked for.
        leak: mean absolute difference between the bar's inside and its grey, 0 to 1; None without a bar.
    """

    shift: NDArray[np.float64] | None
    leak: NDArray[np.float64] | None

    def told(self, kept: int) -> dict[str, float | int | None]:
        """The figures of the first `kept` frames for a record: the largest shift and leak, and frames without a bar."""
        told: dict[str, float | int | None] = {"seam_shift": None, "seam_gone": None, "leak": None}
        if self.shift is not None:
            seen = np.abs(self.shift[:kept])
            told["seam_gone"] = int(np.isnan(seen).sum())
            told["seam_shift"] = round(float(np.nanmax(seen)), 3) if np.isfinite(seen).any() else None
        if self.leak is not None:
            told["leak"] = round(float(self.leak[:kept].max()), 5)
        return told

    def first_bad(self, most_shift: float | None, most_leak: float | None) -> tuple[int, str] | None:
        """The first frame over a limit and why in words; a limit of None is not applied."""
        found: list[tuple[int, str]] = []
        if self.shift is not None and most_shift is not None:
            bad = np.flatnonzero(~(np.abs(self.shift) <= most_shift))
            if len(bad):
                by = self.shift[bad[0]]
                what = "is gone" if np.isnan(by) else f"moved by {by:+.1f} px"
                found.append((int(bad[0]), f"the seam {what} in frame {bad[0]} (limit {most_shift:g} px)"))
        if self.leak is not None and most_leak is not None:
            bad = np.flatnonzero(self.leak > most_leak)
            if len(bad):
                what = f"{self.leak[bad[0]]:.3f} of the picture leaks into the bar in frame {bad[0]}"
                found.append((int(bad[0]), f"{what} (limit {most_leak:g})"))
        return min(found, key=lambda bad: bad[0], default=None)  # a seam that moved leaks, too; the first says more


def compose(left: Picture, right: Picture, layout: Layout) -> tuple[Picture, int]:
    """The canvas with both pictures, each of the size `layout.half`, and the grey of the bar.

    The grey is the one of black, middle grey and white that stands out best from both pictures' borders.
    """
    wide, high = layout.half
    for picture in (left, right):
        if picture.shape != (high, wide, 3) or picture.dtype != np.uint8:
            raise ValueError(f"compose needs uint8 {(high, wide, 3)}; got {picture.dtype} {picture.shape}")
    grey = max(GREYS, key=lambda value: min(_contrast(left[:, -1], value), _contrast(right[:, 0], value)))
    canvas = np.full((high, layout.canvas[0], 3), grey, np.uint8)
    canvas[:, :wide], canvas[:, -wide:] = left, right
    return canvas, grey


def split(frames: Frames, layout: Layout) -> tuple[Frames, Frames]:
    """The left and the right clip, cut alike: exactly at the seam, then `trim` off every side."""
    width, height = layout.canvas
    if frames.shape[1:] != (height, width, 3):
        raise ValueError(f"split needs frames of {width}x{height}; got {frames.shape[2]}x{frames.shape[1]}")
    rows = slice(layout.trim, layout.trim + layout.height)
    starts = (layout.trim, layout.half[0] + layout.gutter + layout.trim)
    left, right = (np.ascontiguousarray(frames[:, rows, x : x + layout.width]) for x in starts)
    return left, right


def measure_seam(frames: Frames, canvas: Picture, layout: Layout, grey: int) -> Seam:
    """Find the bar again in every frame of the video made from `canvas`.

    An edge of the bar is a line through all rows, so it is where the median over rows of the horizontal change of
    brightness is greatest; what moves beside it changes only some rows. Its place is the centroid of that profile.
    """
    wide = layout.half[0]
    edges = [wide, wide + layout.gutter] if layout.gutter else [wide]
    inward = layout.gutter // 2 if layout.gutter else REACH
    shifts: list[NDArray[np.float64]] = []
    reference = _profile(canvas[None])[0]
    for number, edge in enumerate(edges):
        before, after = (REACH, inward) if number == 0 else (inward, REACH)
        window = slice(max(edge - before, 1) - 1, min(edge + after, 2 * wide + layout.gutter - 1))
        contrast = reference[edge - 1]
        if contrast < CLEAR:
            return Seam(None, _leak(frames, layout, grey))
        shifts.append(_places(_profile(frames)[:, window], LEFT_OF_EDGE * contrast) + window.start + 1 - edge)
    both = np.stack(shifts)
    worst = np.take_along_axis(both, np.abs(np.nan_to_num(both, nan=np.inf)).argmax(0)[None], 0)[0]
    return Seam(worst, _leak(frames, layout, grey))


def _contrast(border: NDArray[np.uint8], grey: int) -> float:
    return float(np.median(np.abs(border.mean(-1) - grey)))


def _profile(frames: Frames) -> NDArray[np.float64]:
    """Median over rows of the change of brightness from column x to x + 1: [F, W - 1]."""
    return np.stack([np.median(np.abs(np.diff(frame.mean(-1), axis=1)), axis=0) for frame in frames])


def _places(profiles: NDArray[np.float64], least: float) -> NDArray[np.float64]:
    """Where each profile [F, N] peaks, as a centroid over the peak and three columns beside; NaN below `least`."""
    peaks = profiles.argmax(1)
    columns = np.arange(profiles.shape[1])
    near = profiles * (np.abs(columns - peaks[:, None]) <= 3)
    total = near.sum(1)
    places = (near * columns).sum(1) / np.maximum(total, 1e-9)
    places[total < least] = np.nan  # an edge blurred over some columns keeps its sum
    return places


def _leak(frames: Frames, layout: Layout, grey: int) -> NDArray[np.float64] | None:
    if not layout.gutter:
        return None
    inner = max(layout.gutter // 4, 1)
    start = layout.half[0]
    bar = frames[:, :, start + inner : start + layout.gutter - inner]
    if not bar.shape[2]:
        return None
    return np.abs(bar.astype(np.float32) - grey).mean((1, 2, 3)).astype(np.float64) / 255
