"""Damaged and hostile metadata, media and tables through the commands that read them.

    python tests/pairs/fuzz_pairs.py --cases 2000 --seed 0

Every case is made from its seed and index alone, in a folder of its own, and run through `STAGES` in a worker process
that is replaced when it dies or hangs. A stage must end well or with a SyncloraError, and what it accepted must be
true: an imported pair decodes to what its row says, and a store that `check` calls sound does, too. A flipped bit that
leaves a picture decodable cannot be seen at import; from then on `check` knows the file by its sha256.
"""

from __future__ import annotations

import argparse
import collections
import copy
import csv
import io
import json
import multiprocessing
import random
import resource
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # as a script: the repository's root, for tests.media
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from synclora.atomic import sha256
from synclora.errors import SyncloraError
from synclora.pairs.curate import curate
from synclora.pairs.exchange import UNEXPECTED, import_pairs
from synclora.pairs.jobs import InProcess
from synclora.pairs.layouts import CAPTIONS, REFERENCES, TARGETS
from synclora.pairs.store import PairStore
from synclora.sync.gate import load_thresholds
from tests.media import make_video, numbered

LIMIT = 60.0  # seconds for one case; one takes about a tenth of a second
MEMORY = 6 * 2**30  # bytes a worker may use in all


@dataclass
class Case:
    """One folder to be fuzzed: `data` with clips and metadata, `store` to import to, or a store to check."""

    folder: Path
    rng: random.Random
    what: list[str] = field(default_factory=list)  # the mutations made, for the report
    accepted: int = 0
    refused: int = 0

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def store(self) -> PairStore:
        return PairStore(self.folder / "store")


# --- what is fed -----------------------------------------------------------------------------------------------------


def make_seeds(folder: Path) -> None:
    """Sound clips of several containers and codecs, and a sound store of two pairs."""
    data = folder / "data"
    data.mkdir(parents=True)

    def dark(index: int) -> np.ndarray:
        return numbered(index) // 2 + 20

    make_video(data / "a.mp4", frames=9)
    make_video(data / "b.mp4", frames=9, picture=dark)
    make_video(data / "c.mp4", frames=17, fps=Fraction(30000, 1001), faststart=True)
    make_video(data / "d.webm", frames=9, codec="libvpx-vp9")
    make_video(data / "e.mkv", frames=9)
    make_video(data / "f.avi", frames=12, codec="mpeg4")
    rows = [row_of("a.mp4", "b.mp4", "one"), row_of("b.mp4", "a.mp4", "two")]
    (data / "dataset.json").write_text(json.dumps(rows))
    import_pairs(data, folder / "store")


def row_of(target: Any, reference: Any, caption: Any) -> dict[str, Any]:
    return {"media_path": target, "reference_path": reference, "caption": caption}


# --- mutations -------------------------------------------------------------------------------------------------------

ODD_VALUES: tuple[Any, ...] = (
    None, True, 0, -1, 10**400, 1e308, float("nan"), "", " ", "\0", "a\0b.mp4", "\ud800", "\x1b[2J", "x" * 100_000,
    [], ["a.mp4"], {}, {"media_path": "a.mp4"}, "../a.mp4", "../../../../etc/passwd", "/etc/passwd", "/dev/zero",
    "/proc/self/mem", "~/a.mp4", "http://localhost/a.mp4", "file:///etc/passwd", "concat:a.mp4|b.mp4", "pipe:0",
    "data:video/mp4;base64,AAAA", "a.mp4/../b.mp4", "./a.mp4", "A.MP4", "a.mp4 ", "..\\a.mp4", "con", "%2e%2e/a.mp4",
    "dataset.json", ".", "..", "loop", "outside", "playlist.mp4", "script.mp4", "subtitle.mp4", "\u202egpm.a",
    "\N{PILE OF POO}",
)  # fmt: skip


