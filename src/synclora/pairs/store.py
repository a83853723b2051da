"""Paired clips under one root: `pairs.parquet` (one row a pair) beside `media/` (two H.264 files a pair).

    store = PairStore("out/pairs")  # or PairStore("s3://bucket/pairs")
    for row in store.iter_rows():
        with store.local(row.source) as source, store.local(row.target) as target:
            clips = read_clip(source), read_clip(target)

The table is rewritten as a whole and put into place in one step, media first and row last: a kill at any instant leaves
a store that opens, in which every row's files are there. One process writes the table at a time; any number may write
media and other files, and read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, fields
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from synclora.atomic import sha256
from synclora.errors import SyncloraError
from synclora.pairs.files import Files, printable

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

TABLE = "pairs.parquet"
MEDIA = "media"
FORMAT = "2"  # raised when a column changes meaning; readers refuse what they do not know
READABLE = ("1", "2")  # format 1 had neither `appearance` nor `defect`
ROWS_AT_ONCE = 4096  # rows held in memory while the table is read or rewritten


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
    motion: str | None  # JSON object {curve: [value per frame]} of the source's true motion, where it is known
    sync: str | None  # JSON of the SyncReport of target against source, where it was measured
    verdict: str  # "keep", "reject" or "unjudged"
    reason: str  # why, in words; "" where there is nothing to say
    sha256_source: str  # of the media file
    sha256_target: str  # of the media file
    appearance: str | None = None  # JSON of the target's measured stability of looks (flicker, identity change, ...)
    defect: str | None = None  # JSON {"kind", "strength", "unit", ...} of an injected defect; never read by scoring


@dataclass(frozen=True)
class Problem:
    """One fault of a store: the offending pair's id and what is wrong with it."""

    id: str
    what: str

    def __str__(self) -> str:
        return printable(f"{self.id}: {self.what}")


