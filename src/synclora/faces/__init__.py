"""Pixels to motion: face landmarks (tracker) and the named signals read from them (signals)."""

from synclora.faces.graphs import LANDMARKS
from synclora.faces.signals import (
    Blink,
    MotionSignals,
    find_blinks,
    measure,
    signals_from_frames,
    signals_from_landmarks,
)
from synclora.faces.tracker import count_faces, track

__all__ = [
    "LANDMARKS",
    "Blink",
    "MotionSignals",
    "count_faces",
    "find_blinks",
    "measure",
    "signals_from_frames",
    "signals_from_landmarks",
    "track",
]
