"""Glasses in an edited image: on the face, yet not of it. They stay still where brows rise and lids close beneath them.

Glasses are what an edit adds to an otherwise unchanged face that crosses the bridge of the nose, reaches over both eyes
and lies in a band around them. An eye that still shows through belongs to the face; one that does not is behind a dark
lens, which belongs to the glasses.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from synclora.faces.head import EYE_CORNERS
from synclora.faces.irises import EYES
from synclora.optical_flow import grey

Array = NDArray[np.float32]

BAND = (1.2, -0.45, 0.6)  # distances between the outer eye corners, from their middle: to both sides, up and down
BRIDGE = (0.05, 0.3)  # the same: to both sides, up and down
OVER, UNDER = 0.4, 0.1  # the same: so far they reach to both sides, and down, where eye shadow does not
SEEN = 12.0  # grey levels of change
OTHERWISE = 0.3  # of the face beyond the band: with more of it changed, nothing tells glasses from the rest
THROUGH = 0.3  # of an eye's contrast: with no more of it left, the lens is dark
GAP = 0.01  # of the picture's height: gaps twice as wide do not part a frame
BEFORE = 0.17  # distances between the outer eye corners: so far the glasses lie before the eyes
HINGE = 1.5  # times as far from the bridge as the outer eye corner: there the temples begin
BACK = 3.0  # pixels away from the camera for each pixel beyond
BRIDGE_TOP = 168
FRONT = [33, 133, 263, 362, 168, 6, 159, 386, 145, 374]  # eyes and the bridge, indices into MediaPipe's face mesh


def find_glasses(
    edited: NDArray[np.uint8], own: NDArray[np.uint8], changed: Array, landmarks: NDArray[np.float64]
) -> Array:
    """The mask of the glasses that the edited image, [H, W, 3], adds to the source's frame `own`: [H, W] in [0, 1],
    zeros without any.

    Args:
        changed: how much of the colours is gone, [H, W] in [0, 1].
        landmarks: of the source's face, [478, 3] in pixels.
    """
    import cv2

    first, last = landmarks[EYE_CORNERS, :2]
    eyes = float(np.linalg.norm(last - first))
    right, down = (last - first) / eyes, np.array([first[1] - last[1], last[0] - first[0]]) / eyes
    y, x = np.indices(changed.shape)
    away = (np.stack([x, y], -1) - (first + last) / 2) / eyes
    beside, below = away @ right, away @ down
    band = (np.abs(beside) < BAND[0]) & (below > BAND[1]) & (below < BAND[2])
    bridge = (np.abs(beside) < BRIDGE[0]) & (np.abs(below) < BRIDGE[1])
    mask = np.zeros(changed.shape, np.float32)
    rest = _inside(landmarks, changed.shape) & ~band
    if not rest.any() or changed[rest].mean() > OTHERWISE:
        return mask
    seen = cv2.GaussianBlur(cv2.absdiff(edited, own).max(-1).astype(np.float32), (0, 0), 0.6) > SEEN
    reach = 2 * max(1, round(GAP * len(changed))) + 1
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (reach, reach))
    count, labels = cv2.connectedComponents(cv2.morphologyEx(seen.astype(np.uint8), cv2.MORPH_CLOSE, disc))
    for label in range(1, count):
        part = labels == label
        over = beside[part].min() < -OVER and beside[part].max() > OVER and below[part].max() > UNDER
        if over and (part & bridge).any() and band[part].mean() > 0.9:
            mask[part & seen] = 1
    if mask.any():
        for lids in EYES:
            eye = _inside(landmarks[np.concatenate(lids)], changed.shape)
            before, after = (grey(frame)[eye].astype(np.float64) for frame in (own, edited))
            slope = ((before - before.mean()) * after).mean() / max(1.0, before.var()) if eye.any() else 0.0
            if slope > THROUGH:
                mask[cv2.dilate(eye.astype(np.uint8), disc) > 0] = 0
    return np.asarray(cv2.GaussianBlur(mask, (0, 0), 0.6), np.float32)


def glasses_depth(landmarks: NDArray[np.float64], shape: tuple[int, ...]) -> Array:
    """z of glasses on a face, [H, W] in pixels: the plane of its eyes and its bridge, a little before them; at the
    sides the temples go back, at most to where the face ends."""
    points = landmarks[FRONT]
    first, last = landmarks[EYE_CORNERS, :2]
    eyes = float(np.linalg.norm(np.diff(landmarks[EYE_CORNERS], axis=0)))
    y, x = np.indices(shape)
    plane = np.linalg.lstsq(np.c_[points[:, :2], np.ones(len(points))], points[:, 2], rcond=None)[0]
    right = (last - first) / np.linalg.norm(last - first)
    beside = (np.stack([x, y], -1) - landmarks[BRIDGE_TOP, :2]) @ right
    ends = [(corner - landmarks[BRIDGE_TOP, :2]) @ right for corner in (first, last)]
    beyond = np.maximum(beside - HINGE * ends[1], HINGE * ends[0] - beside).clip(0)
    z = plane[0] * x + plane[1] * y + plane[2] + BACK * beyond
    return (z.clip(landmarks[:, 2].min(), landmarks[:, 2].max()) - BEFORE * eyes).astype(np.float32)


def _inside(points: NDArray[np.float64], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """The convex hull of points."""
    import cv2

    hull = np.zeros(shape, np.uint8)
    cv2.fillConvexPoly(hull, cv2.convexHull(points[:, :2].round().astype(np.int32)), (1,))
    return hull > 0