class PairStore:
    """The pairs under `root`, a local path or any URL fsspec opens; a local folder is made by the first `append`.

    Raises:
        SyncloraError: the URL's protocol is unknown, or its package is not installed.
    """

    def __init__(self, root: Path | str) -> None:
        self._files = Files(root)

    @property
    def url(self) -> str:
        """The address of the store: what `PairStore(url)` opens again."""
        return self._files.url

    @property
    def is_local(self) -> bool:
        """Whether the store is a folder of this machine."""
        return self._files.folder is not None

    @property
    def root(self) -> Path:
        """The store's folder. SyncloraError on a remote store."""
        return self._files.local_root

    @property
    def table_path(self) -> Path:
        """The table's file. SyncloraError on a remote store."""
        return self._files.path(TABLE)

    def source_path(self, row: PairRow) -> Path:
        """The source's file. SyncloraError on a remote store; `local(row.source)` works on any."""
        return self._files.path(row.source)

    def target_path(self, row: PairRow) -> Path:
        """The target's file. SyncloraError on a remote store; `local(row.target)` works on any."""
        return self._files.path(row.target)

    def local(self, relative: str) -> AbstractContextManager[Path]:
        """Yield a local path of a file: the file itself, or a copy that is removed when the block ends.

        Raises:
            SyncloraError: it is missing, cannot be fetched, or its path leaves the store.
        """
        return self._files.local(relative)

    def put(self, local_file: Path | str, relative: str) -> None:
        """Copy a local file to `relative`, whole or not at all."""
        self._files.put(local_file, relative)

    def writing(self, relative: str) -> AbstractContextManager[Path]:
        """Yield a local path of the same suffix to write to; it is put at `relative` when the block ends well."""
        return self._files.writing(relative)

    def read_bytes(self, relative: str) -> bytes:
        """All of a file. SyncloraError where it is missing or cannot be read."""
        return self._files.read_bytes(relative)

    def write_bytes(self, relative: str, data: bytes) -> None:
        """Put a small file in place, whole or not at all."""
        self._files.write_bytes(relative, data)

    def list(self, prefix: str = "") -> list[str]:
        """Relative paths of all files below the folder `prefix`, sorted; files being written are left out."""
        return self._files.list(prefix)

    def has(self, relative: str) -> bool:
        """Whether there is a file of this path."""
        return self._files.exists(relative)

    def remove(self, relative: str) -> None:
        """Delete a file; one that is not there is no error."""
        self._files.remove(relative)

    def exists(self) -> bool:
        """Whether there is a store to read."""
        return self._files.exists(TABLE)

    def __len__(self) -> int:
        with self._table() as table:
            return table.metadata.num_rows

    def iter_rows(self) -> Iterator[PairRow]:
        """All rows, in the order they were appended; memory holds some thousand of them at a time.

        Raises:
            SyncloraError: no store here, an unreadable table, missing columns, a wrong type or a newer format.
        """
        with self._table() as table:
            for batch in self._batches(table, _schema().names):
                yield from (PairRow(**record) for record in batch.to_pylist())

    def rows(self) -> list[PairRow]:
        """All rows in one list; arguments and errors as `iter_rows`."""
        return [*self.iter_rows()]

    def ids(self) -> set[str]:
        """The ids in the store; empty where there is no store yet."""
        if not self.exists():
            return set()
        with self._table() as table:
            return {name for batch in self._batches(table, ["id"]) for name in batch["id"].to_pylist()}

    def append(self, rows: PairRow | Iterable[PairRow], *, replace: bool = False) -> int:
        """Add rows whose media are already in place, rewriting the table in one step; returns how many were added.

        An id that is already there is skipped, or takes the old row's place with `replace`. Memory holds the new rows
        and some thousand of the old.
        """
        new = [rows] if isinstance(rows, PairRow) else [*rows]
        fresh = {row.id: row for row in (new if replace else new[::-1])}  # of equal ids the last, or else the first
        known = self.ids()
        if not replace:
            fresh = {name: row for name, row in fresh.items() if name not in known}
        order = [name for name in dict.fromkeys(row.id for row in new) if name in fresh and name not in known]
        if fresh or not self.exists():
            self._rewrite({n: r for n, r in fresh.items() if n in known}, [fresh[name] for name in order])
        return len(fresh)

    def _rewrite(self, replaced: dict[str, PairRow], added: Iterable[PairRow]) -> None:
        """Write the table anew: the old rows, some of them replaced in place, and then the added ones."""

        def batches() -> Iterator[pa.Table]:
            if self.exists():
                with self._table() as table:
                    for batch in self._batches(table, _schema().names):
                        if replaced and not replaced.keys().isdisjoint(batch["id"].to_pylist()):
                            yield _to_table(replaced.get(old["id"]) or PairRow(**old) for old in batch.to_pylist())
                        else:
                            yield batch
            yield from _to_tables(added)

        self._write_batches(batches())

    def update(self, change: Callable[[PairRow], PairRow]) -> None:
        """Replace every row by `change(row)`, in one step; memory holds some thousand rows."""

        def batches() -> Iterator[pa.Table]:
            with self._table() as table:
                for batch in self._batches(table, _schema().names):
                    yield _to_table(change(PairRow(**record)) for record in batch.to_pylist())

        self._write_batches(batches())

    def _write(self, rows: Iterable[PairRow]) -> None:
        """Write the table with these rows and no others."""
        self._write_batches(_to_tables(rows))

    def _write_batches(self, batches: Iterable[pa.Table]) -> None:
        import pyarrow.parquet as pq

        with (
            self._files.writing(TABLE) as temporary,
            pq.ParquetWriter(temporary, _schema(), compression="zstd") as out,
        ):
            for batch in batches:
                out.write_table(batch)

    @contextmanager
    def _table(self) -> Iterator[pq.ParquetFile]:
        """The open table, its format and columns checked."""
        import pyarrow.parquet as pq

        name = self._files.name(TABLE)
        if not self.exists():
            raise SyncloraError(
                f"{self.url}: no {TABLE} here, so this is not a pair store. "
                f"Make one with: synclora pairs generate --out {self.url}"
            )
        with self._files.open(TABLE) as handle:
            try:
                table = pq.ParquetFile(handle)
                schema = table.schema_arrow
            except _UNREADABLE as error:
                raise _unreadable(name, error) from error
            found = (schema.metadata or {}).get(b"synclora_pairs", b"").decode(errors="replace")
            if found not in READABLE:
                raise SyncloraError(
                    f"{name}: pair format {found or 'none'!r}, but this version of synclora reads "
                    f"{' and '.join(map(repr, READABLE))}. Use the version that wrote it, or generate the pairs again."
                )
            missing = [field.name for field in _schema(found) if field.name not in schema.names]
            if missing:
                raise SyncloraError(
                    f"{name}: lacks the columns {', '.join(missing)}. Generate the pairs again, or add the columns."
                )
            yield table

    def _batches(self, table: pq.ParquetFile, names: list[str]) -> Iterator[pa.Table]:
        """Some columns of the table, some rows at a time, in this version's format."""
        import pyarrow as pa

        name = self._files.name(TABLE)
        schema = pa.schema([_schema().field(column) for column in names], metadata=_schema().metadata)
        there = [column for column in names if column in table.schema_arrow.names]
        batches = table.iter_batches(batch_size=ROWS_AT_ONCE, columns=there)
        while True:
            try:
                batch = next(batches, None)
                if batch is None:
                    return
                columns = [batch[c] if c in there else pa.nulls(len(batch), pa.string()) for c in names]
                part = pa.Table.from_arrays(columns, names=names)
                part = part if part.schema.equals(schema) else part.cast(schema)
                part.validate(full=True)
            except _UNREADABLE as error:
                raise _unreadable(name, error) from error
            yield part

    def content_hash(self) -> str:
        """A digest of what the store holds (ids, prompts, rates and media digests); changes when any pair does."""
        names = ["id", "prompt", "fps", "sha256_source", "sha256_target"]
        with self._table() as table:
            rows = [tuple(r[name] for name in names) for b in self._batches(table, names) for r in b.to_pylist()]
        digest = hashlib.sha256()
        for row in sorted(rows):
            digest.update("\0".join((*row, "")).encode())
        return digest.hexdigest()

    def is_whole(self, row: PairRow) -> bool:
        """Whether both media files are there and byte for byte what the row recorded."""
        for relative, digest in ((row.source, row.sha256_source), (row.target, row.sha256_target)):
            if not self.has(relative):
                return False
            with self.local(relative) as path:
                if sha256(path) != digest:
                    return False
        return True

    def verify(self, deep: bool = True, progress: Callable[[str, int, int], None] | None = None) -> list[Problem]:
        """Every fault found, each naming its pair; an empty list is a store fit to train on.

        Checked: ids unique; paths inside the store; files there; frames 8k + 1; and with `deep` also the files' sha256
        against the row, and the decoded clips: readable, and of the row's fps, frame count and size, both of them.
        `progress(stage, done, total)` is called after each pair.
        """
        from synclora.pairs.verify import row_faults

        problems: list[Problem] = []
        seen: set[str] = set()
        total = len(self)
        for done, row in enumerate(self.iter_rows(), start=1):
            if row.id in seen:
                problems.append(Problem(row.id, "this id occurs more than once in the table; ids must be unique"))
            seen.add(row.id)
            problems += [Problem(row.id, what) for what in row_faults(self, row, deep)]
            if progress:
                progress("Checking pairs", done, total)
        return problems


