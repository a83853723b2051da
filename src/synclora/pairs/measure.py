"""The expensive half of curation: decode a pair, track both faces, compare motion and look, and keep the numbers.

What was measured lies beside the table of the store as `measurements/part-RUN-DIGEST.parquet`, one file for each chunk
of pairs, written whole when the chunk is done: nothing is rewritten while a job runs, and a kill costs the chunks in
work. A measurement belongs to the bytes of the pair's two files and to `VERSION`; a pair that has one is not measured
again. A pair that could not be measured has its reason here instead. The reason is final where it follows from the
recorded bytes; where a file was missing or altered, or a process died, the next run tries again.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from synclora.atomic import sha256
from synclora.errors import SyncloraError
from synclora.pairs.store import PairRow, PairStore

if TYPE_CHECKING:
    import pyarrow as pa

    from synclora.clip import Clip

VERSION = "5"  # raised when tracking, comparing or the look's numbers change
PARTS = "measurements"
PARTS_IN_MEMORY = 64


@dataclass(frozen=True)
class Task:
    """A pair to measure, as the workers are told."""

    key: str
    id: str
    source: str  # path in the store
    target: str
    sha256_source: str
    sha256_target: str
    frames: int  # of each clip

    @classmethod
    def of(cls, row: PairRow) -> Task:
        """The task of a row of the store."""
        return cls(key_of(row), row.id, row.source, row.target, row.sha256_source, row.sha256_target, row.frames)


@dataclass(frozen=True)
class Measurement:
    """What is known of a pair: `sync` and `appearance` as JSON, or else `error`, the reason why not."""

    key: str
    id: str
    frames: int  # measured, of both clips together
    sync: str | None
    appearance: str | None
    error: str
    final: bool  # whether measuring the same bytes again would give the same


def key_of(row: PairRow) -> str:
    """What a measurement is kept under: the pair, its files' bytes and the version of the measuring."""
    parts = (VERSION, row.id, row.sha256_source, row.sha256_target, str(row.frames), row.fps)
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]


@dataclass(frozen=True)
class MeasureJob:
    """The job (see `synclora.pairs.jobs`) that measures pairs of the store at `url`."""

    url: str
    run: int  # in the names of the parts; a later run's measurement takes an earlier one's place

    def load(self) -> Callable[[Task], Measurement]:
        """Open the store and the tracker, once a worker."""
        from synclora.faces.tracker import track

        track(np.zeros((1, 256, 256, 3), np.uint8))  # what it loads at its first frame counts as loading
        store = PairStore(self.url)
        return lambda task: measure_pair(store, task)

    def failed(self, item: Task, why: str) -> Measurement:
        return Measurement(item.key, item.id, 0, None, None, f"could not be measured: {why}", final=False)

    def limit(self, item: Task) -> float:
        """Seconds for a pair: some fifty times what it takes."""
        return 60.0 + 1.0 * item.frames

    def finish(self, results: list[Measurement]) -> dict[str, float]:
        """Write a chunk's measurements as one file."""
        import pyarrow.parquet as pq

        digest = hashlib.sha256("\0".join(result.key for result in results).encode()).hexdigest()[:16]
        buffer = io.BytesIO()
        pq.write_table(_to_table(results), buffer, compression="zstd", write_page_checksum=True)
        PairStore(self.url).write_bytes(f"{PARTS}/part-{self.run:05d}-{digest}.parquet", buffer.getvalue())
        return {"pairs": len(results), "frames": sum(result.frames for result in results)}


class _Unusable(Exception):
    """A pair that cannot be measured: the reason, and whether it follows from the recorded bytes."""

    def __init__(self, why: str, final: bool) -> None:
        super().__init__(why)
        self.final = final


