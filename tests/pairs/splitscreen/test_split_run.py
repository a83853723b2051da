"""The whole job with tiny random pipelines of the real classes: from a seed to a store that is sound."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from synclora.clip import read_clip
from synclora.errors import SyncloraError
from synclora.pairs import PairStore
from synclora.pairs.exchange import REFUSED
from synclora.pairs.splitscreen.config import SplitScreenConfig
from synclora.pairs.splitscreen.files import Item, ItemFiles
from synclora.pairs.splitscreen.prompts import portrait
from synclora.pairs.splitscreen.run import generate_split_screen
from synclora.pairs.splitscreen.stages import EditStage, LayoutStage, source_is_left
from tests.pairs.splitscreen.conftest import Configured, settings

SEED = 1_000_070
KEPT = (
    "portrait.png", "portrait.json", "edited.png", "edit.json", "aligned.png", "composed.png", "layout.json",
    "video.mp4", "video.json", "prompt.json", "record.json",
)  # fmt: skip


@pytest.fixture(scope="session")
def finished(models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store of a run of two pairs that nothing disturbed."""
    root = tmp_path_factory.mktemp("finished") / "store"
    config = SplitScreenConfig.model_validate(settings(models))
    assert generate_split_screen(root, 2, config, SEED).made == 2
    return root


def content(root: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """All rows and all files but the table, which may hold its rows in another order."""
    rows = sorted((asdict(row) for row in PairStore(root).iter_rows()), key=lambda row: row["id"])
    files = {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*") if p.is_file()}
    return rows, {name: data for name, data in files.items() if name not in ("pairs.parquet", ".lock")}


def stopped(finished: Path, root: Path, *without: str) -> Path:
    """A copy of the store as if stopped before these files were written: no table, no clips. Without `settings.json` it
    takes other settings, too."""
    for path in (finished / "stages").rglob("*"):
        name = path.relative_to(finished).as_posix()
        if path.is_file() and path.name != "record.json" and not name.endswith(without):
            target = root / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    return root


def test_a_run_gives_a_sound_store_with_everything_on_the_way(finished: Path) -> None:
    """Rows as the prompts say, clips of the asked size and length cut from the raw video at the seam, models, seeds and
    settings in the record."""
    store = PairStore(finished)
    assert store.verify() == []
    rows = store.rows()
    assert [row.id for row in rows] == [f"split-screen-{SEED + n:07d}" for n in range(2)]
    for row in rows:
        words = portrait(row.seed)
        assert (row.generator, row.prompt, row.edit_kinds) == ("split-screen", words.caption, words.edit_kinds)
        assert (row.frames, row.width, row.height, row.fps, row.verdict) == (9, 48, 48, "25", "unjudged")
        folder = finished / "stages" / row.id
        assert sorted(p.name for p in folder.iterdir()) == sorted(KEPT)
        record = json.loads((folder / "record.json").read_text())
        assert record["row"] == asdict(row)
        assert record["portrait"]["pipeline"] == "StableDiffusionPipeline"
        assert record["edit"]["settings"]["guidance_scale"] == 2.5
        assert record["video"]["pipeline"] == "LTXImageToVideoPipeline" and "both halves" in record["video"]["prompt"]
        assert len({record[stage]["seed"] for stage in ("portrait", "edit", "video")}) == 3
        assert record["layout"]["source"] == ("left" if source_is_left(row.seed) else "right")
        raw = read_clip(folder / "video.mp4").frames.float()
        assert raw.shape == (9, 64, 160, 3)  # 2 x 64 and a bar that grew from 16 to 32 for LTX
        start = 8 if record["layout"]["source"] == "left" else 64 + 32 + 8
        cut = raw[:, 8:56, start : start + 48]
        source, target = (read_clip(path).frames.float() for path in (store.source_path(row), store.target_path(row)))
        assert (source - cut).abs().mean() < 6 < 2 * (target - cut).abs().mean()


def test_both_sides_come_up(finished: Path) -> None:
    """Over 400 seeds the source is left in half of them, within three standard deviations (30)."""
    assert 170 < sum(source_is_left(SEED + n) for n in range(400)) < 230


def test_the_same_command_again_makes_nothing(finished: Path, configured: Configured) -> None:
    before = content(finished)
    done = generate_split_screen(finished, 2, configured(), SEED)
    assert (done.made, done.present, done.refused) == (0, 2, [])
    assert content(finished) == before


def test_media_that_are_gone_are_cut_again(finished: Path, configured: Configured, monkeypatch: Any) -> None:
    """From the raw video, without any model."""
    monkeypatch.setattr("synclora.pairs.splitscreen.stages.load", _never)
    before, store = content(finished), PairStore(finished)
    store.target_path(store.rows()[1]).unlink()
    assert generate_split_screen(finished, 2, configured(), SEED).made == 1
    assert content(finished) == before and store.verify() == []


def test_a_killed_run_goes_on_and_ends_the_same(
    finished: Path, models: dict[str, Path], configured: Configured, tmp_path: Path
) -> None:
    """SIGKILL as soon as the first edited portrait is there; the run after it ends with the undisturbed run's files."""
    root, config = tmp_path / "store", tmp_path / "config.json"
    config.write_text(json.dumps(settings(models)))
    code = f"""
        import torch; torch.set_num_threads(1)
        from synclora.pairs.splitscreen.run import generate_split_screen
        generate_split_screen({str(root)!r}, 2, {str(config)!r}, {SEED})
    """
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], stderr=subprocess.DEVNULL)
    first, deadline = root / "stages" / f"split-screen-{SEED:07d}" / "edited.png", time.monotonic() + 240
    while not first.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert first.exists() and not list((root / "stages").glob("*/video.mp4"))
    portraits = {path: path.stat().st_mtime_ns for path in (root / "stages").glob("*/portrait.png")}
    (first.parent / ".edited.0000.part.png").write_bytes(b"half")
    assert generate_split_screen(root, 2, configured(), SEED).made == 2
    assert {path: path.stat().st_mtime_ns for path in portraits} == portraits
    assert content(root) == content(finished)


