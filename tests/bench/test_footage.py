"""Pairs cut from video files, here rendered ones."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from synclora import portraits
from synclora.bench import baselines, run_footage
from synclora.bench.baselines import BenchPair
from synclora.bench.composites import EDITS
from synclora.bench.footage import face_crop, footage_pairs
from synclora.bench.identity import identity_similarity
from synclora.clip import Clip, probe, write_clip
from synclora.errors import SyncloraError
from synclora.faces import track

SEED, SIZE, FRAMES = 1_000_000, 64, 9


def rendered(seed: int, frames: int, size: int = 128) -> torch.Tensor:
    person = portraits.sample_person(seed).replace(glasses="none", hat="none")
    return portraits.render(person, portraits.sample_motion(seed, frames, 25.0), size, "cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two rendered clips, one of them wide with the face at its right, a clip that is too short, one without a face,
    and a file that is no video."""
    folder = tmp_path_factory.mktemp("footage")
    write_clip(folder / "square.mp4", Clip(rendered(SEED + 4, 20), Fraction(25)))
    wide = torch.full((20, 128, 256, 3), 120, dtype=torch.uint8)
    wide[:, :, 128:] = rendered(SEED + 6, 20)
    write_clip(folder / "wide.mp4", Clip(wide, Fraction(30)))
    write_clip(folder / "short.mp4", Clip(rendered(SEED + 4, 5), Fraction(25)))
    write_clip(folder / "wall.mp4", Clip(torch.full((20, 128, 128, 3), 90, dtype=torch.uint8), Fraction(25)))
    (folder / "broken.mp4").write_text("no video")
    (folder / "notes.txt").write_text("no video either")
    return folder


def drawn(folder: Path, count: int, seed: int) -> tuple[list[BenchPair], list[str]]:
    left_out: list[str] = []
    pairs = list(footage_pairs(folder, count, seed=seed, width=SIZE, height=SIZE, frames=FRAMES, left_out=left_out))
    return pairs, left_out


@pytest.fixture(scope="module")
def pairs(folder: Path) -> tuple[list[BenchPair], list[str]]:
    return drawn(folder, 4, SEED)


def test_kinds_and_clips_take_turns(pairs: tuple[list[BenchPair], list[str]]) -> None:
    """The kinds come in their order, both clips are used equally, at their own frame rates, with a face throughout."""
    made, _ = pairs
    assert [pair.kind for pair in made] == [kind for kind in EDITS if kind in {pair.kind for pair in made}]
    names = [pair.place.split(" at ")[0] for pair in made]
    assert sorted(names) == ["square.mp4"] * 2 + ["wide.mp4"] * 2
    for pair, name in zip(made, names, strict=True):
        assert pair.source.frames.shape == pair.truth.shape == (FRAMES, SIZE, SIZE, 3)
        assert pair.source.fps == (30 if name == "wide.mp4" else 25)
        assert np.isfinite(track(pair.source.frames)).all()
    assert made[0].kind == "identity" and torch.equal(made[0].truth, made[0].source.frames)
    assert all(not torch.equal(pair.truth[-1], pair.source.frames[-1]) for pair in made[1:])


def test_what_cannot_be_used_is_named(pairs: tuple[list[BenchPair], list[str]]) -> None:
    told = "\n".join(pairs[1])
    assert "short.mp4: 5 frames" in told and "broken.mp4" in told and "wall.mp4: no window" in told
    assert "notes.txt" not in told and "square.mp4" not in told


def test_the_seed_decides(folder: Path, pairs: tuple[list[BenchPair], list[str]]) -> None:
    """The same seed gives the same places and pixels; another one gives others."""
    again, _ = drawn(folder, 2, SEED)
    for one, other in zip(again, pairs[0], strict=False):
        assert one.place == other.place and torch.equal(one.truth, other.truth)
    places = {tuple(pair.place for pair in drawn(folder, 1, seed)[0]) for seed in range(SEED, SEED + 6)}
    assert len(places) > 1


def test_a_wide_clip_is_cut_around_the_face(folder: Path) -> None:
    """The face of wide.mp4 lies in its right half; a square clip is taken whole."""
    info = probe(folder / "wide.mp4")
    crop = face_crop(info, (160, 30, 220, 100), SIZE, SIZE)
    assert (crop.width, crop.height) == (128, 128) and crop.left == 126
    near = face_crop(info, (180, 50, 210, 80), SIZE, SIZE)
    assert near.height == 72 and near.left <= 180 and near.left + near.width >= 210 and near.top + 72 >= 80
    square = probe(folder / "square.mp4")
    assert face_crop(square, (10, 10, 30, 30), SIZE, SIZE).width == 128
    tall = face_crop(square, (40, 40, 80, 90), 32, 64)
    assert (tall.width, tall.height) == (60, 120) and tall.left == 30


def test_folders_without_use_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(SyncloraError, match="no such folder"):
        drawn(tmp_path / "absent", 1, SEED)
    with pytest.raises(SyncloraError, match=r"no video of at least 9 frames.*\.mp4"):
        drawn(tmp_path, 1, SEED)
    (tmp_path / "wall.mp4").write_bytes((folder / "wall.mp4").read_bytes())
    with pytest.raises(SyncloraError, match="no clip shows a face"):
        drawn(tmp_path, 1, SEED)


def test_the_suite_writes_its_files(folder: Path, tmp_path: Path) -> None:
    """bench.json has the other suite's shape, with places and what was left out; the truth is exact."""
    methods = {"truth": baselines.truth, "colour_transfer": baselines.colour_transfer}
    table = run_footage(folder, 2, tmp_path, seed=SEED, size=SIZE, frames=FRAMES, methods=methods)
    assert table == json.loads((tmp_path / "bench.json").read_text())
    assert table["suite"] == "footage" and table["count"] == 2 and table["left_out"]
    assert table["methods"]["truth"]["psnr"] is None
    assert list(table["methods"]["truth"]["by_kind"]) == ["identity", "grade"]
    assert table["methods"]["colour_transfer"]["by_kind"]["identity"]["psnr"] is None  # no edit: the identity map
    assert table["methods"]["colour_transfer"]["by_kind"]["grade"]["psnr"] > 30
    assert "mp4 at " in table["clips"][0]["place"]
    for name in ("bench.html", "bench.md", "frames.png"):
        assert (tmp_path / name).stat().st_size > 500


def test_identity_is_the_cosine_of_embeddings() -> None:
    """Mean over five frames; a frame that lost its face counts 0; without a model there is no number."""
    clip = torch.arange(9, dtype=torch.uint8).view(9, 1, 1, 1).expand(9, 4, 4, 3)
    angle = {0: 0.0, 2: 0.3, 4: 0.6, 6: None}

    def embed(picture: np.ndarray) -> np.ndarray | None:
        turned = angle.get(int(picture[0, 0, 0]), 0.0)
        return None if turned is None else np.array([np.cos(turned), np.sin(turned)])

    truth = torch.zeros_like(clip)
    expected = (1 + np.cos(0.3) + np.cos(0.6) + 0 + 1) / 5
    assert identity_similarity(clip, truth, embed) == pytest.approx(expected)
    assert identity_similarity(clip, truth, lambda picture: None) is None
