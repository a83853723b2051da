"""Curation: measure every pair of a store, hold it against the gate, and write the verdict with its reason.

    synclora pairs curate out/pairs
    synclora pairs curate s3://bucket/pairs --executor ray --ray-address auto --workers 64

Three stages. MEASURE costs nearly everything and happens once for each pair (`synclora.pairs.measure`); run again after
a kill, it does what is missing. JUDGE is arithmetic on the measurements, so other thresholds cost nothing
(`synclora.sync.gate`). WRITE puts verdict, reason and figures into the table of the store, once, in one step.
"""

from __future__ import annotations

import json
import math
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from synclora.errors import SyncloraError
from synclora.pairs.filling import only_run
from synclora.pairs.jobs import Executor
from synclora.pairs.measure import PARTS, MeasureJob, Measurement, Measurements, Task, chunked
from synclora.pairs.store import PairRow, PairStore
from synclora.sync.appearance import Appearance
from synclora.sync.gate import Reason, Thresholds, Verdict, judge
from synclora.sync.score import SyncReport

GATE = "gate.yaml"  # in the store: the thresholds that its verdicts come from
UNREADABLE = "not measured"  # the kind of reason of a pair without measurements


@dataclass
class Curation:
    """What a run did. kinds: how many pairs break which limit (a pair may break several)."""

    pairs: int = 0
    kept: int = 0
    unmeasured: int = 0
    measured: int = 0  # pairs, in this run
    frames: int = 0  # of both clips, in this run
    seconds: float = 0.0  # of measuring, in this run
    kinds: Counter[str] = field(default_factory=Counter)

    def summary(self) -> list[str]:
        """Lines for the terminal."""
        lines = []
        if self.measured:
            speed = f", {self.frames / self.seconds:.0f} frames/s" if self.frames else ""
            rest = "; the others were already" if self.measured < self.pairs else ""
            lines.append(f"measured   {self.measured} pairs in {self.seconds:.0f} s{speed}{rest}")
        share = f" ({100 * self.kept / self.pairs:.0f} %)" if self.pairs else ""
        lines += [f"kept       {self.kept} of {self.pairs} pairs{share}", f"rejected   {self.pairs - self.kept}"]
        lines += [f"  {count:>6}   {kind}" for kind, count in self.kinds.most_common()]
        return lines


def curate(
    store: PairStore,
    thresholds: Thresholds,
    executor: Executor,
    workers: int = 1,
    progress: Callable[[str, int, int], None] | None = None,
) -> Curation:
    """Measure what is not measured, judge every pair and write the verdicts into the store.

    `workers` is how many the executor has, to cut the work accordingly. `progress(stage, done, total)` is called as
    chunks are finished.

    Raises:
        SyncloraError: no store here, another run at work in it, or measurements that cannot be read or written.
    """
    result = Curation()
    len(store)  # says at once that there is no store, before anything is made in the folder
    with only_run(store):
        if store.is_local:
            for leftover in (store.root / PARTS).glob(".*.part.parquet"):
                leftover.unlink(missing_ok=True)
        known = Measurements(store)
        tasks = list({t.key: t for row in store.iter_rows() if not known.done((t := Task.of(row)).key)}.values())
        if tasks:
            _measure(store, known.next_run, tasks, executor, workers, result, progress)
            known = Measurements(store)
        store.update(lambda row: _judged(row, known.get(Task.of(row).key), thresholds, result))
        store.write_bytes(GATE, thresholds.to_yaml().encode())
    return result


def judge_row(row: PairRow, thresholds: Thresholds) -> Verdict:
    """The verdict on a curated row, from the figures it holds; one without figures is rejected for its own reason.

    Raises:
        SyncloraError: figures that are not what curation writes.
    """
    if row.sync is None or row.appearance is None:
        return Verdict(False, (Reason(UNREADABLE, row.reason, math.inf),), 0.0)
    try:
        report = SyncReport.from_json(json.loads(row.sync))
        look = Appearance.from_json(json.loads(row.appearance))
        return judge(report, look, thresholds)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise SyncloraError(
            f"{row.id}: its figures cannot be read ({type(error).__name__}: {error}); another version of synclora may "
            f"have written them. Delete the store's folder {PARTS} and run `synclora pairs curate` again."
        ) from error


def _measure(
    store: PairStore,
    run: int,
    tasks: list[Task],
    executor: Executor,
    workers: int,
    result: Curation,
    progress: Callable[[str, int, int], None] | None,
) -> None:
    started = time.monotonic()
    for done in executor.map_chunks(MeasureJob(store.url, run), list(chunked(tasks, workers))):
        result.measured += int(done["pairs"])
        result.frames += int(done["frames"])
        if progress:
            progress("Measuring pairs", result.measured, len(tasks))
    result.seconds = time.monotonic() - started


def _judged(row: PairRow, found: Measurement | None, thresholds: Thresholds, result: Curation) -> PairRow:
    """The row with its figures, verdict and reason; counts it in `result`."""
    assert found is not None, f"{row.id} was not measured"
    row = replace(row, sync=found.sync, appearance=found.appearance, reason=found.error)
    verdict = judge_row(row, thresholds)
    result.pairs += 1
    result.kept += verdict.keep
    result.unmeasured += found.sync is None
    result.kinds.update({reason.kind for reason in verdict.reasons})
    reason = "; ".join(reason.text for reason in verdict.reasons)
    return replace(row, verdict="keep" if verdict.keep else "reject", reason=reason)
