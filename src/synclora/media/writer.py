"""Writing H.264 in mp4 or mov: picture and sound interleaved, faststart, whole or not at all."""

from __future__ import annotations

import errno
from collections.abc import Iterable
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from synclora.atomic import atomic_path
from synclora.errors import SyncloraError
from synclora.media.picture import tag_bt709, to_yuv
from synclora.media.rate import to_rate
from synclora.media.sound import AudioOrigin, Sound

if TYPE_CHECKING:
    from av.container import OutputContainer
    from av.video.stream import VideoStream

SUFFIXES = (".mp4", ".mov")
PRESETS = ("ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow", "placebo")


def check_output(path: Path | str, *inputs: Path | str) -> Path:
    """Return `path` as a Path if a clip may be written there; worth calling before a long computation.

    Raises:
        SyncloraError: it does not end in .mp4 or .mov, is a folder, or is the same file as one of `inputs`.
    """
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise SyncloraError(
            f"{path}: output extension {path.suffix or '(none)'}; .mp4 or .mov is needed. "
            f"Name it {path.stem or 'edited'}.mp4."
        )
    if path.is_dir():
        raise SyncloraError(f"{path}: is a folder; an output file is needed. Choose a name inside it.")
    for other in map(Path, inputs):
        if path.resolve() == other.resolve() or (path.exists() and other.exists() and path.samefile(other)):
            raise SyncloraError(f"{path}: output and input are the same file; two are needed. Choose another name.")
    return path


def write_frames(
    path: Path | str,
    batches: Iterable[Tensor],
    fps: Fraction | float,
    *,
    origin: AudioOrigin | None = None,
    crf: int = 16,
    audio: bool = True,
    preset: str = "medium",
) -> list[str]:
    """Do as `synclora.clip.write_clip` for frames that come in batches; memory holds one batch.

    Args:
        path: .mp4 or .mov.
        batches: uint8 [F, H, W, 3] each, all of one even size.
        fps: constant frame rate.
        origin: file of the sound and the time in it of the first frame; None: no sound.
        crf: x264's quality, 0 (lossless) to 51.
        audio: whether to keep the sound.
        preset: x264's speed preset.

    Returns:
        Notices for the user.

    Raises:
        SyncloraError: as `write_clip`; also when no frame comes. Whatever `batches` raises passes through; no file is
            left in any case.
    """
    import av
    from av.error import FFmpegError

    path = check_output(path, *([origin.path] if origin else []))
    fps = to_rate(fps)
    if not 0 <= crf <= 51 or preset not in PRESETS:
        raise SyncloraError(
            f"crf {crf}, preset {preset}: crf runs from 0 (lossless) to 51, 16 being visually lossless; presets are "
            f"{', '.join(PRESETS)}."
        )
    with atomic_path(path) as temporary:
        try:
            output = av.open(str(temporary), "w", options={"movflags": "+faststart"})
            try:
                notices = _write(output, path, batches, fps, origin if audio else None, crf, preset)
            except BaseException:
                with suppress(FFmpegError):  # a full disk fails again on closing
                    output.close()
                raise
            output.close()
        except FFmpegError as error:
            if isinstance(error, OSError) or error.errno not in errno.errorcode:
                raise
            raise OSError(error.errno, error.strerror) from error  # which atomic_path turns into words
    return notices


def _write(
    output: OutputContainer,
    path: Path,
    batches: Iterable[Tensor],
    fps: Fraction,
    origin: AudioOrigin | None,
    crf: int,
    preset: str,
) -> list[str]:
    from av.video.reformatter import VideoReformatter

    reformatter = VideoReformatter()
    stream: VideoStream | None = None
    sound: Sound | None = None
    count = 0
    try:
        for batch in batches:
            for picture in batch.cpu().numpy():
                if stream is None:
                    height, width, _ = picture.shape
                    stream = _video_stream(output, path, height, width, fps, crf, preset)
                    sound = Sound(origin, output, path.suffix.lower()) if origin else None
                frame = to_yuv(picture, reformatter)
                frame.pts, frame.time_base = count, 1 / fps
                output.mux(stream.encode(frame))
                count += 1
                if sound:
                    sound.mux_until(count / fps)
        if stream is None:
            raise SyncloraError(f"{path}: no frame to write; at least one is needed.")
        output.mux(stream.encode(None))
        return sound.notices if sound else []
    finally:
        if sound:
            sound.close()


def _video_stream(
    output: OutputContainer, path: Path, height: int, width: int, fps: Fraction, crf: int, preset: str
) -> VideoStream:
    if height % 2 or width % 2:
        even = f"{max(2, width - width % 2)}x{max(2, height - height % 2)}"
        raise SyncloraError(
            f"{path}: frames of {width}x{height} px; H.264 in yuv420p needs even sides. Crop or resize them to {even}."
        )
    stream = output.add_stream("libx264", rate=fps)
    stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
    # Without macroblock-tree rate control: with it, now and then, the same frames became another file where a clip had
    # been decoded in between (x264 core 165, 9 frames of noise: 11 of 848 files, and 0 of 848 without).
    stream.options = {"crf": str(crf), "preset": preset, "mbtree": "0"}
    stream.codec_context.time_base = 1 / fps
    tag_bt709(stream)
    return stream
