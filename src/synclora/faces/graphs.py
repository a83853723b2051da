"""MediaPipe's face detector and face mesh as two plain functions of one image, and its pose model for the upper body.

The ready-made face mesh of MediaPipe crops each frame around the landmarks of the frame before, or around the box of a
detector that it runs again for every face it may still find. Here the two networks are graphs of their own, fed with a
crop that the caller chooses; nothing is remembered between images, and a detection is paid for once a frame.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

LANDMARKS = 478  # 468 of the mesh and 5 of each iris
_BYTES = 17  # of one serialised landmark: 0a 0f, then tag and float32 for x, y, z

_DETECT = """
    input_stream: "image" output_stream: "detections"
    node { calculator: "FaceDetectionShortRangeCpu" input_stream: "IMAGE:image" output_stream: "DETECTIONS:detections" }
"""
_LOOK = """
    input_stream: "image" input_stream: "crop" input_side_packet: "irises" output_stream: "landmarks"
    node {
      calculator: "FaceLandmarkCpu" input_side_packet: "WITH_ATTENTION:irises"
      input_stream: "IMAGE:image" input_stream: "ROI:crop" output_stream: "LANDMARKS:landmarks"
    }
"""


@dataclass(frozen=True)
class Box:
    """A square to look at, in units of the (square) image's side: centre x, y, side, and turn in radians (clockwise in
    the picture)."""

    x: float
    y: float
    side: float
    turn: float

    def zoomed(self, factor: float) -> Box:
        """The square with its side times `factor`, about its centre."""
        return Box(self.x, self.y, self.side * factor, self.turn)


class FaceGraphs:
    """The detector and the mesh. Images are uint8 [S, S, 3] RGB, wrapped once by `image` and then looked at often."""

    def __init__(self) -> None:
        from mediapipe.python import packet_creator, packet_getter, solution_base
        from mediapipe.python._framework_bindings import image_frame, resource_util

        self._create, self._read = packet_creator, packet_getter
        self._rect: Any = import_module("mediapipe.framework.formats.rect_pb2").__dict__["NormalizedRect"]
        self._format = image_frame.ImageFormat.SRGB
        package = os.path.dirname(os.path.dirname(os.path.abspath(solution_base.__file__)))
        resource_util.set_resource_dir(os.path.dirname(package))  # the graphs name their models from there
        self._shown = False
        with quiet_stderr():
            self._detect = _Graph(_DETECT, "detections")
            self._look = _Graph(_LOOK, "landmarks", irises=packet_creator.create_bool(True))
            # The graphs log from threads of their own while they open, which ends before their first result.
            blank = self.image(np.zeros((64, 64, 3), np.uint8))
            self.detect(blank)
            self._look(image=blank, crop=self._crop(Box(0.5, 0.5, 1.0, 0.0)))

    def image(self, pixels: NDArray[np.uint8]) -> Any:
        """Wrap an image for the other two; it is copied."""
        return self._create.create_image_frame(np.ascontiguousarray(pixels), image_format=self._format)

    def detect(self, image: Any) -> list[Box]:
        """The faces the detector sees, each as the square the mesh was trained to look at."""
        packet = self._detect(image=image)
        if packet.is_empty():
            return []
        boxes = []
        for found in self._read.get_proto_list(packet):
            box, eyes = found.location_data.relative_bounding_box, found.location_data.relative_keypoints[:2]
            turn = np.arctan2(eyes[1].y - eyes[0].y, eyes[1].x - eyes[0].x)
            side = 1.5 * max(box.width, box.height)  # 1.5: as in MediaPipe's face_detection_front_detection_to_roi
            boxes.append(Box(box.xmin + box.width / 2, box.ymin + box.height / 2, side, float(turn)))
        return boxes

    def look(self, image: Any, box: Box) -> NDArray[np.float64] | None:
        """The landmarks [478, 3] of the face in a square, in units of the image's side; None where there is none."""
        with contextlib.nullcontext() if self._shown else quiet_stderr():  # it logs once more at its first face
            packet = self._look(image=image, crop=self._crop(box))
        if packet.is_empty():
            return None
        self._shown = True
        points = self._read.get_proto(packet)
        data = points.SerializeToString()
        if len(data) != LANDMARKS * _BYTES:  # another build of MediaPipe writes other fields
            return np.array([(point.x, point.y, point.z) for point in points.landmark])
        fields = np.frombuffer(data, np.uint8).reshape(LANDMARKS, _BYTES)[:, 2:].reshape(LANDMARKS, 3, 5)[..., 1:]
        return np.ascontiguousarray(fields).view("<f4")[..., 0].astype(np.float64)

    def _crop(self, box: Box) -> Any:
        rect = self._rect(x_center=box.x, y_center=box.y, width=box.side, height=box.side, rotation=box.turn)
        return self._create.create_proto(rect)


def around(landmarks: NDArray[np.float64]) -> Box:
    """The square the mesh was trained to look at, from landmarks [478, 3] (MediaPipe: face_landmark_landmarks_to_roi):
    1.5 times their extent, turned with the eyes' outer corners."""
    low, high = landmarks[:, :2].min(0), landmarks[:, :2].max(0)
    across = landmarks[263, :2] - landmarks[33, :2]
    x, y = (low + high) / 2
    return Box(float(x), float(y), 1.5 * float((high - low).max()), float(np.arctan2(across[1], across[0])))


class _Graph:
    """One MediaPipe graph with one output stream: called with packets, it gives that stream's packet."""

    def __init__(self, text: str, output: str, **side_packets: Any) -> None:
        from google.protobuf import text_format
        from mediapipe.python._framework_bindings import calculator_graph

        empty: Any = import_module("mediapipe.framework.calculator_pb2").__dict__["CalculatorGraphConfig"]()
        config = text_format.Parse(text, empty)
        self._graph = calculator_graph.CalculatorGraph(graph_config=config)
        self._result: Any = None
        self._time = 0
        self._graph.observe_output_stream(output, self._keep, True)
        self._graph.start_run(side_packets)

    def _keep(self, _: str, packet: Any) -> None:
        self._result = packet

    def __call__(self, **packets: Any) -> Any:
        self._time += 1
        for stream, packet in packets.items():
            self._graph.add_packet_to_input_stream(stream=stream, packet=packet.at(self._time))
        self._graph.wait_until_idle()
        return self._result


_opened = threading.local()


def face_graphs() -> FaceGraphs:
    """This thread's graphs, opened once (0.1 s): they remember nothing, so clips may share them."""
    if getattr(_opened, "process", None) != os.getpid():  # a forked process needs its own
        _opened.graphs, _opened.process = FaceGraphs(), os.getpid()
    return _opened.graphs


_stderr_lock = threading.Lock()


@contextlib.contextmanager
def quiet_stderr() -> Iterator[None]:
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