def _schema(format: str = FORMAT) -> pa.Schema:
    """The table's columns: the fields of `PairRow`, in order."""
    import pyarrow as pa

    types = {"int": pa.int64(), "list[str]": pa.list_(pa.string())}
    columns = [
        pa.field(f.name, types.get(str(f.type), pa.string()), nullable=str(f.type).endswith("None"))
        for f in fields(PairRow)
        if format != "1" or f.name not in ("appearance", "defect")
    ]
    return pa.schema(columns, metadata={"synclora_pairs": format})


def _to_table(rows: Iterable[PairRow]) -> pa.Table:
    import pyarrow as pa

    return pa.Table.from_pylist([asdict(row) for row in rows], schema=_schema())


def _to_tables(rows: Iterable[PairRow]) -> Iterator[pa.Table]:
    """The rows some at a time."""
    left = iter(rows)
    while part := [*islice(left, ROWS_AT_ONCE)]:
        yield _to_table(part)


def _unreadable(name: str, error: BaseException) -> SyncloraError:
    what = (str(error).splitlines() or [type(error).__name__])[0]
    return SyncloraError(
        f"{name}: not a readable Parquet file ({what}). Run again if the storage was at fault; else restore the file "
        "from a copy, or delete it and run `synclora pairs generate` or `import` again: finished media are made anew."
    )


# What pyarrow raises on damaged or unfit tables; its own exceptions are subclasses of these.
_UNREADABLE = (ValueError, OSError, KeyError, TypeError, NotImplementedError, MemoryError)
