"""What an edit adds to a head, or takes off it: a hat, big hair, glasses, a shaved head. It goes where the head goes.

Beside the head the source shows what is behind it, and the source's optical flow would leave a hat's brim there. So
MediaPipe's segmentation tells what of an edited image is

    outer     person there, changed, and part of something that reaches beyond the source's person
    removed   person in the source and background in the edited image

and both, and glasses (`synclora.editing.glasses`), follow the skull's landmarks, which move as a rigid body (Umeyama
1991, IEEE PAMI 13(4)):

    q = c + turn(-roll) * (x - c') / scale - z(q) * tilt

from a frame's pixel x to the edited image's q. c is the middle of what is added, DEPTH behind the temples, c' where the
rigid motion takes it. What is outside is thought to be turned about the head's axis, as a hat is: its outline stays
when the head turns, and its surface slides along under it by the head's tilt. z is how far that lies before the
outline: a parabola across each row, as deep as wide up to DEEPEST. The face is never part of it: it moves in its own
ways.

Around the outer lies what the source shows there, its background or its person, changed as the edit changes that beside
it, so far as it leaves it alike; where the removed has gone, the edited image's own background.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from synclora.editing.glasses import EYE_CORNERS, find_glasses, glasses_depth
from synclora.editing.region import segment_person
from synclora.faces.head import STABLE, fit_similarity
from synclora.faces.tracker import track
from synclora.optical_flow import Flow, move

Array = NDArray[np.float32]
Skull = NDArray[np.float64]  # [K, 3]: the landmarks STABLE, pixels

DEPTH, DEEPEST = 0.5, 0.75  # distances between the outer eye corners
REACHES = 0.04  # of the picture's height: how far something must reach beyond the source's person to count
LEAST = 0.002  # of the picture: less that reaches beyond, or less removed, is an outline seen a little differently
CHANGED = 0.3  # of the source's structure and colours: so much must be gone
STILL = 0.3  # of the background: with no more of it changed it stays as it is
WORN = 0.1  # of something added: so much must lie on the source's person
CREVICE, BETWEEN = 0.02, 0.1  # of the picture's height: what is as near is one; what changed within that reach is too
ZONE = 0.08  # of the picture's height: so far around the added the model's picture makes way for the source's
ALIKE = (0.6, 0.9)  # how much is left as it is beside the added: below, nothing is known of it; above, all
SPREAD = 0.08  # of the picture's height: how far the change beside the added is carried into what that hides
EDGE, UNSEEN = 0.025, 10.0  # of the picture's height, grey levels: so near its edge what changes less is not part of it
ROWS = 0.02  # of the picture's height: rows so near are of one shape
STEADY = 0.7  # frames: standard deviation of the blur in time that takes the trembling from landmarks
SNAP = 0.01  # of the picture's height: what is so far from the middle of before and after moves, and does not tremble
ROUNDS = 3  # of finding the place whose relief leads to a pixel
TEMPLES = [234, 454]  # indices into MediaPipe's face mesh
# Around what speaks and looks: brows, sides and chin.
EXPRESSIVE = [70, 63, 105, 66, 107, 336, 296, 334, 293, 300, 127, 356, 234, 454, 93, 323, 132, 361, 58, 288,
              172, 397, 136, 365, 150, 379, 149, 378, 176, 400, 148, 377, 152]  # fmt: skip
CHIN = 152


class Seen:
    """What a window of the source shows, frame by frame: found when it is first asked for.

    Args:
        window: uint8 [F, H, W, 3].
    """

    def __init__(self, window: NDArray[np.uint8]) -> None:
        self._window = window
        self._people: dict[int, Array] = {}

    @cached_property
    def landmarks(self) -> NDArray[np.float64]:
        """[F, 478, 3] in pixels, steadied; NaN without a face."""
        return _steadied(track(self._window), self._window.shape[1])

    def person(self, number: int) -> Array:
        """How much of each pixel of a frame is a person, [H, W]."""
        if number not in self._people:
            self._people[number] = _person(self._window[number])
        return self._people[number]


@dataclass
class Surroundings:
    """How an edit changes the background, or the person, beside what it adds: spread into what that hides.

    Attributes:
        same: how far they stay as they are, [H, W] in [0, 1]; 0: what they are like is not known.
        change: of the colours, [H, W, 3].
    """

    same: Array
    change: Array


@dataclass
class Attached:
    """What an edited image adds and removes, in its own frame. Planes [H, W] in [0, 1].

    Attributes:
        added: what goes with the head, glasses and the outer.
        outer, removed: see the module.
        bare: what of the edited image is background.
        ground, body: the background and the person beside the outer.
        relief: z of the added, [H, W] in pixels away from the camera.
        centre: the middle of what is added (or removed), pixels x, y, z.
        skull: the landmarks there.
    """

    added: Array
    outer: Array
    removed: Array
    bare: Array
    ground: Surroundings
    body: Surroundings
    relief: Array
    centre: NDArray[np.float64]
    skull: Skull

    def way(self, landmarks: NDArray[np.float64]) -> Flow | None:
        """How far each pixel of a frame is from its place in the edited image, by the frame's landmarks: x and y in
        pixels, [H, W, 2]; None without a face."""
        skull = landmarks[STABLE]
        if not np.isfinite(skull).all():
            return None
        middle = self.skull.mean(0)
        scale, rotation, place = (part[0] for part in fit_similarity(skull[None], self.skull - middle))
        there = (scale * rotation @ (self.centre - middle) + place)[:2]
        roll = np.arctan2(rotation[1, 0] - rotation[0, 1], rotation[0, 0] + rotation[1, 1])
        back = np.array([[np.cos(roll), np.sin(roll)], [-np.sin(roll), np.cos(roll)]]) / scale
        tilt = scale * back @ rotation[:2, 2]
        y, x = np.indices(self.relief.shape)
        flat = (np.stack([x, y], -1) - there) @ back.T + self.centre[:2] - np.stack([x, y], -1)
        flow = flat.astype(np.float32)
        for _ in range(ROUNDS):
            flow = (flat - move(self.relief, flow)[..., None] * tilt).astype(np.float32)
        return flow


def _steadied(points: NDArray[np.float64], height: int) -> NDArray[np.float64]:
    """Each frame's points, [F, N, 3] in pixels, with those of the frames before and after it in pairs, so that an even
    motion stays as it is; pairs between which the face is elsewhere, or not seen, hardly count."""
    total, weights = points.copy(), np.ones((len(points), 1, 1))
    for step in range(1, min(3, (len(points) + 1) // 2)):
        between = (points[: -2 * step] + points[2 * step :]) / 2
        off = np.linalg.norm((between - points[step:-step]).mean(1)[:, :2], axis=-1) / (SNAP * height)
        weight = np.nan_to_num(2 * np.exp(-0.5 * (step / STEADY) ** 2 - off**2))[:, None, None]
        total[step:-step] += weight * np.nan_to_num(between)
        weights[step:-step] += weight
    return total / weights


def find_attached(edited: NDArray[np.uint8], own: NDArray[np.uint8], changed: Array, kept: Array) -> Attached | None:
    """What the edited image, uint8 [H, W, 3], adds to the head of the source's frame `own` or takes off it, or None.

    Args:
        changed: how much of the colours is gone, [H, W] in [0, 1].
        kept: how much of the structure or the colours stays, [H, W] in [0, 1].
    """
    before, after = _person(own), _person(edited)
    shift = edited.astype(np.float32) - own
    outside = before < 0.5
    empty = outside & (after < 0.5)
    if (changed[empty] > 0.5).mean() < STILL:  # the background stays: what is new there is the person's, seen so or not
        after = np.maximum(after, outside * (changed > 0.5))
    removed = np.clip(before - after, 0, 1) * changed
    beyond = outside & (after * changed > 0.5)
    landmarks = track(own[None])[0]
    if not np.isfinite(landmarks).all():
        return None
    worn = find_glasses(edited, own, changed, landmarks)
    other = _dilated(worn, 1) < 0.05
    beyond &= other
    new = (after > 0.5) & (changed * (1 - kept) > CHANGED) & other
    outer = np.zeros_like(worn)
    if max((removed > 0.5).mean(), beyond.mean()) >= LEAST:
        outer = _added(beyond, new, changed, shift, landmarks)
    free = 1 - _dilated(outer > 0.05, 1)
    removed = removed * free if _large(removed * free > 0.5) else np.zeros_like(removed)
    added = np.maximum(outer, worn)
    weight = added if added.any() else removed
    if not weight.any():
        return None
    ground = _surroundings(shift, changed, free * (1 - after) * (1 - before))
    body = _surroundings(shift, changed, free * after * before)
    y, x = np.indices(weight.shape)
    eyes = float(np.linalg.norm(np.diff(landmarks[EYE_CORNERS], axis=0)))
    depth = landmarks[TEMPLES, 2].mean() + DEPTH * eyes
    centre = np.array([(x * weight).sum() / weight.sum(), (y * weight).sum() / weight.sum(), depth])
    relief = _relief(outer, DEEPEST * eyes)
    if worn.any():
        relief = np.where(outer > worn, relief, glasses_depth(landmarks, worn.shape) - depth).astype(np.float32)
    return Attached(added, outer, removed, free * (1 - after), ground, body, relief, centre, landmarks[STABLE])


def _surroundings(shift: Array, changed: Array, known: Array) -> Surroundings:
    """The change `shift` [H, W, 3], of which `changed` [H, W] tells how much it is, from where it is `known`."""
    spread = SPREAD * len(known)
    total = _blurred(known, spread) + 1e-6
    low, high = ALIKE
    same = np.clip((_blurred((1 - changed) * known, spread) / total - low) / (high - low), 0, 1)
    return Surroundings(same, _blurred(shift * known[..., None], spread) / total[..., None])


def _added(
    beyond: NDArray[np.bool_], new: NDArray[np.bool_], changed: Array, shift: Array, landmarks: NDArray[np.float64]
) -> Array:
    """The mask of all that is new, reaches beyond the source's person above the chin and lies on the person as well, a
    little soft: [H, W]. Changed colours within and between its parts belong to it."""
    import cv2

    height = len(new)
    parts = cv2.morphologyEx((new | beyond).astype(np.uint8), cv2.MORPH_CLOSE, _disc(CREVICE / 2 * height))
    outline = cv2.convexHull(landmarks[EXPRESSIVE, :2].round().astype(np.int32))
    cv2.fillConvexPoly(parts, outline, (0,))
    high = np.arange(height)[:, None] < landmarks[CHIN, 1]
    added = np.zeros_like(parts)
    count, labels = cv2.connectedComponents(parts)
    for label in range(1, count):
        part = labels == label
        out = beyond & part
        if _large(out) and (out & high).sum() > out.sum() / 2 and (part & ~beyond).sum() > WORN * part.sum():
            added[part] = 1
    if not added.any():
        return added.astype(np.float32)
    face = np.zeros_like(parts)
    cv2.fillConvexPoly(face, outline, (1,))
    between = cv2.morphologyEx(added, cv2.MORPH_CLOSE, _disc(BETWEEN / 2 * height)) * (changed > 0.5)
    added = np.maximum(added, between * (1 - face))
    count, labels = cv2.connectedComponents(1 - added)
    outside = {0, *labels[face > 0], *labels[-1], *labels[:, 0], *labels[:, -1]}  # but the top, which cuts hats off
    for label in set(range(count)) - outside:
        if changed[labels == label].mean() > CHANGED:
            added[labels == label] = 1
    # `changed` looks around a pixel, and so beyond the edge.
    rim = _dilated(added == 0, EDGE * height) * (np.abs(shift).max(-1) < UNSEEN)
    return _blurred(added * (1 - rim), 0.8)


def _large(mask: NDArray[np.bool_]) -> bool:
    """Whether something lies there that is more than an outline seen a little differently."""
    import cv2

    thick = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_OPEN, _disc(REACHES / 2 * len(mask)))
    return float(thick.mean()) >= LEAST


def _relief(added: Array, deepest: float) -> Array:
    """How far what is round lies before its outline, given its mask [H, W]: in pixels, negative towards the camera."""
    if not added.any():
        return np.zeros_like(added)
    height, width = added.shape
    on = added > 0.5
    rows = np.flatnonzero(on.any(1))
    rows = rows[np.abs(rows - np.arange(height)[:, None]).argmin(1)]  # for each row the nearest that shows something
    first, last = on.argmax(1)[rows], width - 1 - on[:, ::-1].argmax(1)[rows]
    middle = _blurred(((first + last) / 2).astype(np.float32)[:, None], ROWS * height)
    half = _blurred(((last - first + 1) / 2).astype(np.float32)[:, None], ROWS * height)
    rise = np.clip(1 - ((np.arange(width) - middle) / half) ** 2, 0, None)
    return _blurred(-np.minimum(half, deepest) * rise, 0.01 * height)


def around(*planes: Array) -> Array:
    """Where one of the planes [H, W] is 1, and a soft zone around it."""
    height = len(planes[0])
    return _blurred(_dilated(np.maximum.reduce(planes), ZONE * height), ZONE / 4 * height)


def _person(frame: NDArray[np.uint8]) -> Array:
    return segment_person(torch.from_numpy(frame)).numpy()


def _disc(radius: float) -> NDArray[np.uint8]:
    import cv2

    side = 2 * max(1, round(radius)) + 1
    return np.asarray(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side)), np.uint8)


def _dilated(plane: NDArray[np.bool_] | Array, radius: float) -> Array:
    import cv2

    return np.asarray(cv2.dilate(plane.astype(np.float32), _disc(radius)), np.float32)


def _blurred(plane: Array, sigma: float) -> Array:
    import cv2

    return np.asarray(cv2.GaussianBlur(plane, (0, 0), sigma), np.float32)
