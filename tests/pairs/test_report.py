"""The overview page: counts, limits in their place, examples that play in step; names escaped, nothing fetched."""

from __future__ import annotations

import base64
import io
import json
import math
import re
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from synclora.errors import SyncloraError
from synclora.faces import MotionSignals
from synclora.pairs import PairStore, procedural_pair, save_pair
from synclora.pairs.charts import BINS, WIDTH, histogram
from synclora.pairs.report import Entry, choose, strip, write_report
from synclora.sync import compare
from synclora.sync.appearance import Appearance
from synclora.sync.gate import Reason, Verdict


def bars(drawing: str, style: str) -> list[ElementTree.Element]:
    return [e for e in ElementTree.fromstring(drawing).iter() if e.get("class") == style and e.tag.endswith("rect")]


def test_bars_are_as_tall_as_their_counts_and_stacked() -> None:
    """30 kept and 10 rejected values of one number: one bar on the other, 3 to 1."""
    values = np.concatenate([np.full(40, 1.0), [0.0, 2.0]])
    kept = np.array([True] * 30 + [False] * 10 + [True, True])
    drawing = histogram(values, kept)
    (down,) = [bar for bar in bars(drawing, "k") if float(bar.get("height", 0)) > 10]
    (up,) = bars(drawing, "d")
    assert float(down.get("height", 0)) == pytest.approx(3 * float(up.get("height", 0)), abs=0.2)
    assert float(up.get("y", 0)) + float(up.get("height", 0)) == pytest.approx(float(down.get("y", 0)), abs=0.2)


def test_limits_are_drawn_in_their_place_and_shade_what_lies_beyond() -> None:
    """Values 0 to 100 and limits 25 and 75: lines a quarter from either end, and the shade outside of them."""
    drawing = histogram(np.linspace(0, 100, 1001), np.ones(1001, bool), 25.0, 75.0)
    lines = [e for e in ElementTree.fromstring(drawing).iter() if e.tag.endswith("line") and e.get("class") == "limit"]
    assert [float(line.get("x1", 0)) for line in lines] == pytest.approx([WIDTH / 4, WIDTH * 3 / 4], abs=2)
    left, right = bars(drawing, "out")
    assert float(left.get("x", -1)) == 0 and float(left.get("width", 0)) == pytest.approx(WIDTH / 4, abs=2)
    assert float(right.get("x", 0)) + float(right.get("width", 0)) == pytest.approx(WIDTH, abs=0.1)


@pytest.mark.parametrize("values", [[0.5], [0.5] * 9, [0.0, 0.0], [-1e6, 1e6]])
def test_any_values_make_a_drawing(values: list[float]) -> None:
    drawing = histogram(np.array(values), np.ones(len(values), bool), 0.7)
    assert "nan" not in drawing and 1 <= len(bars(drawing, "k")) <= BINS


def entry(name: str, strain: float, kind: str = "lag") -> Entry:
    reason = Reason(kind, f"{kind} is off", strain)
    keep = strain <= 1
    return Entry(name, Verdict(keep, () if keep else (reason,), 0.9 / (1 + strain), reason))


def test_examples_are_the_best_the_nearest_and_the_clearest_and_none_twice() -> None:
    entries = [entry(f"kept-{n:02d}", n / 30) for n in range(31)]
    entries += [entry(f"late-{n:02d}", 1.1 + n / 10) for n in range(30)]
    entries += [entry(f"still-{n}", 5.0 + n, "head motion") for n in range(3)] + [
        entry("broken", math.inf, "not measured")
    ]
    sections = {heading: [e.id for e in chosen] for heading, _, chosen in choose(entries)}
    assert sections["Best"][:2] == ["kept-00", "kept-01"] and sections["Barely kept"][:2] == ["kept-30", "kept-29"]
    assert sections["Nearest misses"][:2] == ["late-00", "late-01"]
    assert sections["Clearest rejections"] == ["late-29", "still-2"]
    shown = [name for names in sections.values() for name in names]
    assert len(shown) == len(set(shown)) and "broken" not in shown


def test_a_strip_plays_both_clips_in_step() -> None:
    """Five frames of 40 ms, source on the left, whatever the sizes."""
    source = np.zeros((5, 64, 96, 3), np.uint8)
    target = np.stack([np.full((128, 128, 3), 40 * frame, np.uint8) for frame in range(5)])
    moving, still = strip(source, target, Fraction(25))
    picture = Image.open(io.BytesIO(moving))
    assert getattr(picture, "n_frames", 1) == 5 and picture.info["loop"] == 0
    picture.seek(3)
    frame = np.asarray(picture.convert("RGB"))
    assert abs(int(frame[60, 30].mean()) - 0) < 12 and abs(int(frame[60, -30].mean()) - 120) < 12
    assert Image.open(io.BytesIO(still)).size == picture.size


@pytest.fixture
def store(tmp_path: Path) -> PairStore:
    """Three pairs with made-up figures: one kept, one late, and one that could not be measured and has an odd name."""
    store = PairStore(tmp_path / "pairs")
    row = save_pair(store, replace(procedural_pair(5, size=64, frames=9, test=True), id="good"))
    wave = np.sin(np.arange(33) / 3)
    motion = MotionSignals(Fraction(25), **dict.fromkeys(MotionSignals.names(), wave))
    rolled = MotionSignals(Fraction(25), **dict.fromkeys(MotionSignals.names(), np.sin((np.arange(33) - 3) / 3)))
    look = json.dumps(Appearance(0.001, 0.01, 4, 9).to_json())
    good = replace(row, sync=compare(motion, motion).dumps(), appearance=look, verdict="keep")
    late = replace(good, id="late", sync=compare(motion, rolled).dumps(), verdict="reject", reason="late")
    odd = replace(row, id="<b>odd</b>", verdict="reject", reason="the <target> cannot be read")
    store.append([good, late, odd])
    return store


def test_the_page_counts_shows_and_stands_alone(store: PairStore, tmp_path: Path) -> None:
    write_report(store, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "<b>1</b>kept (33 %)" in page and "<b>1</b>rejected" in page and "<b>1</b>not measured" in page
    assert "the motion is 3.0 frames late" in page and "Clearest rejections" not in page
    assert "<b>odd" not in page and "<target>" not in page
    assert not re.search(r"(src|href|srcset)=\"(?!data:)", page) and "$" not in page
    clips = re.findall(r'<img src="data:image/webp;base64,([^"]+)"', page)
    assert len(clips) == 2 and all(
        getattr(Image.open(io.BytesIO(base64.b64decode(c))), "n_frames", 1) == 9 for c in clips
    )


def test_a_store_without_verdicts_is_told_what_to_run(store: PairStore, tmp_path: Path) -> None:
    store._write([replace(row, verdict="unjudged") for row in store.rows()])
    with pytest.raises(SyncloraError, match="Run first: synclora pairs curate"):
        write_report(store, tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()
