"""Test videos as odd as people's own, synthesised with PyAV.

`make_video` writes one; every frame carries its number as bars, which `number_of` reads back after any codec. Sounds
are clicks (short tone bursts) at known times, which `click_times` finds again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

BITS = 10


@dataclass(frozen=True)
class Track:
    """One audio track: silence with clicks. Times in seconds; length None: as long as the video."""

    codec: str = "aac"
    rate: int = 44100
    channels: int = 2
    clicks: tuple[float, ...] = (0.4,)
    begin: float = 0.0
    length: float | None = None

    def samples(self, video_length: float) -> np.ndarray:
        """Return float32 [channels, samples]; sample n is at begin + n / rate."""
        length = self.length if self.length is not None else video_length - self.begin
        time = self.begin + np.arange(round(length * self.rate)) / self.rate
        wave = np.zeros_like(time)
        for click in self.clicks:
            inside = (time >= click) & (time < click + 0.02)
            wave[inside] = 0.8 * np.sin(2 * np.pi * 3000 * (time[inside] - click))
        return np.tile(wave.astype(np.float32), (self.channels, 1))


def numbered(index: int, width: int = 64, height: int = 48) -> np.ndarray:
    """Return an RGB picture [H, W, 3] that holds `index` as BITS vertical bars (light for 1), lowest bit left."""
    bars = np.array([225 if index >> bit & 1 else 30 for bit in range(BITS)], np.uint8)
    row = bars[np.minimum(np.arange(width) * BITS // width, BITS - 1)]
    return np.broadcast_to(row[None, :, None], (height, width, 3)).copy()


def number_of(picture: Any) -> int:
    """Read the index of a `numbered` picture [H, W, 3]."""
    pixels = np.asarray(picture)
    row = pixels[pixels.shape[0] // 4 : -pixels.shape[0] // 4].mean(axis=(0, 2))
    width = len(row)
    return sum(int(row[int((bit + 0.5) * width / BITS)] > 128) << bit for bit in range(BITS))


def solid(color: tuple[int, int, int], width: int = 64, height: int = 48) -> np.ndarray:
    """Return a picture of one colour."""
    return np.broadcast_to(np.array(color, np.uint8), (height, width, 3)).copy()


def make_video(
    path: Path,
    *,
    frames: int = 30,
    fps: Fraction | int = 25,
    size: tuple[int, int] = (64, 48),
    picture: Callable[[int], np.ndarray] | None = None,
    times: Sequence[Fraction | float] | None = None,
    begin: Fraction | float = 0,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    matrix: int = 1,
    full_range: bool = False,
    tagged: bool = True,
    aspect: Fraction | None = None,
    tracks: Sequence[Track] = (),
    faststart: bool = False,
) -> Path:
    """Write a video; the suffix names the container.

    Args:
        path: file to write.
        frames: number of frames.
        fps: constant rate; for `times` the nominal one.
        size: stored width and height.
        picture: frame index -> RGB [H, W, 3]; default `numbered`.
        times: presentation time of each frame (variable rate); `frames` is then their number.
        begin: presentation time of the first frame.
        codec: video encoder.
        pix_fmt: what is encoded.
        matrix: 1 BT.709, 5 BT.601.
        full_range: whether luma runs from 0 to 255 rather than 16 to 235.
        tagged: whether the file tells matrix and range.
        aspect: pixel aspect.
        tracks: sounds.
        faststart: whether the index comes first (mp4, mov).
    """
    width, height = size
    fps = Fraction(fps)
    if times is None:
        stamps = [Fraction(begin) + i / fps for i in range(frames)]
    else:
        stamps = [Fraction(begin) + Fraction(t) for t in times]
    base = 1 / fps if times is None and begin == 0 else Fraction(1, 90000)
    with av.open(str(path), "w", options={"movflags": "+faststart"} if faststart else {}) as output:
        video = output.add_stream(codec, rate=fps)
        video.width, video.height, video.pix_fmt = width, height, pix_fmt
        video.codec_context.time_base = base
        if codec == "libx264":
            video.options = {"crf": "8", "preset": "veryfast", "g": "12"}
        elif codec == "libvpx-vp9":
            video.options = {"crf": "10", "b": "0", "cpu-used": "8", "deadline": "realtime"}
        if aspect:
            video.codec_context.sample_aspect_ratio = aspect
        if tagged:
            video.codec_context.colorspace = matrix
            video.codec_context.color_range = 2 if full_range else 1
        sounds = [
            output.add_stream(t.codec, rate=t.rate, layout="mono" if t.channels == 1 else "stereo") for t in tracks
        ]
        for sound in sounds:
            sound.codec_context.options = {"strict": "experimental"}  # FFmpeg's own vorbis and opus encoders
        for index, stamp in enumerate(stamps):
            rgb = picture(index) if picture else numbered(index, width, height)
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb), format="rgb24").reformat(
                format=pix_fmt,
                src_color_range=2,
                dst_colorspace=matrix,
                dst_color_range=2 if full_range else 1,
                interpolation=0x44004,  # bicubic, full chroma in, accurate rounding
            )
            frame.pts, frame.time_base = round(stamp / base), base
            output.mux(video.encode(frame))
        output.mux(video.encode(None))
        for stream, track in zip(sounds, tracks, strict=True):
            _encode_sound(output, stream, track.samples(float(stamps[-1] + 1 / fps)), track)
    return path


def _encode_sound(output: Any, stream: Any, samples: np.ndarray, track: Track) -> None:
    context = stream.codec_context
    context.open(strict=False)
    step = context.frame_size or 1024
    resampler = av.AudioResampler(context.format.name, context.layout.name, track.rate)
    for first in range(0, samples.shape[1], step):
        block = np.ascontiguousarray(samples[:, first : first + step])
        frame = av.AudioFrame.from_ndarray(block, format="fltp", layout=context.layout.name)
        frame.sample_rate, frame.time_base = track.rate, Fraction(1, track.rate)
        frame.pts = round(track.begin * track.rate) + first
        for part in resampler.resample(frame):
            output.mux(stream.encode(part))
    output.mux(stream.encode(None))


MATRICES = {
    "0": (1, 0, 0, 1),
    "90": (0, -1, 1, 0),
    "180": (-1, 0, 0, -1),
    "270": (0, 1, -1, 0),
    "mirror": (-1, 0, 0, 1),
}


def set_display_matrix(path: Path, kind: str) -> None:
    """Write a display matrix (`MATRICES`, degrees counter-clockwise) into the first track of an mp4 or mov file.

    The track header box (ISO/IEC 14496-12, 8.3.2, version 0) holds it 40 bytes after its type, as 16.16 fixed point.
    """
    a, b, c, d = (value << 16 for value in MATRICES[kind])
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4
    assert data[at] == 0
    for slot, value in enumerate((a, b, 0, c, d, 0, 0, 0, 1 << 30)):
        data[at + 40 + 4 * slot : at + 44 + 4 * slot] = value.to_bytes(4, "big", signed=True)
    path.write_bytes(data)


@dataclass(frozen=True)
class SoundPacket:
    """An audio packet: presentation time (seconds), duration (seconds) and the sha256 of its data."""

    time: float
    length: float
    sha256: str


def audio_packets(path: Path, track: int = 0) -> list[SoundPacket]:
    """List the packets of an audio track as the demuxer gives them."""
    with av.open(str(path)) as container:
        stream: Any = container.streams.audio[track]
        return [
            SoundPacket(
                float(p.pts * stream.time_base),
                float((p.duration or 0) * stream.time_base),
                hashlib.sha256(bytes(p)).hexdigest(),
            )
            for p in container.demux(stream)
            if p.size and p.pts is not None
        ]


def click_times(path: Path, track: int = 0) -> list[float]:
    """Decode an audio track and return the presentation times (seconds) at which clicks begin."""
    loud: list[float] = []
    with av.open(str(path)) as container:
        stream: Any = container.streams.audio[track]
        resampler = av.AudioResampler("fltp", "mono", stream.codec_context.sample_rate)
        for frame in container.decode(stream):
            start = float(frame.pts * frame.time_base)
            for part in resampler.resample(frame):
                wave = np.abs(part.to_ndarray()[0])
                loud += [start + int(n) / part.sample_rate for n in np.flatnonzero(wave > 0.2)]
    return [time for i, time in enumerate(loud) if i == 0 or time - loud[i - 1] > 0.05]
