"""Two files to a sync report: read, track, compare, and say it as JSON and as a page.

synclora sync talk.mp4 edited.mp4 --json sync.json --html sync.html
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from synclora.atomic import write_json
from synclora.clip import iter_windows, probe, read_clip
from synclora.errors import SyncloraError
from synclora.faces import MotionSignals, measure
from synclora.sync.findings import Finding, findings
from synclora.sync.page import write_page
from synclora.sync.preview import side_by_side
from synclora.sync.score import SyncReport, compare

Progress = Callable[[str, int, int], None]
ROUNDING = 1  # frames by which two containers' lengths may differ for one and the same clip


@dataclass(frozen=True)
class SyncResult:
    """What `sync_files` found. notices: what the user should know besides, such as that a frame was left out."""

    source: Path
    edited: Path
    report: SyncReport
    findings: tuple[Finding, ...]
    notices: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """The report's values, with the files' names and the findings beside them."""
        return {
            "source": str(self.source),
            "edited": str(self.edited),
            **self.report.to_json(),
            "findings": [finding.to_json() for finding in self.findings],
            "notices": list(self.notices),
        }


def sync_files(
    source: Path | str,
    edited: Path | str,
    *,
    json: Path | str | None = None,
    html: Path | str | None = None,
    frames: int | None = None,
    face: int = 0,
    progress: Progress | None = None,
) -> SyncResult:
    """Measure how far an edited video moves on its source's frames, and write the report where asked.

    Memory holds the frames of one clip at a time.

    Args:
        source, edited: videos of one frame rate. Lengths may differ by one frame, by which the longer one is cut.
        json, html: files to write.
        frames: compare only the first so many frames of both.
        face: which face, where a clip shows several: 0 the largest and steadiest, 1 the next, and so on.
        progress: called as progress(stage, done, total).

    Raises:
        SyncloraError: a file cannot be read or written, the clips differ in rate or length, or the source shows no
            face.
    """
    source, edited = Path(source), Path(edited)
    json, html = Path(json) if json else None, Path(html) if html else None
    _check_outputs(source, edited, json, html)
    _check_alike(source, edited, frames)
    ours = _motion(source, frames, face, "Measuring the source", progress)
    if not ours.found.any():
        raise SyncloraError(
            f"{source}: no face was found in any of its {ours.num_frames} frames; a face of at least about 60 px that "
            "looks towards the camera is needed. Choose another clip, or crop it to the person."
        )
    theirs = _motion(edited, frames, face, "Measuring the edited clip", progress)
    _check_lengths(source, edited, ours.num_frames, theirs.num_frames, frames)
    notices: list[str] = []
    length = min(ours.num_frames, theirs.num_frames)
    if ours.num_frames != theirs.num_frames:
        longer = source if ours.num_frames > length else edited
        notices.append(f"{longer}: has one frame more than the other clip; its last frame was left out.")
        ours, theirs = ours[:length], theirs[:length]
    report = compare(ours, theirs)
    found = tuple(findings(report, ours, theirs))
    if html:
        stage = "Drawing the page"
        preview = side_by_side(source, edited, length, progress and (lambda done, all: progress(stage, done, all)))
        notices += preview.notices
        write_page(html, (source.name, edited.name), report, found, ours, theirs, preview)
    result = SyncResult(source, edited, report, found, tuple(notices))
    if json:
        write_json(json, result.to_json())
    return result


def _motion(path: Path, frames: int | None, face: int, stage: str, progress: Progress | None) -> MotionSignals:
    if progress:
        progress(stage, 0, 1)
    signals = measure(read_clip(path, frames=frames), face=face)
    if progress:
        progress(stage, 1, 1)
    return signals


def _check_alike(source: Path, edited: Path, frames: int | None) -> None:
    """Refuse clips that cannot be compared before they are measured, which takes much longer."""
    if frames is not None and frames < 1:
        raise SyncloraError(f"frames is {frames}; at least 1 is needed.")
    ours, theirs = probe(source), probe(edited)
    if ours.fps != theirs.fps:
        raise SyncloraError(
            f"{edited}: {float(theirs.fps):g} frames a second, but {source} has {float(ours.fps):g}; frames that "
            f"correspond are needed. Write the edited clip at the source's rate, or convert one of them first, e.g. "
            f"ffmpeg -i {edited} -r {ours.fps} OUTPUT.mp4"
        )
    limit = frames or max(ours.frames, theirs.frames)
    if abs(min(limit, ours.frames) - min(limit, theirs.frames)) > ROUNDING:
        # The container may promise anything: count before refusing.
        _check_lengths(source, edited, _count(source, frames), _count(edited, frames), frames)


def _check_lengths(source: Path, edited: Path, ours: int, theirs: int, frames: int | None) -> None:
    if abs(ours - theirs) > ROUNDING:
        shortest = min(ours, theirs)
        wanted = f" (of the {frames} asked for)" if frames else ""
        raise SyncloraError(
            f"{edited}: {theirs} frames{wanted}, but {source} has {ours}; both need the same. "
            f"If the clips begin together, --frames {shortest} compares the first {shortest} of both."
        )


def _count(path: Path, frames: int | None) -> int:
    return sum(window.num_frames for window in iter_windows(path, 16, frames=frames))


def _check_outputs(source: Path, edited: Path, json: Path | None, html: Path | None) -> None:
    """Refuse an output that cannot be written, before anything is measured."""
    taken = {source.resolve(): "an input", edited.resolve(): "an input"}
    for path in filter(None, (json, html)):
        if path.is_dir():
            raise SyncloraError(f"{path}: is a folder; an output file is needed. Choose a name inside it.")
        if path.resolve() in taken:
            raise SyncloraError(f"{path}: is {taken[path.resolve()]} of the same command. Choose another name.")
        taken[path.resolve()] = "another output"
        folder = next(parent for parent in path.absolute().parents if parent.exists())
        if not folder.is_dir() or not os.access(folder, os.W_OK):
            raise SyncloraError(f"{path}: {folder} is no folder that can be written. Choose another output.")
