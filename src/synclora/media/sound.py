"""The source's sound: its packets copied unchanged where the container takes them, re-encoded to AAC where not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from av import AudioResampler, Packet
    from av.audio.stream import AudioStream
    from av.container import InputContainer, OutputContainer
    from av.stream import Stream

# What players open in each container, a subset of what FFmpeg can write there.
_COPIED = {
    ".mp4": {"aac", "mp3", "ac3", "eac3", "alac"},
    ".mov": {"aac", "mp3", "ac3", "eac3", "alac", "pcm_s16le", "pcm_s16be", "pcm_s24le", "pcm_s24be", "pcm_f32le"},
}
_AAC_RATES = {8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 64000, 88200, 96000}
_AAC_LAYOUTS = {1: "mono", 2: "stereo", 6: "5.1"}  # by channels; others are mixed down to stereo
_BIT_RATE = 96_000  # per channel
_PREROLL = 2  # packets


@dataclass(frozen=True)
class AudioOrigin:
    """A file whose sound belongs to a clip, and the presentation time in it (seconds) of the clip's frame 0."""

    path: Path
    start: Fraction

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", Path(self.path))
        object.__setattr__(self, "start", Fraction(self.start))


class Sound:
    """All audio tracks of an origin on their way into an output container.

    Made before the first packet is written; `mux_until` then keeps the sound level with the picture, so neither piles
    up in memory. An origin that has become unreadable costs the sound, not the picture: `notices` tells it.

    Attributes:
        notices: what the user should know, such as that a track was re-encoded.
    """

    def __init__(self, origin: AudioOrigin, output: OutputContainer, suffix: str) -> None:
        from av.error import FFmpegError

        self.notices: list[str] = []
        self._origin = origin
        self._output = output
        self._tracks: list[_Track] = []
        self._inputs: list[InputContainer] = []
        try:
            for stream in self._open().streams.audio:
                self._add(stream.index, suffix)
        except FFmpegError as error:
            self._lose(error)

    def _open(self) -> InputContainer:
        import av

        self._inputs.append(av.open(str(self._origin.path), metadata_errors="replace"))
        return self._inputs[-1]

    def _add(self, index: int, suffix: str) -> None:
        source = self._open()  # one each, as every track is read at its own pace
        stream = next(s for s in source.streams.audio if s.index == index)
        context = stream.codec_context
        path, start = self._origin.path, self._origin.start
        if context is None:
            self.notices.append(f"{path}: audio track {index} is of a codec unknown here and was left out.")
        elif context.name in _COPIED[suffix]:
            track = _Track(_copied(source, stream, start))
            if track.head is not None:
                track.stream = self._output.add_stream_from_template(stream)
                self._tracks.append(track)
        else:
            rate = context.sample_rate if context.sample_rate in _AAC_RATES else 48000
            layout = _AAC_LAYOUTS.get(context.channels, "stereo")
            blocks = _blocks(source, stream, start, rate, layout)
            first = next(blocks, None)
            if first is not None:
                encoder = self._output.add_stream("aac", rate=rate, layout=layout)
                encoder.codec_context.bit_rate = _BIT_RATE * encoder.codec_context.channels
                self._tracks.append(_Track(_encoded(first, blocks, encoder)))
                self.notices.append(
                    f"{path}: sound of audio track {index} re-encoded to AAC, as players expect no {context.name} in "
                    f"{suffix[1:]} files."
                )

    def _lose(self, error: Exception) -> None:
        self._tracks = []
        why = getattr(error, "strerror", None) or error
        self.notices.append(
            f"{self._origin.path}: its sound could not be read to the end ({why}); the result lacks sound from there "
            "on. Restore the file and write again."
        )

    def mux_until(self, time: Fraction) -> None:
        """Write every packet that begins before `time` (seconds after the clip's frame 0)."""
        from av.error import FFmpegError

        for track in list(self._tracks):
            while track.head is not None and track.head[0] < time:
                packet = track.head[1]
                if track.stream is not None:
                    packet.stream = track.stream
                self._output.mux(packet)
                try:
                    track.advance()
                except FFmpegError as error:
                    self._lose(error)
                    return

    def close(self) -> None:
        """Close the source files."""
        for source in self._inputs:
            source.close()


