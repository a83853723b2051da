"""The benchmark end to end with methods that need no weights."""

from __future__ import annotations

import base64
import json
import re
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from PIL import Image

from synclora import portraits
from synclora.bench import baselines, held_out_pairs, psnr, run_procedural
from synclora.bench.baselines import BenchPair
from synclora.bench.suite import run_suite
from synclora.clip import Clip, read_clip
from synclora.errors import SyncloraError

COUNT, SIZE, FRAMES = 2, 64, 17


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One small run: two pairs, a perfect fake editor, one that shows the source itself, and two baselines."""
    out = tmp_path_factory.mktemp("bench")
    seen: list[tuple[str, int, int]] = []
    methods = {
        "perfect": baselines.truth,
        "first_frame": baselines.first_frame,
        "late_truth": baselines.late_truth,
        "copy": lambda pair: pair.source.frames,
    }
    result = run_procedural(
        COUNT, out, size=SIZE, frames=FRAMES, methods=methods, progress=lambda *step: seen.append(step)
    )
    assert result == json.loads((out / "bench.json").read_text())
    assert ("Method copy", COUNT, COUNT) in seen
    return out


def test_results_order_as_they_must(folder: Path) -> None:
    """truth: exact; the source itself: sync 1 in all channels, every lag 0; a still frame: r 0 wherever judged."""
    table = json.loads((folder / "bench.json").read_text())
    methods = table["methods"]
    assert methods["perfect"]["psnr"] is None and methods["perfect"]["ssim"] == pytest.approx(1)
    copy, still = methods["copy"], methods["first_frame"]
    assert copy["sync"]["overall"] == 1 and copy["lag0_share"] == 1
    judged = [name for name, clips in copy["sync_clips"].items() if clips and name != "overall"]
    assert len(judged) >= 4
    for name in judged:
        assert copy["sync"][name] == 1 and still["sync"][name] == 0
        assert still["sync_clips"][name] == copy["sync_clips"][name]  # the source decides who counts
    assert still["sync"]["overall"] == 0 and still["lag0_share"] == 0
    assert methods["perfect"]["sync"]["overall"] > methods["late_truth"]["sync"]["overall"]
    assert {"psnr", "ssim", "sync", "blink_f1", "lag0_share", "seconds_per_clip"} <= set(still)
    assert still["psnr_ci"][0] <= still["psnr"] <= still["psnr_ci"][1]
    perfect, late = methods["perfect"], methods["late_truth"]
    assert perfect["flicker"] == still["flicker"] == 0 and perfect["retention"] == 1
    assert still["end_to_start"] > 1.2  # ever further from a frame that stands still
    assert copy["lag"] == 0 and copy["lag0_clips"] == 1
    assert still["lag"] is None and still["lag0_clips"] == 0
    assert late["lag"] == pytest.approx(2, abs=0.5) and late["lag0_clips"] == 0
    kinds = [clip["kind"] for clip in table["clips"]]
    assert list(late["by_kind"]) == kinds and late["by_kind"][kinds[0]]["clips"] == 1
    assert late["by_kind"][kinds[1]]["psnr"] == table["clips"][1]["methods"]["late_truth"]["psnr"]


def test_table_and_picture(folder: Path) -> None:
    """One row a method; the picture holds, per pair, source, truth and three methods (not the late truth)."""
    rows = (folder / "bench.md").read_text().splitlines()
    first = [row for row in rows if row.startswith(("| perfect", "| first_frame", "| late_truth", "| copy"))][:4]
    assert [row.split(" | ")[0] for row in first] == ["| perfect", "| first_frame", "| late_truth", "| copy"]
    assert first[0].split(" | ")[1] == "exact"
    width, height = Image.open(folder / "frames.png").size
    assert width >= 5 * SIZE and height >= COUNT * 5 * SIZE
    assert sorted(path.name for path in folder.iterdir()) == ["bench.html", "bench.json", "bench.md", "frames.png"]


def test_page_holds_every_clip_of_every_pair(folder: Path, tmp_path: Path) -> None:
    """One video a pair, the frames' count long, in which each panel's tile is its method's clip (H.264 near CRF 17)."""
    text = (folder / "bench.html").read_text()
    assert "http" not in text.replace("http-equiv", "")
    data = json.loads(re.findall(r'<script id="data"[^>]*>(.*?)</script>', text, re.S)[0])
    videos = re.findall(r'<script class="mp4"[^>]*>(.*?)</script>', text, re.S)
    assert len(videos) == len(data["pairs"]) == COUNT
    assert [panel["name"] for panel in data["panels"]] == [
        "source", "truth", "perfect", "first_frame", "late_truth", "copy",
    ]  # fmt: skip
    (tmp_path / "tiles.mp4").write_bytes(base64.b64decode(videos[1]))
    tiles = read_clip(tmp_path / "tiles.mp4").frames
    assert len(tiles) == FRAMES == data["pairs"][1]["frames"]
    pair = list(held_out_pairs(COUNT, size=SIZE, frames=FRAMES))[1]
    for panel, clip in zip(data["panels"], [pair.source.frames, pair.truth, pair.truth], strict=False):
        shown = tiles[:, panel["y"] : panel["y"] + SIZE, panel["x"] : panel["x"] + SIZE]
        assert psnr(shown, clip) > 30
    assert text.count("<figure") == 6 and "exact" in text


