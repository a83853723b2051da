"""Which parts of a face cannot be seen: MediaPipe draws eyes behind sunglasses and lips on a mask, and never says so.

Eyes count as hidden where what shows between the lids is darker than half of the cheeks, or flat; the mouth where its
place is flat. Both are judged by the median over a clip's frames, since a hand that passes hides nothing for long.
Measured on 24 rendered people and three real clips: brightness between the lids over the cheeks' at least 0.58 (0.21 to
0.44 behind rendered sunglasses), deviation over the cheeks' brightness at least 0.13 in eyes and 0.07 in mouths (0.00
under a plain cover). A patterned mask is not recognised.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from synclora.faces.head import Array, Head
from synclora.faces.irises import EYES, open_eye, sample

CHEEKS = np.array([50, 280, 205, 425, 117, 346])
MOUTH = np.array([13, 14, 61, 291])
DARK = 0.5
FLAT = 0.03
STEP = 0.02  # between samples, in distances between the outer eye corners
REACH_X, REACH_Y = 0.2, 0.1  # of the patch about the mouth's middle
LEAST_OPEN = 40  # samples between the lids for an eye to count as open
MOST_FRAMES = 25  # looked at, evenly spread


def find_hidden(frames: NDArray[np.uint8], head: Head) -> frozenset[str]:
    """Which of "eyes" and "mouth" are hidden; frames: uint8 [F, H, W, 3], those of the head."""
    few = np.unique(np.linspace(0, len(frames) - 1, MOST_FRAMES).round().astype(int))
    frames, head = frames[few], Head(head.own[few], head.axes[few], head.unit[few], head.middle[few])
    cheeks = max(1.0, float(np.median(sample(frames, head.to_picture(head.own[:, CHEEKS])))))
    hidden = set()
    brightness, deviation = _eyes(frames, head)
    if brightness < DARK * cheeks or deviation < FLAT * cheeks:
        hidden.add("eyes")
    if _mouth_deviation(frames, head) < FLAT * cheeks:
        hidden.add("mouth")
    return frozenset(hidden)


def _eyes(frames: NDArray[np.uint8], head: Head) -> tuple[float, float]:
    """Brightness between the lids and its deviation: medians over the frames with open eyes, means of both eyes."""
    sides = []
    for lids in EYES:
        eye = open_eye(frames, head, lids)
        light, mask = eye.light, eye.mask
        area = mask.sum((1, 2))
        shown = area > LEAST_OPEN
        if not shown.any():
            return np.inf, np.inf  # shut in every frame: nothing to tell
        light, mask, area = light[shown], mask[shown], area[shown]
        mean = (light * mask).sum((1, 2)) / area
        square = (((light - mean[:, None, None]) * mask) ** 2).sum((1, 2)) / area
        sides.append((np.median(mean), np.median(np.sqrt(square))))
    brightness, deviation = np.mean(sides, axis=0)
    return float(brightness), float(deviation)


def _mouth_deviation(frames: NDArray[np.uint8], head: Head) -> float:
    """Deviation of the brightness about the mouth, after a plane (the light's fall-off): the median over frames."""
    x, y = np.meshgrid(np.arange(-REACH_X, REACH_X + STEP / 2, STEP), np.arange(-REACH_Y, REACH_Y + STEP / 2, STEP))
    middle = head.own[:, MOUTH].mean(1)
    light = sample(frames, head.to_picture(middle[:, None, None] + np.stack([x, y, np.zeros_like(x)], axis=-1)))
    plane = np.stack([x.ravel(), y.ravel(), np.ones(x.size)], axis=-1)
    flat: Array = light.reshape(len(light), -1).T.astype(np.float64)
    rest = flat - plane @ np.linalg.lstsq(plane, flat, rcond=None)[0]
    return float(np.median(rest.std(axis=0)))
