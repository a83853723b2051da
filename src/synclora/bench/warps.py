"""Edits without a learnt model: the edited first frame moved along with the source, or the source coloured like it.

`mesh_warp` moves it with the face mesh, `flow_warp` with optical flow, `flow_difference` moves what it adds to the
source, `colour_transfer` leaves the source's pixels where they are. Each sees the source clip and the edited frame 0,
nothing else, and gives that frame back as it is.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from synclora.faces import track
from synclora.optical_flow import Flow, find_flow, grey, move

Array = NDArray[np.float64]
Frames = NDArray[np.uint8]

BORDER_POINTS = 8  # on each side of the picture, held still


def mesh_warp(source: Frames, edited: Frames, landmarks: Array | None = None) -> Frames:
    """Warp the edited frame 0 with the source's face mesh: piecewise affine over one triangulation.

    The triangles are the Delaunay triangulation of frame 0's landmarks and of points on the picture's border, which
    stay where they are. Triangles that a turned head folds over are drawn below the others. A frame without a face gets
    the warp of the last one with a face; without a face in frame 0 it is repeated.

    Args:
        source: uint8 [F, H, W, 3]; edited: its frame 0 with the edit, uint8 [H, W, 3].
        landmarks: [F, 478, 3] as from `track`, NaN without a face; None: tracked here.
    """
    import cv2
    from matplotlib.tri import Triangulation

    points = (track(source) if landmarks is None else landmarks)[:, :, :2]
    height, width = edited.shape[:2]
    result = np.repeat(edited[None], len(source), 0)
    if not np.isfinite(points[0]).all():
        return result
    border = _border(width, height)
    start = np.concatenate([points[0], border])
    triangles = np.asarray(Triangulation(start[:, 0], start[:, 1]).triangles)
    for index in range(1, len(source)):
        if not np.isfinite(points[index]).all():
            result[index] = result[index - 1]
            continue
        maps = _inverse_map(np.concatenate([points[index], border]), start, triangles, (height, width))
        result[index] = cv2.remap(edited, *maps, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return result


def flow_warp(source: Frames, edited: Frames) -> Frames:
    """Warp the edited frame 0 with the optical flow from every source frame back to source frame 0.

    Args:
        source: uint8 [F, H, W, 3]; edited: its frame 0 with the edit, uint8 [H, W, 3].
    """
    return np.stack([edited, *(move(edited, flow) for flow in _flows(source))])


def flow_difference(source: Frames, edited: Frames) -> Frames:
    """Warp what the edit added to frame 0 with the same flow, and add it to the source's frames.

    Args:
        source: uint8 [F, H, W, 3]; edited: its frame 0 with the edit, uint8 [H, W, 3].
    """
    added = edited.astype(np.float32) - source[0]
    moved = [source[index] + move(added, flow) for index, flow in enumerate(_flows(source), start=1)]
    return np.stack([edited, *(frame.round().clip(0, 255).astype(np.uint8) for frame in moved)])


def _flows(source: Frames) -> Iterator[Flow]:
    """For every frame but the first, how far each of its pixels is from its place in frame 0."""
    first, flow = grey(source[0]), None
    for frame in source[1:]:
        flow = find_flow(grey(frame), first, flow)
        yield flow


def colour_transfer(source: Frames, edited: Frames) -> Frames:
    """Map every source frame's colours by the affine map that takes source frame 0 closest to the edited frame 0.

    With s and e the colours of frame 0 before and after the edit, e ~ mean(e) + cov(e, s) cov(s, s)^-1 (s - mean(s)):
    the least squares of all affine maps of colours, since the pixels of the two pictures correspond.

    Args:
        source: uint8 [F, H, W, 3]; edited: its frame 0 with the edit, uint8 [H, W, 3].
    """
    before, after = source[0].reshape(-1, 3).astype(np.float64), edited.reshape(-1, 3).astype(np.float64)
    mean_before, mean_after = before.mean(0), after.mean(0)
    matrix = np.linalg.lstsq(before - mean_before, after - mean_after, rcond=None)[0]
    mapped = [(frame.astype(np.float64) - mean_before) @ matrix + mean_after for frame in source[1:]]
    return np.stack([edited, *(np.clip(frame.round(), 0, 255).astype(np.uint8) for frame in mapped)])


def _border(width: int, height: int) -> Array:
    """Points [4 * BORDER_POINTS, 2] all around the picture, corners included."""
    along = np.arange(BORDER_POINTS) / BORDER_POINTS
    right, low = float(width - 1), float(height - 1)
    zero, one = np.zeros_like(along), np.ones_like(along)
    sides = [(along, zero), (one, along), (1 - along, one), (zero, 1 - along)]
    return np.concatenate([np.stack([x * right, y * low], axis=-1) for x, y in sides])


def _inverse_map(
    points: Array, start: Array, triangles: NDArray[np.int_], size: tuple[int, int]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """For every pixel of a picture (height, width) the place (x, y) it came from, where `start` [N, 2] moved to
    `points` [N, 2] and the triangles [T, 3] with them."""
    import cv2

    corners, origins = points[triangles], start[triangles]
    folded = _area(corners) * _area(origins) <= 0
    owner = np.full(size, -1, np.int32)
    fixed = np.round(corners * 16).astype(np.int32)  # 4 fractional bits
    for index in np.argsort(~folded, kind="stable"):  # folded ones first, so that the others cover them
        cv2.fillConvexPoly(owner, fixed[index], (int(index),), cv2.LINE_8, 4)
    homogeneous = np.concatenate([corners, np.ones((len(corners), 3, 1))], axis=-1)
    flat = abs(_area(corners)) < 1e-3
    homogeneous[flat] = np.eye(3)
    affine = np.linalg.solve(homogeneous, np.where(flat[:, None, None], 0, origins))  # [T, 3, 2]
    affine[flat, 2] = origins[flat].mean(1)
    y, x = np.mgrid[: size[0], : size[1]]
    here = np.stack([x, y, np.ones_like(x)], axis=-1).astype(np.float64)
    there = (here[..., None, :] @ affine[owner])[..., 0, :]
    there[owner < 0] = here[owner < 0][:, :2]
    return there[..., 0].astype(np.float32), there[..., 1].astype(np.float32)


def _area(corners: Array) -> Array:
    """Twice the signed areas [T] of triangles [T, 3, 2]."""
    one, other = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    return one[:, 0] * other[:, 1] - one[:, 1] * other[:, 0]
