"""Face landmarks to motion: a few named numbers per frame, measured so that one does not leak into another.

Lips, lids, irises and brows are measured in the head's own frame: the landmarks that move with the skull alone (eye
corners, nose ridge, temples, forehead) are laid onto the clip's mean head by the rotation, scale and shift of least
squares (Umeyama 1991, IEEE PAMI 13(4), eqs. 34-43). What remains after that motion is expression; the motion itself is
the head's pose. Lengths are in units of the distance between the outer corners of the eyes, angles in degrees.

The head's axes: x to the right in the picture, y down the face, z away from the
camera. The signs: yaw > 0 turns the nose towards the picture's right, pitch > 0 raises it, roll > 0 leans the top of
the head to the right, gaze_x > 0 looks to the right, gaze_y > 0 looks up. Left and right are the picture's.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from synclora.errors import SyncloraError
from synclora.faces.tracker import LANDMARKS, track

if TYPE_CHECKING:
    from synclora.clip import Clip

Array = NDArray[np.float64]

# Indices into MediaPipe's canonical face mesh; left and right are the picture's (a face that looks into the camera).
# Mirror images, left and right, that move with the skull: temples, hairline, corners of the eyes, sides of the nose.
LEFT_SIDE = np.array([127, 234, 162, 21, 54, 103, 67, 109, 33, 133, 122, 196, 3])
RIGHT_SIDE = np.array([356, 454, 389, 251, 284, 332, 297, 338, 263, 362, 351, 419, 248])
MIDLINE = np.array([10, 151, 8, 168, 6, 197, 195, 5])  # hairline to nose, top to bottom
STABLE = np.concatenate([LEFT_SIDE, RIGHT_SIDE, MIDLINE])
EYE_CORNERS = np.array([33, 263])
LIPS = np.array([(13, 14), (82, 87), (312, 317), (81, 178), (311, 402)])  # (upper, lower) inner edge
MOUTH_CORNERS = np.array([61, 291])
LEFT_LIDS = np.array([(159, 145), (158, 153), (160, 144)])
RIGHT_LIDS = np.array([(386, 374), (385, 380), (387, 373)])
LEFT_EYE = (np.array([33, 133]), 468)  # corners, iris centre
RIGHT_EYE = (np.array([362, 263]), 473)
BROWS = np.array([70, 63, 105, 66, 107, 300, 293, 334, 296, 336])

ROUNDS = 4  # of aligning to the mean and taking the mean anew; converges in two or three
BLINK_DEPTH = 0.55  # a lid opening below this part of the usual one is a blink
OPEN_QUANTILE = 0.75  # of the lid opening over a clip: the usual one, even where half of a short clip is a blink
GAZE_OPENING = 0.5  # below this part of the usual opening the iris is hidden and gaze is not known


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

    def __post_init__(self) -> None:
        shapes = {name: getattr(self, name).shape for name in self.names()}
        if len(set(shapes.values())) != 1 or len(next(iter(shapes.values()))) != 1:
            raise SyncloraError(f"motion signals: found arrays of shapes {shapes}; needed one length [frames] for all.")

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """The names of the arrays, in order."""
        return tuple(field.name for field in fields(cls) if field.name != "fps")

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

    def blinks(self) -> list[Blink]:
        """The blinks, in order of time."""
        return find_blinks(self.eyes)

    def __getitem__(self, window: slice) -> MotionSignals:
        """The signals of a range of frames."""
        return MotionSignals(self.fps, **{name: getattr(self, name)[window] for name in self.names()})

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it: {"fps": "30000/1001", "mouth": [0.1, null, ...], ...}, null for NaN."""
        arrays = {
            name: [round(float(v), 6) if np.isfinite(v) else None for v in getattr(self, name)] for name in self.names()
        }
        return {"fps": str(self.fps), **arrays}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> MotionSignals:
        """The inverse of `to_dict`."""
        arrays = {name: np.array([np.nan if v is None else v for v in values[name]], float) for name in cls.names()}
        return cls(Fraction(values["fps"]), **arrays)


def measure(clip: Clip) -> MotionSignals:
    """Track the (largest) face of a clip and read its motion; about 15 ms a frame on a CPU core."""
    return signals_from_landmarks(track(clip.frames), clip.fps)


def signals_from_landmarks(landmarks: Array, fps: Fraction | float) -> MotionSignals:
    """Read the motion signals from face landmarks.

    Args:
        landmarks: [F, 478, 3] as from `track`: pixels, NaN where there is no face.
        fps: frames a second.

    Raises:
        SyncloraError: landmarks of another shape.
    """
    if landmarks.ndim != 3 or landmarks.shape[1:] != (LANDMARKS, 3):
        raise SyncloraError(f"landmarks: found shape {list(landmarks.shape)}; needed [frames, {LANDMARKS}, 3].")
    found = np.isfinite(landmarks).all((1, 2))
    values = _measure_found(landmarks[found]) if found.any() else {}
    spread = {name: np.full(len(landmarks), np.nan) for name in MotionSignals.names()}
    for name, array in values.items():
        spread[name][found] = array
    return MotionSignals(Fraction(fps).limit_denominator(1001), **spread)


