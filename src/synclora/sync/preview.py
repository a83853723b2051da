"""Two clips as one small video, source left and edited right, for a page to play.

One video instead of two: its halves cannot fall out of step, whatever browser plays it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from io import BytesIO
from pathlib import Path

import torch
from torch import Tensor

from synclora.clip import Crop, iter_windows, probe
from synclora.media.picture import tag_bt709, to_yuv
from synclora.media.sound import Sound

MAX_HEIGHT = 512  # px
CRF = 25
MAX_BYTES = 20 * 2**20  # of picture: a longer clip gets fewer bits a second
KEYFRAME_SECONDS = 0.5  # between keyframes: what a browser decodes at most for a seek
BATCH = 16  # frames held in memory at once
POSTER_QUALITY = 70  # of the JPEG


@dataclass(frozen=True)
class Preview:
    """An H.264 mp4 file with the source's sound, its first frame as JPEG, and its size in pixels; the edited clip
    begins at column `split`."""

    mp4: bytes
    poster: bytes
    width: int
    height: int
    split: int
    sound: bool
    notices: tuple[str, ...]


def side_by_side(
    source: Path, edited: Path, frames: int, progress: Callable[[int, int], None] | None = None
) -> Preview:
    """Encode the first `frames` frames of two clips of one frame rate beside each other, at most 512 px high.

    Both get the height of the taller one (or 512) and keep their aspect. Memory holds a few frames whatever the length.
    `progress(done, total)` is called as frames are encoded.

    Raises:
        SyncloraError: a clip cannot be read.
    """
    import av
    from av.video.reformatter import VideoReformatter

    infos = probe(source), probe(edited)
    height = _even(min(MAX_HEIGHT, max(info.height for info in infos)))
    widths = [_even(info.width * height / info.height) for info in infos]
    crops = [Crop(0, 0, i.width, i.height, w, height) for i, w in zip(infos, widths, strict=True)]
    readers = (iter_windows(p, BATCH, frames=frames, crop=c) for p, c in zip((source, edited), crops, strict=True))
    fps = infos[0].fps
    buffer, poster, sound, count = BytesIO(), b"", None, 0
    reformatter = VideoReformatter()
    with av.open(buffer, "w", format="mp4") as output:
        stream = output.add_stream("libx264", rate=fps)
        stream.width, stream.height, stream.pix_fmt = sum(widths), height, "yuv420p"
        stream.options = _options(frames, fps)
        stream.codec_context.time_base = 1 / fps
        tag_bt709(stream)
        try:
            for left, right in zip(*readers, strict=True):
                if not count:
                    poster = _jpeg(torch.cat([left.frames[0], right.frames[0]], 1))
                    sound = Sound(left.origin, output, ".mp4") if left.origin else None
                for picture in torch.cat([left.frames, right.frames], 2).numpy():
                    frame = to_yuv(picture, reformatter)
                    frame.pts, frame.time_base = count, 1 / fps
                    output.mux(stream.encode(frame))
                    count += 1
                    if sound:
                        sound.mux_until(count / fps)
                if progress:
                    progress(count, frames)
            output.mux(stream.encode(None))
        finally:
            if sound:
                sound.close()
    notices = tuple(sound.notices) if sound else ()
    return Preview(buffer.getvalue(), poster, sum(widths), height, widths[0], sound is not None, notices)


def _options(frames: int, fps: Fraction) -> dict[str, str]:
    rate = int(MAX_BYTES * 8 * fps / frames)
    return {
        "crf": str(CRF),
        "preset": "fast",
        "bf": "0",  # decoded in the order shown, so that a seek lands on its frame in every browser
        "g": str(max(1, round(fps * KEYFRAME_SECONDS))),
        "maxrate": str(rate),
        "bufsize": str(2 * rate),
    }


def _even(size: float) -> int:
    return max(2, 2 * round(size / 2))


def _jpeg(picture: Tensor) -> bytes:
    from PIL import Image

    buffer = BytesIO()
    Image.fromarray(picture.numpy()).save(buffer, "JPEG", quality=POSTER_QUALITY)
    return buffer.getvalue()
