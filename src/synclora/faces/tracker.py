"""Video frames to face landmarks with MediaPipe's face mesh, every frame measured on its own.

MediaPipe's video mode crops each frame around the landmarks of the frame before, so that what is measured depends on
the past: played backwards, a clip gives landmarks up to 2 px away. Its image mode crops around a detector's box, whose
jitter shows up in lips and lids. Here every frame is looked at three times, each time in another crop: around the
detector's box, around the landmarks of the first look, and closer around those of the second. The landmarks are the
mean of the three, which halves what of the noise comes from the crop. Nothing depends on other frames (they only tell
which of several faces is followed), so no event can move in time: forwards and backwards give the same numbers.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from synclora.errors import SyncloraError
from synclora.faces.graphs import LANDMARKS, Box, FaceGraphs, around, face_graphs

MIN_SIDE = 256  # smaller frames are enlarged to this shorter side
CLOSER = 0.8  # of the last crop: the lips and lids fill more of the mesh's 192 x 192 pixels
SAME_FACE = 0.5  # of a box's side: how far a face's centre may be from where it was last seen


def track(frames: Tensor | NDArray[np.uint8], face: int = 0) -> NDArray[np.float64]:
    """Find the landmarks of one face in every frame of a video.

    Args:
        frames: uint8 [F, H, W, 3] RGB.
        face: which one where there are several: 0 for the largest and steadiest (by the sum of its size over all
            frames, so a passer-by does not take over), 1 for the next.

    Returns:
        [F, 478, 3]: x (right) and y (down) in pixels of `frames`, and depth z (away from the camera) in the same unit
        from the head's middle. NaN in every value of a frame without that face.

    Raises:
        SyncloraError: the frames are not uint8 [F, H, W, 3], or `face` is negative.
    """
    images = as_images(frames)
    if face < 0:
        raise SyncloraError(f"face: found {face}; needed 0 for the largest face, 1 for the next, and so on.")
    graphs = face_graphs()
    boxes = follow([graphs.detect(graphs.image(_Canvas(image).pixels)) for image in images], face)
    landmarks = np.full((len(images), LANDMARKS, 3), np.nan)
    for index, (image, box) in enumerate(zip(images, boxes, strict=True)):
        if box is not None:
            canvas = _Canvas(image)
            points = _looked_at(graphs, graphs.image(canvas.pixels), box)
            if points is not None:
                landmarks[index] = canvas.to_pixels(points)
    return landmarks


def count_faces(image: Tensor | NDArray[np.uint8]) -> int:
    """How many faces an image, uint8 [H, W, 3] RGB, shows."""
    graphs = face_graphs()
    shown = graphs.image(_Canvas(as_images(image[None])[0]).pixels)
    return sum(graphs.look(shown, box) is not None for box in graphs.detect(shown))


def follow(detections: list[list[Box]], face: int = 0) -> list[Box | None]:
    """Which box of each frame is the face asked for.

    A face is followed from frame to frame by where its centre was last seen, through gaps. A face that comes after the
    last frame of another, or before its first, may be the same one across a cut, and continues it if it is at least
    half as large.
    """
    paths: list[dict[int, Box]] = []
    for frame, boxes in enumerate(detections):
        pairs = [
            (apart, p, b)
            for p, path in enumerate(paths)
            for b, box in enumerate(boxes)
            if (apart := _distance(last := path[max(path)], box)) < SAME_FACE * max(last.side, box.side) / 1.5
        ]
        taken_paths: set[int] = set()
        taken: set[int] = set()
        for _, p, b in sorted(pairs):
            if p not in taken_paths and b not in taken:
                paths[p][frame] = boxes[b]
                taken_paths.add(p)
                taken.add(b)
        paths += [{frame: box} for b, box in enumerate(boxes) if b not in taken]
    paths.sort(key=lambda path: -sum(box.side for box in path.values()))
    chosen: dict[int, Box] = {}
    for _ in range(face + 1):
        if not paths:
            return [None] * len(detections)
        chosen = paths.pop(0)
        for path in list(paths):
            beside = min(path) > max(chosen) or max(path) < min(chosen)
            if beside and 2 * _size(path) >= _size(chosen):
                chosen = {**chosen, **path}
                paths.remove(path)
    return [chosen.get(frame) for frame in range(len(detections))]


def _distance(one: Box, other: Box) -> float:
    return float(np.hypot(one.x - other.x, one.y - other.y))


def _size(path: dict[int, Box]) -> float:
    return sum(box.side for box in path.values()) / len(path)


def _looked_at(graphs: FaceGraphs, image: Any, box: Box) -> NDArray[np.float64] | None:
    """The mean of the three looks, in units of the image's side; None where any of them sees no face."""
    first = graphs.look(image, box)
    second = graphs.look(image, around(first)) if first is not None else None
    third = graphs.look(image, around(second).zoomed(CLOSER)) if second is not None else None
    if first is None or second is None:
        return None
    looks = [first, second] if third is None else [first, second, third]
    return np.mean(looks, axis=0)


def as_images(frames: Tensor | NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Frames as a checked uint8 array [F, H, W, 3]. Raises SyncloraError for anything else."""
    array = frames.detach().cpu().numpy() if isinstance(frames, Tensor) else np.asarray(frames)
    if array.dtype != np.uint8 or array.ndim != 4 or array.shape[-1] != 3 or 0 in array.shape[1:]:
        raise SyncloraError(
            f"frames to track: found {array.dtype} {list(array.shape)}; needed uint8 [frames, height, width, 3] (RGB)."
        )
    return array


class _Canvas:
    """A frame enlarged where it is small and centred in a square: the mesh measures z and turned crops rightly only
    in square images, and the detector misses faces that touch the border."""

    def __init__(self, image: NDArray[np.uint8]) -> None:
        height, width = image.shape[:2]
        scale = max(1.0, MIN_SIDE / min(height, width))
        wide, high = round(width * scale), round(height * scale)
        if scale > 1:
            from PIL import Image

            image = np.asarray(Image.fromarray(image).resize((wide, high), Image.Resampling.BICUBIC))
        self.side = max(wide, high)
        self.left, self.top = (self.side - wide) // 2, (self.side - high) // 2
        self.pixels = image
        if wide != high:
            self.pixels = np.zeros((self.side, self.side, 3), np.uint8)
            self.pixels[self.top : self.top + high, self.left : self.left + wide] = image
        self.stretch = np.array([wide / width, high / height, wide / width])

    def to_pixels(self, relative: NDArray[np.float64]) -> NDArray[np.float64]:
        """Coordinates relative to the square -> pixels of the frame as it was given."""
        return (relative * self.side - [self.left, self.top, 0]) / self.stretch
