"""Video files as people have them: opened, checked, described, and decoded with their timestamps."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

from synclora.errors import SyncloraError
from synclora.media.picture import Shape
from synclora.media.rate import MAX_RATE, MIN_RATE, nominal_rate

if TYPE_CHECKING:
    from av import Packet, VideoFrame
    from av.container import InputContainer
    from av.video.stream import VideoStream

MAX_SIDE = 8192
_SCAN_PACKETS = 512  # packets looked at to tell constant from variable frame rate
_REORDER = 32  # no codec shows a packet's frame later than this many packets on
_CONVERT = "Export or copy the video again, or convert it: ffmpeg -i INPUT -c:v libx264 -c:a aac OUTPUT.mp4"


@dataclass(frozen=True)
class AudioInfo:
    """One audio track: its stream index in the file, codec name, sample rate in Hz and number of channels."""

    index: int
    codec: str
    rate: int
    channels: int


@dataclass(frozen=True)
class ClipInfo:
    """What a video file holds, as `read_clip` will show it.

    Attributes:
        path: the file.
        width: px, after rotation and pixel aspect.
        height: px, after rotation and pixel aspect.
        fps: the constant rate, or for variable frame rate the one that frames are resampled to.
        frames: number of frames at `fps`; the container's word, so an estimate.
        duration: seconds; the container's word.
        rotation: how far stored pictures are turned counter-clockwise to be shown: 0, 90, 180 or 270 degrees.
        audio: the audio tracks in the file's order.
        variable: whether the spacing of frames varies.
    """

    path: Path
    width: int
    height: int
    fps: Fraction
    frames: int
    duration: float
    rotation: int
    audio: tuple[AudioInfo, ...]
    variable: bool


def probe(path: Path | str) -> ClipInfo:
    """Describe a video file, decoding one frame of it.

    Raises:
        SyncloraError: the file is missing, empty, damaged, not a video, without frames, larger than 8192 px a side, or
            of a frame rate outside 1 to 240.
    """
    info = inspect(path)
    check_rate(info)
    return info


def inspect(path: Path | str) -> ClipInfo:
    """Do as `probe`, without judging the frame rate (0 where the file tells none)."""
    path = Path(path)
    with open_video(path) as (container, stream):
        audio = tuple(
            AudioInfo(s.index, s.codec_context.name, s.codec_context.sample_rate, s.codec_context.channels)
            if s.codec_context is not None
            else AudioInfo(s.index, "unknown", 0, 0)
            for s in container.streams.audio
        )
        first = next(timed_frames(path, container, stream, MIN_RATE), None)
        if first is None:
            raise SyncloraError(f"{path}: its video track holds 0 frames; at least one is needed. {_CONVERT}")
        shape = Shape.of(first[2], stream)
        width, height = shape.size
        _check_size(path, width, height)
        duration = Fraction(container.duration or 0, 1_000_000)
        if stream.duration and stream.time_base:
            duration = stream.duration * stream.time_base
        frames = stream.frames
        average = stream.average_rate or Fraction(0)
    fps, variable = nominal_rate(*_packet_times(path), average)
    if variable or not frames:
        frames = max(1, round(duration * fps))
    if not duration and fps:
        duration = frames / fps
    return ClipInfo(path, width, height, fps, frames, float(duration), shape.rotation, audio, variable)


@contextmanager
def open_video(path: Path) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Open a file and its first real video stream (cover pictures are passed over).

    Raises:
        SyncloraError: as `probe`.
    """
    import av
    from av.error import FFmpegError
    from av.stream import Disposition

    _check_file(path)
    try:
        container = av.open(str(path), metadata_errors="replace")
    except FFmpegError as error:
        raise SyncloraError(f"{path}: {_why_unreadable(path)} ({error.strerror}). {_CONVERT}") from error
    with container:
        name = container.format.name
        if name.endswith("_pipe") or name == "image2":
            kind = name.removesuffix("_pipe")
            raise SyncloraError(f"{path}: is a picture ({kind}); a video is needed. Choose a video file.")
        streams = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
        if not streams:
            held = "only sound" if container.streams.audio else "no video track"
            raise SyncloraError(f"{path}: holds {held}; a video track is needed. Choose the video file itself.")
        stream = streams[0]
        if stream.codec_context is None:
            raise SyncloraError(f"{path}: its video codec is unknown to this build of FFmpeg. {_CONVERT}")
        _check_size(path, stream.width, stream.height)
        stream.thread_type = "AUTO"
        yield container, stream


def timed_frames(
    path: Path, container: InputContainer, stream: VideoStream, rate: Fraction
) -> Iterator[tuple[Fraction, Fraction, VideoFrame]]:
    """Decode a stream in order: (presentation time, duration, frame), times in seconds and strictly increasing.

    A frame without a timestamp, or with one that does not increase, is put 1 / rate after the one before.

    Raises:
        SyncloraError: the data is damaged, or the file ends before its own index says.
    """
    from av.error import FFmpegError

    last: Fraction | None = None
    length = 1 / rate
    frames = 0
    packets = _Packets(container, stream, is_cut_short(path))
    try:
        for packet in packets:
            for frame in packet.decode() if packet else stream.decode(None):
                base = frame.time_base or stream.time_base
                time = frame.pts * base if frame.pts is not None and base else None
                if last is not None and (time is None or time <= last):
                    time = last + 1 / rate
                time = time or Fraction(0)
                if packets.cut_off and last is not None and time > last + Fraction(3, 2) / rate:
                    break  # shown after a frame whose data is missing
                last = time
                length = frame.duration * base if frame.duration and base else 1 / rate
                frames += 1
                yield last, length, frame
    except FFmpegError as error:
        raise SyncloraError(_damage(path, frames, str(error.strerror))) from error
    promised = _matroska_duration(stream)
    if packets.cut_off or (last is not None and (last + length) < promised - max(Fraction(1, 4), promised / 10)):
        raise SyncloraError(_damage(path, frames, "the file ends before its own index says"))