def test_pairs_are_held_out_and_kinds_take_turns() -> None:
    """Seeds run on from the first; kind k of EDIT_KINDS at pair k; training's seeds are refused."""
    pairs = list(held_out_pairs(2, seed=1_000_005, size=64, frames=1))
    assert [pair.seed for pair in pairs] == [1_000_005, 1_000_006]
    assert [pair.kind for pair in pairs] == list(portraits.EDIT_KINDS[:2])
    with pytest.raises(SyncloraError, match=r"999999.*1000000"):
        next(held_out_pairs(1, seed=999_999))


def test_baselines() -> None:
    """first_frame repeats frame 0; late_truth[t] = truth[max(t - 2, 0)]."""
    truth = torch.arange(5, dtype=torch.uint8).view(5, 1, 1, 1).expand(5, 4, 4, 3)
    pair = BenchPair(Clip(truth, Fraction(25)), truth, 0, "none")
    assert baselines.first_frame(pair)[:, 0, 0, 0].tolist() == [0] * 5
    assert baselines.late_truth(pair)[:, 0, 0, 0].tolist() == [0, 0, 0, 1, 2]


def test_unknown_methods_are_named(tmp_path: Path) -> None:
    with pytest.raises(SyncloraError, match=r"magic.*synclora, model, base"):
        run_procedural(1, tmp_path, methods=["truth", "magic"])
    with pytest.raises(SyncloraError, match="count 0"):
        run_procedural(0, tmp_path)


def test_suites_by_name(tmp_path: Path) -> None:
    """What `synclora bench` calls: names with commas; a folder exactly where it is used; unknown suites are named."""
    table = run_suite("procedural", 1, tmp_path, methods="truth, first_frame")
    assert list(table["methods"]) == ["truth", "first_frame"] and table["suite"] == "procedural"
    with pytest.raises(SyncloraError, match="--footage DIR"):
        run_suite("footage", 1, tmp_path)
    with pytest.raises(SyncloraError, match="--suite footage"):
        run_suite("procedural", 1, tmp_path, footage=tmp_path)
    with pytest.raises(SyncloraError, match=r"found lab.*procedural, footage"):
        run_suite("lab", 1, tmp_path)


def test_the_editor_and_the_base_without_lora(tmp_path: Path, tiny_backbone: Path) -> None:
    """Weights from a folder: pairs take the backbone's own size and length; the LoRA changes what is made."""
    table = run_procedural(
        1, tmp_path, backbone=str(tiny_backbone), steps=1, methods=["synclora", "base"], device="cpu"
    )
    assert (table["size"], table["frames"]) == (128, 17)
    with_lora, without = table["methods"]["synclora"], table["methods"]["base"]
    assert with_lora["psnr"] != without["psnr"]
    assert 0 < with_lora["seconds_per_clip"] < 60