class _Track:
    """Packets with their times, one looked at ahead; `stream` is the output stream of copied ones."""

    def __init__(self, packets: Iterator[tuple[Fraction, Packet]]) -> None:
        self._packets = packets
        self.stream: Stream | None = None
        self.head = next(packets, None)

    def advance(self) -> None:
        self.head = next(self._packets, None)


def _copied(source: InputContainer, stream: AudioStream, start: Fraction) -> Iterator[tuple[Fraction, Packet]]:
    """Yield (time, packet) from the packet that holds `start` on, moved to begin there.

    Two packets more come before it: lapped transforms (AAC, MP3, AC-3) need them to decode the first right, and an AAC
    file's own lead-in (1024 or 2112 samples) is two packets at most. They lie before time 0, where the edit list hides
    them.
    """
    base = stream.time_base or Fraction(1, stream.sample_rate)
    shift = round(start / base)
    for packet in source.demux(stream):
        if packet.pts is None or not packet.size or packet.pts + (1 + _PREROLL) * (packet.duration or 0) <= shift:
            continue
        packet.pts -= shift
        packet.dts = packet.pts
        yield packet.pts * base, packet


def _encoded(
    first: np.ndarray, blocks: Iterator[np.ndarray], encoder: AudioStream
) -> Iterator[tuple[Fraction, Packet]]:
    """Yield (time, AAC packet) of float32 [channels, samples] blocks; sample 0 is at time 0."""
    from av import AudioFrame

    context = encoder.codec_context
    context.open(strict=False)
    size, rate = context.frame_size or 1024, context.sample_rate
    pending, done = first, 0
    while pending is not None:
        following = next(blocks, None)
        while pending.shape[1] >= size or (following is None and pending.shape[1]):
            frame = AudioFrame.from_ndarray(
                np.ascontiguousarray(pending[:, :size]), format="fltp", layout=context.layout.name
            )
            frame.sample_rate, frame.pts, frame.time_base = rate, done, Fraction(1, rate)
            for packet in encoder.encode(frame):
                yield (packet.pts or 0) * packet.time_base, packet
            done += frame.samples
            pending = pending[:, size:]
        pending = None if following is None else np.concatenate([pending, following], axis=1)
    for packet in encoder.encode(None):
        yield (packet.pts or 0) * packet.time_base, packet


def _blocks(
    source: InputContainer, stream: AudioStream, start: Fraction, rate: int, layout: str
) -> Iterator[np.ndarray]:
    """Yield float32 [channels, samples] blocks that join up, sample n at start + n / rate; gaps are silence."""
    from av import AudioResampler

    done = 0
    for offset, samples in _resampled(source, stream, AudioResampler("fltp", layout, rate), start, rate):
        gap = offset - done
        if gap > 0:
            for part in range(0, gap, rate):
                yield np.zeros((len(samples), min(rate, gap - part)), np.float32)
        samples = samples[:, max(0, -gap) :]
        done = max(done, offset) + samples.shape[1]
        yield samples


def _resampled(
    source: InputContainer, stream: AudioStream, resampler: AudioResampler, start: Fraction, rate: int
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (offset in samples from `start`, float32 [channels, samples]) of what lies after `start`."""
    offset: int | None = None
    for frame in source.decode(stream):
        if frame.pts is not None and frame.time_base is not None:
            stamped = round((frame.pts * frame.time_base - start) * rate)
            # Timestamps in whole milliseconds jitter around the true positions; a jump of 5 ms is a real gap.
            if offset is None or abs(stamped - offset) > rate // 200:
                offset = stamped
        offset = offset or 0
        for part in resampler.resample(frame):
            samples = part.to_ndarray()
            if offset + samples.shape[1] > 0:
                yield max(offset, 0), samples[:, max(0, -offset) :]
            offset += samples.shape[1]
