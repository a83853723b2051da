"""What is wrong with a training's data and folders, found before anything is loaded; each fault with the way out."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from synclora.backbones.base import Geometry
from synclora.errors import SyncloraError
from synclora.training.card import require_hub
from synclora.training.clips import ClipSet, open_clips
from synclora.training.config import TrainConfig

if TYPE_CHECKING:
    from synclora.pairs.store import PairRow, PairStore

SHOWN = 3  # faults of a kind that are named; the others are counted


@dataclass
class Findings:
    """What the data are.

    Attributes:
        pairs, held_out: to learn from and to validate on; None where the data cannot be opened.
        clips: to be encoded, of both.
        captions: different ones among them; as many as clips where that is not known.
        problems: what must be set right, with the way out.
        notes: what is good to know.
    """

    pairs: int | None = None
    held_out: int | None = None
    clips: int = 0
    captions: int = 0
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def check_data(config: TrainConfig, geometry: Geometry, pairs_a_step: int) -> Findings:
    """The faults of a training's pairs, found by their table and the headers of their files; nothing is decoded.

    Args:
        config: of the training.
        geometry: of its backbone.
        pairs_a_step: over all processes.
    """
    found = Findings()
    if config.data.pairs is not None:
        _check_store(config.data.pairs, geometry, found)
    if found.problems:
        return found
    try:
        train, held_out = open_clips(config.data, geometry)
    except SyncloraError as error:
        found.problems.append(str(error))
        return found
    found.pairs, found.held_out = len(train.pairs), len(held_out.pairs)
    found.clips = sum(len(shard) for clips in (train, held_out) for shard in clips.shards)
    captions = {row.prompt for clips in (train, held_out) for row in _rows(clips)}
    found.captions = len(captions) or found.clips
    if found.pairs < pairs_a_step:
        found.problems.append(
            f"{found.pairs} pairs to learn from, and a step takes {pairs_a_step}: a step would show some twice. Lower "
            "batch or accumulation, use fewer processes, or add pairs."
        )
    found.problems += _leaks(train, held_out)
    return found


def check_folders(config: TrainConfig, cache_bytes: int) -> list[str]:
    """Faults of the output, the cache and the hub: not writable, a disk with too little room, nobody logged in."""
    problems = []
    try:
        require_hub(config)
    except SyncloraError as error:
        problems.append(str(error))
    cache = config.output / "cache" if config.data.cache is None else config.data.cache
    for folder in dict.fromkeys((config.output, cache)):
        above = _nearest(folder)
        if not above.is_dir():
            problems.append(f"{above}: a file, and {folder} must be a folder. Choose another output.")
        elif not os.access(above, os.W_OK):
            problems.append(f"{folder}: cannot be written ({above} is read-only to you). Choose another output.")
        elif folder == cache and (free := shutil.disk_usage(above).free) < cache_bytes:
            problems.append(
                f"{cache}: the encoded clips and prompts take about {cache_bytes / 1e9:.1f} GB, and {free / 1e9:.1f} GB"
                " are free. Free some space or set data.cache to another disk."
            )
    return problems


def _check_store(root: Path, geometry: Geometry, found: Findings) -> None:
    from synclora.pairs.store import PairStore

    store = PairStore(root)
    try:
        rows = store.rows()
        if not rows:
            found.problems.append(f"{root}: an empty pair store. Add pairs: synclora pairs generate --out {root}")
            return
        kept = [row for row in rows if row.verdict != "reject"]
        if not kept:
            found.problems.append(
                f"{root}: curation kept none of {len(rows)} pairs. `synclora pairs report {root}` shows why; loosen "
                "the thresholds (synclora pairs curate --config) or make better pairs."
            )
            return
        faults = [str(fault) for fault in store.verify(deep=False)] or [*_file_faults(store, kept)]
    except SyncloraError as error:
        found.problems.append(str(error))
        return
    if faults:
        more = f"; and {len(faults) - SHOWN} more" if len(faults) > SHOWN else ""
        found.problems.append(
            f"{root}: {'; '.join(faults[:SHOWN])}{more}. `synclora pairs check {root}` lists all; generate those pairs "
            "again or take them out."
        )
    unjudged = sum(row.verdict == "unjudged" for row in kept)
    if unjudged:
        found.notes.append(f"{unjudged} of {len(kept)} pairs were never curated (synclora pairs curate {root}).")
    others = sum(Fraction(row.fps) != Fraction(geometry.fps) for row in kept)
    if others:
        found.notes.append(f"{others} of {len(kept)} pairs have another rate than {geometry.fps:g} fps: resampled.")


def _file_faults(store: PairStore, rows: list[PairRow]) -> Iterator[str]:
    """Files whose rate is not the row's: source and target would drift apart."""
    from synclora.clip import probe

    for row in rows:
        for path in (store.source_path(row), store.target_path(row)):
            try:
                fps = probe(path).fps
            except SyncloraError as error:
                yield f"{row.id}: {error}"
                continue
            if abs(float(fps) - float(Fraction(row.fps))) > 0.01:
                yield f"{row.id}: {path.name} has {float(fps):g} fps and the table says {float(Fraction(row.fps)):g}"


def _leaks(train: ClipSet, held_out: ClipSet) -> list[str]:
    """Videos that are learnt from and validated on."""
    seen, unseen = _videos(train), _videos(held_out)
    shared = sorted(seen.keys() & unseen.keys())
    if not shared:
        return []
    named = ", ".join(f"{seen[video]} and {unseen[video]}" for video in shared[:SHOWN])
    return [
        f"{len(shared)} videos are in pairs to learn from and in pairs held out ({named}), so the held-out loss would "
        "be too good. Take those pairs out, or change data.validation."
    ]


def _videos(clips: ClipSet) -> dict[str, str]:
    """sha256 of every video of a set -> a pair it is in; empty for drawn clips, whose seeds are apart."""
    return {digest: row.id for row in _rows(clips) for digest in (row.sha256_source, row.sha256_target)}


def _rows(clips: ClipSet) -> list[PairRow]:
    """The rows of the store that a set's clips are of; none of drawn clips."""
    parts: list[Any] = getattr(clips, "_parts", [clips])
    return [row for part in parts for row, _ in getattr(part, "windows", [])]


def _nearest(folder: Path) -> Path:
    """The folder, or the nearest above it that is there."""
    folder = folder.absolute()
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder
