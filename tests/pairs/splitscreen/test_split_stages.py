"""The last stage on a video of rendered people: the pair it cuts, and one whose bar goes bad on the way."""

from __future__ import annotations

import re
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from synclora.clip import Clip, read_clip, write_clip
from synclora.pairs.splitscreen.calls import CALLS
from synclora.pairs.splitscreen.config import SplitScreenConfig
from synclora.pairs.splitscreen.files import Item, ItemFiles
from synclora.pairs.splitscreen.layout import Frames, compose
from synclora.pairs.splitscreen.models import Model
from synclora.pairs.splitscreen.prompts import portrait
from synclora.pairs.splitscreen.stages import COMPOSED, RECORD, VIDEO, SplitStage, Work, seed_for
from synclora.pairs.store import PairStore
from synclora.portraits import TEST_SEED_START, apply_edit, render, sample_motion, sample_person

SEED, FRAMES, BAD = TEST_SEED_START + 63, 17, 12
ITEM = Item("split-screen-1000063", SEED, portrait(SEED))


@pytest.fixture(scope="module")
def people() -> tuple[Frames, Frames]:
    """A person and the person in another light under one motion, 128 px."""
    person, motion = sample_person(SEED), sample_motion(SEED, FRAMES, 25.0)
    source, target = (render(one, motion, 128).numpy() for one in (person, apply_edit(person, "background", SEED)))
    return source, target


def work(root: Path, shortest: int | None) -> Work:
    nowhere = {"model": "nowhere"}
    told = {"portrait": nowhere, "edit": nowhere, "video": nowhere, "width": 112, "height": 112, "frames": FRAMES}
    config = SplitScreenConfig.model_validate(told | {"trim": 8, "gutter": 16, "seam": {"shortest": shortest}})
    call = CALLS["video"]["WanImageToVideoPipeline"]
    return Work(str(root), config, {"video": Model("video", "nowhere", root, None, "Wan", call, {})})


def animated(people: tuple[Frames, Frames], root: Path, moved: int) -> ItemFiles:
    """What the video stage leaves, the target on the left; from frame BAD on the canvas is moved by so many pixels."""
    source, target = people
    layout, files = work(root, None).layout, ItemFiles(PairStore(root), ITEM.id)
    canvas, grey = compose(target[0], source[0], layout)
    bar = np.full((FRAMES, 128, layout.gutter, 3), grey, np.uint8)
    frames = np.concatenate([target, bar, source], axis=2)
    frames[BAD:] = np.roll(frames[BAD:], moved, axis=2)
    for name in ("portrait", "edit", "video"):
        files.write_json(f"{name}.json", {})
    files.write_json("layout.json", {"source": "right", "grey": grey})
    files.write_picture(COMPOSED, canvas)
    write_clip(root / files.path(VIDEO), Clip(torch.from_numpy(frames), Fraction(16)), crf=4, audio=False)
    return files


def test_a_good_video_is_cut_into_the_pair(people: tuple[Frames, Frames], tmp_path: Path) -> None:
    """Both clips whole, the source from the right, each within 4 grey levels of what was rendered, twice encoded."""
    files = animated(people, tmp_path, 0)
    assert SplitStage(work(tmp_path, None))([ITEM]) == [ITEM]
    record = files.read_json(RECORD)
    assert (record["split"]["frames"], record["split"]["seam_gone"]) == (FRAMES, 0)
    assert record["split"]["seam_shift"] < 0.5 and record["split"]["leak"] < 0.01
    for side, rendered in zip(("source", "target"), people, strict=True):
        clip = read_clip(tmp_path / record["row"][side])
        assert clip.fps == 16 and clip.frames.shape == (FRAMES, 112, 112, 3)
        apart = np.abs(clip.frames.numpy().astype(float) - rendered[:, 8:-8, 8:-8]).mean()
        assert apart < 4


@pytest.mark.parametrize(("shortest", "kept"), [(9, 9), (17, None), (None, None)])
def test_a_bar_that_moves_ends_the_clip_or_refuses_the_pair(
    people: tuple[Frames, Frames], tmp_path: Path, shortest: int | None, kept: int | None
) -> None:
    """Moved by 6 px from frame 12 on: of the 12 frames before, 9 (8k+1) are kept where 9 are enough."""
    files = animated(people, tmp_path, 6)
    done = SplitStage(work(tmp_path, shortest))([ITEM])
    failure = files.read_failure()
    if kept is None:
        assert done == [] and failure is not None and failure.final
        assert re.fullmatch(r"the seam moved by \+(5\.[89]|6\.[012]) px in frame 12 \(limit 1\.5 px\)", failure.reason)
    else:
        assert done == [ITEM] and failure is None and files.read_json(RECORD)["row"]["frames"] == kept


def test_each_stage_has_a_seed_of_its_own() -> None:
    """63 bits, unlike for each stage and pair, and the same for ever (a change would change every pair)."""
    seeds = {seed_for(seed, stage) for seed in range(50) for stage in ("portrait", "edit", "video")}
    assert len(seeds) == 150 and all(0 <= seed < 2**63 for seed in seeds)
    assert seed_for(0, "portrait") == 1838410855956217435
