"""Executors: every item gets a result whatever it does to its worker, and every chunk is finished once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from synclora.errors import SyncloraError
from synclora.pairs.child import Child, Closed
from synclora.pairs.jobs import executor


@dataclass(frozen=True)
class Deeds:
    """A job whose items say what they do: "die", "die once", "hang", "raise", or a word to be measured.

    Results go to files of `folder`, one a chunk, so that any executor's work can be looked at.
    """

    folder: Path
    seconds: float = 60.0

    def load(self) -> Callable[[str], str]:
        (self.folder / f"loaded-{os.getpid()}").touch()
        return self._do

    def failed(self, item: str, why: str) -> str:
        return f"{item}: {why}"

    def limit(self, item: str) -> float:
        return self.seconds

    def finish(self, results: list[str]) -> dict[str, float]:
        if "unwritable" in results:
            raise SyncloraError("the disk is full")
        (self.folder / f"done-{time.monotonic_ns()}-{os.getpid()}").write_text("\n".join(results))
        return {"items": len(results), "letters": sum(map(len, results))}

    def _do(self, item: str) -> str:
        if item == "raise":
            raise ValueError("no such colour\nand more")
        if item == "hang":
            time.sleep(60)
        if item == "die" or (item == "die once" and not (self.folder / "died").exists()):
            (self.folder / "died").touch()
            os.kill(os.getpid(), signal.SIGSEGV)
        return item

    def results(self) -> list[str]:
        return sorted(line for file in self.folder.glob("done-*") for line in file.read_text().splitlines())


@dataclass(frozen=True)
class Unloadable(Deeds):
    def load(self) -> Callable[[str], str]:
        raise SyncloraError("the model is missing")


def test_in_this_process_every_item_has_a_result_and_an_exception_is_one(tmp_path: Path) -> None:
    job = Deeds(tmp_path)
    summaries = list(executor("local").map_chunks(job, [["a", "raise"], ["b"]]))
    assert job.results() == ["a", "b", "raise: failed with ValueError: no such colour"]
    assert [summary["items"] for summary in summaries] == [2, 1]
    assert len(list(tmp_path.glob("loaded-*"))) == 1


def test_worker_processes_outlive_items_that_kill_or_hang_them(tmp_path: Path) -> None:
    """Five chunks on two workers with a deadly item, one deadly only once, one that hangs and one that raises: every
    other item is measured, and each of the three bad ones has its own reason."""
    job = Deeds(tmp_path, seconds=1.0)
    chunks = [["a", "die", "b"], ["c"], ["raise", "d"], ["die once", "e"], ["hang", "f"]]
    summaries = list(executor("processes", workers=2).map_chunks(job, chunks))
    assert job.results() == [
        *("a", "b", "c", "d"),
        "die once",
        "die: the process that measured it died (killed by SIGSEGV), 2 times in a row",
        *("e", "f"),
        "hang: not done after 1 s, given up",
        "raise: failed with ValueError: no such colour",
    ]
    assert sum(summary["items"] for summary in summaries) == 10


def test_a_fault_of_the_job_itself_ends_it_and_its_processes(tmp_path: Path) -> None:
    with pytest.raises(SyncloraError, match="the disk is full"):
        list(executor("processes").map_chunks(Deeds(tmp_path), [["unwritable"], ["hang"]]))
    with pytest.raises(SyncloraError, match="could not start: the model is missing"):
        list(executor("processes").map_chunks(Unloadable(tmp_path), [["a"]]))


def test_no_worker_outlives_a_killed_parent(tmp_path: Path) -> None:
    """SIGKILL to the parent while its worker hangs in an item: the worker is gone a moment later."""
    code = f"""
        import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})
        from pathlib import Path
        from test_jobs import Deeds
        from synclora.pairs.jobs import executor
        if __name__ == "__main__":
            list(executor("processes").map_chunks(Deeds(Path({str(tmp_path)!r})), [["hang"]]))
    """
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(code))
    parent = subprocess.Popen([sys.executable, str(script)])
    deadline = time.monotonic() + 60
    while not (loaded := list(tmp_path.glob("loaded-*"))) and time.monotonic() < deadline:
        time.sleep(0.02)
    worker = int(loaded[0].name.split("-")[1])
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 10
    while Path(f"/proc/{worker}").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not Path(f"/proc/{worker}").exists()


def test_stopping_early_leaves_no_process_behind(tmp_path: Path) -> None:
    """Closing the iterator while an item hangs ends its process at once."""
    results = executor("processes", workers=2).map_chunks(Deeds(tmp_path), [["a"], ["hang"], ["b"]])
    next(results)
    started = time.monotonic()
    results.close()  # type: ignore[attr-defined]
    assert time.monotonic() - started < 10
    for loaded in tmp_path.glob("loaded-*"):
        assert not Path(f"/proc/{loaded.name.split('-')[1]}").exists()


def test_a_closed_child_stays_closed(tmp_path: Path) -> None:
    child = Child(Deeds(tmp_path))
    child.close()
    with pytest.raises(Closed):
        child("a")
    assert not list(tmp_path.glob("loaded-*"))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"name": "magic"}, "choose one of: processes, local, ray"),
        ({"name": "processes", "workers": 0}, "at least 1"),
        ({"name": "local", "workers": 2}, "choose the executor processes"),
        ({"name": "processes", "ray_address": "auto"}, "choose ray"),
    ],
)
def test_bad_settings_are_told(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(SyncloraError, match=said):
        executor(**settings)


def test_ray_gives_the_same_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One local Ray worker: good, raising and deadly items end as they do in worker processes, and it says how much."""
    pytest.importorskip("ray.data")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))  # where the workers find this module
    job = Deeds(tmp_path)
    summaries = list(executor("ray").map_chunks(job, [["a", "die"], ["raise"]]))
    assert job.results() == [
        "a",
        "die: the process that measured it died (killed by SIGSEGV), 2 times in a row",
        "raise: failed with ValueError: no such colour",
    ]
    assert sorted(summary["items"] for summary in summaries) == [1, 2]


def test_nothing_to_do_starts_nothing(tmp_path: Path) -> None:
    for name in ("local", "processes", "ray"):
        assert list(executor(name).map_chunks(Unloadable(tmp_path), [])) == []
