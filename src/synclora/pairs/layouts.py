"""Metadata files of paired clips as the public trainers lay them out: JSON, JSONL and CSV, read and written.

A row names the target clip (`media_path`, `video` or `video_path`), the clip it is conditioned on, which is our source
(`reference_path`, `ref_media_path`, `reference_video` or `control_path`), and a `caption` or `prompt`. What is read may
come from anywhere: every row is judged for itself, and one that is no good becomes a `Refusal`.
"""

from __future__ import annotations

import codecs
import csv
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from synclora.errors import SyncloraError
from synclora.pairs.files import printable

TARGETS = ("media_path", "video", "video_path")
REFERENCES = ("reference_path", "ref_media_path", "reference_video", "control_path")
CAPTIONS = ("caption", "prompt")
SUFFIXES = (".json", ".jsonl", ".csv")
NAMES = tuple(stem + suffix for stem in ("dataset", "metadata") for suffix in SUFFIXES)

MOST_BYTES = 2**30  # of a JSON file, which is read as a whole
MOST_LINE = 2**20  # characters of one row of JSONL or CSV
MOST_TEXT = 20_000  # characters of a caption
MOST_PATH = 4096  # characters of a path
ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True)
class Layout:
    """How a public trainer wants its rows: the metadata file and its columns."""

    file: str
    target: str
    reference: str


LAYOUTS = {
    "ltx": Layout("dataset.json", "media_path", "reference_path"),  # LTX-Video-Trainer
    "ltx2": Layout("dataset.json", "video", "reference_video"),  # LTX-2's ltx-trainer
    "ltx2-first": Layout("dataset.json", "media_path", "ref_media_path"),  # the same, its first versions
    "musubi": Layout("dataset.jsonl", "video_path", "control_path"),  # musubi-tuner
}


@dataclass(frozen=True)
class Entry:
    """One row of a metadata file; paths are as written there, and not checked."""

    row: int  # counted from 1
    target: str
    reference: str
    caption: str
    id: str | None = None
    edit_kinds: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Refusal:
    """A row that was not taken: the file it is about (or the metadata file), its number from 1, and why."""

    file: str
    row: int
    why: str

    def __str__(self) -> str:
        return printable(f"row {self.row}: {self.file}: {self.why}")


def find_metadata(source: Path) -> Path:
    """The metadata file itself, or the one in a folder.

    Raises:
        SyncloraError: there is none, several, or one of another kind.
    """
    if source.is_dir():
        named = [source / name for name in NAMES if (source / name).is_file()]
        found = named or sorted(p for p in source.iterdir() if p.suffix.lower() in SUFFIXES and p.is_file())
        if len(found) != 1:
            what = ", ".join(p.name for p in found[:5]) or "none"
            raise SyncloraError(
                f"{source}: one metadata file ({', '.join(NAMES[:3])}) is needed and {what} was found. "
                "Name the file to read."
            )
        source = found[0]
    if source.suffix.lower() not in SUFFIXES:
        raise SyncloraError(f"{source}: a metadata file ends in {', '.join(SUFFIXES)}. Convert it, or name another.")
    if not source.is_file():
        raise SyncloraError(f"{source}: there is no such file. Name a metadata file, or the folder that holds it.")
    return source


def read_metadata(path: Path) -> Iterator[Entry | Refusal]:
    """The rows of a metadata file, one at a time; JSONL and CSV are streamed.

    Raises:
        SyncloraError: the file as a whole cannot be read.
    """
    reader = {".json": _json_rows, ".jsonl": _jsonl_rows, ".csv": _csv_rows}[path.suffix.lower()]
    for row, value in enumerate(reader(path), start=1):
        if isinstance(value, _Bad):
            yield Refusal(path.name, row, value.why)
        else:
            yield _entry(path.name, row, value)


def format_rows(layout: Layout, rows: Iterable[Entry]) -> str:
    """The text of a layout's metadata file; besides the trainer's columns it has `id` and `edit_kinds`."""
    records = (
        {
            "id": row.id,
            "caption": row.caption,
            layout.target: row.target,
            layout.reference: row.reference,
            "edit_kinds": row.edit_kinds,
        }
        for row in rows
    )
    if layout.file.endswith(".jsonl"):
        return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    return json.dumps([*records], ensure_ascii=False, indent=1) + "\n"


@dataclass(frozen=True)
class _Bad:
    """Stands for a row that could not be parsed."""

    why: str


