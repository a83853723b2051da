"""Frames of one file at a constant rate, decoded as they are asked for."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import torch
from torch import Tensor

from synclora.errors import SyncloraError
from synclora.media.crop import Crop, apply_crop
from synclora.media.picture import Shape, to_rgb
from synclora.media.rate import at_constant_rate, to_rate
from synclora.media.sound import AudioOrigin
from synclora.media.source import check_rate, inspect, open_video, timed_frames


class Reader:
    """Iterates over frames, uint8 [H, W, 3]; arguments and errors as `synclora.clip.read_clip`.

    Attributes:
        info: what the file holds.
        fps: output rate.
    """

    def __init__(
        self, path: Path | str, start: int, frames: int | None, fps: Fraction | float | None, crop: Crop | None
    ) -> None:
        if start < 0 or (frames is not None and frames < 1):
            raise SyncloraError(f"{path}: start {start}, frames {frames}: needs start >= 0 and at least one frame.")
        self.info = inspect(path)
        if fps is None:
            check_rate(self.info)
        self.fps = self.info.fps if fps is None else to_rate(fps)
        self._start = start
        self._stop = None if frames is None else start + frames
        self._crop = crop
        self._zero = Fraction(0)

    def __iter__(self) -> Iterator[Tensor]:
        from av.video.reformatter import VideoReformatter

        path = self.info.path
        rate = self.info.fps or self.fps
        reformatter = VideoReformatter()  # one for all frames: it keeps the tables of a colour conversion
        empty = True
        with open_video(path) as (container, stream):
            shape: Shape | None = None
            shown, picture = None, torch.empty(0)
            timed = timed_frames(path, container, stream, rate)
            for zero, frame in at_constant_rate(timed, self.fps, 1 / rate, self._start, self._stop):
                self._zero = zero
                if frame is not shown:
                    shape = shape or Shape.of(frame, stream)
                    picture = torch.from_numpy(to_rgb(frame, shape, reformatter))
                    if self._crop is not None:
                        picture = apply_crop(picture[None], self._crop)[0]
                    shown = frame
                empty = False
                yield picture
        if empty:
            raise SyncloraError(
                f"{path}: no frame from frame {self._start} on at {float(self.fps):g} fps; the video lasts "
                f"{self.info.duration:.2f} s. Choose an earlier start."
            )

    def origin(self, index: int) -> AudioOrigin | None:
        """Return the sound's origin for a clip that begins at output frame `index`, once a frame was read."""
        return AudioOrigin(self.info.path, self._zero + index / self.fps) if self.info.audio else None
