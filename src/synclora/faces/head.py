"""The head's own frame: where it is, how it is turned, and its landmarks with that motion undone.

The landmarks that move with the skull alone (eye corners, nose ridge, temples, forehead) are laid onto the clip's mean
head by the rotation, scale and shift of least squares (Umeyama 1991, IEEE PAMI 13(4), eqs. 34-43).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

# Indices into MediaPipe's canonical face mesh; left and right are the picture's (a face that looks into the camera).
# Mirror images, left and right, that move with the skull: temples, hairline, corners of the eyes, sides of the nose.
LEFT_SIDE = np.array([127, 234, 162, 21, 54, 103, 67, 109, 33, 133, 122, 196, 3])
RIGHT_SIDE = np.array([356, 454, 389, 251, 284, 332, 297, 338, 263, 362, 351, 419, 248])
MIDLINE = np.array([10, 151, 8, 168, 6, 197, 195, 5])  # hairline to nose, top to bottom
STABLE = np.concatenate([LEFT_SIDE, RIGHT_SIDE, MIDLINE])
EYE_CORNERS = np.array([33, 263])

MIDLINE_TILT = 17.0  # degrees: of MIDLINE against the axis about which rendered heads turn (best of 15 to 20)
ROUNDS = 4  # of aligning to the mean and taking the mean anew; converges in two or three


@dataclass(frozen=True)
class Head:
    """own: landmarks [F, 478, 3] in the head's frame, in distances between the outer eye corners; x to the right in the
    picture, y down the face, z away from the camera. axes: those three as columns [F, 3, 3] in the picture. unit:
    pixels per eye distance [F]. middle: where own = 0 lies, pixels [F, 3]."""

    own: Array
    axes: Array
    unit: Array
    middle: Array

    def to_picture(self, own: Array) -> Array:
        """Points [F, ..., 3] of the head's frame -> pixels x, y, z."""
        flat = own.reshape(len(own), -1, 3) @ self.axes.transpose(0, 2, 1)
        return (flat * self.unit[:, None, None] + self.middle[:, None]).reshape(own.shape)


def head_frame(points: Array) -> Head:
    """Undo the head's motion in landmarks [F, 478, 3] (pixels, all finite)."""
    mean_head, axes = _mean_head(points[:, STABLE])
    scale, rotation, middle = fit_similarity(points[:, STABLE], mean_head)
    own = ((points - middle[:, None]) @ rotation) / scale[:, None, None] @ axes.T
    size = float(np.linalg.norm(np.diff(own[:, EYE_CORNERS], axis=1).mean(0)))
    return Head(own / size, rotation @ axes.T, scale * size, middle)


def angles(axes: Array) -> tuple[Array, Array, Array]:
    """Yaw, pitch and roll in degrees [F] from the head's axes as columns [F, 3, 3]: turned by yaw about its own y axis,
    then by pitch about x, then by roll in the picture."""
    down = axes[:, :, 1]
    roll = np.arctan2(-down[:, 0], down[:, 1])
    pitch = np.arctan2(-down[:, 2], np.hypot(down[:, 0], down[:, 1]))
    level = np.stack([np.cos(roll), np.sin(roll), np.zeros_like(roll)], -1)  # the head's x axis at yaw 0
    yaw = np.arctan2(-(level * axes[:, :, 2]).sum(-1), (level * axes[:, :, 0]).sum(-1))
    return np.degrees(yaw), np.degrees(pitch), np.degrees(roll)


def turned(yaw: Array, pitch: Array, roll: Array) -> Array:
    """The head's axes as columns [F, 3, 3] from angles in degrees [F]: the inverse of `angles`."""
    a, b, c = np.radians([yaw, pitch, roll])
    none, one = np.zeros_like(a), np.ones_like(a)

    def matrix(*values: Array) -> Array:
        return np.stack(values, -1).reshape(-1, 3, 3)

    about_y = matrix(np.cos(a), none, -np.sin(a), none, one, none, np.sin(a), none, np.cos(a))
    about_x = matrix(one, none, none, none, np.cos(b), np.sin(b), none, -np.sin(b), np.cos(b))
    about_z = matrix(np.cos(c), -np.sin(c), none, np.sin(c), np.cos(c), none, none, none, one)
    return about_z @ about_x @ about_y


def _mean_head(stable: Array) -> tuple[Array, Array]:
    """Generalised Procrustes mean of the skull's landmarks [F, K, 3], and the head's axes (rows x, y, z) in it.

    The mean lies in the pose of the first frame; the axes come from the face's own symmetry, so that all angles are 0
    when it looks into the camera (pitch to a few degrees: the midline's tilt differs between people).
    """
    head = stable[0] - stable[0].mean(0)
    size = np.linalg.norm(head)
    for _ in range(ROUNDS):
        scale, rotation, middle = fit_similarity(stable, head)
        head = (((stable - middle[:, None]) @ rotation) / scale[:, None, None]).mean(0)
        head *= size / np.linalg.norm(head)
    left, right, midline = np.split(head, [len(LEFT_SIDE), 2 * len(LEFT_SIDE)])
    x = (right - left).sum(0)
    y = midline[-3:].sum(0) - midline[:3].sum(0)
    x /= np.linalg.norm(x)
    y -= x * (x @ y)
    y /= np.linalg.norm(y)
    z = np.cross(x, y)
    tilt = np.radians(MIDLINE_TILT)  # from hairline to nose the midline comes forward
    return head, np.stack([x, np.cos(tilt) * y + np.sin(tilt) * z, np.cos(tilt) * z - np.sin(tilt) * y])


def fit_similarity(points: Array, head: Array) -> tuple[Array, Array, Array]:
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
