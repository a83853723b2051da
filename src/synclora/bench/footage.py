"""Pairs of the footage suite: stretches of filmed clips, edited by composition, so that the true result is known.

    synclora bench --suite footage --footage CLIPS --count 28 --out out/footage

CLIPS is a folder of videos of people who face the camera; nothing is downloaded and none come with the package. Each
pair is a window of the backbone's length and shape, cut around the face, at the clip's own frame rate.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from synclora.bench.baselines import BenchPair
from synclora.bench.composites import EDITS, composite
from synclora.bench.matting import Layers
from synclora.clip import Clip, ClipInfo, Crop, apply_crop, centered_crop, probe, read_clip
from synclora.errors import SyncloraError
from synclora.faces import track

SUFFIXES = (".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi")
LARGEST, FINER = (
    512,
    2,
)  # px at most, and times the backbone's frames at most, that edits are drawn at before both clips shrink
FACE_HEIGHTS = 2.4  # height of a window cut from a wider clip, in heights of the face (hairline to chin)
LOOKS = 3  # frames of a window in which the face is looked for to place the crop
GIVE_UP = 8  # windows of a clip without a face in every frame, after which the clip is left alone


@dataclass
class Footage:
    """The clips of a folder and which windows of them have been taken; `left_out` says what could not be used."""

    clips: list[ClipInfo]
    frames: int
    rng: random.Random
    left_out: list[str] = field(default_factory=list)
    used: dict[Path, int] = field(default_factory=dict)
    _starts: dict[Path, list[int]] = field(default_factory=dict)

    @classmethod
    def open(cls, folder: Path | str, frames: int, seed: int) -> Footage:
        """Find the videos in a folder that are long enough.

        Raises:
            SyncloraError: there is no such folder, or no video in it of at least `frames` frames.
        """
        folder = Path(folder)
        if not folder.is_dir():
            raise SyncloraError(f"{folder}: no such folder. Pass one that holds videos of faces, with --footage DIR.")
        found = cls([], frames, random.Random(seed))
        for path in sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES):
            try:
                info = probe(path)
            except SyncloraError as error:
                found.left_out.append(str(error))
                continue
            length = int(info.duration * float(info.fps))
            if length < frames:
                found.left_out.append(f"{path.name}: {length} frames; windows of {frames} are cut from it.")
            else:
                found.clips.append(info)
        if not found.clips:
            told = " ".join(found.left_out) or f"No file there ends in {', '.join(SUFFIXES)}."
            raise SyncloraError(f"{folder}: no video of at least {frames} frames to test on. {told}")
        return found

    def next_start(self, clip: ClipInfo) -> int:
        """The first frame of the clip's next window: no overlaps until all have been taken, then all again."""
        starts = self._starts.setdefault(clip.path, [])
        if not starts:
            spare = int(clip.duration * float(clip.fps)) - self.frames
            phase = self.rng.randint(0, min(spare, self.frames - 1))
            starts += list(range(phase, spare + 1, self.frames))
            self.rng.shuffle(starts)
        return starts.pop()

    def in_turn(self) -> list[ClipInfo]:
        """The clips, those least used first, chance deciding between equals."""
        return sorted(self.clips, key=lambda clip: (self.used.get(clip.path, 0), self.rng.random()))


def footage_pairs(
    folder: Path | str, count: int, *, seed: int, width: int, height: int, frames: int, left_out: list[str]
) -> Iterator[BenchPair]:
    """Cut and edit `count` windows of the clips in a folder; the kinds of edit (EDITS) and the clips take turns.

    Args:
        folder: of videos.
        seed: decides windows and looks; the same folder and seed give the same pairs.
        width, height, frames: of each pair.
        left_out: filled with what could not be used, and why.

    Raises:
        SyncloraError: no usable video, or no clip with a face throughout a window.
    """
    footage = Footage.open(folder, frames, seed)
    left_out += footage.left_out
    kinds, made = deque(EDITS), 0
    while made < count:
        if not kinds or not footage.clips:
            raise SyncloraError(f"{folder}: no clip shows a face in {frames} frames in a row. {' '.join(left_out)}")
        pair = _pair_of(footage, kinds[0], seed + made, (width, height), left_out)
        if pair is None:
            left_out.append(f"edit {kinds.popleft()}: none of the clips can take it.")
            continue
        yield pair
        kinds.rotate(-1)
        made += 1