def test_an_item_that_fails_is_told_and_stops_no_other(
    finished: Path, configured: Configured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An exception of the editing model for the second pair; the next run makes it, and all is as if never failed."""
    second = f"split-screen-{SEED + 1:07d}"
    missing = ("edited.png", "edit.json", "aligned.png", "composed.png", "layout.json", "video.mp4", "video.json")
    stopped(finished, tmp_path, *(f"{second}/{name}" for name in missing))
    right = EditStage.make

    def wrong(self: EditStage, items: Sequence[Item]) -> None:
        if any(item.seed == SEED + 1 for item in items):
            raise RuntimeError("CUDA error: unspecified launch failure\nand more")
        right(self, items)

    monkeypatch.setattr(EditStage, "make", wrong)
    done = generate_split_screen(tmp_path, 2, configured(), SEED)
    why = "failed with RuntimeError: CUDA error: unspecified launch failure"
    assert done.made == 1 and [(f.stage, f.reason, f.final) for f in done.refused] == [("edit", why, False)]
    told = [json.loads(line) for line in (tmp_path / REFUSED).read_text().splitlines()]
    assert told == [{"id": second, "stage": "edit", "why": why}]
    assert PairStore(tmp_path).verify() == [] and "1 refused" in done.summary("out")[-1]
    monkeypatch.setattr(EditStage, "make", right)
    done = generate_split_screen(tmp_path, 2, configured(), SEED)
    assert (done.made, done.present, done.refused) == (1, 1, [])
    assert content(tmp_path) == content(finished)


def test_what_is_refused_for_its_looks_is_not_made_again(
    finished: Path, configured: Configured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Noise shows no face: refused before any video is made, with the reason, and for good."""
    monkeypatch.setattr("synclora.pairs.splitscreen.stages.load", _never)
    stopped(finished, tmp_path, "settings.json", "composed.png", "video.mp4")
    config = configured(align={"no_face": "reject"})
    done = generate_split_screen(tmp_path, 1, config, SEED)
    assert done.made == 0 and done.refused[0].final
    assert str(done.refused[0]) == f"split-screen-{SEED:07d}: layout: no face was found in the portrait"
    monkeypatch.setattr(LayoutStage, "make", _never)
    again = generate_split_screen(tmp_path, 1, config, SEED)
    assert again.refused == done.refused and len(PairStore(tmp_path)) == 0


def test_a_bad_bar_refuses_the_pair(finished: Path, configured: Configured, tmp_path: Path) -> None:
    """The raw video of the finished store with a limit on the leak: noise leaks in frame 0 already."""
    stopped(finished, tmp_path, "settings.json")
    done = generate_split_screen(tmp_path, 1, configured(seam={"shift": None, "leak": 0.01}), SEED)
    assert done.made == 0 and "leaks into the bar in frame 0 (limit 0.01)" in done.refused[0].reason


def test_other_settings_or_prompts_are_refused_by_name(finished: Path, configured: Configured, tmp_path: Path) -> None:
    with pytest.raises(SyncloraError, match=r"was begun with caption '\{caption\}', and now it is '3d1t'"):
        generate_split_screen(finished, 2, configured(caption="3d1t"), SEED)
    own = tmp_path / "prompts.jsonl"
    own.write_text(json.dumps(portrait(1).model_dump()) + "\n")
    store = PairStore(finished)
    row = store.rows()[0]
    kept = store.target_path(row).read_bytes()
    store.target_path(row).unlink()
    try:
        with pytest.raises(SyncloraError, match=f"{row.id} was begun with the "):
            generate_split_screen(finished, 1, configured(), SEED, prompts=own)
    finally:
        store.target_path(row).write_bytes(kept)
    with pytest.raises(SyncloraError, match="holds 1 prompts, but --count is 2"):
        generate_split_screen(tmp_path / "new", 2, configured(), SEED, prompts=own)


def test_damaged_records_are_told_with_the_way_out(finished: Path, configured: Configured, tmp_path: Path) -> None:
    """The settings that a store was begun with, and a failure of the run before."""
    stopped(finished, tmp_path)
    kept = (tmp_path / "stages" / "settings.json").read_bytes()
    failed = tmp_path / "stages" / f"split-screen-{SEED:07d}" / "failed.json"
    for path, text in ((tmp_path / "stages" / "settings.json", "{"), (failed, "{"), (failed, "{}")):
        path.write_text(text)
        with pytest.raises(SyncloraError, match=rf"{path}: is damaged.*[Dd]elete it and run again"):
            generate_split_screen(tmp_path, 2, configured(), SEED)
        (tmp_path / "stages" / "settings.json").write_bytes(kept)


def test_own_prompts_and_wan(cleaner: None, configured: Configured, tmp_path: Path) -> None:
    """Wan's class, with the prompt of the first line for the first seed and a trigger word for all captions."""
    own = tmp_path / "prompts.jsonl"
    words = portrait(3).model_copy(update={"edit_kinds": ["monocle"]})
    own.write_text(json.dumps(words.model_dump()) + "\n")
    config = configured("wan", caption="3d1t")
    assert generate_split_screen(tmp_path / "store", 1, config, SEED, prompts=own).made == 1
    store = PairStore(tmp_path / "store")
    [row] = store.rows()
    assert store.verify() == [] and (row.prompt, row.edit_kinds, row.fps) == ("3d1t", ["monocle"], "16")
    record = ItemFiles(store, row.id).read_json("record.json")
    assert record["portrait"]["prompt"] == words.portrait and record["prompt"] == words.model_dump()
    assert record["video"]["pipeline"] == "WanImageToVideoPipeline" and record["layout"]["canvas"] == [144, 64]
    assert record["split"]["frames"] == 9 and record["split"]["leak"] > 0.05 and record["split"]["seam_gone"] <= 9


def _never(*_: Any, **__: Any) -> Any:
    raise AssertionError("this was to be left alone")
