"""Two clips from anywhere, judged and made fit for a store: copied as they are, or encoded anew to match."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from synclora.errors import SyncloraError
from synclora.media.crop import Crop, centered_crop
from synclora.pairs.verify import decoding, describe, measure

if TYPE_CHECKING:
    from synclora.media.source import ClipInfo

MOST_FILE = 4 * 2**30  # bytes of one clip
MOST_FRAMES = 10_000  # of one clip
MOST_PIXELS = 25_000_000_000  # of all of a clip's frames together: 10,000 of 1920x1080, and a bound on decoding bombs
LEAST_FRAMES = 9  # 8k + 1 with k of at least 1
LEAST_SIDE = 32  # px
ASPECT = 0.02  # by which the two clips' aspects may differ
BATCH = 16  # frames encoded at a time
SIGNATURES = (  # (offset, bytes) of containers; playlists and scripts, which could name other files, are not among them
    (4, b"ftyp"), (4, b"moov"), (4, b"mdat"), (4, b"free"), (4, b"wide"), (4, b"skip"), (0, b"\x1aE\xdf\xa3"),
    (0, b"RIFF"), (0, b"OggS"), (0, b"FLV"), (0, b"\x00\x00\x01\xba"),
)  # fmt: skip
TRANSPORT_PACKET = 188  # bytes; each begins with 0x47


@dataclass(frozen=True)
class Plan:
    """How two clips become a pair of `frames` at `fps` of width x height; `changes` is "" where they stay as they are.

    Crops are None where pictures stay as they are.
    """

    fps: Fraction
    frames: int
    width: int
    height: int
    changes: str
    source_crop: Crop | None = None
    target_crop: Crop | None = None


def locate(folder: Path, written: str) -> Path:
    """The file that a metadata row in `folder` means.

    Raises:
        SyncloraError: a URL, a path that leaves the folder (by "..", from the root, or through a link), no regular
            file, an empty one or one over 4 GiB.
    """
    if "://" in written:
        raise SyncloraError("is a URL; only files beside the metadata are imported. Download it first")
    try:
        home = folder.resolve(strict=True)
        path = (home / written).resolve(strict=True)
        if not path.is_relative_to(home):
            raise SyncloraError(
                "leaves the folder of the metadata. Put the file there and write its path relative to it"
            )
        found = os.stat(path)
    except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: links in a circle
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise SyncloraError(f"cannot be found ({why}). Paths are relative to the metadata file") from error
    if not stat.S_ISREG(found.st_mode):
        raise SyncloraError("is no regular file")
    if not 0 < found.st_size <= MOST_FILE:
        raise SyncloraError(f"has {found.st_size} bytes; more than 0 and at most 4 GiB are needed")
    with open(path, "rb") as handle:
        head = handle.read(TRANSPORT_PACKET + 1)
    transport = head[:1] == head[TRANSPORT_PACKET:] == b"\x47"
    if not (transport or any(head[at:].startswith(sign) for at, sign in SIGNATURES)):
        raise SyncloraError("is no video in mp4, mov, mkv, webm, avi, ogg, flv or mpeg")
    return path


def plan(source: Path, target: Path) -> Plan:
    """Decode two clips to their ends and decide how they become a pair.

    The source's frame rate and size rule; the target is resampled and scaled to them, and both are cut to the longest
    8k + 1 frames that both have.

    Raises:
        SyncloraError: a clip is damaged, too long, too large or too small, or the two have different aspects.
    """
    first, second = describe(source), describe(target)
    for info in (first, second):
        if min(info.width, info.height) < LEAST_SIDE:
            raise SyncloraError(f"{info.path}: {info.width}x{info.height} px; at least {LEAST_SIDE} a side are needed.")
    aspects = (first.width / first.height, second.width / second.height)
    if abs(aspects[0] / aspects[1] - 1) > ASPECT:
        raise SyncloraError(
            f"the source is {first.width}x{first.height}, the target {second.width}x{second.height}: they show "
            "different framings. Crop one like the other."
        )
    changes: list[str] = []
    width, height = first.width // 2 * 2, first.height // 2 * 2
    if second.fps != first.fps:
        changes.append(f"target resampled from {second.fps} to {first.fps} fps")
    counts = _count(first, first.fps), _count(second, first.fps)
    frames = (min(counts) - 1) // 8 * 8 + 1
    if frames < LEAST_FRAMES:
        raise SyncloraError(
            f"the source has {counts[0]} frames and the target {counts[1]} at {first.fps} fps; at least "
            f"{LEAST_FRAMES} are needed."
        )
    for side, info, count in (("source", first, counts[0]), ("target", second, counts[1])):
        if count != frames:
            changes.append(f"{side} cut from {count} to {frames} frames")
        if (info.width, info.height) != (width, height):
            changes.append(f"{side} scaled from {info.width}x{info.height} to {width}x{height}")
    if not changes:
        changes = [f"{side} {why}" for side, info in (("source", first), ("target", second)) if (why := _foreign(info))]
    crops = [
        None if (info.width, info.height) == (width, height) else centered_crop(info.width, info.height, width, height)
        for info in (first, second)
    ]
    return Plan(first.fps, frames, width, height, ", ".join(changes), *crops)


def encode(path: Path, output: Path, plan: Plan, crop: Crop | None, crf: int) -> None:
    """Write a clip as the plan says, as H.264 without sound; memory holds some frames.

    Raises:
        SyncloraError: the clip gives fewer frames than planned, or the output cannot be written.
    """
    from synclora.media.reader import Reader
    from synclora.media.writer import write_frames

    written = 0

    def batches() -> Iterator[Tensor]:
        nonlocal written
        pictures = iter(Reader(path, 0, plan.frames, plan.fps, crop))
        while batch := [*islice(pictures, BATCH)]:
            written += len(batch)
            yield torch.stack(batch)

    with decoding(path):
        write_frames(output, batches(), plan.fps, crf=crf, audio=False)
    if written != plan.frames:
        raise SyncloraError(f"{path}: gave {written} frames where {plan.frames} were counted.")


def _count(info: ClipInfo, fps: Fraction) -> int:
    """The clip's frames at a rate, counted by decoding it to its end, unless it is too much."""
    most = min(MOST_FRAMES, MOST_PIXELS // (info.width * info.height))
    count = measure(info, most + 1, fps).frames
    if count > most:
        raise SyncloraError(
            f"{info.path}: more than {most} frames of {info.width}x{info.height}. Cut it into shorter clips."
        )
    return count


def _foreign(info: ClipInfo) -> str:
    """Why a clip cannot stand in a store as it is; "" where it can: upright H.264 of constant rate in mp4."""
    from synclora.media.source import open_video

    with decoding(info.path), open_video(info.path) as (container, stream):
        codec, pixels = stream.codec_context.name, stream.codec_context.pix_fmt
        square = (stream.width, stream.height) == (info.width, info.height)
        if "mp4" not in container.format.name or info.path.suffix.lower() != ".mp4":
            return f"was no mp4 ({info.path.suffix or 'no suffix'})"
    if (codec, pixels) != ("h264", "yuv420p"):
        return f"was {codec} in {pixels}"
    if info.variable or info.rotation or not square:
        return "had a variable frame rate" if info.variable else "was stored turned or squeezed"
    return ""
