"""`synclora sync`: what it prints and writes, and how it ends."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner, Result

from synclora import portraits
from synclora.cli import app
from synclora.clip import Clip, write_clip
from synclora.sync import SyncReport, run
from tests.sync.test_score import face

SEED = portraits.TEST_SEED_START + 5
FRAMES, SIZE = 25, 160
MakeVideo = Callable[..., Path]


def sync(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["sync", *map(str, arguments)], env={"COLUMNS": "120", "TERM": "dumb"})


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A rendered talking head, and the same clip two frames late."""
    folder = tmp_path_factory.mktemp("clips")
    motion = portraits.sample_motion(SEED, FRAMES, 25.0)
    frames = portraits.render(portraits.sample_person(SEED), motion, SIZE)
    late = torch.cat([frames[:1].expand(2, -1, -1, -1), frames[:-2]])
    for name, pictures in (("source", frames), ("late", late)):
        write_clip(folder / f"{name}.mp4", Clip(pictures.clone(), Fraction(25)), crf=10, preset="fast")
    return folder / "source.mp4", folder / "late.mp4"


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clips of stripes measured as if a face moved in them; the edited one (read second) two frames late."""
    calls: list[int] = []

    def motion(path: Path, frames: int | None, number: int, stage: str, progress: object):
        from synclora.clip import read_clip

        clip = read_clip(path, frames=frames)
        calls.append(number)
        return face(start=0 if len(calls) == 1 else -2, frames=clip.num_frames)

    monkeypatch.setattr(run, "_motion", motion)


def test_a_late_clip_from_pixels(clips: tuple[Path, Path], tmp_path: Path) -> None:
    """Rendered, shifted by two frames, measured: 2 frames late in words, in the JSON and on the page; exit code 0."""
    source, late = clips
    result = sync(source, late, "--json", tmp_path / "out" / "sync.json", "--html", tmp_path / "out" / "sync.html")
    assert result.exit_code == 0, result.output
    assert "2 frames late" in result.output and str(tmp_path / "out" / "sync.html") in result.output
    values = json.loads((tmp_path / "out" / "sync.json").read_text())
    assert (values["frames"], values["fps"]) == (FRAMES, "25")
    assert values["channels"]["mouth"]["lag"] == pytest.approx(2, abs=0.3)
    for name, score in values["channels"].items():  # a curve too slow to tell a lag says so
        told = score["lag"] is not None
        assert score["lag"] == pytest.approx(2, abs=0.3) if told else score["lag_why"] or score["why"], name
    assert set(values["channels"]["mouth"]) >= {"r", "lag", "r_best", "amplitude", "judged", "why"}
    assert set(values["blinks"]) >= {"precision", "recall", "f1"}
    assert values["findings"][0]["channel"] == "all" and "2 frames late" in values["findings"][0]["text"]
    page = (tmp_path / "out" / "sync.html").read_text(encoding="utf-8")
    assert values["findings"][0]["text"] in page and len(page) > 20_000


@pytest.mark.usefixtures("measured")
def test_table_lists_every_channel(make_video: MakeVideo) -> None:
    """A row a channel with r, lag and amplitude, the blinks, and the score as the headline."""
    a, b = make_video("a.mp4", frames=81), make_video("b.mp4", frames=81)
    lines = sync(a, b).output.splitlines()
    assert lines[0].startswith("synchrony 0.") and lines[0].endswith(" of 1")
    rows = {line.split()[0]: line.split()[1:] for line in lines if line.split()}
    for name in ("mouth", "mouth_width", "eyes", "gaze_x", "gaze_y", "yaw", "pitch", "roll", "brows"):
        r, lag, amplitude = map(float, rows[name][:3])
        assert r < 0.995 and lag == pytest.approx(2, abs=0.15) and amplitude == pytest.approx(1, abs=0.2), name
    assert "0 of 3 blinks on their frame; precision 0.00, recall 0.00, F1 0.00" in lines


@pytest.mark.usefixtures("measured")
def test_json_is_the_report(make_video: MakeVideo, tmp_path: Path) -> None:
    """The report's own keys read back as the same report."""
    a, b = make_video("a.mp4", frames=41), make_video("b.mp4", frames=41)
    assert sync(a, b, "--json", tmp_path / "r.json").exit_code == 0
    values = json.loads((tmp_path / "r.json").read_text())
    own = {name: values[name] for name in values if name not in ("source", "edited", "findings", "notices")}
    assert SyncReport.from_json(own).to_json() == own


