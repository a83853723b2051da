"""Generating pairs: determinism, the train/test split of seeds, and runs that survive a kill."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from synclora.errors import SyncloraError
from synclora.pairs import PairStore, generate_store, procedural_pair, procedural_pairs
from synclora.pairs import generate as generate_module
from synclora.portraits import TEST_SEED_START

SMALL: dict[str, Any] = {"size": 64, "frames": 9}


def test_a_pair_is_its_seed() -> None:
    """The same seed gives the same pair, bit for bit; another seed another."""
    a, again, b = (procedural_pair(seed, **SMALL) for seed in (3, 3, 4))
    assert (a.source == again.source).all() and (a.target == again.target).all()
    assert (a.id, a.prompt, a.curves) == (again.id, again.prompt, again.curves)
    assert not (a.source == b.source).all()


def test_both_clips_have_the_shape_and_differ() -> None:
    pair = procedural_pair(1, **SMALL)
    assert pair.source.shape == pair.target.shape == (9, 64, 64, 3)
    assert pair.edit_kinds and not (pair.source == pair.target).all()
    assert pair.curves is not None and all(len(curve) == 9 for curve in pair.curves.values())


def test_test_pairs_have_seeds_of_their_own() -> None:
    """test=True shifts by TEST_SEED_START; training seeds may not reach it."""
    assert procedural_pair(2, test=True, **SMALL).seed == TEST_SEED_START + 2
    with pytest.raises(SyncloraError, match="kept for testing"):
        procedural_pair(TEST_SEED_START, **SMALL)


def test_pairs_come_in_order_of_seeds() -> None:
    assert [pair.seed for pair in procedural_pairs(2, 5, **SMALL)] == [5, 6]


def test_store_is_sound_and_holds_the_true_motion(tmp_path: Path) -> None:
    assert generate_store(tmp_path, 2, 0, **SMALL) == 2
    store = PairStore(tmp_path)
    assert store.verify() == []
    row = store.rows()[1]
    pair = procedural_pair(1, **SMALL)
    assert (row.id, row.seed, row.generator, row.prompt) == (pair.id, 1, "procedural", pair.prompt)
    assert row.motion is not None and pair.curves is not None
    assert json.loads(row.motion)["yaw"] == pytest.approx(pair.curves["yaw"], abs=1e-5)


def test_second_run_makes_only_what_is_missing_or_altered(tmp_path: Path) -> None:
    generate_store(tmp_path, 2, 0, **SMALL)
    store = PairStore(tmp_path)
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "media").iterdir()}
    assert generate_store(tmp_path, 2, 0, **SMALL) == 0
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "media").iterdir()} == times
    store.target_path(store.rows()[0]).write_bytes(b"altered")
    assert generate_store(tmp_path, 3, 0, **SMALL) == 2
    assert [row.seed for row in store.rows()] == [0, 1, 2] and store.verify() == []


def test_resume_with_other_settings_is_refused(tmp_path: Path) -> None:
    generate_store(tmp_path, 1, 0, **SMALL)
    with pytest.raises(SyncloraError, match="9 frames of 64x64, but 17 frames of 64x64 were asked for"):
        generate_store(tmp_path, 1, 0, size=64, frames=17)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"count": 0}, "at least 1 pair"),
        ({"size": 50}, "multiple of 32 from 64 to 1024 is needed, e.g. 64"),
        ({"frames": 10}, "8k"),
        ({"workers": 0}, "at least 1"),
        ({"generator": "magic"}, "choose one of: procedural"),
        ({"seed": -1}, "seeds run from 0"),
    ],
)
def test_bad_settings_are_told(tmp_path: Path, settings: dict, said: str) -> None:
    with pytest.raises(SyncloraError, match=said):
        generate_store(**{"root": tmp_path, "count": 1, "seed": 0, **SMALL, **settings})


def test_two_runs_in_one_folder_are_refused(tmp_path: Path) -> None:
    """The lock is the system's: held by a live run only, so a killed one never blocks the next."""
    with generate_module.only_run(PairStore(tmp_path)), pytest.raises(SyncloraError, match="another run"):
        generate_store(tmp_path, 1, 0, **SMALL)
    assert generate_store(tmp_path, 1, 0, **SMALL) == 1


def test_interrupt_keeps_what_is_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = generate_module._render_and_save

    def stops_at_two(root, seed, *rest):
        if seed == 2:
            raise KeyboardInterrupt
        return real(root, seed, *rest)

    monkeypatch.setattr(generate_module, "_render_and_save", stops_at_two)
    with pytest.raises(KeyboardInterrupt):
        generate_store(tmp_path, 4, 0, **SMALL)
    store = PairStore(tmp_path)
    assert [row.seed for row in store.rows()] == [0, 1] and store.verify() == []


def test_kill_leaves_a_valid_store_and_the_next_run_finishes_it(tmp_path: Path) -> None:
    """SIGKILL in the middle, with workers: the table opens, all its rows are sound, no worker lives on, and the same
    command ends with every pair and no leftovers."""
    command = [sys.executable, "-m", "synclora", "pairs", "generate", "--count", "40", "--out", str(tmp_path)]
    command += ["--size", "64", "--frames", "9", "--workers", "2"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 60
    while len(list(tmp_path.glob("media/procedural-*.mp4"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    store = PairStore(tmp_path)
    assert store.verify() == []
    time.sleep(1.0)  # for the workers to see that they are alone
    files = set((tmp_path / "media").iterdir())
    time.sleep(0.5)
    assert set((tmp_path / "media").iterdir()) == files
    (tmp_path / "media" / ".left.0000.part.mp4").write_bytes(b"half")
    generate_store(tmp_path, 5, 0, **SMALL)
    assert [row.seed for row in sorted(store.rows(), key=lambda row: row.seed)][:5] == [0, 1, 2, 3, 4]
    assert store.verify() == [] and not list((tmp_path / "media").glob(".*"))
