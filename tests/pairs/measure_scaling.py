"""What curation costs: frames/s of one worker, of two, poisoned stores, and the bill for a million pairs.

    python tests/pairs/measure_scaling.py speed out/scaling --executor ray --workers 1 2
    python tests/pairs/measure_scaling.py poisoned out/poisoned --pairs 1000 --corrupt 20

speed: 512 px clips are made where they are missing (each rendered pair under many ids) and measured anew for each
number of workers. The rate is that of the steady state, from the moment every worker has finished a chunk until the
first runs out of work, so that starting up does not count. With --executor local the clock is the processor time of
all threads of this process: frames a core-second, whatever else the machine does.
"""

from __future__ import annotations

import argparse
import platform
import shutil
import time
from dataclasses import replace
from pathlib import Path

import torch

from synclora.atomic import sha256
from synclora.pairs import PairStore, procedural_pair, save_pair
from synclora.pairs.curate import curate
from synclora.pairs.jobs import executor
from synclora.pairs.measure import PARTS, MeasureJob, Task
from synclora.sync.gate import load_thresholds

SIZE, FRAMES = 512, 33
RENDERED = 2  # different pairs
SEED = 830_000
MILLION = 1_000_000
CLIP_FRAMES = 81  # of the clips in the bill


def filled(root: Path, pairs: int, size: int, frames: int, rendered: int) -> PairStore:
    """A store of so many pairs, `rendered` of them drawn and the others the same files under other ids."""
    store = PairStore(root)
    if not store.exists():
        drawn = [save_pair(store, procedural_pair(SEED + n, size=size, frames=frames)) for n in range(rendered)]
        store.append([replace(drawn[n % rendered], id=f"{n:07d}", motion=None) for n in range(pairs)])
    assert len(store) == pairs, f"{root} holds {len(store)} pairs; give another folder"
    return store


def speed(root: Path, name: str, workers: list[int], pairs: int) -> None:
    store = filled(root, pairs, SIZE, FRAMES, RENDERED)
    tasks = [Task.of(row) for row in store.iter_rows()]
    first = 0.0
    print(f"{_machine()}; executor {name}, {SIZE}x{SIZE}, {FRAMES} frames a clip, {pairs} pairs")
    for count in workers:
        shutil.rmtree(root / PARTS, ignore_errors=True)
        chunks = [tasks[start : start + 1] for start in range(len(tasks))]
        arrivals: list[tuple[float, float]] = []
        clock = time.process_time if name == "local" else time.monotonic
        started = clock()
        for done in executor(name, count).map_chunks(MeasureJob(store.url, 1), chunks):
            arrivals.append((clock() - started, done["frames"]))
        steady = arrivals[count - 1 : len(arrivals) - count + 1]
        rate = sum(frames for _, frames in steady[1:]) / (steady[-1][0] - steady[0][0])
        first = first or rate / count
        print(
            f"{count} worker(s): {rate:.1f} frames/s, {rate / count:.1f} a worker, {rate / first:.2f} times one "
            f"(efficiency {rate / first / count:.2f}); {steady[0][0]:.1f} s until every worker had a chunk",
            flush=True,
        )
    media = sum((root / row.source).stat().st_size + (root / row.target).stat().st_size for row in store.rows()) / pairs
    hours = MILLION * 2 * CLIP_FRAMES / first / 3600
    print(
        f"a million pairs of {CLIP_FRAMES} frames: {hours:.0f} core-hours; media "
        f"{media / FRAMES * CLIP_FRAMES * MILLION / 1e12:.2f} TB (from {media / 1e3:.0f} kB a pair here)"
    )


def poisoned(root: Path, pairs: int, corrupt: int, workers: int) -> None:
    """Curate tiny clips, some of them damaged in turn: cut off, noise, empty, missing, a byte turned, a text file."""
    store = filled(root, pairs, 64, 9, 1)
    rows = store.rows()
    data = store.read_bytes(rows[0].target)
    bad = []
    for number in range(corrupt):
        row = rows[number * pairs // corrupt]
        path = f"media/corrupt-{number}.mp4"
        turned = bytearray(data)
        turned[len(data) // 2 + number] ^= 0xFF
        kind = [data[: len(data) * 2 // 3], bytes(range(256)) * 40, b"", None, bytes(turned), b"no video"][number % 6]
        digest = row.sha256_target
        if kind is not None:
            store.write_bytes(path, kind)
            digest = sha256(root / path) if number % 6 != 4 else digest
        bad.append(replace(row, target=path, sha256_target=digest))
    store.append(bad, replace=True)
    result = curate(store, load_thresholds(), executor("processes", workers), workers)
    print(_machine(), *result.summary(), sep="\n")
    told = {row.id: row.reason for row in store.iter_rows() if row.sync is None}
    for name, reason in told.items():
        print(f"  {name}: {reason}")
    assert set(told) == {row.id for row in bad} and all(told.values()), "not every damaged file has its reason"
    print(f"{len(told)} of {pairs} pairs could not be measured, each with a reason")


def _machine() -> str:
    names = [
        line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    ]
    return f"{len(names)} cores of {names[0] if names else platform.processor()}, torch {torch.__version__}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("speed", "poisoned"))
    parser.add_argument("store", type=Path)
    parser.add_argument("--executor", default="ray")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--pairs", type=int, default=40)
    parser.add_argument("--corrupt", type=int, default=20)
    options = parser.parse_args()
    if options.what == "speed":
        speed(options.store, options.executor, options.workers, options.pairs)
    else:
        poisoned(options.store, options.pairs, options.corrupt, options.workers[0])


if __name__ == "__main__":
    main()