def measure_pair(store: PairStore, task: Task) -> Measurement:
    """Measure a pair, or say why it cannot be: missing, altered, unreadable or unequal clips are no errors here."""
    from synclora.faces import signals_from_frames
    from synclora.faces.tracker import track
    from synclora.sync.appearance import appearance
    from synclora.sync.score import compare

    try:
        source = _clip(store, "source", task.source, task.sha256_source, task.frames)
        target = _clip(store, "target", task.target, task.sha256_target, task.frames)
        landmarks = track(source.frames), track(target.frames)
        try:
            images = source.frames.numpy(), target.frames.numpy()
            motions = [
                signals_from_frames(frames, points, clip.fps)
                for frames, points, clip in zip(images, landmarks, (source, target), strict=True)
            ]
            report = compare(*motions)
            look = appearance(*images, *landmarks)
        except SyncloraError as error:
            raise _Unusable(str(error), final=True) from error
    except _Unusable as unusable:
        return Measurement(task.key, task.id, 0, None, None, str(unusable), unusable.final)
    frames = source.num_frames + target.num_frames
    return Measurement(task.key, task.id, frames, report.dumps(), json.dumps(look.to_json(), allow_nan=False), "", True)


def _clip(store: PairStore, side: str, relative: str, recorded: str, frames: int) -> Clip:
    from synclora.clip import read_clip

    found = ""
    try:
        with store.local(relative) as path:
            found = sha256(path)
            clip = read_clip(path, frames=max(frames, 1) + 1)  # one more, to see that there is no more
    except (SyncloraError, OSError) as error:
        raise _Unusable(f"the {side} file cannot be read: {error}", final=found == recorded) from error
    if found != recorded:
        what = f"sha256 {found[:12]}, recorded {recorded[:12]}"
        raise _Unusable(f"the {side} file {relative} was altered: {what}", final=False)
    if clip.num_frames != frames:
        count = f"{clip.num_frames} frames" if clip.num_frames < frames else f"more than {frames} frames"
        raise _Unusable(f"the {side} file has {count}, but the table says {frames}", final=True)
    return clip


class Measurements:
    """The measurements of a store: an index in memory, and what it points to read as it is asked for."""

    def __init__(self, store: PairStore) -> None:
        self._store = store
        self._names = [name for name in store.list(PARTS) if name.endswith(".parquet")]  # sorted: by run
        self._index: dict[str, tuple[int, int]] = {}
        self._open: set[str] = set()  # keys whose reason is not final
        self._part = lru_cache(PARTS_IN_MEMORY)(self._read)
        for number, name in enumerate(self._names):
            table = _from_parquet(store, name, ["key", "final"])
            for place, (key, final) in enumerate(
                zip(table["key"].to_pylist(), table["final"].to_pylist(), strict=True)
            ):
                self._index[key] = (number, place)
                (self._open.discard if final else self._open.add)(key)

    @property
    def next_run(self) -> int:
        """The number of a run that starts now."""
        return 1 + max((int(name.split("part-")[1][:5]) for name in self._names), default=0)

    def done(self, key: str) -> bool:
        """Whether measuring again would give nothing new."""
        return key in self._index and key not in self._open

    def get(self, key: str) -> Measurement | None:
        """The latest measurement of a key."""
        if key not in self._index:
            return None
        number, place = self._index[key]
        return Measurement(**{name: column[place] for name, column in self._part(number).items()})

    def _read(self, number: int) -> dict[str, list[Any]]:
        return _from_parquet(self._store, self._names[number], list(_columns())).to_pydict()


def chunked(tasks: Sequence[Task], workers: int, most: int = 64) -> Iterator[Sequence[Task]]:
    """Cut tasks into chunks: some for each worker, so that all end together, and none so large that a kill hurts."""
    size = max(1, min(most, len(tasks) // (8 * workers)))
    for start in range(0, len(tasks), size):
        yield tasks[start : start + size]


def _columns() -> dict[str, str]:
    return {field.name: str(field.type) for field in fields(Measurement)}


def _to_table(results: Sequence[Measurement]) -> pa.Table:
    import pyarrow as pa

    types = {"int": pa.int64(), "bool": pa.bool_()}
    schema = pa.schema([(name, types.get(kind, pa.string())) for name, kind in _columns().items()])
    return pa.Table.from_pylist([asdict(result) for result in results], schema=schema)


def _from_parquet(store: PairStore, name: str, columns: list[str]) -> pa.Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.read_table(io.BytesIO(store.read_bytes(name)), columns=columns, page_checksum_verification=True)
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        raise SyncloraError(
            f"{store.url}/{name}: not readable as measurements ({(str(error).splitlines() or [''])[0]}). "
            "Delete this file and run again: its pairs are measured anew."
        ) from error
