"""Does the edited clip keep the look it starts with? Flicker, and a face that turns into another one.

Motion does not tell: a person may blink and speak on the right frames and be somebody else by the end. So the two clips
are compared in colour, at points that ride on the face mesh, where motion cancels: with s[f, p, c] and e[f, p, c] the
colour (0 to 255, box-averaged over about 1/40 of the face's width) of the source and the edited clip at frame f, point
p of the mesh and channel c,

    ratio[f, p, c] = log((e + 16) / (s + 16))

is what the edit does to that spot of skin or hair. An edit that lasts (hair, glasses, skin, light) makes it large but
leaves it the same in every frame; shading that comes and goes as the head turns is in both clips and mostly cancels.
What it does over time is the edited clip's own doing:

    flicker = sqrt(mean_fc (d2_f mean_p ratio)^2 / 6)               d2: second difference from frame to frame
    change  = max_k w_k mean_pc sqrt(max(0, D_k^2 - 9 V_k))         w_k = 2 sqrt(k (F - k)) / F

Flicker is the standard deviation of a frame-by-frame jitter of brightness or colour that would give the same (white
noise of deviation s has second differences of variance 6 s^2), as a part of the brightness: 0.01 is one per cent. It is
taken over the points of the face and, in the same way, over a grid of cells of the whole picture (the median there, as
what moves across another background covers a minority of cells); the larger counts.

Change is the step in the look at the instant k where it is greatest: D_k is the difference of a point's mean ratio
before and from frame k on, V_k its variance within the two parts. Taking off the variance leaves a step or a short fade
almost whole and takes away what only comes and goes (light that falls otherwise on a head that turns); w_k keeps a few
odd frames at either end from counting as a new look.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from synclora.errors import SyncloraError

Array = NDArray[np.float64]

# Points of MediaPipe's mesh on skin that neither lips nor lids move: forehead, brows, nose, cheeks, beard, chin.
SKIN = np.array([
    151, 9, 8, 108, 337, 69, 299, 104, 333, 68, 298, 107, 336, 66, 296, 105, 334, 63, 293, 6, 197, 195, 5, 4,
    50, 101, 118, 117, 123, 147, 187, 205, 36, 203, 206, 207, 216, 192, 213, 214,
    280, 330, 347, 346, 352, 376, 411, 425, 266, 423, 426, 427, 436, 416, 433, 434,
    164, 199, 200, 18, 175, 201, 421, 135, 364, 138, 367, 169, 394, 170, 395, 140, 369, 171, 396, 208, 428,
])  # fmt: skip
HAIRLINE = np.array([127, 162, 21, 54, 103, 67, 109, 10, 338, 297, 332, 284, 251, 389, 356])
BRIDGE = 168  # of the nose; the hair's points lie beyond the hairline as seen from here
HAIR = (1.25, 1.5)  # times the distance from bridge to hairline
FACE_CELLS = 40  # box averages across the width of a face
GRID = 6  # cells of the whole picture, each way
DARK = 16.0  # levels of 255 added to every colour: noise in the dark is no change of look
MIN_FRAMES = 6  # in which both clips show the face
MIN_SIDE = 3  # frames at least on each side of a change
WITHIN = 9.0  # times the variance within the parts is taken off: a straight ramp keeps half of its step


@dataclass(frozen=True)
class Appearance:
    """How steady the edited clip's look is; None where too few frames show both faces.

    flicker, change: see the module; parts of the brightness, at least 0. change_at: the first frame of the new look.
    frames: the frames that show both faces.
    """

    flicker: float | None
    change: float | None
    change_at: int | None
    frames: int

    def to_json(self) -> dict[str, Any]:
        """Plain values for JSON, None (null) where a number cannot be told."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Appearance:
        """The inverse of `to_json`."""
        return cls(**values)


def appearance(
    source: NDArray[np.uint8], edited: NDArray[np.uint8], source_landmarks: Array, edited_landmarks: Array
) -> Appearance:
    """Compare the look of an edited clip with its source's over time.

    Args:
        source, edited: uint8 [F, H, W, 3] RGB; the sizes may differ.
        source_landmarks, edited_landmarks: [F, 478, 3] in pixels as from `synclora.faces.track`, NaN without a face.

    Raises:
        SyncloraError: the clips and landmarks differ in length.
    """
    lengths = {len(source), len(edited), len(source_landmarks), len(edited_landmarks)}
    if len(lengths) != 1:
        raise SyncloraError(f"looks to compare: clips and landmarks of {sorted(lengths)} frames; all need the same.")
    small_source, colours_source = _sampled(source, source_landmarks)
    small_edited, colours_edited = _sampled(edited, edited_landmarks)
    seen = np.isfinite(source_landmarks).all((1, 2)) & np.isfinite(edited_landmarks).all((1, 2))
    ratio = _ratio(colours_source, colours_edited)
    frames = int(seen.sum())
    flickers = [_flicker(np.median(_ratio(_cells(small_source), _cells(small_edited)), axis=1))]
    change, change_at = None, None
    if frames >= MIN_FRAMES:
        whole = np.isfinite(ratio[seen]).all((0, 2))  # points that never leave the picture
        flickers.append(_flicker(ratio[:, whole].mean(1)))
        change, at = _change(ratio[seen][:, whole])
        change_at = int(np.flatnonzero(seen)[at])
    known = [value for value in flickers if value is not None]
    return Appearance(_tidy(max(known)) if known else None, _tidy(change), change_at, frames)


