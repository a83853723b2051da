"""Stages as Ray actors: items move on by themselves, and neither an error nor a dead actor stops the others."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from pathlib import Path

import pytest

from synclora.errors import SyncloraError
from synclora.pairs.splitscreen.config import SplitScreenConfig
from synclora.pairs.splitscreen.files import Item, ItemFiles
from synclora.pairs.splitscreen.pools import OnRay
from synclora.pairs.splitscreen.prompts import portrait
from synclora.pairs.splitscreen.stages import Stage, Work
from synclora.pairs.store import PairStore

NOWHERE = {"model": "nowhere"}


class First(Stage):
    """Writes a file; raises for seed 1, and dies with its process at seed 2."""

    name, title, output = "first", "First", "first.json"

    def make(self, items: Sequence[Item]) -> None:
        for item in items:
            if item.seed == 1:
                raise ValueError("no such colour\nand more")
            if item.seed == 2:
                os.kill(os.getpid(), signal.SIGKILL)
            self.files(item).write_json(self.output, os.getpid())


class Second(Stage):
    """Reads what the first wrote, in another process."""

    name, title, output = "second", "Second", "second.json"

    def make(self, items: Sequence[Item]) -> None:
        for item in items:
            self.files(item).write_json(self.output, [self.files(item).read_json("first.json"), os.getpid()])


def work(root: Path) -> Work:
    parts = {"portrait": NOWHERE, "edit": NOWHERE, "video": NOWHERE}
    return Work(str(root), SplitScreenConfig.model_validate(parts), {})


def test_items_pass_through_the_actors_of_all_stages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of seeds 0 to 3, where 1 raises and 2 kills its actor, 0 and 3 come out; 4 begins at the second stage."""
    pytest.importorskip("ray")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))  # where the actors find this module
    items = [Item(f"item-{seed}", seed, portrait(seed)) for seed in range(5)]
    files = [ItemFiles(PairStore(tmp_path), item.id) for item in items]
    files[4].write_json("first.json", 0)
    told: list[tuple[str, int, int]] = []
    run = OnRay(kinds=(First, Second))
    plan = {"first": items[:4], "second": items[4:]}
    done = [item.seed for item in run(work(tmp_path), plan, lambda *step: told.append(step))]
    assert sorted(done) == [0, 3, 4]
    first, second = files[0].read_json("second.json")
    assert len({first, second, os.getpid()}) == 3
    raised, died = files[1].read_failure(), files[2].read_failure()
    assert raised is not None and raised.reason == "failed with ValueError: no such colour"
    assert died is not None and died.reason.startswith("the worker died: ") and not died.final
    assert ("First", 4, 4) in told and ("Second", 3, 3) in told


def test_nothing_to_do_starts_nothing(tmp_path: Path) -> None:
    assert list(OnRay("ray://nowhere:1", kinds=(First,))(work(tmp_path), {"first": []}, None)) == []


def test_more_gpus_than_there_are_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before an actor is asked for that would wait for ever."""
    ray = pytest.importorskip("ray")
    monkeypatch.setattr(ray, "init", lambda **_: None)
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 4.0, "GPU": 1.0})
    monkeypatch.setattr("synclora.pairs.splitscreen.pools._needs", lambda *_: (2, 0.75))
    plan = {"first": [Item("item-0", 0, portrait(0))]}
    with pytest.raises(SyncloraError, match=r"all stages together need 1\.5 GPUs, and Ray has 1\. Lower `workers`"):
        list(OnRay(kinds=(First,))(work(tmp_path), plan, None))
