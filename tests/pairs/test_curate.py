"""Curation: good pairs kept, bad ones rejected with the reason, nothing measured twice, the same store after kills."""

from __future__ import annotations

import json
import multiprocessing
import random
import shutil
import time
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from fsspec.implementations.memory import MemoryFileSystem
from typer.testing import CliRunner

from synclora.atomic import sha256
from synclora.cli import app
from synclora.errors import SyncloraError
from synclora.pairs import PairRow, PairStore, measure, procedural_pair, save_pair
from synclora.pairs.curate import GATE, Curation, curate, judge_row
from synclora.pairs.jobs import InProcess
from synclora.pairs.measure import MeasureJob, Measurement, Measurements, Task, chunked, key_of
from synclora.sync.gate import Thresholds, load_thresholds

FRAMES, SIZE = 25, 128
LATE = 3  # frames


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> PairStore:
    """Two pairs: "good" of one motion, and "late", whose target is 3 frames late."""
    store = PairStore(tmp_path_factory.mktemp("made"))
    pair = procedural_pair(5, size=SIZE, frames=FRAMES + 8, test=True)
    good = replace(pair, id="good", source=pair.source[LATE:][:FRAMES], target=pair.target[LATE:][:FRAMES], curves=None)
    store.append([save_pair(store, good), save_pair(store, replace(good, id="late", target=pair.target[:FRAMES]))])
    return store


@pytest.fixture
def store(made: PairStore, tmp_path: Path) -> PairStore:
    """A copy of the two pairs to work on."""
    shutil.copytree(made.root, tmp_path / "pairs")
    return PairStore(tmp_path / "pairs")


@pytest.fixture(scope="module")
def measured(made: PairStore, tmp_path_factory: pytest.TempPathFactory) -> PairStore:
    """The two pairs, curated."""
    root = tmp_path_factory.mktemp("measured") / "pairs"
    shutil.copytree(made.root, root)
    run(PairStore(root))
    return PairStore(root)


@pytest.fixture
def curated(measured: PairStore, tmp_path: Path) -> PairStore:
    """A copy of the two curated pairs to work on."""
    shutil.copytree(measured.root, tmp_path / "pairs")
    return PairStore(tmp_path / "pairs")


def run(store: PairStore, thresholds: Thresholds | None = None) -> Curation:
    return curate(store, thresholds or load_thresholds(), InProcess())


def rows(store: PairStore) -> dict[str, PairRow]:
    return {row.id: row for row in store.iter_rows()}


def damaged(store: PairStore, name: str, data: bytes | None, *, recorded: bool) -> PairRow:
    """A pair whose target holds `data` (None: no file), under the data's own sha256 or the good file's."""
    good = rows(store)["good"]
    row = replace(good, id=name, target=f"media/{name}.target.mp4")
    if data is not None:
        store.write_bytes(row.target, data)
        if recorded:
            row = replace(row, sha256_target=sha256(store.target_path(row)))
    store.append(row)
    return row


def test_good_is_kept_and_late_is_rejected_with_the_lag(store: PairStore) -> None:
    result = run(store)
    found = rows(store)
    assert (found["good"].verdict, found["good"].reason) == ("keep", "")
    assert found["late"].verdict == "reject" and "frames late" in found["late"].reason
    assert (result.pairs, result.kept, result.measured, result.frames) == (2, 1, 2, 4 * FRAMES)
    sync, look = (json.loads(getattr(found["good"], name) or "") for name in ("sync", "appearance"))
    assert sync["overall"] > 0.8 and look["frames"] == FRAMES
    assert [row.id for row in store.iter_rows()] == ["good", "late"] and store.verify(deep=False) == []


