"""Video frames to face landmarks with MediaPipe's face mesh, every frame measured on its own.

MediaPipe's video mode crops each frame around the landmarks of the frame before, so that what is measured depends on
the past: played backwards, a clip gives landmarks up to 2 px away. Its image mode crops around a detector's box, whose
jitter shows up in lips and lids. Here a blank image makes the graph forget the frame before, and the frame is then
shown `LOOKS` times: each look is cropped around the landmarks of the last look at the same frame, which converges, and
the landmarks are the mean of the looks after the first. Nothing depends on other frames, so no event can move in time:
forwards and backwards give the same numbers.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from synclora.errors import SyncloraError

LANDMARKS = 478  # 468 of the mesh and 5 of each iris
LOOKS = 3  # with the last two averaged: half the noise of one look, at about 10 ms a frame
MIN_SIDE = 256  # smaller frames are enlarged to this shorter side
MAX_FACES = 4
MIN_CONFIDENCE = 0.5


def track(frames: Tensor | NDArray[np.uint8]) -> NDArray[np.float64]:
    """Find the landmarks of one face, the largest, in every frame of a video.

    Where a frame shows several faces, the one nearest to the last one chosen is taken if it overlaps it, else the
    largest; so a passer-by does not take over.

    Args:
        frames: uint8 [F, H, W, 3] RGB.

    Returns:
        [F, 478, 3]: x (right) and y (down) in pixels of `frames`, and depth z (away from the camera) in the same unit
        from the head's middle. NaN in every value of a frame without a face.

    Raises:
        SyncloraError: the frames are not uint8 [F, H, W, 3].
    """
    images = _as_images(frames)
    landmarks = np.full((len(images), LANDMARKS, 3), np.nan)
    last: NDArray[np.float64] | None = None
    with _face_mesh() as look:
        for index, image in enumerate(images):
            faces = _converged(look, image)
            if faces:
                last = _choose(faces, last)
                landmarks[index] = last
    return landmarks


def count_faces(image: Tensor | NDArray[np.uint8]) -> int:
    """How many faces (up to 4) an image, uint8 [H, W, 3] RGB, shows."""
    images = _as_images(image[None])
    with _face_mesh() as look:
        return len(_converged(look, images[0]))


def _as_images(frames: Tensor | NDArray[np.uint8]) -> NDArray[np.uint8]:
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
        from PIL import Image

        height, width = image.shape[:2]
        self.scale = max(1.0, MIN_SIDE / min(height, width))
        wide, high = round(width * self.scale), round(height * self.scale)
        if self.scale > 1:
            image = np.asarray(Image.fromarray(image).resize((wide, high), Image.Resampling.BICUBIC))
        self.side = max(wide, high)
        self.left, self.top = (self.side - wide) // 2, (self.side - high) // 2
        self.pixels = np.zeros((self.side, self.side, 3), np.uint8)
        self.pixels[self.top : self.top + high, self.left : self.left + wide] = image
        self.stretch = np.array([wide / width, high / height, wide / width])

    def to_pixels(self, relative: NDArray[np.float64]) -> NDArray[np.float64]:
        """MediaPipe's coordinates relative to the square -> pixels of the frame as it was given."""
        return (relative * self.side - [self.left, self.top, 0]) / self.stretch


def _converged(look: Any, image: NDArray[np.uint8]) -> list[NDArray[np.float64]]:
    """The faces of one frame, each the mean of the looks after the first; in pixels of `image`."""
    canvas = _Canvas(image)
    look(np.zeros_like(canvas.pixels))  # no face here: forgets the frame before
    looks = [look(canvas.pixels) for _ in range(LOOKS)]
    faces = []
    for face in looks[-1]:
        same = [_nearest(face, earlier) for earlier in looks[1:-1]]
        faces.append(canvas.to_pixels(np.mean([face, *(s for s in same if s is not None)], axis=0)))
    return faces


def _size(face: NDArray[np.float64]) -> float:
    return float(np.linalg.norm(np.ptp(face[:, :2], axis=0)))


def _nearest(face: NDArray[np.float64], others: list[NDArray[np.float64]]) -> NDArray[np.float64] | None:
    """The one of `others` whose centre lies nearest to that of `face`, if within half a face; else None."""

    def distance(other: NDArray[np.float64]) -> float:
        return float(np.linalg.norm(other[:, :2].mean(0) - face[:, :2].mean(0)))

    nearest = min(others, key=distance, default=None)
    return nearest if nearest is not None and distance(nearest) < 0.5 * _size(face) else None


def _choose(faces: list[NDArray[np.float64]], last: NDArray[np.float64] | None) -> NDArray[np.float64]:
    followed = _nearest(last, faces) if last is not None else None
    return followed if followed is not None else max(faces, key=_size)


@contextlib.contextmanager
def _face_mesh() -> Iterator[Any]:
    """Yield look(image [S, S, 3]) -> list of faces [478, 3] relative to the image's side."""
    with _quiet_stderr():
        from mediapipe.python.solutions.face_mesh import FaceMesh

        mesh = FaceMesh(
            static_image_mode=False,
            max_num_faces=MAX_FACES,
            refine_landmarks=True,
            min_detection_confidence=MIN_CONFIDENCE,
            min_tracking_confidence=MIN_CONFIDENCE,
        )

        # The graph logs from threads of its own while it opens, which ends before its first result.
        mesh.process(np.zeros((MIN_SIDE, MIN_SIDE, 3), np.uint8))

    shown = False

    def look(image: NDArray[np.uint8]) -> list[NDArray[np.float64]]:
        nonlocal shown
        with contextlib.nullcontext() if shown else _quiet_stderr():  # it logs once more at its first face
            result: Any = mesh.process(image)
        faces = result.multi_face_landmarks or []
        shown = shown or bool(faces)
        return [np.array([(point.x, point.y, point.z) for point in face.landmark]) for face in faces]

    try:
        yield look
    finally:
        mesh.close()


_stderr_lock = threading.Lock()


@contextlib.contextmanager
def _quiet_stderr() -> Iterator[None]:
    """Keep what native code writes to file descriptor 2 off the screen; on an error it is shown after all."""
    with _stderr_lock, tempfile.TemporaryFile() as kept:
        sys.stderr.flush()
        saved = os.dup(2)
        os.dup2(kept.fileno(), 2)
        try:
            yield
        except BaseException:
            kept.seek(0)
            os.write(saved, kept.read())
            raise
        finally:
            os.dup2(saved, 2)
            os.close(saved)
