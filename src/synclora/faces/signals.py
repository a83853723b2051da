"""Face landmarks to motion: a few named numbers per frame, measured so that one does not leak into another.

Lips, lids, irises and brows are measured in the head's own frame (`synclora.faces.head`): what remains after the head's
motion is expression; the motion itself is the head's pose, read from the picture (`synclora.faces.register`), as the
irises are (`synclora.faces.irises`). Lengths are in units of the distance between the outer corners of the eyes, angles
in degrees.

The head's axes: x to the right in the picture, y down the face, z away from the camera. The signs: yaw > 0 turns the
nose towards the picture's right, pitch > 0 raises it, roll > 0 leans the top of the head to the right, gaze_x > 0 looks
to the right, gaze_y > 0 looks up. Left and right are the picture's.
"""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from synclora.errors import SyncloraError
from synclora.faces.graphs import LANDMARKS
from synclora.faces.head import EYE_CORNERS, Array, Head, angles, head_frame, turned
from synclora.faces.hidden import find_hidden
from synclora.faces.irises import EYES, find_irises, mesh_irises
from synclora.faces.register import register
from synclora.faces.tracker import as_images, track

if TYPE_CHECKING:
    from synclora.clip import Clip

LIPS = np.array([(13, 14), (82, 87), (312, 317), (81, 178), (311, 402)])  # (upper, lower) inner edge
MOUTH_CORNERS = np.array([61, 291])
LEFT_LIDS = np.array([(159, 145), (158, 153), (160, 144)])
RIGHT_LIDS = np.array([(386, 374), (385, 380), (387, 373)])
LIDS_ENDS = np.array([lids[0][[0, -1]] for lids in EYES]).ravel()  # the four corners of the eyes
BROWS = np.array([70, 63, 105, 66, 107, 300, 293, 334, 296, 336])

# What the mesh takes for pitch: an open mouth seems to raise the head, closing lids to lower it, and so does turning it
# to a side. Degrees per eye distance of lip gap and of lid gap, and per degree of yaw; the best for r with the true
# pitch of 24 rendered people (0.947, without them 0.83). On real footage a head is too heavy to follow syllables and
# blinks, and the regression of the frame to frame changes of pitch on those of lips and lids gives much the same: 20,
# 19, 5 (lips) and 15, 25, 3 (lids) on three clips.
PITCH_BY_LIPS, PITCH_BY_LIDS, PITCH_BY_YAW = 16.0, 14.0, -0.04
BLINK_DEPTH = 0.55  # a lid opening below this part of the usual one is a blink
OPEN_QUANTILE = 0.75  # of the lid opening over a clip: the usual one, even where half of a short clip is a blink
GAZE_OPENING = 0.7  # below this part of the usual opening the lids hide the iris, and gaze is not known


@dataclass(frozen=True)
class Blink:
    """One closing of both eyes: the first frame past half of its own depth, and how many frames it stays so."""

    onset: int
    length: int