def odd(rng: random.Random) -> Any:
    """One of the odd values, a fresh one, as it may be changed further."""
    return copy.deepcopy(rng.choice(ODD_VALUES))


def odd_metadata(case: Case) -> None:
    """A dataset file whose values, structure, encoding or bytes are off."""
    rng = case.rng
    names = ["a.mp4", "b.mp4", "c.mp4", "d.webm", "e.mkv", "f.avi"]
    rows: list[Any] = [row_of(rng.choice(names), rng.choice(names), f"caption {i}") for i in range(rng.randint(1, 3))]
    for _ in range(rng.randint(0, 3)):
        victim = rng.randrange(len(rows))
        if not isinstance(rows[victim], dict):
            continue
        kind = rng.choice(("value", "value", "column", "drop", "twice", "row", "id", "kinds"))
        case.what.append(f"metadata {kind}")
        if kind == "value":
            rows[victim][rng.choice((*rows[victim], "media_path"))] = odd(rng)
        elif kind == "column":
            rows[victim][rng.choice((*TARGETS, *REFERENCES, *CAPTIONS))] = rng.choice((*names, odd(rng)))
        elif kind == "drop" and rows[victim]:
            rows[victim].pop(rng.choice([*rows[victim]]))
        elif kind == "twice":
            rows.append(dict(rows[victim]))
        elif kind == "row":
            rows[victim] = odd(rng)
        elif kind == "id":
            rows[victim]["id"] = rng.choice(("x", "x", "../x", "x" * 300, odd(rng)))
        elif kind == "kinds":
            rows[victim]["edit_kinds"] = rng.choice((["hat"], [1], "hat", [["a"]], ["x" * 1000], ["\ud800"], [None]))
    suffix = rng.choice((".json", ".json", ".jsonl", ".csv"))
    text = _serialised(rows, suffix, rng)
    data = (
        text.encode(rng.choice(("utf-8", "utf-8-sig", "utf-16", "latin-1", "cp037")), "replace")
        if (rng.random() < 0.25)
        else text.encode("utf-8", "surrogatepass")
    )
    if rng.random() < 0.4:
        data = _damaged(data, rng, case)
    (case.data / "dataset.json").unlink()
    (case.data / f"dataset{suffix}").write_bytes(data)
    (case.data / "loop").symlink_to("loop")
    (case.data / "outside").symlink_to(case.folder / "secret.mp4")
    (case.folder / "secret.mp4").write_bytes((case.data / "a.mp4").read_bytes() + b"\0\0\0\x08free")
    (case.data / "playlist.mp4").write_text("#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\na.mp4\n#EXT-X-ENDLIST\n")
    (case.data / "script.mp4").write_text("ffconcat version 1.0\nfile 'a.mp4'\n")
    (case.data / "subtitle.mp4").write_text("1\n00:00:00,000 --> 00:00:01,000\nhello\n")


def _serialised(rows: list[Any], suffix: str, rng: random.Random) -> str:
    if suffix == ".csv":
        out = io.StringIO()
        columns = [*dict.fromkeys(name for row in rows if isinstance(row, dict) for name in row)] or ["media_path"]
        quoting = rng.choice((csv.QUOTE_MINIMAL, csv.QUOTE_ALL))
        writer = csv.DictWriter(out, columns, extrasaction="ignore", quoting=quoting)
        writer.writeheader()
        for row in rows:
            writer.writerow(row if isinstance(row, dict) else {columns[0]: str(row)[:100]})
        return out.getvalue()
    # json.dumps refuses integers of over 4300 digits only on reading, and nests no deeper than it may
    if suffix == ".jsonl":
        return "".join(json.dumps(row) + "\n" for row in rows)
    whole = rng.choice((rows, rows, {"rows": rows}, {"a": rows, "b": rows}, [rows], {"x": {"y": rows}}, 3, "rows"))
    return json.dumps(whole)


