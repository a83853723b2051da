"""What an edit of a file hands back: the video's path, and all that is to be said about it."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from torch import Tensor

from synclora.adapters.rules import Window
from synclora.backbones.base import Geometry
from synclora.clip import Clip, ClipInfo, read_clip
from synclora.editing.adapter import Adapter
from synclora.editing.facecrop import Placement
from synclora.editing.pictures import Notice


@dataclass(frozen=True)
class EditResult:
    """What `edit` made. The video itself may be long, so it stays on disk: `clips` reads it."""

    output: Path  # the video written
    source: Path
    first_frame: Tensor  # uint8 [H, W, 3], as the model saw it
    frames: int
    fps: Fraction
    sound: bool
    placement: Placement  # where the model's picture lies in the source's
    notices: list[Notice]
    settings: dict[str, Any]  # every setting that shaped the result, JSON-serialisable
    seconds: dict[str, float]  # wall-clock time of each stage

    def clips(self) -> tuple[Clip, Clip]:
        """Source and edited video in memory, frame for frame and of one size: for short clips, to show and compare."""
        return read_clip(self.source, frames=self.frames, crop=self.placement.read_crop), read_clip(self.output)

    def summary(self) -> list[str]:
        """Lines for a person: what was written, and every notice."""
        rate = f"{self.frames} frames at {float(self.fps):g} fps"
        sound = "with the source's sound" if self.sound else "the source has no sound"
        took = f"{sum(self.seconds.values()):.1f} s"
        return [*(f"note: {notice}" for notice in self.notices), f"{self.output}  ({rate}, {sound}; {took})"]


def source_notices(info: ClipInfo, frames: int, geometry: Geometry) -> list[Notice]:
    """What a person should know of how the source was taken; `frames`: how many of its frames were edited."""
    name, fps, notices = info.path.name, float(info.fps), []
    if info.variable:
        text = f"{name} has a variable frame rate; its frames were taken at a constant {fps:g} a second."
        notices.append(Notice("variable_rate", text))
    if not 0.6 < fps / geometry.fps < 1.7:
        text = f"{name} has {fps:g} frames a second; the model learnt motion at {geometry.fps:g}."
        notices.append(Notice("frame_rate", text))
    if frames < info.frames:
        text = f"the first {frames} of about {info.frames} frames of {name} were edited."
        notices.append(Notice("cut", text))
    if frames == 1:
        notices.append(Notice("one_frame", f"{name}: one frame was edited, so there is no motion to follow."))
    if min(info.width, info.height) < min(geometry.width, geometry.height):
        text = f"{name} is {info.width}x{info.height} px, smaller than the model's picture; it was enlarged."
        notices.append(Notice("enlarged", text))
    return notices


def adapter_notices(adapter: Adapter | None, geometry: Geometry) -> list[Notice]:
    """Whether the adapter was trained on another window than the backbone is set to."""
    window = adapter.rules.window if adapter else None
    if adapter is None or window is None:
        return []
    here = Window(geometry.width, geometry.height, geometry.frames, geometry.fps)
    if window == here:
        return []
    text = (
        f"{adapter.path.name} was trained on {window}, and the model is set to {here} (width, height, frames, rate). "
        "Set them in the synclora.json of the model's folder."
    )
    return [Notice("window", text)]


def placement_notices(info: ClipInfo, placement: Placement) -> list[Notice]:
    """Which part of a large picture was edited, and of how many faces."""
    if not placement.pasted or (placement.crop.width, placement.crop.height) == (info.width, info.height):
        return []
    crop = placement.crop
    text = (
        f"{info.path.name} is {info.width}x{info.height} px; the {crop.width}x{crop.height} px at ({crop.left}, "
        f"{crop.top}) were edited and pasted back. --crop center edits and gives the middle alone."
    )
    notices = [Notice("pasted", text)]
    if (faces := _faces_shown(info)) > 1:
        text = f"{faces} faces were found in the source's first frame; the crop holds the largest and steadiest."
        notices.append(Notice("faces", text))
    return notices


def _faces_shown(info: ClipInfo) -> int:
    """How many faces the whole first frame shows; 0 where MediaPipe is missing."""
    try:
        from synclora.faces import count_faces
    except ImportError:
        return 0
    return count_faces(read_clip(info.path, frames=1).frames[0])