@pytest.mark.usefixtures("measured")
def test_one_frame_of_rounding_is_cut_and_told(make_video: MakeVideo) -> None:
    """Lengths of 42 and 41: the first 41 are compared, and the output says which clip lost a frame."""
    a, b = make_video("a.mp4", frames=42), make_video("b.mp4", frames=41)
    result = sync(a, b)
    assert result.exit_code == 0 and "41 frames" in result.output
    assert "a.mp4: has one frame more than the other clip" in " ".join(result.output.split())


def test_unequal_lengths_are_refused_with_the_way_out(make_video: MakeVideo) -> None:
    """81 against 33 frames: exit code 2 before anything is measured, naming --frames 33."""
    result = sync(make_video("a.mp4", frames=81), make_video("b.mp4", frames=33))
    assert result.exit_code == 2 and "33 frames" in result.output and "--frames 33 compares" in result.output


@pytest.mark.usefixtures("measured")
def test_frames_makes_unequal_clips_comparable(make_video: MakeVideo) -> None:
    result = sync(make_video("a.mp4", frames=81), make_video("b.mp4", frames=33), "--frames", 33)
    assert result.exit_code == 0 and "33 frames at 25 fps" in result.output


def test_unequal_rates_are_refused(make_video: MakeVideo) -> None:
    result = sync(make_video("a.mp4", fps=25), make_video("b.mp4", fps=30))
    assert result.exit_code == 2 and "30 frames a second" in result.output and "-r 25" in result.output


def test_a_clip_without_a_face(make_video: MakeVideo, tmp_path: Path) -> None:
    """Stripes have no face: exit code 2, the file is named, and nothing is written."""
    source = make_video("stripes.mp4", frames=5)
    result = sync(source, make_video("b.mp4", frames=5), "--json", tmp_path / "out.json")
    assert result.exit_code == 2 and f"{source}: no face" in result.output and not (tmp_path / "out.json").exists()


def test_missing_and_broken_files(make_video: MakeVideo, tmp_path: Path) -> None:
    good, broken = make_video("a.mp4"), tmp_path / "broken.mp4"
    broken.write_bytes(b"no video" * 100)
    for source, edited, name in ((tmp_path / "none.mp4", good, "none.mp4"), (good, broken, "broken.mp4")):
        result = sync(source, edited)
        assert result.exit_code == 2 and name in result.output and "Traceback" not in result.output


def test_outputs_are_checked_first(make_video: MakeVideo, tmp_path: Path) -> None:
    """A folder, an input, the same file twice, a file as a folder: exit code 2 without measuring; inputs stay whole."""
    clip = make_video("a.mp4")
    before = clip.read_bytes()
    for options in (
        ("--html", tmp_path),
        ("--json", clip),
        ("--json", tmp_path / "x", "--html", tmp_path / "x"),
        ("--html", clip / "page.html"),
        ("--frames", 0),
    ):
        result = sync(clip, clip, *options)
        assert result.exit_code == 2 and result.output.startswith("synclora: "), options
    assert clip.read_bytes() == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_unwritable_folder(make_video: MakeVideo, tmp_path: Path) -> None:
    (closed := tmp_path / "closed").mkdir(mode=0o500)
    result = sync(make_video("a.mp4"), make_video("b.mp4"), "--html", closed / "page.html")
    assert result.exit_code == 2 and "no folder that can be written" in result.output
