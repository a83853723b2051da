"""Large pictures: one crop around the face for the whole clip, edited small, pasted back without a trace outside."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from synclora import Editor, edit, read_clip
from synclora.clip import Clip, Crop, centered_crop, probe, write_clip
from synclora.editing.facecrop import Placement, face_crop, kept_structure, place
from synclora.editing.first_frame import load_first_frame, write_first_frame
from synclora.errors import SyncloraError
from synclora.faces.graphs import Box
from synclora.portraits import render, sample_motion, sample_person

LARGEST = centered_crop(1920, 1080, 128, 128)


def test_crop_holds_the_face_in_all_looks() -> None:
    """A face of 300 px that moves by 200: every face square lies inside, with hair; 1.2 face squares high at least."""
    boxes = [Box(900 + 40 * i, 400, 300, 0.0) for i in range(6)]
    crop = face_crop(boxes, LARGEST, 1920, 1080)
    assert crop is not None and crop.width == crop.height and (crop.out_width, crop.out_height) == (128, 128)
    assert crop.left <= 750 - 7 and crop.left + crop.width >= 1250 + 7
    assert crop.top <= 250 - 7 and crop.top + crop.height >= 550 + 7 and crop.height >= 360
    still = face_crop(boxes[:1], LARGEST, 1920, 1080)
    assert still is not None and still.height == 360


def test_crop_stays_in_the_picture() -> None:
    """A face in the corner: the crop is moved inside; a face that fills the picture: the largest crop."""
    corner = face_crop([Box(50, 50, 300, 0.0)], LARGEST, 1920, 1080)
    assert corner is not None and (corner.left, corner.top) == (0, 0)
    large = face_crop([Box(1700, 540, 950, 0.0)], LARGEST, 1920, 1080)
    assert large is not None and (large.width, large.height) == (1080, 1080) and large.left == 1920 - 1080
    assert face_crop([], LARGEST, 1920, 1080) is None


def test_crop_has_the_models_aspect() -> None:
    for size in ((256, 128), (128, 256)):
        largest = centered_crop(1920, 1080, *size)
        crop = face_crop([Box(900, 500, 200, 0.0), Box(1000, 500, 200, 0.0)], largest, 1920, 1080)
        assert crop is not None and abs(crop.width / crop.height - size[0] / size[1]) < 0.01
        assert crop.left <= 800 - 5 and crop.left + crop.width >= 1100 + 5


PASTED = Placement(Crop(30, 0, 64, 64, 32, 32), 160, 64, pasted=True)


def textured(frames: int, height: int, width: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(40, 200, (frames, height, width, 3), dtype=torch.uint8, generator=generator)


def test_outside_of_the_crop_nothing_is_touched() -> None:
    source = textured(2, 64, 160)
    out = PASTED.paste(source, PASTED.model_frames(source), textured(2, 32, 32, 1))
    assert torch.equal(out[:, :, :30], source[:, :, :30]) and torch.equal(out[:, :, 94:], source[:, :, 94:])
    assert not torch.equal(out[:, :, 30:94], source[:, :, 30:94])
    border = PASTED.border()
    assert border is not None and (border[:, :30] == 0).all() and (border[:, 94:] == 0).all()
    # top and bottom of the crop are the picture's own: they do not fade
    assert border[:, 62].tolist() == [1] * 64 and border[10, 30:36].tolist() == pytest.approx(
        [0.1, 0.3, 0.5, 0.7, 0.9, 1]
    )


def test_an_edit_that_changes_nothing_gives_the_source_back() -> None:
    """Whatever detail the source holds: the pasted picture is the source to rounding."""
    source = textured(2, 64, 160)
    seen = PASTED.model_frames(source)
    assert (PASTED.paste(source, seen, seen).int() - source.int()).abs().max() <= 1


def test_a_tint_keeps_the_sources_detail() -> None:
    """A small picture 30 levels brighter: the large one is 30 brighter, its texture (finer than the model's) whole."""
    source = textured(1, 64, 160)
    seen = PASTED.model_frames(source)
    out = PASTED.paste(source, seen, seen + 30)
    assert (out[:, :, 30:94].int() - source[:, :, 30:94].int() - 30).abs().max() <= 1


def test_what_is_new_does_not_show_the_source_through() -> None:
    """A checkerboard painted over stripes: where the structure is another, the source's detail is left out."""
    y, x = torch.meshgrid(torch.arange(32), torch.arange(32), indexing="ij")
    stripes, checks = (x % 4 < 2) * 160.0 + 40, ((x // 5 + y // 5) % 2) * 160.0 + 40
    source, edited = (p.expand(1, 3, -1, -1) for p in (stripes, checks))
    assert kept_structure(source, edited).mean() < 0.15
    assert kept_structure(source, source * 0.5 + 60).min() > 0.99
    assert kept_structure(torch.full((1, 3, 32, 32), 90.0), torch.full((1, 3, 32, 32), 200.0)).min() > 0.99


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A talking head of 220 px in a 481x360 picture (an odd width), 20 frames at 25 a second."""
    folder = tmp_path_factory.mktemp("large")
    person, motion = sample_person(1_000_102).replace(hat="none"), sample_motion(1_000_102, 20, 25.0)
    frames = torch.full((20, 360, 482, 3), 60, dtype=torch.uint8)
    frames[:, :, ::7] = 120
    frames[:, 100:320, 240:460] = render(person, motion, 220)
    write_clip(folder / "large.mp4", Clip(frames, Fraction(25)), crf=8, preset="veryfast")
    to_png(folder / "whole.png", (frames[0].float() * 0.8).to(torch.uint8))
    return folder / "large.mp4"


def to_png(path: Path, frame: Tensor) -> Path:
    Image.fromarray(frame.numpy()).save(path)
    return path


def test_face_is_found_and_shared(large: Path, tmp_path: Path, tiny_backbone: Path) -> None:
    """`first-frame` writes what `edit` shows the model, as large as it is in the source: the head, which lies right and
    low in the picture. Reduced by `edit` it is frame 0 as the model sees it, bit for bit."""
    placement = place(large, 128, 128)
    crop = placement.crop
    assert placement.pasted and placement.size == (482, 360)
    assert 200 <= crop.left <= 270 and 60 <= crop.top <= 120 and 190 <= crop.width == crop.height <= 270
    write_first_frame(large, tmp_path / "f.png", tiny_backbone)
    result = edit(large, tmp_path / "f.png", tmp_path / "o.mp4", editor=Editor(tiny_backbone), steps=1)
    assert result.placement == placement
    written = torch.from_numpy(np.array(Image.open(tmp_path / "f.png")))
    frame = read_clip(large, frames=1, crop=placement.read_crop).frames
    assert torch.equal(written, frame[0, crop.top : crop.top + crop.height, crop.left : crop.left + crop.width])
    assert torch.equal(result.first_frame, placement.model_frames(frame)[0])
    assert "resized" not in {notice.kind for notice in result.notices}
    info = probe(tmp_path / "o.mp4")
    assert (info.width, info.height, info.frames) == (482, 360, 20)
    source, edited = (c.frames.float() for c in result.clips())
    outside = torch.ones(360, 482, dtype=torch.bool)
    outside[crop.top - 2 : crop.top + crop.height + 2, crop.left - 2 : crop.left + crop.width + 2] = False
    assert (source - edited)[:, outside].abs().mean() < 1.5 < (source - edited)[:, ~outside].abs().mean()
    assert "pasted" in {notice.kind for notice in result.notices}


def test_an_edited_frame_keeps_the_detail_of_its_own_size(large: Path, tmp_path: Path, tiny_backbone: Path) -> None:
    """Lines of one pixel, edited into the frame that `first-frame` writes, are in the output; in a picture of the
    model's size they are lost."""
    write_first_frame(large, tmp_path / "f.png", tiny_backbone)
    picture = torch.from_numpy(np.array(Image.open(tmp_path / "f.png")))
    side, middle = len(picture), slice(len(picture) // 2 - 30, len(picture) // 2 + 30)
    picture[middle, middle] = (255 * (torch.arange(60) % 2))[:, None, None].to(torch.uint8)
    to_png(tmp_path / "large.png", picture)
    Image.fromarray(picture.numpy()).resize((128, 128), Image.Resampling.LANCZOS).save(tmp_path / "small.png")
    editor, crop = Editor(tiny_backbone), place(large, 128, 128).crop
    assert side == crop.width > 160
    contrasts = []
    for name in ("large.png", "small.png"):
        result = edit(large, tmp_path / name, tmp_path / "o.mp4", editor=editor, steps=1, detail="source")
        shown = result.clips()[1].frames[0, crop.top : crop.top + side, crop.left : crop.left + side]
        contrasts.append(shown[middle, middle].float().diff(dim=0).abs().mean().item())
    assert contrasts[0] > 150 > 50 > contrasts[1]


def test_whole_picture_as_first_frame_is_cropped_alike(large: Path) -> None:
    """The edited frame may be the whole picture: the model sees the same part of it as of the source."""
    placement = place(large, 128, 128)
    shown = placement.model_frames(read_clip(large, frames=1, crop=placement.read_crop).frames)[0]
    frame, notices = load_first_frame(
        large.parent / "whole.png", (128, 128), source_frame=shown, source_size=(482, 360), crop=placement.crop
    )
    assert [notice.kind for notice in notices] == ["cropped"]
    assert (frame.float() - 0.8 * shown.float()).abs().mean() < 3


def test_square_picture_is_told_from_its_crop(tmp_path: Path) -> None:
    """Where the source is as square as the model, the edited frame is taken for what it looks like."""
    whole = textured(1, 40, 40)[0].repeat_interleave(5, 0).repeat_interleave(5, 1)
    crop = Crop(60, 20, 100, 100, 50, 50)
    shown = Placement(crop, 200, 200, pasted=True).model_frames(whole[None])[0]
    for picture, told in ((whole, ["cropped"]), (whole[20:120, 60:160], [])):
        path = to_png(tmp_path / "p.png", picture)
        frame, notices = load_first_frame(path, (50, 50), source_frame=shown, source_size=(200, 200), crop=crop)
        assert [notice.kind for notice in notices] == told
        assert (frame.int() - shown.int()).abs().float().mean() < 6


def test_center_gives_the_crop_alone(large: Path, tmp_path: Path, tiny_backbone: Path) -> None:
    to_png(tmp_path / "f.png", torch.full((128, 128, 3), 99, dtype=torch.uint8))
    result = edit(large, tmp_path / "f.png", tmp_path / "o.mp4", editor=Editor(tiny_backbone), steps=1, crop="center")
    assert result.placement.crop == centered_crop(482, 360, 128, 128)
    assert (probe(tmp_path / "o.mp4").width, probe(tmp_path / "o.mp4").height) == (128, 128)


def test_without_a_face_the_middle_is_pasted_back(
    make_video: Callable[..., Path], tiny_backbone: Path, tmp_path: Path
) -> None:
    video = make_video(width=200, height=150)
    placement = place(video, 128, 128)
    assert placement.pasted and placement.crop == centered_crop(200, 150, 128, 128)
    assert not place(make_video("small.mp4", width=200, height=100), 128, 128).pasted
    with pytest.raises(SyncloraError, match="--crop 'nose' is not known; choose one of: face, center"):
        place(video, 128, 128, "nose")


def test_hd_in_hd_out(tmp_path: Path, tiny_backbone: Path) -> None:
    """1920x1080 comes out at 1920x1080, frame for frame, with the mask's outside as it was to the codec's error."""
    frames = torch.full((2, 1080, 1920, 3), 90, dtype=torch.uint8)
    frames[:, ::9] = 160
    write_clip(tmp_path / "hd.mp4", Clip(frames, Fraction(30)), preset="ultrafast")
    to_png(tmp_path / "f.png", frames[0] + 40)
    result = edit(tmp_path / "hd.mp4", tmp_path / "f.png", tmp_path / "o.mp4", editor=Editor(tiny_backbone), steps=1)
    info = probe(tmp_path / "o.mp4")
    assert (info.width, info.height, info.frames, info.fps) == (1920, 1080, 2, 30)
    source, edited = (c.frames.float() for c in result.clips())
    assert (source - edited)[:, :, :400].abs().mean() < 2