def _json_rows(path: Path) -> Iterator[Any]:
    size = path.stat().st_size
    if size > MOST_BYTES:
        raise SyncloraError(f"{path}: {size / 2**30:.1f} GiB of JSON; at most 1 is read. Convert it to JSONL.")
    with _opened(path) as handle:
        try:
            value = json.load(handle)
        except (ValueError, RecursionError) as error:
            raise SyncloraError(
                f"{path}: is not JSON in UTF-8 ({_shown(error)}). Write it again, or repair it."
            ) from error
    if isinstance(value, dict):
        lists = [rows for rows in value.values() if isinstance(rows, list)]
        value = [row for rows in lists for row in rows] if lists else None
    if not isinstance(value, list):
        raise SyncloraError(f"{path}: a list of rows is needed, or an object that holds lists of rows.")
    yield from value


def _jsonl_rows(path: Path) -> Iterator[Any]:
    with _opened(path) as handle:
        for line in _lines(path, handle):
            if isinstance(line, _Bad):
                yield line
            elif line.strip():
                try:
                    yield json.loads(line)
                except (ValueError, RecursionError) as error:
                    yield _Bad(f"the line is not JSON ({_shown(error)})")


def _csv_rows(path: Path) -> Iterator[Any]:
    with _opened(path, newline="") as handle:
        bad: list[_Bad] = []

        def lines() -> Iterator[str]:
            for line in _lines(path, handle):
                if isinstance(line, _Bad):
                    bad.append(line)
                    return
                yield line

        csv.field_size_limit(MOST_LINE)
        reader = csv.DictReader(lines(), strict=True, restkey="")
        while True:
            try:
                row = next(reader, None)
            except csv.Error as error:  # where a row ends is now unknown, and so is every later one
                yield _Bad(f"not CSV from line {reader.line_num} on ({_shown(error)}); the rest was not read")
                return
            if row is None:
                break
            yield _Bad("has more values than the header has names") if "" in row else row
        yield from bad


def _lines(path: Path, handle: TextIO) -> Iterator[str | _Bad]:
    """Lines of bounded length; a longer one ends the reading, as it may never end itself."""
    while line := handle.readline(MOST_LINE + 1):
        if len(line) > MOST_LINE:
            yield _Bad(f"the line is longer than {MOST_LINE} characters; the rest was not read")
            return
        yield line


def _opened(path: Path, newline: str | None = None) -> TextIO:
    """The file as UTF-8 text, with or without a mark; bytes that are none become surrogates, judged row by row."""
    try:
        with open(path, "rb") as handle:
            mark = handle.read(2)
        if mark in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
            raise SyncloraError(f"{path}: is UTF-16; UTF-8 is needed. Save it again as UTF-8.")
        return open(path, encoding="utf-8-sig", errors="surrogateescape", newline=newline)
    except OSError as error:
        raise SyncloraError(
            f"{path}: cannot be read ({error.strerror}). Check the path and its permissions."
        ) from error


def _entry(file: str, row: int, value: Any) -> Entry | Refusal:
    if not isinstance(value, dict):
        return Refusal(file, row, f"a row is an object with named columns; found {type(value).__name__}")
    found: dict[str, str] = {}
    for role, names, most in (
        ("target", TARGETS, MOST_PATH),
        ("reference", REFERENCES, MOST_PATH),
        ("caption", CAPTIONS, MOST_TEXT),
    ):
        there = {name: value[name] for name in names if value.get(name) is not None}
        if not there:
            return Refusal(file, row, f"no {role}: one of the columns {', '.join(names)} is needed")
        for name, text in there.items():
            if why := _unfit(text, most, empty=role == "caption"):
                return Refusal(file, row, f"the {role} ({name}) {why}")
        if len(set(there.values())) > 1:
            return Refusal(file, row, f"the columns {' and '.join(there)} differ; one {role} is needed")
        found[role] = next(iter(there.values()))
    name = value.get("id")
    kinds = value.get("edit_kinds")
    listed = isinstance(kinds, list) and len(kinds) <= 100 and not any(_unfit(kind, 100) for kind in kinds)
    return Entry(
        row,
        found["target"],
        found["reference"],
        found["caption"],
        name if isinstance(name, str) and ID.fullmatch(name) else None,
        kinds if listed and kinds else [],
    )


def _unfit(text: Any, most: int, empty: bool = False) -> str:
    """Why a value cannot be a caption or a path; "" where it can."""
    if not isinstance(text, str):
        return f"is {type(text).__name__}; text is needed"
    if not (text or empty):
        return "is empty"
    if len(text) > most:
        return f"has {len(text)} characters; at most {most} are taken"
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        return "holds bytes that are not UTF-8"
    return "holds a NUL character" if "\0" in text else ""


def _shown(error: BaseException) -> str:
    return ascii(str(error).splitlines()[0][:120] if str(error) else type(error).__name__)[1:-1]
