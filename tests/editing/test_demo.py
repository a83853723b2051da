"""The demonstration and what it shows: labelled comparison, telling frames, report."""

import json
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image

from synclora.clip import Clip, probe, read_clip
from synclora.editing.demo import run_demo
from synclora.editing.editor import Editor
from synclora.editing.showcase import GAP, LABEL_HEIGHT, telling_frames, write_comparison, write_strip
from synclora.errors import SyncloraError
from synclora.faces.signals import MotionSignals
from synclora.portraits import sample_motion


def flat(shade: int, frames: int = 9, size: int = 128) -> Clip:
    return Clip(torch.full((frames, size, size, 3), shade, dtype=torch.uint8), Fraction(25))


def test_comparison_shows_source_left_and_edit_right(tmp_path: Path) -> None:
    """Small clips are enlarged 2x; frame for frame: source | gap | edited under a row of labels."""
    write_comparison(tmp_path / "c.mp4", flat(60), flat(200))
    clip = read_clip(tmp_path / "c.mp4")
    assert (clip.num_frames, clip.height, clip.width) == (9, LABEL_HEIGHT + 256, 2 * 256 + GAP)
    picture = clip.frames[4].float()
    assert abs(picture[LABEL_HEIGHT + 20 :, 10:240].mean() - 60) < 3
    assert abs(picture[LABEL_HEIGHT + 20 :, 270:500].mean() - 200) < 3
    labels = picture[:LABEL_HEIGHT]
    assert labels.max() > 150 and labels[:, :256].max() > 150 and labels[:, 260:].max() > 150


def test_strip_has_a_column_for_each_frame(tmp_path: Path) -> None:
    source = Clip(torch.arange(9, dtype=torch.uint8).mul(20).reshape(9, 1, 1, 1).expand(9, 256, 256, 3), Fraction(25))
    write_strip(tmp_path / "s.png", source, flat(255, size=256), [0, 4, 8])
    picture = np.asarray(Image.open(tmp_path / "s.png"))
    left = LABEL_HEIGHT + GAP
    assert picture.shape == (LABEL_HEIGHT + 2 * 256 + GAP, left + 3 * 256 + 2 * GAP, 3)
    row = picture[LABEL_HEIGHT + 100]
    assert [int(row[left + 100 + i * (256 + GAP), 0]) for i in range(3)] == [0, 80, 160]
    assert (picture[LABEL_HEIGHT + 256 + GAP + 10, left + 10] == 255).all()
    names = picture[LABEL_HEIGHT:, :LABEL_HEIGHT]
    assert names[:256].max() > 150 and names[256 + GAP :].max() > 150 and picture[:LABEL_HEIGHT, left:].max() > 150


def test_unequal_clips_are_not_shown_side_by_side(tmp_path: Path) -> None:
    with pytest.raises(SyncloraError, match="cannot be shown side by side"):
        write_comparison(tmp_path / "c.mp4", flat(0), flat(0, frames=8))
    assert list(tmp_path.iterdir()) == []


def signals_of(**curves: list[float]) -> MotionSignals:
    count = len(next(iter(curves.values())))
    arrays = {name: np.array(curves.get(name, [0.0] * count)) for name in MotionSignals.names()}
    return MotionSignals(Fraction(25), **arrays)


def test_telling_frames_hold_blink_and_open_mouth() -> None:
    """Frame 0, the lids at their lowest, the mouth at its widest, the head at both ends; then gaps are filled."""
    frames = np.arange(33)
    open_ = np.where(frames == 21, 0.02, 0.1)
    curves = {
        "eye_left": open_,
        "eye_right": open_,
        "mouth": np.where(frames == 13, 0.2, 0.0),
        "yaw": (frames - 5.0) ** 2,
    }
    chosen = telling_frames(signals_of(**{name: list(map(float, curve)) for name, curve in curves.items()}), 33)
    assert {0, 21, 13, 32, 5} <= set(chosen) and len(chosen) == 8 and chosen == sorted(chosen)


def test_telling_frames_without_a_face_are_spread() -> None:
    assert telling_frames(None, 9, 3) == [0, 4, 8]
    lost = signals_of(yaw=[float("nan")] * 9)
    assert telling_frames(lost, 9, 3) == [0, 4, 8] and telling_frames(None, 2) == [0, 1]


def test_demo_writes_its_four_files(samples: Path, tiny_backbone: Path, tmp_path: Path) -> None:
    editor = Editor(tiny_backbone)
    stages: list[str] = []
    result = run_demo(
        tmp_path / "demo", steps=2, samples=samples, editor=editor, progress=lambda name, *_: stages.append(name)
    )
    names = sorted(path.name for path in (tmp_path / "demo").iterdir())
    assert names == ["comparison.mp4", "edited.mp4", "frames.png", "report.json"]
    for name in ("edited.mp4", "comparison.mp4"):
        assert len(probe(tmp_path / "demo" / name).audio) == 1 and read_clip(tmp_path / "demo" / name).num_frames == 17
    report = json.loads((tmp_path / "demo" / "report.json").read_text())
    assert report["settings"]["prompt"] == (samples / "prompt.txt").read_text().strip()
    assert report["versions"]["torch"] == torch.__version__ and report["settings"]["steps"] == 2
    assert set(report["seconds"]) == set(stages) >= {"Denoising", "Measuring synchrony"}
    assert report["sync"]["frames"] == 17 and result.sync is not None
    assert {"kind", "text"} == set(report["notices"][0]) if report["notices"] else True
    result.print_summary()


def test_missing_sample_is_told(tmp_path: Path) -> None:
    with pytest.raises(SyncloraError, match=r"sample is missing.*recipes/nano/sample\.py"):
        run_demo(tmp_path / "demo", samples=tmp_path)


def test_sample_speaks_when_the_mouth_is_open(samples: Path, sample_recipe: ModuleType) -> None:
    """Loudness follows the drawn mouth: the correlation of its envelope with the opening is near 1; no clipping."""
    motion = sample_motion(1_000_007, 75, 25.0)
    sound = sample_recipe.speech(motion)
    assert sound.shape == (75 * 48_000 // 25,) and np.abs(sound).max() <= 0.26
    loudness = np.sqrt((sound.reshape(75, -1) ** 2).mean(1))
    opening = np.array(motion.curves()["mouth_open"])
    assert np.corrcoef(loudness, np.sqrt(opening.clip(0, 1)))[0, 1] > 0.8
    assert [track.codec for track in probe(samples / "source.mp4").audio] == ["aac"]
    assert Image.open(samples / "edited.png").size == (128, 128)


def test_sample_is_reproducible(sample_recipe: ModuleType, samples: Path, make_video: Callable, tmp_path: Path) -> None:
    sample_recipe.make_sample(tmp_path, seed=1_000_007, edit="hat", frames=17, size=128)
    for name in ("edited.png", "prompt.txt"):
        assert (tmp_path / name).read_bytes() == (samples / name).read_bytes()
    assert torch.equal(read_clip(tmp_path / "source.mp4").frames, read_clip(samples / "source.mp4").frames)
