"""A folder of paired clips: `pairs.parquet` (one row a pair) beside `media/` (two H.264 files a pair).

    store = PairStore("out/pairs")
    for row in store.rows():
        source, target = read_clip(store.source_path(row)), read_clip(store.target_path(row))

The table is rewritten as a whole and renamed into place, media first and row last: a kill at any instant leaves a
store that opens, in which every row's files are there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, fields
from fractions import Fraction
from pathlib import Path

from synclora.atomic import atomic_path
from synclora.errors import SyncloraError

TABLE = "pairs.parquet"
MEDIA = "media"
FORMAT = "1"  # raised when a column changes meaning; readers refuse what they do not know


@dataclass(frozen=True)
class PairRow:
    """What the store knows of one pair; `source` and `target` have the same motion and another look."""

    id: str  # unique in the store; names the media files
    source: str  # media path relative to the store's root
    target: str  # media path relative to the store's root
    fps: str  # exact frame rate of both clips, as a fraction: "25" or "30000/1001"
    frames: int  # frames of each clip, 8k + 1
    width: int  # px
    height: int  # px
    prompt: str  # caption of the target
    edit_kinds: list[str]  # what was changed, e.g. ["glasses", "background"]
    generator: str  # what made the pair, e.g. "procedural"
    seed: int  # the generator's seed
    motion: str | None  # JSON object {curve: [value per frame]} of the true motion, where it is known
    sync: str | None  # JSON of the SyncReport of target against source, where it was measured
    verdict: str  # "keep", "reject" or "unjudged"
    reason: str  # why, in words; "" where there is nothing to say
    sha256_source: str  # of the media file
    sha256_target: str  # of the media file


@dataclass(frozen=True)
class Problem:
    """One fault of a store: the offending pair's id and what is wrong with it."""

    id: str
    what: str

    def __str__(self) -> str:
        return f"{self.id}: {self.what}"