@dataclass(frozen=True)
class MotionSignals:
    """What a face does, frame by frame: float64 arrays [F], NaN where no face was found, and the clip's frame rate.

    mouth: gap of the inner lips. mouth_width: distance of the mouth's corners. eye_left, eye_right: gap of the lids
    (left and right in the picture). gaze_x, gaze_y: iris from the middle of the eye's corners, mean of both eyes (NaN
    also where the lids hide the iris). brows: height of the brows over the eye corners. All these in the head's frame.
    yaw, pitch, roll: degrees. shift_x, shift_y: the head's place from its mean place in the picture. scale: the
    head's size over its mean size. Signs and unit: see the module.

    hidden: which of "eyes" and "mouth" cannot be seen in the clip; the numbers are then the mesh's invention.
    body: where it was asked for, "shoulder_left" and so on: [F, 2], place in the picture from its mean, in eye
    distances; NaN where not visible.
    """

    fps: Fraction
    mouth: Array
    mouth_width: Array
    eye_left: Array
    eye_right: Array
    gaze_x: Array
    gaze_y: Array
    brows: Array
    yaw: Array
    pitch: Array
    roll: Array
    shift_x: Array
    shift_y: Array
    scale: Array
    hidden: frozenset[str] = field(default=frozenset(), init=False)  # set by `including`
    body: dict[str, Array] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        shapes = {name: getattr(self, name).shape for name in self.names()}
        if len(set(shapes.values())) != 1 or len(next(iter(shapes.values()))) != 1:
            raise SyncloraError(f"motion signals: found arrays of shapes {shapes}; needed one length [frames] for all.")

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """The names of the arrays, in order."""
        return _NAMES

    @property
    def eyes(self) -> Array:
        """Mean lid opening of both eyes [F]."""
        return (self.eye_left + self.eye_right) / 2

    @property
    def num_frames(self) -> int:
        return len(self.mouth)

    @property
    def found(self) -> NDArray[np.bool_]:
        """Where a face was found [F]."""
        return np.isfinite(self.yaw)

    def blinks(self, depth: float = BLINK_DEPTH) -> list[Blink]:
        """The blinks, in order of time (`find_blinks`); none where the eyes are hidden."""
        return [] if "eyes" in self.hidden else find_blinks(self.eyes, depth)

    def including(self, hidden: frozenset[str], body: dict[str, Array]) -> MotionSignals:
        """The same signals with what is hidden and the body's points set."""
        signals = copy(self)
        object.__setattr__(signals, "hidden", hidden)
        object.__setattr__(signals, "body", body)
        return signals

    def __getitem__(self, window: slice) -> MotionSignals:
        """The signals of a range of frames."""
        arrays = {name: getattr(self, name)[window] for name in self.names()}
        body = {name: points[window] for name, points in self.body.items()}
        return MotionSignals(self.fps, **arrays).including(self.hidden, body)

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it: {"fps": "30000/1001", "mouth": [0.1, null, ...], ..., "hidden": ["eyes"]}, null for NaN."""
        arrays = {name: _plain(getattr(self, name)) for name in self.names()}
        body = {name: [_plain(point) for point in points] for name, points in self.body.items()}
        return {"fps": str(self.fps), **arrays, "hidden": sorted(self.hidden), **({"body": body} if body else {})}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> MotionSignals:
        """The inverse of `to_dict`; "hidden" and "body" may be missing."""
        arrays = {name: np.array(values[name], dtype=float) for name in cls.names()}
        body = {name: np.array(points, dtype=float).reshape(-1, 2) for name, points in values.get("body", {}).items()}
        return cls(Fraction(values["fps"]), **arrays).including(frozenset(values.get("hidden", ())), body)


_NAMES = tuple(name for name, kind in MotionSignals.__annotations__.items() if kind == "Array")


def measure(clip: Clip, *, face: int = 0, body: bool = False) -> MotionSignals:
    """Track one face of a clip and read its motion; about 7 ms a frame on a CPU core.

    Args:
        clip: the video.
        face: which face where there are several, 0 for the largest and steadiest (`track`).
        body: also track shoulders and wrists (another 40 ms a frame).

    Raises:
        SyncloraError: `face` is negative.
    """
    images = as_images(clip.frames)
    landmarks = track(images, face)
    signals = signals_from_frames(images, landmarks, clip.fps)
    if not body or not signals.found.any():
        return signals
    from synclora.faces.body import track_body

    eye_distance = np.nanmean(np.linalg.norm(landmarks[:, EYE_CORNERS[0]] - landmarks[:, EYE_CORNERS[1]], axis=-1))
    points = {name: _about_mean(places) / eye_distance for name, places in track_body(images).items()}
    return signals.including(signals.hidden, points)


def signals_from_frames(frames: NDArray[np.uint8], landmarks: Array, fps: Fraction | float) -> MotionSignals:
    """Read the motion signals from frames, uint8 [F, H, W, 3], and their landmarks, [F, 478, 3] as from `track`.

    This is `measure` for whoever has tracked a clip already. Raises SyncloraError for landmarks of another shape.
    """
    found = _found(landmarks)
    if not found.any():
        return signals_from_landmarks(landmarks, fps)
    head = head_frame(landmarks[found])
    seen = frames if found.all() else frames[found]
    hidden = find_hidden(seen, head)
    posed = register(seen, _level(head))
    irises = mesh_irises(head) if "eyes" in hidden else find_irises(seen, posed)
    return MotionSignals(_rate(fps), **_spread(_measure_head(head, posed, irises), found)).including(hidden, {})


def signals_from_landmarks(landmarks: Array, fps: Fraction | float) -> MotionSignals:
    """Read the motion signals from face landmarks alone: as `measure`, with the mesh's own pose and irises, which are
    less exact, and nothing hidden.

    Args:
        landmarks: [F, 478, 3] as from `track`: pixels, NaN where there is no face.
        fps: frames a second.

    Raises:
        SyncloraError: landmarks of another shape.
    """
    found = _found(landmarks)
    values: dict[str, Array] = {}
    if found.any():
        head = head_frame(landmarks[found])
        values = _measure_head(head, _level(head), mesh_irises(head))
    return MotionSignals(_rate(fps), **_spread(values, found))


def find_blinks(opening: Array, depth: float = BLINK_DEPTH) -> list[Blink]:
    """Find the blinks in a curve of lid opening [F] (NaN where unknown).

    A blink is a run of frames in which the opening falls below `depth` of its usual value (the clip's upper quartile).
    It starts and ends where the opening crosses half of that blink's own depth, so that a shallow blink and a full one
    at the same instant have the same onset.
    """
    if not np.isfinite(opening).any():
        return []
    usual = float(np.nanquantile(opening, OPEN_QUANTILE))
    closed = np.nan_to_num(opening, nan=np.inf) < depth * usual
    edges = np.diff(np.concatenate([[0], closed.astype(int), [0]]))
    blinks: list[Blink] = []
    for start, stop in zip(np.flatnonzero(edges == 1), np.flatnonzero(edges == -1), strict=True):
        deepest = start + int(opening[start:stop].argmin())
        shut = opening < (usual + opening[deepest]) / 2  # False where NaN
        onset = deepest - int(np.argmin(np.append(shut[deepest::-1], False))) + 1
        length = deepest - onset + int(np.argmin(np.append(shut[deepest:], False)))
        if not blinks or onset >= blinks[-1].onset + blinks[-1].length:  # two runs of one blink count once
            blinks.append(Blink(onset, length))
    return blinks


def _measure_head(head: Head, posed: Head, irises: Array) -> dict[str, Array]:
    """The signals of frames that all show a face: expression from `head`, pose from `posed` (as from `_level`, or
    registered from there); irises as from `mesh_irises`."""
    own = head.own
    left, right = _gap(own, LEFT_LIDS), _gap(own, RIGHT_LIDS)
    opening = (right + left) / 2
    gaze = irises.mean(1)
    gaze[opening < GAZE_OPENING * np.quantile(opening, OPEN_QUANTILE)] = np.nan
    yaw, pitch, roll = angles(posed.axes)
    shift = (posed.middle - posed.middle.mean(0)) / posed.unit.mean()
    return {
        "mouth": _gap(own, LIPS),
        "mouth_width": np.linalg.norm(np.diff(own[:, MOUTH_CORNERS], axis=1)[:, 0], axis=-1),
        "eye_left": left,
        "eye_right": right,
        "gaze_x": gaze[:, 0],
        "gaze_y": -gaze[:, 1],
        "brows": own[:, LIDS_ENDS, 1].mean(1) - own[:, BROWS, 1].mean(1),
        "yaw": yaw,
        "pitch": pitch - _false_pitch(head).mean(),
        "roll": roll,
        "shift_x": shift[:, 0],
        "shift_y": shift[:, 1],
        "scale": posed.unit / posed.unit.mean(),
    }


def _level(head: Head) -> Head:
    """The head without the nodding that the mesh invents: the change of `_false_pitch` from its mean."""
    yaw, pitch, roll = angles(head.axes)
    false = _false_pitch(head)
    return replace(head, axes=turned(yaw, pitch - false + false.mean(), roll))


def _false_pitch(head: Head) -> Array:
    """What the mesh takes for pitch, in degrees [F]."""
    opening = (_gap(head.own, LEFT_LIDS) + _gap(head.own, RIGHT_LIDS)) / 2
    shut = opening - np.quantile(opening, OPEN_QUANTILE)
    yaw = abs(angles(head.axes)[0])
    return PITCH_BY_LIPS * _gap(head.own, LIPS) + PITCH_BY_LIDS * shut + PITCH_BY_YAW * yaw


def _gap(own: Array, pairs: NDArray[np.int_]) -> Array:
    """Mean height [F] between pairs of landmarks (upper, lower)."""
    return (own[:, pairs[:, 1], 1] - own[:, pairs[:, 0], 1]).mean(1)


def _found(landmarks: Array) -> NDArray[np.bool_]:
    if landmarks.ndim != 3 or landmarks.shape[1:] != (LANDMARKS, 3):
        raise SyncloraError(f"landmarks: found shape {list(landmarks.shape)}; needed [frames, {LANDMARKS}, 3].")
    return np.isfinite(landmarks).all((1, 2))


def _about_mean(places: Array) -> Array:
    """Places [F, 2] from their mean, NaN where not known."""
    known = np.isfinite(places).all(1)
    return places - (places[known].mean(0) if known.any() else 0)


def _spread(values: dict[str, Array], found: NDArray[np.bool_]) -> dict[str, Array]:
    """Values of the frames with a face -> arrays over all frames, NaN elsewhere."""
    spread = {name: np.full(len(found), np.nan) for name in _NAMES}
    for name, array in values.items():
        spread[name][found] = array
    return spread


def _rate(fps: Fraction | float) -> Fraction:
    return Fraction(fps).limit_denominator(1001)


def _plain(values: Array) -> list[float | None]:
    return [round(float(value), 6) if np.isfinite(value) else None for value in values]