def odd_media(case: Case) -> None:
    """A sound dataset one of whose clips is damaged, or is not what its name says."""
    rng = case.rng
    victim = rng.choice(("a.mp4", "a.mp4", "b.mp4", "c.mp4", "d.webm", "e.mkv", "f.avi"))
    path = case.data / victim
    kind = rng.choice(("bytes", "bytes", "bytes", "header", "renamed", "joined", "swapped boxes", "empty", "noise"))
    case.what.append(f"media {kind} {victim}")
    data = path.read_bytes()
    other = (case.data / rng.choice(("a.mp4", "c.mp4", "d.webm", "e.mkv", "f.avi"))).read_bytes()
    if kind == "bytes":
        data = _damaged(data, rng, case)
    elif kind == "header":
        size = rng.choice((8, 64, 512))
        data = other[:size] + data[size:]
    elif kind == "renamed":
        data = other
    elif kind == "joined":
        data = data + other
    elif kind == "swapped boxes":
        at = [i for i in range(len(data) - 4) if data[i : i + 4] in (b"moov", b"trak", b"stts", b"stsz", b"stco")]
        data = _overwritten(data, rng.choice(at) if at else 0, rng.randbytes(4))
    elif kind == "empty":
        data = b""
    else:
        data = data[: rng.choice((12, 40))] + rng.randbytes(2000)
    path.write_bytes(data)
    others = [name for name in ("a.mp4", "b.mp4", "c.mp4") if name != victim]
    rows = [row_of(victim, rng.choice(others), "damaged"), row_of(others[0], others[1], "sound")]
    if rng.random() < 0.3:
        rows[0]["media_path"], rows[0]["reference_path"] = rows[0]["reference_path"], rows[0]["media_path"]
    (case.data / "dataset.json").write_text(json.dumps(rows))


def odd_store(case: Case) -> None:
    """A store whose table or media were altered behind its back."""
    rng = case.rng
    store = PairStore(case.folder / "checked")
    shutil.copytree(case.folder / "store", store.root)
    kind = rng.choice(("table bytes", "table value", "table value", "table column", "media", "media missing"))
    case.what.append(f"store {kind}")
    table = pq.read_table(store.table_path)
    if kind == "table bytes":
        store.table_path.write_bytes(_damaged(store.table_path.read_bytes(), rng, case))
    elif kind == "table value":
        column = rng.choice(table.column_names)
        number = pa.types.is_int64(table.schema.field(column).type)
        texts = [v for v in ODD_VALUES if isinstance(v, str) and "\ud800" not in v]
        values = table[column].to_pylist()
        if column == "edit_kinds":
            values[0] = rng.choice(([], ["\0"], ["x" * 10_000], None))
        else:
            values[0] = rng.choice((0, -7, 2**62, 12, None) if number else (*texts, "1/0", "1e400", None, values[1]))
        _set(table, store, column, pa.array(values, table.schema.field(column).type))
    elif kind == "table column":
        column = rng.choice(table.column_names)
        wrong = rng.choice((pa.array([1.5, float("nan")]), pa.array([b"\xff\xfe", b"\0"]), pa.array([None, None])))
        _set(table, store, column, wrong)
    else:
        row = rng.choice(store.rows())
        path = rng.choice((store.source_path(row), store.target_path(row)))
        if kind == "media missing":
            path.unlink()
        else:
            path.write_bytes(_damaged(path.read_bytes(), rng, case))


def _set(table: pa.Table, store: PairStore, column: str, values: pa.Array) -> None:
    changed = table.set_column(table.schema.get_field_index(column), column, values)
    pq.write_table(changed.replace_schema_metadata(table.schema.metadata), store.table_path)