def test_judging_again_measures_nothing(curated: PairStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other thresholds, and a pair whose figures were kept but whose verdict was lost: no clip is opened."""
    first = curated.table_path.read_bytes()
    monkeypatch.setattr(measure, "measure_pair", lambda *_: pytest.fail("measured again"))
    assert run(curated).measured == 0 and curated.table_path.read_bytes() == first
    assert run(curated, Thresholds(overall=0.999)).kept == 0
    assert "overall: 0.999" in curated.read_bytes(GATE).decode()
    curated._write([replace(row, verdict="unjudged", sync=None, appearance=None) for row in curated.rows()])
    assert run(curated).kept == 1 and curated.table_path.read_bytes() == first


def test_altered_clips_are_measured_again(curated: PairStore) -> None:
    """The late target replaced by the good one, and the table told so: measured, and kept."""
    found = rows(curated)
    shutil.copy(curated.target_path(found["good"]), curated.target_path(found["late"]))
    curated.append(replace(found["late"], sha256_target=found["good"].sha256_target), replace=True)
    assert run(curated).measured == 1 and rows(curated)["late"].verdict == "keep"


def test_pairs_that_cannot_be_measured_get_a_reason_each(curated: PairStore) -> None:
    """Missing, altered, cut off, not a video, too long, too short and of another rate: rejected, and nothing stops."""
    good = rows(curated)["good"]
    data = curated.read_bytes(good.target)
    damaged(curated, "missing", None, recorded=False)
    damaged(curated, "altered", data[:-7] + b"altered", recorded=False)
    damaged(curated, "cut", data[: len(data) // 2], recorded=True)
    damaged(curated, "noise", b"no video at all", recorded=True)
    curated.append(replace(good, id="short", frames=FRAMES + 8))
    curated.append(replace(good, id="long", frames=FRAMES - 8))
    result = run(curated)
    reasons = {name: row.reason for name, row in rows(curated).items() if row.verdict == "reject"}
    assert set(reasons) == {"late", "missing", "altered", "cut", "noise", "short", "long"}
    for name, said in {
        "missing": "the target file cannot be read: ",
        "cut": "the target file cannot be read: ",
        "noise": "the target file cannot be read: ",
        "altered": "the target file media/altered.target.mp4 was altered: sha256 ",
        "short": f"the source file has {FRAMES} frames, but the table says {FRAMES + 8}",
        "long": f"the source file has more than {FRAMES - 8} frames, but the table says {FRAMES - 8}",
    }.items():
        assert reasons[name].startswith(said), (name, reasons[name])
    assert (result.pairs, result.kept, result.unmeasured, result.kinds["not measured"]) == (8, 1, 6, 6)


def test_only_reasons_that_the_bytes_do_not_decide_are_looked_at_again(curated: PairStore) -> None:
    """A missing file that has come back is measured by the next run; a recorded file that is no video is not opened."""
    row = damaged(curated, "gone", None, recorded=False)
    damaged(curated, "noise", b"no video at all", recorded=True)
    run(curated)
    assert rows(curated)["gone"].verdict == "reject"
    shutil.copy(curated.target_path(rows(curated)["good"]), curated.target_path(row))
    result = run(curated)
    assert result.measured == 1 and rows(curated)["gone"].verdict == "keep"
    assert rows(curated)["noise"].reason.startswith("the target file cannot be read")
    assert run(curated).measured == 0


def test_a_pair_without_a_face_is_rejected_for_that(curated: PairStore) -> None:
    pair = replace(procedural_pair(5, size=64, frames=9, test=True), id="wall")
    curated.append(save_pair(curated, replace(pair, source=torch.full_like(pair.source, 90), curves=None)))
    run(curated)
    assert "no face in the source" in rows(curated)["wall"].reason


def fake(store: PairStore, task: Task) -> Measurement:
    """A measurement that follows from the task, in about a millisecond; every seventh pair cannot be read."""
    time.sleep(0.001)
    number = int(task.id)
    if number % 7 == 0:
        return Measurement(task.key, task.id, 0, None, None, f"no {number}", final=number % 2 == 0)
    return Measurement(task.key, task.id, 50, SYNC, json.dumps({**LOOK, "change_at": number}), "", final=True)


LOOK = {"flicker": 0.0, "change": 0.0, "change_at": 0, "frames": 25}
SYNC = ""


def quickly(root: Path) -> None:
    """Curate with `fake`."""
    measure.measure_pair = fake
    MeasureJob.load = lambda self: lambda task: fake(PairStore(root), task)
    curate(PairStore(root), load_thresholds(), InProcess())


def test_killed_at_random_moments_the_store_ends_the_same(curated: PairStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGKILL six times in 300 pairs, then a run to the end: the table is bit for bit that of an uninterrupted run, no
    measurement was lost but of the chunk in work, and nothing half-written is left."""
    good = rows(curated)["good"]
    monkeypatch.setitem(globals(), "SYNC", good.sync)
    everything = [replace(good, id=str(n), sync=None, appearance=None, verdict="unjudged") for n in range(300)]
    whole, killed = PairStore(curated.root / "whole"), PairStore(curated.root / "killed")
    for each in (whole, killed):
        each.append(everything)
    context = multiprocessing.get_context("fork")

    def start(each: PairStore) -> multiprocessing.Process:
        process = context.Process(target=quickly, args=(each.root,))
        process.start()
        return process  # type: ignore[return-value]

    start(whole).join()
    rng, reached = random.Random(0), [0]
    for _ in range(6):
        process = start(killed)
        time.sleep(rng.uniform(0.02, 0.2))
        process.kill()
        process.join()
        assert len(killed) == 300
        known = Measurements(killed)
        reached.append(sum(known.get(key_of(row)) is not None for row in everything))
    assert reached == sorted(reached)
    last = start(killed)
    last.join()
    assert last.exitcode == 0
    assert killed.table_path.read_bytes() == whole.table_path.read_bytes()
    assert sum(row.verdict == "keep" for row in killed.iter_rows()) == 300 - 43
    assert not [path for path in killed.root.rglob(".*") if path.name != ".lock"]
    print("measured when killed:", reached)


def test_measurements_lie_in_one_file_a_chunk(store: PairStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """The table is written once, however many chunks: 2 chunks, 2 parts."""
    written = []
    monkeypatch.setattr(PairStore, "_write_batches", lambda self, batches: written.append(list(batches)))
    monkeypatch.setattr("synclora.pairs.curate.chunked", lambda tasks, _: [tasks[:1], tasks[1:]])
    run(store)
    parts = store.list("measurements")
    assert len(written) == 1 and len(parts) == 2
    assert all(pq.read_table(store.root / name).num_rows == 1 for name in parts)


def test_a_damaged_part_is_told_with_the_way_out(curated: PairStore) -> None:
    part = curated.root / curated.list("measurements")[0]
    part.write_bytes(part.read_bytes()[:-20])
    with pytest.raises(SyncloraError, match=f"{part.name}: not readable.*Delete this file and run again"):
        run(curated)
    part.unlink()
    assert run(curated).measured >= 1


def test_damaged_figures_are_told_with_the_way_out(curated: PairStore) -> None:
    row = rows(curated)["good"]
    for broken in ("{", "[]", '{"frames": 3}', "null"):
        with pytest.raises(SyncloraError, match=r"good: its figures cannot be read.*Delete the store's folder"):
            judge_row(replace(row, sync=broken), load_thresholds())


def test_a_store_behind_a_url_is_curated_alike(store: PairStore) -> None:
    """memory://: the clips are fetched, the parts and the table put; the table is that of the local store."""
    remote = PairStore("memory://curated")
    try:
        for name in store.list():
            remote.put(store.root / name, name)
        run(remote)
        run(store)
        assert remote.read_bytes("pairs.parquet") == store.table_path.read_bytes()
        assert remote.list("measurements")
    finally:
        MemoryFileSystem().rm("/curated", recursive=True)


@pytest.mark.parametrize(("count", "workers", "sizes"), [(5, 1, {1}), (100, 2, {6, 4}), (100_000, 8, {64, 32})])
def test_chunks_cover_everything_once(count: int, workers: int, sizes: set[int]) -> None:
    tasks = [Task(str(n), str(n), "", "", "", "", 9) for n in range(count)]
    chunks = list(chunked(tasks, workers))
    assert [task for chunk in chunks for task in chunk] == tasks and {len(chunk) for chunk in chunks} == sizes


def test_the_command_says_what_it_did_and_what_is_wrong(store: PairStore, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["pairs", "curate", str(store.root), "--executor", "local"])
    assert result.exit_code == 0 and "kept       1 of 2 pairs (50 %)" in result.output
    assert judge_row(rows(store)["late"], load_thresholds()).reasons[0].kind in result.output
    result = CliRunner().invoke(app, ["pairs", "curate", str(tmp_path / "none"), "--executor", "local"])
    assert result.exit_code == 2 and not (tmp_path / "none").exists()
