"""Shoulders and wrists with MediaPipe's pose model, each frame on its own; about 40 ms a frame, so only when asked."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from synclora.faces.graphs import quiet_stderr

Array = NDArray[np.float64]

# Left and right are the picture's; indices into MediaPipe's 33 pose landmarks.
POINTS = {"shoulder_left": 12, "shoulder_right": 11, "wrist_left": 16, "wrist_right": 15}
VISIBLE = 0.5


def track_body(frames: NDArray[np.uint8]) -> dict[str, Array]:
    """Shoulders and wrists: name -> [F, 2], x and y in pixels; NaN where not visible. frames: uint8 [F, H, W, 3]."""
    height, width = frames.shape[1:3]
    points = {name: np.full((len(frames), 2), np.nan) for name in POINTS}
    with quiet_stderr():
        from mediapipe.python.solutions.pose import Pose

        pose = Pose(static_image_mode=True, model_complexity=1)
        pose.process(np.zeros((64, 64, 3), np.uint8))
    try:
        for index, frame in enumerate(frames):
            with quiet_stderr():
                result: Any = pose.process(np.ascontiguousarray(frame))
            if result.pose_landmarks is None:
                continue
            for name, number in POINTS.items():
                point = result.pose_landmarks.landmark[number]
                if point.visibility >= VISIBLE and 0 <= point.x <= 1 and 0 <= point.y <= 1:
                    points[name][index] = point.x * width, point.y * height
    finally:
        pose.close()
    return points
