"""One picture of a person laid onto another of the same framing: an edited frame onto the frame it was made from.

    alignment = align(edited, frame)            # None where either shows no face
    alignment = align_background(edited, frame)  # by everything that looks alike, face or not

Picture editors draw a picture anew, a few pixels and percents off. The similarity (shift, turn, scale) that undoes this
is found twice: from the landmarks that move with the skull (`synclora.faces.head`), which an edit itself displaces (a
beard, a hat), and then, from there, on the pictures: Gauss-Newton on brightness freed of shading and contrast (Baker
and Matthews 2004, IJCV 56(3)) in which places that differ count little (Geman and McClure 1987), so that hair, clothes
or a background that were edited do not pull. Where the two disagree by more than an edit displaces landmarks, the
landmarks are believed: the face is what has to be in its place.

How exact that is, measured: docs/editing.md.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from synclora.errors import SyncloraError
from synclora.faces.head import EYE_CORNERS, STABLE, Array
from synclora.faces.signals import signals_from_frames
from synclora.faces.tracker import as_images, track

Map = NDArray[np.float32]

# What still counts as a small correction, which is applied:
MOST_MOVED = 0.1  # of the picture's shorter side
MOST_SCALE = 1.15  # or its inverse
MOST_DEGREES = 10.0
LEAST_MOVED = 0.0015  # of the shorter side; less is the measurement's noise, and resampling would only soften

SIDES = (64, 128, 256)  # px of the shorter side at which brightness is compared, coarse to fine
ROUNDS = 12  # of Gauss-Newton at each of them
DEVIATION = 0.5  # of places that are alike, in units of local contrast
LEAST_CONTRAST = 6.0  # grey levels; flatter places tell nothing
TEXTURED = 0.3  # units of local contrast
AS_WELL = 0.01  # of the part that agrees
STARTS_SCALE = (-0.06, 0.0, 0.06)  # logarithms, tried where no landmarks give a first guess
STARTS_DEGREES = (-4.0, 0.0, 4.0)
BELIEVED = 0.06  # eye distances by which the pictures may correct the landmarks
# The part of the picture's textured places that must agree for the pictures to be believed, where landmarks gave a
# first guess and where nothing did. Over 42 rendered portraits with one edit each: 0.32, 0.47 to 0.99; over as many
# pairs of different people in one pose, that is by chance: 0.22 to 0.39.
LEAST_ALIKE = 0.3
LEAST_ALIKE_BLIND = 0.44


@dataclass(frozen=True)
class Alignment:
    """How a picture was laid onto another.

    Attributes:
        picture: uint8 [H, W, 3], moved; as it was given where `applied` is false.
        moved_px: how far the picture's content had to go in pixels: the mean over the face (or, without one, the
            picture).
        scale: by how much it was enlarged (above 1) or reduced.
        degrees: by how much it was turned; above 0 leans the top to the right, like roll.
        pose_difference: yaw, pitch and roll in degrees of the face in `picture`, as it was given, less those of the
            other; NaN without a face. What turning in the plane can undo (`degrees`) shows in roll here.
        applied: whether it was moved: neither too little to matter nor more than a small correction.
        small: whether it was a small correction; false tells that the pictures do not show the same framing.
    """

    picture: Tensor
    moved_px: float
    scale: float
    degrees: float
    pose_difference: tuple[float, float, float]
    applied: bool
    small: bool


@dataclass(frozen=True)
class _Similarity:
    """Where a place x of the other picture lies in the picture: exp(log_scale) R(turn) (x - middle) + middle + shift;
    x, shift and middle in pixels (x right, y down)."""

    log_scale: float
    turn: float  # radians, clockwise as seen
    shift: Array  # [2]
    middle: Array  # [2]

    def matrix(self) -> Array:
        """[2, 3]: from the other picture's pixels to the picture's."""
        linear = math.exp(self.log_scale) * _rotation(self.turn)
        return np.column_stack([linear, self.middle + self.shift - linear @ self.middle])

    def places(self, points: Array) -> Array:
        """Points [N, 2] of the other picture -> pixels of the picture."""
        matrix = self.matrix()
        return points @ matrix[:, :2].T + matrix[:, 2]


def align(picture: Tensor, onto: Tensor) -> Alignment | None:
    """Lay a picture onto another by their faces; None where either shows none.

    Args:
        picture, onto: uint8 [H, W, 3] of one size.

    Raises:
        SyncloraError: pictures of different sizes, or not uint8 [H, W, 3].
    """
    images = _pair(picture, onto)
    landmarks = np.concatenate([track(image[None]) for image in images])  # apart: one may have moved far
    if not np.isfinite(landmarks).all():
        return None
    signals = signals_from_frames(images, landmarks, 25)
    pose = tuple(float(angle[0] - angle[1]) for angle in (signals.yaw, signals.pitch, signals.roll))
    _, found = _by_both(images, landmarks)
    moved = _moved(picture, found, landmarks[1, STABLE, :2])
    return replace(moved, pose_difference=(pose[0], pose[1], pose[2]))


def align_background(picture: Tensor, onto: Tensor) -> Alignment | None:
    """Lay a picture onto another by whatever looks alike in both; None where too little does.

    The first guess is the shift of phase correlation (OpenCV). `pose_difference` is NaN.

    Args and Raises: as in `align`.
    """
    import cv2

    images = _pair(picture, onto)
    height, width = images.shape[1:3]
    grey = [_flat(_grey(image)) for image in images]
    shift, _ = cv2.phaseCorrelate(grey[1], grey[0], cv2.createHanningWindow((width, height), cv2.CV_32F))
    middle = np.array([width / 2, height / 2])
    starts = [
        _Similarity(log_scale, math.radians(degrees), start, middle)
        for start in (np.array(shift), np.zeros(2))
        for log_scale in STARTS_SCALE
        for degrees in STARTS_DEGREES
    ]
    found, alike = _best(images, starts)
    if alike < LEAST_ALIKE_BLIND:
        return None
    x, y = np.meshgrid(np.linspace(0, width, 9), np.linspace(0, height, 9))
    return _moved(picture, found, np.column_stack([x.ravel(), y.ravel()]))


def _pair(picture: Tensor, onto: Tensor) -> NDArray[np.uint8]:
    if picture.shape != onto.shape:
        raise SyncloraError(
            f"pictures to align: found {list(picture.shape)} and {list(onto.shape)}; needed one size, uint8 [H, W, 3]."
        )
    return as_images(torch.stack([picture, onto]))


def _moved(picture: Tensor, found: _Similarity, points: Array) -> Alignment:
    """The picture moved by `found`, if that is a small correction; the distance is the mean over `points` [N, 2]."""
    import cv2

    height, width = picture.shape[:2]
    moved = float(np.linalg.norm(found.places(points) - points, axis=1).mean())
    scale, degrees = math.exp(-found.log_scale), -math.degrees(found.turn)
    side = min(height, width)
    small = moved <= MOST_MOVED * side and max(scale, 1 / scale) <= MOST_SCALE and abs(degrees) <= MOST_DEGREES
    applied = small and moved > LEAST_MOVED * side
    if applied:
        # Pixels' middles lie at 0.5; OpenCV counts them from 0.
        matrix = found.matrix()
        matrix[:, 2] += matrix[:, :2] @ [0.5, 0.5] - 0.5
        flags = cv2.INTER_LANCZOS4 | cv2.WARP_INVERSE_MAP
        array = picture.detach().cpu().contiguous().numpy()
        # What comes in from outside is mirrored: an edited background is not the other picture's.
        picture = torch.from_numpy(
            cv2.warpAffine(array, matrix, (width, height), flags=flags, borderMode=cv2.BORDER_REFLECT_101)
        )
    unknown = (math.nan, math.nan, math.nan)
    return Alignment(picture, moved, scale, degrees, unknown, applied, small)


def _by_both(images: NDArray[np.uint8], landmarks: Array) -> tuple[_Similarity, _Similarity]:
    """The similarity by the landmarks [2, N, 3] alone, and the one that is believed in the end."""
    here, there = landmarks[0, STABLE, :2], landmarks[1, STABLE, :2]
    coarse = _by_points(here, there)
    still = replace(coarse, log_scale=0.0, turn=0.0, shift=np.zeros(2))
    fine, alike = _best(images, [coarse, still])
    eye_distance = float(np.linalg.norm(np.diff(landmarks[1, EYE_CORNERS, :2], axis=0)))
    apart = np.linalg.norm(fine.places(there) - coarse.places(there), axis=1).mean() / eye_distance
    return coarse, fine if alike >= LEAST_ALIKE and apart <= BELIEVED else coarse


def _by_points(here: Array, there: Array) -> _Similarity:
    """Least squares of here ~ similarity(there), points [N, 2] (Umeyama 1991, in the plane)."""
    middle, target = there.mean(0), here.mean(0)
    (x, y), (u, v) = (there - middle).T, (here - target).T
    along, across = (x * u + y * v).sum(), (x * v - y * u).sum()
    scale = math.hypot(along, across) / (x * x + y * y).sum()
    return _Similarity(math.log(scale), math.atan2(across, along), target - middle, middle)


def _best(images: NDArray[np.uint8], starts: list[_Similarity]) -> tuple[_Similarity, float]:
    """The similarity that the best of some first guesses leads to, and how far the pictures agree then; none at all
    where the pictures agree as well as they are."""
    middle = starts[0].middle
    start, _ = max((_by_brightness(images, guess, SIDES[:1]) for guess in starts), key=lambda tried: tried[1])
    found, alike = _by_brightness(images, start, SIDES[1:])
    still = _Similarity(0.0, 0.0, np.zeros(2), middle)
    unmoved = _Level(images, SIDES[-1]).look(still)[1]
    return (still, unmoved) if unmoved > alike - AS_WELL else (found, alike)


def _by_brightness(images: NDArray[np.uint8], guess: _Similarity, sides: tuple[int, ...]) -> tuple[_Similarity, float]:
    """The similarity near a guess under which the pictures, uint8 [2, H, W, 3], look most alike, and how far they do:
    the part of the textured places that agree."""
    alike = 0.0
    for side in sides:
        level = _Level(images, side)
        for _ in range(ROUNDS):
            step, _ = level.look(guess)
            guess = replace(
                guess,
                shift=guess.shift + step[:2].clip(-4, 4) / level.ratio,
                log_scale=guess.log_scale + float(step[2].clip(-0.1, 0.1)),
                turn=guess.turn + float(step[3].clip(-0.1, 0.1)),
            )
            if np.abs(step[:2]).max() < 0.005 and np.abs(step[2:]).max() < 0.005 / side:
                break
        alike = level.look(guess)[1]
    return guess, alike


class _Level:
    """Two pictures, uint8 [2, H, W, 3], reduced to a shorter side of `side` pixels, ready to be compared."""

    def __init__(self, images: NDArray[np.uint8], side: int) -> None:
        import cv2

        height, width = images.shape[1:3]
        factor = min(1.0, side / min(height, width))
        self.size = max(8, round(width * factor)), max(8, round(height * factor))
        self.ratio = np.array([self.size[0] / width, self.size[1] / height])
        self.picture, self.onto = (
            _flat(_grey(cv2.resize(image, self.size, interpolation=cv2.INTER_AREA))) for image in images
        )
        self.slope_y, self.slope_x = (slope.astype(np.float32) for slope in np.gradient(self.picture))
        self.textured = cv2.blur(self.onto**2, (7, 7)) > TEXTURED**2

    def look(self, guess: _Similarity) -> tuple[Array, float]:
        """The step of Gauss-Newton (shift x, y in this level's pixels; log scale; turn), and how far they agree."""
        import cv2

        y, x = np.mgrid[: self.size[1], : self.size[0]] + 0.5
        matrix = guess.matrix()
        linear = matrix[:, :2] * (self.ratio[:, None] / self.ratio)  # as the reduced pictures have it
        at_x, at_y = (
            row[0] * x + row[1] * y + shift for row, shift in zip(linear, matrix[:, 2] * self.ratio, strict=True)
        )
        where = (at_x - 0.5).astype(np.float32), (at_y - 0.5).astype(np.float32)
        planes = (self.picture, self.slope_x, self.slope_y)
        seen, by_x, by_y = (cv2.remap(plane, *where, cv2.INTER_LINEAR) for plane in planes)
        inside = (at_x > 0.5) & (at_x < self.size[0] - 0.5) & (at_y > 0.5) & (at_y < self.size[1] - 0.5)
        apart = self.onto - seen
        weights = np.where(inside & self.textured, 1 / (1 + (apart / DEVIATION) ** 2) ** 2, 0)
        # How a place moves: with the shift, and with growing and turning about the middle.
        from_x, from_y = (
            at - middle for at, middle in zip((at_x, at_y), (guess.middle + guess.shift) * self.ratio, strict=True)
        )
        changes = np.stack([by_x, by_y, by_x * from_x + by_y * from_y, by_y * from_x - by_x * from_y]).reshape(4, -1)
        weighted = changes * weights.ravel()
        step = np.linalg.solve(weighted @ changes.T + 1e-6 * np.eye(4), weighted @ apart.ravel())
        return step, float(weights.sum() / max(1, (self.textured & inside).sum()))


def _grey(image: NDArray[Any]) -> Map:
    return (image @ np.array([0.299, 0.587, 0.114])).astype(np.float32)


def _flat(grey: Map) -> Map:
    """Brightness [H, W] less its local mean, in units of the local contrast."""
    import cv2

    wide = 2 * max(3, round(min(grey.shape) / 24)) + 1
    flat = grey - cv2.blur(grey, (wide, wide))
    return flat / np.sqrt(cv2.blur(flat**2, (2 * wide + 1, 2 * wide + 1)) + LEAST_CONTRAST**2)


def _rotation(turn: float) -> Array:
    return np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