def _damaged(data: bytes, rng: random.Random, case: Case) -> bytes:
    """A few bytes changed, cut, zeroed, moved or put in."""
    for _ in range(rng.randint(1, 3)):
        kind = rng.choice(("flip", "flip", "flips", "cut", "zeros", "insert", "double", "huge"))
        case.what.append(kind)
        at = rng.randrange(max(1, len(data)))
        if kind == "flip" and data:
            data = _overwritten(data, at, bytes([data[at] ^ 1 << rng.randrange(8)]))
        elif kind == "flips" and data:
            for _ in range(50):
                at = rng.randrange(len(data))
                data = _overwritten(data, at, bytes([data[at] ^ 1 << rng.randrange(8)]))
        elif kind == "cut":
            data = data[:at]
        elif kind == "zeros":
            data = _overwritten(data, at, bytes(rng.choice((1, 16, 500))))
        elif kind == "insert":
            data = data[:at] + rng.randbytes(rng.choice((1, 4, 100))) + data[at:]
        elif kind == "double":
            data = data[:at] + data[at // 2 :]
        elif kind == "huge":
            data = _overwritten(data, at, b"\x7f\xff\xff\xff")
    return data


def _overwritten(data: bytes, at: int, new: bytes) -> bytes:
    return data[:at] + new[: len(data) - at] + data[at + len(new) :]


# --- what it goes through --------------------------------------------------------------------------------------------


def run_import(case: Case) -> None:
    """Import; whatever came in must be what its row says, and importing again must bring nothing new."""
    if not case.data.exists():
        return
    out = case.folder / "imported"
    try:
        done = import_pairs(case.data, out)
    except SyncloraError:
        case.refused += 1
        return
    case.accepted, case.refused = done.made, len(done.refused)
    foreseen = [str(refusal) for refusal in done.refused if refusal.why.startswith(UNEXPECTED)]
    assert not foreseen, f"refused for a reason that no check foresaw: {foreseen[0]}"
    store = PairStore(out)
    assert len(store) == done.made
    for row in store.iter_rows():
        decode_to(store, row)
        given = {sha256(path) for path in case.data.iterdir() if path.is_file() and not path.is_symlink()}
        copied = {row.sha256_source, row.sha256_target} <= given
        assert copied or row.reason.startswith("encoded anew: "), "altered without a word"
    assert store.verify() == []
    again = import_pairs(case.data, out)
    assert (again.made, again.present) == (0, done.made) and len(again.refused) == len(done.refused)


def run_check(case: Case) -> None:
    """Check an altered store: it must be refused, have problems, or be what its rows say."""
    root = case.folder / "checked"
    if not root.exists():
        return
    store = PairStore(root)
    try:
        problems = store.verify()
        rows = store.rows()
    except SyncloraError:
        case.refused += 1
        return
    case.refused += len(problems)
    for problem in problems:
        assert str(problem).isprintable(), "a problem that a terminal would not just print"
    if not problems:
        case.accepted += len(rows)
        for row in rows:
            decode_to(store, row)
            assert store.is_whole(row)


def run_curate(case: Case) -> None:
    """Curate what came in and what was altered: every pair is judged, for a reason that is foreseen, and no pair whose
    files are not the recorded ones is kept."""
    for root in (case.folder / "imported", case.folder / "checked"):
        store = PairStore(root)
        try:
            if not store.exists() or not len(store):
                continue
            curate(store, load_thresholds(), InProcess())
        except SyncloraError:
            case.refused += 1
            continue
        for row in store.iter_rows():
            assert row.verdict in ("keep", "reject") and (row.verdict == "keep" or row.reason), row
            assert "failed with" not in row.reason, f"rejected for a reason that no check foresaw: {row.reason}"
            assert row.verdict == "reject" or store.is_whole(row)


# Another stage is one more function here; it sees the case as the stages before left it.
STAGES: dict[str, Callable[[Case], None]] = {"import": run_import, "check": run_check, "curate": run_curate}
MUTATIONS: tuple[Callable[[Case], None], ...] = (odd_metadata, odd_media, odd_media, odd_store)


def decode_to(store: PairStore, row: Any) -> None:
    """Assert by FFmpeg alone that both files of a row are inside the store and hold what it says."""
    assert row.frames % 8 == 1 and Fraction(row.fps) > 0
    for relative in (row.source, row.target):
        path = (store.root / relative).resolve()
        assert path.is_relative_to(store.root.resolve())
        with av.open(str(path), metadata_errors="replace") as container:
            stream = container.streams.video[0]
            pictures = [(frame.width, frame.height) for frame in container.decode(stream)]
        assert pictures == [(row.width, row.height)] * row.frames, f"{relative}: {len(pictures)} pictures, row {row}"


# --- workers ---------------------------------------------------------------------------------------------------------


def run_case(seed: int, index: int, seeds: Path, stages: Sequence[str] = tuple(STAGES)) -> dict[str, Any]:
    """Run one case; `failure` is "" where all stages did what they should."""
    rng = random.Random(f"{seed}-{index}")
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        case = Case(Path(folder) / "case", rng)
        shutil.copytree(seeds, case.folder)
        failure, stage = "", "mutation"
        try:
            MUTATIONS[index % len(MUTATIONS)](case)
            for stage in stages:
                STAGES[stage](case)
        except BaseException:
            failure = f"{stage}: {traceback.format_exc()}"
        return {"failure": failure, "what": case.what, "accepted": case.accepted, "refused": case.refused}


def _worker(pipe: Connection, seed: int, seeds: Path, stages: Sequence[str]) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    while (index := pipe.recv()) is not None:
        pipe.send(run_case(seed, index, seeds, stages))


@contextmanager
def _running(seed: int, seeds: Path, stages: Sequence[str]) -> Iterator[tuple[Any, Connection]]:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_worker, args=(theirs, seed, seeds, stages), daemon=True)
    process.start()
    theirs.close()
    try:
        yield process, ours
    finally:
        process.kill()
        process.join()
        ours.close()