class PairStore:
    """The pairs under `root`; the folder is made by the first `append`."""

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root)

    @property
    def table_path(self) -> Path:
        return self.root / TABLE

    def exists(self) -> bool:
        """Whether there is a store to read."""
        return self.table_path.is_file()

    def __len__(self) -> int:
        return len(self.rows())

    def rows(self) -> list[PairRow]:
        """All rows, in the order they were appended.

        Raises:
            SyncloraError: no store here, an unreadable table, missing columns or a newer format.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        if not self.exists():
            raise SyncloraError(
                f"{self.root}: no {TABLE} here, so this is not a pair store. "
                f"Make one with: synclora pairs generate --out {self.root}"
            )
        try:
            table = pq.read_table(self.table_path)
        except (pa.ArrowException, OSError) as error:
            raise SyncloraError(
                f"{self.table_path}: not a readable Parquet file ({_first_line(error)}). Restore it from a copy, or "
                "delete it and run `synclora pairs generate` again with the same settings: the media are made anew."
            ) from error
        found = (table.schema.metadata or {}).get(b"synclora_pairs", b"").decode()
        if found != FORMAT:
            raise SyncloraError(
                f"{self.table_path}: pair format {found or 'none'!r}, but this version of synclora reads {FORMAT!r}. "
                "Use the version that wrote it, or generate the pairs again."
            )
        missing = [name for name in _schema().names if name not in table.schema.names]
        if missing:
            raise SyncloraError(
                f"{self.table_path}: lacks the columns {', '.join(missing)}. "
                "Generate the pairs again, or add the columns."
            )
        return [PairRow(**record) for record in table.select(_schema().names).to_pylist()]

    def ids(self) -> set[str]:
        """The ids in the store; empty where there is no store yet."""
        return {row.id for row in self.rows()} if self.exists() else set()

    def append(self, rows: PairRow | Iterable[PairRow], *, replace: bool = False) -> int:
        """Add rows whose media are already in place, rewriting the table in one step; returns how many were added.

        An id that is already there is skipped, or takes the old row's place with `replace`.
        """
        new = [rows] if isinstance(rows, PairRow) else list(rows)
        old = self.rows() if self.exists() else []
        if replace:
            newest = {row.id: row for row in new}
            replaced = {row.id for row in old} & set(newest)
            self._write([newest.get(row.id, row) for row in old] + [r for i, r in newest.items() if i not in replaced])
            return len(newest)
        known = {row.id for row in old}
        added: list[PairRow] = []
        for row in new:
            if row.id not in known:
                known.add(row.id)
                added.append(row)
        if added or not self.exists():
            self._write(old + added)
        return len(added)

    def _write(self, rows: list[PairRow]) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        table = pa.Table.from_pylist([asdict(row) for row in rows], schema=_schema())
        with atomic_path(self.table_path) as temporary:
            pq.write_table(table, temporary, compression="zstd")

    def source_path(self, row: PairRow) -> Path:
        return self.root / row.source

    def target_path(self, row: PairRow) -> Path:
        return self.root / row.target

    def content_hash(self) -> str:
        """A digest of what the store holds (ids, prompts, rates and media digests); changes when any pair does."""
        digest = hashlib.sha256()
        for row in sorted(self.rows(), key=lambda row: row.id):
            digest.update("\0".join((row.id, row.prompt, row.fps, row.sha256_source, row.sha256_target, "")).encode())
        return digest.hexdigest()

    def is_whole(self, row: PairRow) -> bool:
        """Whether both media files are there and byte for byte what the row recorded."""
        expected = ((self.source_path(row), row.sha256_source), (self.target_path(row), row.sha256_target))
        return all(path.is_file() and sha256(path) == digest for path, digest in expected)

    def verify(self, deep: bool = True, progress: Callable[[str, int, int], None] | None = None) -> list[Problem]:
        """Every fault found, each naming its pair; an empty list is a store fit to train on.

        Checked: ids unique; paths inside the store; files there; frames 8k + 1; and with `deep` also the files' sha256
        against the row, and the decoded clips: readable, and of the row's fps, frame count and size, both of them.
        `progress(stage, done, total)` is called after each pair.
        """
        problems: list[Problem] = []
        seen: set[str] = set()
        rows = self.rows()
        for done, row in enumerate(rows, start=1):
            if row.id in seen:
                problems.append(Problem(row.id, "this id occurs more than once in the table; ids must be unique"))
            seen.add(row.id)
            problems += [Problem(row.id, what) for what in self._row_faults(row, deep)]
            if progress:
                progress("Checking pairs", done, len(rows))
        return problems

    def _row_faults(self, row: PairRow, deep: bool) -> list[str]:
        faults: list[str] = []
        if row.frames < 1 or row.frames % 8 != 1:
            faults.append(f"{row.frames} frames; training needs 8k+1, e.g. {max(row.frames - 1, 0) // 8 * 8 + 1}")
        fps = _fraction(row.fps)
        if fps is None or fps <= 0:
            faults.append(f"fps is {row.fps!r}; a positive fraction such as '25' or '30000/1001' is needed")
        measured: dict[str, tuple[Fraction, int, int, int]] = {}
        for side, relative, digest in (
            ("source", row.source, row.sha256_source),
            ("target", row.target, row.sha256_target),
        ):
            path = self.root / relative
            if Path(relative).is_absolute() or ".." in Path(relative).parts:
                faults.append(f"the {side}'s path {relative!r} leaves the store; it must lie under {MEDIA}/")
            elif not path.is_file():
                faults.append(f"the {side} file {relative} is missing")
            elif deep and (found := sha256(path)) != digest:
                faults.append(f"the {side} file {relative} was altered: sha256 {found[:12]}, recorded {digest[:12]}")
            elif deep:
                try:
                    measured[side] = _measure(path)
                except SyncloraError as error:
                    faults.append(f"the {side} file cannot be read: {error}")
        return faults + _media_faults(row, fps, measured)


def sha256(path: Path) -> str:
    """Hex digest of a file's bytes."""
    digest = hashlib.sha256()
    with open(path, "rb") as handle:
        while block := handle.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def media_row_fields(root: Path, source: Path, target: Path) -> dict[str, str]:
    """The four `PairRow` fields that describe two media files lying under `root`."""
    return {
        "source": source.relative_to(root).as_posix(),
        "target": target.relative_to(root).as_posix(),
        "sha256_source": sha256(source),
        "sha256_target": sha256(target),
    }


def _measure(path: Path) -> tuple[Fraction, int, int, int]:
    """(fps, frames, width, height) of the decoded file."""
    from synclora.clip import read_clip

    clip = read_clip(path)
    return Fraction(clip.fps), clip.num_frames, clip.width, clip.height


def _media_faults(row: PairRow, fps: Fraction | None, measured: dict[str, tuple[Fraction, int, int, int]]) -> list[str]:
    """Differences between the two clips, and between each clip and its row."""
    faults: list[str] = []
    names = ("fps", "frames", "width", "height")
    recorded = (fps, row.frames, row.width, row.height)
    for index, name in enumerate(names):
        values = {side: found[index] for side, found in measured.items()}
        if len(set(values.values())) > 1:
            faults.append(f"{name} differs: source {values['source']}, target {values['target']}; both need the same")
            continue
        for side, value in values.items():
            if recorded[index] is not None and value != recorded[index]:
                faults.append(f"{name} of the {side} is {value}, but the table says {recorded[index]}")
    return faults


def _fraction(text: str) -> Fraction | None:
    try:
        return Fraction(text)
    except (ValueError, ZeroDivisionError):
        return None


def _schema():
    """The table's columns: the fields of `PairRow`, in order."""
    import pyarrow as pa

    types = {"int": pa.int64(), "list[str]": pa.list_(pa.string())}
    columns = [
        pa.field(f.name, types.get(str(f.type), pa.string()), nullable=str(f.type).endswith("None"))
        for f in fields(PairRow)
    ]
    return pa.schema(columns, metadata={"synclora_pairs": FORMAT})


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
