"""Source and edit shown together: a labelled side-by-side video with the sound, and a strip of telling frames."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from synclora.atomic import atomic_path
from synclora.clip import Clip, write_clip
from synclora.editing.first_frame import to_image
from synclora.errors import SyncloraError

if TYPE_CHECKING:
    from PIL import Image

    from synclora.faces.signals import MotionSignals

SMALLEST_SIDE = 256  # px; smaller videos are enlarged to be looked at
LABEL_HEIGHT = 28  # px
GAP = 4  # px
INK, PAPER = (235, 235, 235), (24, 24, 28)


def write_comparison(
    path: Path | str, source: Clip, edited: Clip, labels: tuple[str, str] = ("source", "edited")
) -> None:
    """Write source | edited as one video, labelled, at the source's frame rate and with its sound.

    Raises:
        SyncloraError: clips of unequal size, length or rate.
    """
    _check_same(source, edited)
    zoom = _zoom(source.frames)
    height, width = source.height * zoom, source.width * zoom
    header = _label_row(labels, width)
    columns = header.shape[1] + header.shape[1] % 2
    canvas = torch.tensor(PAPER, dtype=torch.uint8).repeat(source.num_frames, LABEL_HEIGHT + height, columns, 1)
    canvas[:, :LABEL_HEIGHT, : header.shape[1]] = header
    for index in range(source.num_frames):
        canvas[index, LABEL_HEIGHT:, :width] = _enlarge(source.frames[index], zoom)
        canvas[index, LABEL_HEIGHT:, width + GAP : 2 * width + GAP] = _enlarge(edited.frames[index], zoom)
    write_clip(path, Clip(canvas, source.fps, source.origin))


def write_strip(path: Path | str, source: Clip, edited: Clip, frames: list[int]) -> None:
    """Write a PNG: the chosen frames of the source over those of the edit, labelled, with frame number and time.

    Raises:
        SyncloraError: clips of unequal size, length or rate.
    """
    _check_same(source, edited)
    zoom = _zoom(source.frames)
    labels = [f"frame {index}   {index / float(source.fps):.2f} s" for index in frames]
    corner = torch.tensor(PAPER, dtype=torch.uint8).expand(LABEL_HEIGHT, LABEL_HEIGHT, 3)
    rows = [_beside([corner, _label_row(labels, source.width * zoom)])]
    for name, clip in (("source", source), ("edited", edited)):
        side = _label_row([name], clip.height * zoom).rot90()  # read upwards, beside its row
        rows.append(_beside([side, *(_enlarge(clip.frames[index], zoom) for index in frames)]))
    paper = torch.tensor(PAPER, dtype=torch.uint8).expand(GAP, rows[0].shape[1], 3)
    picture = torch.cat([rows[0], rows[1], paper, rows[2]])
    with atomic_path(path) as temporary:
        to_image(picture).save(temporary, format="PNG")


def telling_frames(signals: MotionSignals | None, num_frames: int, count: int = 8) -> list[int]:
    """Up to `count` frame numbers, ascending, that show the motion: eyes shut, mouth open and shut, head turned.

    Frame 0 always; then the extremes of the source's signals, then evenly spread frames (all of them where there are
    no signals).
    """
    chosen = [0]

    def add(index: int) -> None:
        if len(chosen) < count and index not in chosen:
            chosen.append(index)

    if signals is not None and np.isfinite(signals.yaw).any():
        for curve in (-signals.eyes, signals.mouth, signals.yaw, -signals.yaw, -signals.mouth, signals.pitch):
            if np.isfinite(curve).any():
                add(int(np.nanargmax(curve)))
    while len(chosen) < min(count, num_frames):
        # the frame farthest from all that are chosen
        add(max(range(num_frames), key=lambda i: min(abs(i - c) for c in chosen)))
    return sorted(chosen)


def _check_same(source: Clip, edited: Clip) -> None:
    if source.frames.shape != edited.frames.shape or source.fps != edited.fps:
        raise SyncloraError(
            f"source {list(source.frames.shape)} at {source.fps} fps and edit {list(edited.frames.shape)} at "
            f"{edited.fps} fps cannot be shown side by side; both need the same frames, size and rate."
        )


def _zoom(frames: Tensor) -> int:
    return max(1, -(-SMALLEST_SIDE // min(frames.shape[1:3])))


def _enlarge(frame: Tensor, zoom: int) -> Tensor:
    if zoom == 1:
        return frame
    from PIL import Image

    height, width = frame.shape[:2]
    return _pixels(to_image(frame).resize((width * zoom, height * zoom), Image.Resampling.BICUBIC))


def _beside(cells: list[Tensor]) -> Tensor:
    paper = torch.tensor(PAPER, dtype=torch.uint8).expand(cells[0].shape[0], GAP, 3)
    parts = [part for cell in cells for part in (cell, paper)]
    return torch.cat(parts[:-1], dim=1)


def _label_row(labels: tuple[str, ...] | list[str], width: int) -> Tensor:
    """uint8 [LABEL_HEIGHT, W, 3]: each label centred over its column."""
    from PIL import Image, ImageDraw, ImageFont

    cells = []
    font = ImageFont.load_default(size=15)
    for label in labels:
        cell = Image.new("RGB", (width, LABEL_HEIGHT), PAPER)
        ImageDraw.Draw(cell).text((width / 2, LABEL_HEIGHT / 2), label, fill=INK, font=font, anchor="mm")
        cells.append(_pixels(cell))
    return _beside(cells)


def _pixels(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image))
