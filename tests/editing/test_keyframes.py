"""Further edited frames: how they are named, checked, and shown to the window that holds them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from echo import editor, grey_clip
from PIL import Image

from synclora import Editor, edit
from synclora.editing.keyframes import check_indices, parse_keyframes
from synclora.errors import SyncloraError


def test_names_of_keyframes() -> None:
    assert parse_keyframes(["60=a.png", "7=b=c.png"]) == {60: Path("a.png"), 7: Path("b=c.png")}
    assert parse_keyframes([]) == {}


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        (["60"], r"--keyframe 60: a frame number and a picture are needed, as in 60=frame-60\.png"),
        (["=a.png"], "--keyframe =a.png: a frame number"),
        (["-3=a.png"], "--keyframe -3=a.png: a frame number"),
        (["6="], "--keyframe 6=: a frame number"),
        (["6=a.png", "6=b.png"], "frame 6 has a picture already, a.png"),
    ],
)
def test_names_that_make_no_sense_are_refused(texts: list[str], said: str) -> None:
    with pytest.raises(SyncloraError, match=said):
        parse_keyframes(texts)


def test_keyframes_lie_within_the_clip() -> None:
    check_indices([1, 8], 9)
    with pytest.raises(SyncloraError, match="keyframe 9: the clip has 9 frames; its last one is frame 8"):
        check_indices([9], 9)
    with pytest.raises(SyncloraError, match="keyframe 0: that is the first frame"):
        check_indices([0], 9)


def test_a_keyframe_reaches_its_window() -> None:
    """Frame 20 of 60, windows at 0, 12, 24, 36, 48: clean tokens at (20 - 12) / 25 s in the second, in no other one.

    The third window starts after it and is shown it in place of the first frame, beside the source's frame 20.
    """
    made, echo = editor()
    clip = grey_clip(60)
    key = torch.full((64, 64, 3), 240, dtype=torch.uint8)
    made.edit(clip, clip.frames[0], steps=1, keyframes={20: key})
    value = 240 / 127.5 - 1
    assert len(echo.sequences) == 5
    for number, sequence in enumerate(echo.sequences):
        rest = ~sequence.target[0] & ~sequence.reference[0]
        shown = (sequence.tokens[0] - value).abs().amax(1) < 1e-4
        times = sequence.positions[0, 0, shown & rest].tolist()
        expected = {0: [], 1: [8 / 25] * 4}.get(number, [-2 / 25] * 4)
        assert times == pytest.approx(expected), number
        assert sequence.clean[0, rest].all()
    third = echo.sequences[2]
    before = third.reference[0] & (third.positions[0, 0] < 0)
    grey = clip.frames[20, 0, 0, 0] / 127.5 - 1
    assert torch.allclose(third.tokens[0, before], grey)


def test_keyframes_of_another_size_are_refused() -> None:
    made, echo = editor()
    clip = grey_clip(9)
    with pytest.raises(SyncloraError, match=r"keyframe 4: torch.uint8 \[32, 64, 3\]"):
        made.edit(clip, clip.frames[0], keyframes={4: clip.frames[4][:32]})
    with pytest.raises(SyncloraError, match="keyframe 9: the clip has 9 frames"):
        made.edit(clip, clip.frames[0], keyframes={9: clip.frames[0]})
    assert echo.sequences == []


def test_keyframe_files(make_video: Callable[..., Path], tiny_backbone: Path, tmp_path: Path) -> None:
    """The file's picture is fitted and checked as the first frame's is; the edit differs from one without it."""
    video, model = make_video(frames=30), Editor(tiny_backbone)
    Image.fromarray(np.full((128, 128, 3), 90, np.uint8)).save(tmp_path / "f.png")
    Image.fromarray(np.full((256, 256, 3), 220, np.uint8)).save(tmp_path / "k.png")
    arguments = (video, tmp_path / "f.png", tmp_path / "o.mp4")
    result = edit(*arguments, editor=model, steps=1, keyframes={29: tmp_path / "k.png"})
    kinds = [notice.kind for notice in result.notices]
    assert kinds == ["no_face", "resized", "no_face"] and "frame 29" in result.notices[-1].text
    assert result.settings["keyframes"] == {29: str(tmp_path / "k.png")}
    with_key = result.clips()[1].frames
    edit(*arguments, editor=model, steps=1)
    assert not torch.equal(result.clips()[1].frames[29], with_key[29])
    (tmp_path / "o.mp4").unlink()
    for keyframes, said in (
        ({30: tmp_path / "k.png"}, "keyframe 30: the clip has 30 frames; its last one is frame 29"),
        ({5: tmp_path / "no.png"}, r"no\.png: no such file. Pass the edited frame, e\.g\. --keyframe 5=edited\.png"),
    ):
        with pytest.raises(SyncloraError, match=said):
            edit(*arguments, editor=model, steps=1, keyframes=keyframes)
    with pytest.raises(SyncloraError, match="same file"):
        edit(video, tmp_path / "f.png", tmp_path / "k.mp4", keyframes={3: tmp_path / "k.mp4"}, editor=model)
    assert not (tmp_path / "o.mp4").exists()