def fuzz(
    cases: range,
    seed: int,
    stages: Sequence[str] = tuple(STAGES),
    log: Callable[[str], None] = print,
    limit: float = LIMIT,
) -> collections.Counter:
    """Run cases one after another in a worker that is replaced when it dies or hangs; returns counts by outcome."""
    outcomes: collections.Counter = collections.Counter()
    with tempfile.TemporaryDirectory(prefix="fuzz-seeds-") as folder:
        seeds = Path(folder) / "seeds"
        make_seeds(seeds)
        left = iter(cases)
        index = next(left, None)
        while index is not None:
            with _running(seed, seeds, stages) as (process, pipe):
                first = True
                while index is not None:
                    pipe.send(index)
                    try:
                        if not pipe.poll(limit + 60 * first):  # the first case includes imports
                            outcomes["hangs"] += 1
                            log(f"case {index}: HANG: no answer in {limit:.0f} s")
                            index = next(left, None)
                            break
                        result = pipe.recv()
                    except (EOFError, ConnectionResetError):
                        process.join()
                        outcomes["crashes"] += 1
                        log(f"case {index}: CRASH: the worker ended with {process.exitcode}")
                        index = next(left, None)
                        break
                    first = False
                    outcomes["cases"] += 1
                    outcomes["accepted"] += result["accepted"]
                    outcomes["refused"] += result["refused"]
                    if result["failure"]:
                        outcomes["failures"] += 1
                        log(f"case {index} ({', '.join(result['what'])}): {result['failure'][-2000:]}")
                    index = next(left, None)
    return outcomes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=2000, help="how many")
    parser.add_argument("--first", type=int, default=0, help="index of the first, to repeat one")
    parser.add_argument("--seed", type=int, default=0)
    settings = parser.parse_args()
    began = time.monotonic()
    outcomes = fuzz(range(settings.first, settings.first + settings.cases), settings.seed)
    print(f"{dict(outcomes)} in {time.monotonic() - began:.0f} s")
    sys.exit(1 if outcomes["failures"] + outcomes["crashes"] + outcomes["hangs"] else 0)


if __name__ == "__main__":
    main()
