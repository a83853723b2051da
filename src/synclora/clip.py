"""A clip is frames plus a frame rate: what enters and what leaves.

Reading applies rotation and resamples by timestamps to a constant rate; writing gives H.264 with the source's own
sound.

    clip = read_clip("portrait.mp4", frames=81)
    notices = write_clip("edited.mp4", clip)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from synclora.errors import SyncloraError
from synclora.media.crop import Crop, apply_crop, centered_crop
from synclora.media.rate import at_constant_rate, to_rate
from synclora.media.reader import Reader
from synclora.media.sound import AudioOrigin
from synclora.media.source import AudioInfo, ClipInfo, check_rate, open_video, probe, timed_frames
from synclora.media.writer import check_output, write_frames

__all__ = [
    "AudioInfo",
    "AudioOrigin",
    "Clip",
    "ClipInfo",
    "Crop",
    "apply_crop",
    "centered_crop",
    "check_output",
    "count_frames",
    "from_model",
    "iter_windows",
    "probe",
    "read_clip",
    "to_model",
    "write_clip",
    "write_frames",
]

MAX_CLIP_BYTES = 16 * 2**30


@dataclass(frozen=True)
class Clip:
    """Frames and their frame rate.

    Attributes:
        frames: uint8 [F, H, W, 3], RGB.
        fps: constant frame rate, frames a second.
        origin: where the sound is taken from: a file and the presentation time in it (seconds) of frame 0. None: no
            sound.
    """

    frames: Tensor
    fps: Fraction
    origin: AudioOrigin | None = None

    def __post_init__(self) -> None:
        frames = self.frames
        if frames.dtype != torch.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or 0 in frames.shape:
            raise ValueError(f"Clip needs uint8 frames [F, H, W, 3]; got {frames.dtype} {list(frames.shape)}")
        object.__setattr__(self, "fps", to_rate(self.fps))

    @property
    def num_frames(self) -> int:
        """Number of frames."""
        return self.frames.shape[0]

    @property
    def height(self) -> int:
        """Height in pixels."""
        return self.frames.shape[1]

    @property
    def width(self) -> int:
        """Width in pixels."""
        return self.frames.shape[2]

    @property
    def duration(self) -> float:
        """Length in seconds."""
        return float(self.num_frames / self.fps)

    def __len__(self) -> int:
        return self.num_frames

    def __getitem__(self, part: slice) -> Clip:
        """Return a run of frames (step 1); the sound's start moves along."""
        if not isinstance(part, slice):
            raise TypeError(f"Clip is sliced, as in clip[:81]; got {part!r}. Single frames are clip.frames[i].")
        start, stop, step = part.indices(self.num_frames)
        if step != 1 or stop <= start:
            raise ValueError(f"Clip[{part}] of {self.num_frames} frames: needs step 1 and at least one frame")
        origin = self.origin and AudioOrigin(self.origin.path, self.origin.start + start / self.fps)
        return Clip(self.frames[start:stop], self.fps, origin)


def read_clip(
    path: Path | str,
    *,
    frames: int | None = None,
    start: int = 0,
    fps: Fraction | float | None = None,
    crop: Crop | None = None,
) -> Clip:
    """Read a video file, or a run of its frames.

    Frames come at a constant rate: for output instant k / fps after the first frame, the source frame nearest in time.
    A file of constant rate read at its own rate so gives exactly its frames.

    Args:
        path: any video FFmpeg decodes.
        frames: how many frames to read at most; reading stops there. None: all.
        start: how many frames (at the output rate) to leave out first.
        fps: output rate. None: the file's nominal rate.
        crop: cut and resize each frame while reading; pixels after rotation.

    Returns:
        Clip with between 1 and `frames` frames; its origin is set when the file has sound.

    Raises:
        SyncloraError: the file cannot be read (see `probe`), is damaged within the frames asked for, ends before
            `start`, or needs more than 16 GiB.
    """
    reader = Reader(path, start, frames, fps, crop)
    expected = max(1, round(reader.info.duration * reader.fps) + 1 - start)
    expected = expected if frames is None else min(frames, expected)
    pictures = torch.empty(0)
    count = 0
    for picture in reader:
        if count == len(pictures):  # at first, and when the container promised too few
            room = max(expected, 2 * count)
            _check_bytes(reader.info.path, picture.nbytes, room)
            grown = torch.empty(room, *picture.shape, dtype=torch.uint8)
            if count:
                grown[:count] = pictures
            pictures = grown
        pictures[count] = picture
        count += 1
    return Clip(pictures[:count], reader.fps, reader.origin(start))


def iter_windows(
    path: Path | str,
    length: int,
    overlap: int = 0,
    *,
    start: int = 0,
    frames: int | None = None,
    fps: Fraction | float | None = None,
    crop: Crop | None = None,
) -> Iterator[Clip]:
    """Read a video as windows of `length` frames, each beginning with the last `overlap` frames of the one before.

    Memory holds one window whatever the file's length. The last window may be shorter; it always holds at least one
    frame that the one before did not. Other arguments and errors as `read_clip`.
    """
    if length < 1 or not 0 <= overlap < length:
        raise SyncloraError(
            f"window length {length}, overlap {overlap}: a length of at least 1 is needed, and an overlap from 0 to "
            "one less than the length."
        )
    reader = Reader(path, start, frames, fps, crop)
    pictures = iter(reader)
    kept: list[Tensor] = []
    first = start
    while fresh := list(islice(pictures, length - len(kept))):
        yield Clip(torch.stack(kept + fresh), reader.fps, reader.origin(first))
        first += len(kept) + len(fresh) - overlap
        kept = (kept + fresh)[-overlap:] if overlap else []


def count_frames(path: Path | str) -> int:
    """How many frames `read_clip` gives of a whole file; found by decoding it, without the cost of converting frames.

    Raises:
        SyncloraError: as `read_clip`.
    """
    info = probe(path)
    check_rate(info)
    with open_video(info.path) as (container, stream):
        timed = timed_frames(info.path, container, stream, info.fps)
        return sum(1 for _ in at_constant_rate(timed, info.fps, 1 / info.fps))


def write_clip(path: Path | str, clip: Clip, *, crf: int = 16, audio: bool = True, preset: str = "medium") -> list[str]:
    """Write a clip as H.264 (yuv420p, BT.709, faststart) with the sound of its origin.

    The origin's audio packets are copied unchanged where the container takes their codec and re-encoded to AAC where
    not; both are trimmed to the clip's length and keep their offset to the picture.

    Args:
        path: .mp4 or .mov; written whole or not at all.
        clip: frames of even width and height.
        crf: x264's quality, 0 (lossless) to 51.
        audio: whether to keep the sound.
        preset: x264's speed preset.

    Returns:
        Notices for the user, such as that the sound was re-encoded.

    Raises:
        SyncloraError: wrong extension, odd size, output same as the origin, folder not writable, disk full.
    """
    return write_frames(path, [clip.frames], clip.fps, origin=clip.origin, crf=crf, audio=audio, preset=preset)


def to_model(frames: Tensor) -> Tensor:
    """Turn uint8 [F, H, W, 3] into float32 [1, 3, F, H, W] in [-1, 1]."""
    return (frames.permute(3, 0, 1, 2)[None].float() / 127.5 - 1).contiguous()


def from_model(video: Tensor) -> Tensor:
    """Turn float [1, 3, F, H, W] in [-1, 1] into uint8 [F, H, W, 3]; values outside are clamped."""
    if video.ndim != 5 or video.shape[:2] != (1, 3):
        raise ValueError(f"from_model needs [1, 3, F, H, W]; got {list(video.shape)}")
    return ((video[0].float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(1, 2, 3, 0).contiguous()


def _check_bytes(path: Path, frame_bytes: int, count: int) -> None:
    if frame_bytes * count > MAX_CLIP_BYTES:
        raise SyncloraError(
            f"{path}: {count} frames need {frame_bytes * count / 2**30:.1f} GiB; at most {MAX_CLIP_BYTES / 2**30:.0f} "
            "GiB are read at once. Read fewer frames, crop them to a smaller size, or use iter_windows."
        )