def _sampled(frames: NDArray[np.uint8], landmarks: Array) -> tuple[NDArray[np.float32], Array]:
    """The frames made small [F, h, w, 3], and their colours at the points of the face [F, P, 3], NaN outside."""
    from PIL import Image

    points = _points(landmarks[:, :, :2])
    span = np.linalg.norm(landmarks[:, 454, :2] - landmarks[:, 234, :2], axis=-1)  # from ear to ear
    width = float(np.nanmedian(span)) if np.isfinite(span).any() else frames.shape[2] / 3
    step = max(1, round(width / FACE_CELLS))
    small = np.stack([np.asarray(Image.fromarray(frame).reduce(step)) for frame in frames]).astype(np.float32)
    return small, _bilinear(small, points / step - 0.5)


def _points(xy: Array) -> Array:
    """Points of skin and hair [F, P, 2] from landmarks [F, 478, 2]."""
    bridge = xy[:, BRIDGE, None]
    return np.concatenate([xy[:, SKIN], *(bridge + out * (xy[:, HAIRLINE] - bridge) for out in HAIR)], axis=1)


def _bilinear(images: NDArray[np.float32], at: Array) -> Array:
    """Values [F, P, 3] of images [F, h, w, 3] at at [F, P, 2] (x, y in pixels, centres at whole numbers)."""
    count, height, width, _ = images.shape
    inside = np.isfinite(at).all(-1) & (at >= -0.5).all(-1) & (at[..., 0] < width - 0.5) & (at[..., 1] < height - 0.5)
    x = np.clip(np.nan_to_num(at[..., 0]), 0, width - 1)
    y = np.clip(np.nan_to_num(at[..., 1]), 0, height - 1)
    left, top = np.minimum(x.astype(int), max(width - 2, 0)), np.minimum(y.astype(int), max(height - 2, 0))
    right, below = np.minimum(left + 1, width - 1), np.minimum(top + 1, height - 1)
    u, v = (x - left)[..., None], (y - top)[..., None]
    frame = np.arange(count)[:, None]
    upper = images[frame, top, left] * (1 - u) + images[frame, top, right] * u
    lower = images[frame, below, left] * (1 - u) + images[frame, below, right] * u
    return np.where(inside[..., None], upper * (1 - v) + lower * v, np.nan)


def _cells(images: NDArray[np.float32]) -> Array:
    """Mean colours [F, cells, 3] of a grid over the whole picture."""
    rows = np.array_split(images, min(GRID, images.shape[1]), axis=1)
    cells = [part.mean((1, 2)) for band in rows for part in np.array_split(band, min(GRID, images.shape[2]), axis=2)]
    return np.stack(cells, axis=1).astype(np.float64)


def _ratio(source: Array, edited: Array) -> Array:
    return np.log((edited + DARK) / (source + DARK))


def _flicker(ratio: Array) -> float | None:
    """The module's flicker of a ratio [F, 3]; frames without a value are left out together with their neighbours."""
    jumps = np.diff(ratio, n=2, axis=0)
    jumps = jumps[np.isfinite(jumps).all(1)]
    return float(np.sqrt((jumps**2).mean() / 6)) if len(jumps) >= MIN_FRAMES - 2 else None


def _change(ratio: Array) -> tuple[float, int]:
    """The module's change of a finite ratio [F, P, 3], and the frame k that it is greatest at."""
    count = len(ratio)
    k = np.arange(MIN_SIDE, count - MIN_SIDE + 1)
    sums, squares = np.cumsum(ratio, axis=0), np.cumsum(ratio**2, axis=0)
    before, after = k[:, None, None], (count - k)[:, None, None]
    low, high = sums[k - 1] / before, (sums[-1] - sums[k - 1]) / after
    within = np.maximum(squares[-1] - before * low**2 - after * high**2, 0) / count
    step = np.sqrt(np.maximum((high - low) ** 2 - WITHIN * within, 0)).mean((1, 2))
    sizes = step * 2 * np.sqrt(k * (count - k)) / count
    best = int(np.argmax(sizes))
    return float(sizes[best]), int(k[best])


def _tidy(value: float | None) -> float | None:
    return None if value is None else round(value, 6)