def face_crop(info: ClipInfo, face: tuple[float, float, float, float] | None, width: int, height: int) -> Crop:
    """What to cut from a clip for frames of width x height: all of it where the shape is the same, else a part around
    the face (left, top, right, bottom in pixels), at most 2.4 times as high; the middle where there is none."""
    whole = centered_crop(info.width, info.height, width, height)
    if face is None or info.width * height == info.height * width:
        return whole
    left, top, right, bottom = face
    tall = min(whole.height, max(16, round(FACE_HEIGHTS * (bottom - top))))
    wide = min(whole.width, max(16, round(tall * width / height)))
    x = round(min(max((left + right - wide) / 2, 0), info.width - wide))
    y = round(min(max((top + bottom) / 2 - 0.5 * tall, 0), info.height - tall))
    return Crop(x, y, wide, tall, width, height)


def _pair_of(footage: Footage, kind: str, seed: int, size: tuple[int, int], left_out: list[str]) -> BenchPair | None:
    """A pair with this kind of edit from the first clip in turn that can take it; None where none can."""
    for clip in footage.in_turn():
        cut = _window_with_face(footage, clip, size)
        if cut is None:
            footage.clips.remove(clip)
            left_out.append(f"{clip.path.name}: no window of {footage.frames} frames with a face in each.")
            continue
        window, landmarks, start = cut
        edited = composite(Layers(window.frames.numpy(), landmarks), kind, seed)
        if edited is not None:
            footage.used[clip.path] = footage.used.get(clip.path, 0) + 1
            shrink = Crop(0, 0, window.width, window.height, *size)
            source = Clip(apply_crop(window.frames, shrink), window.fps)
            place = f"{clip.path.name} at {start / float(window.fps):.2f} s"
            return BenchPair(source, apply_crop(torch.from_numpy(edited), shrink), seed, kind, place)
    return None


def _window_with_face(footage: Footage, clip: ClipInfo, size: tuple[int, int]) -> tuple[Clip, np.ndarray, int] | None:
    """A window of a clip as large as edits are drawn, its landmarks, and its first frame; None where faces fail."""
    width, height = size
    for _ in range(GIVE_UP):
        start = footage.next_start(clip)
        crop = face_crop(clip, _find_face(clip, start, footage.frames, size), width, height)
        scale = max(1, min(FINER, LARGEST // max(size), round(crop.height / height)))
        crop = Crop(crop.left, crop.top, crop.width, crop.height, scale * width, scale * height)
        window = read_clip(clip.path, start=start, frames=footage.frames, crop=crop)
        if window.num_frames < footage.frames:
            continue
        landmarks = track(window.frames)
        if np.isfinite(landmarks).all():
            return window, landmarks, start
    return None


def _find_face(
    clip: ClipInfo, start: int, frames: int, size: tuple[int, int]
) -> tuple[float, float, float, float] | None:
    """Where the face is in a window, in pixels of the clip; None where it is not needed or not found."""
    if clip.width * size[1] == clip.height * size[0]:
        return None
    scale = min(1.0, LARGEST / max(clip.width, clip.height))
    small = Crop(0, 0, clip.width, clip.height, round(clip.width * scale), round(clip.height * scale))
    window = read_clip(clip.path, start=start, frames=frames, crop=small).frames
    few = torch.linspace(0, len(window) - 1, LOOKS).round().long()
    points = track(window[few])[:, :, :2] / scale
    points = points[np.isfinite(points).all((1, 2))]
    if not len(points):
        return None
    low, high = np.median(points.min(1), axis=0), np.median(points.max(1), axis=0)
    return float(low[0]), float(low[1]), float(high[0]), float(high[1])
