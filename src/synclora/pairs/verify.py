"""Every fault of a pair: what its row says against what its files hold."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

from synclora.atomic import sha256
from synclora.errors import SyncloraError
from synclora.pairs.files import stays_inside
from synclora.pairs.store import MEDIA, PairRow, PairStore

if TYPE_CHECKING:
    from synclora.media.source import ClipInfo

MOST_FRAMES = 100_000  # more are not counted: a damaged time stamp must not keep a check busy for hours


@dataclass(frozen=True)
class Measured:
    """What a decoded clip is."""

    fps: Fraction
    frames: int
    width: int  # px
    height: int  # px


@contextmanager
def decoding(path: Path) -> Iterator[None]:
    """Tell as a SyncloraError what a damaged file makes a decoder raise: lengths, texts and sums that cannot be."""
    try:
        yield
    except (ValueError, ArithmeticError, MemoryError) as error:
        raise SyncloraError(f"{path}: damaged ({type(error).__name__}: {error}). Copy or record it again.") from error


def describe(path: Path) -> ClipInfo:
    """What the container and the first picture say, as `probe`; every fault of the file is a SyncloraError."""
    from synclora.clip import probe

    with decoding(path):
        return probe(path)


def measure(info: ClipInfo, most: int = MOST_FRAMES, fps: Fraction | None = None) -> Measured:
    """Decode a described clip to its end, or to `most` frames, and tell what it is at its own rate or at `fps`.

    Stricter than reading a clip: picture data that a decoder would patch up counts as damage. Memory holds one frame.

    Raises:
        SyncloraError: it cannot be read, is damaged anywhere on the way, or its pictures change size.
    """
    from synclora.media.rate import at_constant_rate
    from synclora.media.source import open_video, timed_frames

    path, rate = info.path, fps or info.fps
    with decoding(path), open_video(path) as (container, stream):
        stream.codec_context.options = {"err_detect": "explode"}
        sizes: set[tuple[int, int]] = set()

        def frames() -> Iterator[tuple[Fraction, Fraction, None]]:
            for time, length, frame in timed_frames(path, container, stream, info.fps):
                sizes.add((frame.width, frame.height))
                if len(sizes) > 1 or frame.is_corrupt:
                    what = "a picture is damaged" if frame.is_corrupt else "its pictures change size"
                    raise SyncloraError(f"{path}: {what} after {float(time):.2f} s. Copy or record it again.")
                yield time, length, None

        count = sum(1 for _ in at_constant_rate(frames(), rate, 1 / info.fps, 0, most))
    return Measured(rate, count, info.width, info.height)


def row_faults(store: PairStore, row: PairRow, deep: bool) -> list[str]:
    """What is wrong with a pair, one sentence a fault; `deep` also hashes and decodes its files."""
    faults: list[str] = []
    if row.frames < 1 or row.frames % 8 != 1:
        faults.append(f"{row.frames} frames; training needs 8k+1, e.g. {max(row.frames - 1, 0) // 8 * 8 + 1}")
    fps = _fraction(row.fps)
    if fps is None or fps <= 0:
        faults.append(f"fps is {row.fps!r}; a positive fraction such as '25' or '30000/1001' is needed")
    measured: dict[str, Measured] = {}
    for side, relative, digest in (
        ("source", row.source, row.sha256_source),
        ("target", row.target, row.sha256_target),
    ):
        if not stays_inside(relative):
            faults.append(f"the {side}'s path {relative!r} leaves the store; it must lie under {MEDIA}/")
        elif not store.has(relative):
            faults.append(f"the {side} file {relative} is missing")
        elif deep:
            with store.local(relative) as path:
                if (found := sha256(path)) != digest:
                    faults.append(
                        f"the {side} file {relative} was altered: sha256 {found[:12]}, recorded {digest[:12]}"
                    )
                    continue
                try:
                    measured[side] = measure(describe(path))
                except SyncloraError as error:
                    faults.append(f"the {side} file cannot be read: {error}")
    return faults + _media_faults(row, fps, measured)


def _media_faults(row: PairRow, fps: Fraction | None, measured: dict[str, Measured]) -> list[str]:
    """Differences between the two clips, and between each clip and its row."""
    faults: list[str] = []
    for name, recorded in (("fps", fps), ("frames", row.frames), ("width", row.width), ("height", row.height)):
        values = {side: getattr(found, name) for side, found in measured.items()}
        if len(set(values.values())) > 1:
            faults.append(f"{name} differs: source {values['source']}, target {values['target']}; both need the same")
            continue
        for side, value in values.items():
            if recorded is not None and value != recorded:
                faults.append(f"{name} of the {side} is {value}, but the table says {recorded}")
    return faults


def _fraction(text: str) -> Fraction | None:
    try:
        return Fraction(text)
    except (ValueError, ZeroDivisionError):
        return None
