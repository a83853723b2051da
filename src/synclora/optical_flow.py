"""Dense optical flow between two pictures, and pictures moved along it.

Dense inverse search (Kroeger et al. 2016, ECCV) in OpenCV's medium setting on grey pictures.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Flow = NDArray[np.float32]


def grey(frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A picture [H, W, 3] as the search reads it, uint8 [H, W]."""
    import cv2

    return np.asarray(cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2GRAY), np.uint8)


def find_flow(frame: NDArray[np.uint8], other: NDArray[np.uint8], begin: Flow | None = None) -> Flow:
    """How far each pixel of a grey picture [H, W] is from its place in another: x and y in pixels, [H, W, 2].

    Args:
        begin: flow to begin the search with, such as the frame's before; so it follows motions larger than it could
            find at once. None: no motion.
    """
    import cv2

    search = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    begin = np.zeros((*frame.shape, 2), np.float32) if begin is None else begin.copy()  # OpenCV writes into it
    return np.asarray(search.calc(frame, other, begin), np.float32)


def move(picture: NDArray[Any], flow: Flow) -> NDArray[Any]:
    """At each pixel what the picture, [H, W] or [H, W, C] with at most four channels, has where `flow` points: between
    pixels linearly, beyond the border the border's."""
    import cv2

    x, y = _grid(*flow.shape[:2])
    return cv2.remap(picture, x + flow[..., 0], y + flow[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


@lru_cache(maxsize=4)
def _grid(height: int, width: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """x and y of every pixel, [H, W] each."""
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    return x, y