def find_blinks(opening: Array) -> list[Blink]:
    """Find the blinks in a curve of lid opening [F] (NaN where unknown).

    A blink is a run of frames in which the opening falls below 55 % of its usual value (the clip's upper quartile). It
    starts and ends where the opening crosses half of that blink's own depth, so that a shallow blink and a full one at
    the same instant have the same onset.
    """
    if not np.isfinite(opening).any():
        return []
    usual = float(np.nanquantile(opening, OPEN_QUANTILE))
    closed = np.nan_to_num(opening, nan=np.inf) < BLINK_DEPTH * usual
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


def _measure_found(points: Array) -> dict[str, Array]:
    """The signals of frames that all show a face, points [F, 478, 3]."""
    mean_head, axes = _mean_head(points[:, STABLE])
    scale, rotation, middle = _align(points[:, STABLE], mean_head)
    # The head's own frame: undo each frame's motion, then look along the head's axes. Rows of `axes` are x, y, z.
    own = ((points - middle[:, None]) @ rotation) / scale[:, None, None] @ axes.T
    own /= np.linalg.norm(np.diff(own[:, EYE_CORNERS], axis=1).mean(0))

    def gap(pairs: NDArray[np.int_]) -> Array:
        return (own[:, pairs[:, 1], 1] - own[:, pairs[:, 0], 1]).mean(1)

    left, right = gap(LEFT_LIDS), gap(RIGHT_LIDS)
    gaze = np.mean([own[:, iris] - own[:, corners].mean(1) for corners, iris in (LEFT_EYE, RIGHT_EYE)], axis=0)
    opening = (right + left) / 2
    gaze[opening < GAZE_OPENING * np.quantile(opening, OPEN_QUANTILE)] = np.nan
    corner_height = own[:, [*LEFT_EYE[0], *RIGHT_EYE[0]], 1].mean(1)
    yaw, pitch, roll = _angles(rotation @ axes.T)
    pixels = np.linalg.norm(np.diff(points[:, EYE_CORNERS], axis=1), axis=-1).mean()
    shift = (middle - middle.mean(0)) / pixels
    return {
        "mouth": gap(LIPS),
        "mouth_width": np.linalg.norm(np.diff(own[:, MOUTH_CORNERS], axis=1)[:, 0], axis=-1),
        "eye_left": left,
        "eye_right": right,
        "gaze_x": gaze[:, 0],
        "gaze_y": -gaze[:, 1],
        "brows": corner_height - own[:, BROWS, 1].mean(1),
        "yaw": yaw,
        "pitch": pitch,
        "roll": roll,
        "shift_x": shift[:, 0],
        "shift_y": shift[:, 1],
        "scale": scale / scale.mean(),
    }


def _mean_head(stable: Array) -> tuple[Array, Array]:
    """Generalised Procrustes mean of the skull's landmarks [F, K, 3], and the head's axes (rows x, y, z) in it.

    The mean lies in the pose of the first frame; the axes come from the face's own symmetry, so that yaw and roll are 0
    when it looks into the camera.
    """
    head = stable[0] - stable[0].mean(0)
    size = np.linalg.norm(head)
    for _ in range(ROUNDS):
        scale, rotation, middle = _align(stable, head)
        head = (((stable - middle[:, None]) @ rotation) / scale[:, None, None]).mean(0)
        head *= size / np.linalg.norm(head)
    left, right, midline = np.split(head, [len(LEFT_SIDE), 2 * len(LEFT_SIDE)])
    x = (right - left).sum(0)
    y = midline[-3:].sum(0) - midline[:3].sum(0)
    x /= np.linalg.norm(x)
    y -= x * (x @ y)
    y /= np.linalg.norm(y)
    return head, np.stack([x, y, np.cross(x, y)])


def _align(points: Array, head: Array) -> tuple[Array, Array, Array]:
    """Least-squares similarity points ~ scale * head @ rotation^T + middle, for each frame.

    Args:
        points: [F, K, 3]; head: [K, 3], centred on 0.

    Returns:
        scale [F], rotation [F, 3, 3] (proper), middle [F, 3].
    """
    middle = points.mean(1)
    covariance = np.einsum("fki,kj->fij", points - middle[:, None], head)
    u, singular, vt = np.linalg.svd(covariance)
    sign = np.ones((len(points), 3))
    sign[:, 2] = np.sign(np.linalg.det(u) * np.linalg.det(vt))  # a reflection is no motion of a head
    rotation = (u * sign[:, None]) @ vt
    return (singular * sign).sum(1) / (head**2).sum(), rotation, middle


def _angles(axes: Array) -> tuple[Array, Array, Array]:
    """Yaw, pitch and roll in degrees [F] from the head's axes as columns [F, 3, 3].

    The nose's direction gives yaw and pitch; roll is the turn about it, from where the x axis stays level.
    """
    nose = -axes[:, :, 2]  # towards the camera
    yaw = np.arctan2(nose[:, 0], -nose[:, 2])
    pitch = np.arctan2(-nose[:, 1], np.hypot(nose[:, 0], nose[:, 2]))
    level = np.stack([np.cos(yaw), np.zeros_like(yaw), np.sin(yaw)], -1)  # the head's x axis at roll 0
    down = np.cross(-nose, level)
    side = axes[:, :, 0]
    roll = np.arctan2((side * down).sum(-1), (side * level).sum(-1))
    return np.degrees(yaw), np.degrees(pitch), np.degrees(roll)
