"""Pairs from and for the public trainers: folders of clips with a JSON, JSONL or CSV file beside them.

    synclora pairs import dataset/ --out out/pairs
    synclora pairs export out/pairs --out dataset --layout ltx

In these layouts the clip to learn (`media_path`, `video`) is the target and the reference is the source.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from hashlib import sha256 as new_digest
from itertools import chain, islice
from pathlib import Path

from synclora.atomic import atomic_path, sha256, write_text
from synclora.errors import SyncloraError
from synclora.pairs.admission import Plan, encode, locate, plan
from synclora.pairs.files import stays_inside
from synclora.pairs.filling import admitting, only_run
from synclora.pairs.generate import MEDIA_CRF
from synclora.pairs.layouts import ID, LAYOUTS, Entry, Refusal, find_metadata, format_rows, read_metadata
from synclora.pairs.store import MEDIA, PairRow, PairStore

REFUSED = "refused.jsonl"
IMPORTED = "imported"  # the generator of imported pairs
UNEXPECTED = "unexpected"  # begins the reason of a refusal that no check foresaw

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Imported:
    """What an import did."""

    made: int  # pairs brought in by this run
    present: int  # pairs of the metadata that were there already
    refused: list[Refusal]


def import_pairs(source: Path | str, out: Path | str, progress: Progress | None = None) -> Imported:
    """Bring the pairs of a metadata file, or of the folder that holds one, into the store at `out`.

    Files are copied byte for byte where they are upright H.264 in mp4 of one constant rate, size and length of 8k + 1
    frames; others are encoded anew at the source's rate and size, which the row's `reason` tells. A pair that is there
    already is not done again. A row that is no good does not stop the others: it becomes a `Refusal`, and all of them
    are written to `refused.jsonl` in the store. `progress(stage, done, total)` is called after each row.

    Raises:
        SyncloraError: no readable metadata, or a store that cannot be written.
    """
    metadata = find_metadata(Path(source))
    entries = read_metadata(metadata)
    first = [*islice(entries, 1)]  # a file that is no metadata shows here, before a store is made
    store = PairStore(out)
    with only_run(store):
        store.append([])
        known = {row.id: row for row in _without_curves(store)}
        taken: dict[str, int] = {}
        refused: list[Refusal] = []
        made = present = 0
        with admitting(store) as admit:
            for done, entry in enumerate(chain(first, entries), start=1):
                outcome = entry if isinstance(entry, Refusal) else _take(store, metadata, entry, known, taken)
                if isinstance(outcome, Refusal):
                    refused.append(outcome)
                elif outcome is None:
                    present += 1
                else:
                    admit(outcome)
                    made += 1
                if progress:
                    progress("Importing pairs", done, done)
        _write_refused(store, refused)
    return Imported(made, present, refused)


def export_store(
    root: Path | str,
    out: Path | str,
    layout: str = "ltx",
    *,
    everything: bool = False,
    progress: Progress | None = None,
) -> int:
    """Write the pairs of verdict "keep" (or all of them) as a trainer's folder: `media/` and a metadata file.

    Media are copied byte for byte, and the metadata file, which comes last, also has each pair's `id`, so that
    importing the folder gives the same pairs. Returns the number of pairs.

    Raises:
        SyncloraError: an unknown layout, nothing to export, a missing or altered file, or a folder that cannot be
            written.
    """
    if layout not in LAYOUTS:
        raise SyncloraError(f"layout {layout!r} is not known; choose one of: {', '.join(LAYOUTS)}.")
    store, folder = PairStore(root), Path(out)
    if store.is_local and folder.resolve() == store.root.resolve():
        raise SyncloraError(f"{out}: is the store itself. Choose another folder to export to.")
    rows = [row for row in _without_curves(store) if everything or row.verdict == "keep"]
    if not rows:
        raise SyncloraError(
            f"{store.url}: no pair of verdict 'keep' among {len(store)}. Curate first (synclora pairs curate "
            f"{store.url}), or pass --all."
        )
    entries: list[Entry] = []
    for number, row in enumerate(rows, start=1):
        for relative, digest in ((row.source, row.sha256_source), (row.target, row.sha256_target)):
            _copy_out(store, relative, digest, folder)
        entries.append(Entry(number, row.target, row.source, row.prompt, row.id, row.edit_kinds))
        if progress:
            progress("Exporting pairs", number, len(rows))
    shape = LAYOUTS[layout]
    write_text(folder / shape.file, format_rows(shape, entries))
    return len(rows)


def _take(
    store: PairStore, metadata: Path, entry: Entry, known: dict[str, PairRow], taken: dict[str, int]
) -> PairRow | Refusal | None:
    """The row of an entry whose media were put in place, why there is none, or None for one that is there already."""
    named = {"reference": entry.reference, "target": entry.target}
    paths: dict[str, Path] = {}
    for role, written in named.items():
        try:
            paths[role] = locate(metadata.parent, written)
        except SyncloraError as error:
            return Refusal(written, entry.row, str(error))
    source, target = paths["reference"], paths["target"]
    try:
        digests = sha256(source), sha256(target)
        name = entry.id or _name(entry, digests)
        if name in taken:
            return Refusal(entry.target, entry.row, f"is the pair of row {taken[name]} again ({name})")
        old = known.get(name)
        if old is not None and not _same(old, entry, digests):
            return Refusal(
                entry.target, entry.row, f"the store has another pair named {name}. Give this one another id"
            )
        if old is not None and store.is_whole(old):
            taken[name] = entry.row
            return None
        decided = plan(source, target)
        with tempfile.TemporaryDirectory(prefix="synclora-") as scratch:
            ready = _ready(Path(scratch), source, target, decided)
            kept = sha256(ready[0]), sha256(ready[1])
            if not decided.changes and kept != digests:
                return Refusal(entry.target, entry.row, "changed while it was read. Import again when it is finished")
            made = _row(entry, name, decided, digests, kept)
            _put(store, ready[0], made.source)
            _put(store, ready[1], made.target)
    except _StoreFailed as error:
        raise SyncloraError(str(error)) from error
    except SyncloraError as error:
        return Refusal(entry.target, entry.row, str(error))
    except Exception as error:  # whatever a damaged file makes a decoder do, the other rows go on
        return Refusal(entry.target, entry.row, f"{UNEXPECTED} {type(error).__name__}: {error}")
    taken[name] = entry.row
    return made


class _StoreFailed(Exception):
    """The store could not be written: no matter of one row."""


def _put(store: PairStore, file: Path, relative: str) -> None:
    try:
        store.put(file, relative)
    except (SyncloraError, OSError) as error:
        raise _StoreFailed(str(error)) from error


def _ready(scratch: Path, source: Path, target: Path, decided: Plan) -> tuple[Path, Path]:
    """The files to put in the store: the given ones, or new ones in `scratch`."""
    if not decided.changes:
        return source, target
    made = scratch / "source.mp4", scratch / "target.mp4"
    encode(source, made[0], decided, decided.source_crop, MEDIA_CRF)
    encode(target, made[1], decided, decided.target_crop, MEDIA_CRF)
    return made


def _row(entry: Entry, name: str, decided: Plan, digests: tuple[str, str], kept: tuple[str, str]) -> PairRow:
    reason = f"encoded anew: {decided.changes}" if decided.changes else ""
    return PairRow(
        id=name,
        source=f"{MEDIA}/{name}.source.mp4",
        target=f"{MEDIA}/{name}.target.mp4",
        fps=str(decided.fps),
        frames=decided.frames,
        width=decided.width,
        height=decided.height,
        prompt=entry.caption,
        edit_kinds=entry.edit_kinds,
        generator=IMPORTED,
        seed=int(_short(digests), 16),  # what it was made from
        motion=None,
        sync=None,
        verdict="unjudged",
        reason=reason,
        sha256_source=kept[0],
        sha256_target=kept[1],
    )


def _same(old: PairRow, entry: Entry, digests: tuple[str, str]) -> bool:
    """Whether a row of the store was made of this entry."""
    copied = (old.sha256_source, old.sha256_target) == digests
    encoded = old.generator == IMPORTED and old.seed == int(_short(digests), 16)
    return old.prompt == entry.caption and (copied or encoded)


def _name(entry: Entry, digests: tuple[str, str]) -> str:
    """A pair's id from its files' content: the same files give the same id wherever they lie."""
    stem = Path(entry.target).stem.removesuffix(".target")
    clean = "".join(letter if letter.isascii() and (letter.isalnum() or letter in "._-") else "_" for letter in stem)
    name = f"{clean.lstrip('.-')[:60]}-{_short(digests)}"
    return name if ID.fullmatch(name) else f"pair-{_short(digests)}"


def _short(digests: tuple[str, str]) -> str:
    return new_digest("".join(digests).encode()).hexdigest()[:12]


def _without_curves(store: PairStore) -> Iterator[PairRow]:
    """The store's rows without their long texts, which many of them together would fill memory with."""
    return (replace(row, motion=None, sync=None, appearance=None) for row in store.iter_rows())


def _write_refused(store: PairStore, refused: list[Refusal]) -> None:
    if refused:
        lines = (json.dumps(asdict(refusal)) + "\n" for refusal in refused)
        store.write_bytes(REFUSED, "".join(lines).encode())
    else:
        store.remove(REFUSED)


def _copy_out(store: PairStore, relative: str, digest: str, folder: Path) -> None:
    """Copy one media file, unless it is there already."""
    if not stays_inside(relative):
        raise SyncloraError(f"{store.url}: the path {relative!r} leaves the store. Run `synclora pairs check` on it.")
    copy = folder / relative
    if copy.is_file() and sha256(copy) == digest:
        return
    with store.local(relative) as path, atomic_path(copy) as temporary:
        shutil.copyfile(path, temporary)
        if sha256(temporary) != digest:
            raise SyncloraError(
                f"{path}: was altered since it was stored (sha256). Run `synclora pairs check {store.url}`; generate "
                "or import the pair again."
            )