class _Packets:
    """A stream's packets, then None to flush the decoder; `cut_off` tells then whether packets are missing."""

    def __init__(self, container: InputContainer, stream: VideoStream, cut: bool) -> None:
        self.cut_off = False
        self._container, self._stream, self._cut = container, stream, cut

    def __iter__(self) -> Iterator[Packet | None]:
        count = 0
        partial = False
        for packet in self._container.demux(self._stream):
            partial = self._cut and packet.is_corrupt  # the file's last packet, of which only a part is there
            if partial or not packet.size:
                break
            count += 1
            yield packet
        # A file that is cut short may still hold every frame and lack only sound.
        self.cut_off = partial or (self._cut and count < (self._stream.frames or count + 1))
        yield None


def _matroska_duration(stream: VideoStream) -> Fraction:
    """Return the time (seconds) at which a Matroska stream says to end (tag DURATION, as 00:01:02.5); 0 without it."""
    hours, _, rest = stream.metadata.get("DURATION", "").partition(":")
    minutes, _, seconds = rest.partition(":")
    try:
        return int(hours) * 3600 + int(minutes) * 60 + Fraction(seconds)
    except ValueError:
        return Fraction(0)


def _damage(path: Path, frames: int, why: str) -> str:
    way_out = f"Read only its first {frames} frames or fewer, or copy the file again." if frames else "Copy it again."
    return f"{path}: damaged after {frames} frames ({why}); the rest is needed. {way_out}"


def check_rate(info: ClipInfo) -> None:
    """Raise SyncloraError unless the file's nominal rate is from 1 to 240 frames a second."""
    if not MIN_RATE <= info.fps <= MAX_RATE:
        raise SyncloraError(
            f"{info.path}: frame rate {float(info.fps):g}; between {MIN_RATE} and {MAX_RATE} frames a second are "
            "needed. Convert it: ffmpeg -i INPUT -r 30 OUTPUT.mp4"
        )


def _check_size(path: Path, width: int, height: int) -> None:
    if max(width, height) > MAX_SIDE:
        raise SyncloraError(
            f"{path}: {width}x{height} px; at most {MAX_SIDE} px a side are read. "
            "Scale it down first: ffmpeg -i INPUT -vf scale=1920:-2 OUTPUT.mp4"
        )


def _check_file(path: Path) -> None:
    """Raise SyncloraError unless `path` is a readable file with something in it."""
    try:
        size = os.stat(path).st_size
        if path.is_dir():
            raise SyncloraError(f"{path}: is a folder; a video file is needed. Name the file inside it.")
        with open(path, "rb"):
            pass
    except OSError as error:
        why = error.strerror
        raise SyncloraError(f"{path}: cannot be read ({why}); a video file is needed. Check the path.") from error
    if size == 0:
        raise SyncloraError(f"{path}: is empty (0 bytes); a video file is needed. Copy or record it again.")


def _packet_times(path: Path) -> tuple[list[Fraction], Fraction]:
    """Return the sorted presentation times of the first packets, and the clock's tick (seconds)."""
    from av.error import FFmpegError

    times: list[Fraction] = []
    with open_video(path) as (container, stream):
        tick = stream.time_base or Fraction(0)
        try:
            for packet in container.demux(stream):
                if packet.pts is not None and not packet.is_discard:
                    times.append(packet.pts * tick)
                if len(times) == _SCAN_PACKETS:
                    break
        except FFmpegError:
            pass  # what came before it tells the rate; reading that far will tell the damage
    times.sort()
    # Neighbours of the last packets in presentation order may still be to come.
    return (times[:-_REORDER] if len(times) == _SCAN_PACKETS else times), tick


_MP4_BOXES = {b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot", b"moof", b"uuid", b"styp", b"sidx"}


def _mp4_boxes(path: Path) -> list[tuple[bytes, int]]:
    """List an mp4 or mov file's top-level boxes (ISO/IEC 14496-12, 4.2) as (type, bytes beyond the file's end).

    Other formats give an empty list.
    """
    boxes: list[tuple[bytes, int]] = []
    size = os.stat(path).st_size
    position = 0
    with open(path, "rb") as file:
        while position + 8 <= size:
            file.seek(position)
            header = file.read(16)
            length, kind = int.from_bytes(header[:4], "big"), header[4:8]
            if not boxes and kind not in _MP4_BOXES:
                break
            if length == 1 and len(header) == 16:
                length = int.from_bytes(header[8:], "big")
            elif length == 0:
                length = size - position
            if length < 8:
                break
            boxes.append((kind, max(0, position + length - size)))
            position += length
    return boxes


def is_cut_short(path: Path) -> bool:
    """Tell whether an mp4 or mov file's last box reaches beyond its end (a copy or download broken off)."""
    return any(missing for _, missing in _mp4_boxes(path))


def _why_unreadable(path: Path) -> str:
    boxes = [kind for kind, _ in _mp4_boxes(path)]
    if boxes and b"moov" not in boxes:
        return "recording or copying broke off before its index (moov) was written; a whole file is needed"
    return "is not a video that FFmpeg can read, whatever its name says; a video file is needed"
