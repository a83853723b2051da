"""Strength, masks and the kept background: where the edit does not show, the output is the source, bit for bit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from echo import editor, grey_clip
from PIL import Image
from torch import Tensor

from synclora.clip import Clip, Crop, write_clip
from synclora.editing.facecrop import Placement
from synclora.editing.masks import load_mask, mask_of, moving, soft_inside, still
from synclora.editing.region import Region, blend, segment_person
from synclora.errors import SyncloraError
from synclora.portraits import Motion, apply_edit, render, sample_person

WHOLE = Placement(Crop(0, 0, 64, 64, 64, 64), 64, 64, pasted=False)


def noise(frames: int, size: int = 64, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (frames, size, size, 3), dtype=torch.uint8, generator=generator)


def test_outside_the_mask_is_the_source() -> None:
    """alpha 0 outside to the last bit, 1 well inside, and between them along the inner side of the outline."""
    mask = torch.zeros(200, 200)
    mask[50:150, 60:160] = 1
    source, edited = noise(3, 200), noise(3, 200, 1)
    out = Region(mask=still(mask)).show(source, source, edited)
    outside = mask == 0
    assert torch.equal(out[:, outside], source[:, outside])
    assert torch.equal(out[:, 60:140, 70:150], edited[:, 60:140, 70:150])
    row = soft_inside(mask[None])[0, 100]
    assert row[60:64].tolist() == pytest.approx([1 / 3, 2 / 3, 1, 1]) and row[156:161].tolist() == pytest.approx(
        [1, 1, 2 / 3, 1 / 3, 0][-5:]
    )


def test_soft_edge_keeps_thin_parts_and_picture_sides() -> None:
    """A line of one pixel is still edited a little; along the side of the picture nothing fades."""
    mask = torch.zeros(1, 200, 200)
    mask[0, :, 100] = 1
    mask[0, :, :50] = 1
    soft = soft_inside(mask)
    assert soft[0, 100, 100] == pytest.approx(1 / 3) and (soft[0, :, :40] == 1).all() and (soft[0, :, 101:] == 0).all()


def test_strength_goes_straight_from_source_to_edit() -> None:
    """out = source + strength (edited - source), rounded; 0 is the source and 1 the edit, bit for bit."""
    source, edited = noise(2), noise(2, seed=1)
    for strength in (0.0, 0.25, 0.5, 1.0):
        out = Region(strength).show(source, source, edited)
        expected = source.double() + strength * (edited.double() - source.double())
        assert (out.double() - expected).abs().max() <= (0.5 if 0 < strength < 1 else 0)


def test_editor_takes_strength_and_mask() -> None:
    """The same in memory, over several windows: 50 grey levels brighter at full strength, 25 at half, none outside."""
    made, _ = editor()
    clip = grey_clip(40)
    first = (clip.frames[0].int() + 50).to(torch.uint8)
    assert torch.equal(made.edit(clip, first, steps=1, strength=0).frames, clip.frames)
    half = made.edit(clip, first, steps=1, strength=0.5).frames.int() - clip.frames.int()
    assert half.min() >= 24 and half.max() <= 26
    mask = torch.zeros(40, 64, 64, dtype=torch.bool)
    for frame in range(40):
        mask[frame, :, frame : frame + 20] = True
    out = made.edit(clip, first, steps=1, mask=mask).frames.int() - clip.frames.int()
    assert (out[~mask] == 0).all() and out[mask].float().mean() > 44


@pytest.mark.parametrize("strength", [-0.1, 1.5, float("nan")])
def test_strength_out_of_range_is_refused(strength: float) -> None:
    made, _ = editor()
    with pytest.raises(SyncloraError, match=r"--strength .*0 \(the source\) to 1"):
        made.edit(grey_clip(5), grey_clip(1).frames[0], strength=strength)


def test_masks_that_make_no_sense_are_refused() -> None:
    with pytest.raises(SyncloraError, match=r"mask: \[32, 64\]; \[64, 64\] or \[5, 64, 64\]"):
        mask_of(torch.ones(32, 64), 5, 64, 64)
    with pytest.raises(SyncloraError, match="mask: empty"):
        mask_of(torch.zeros(64, 64, dtype=torch.uint8), 5, 64, 64)


def test_moving_mask_is_taken_frame_by_frame() -> None:
    """Asked for in batches of any size, each mask comes once; where they end, the last one stays."""
    masks = torch.arange(1, 7).view(-1, 1, 1).expand(-1, 4, 4) / 6
    take = moving(iter([masks[:4], masks[4:]]))
    assert [take(n)[:, 0, 0].mul(6).round().int().tolist() for n in (1, 4, 3)] == [[1], [2, 3, 4, 5], [6, 6, 6]]


def save(path: Path, picture: np.ndarray) -> Path:
    Image.fromarray(picture).save(path)
    return path


def test_mask_pictures_are_fitted(tmp_path: Path) -> None:
    """Of the source's aspect: cut as the source is. Of the crop's: laid into the crop, black around it."""
    left = np.zeros((90, 160), np.uint8)
    left[:, :80] = 255
    path = save(tmp_path / "m.png", left)
    pasted = Placement(Crop(40, 0, 60, 60, 30, 30), 160, 90, pasted=True)
    (whole,) = load_mask(path, pasted, Fraction(25), 9)(9)
    assert whole.shape == (90, 160) and (whole[:, :79] == 1).all() and (whole[:, 80:] == 0).all()
    middle = Placement(Crop(35, 0, 90, 90, 30, 30), 160, 90, pasted=False)
    (cut,) = load_mask(path, middle, Fraction(25), 9)(9)
    assert cut.shape == (30, 30) and (cut[:, :14] == 1).all() and (cut[:, 16:] == 0).all()
    square = save(tmp_path / "s.png", np.full((30, 30), 255, np.uint8))
    (laid,) = load_mask(square, pasted, Fraction(25), 9)(9)
    inside = torch.zeros(90, 160, dtype=torch.bool)
    inside[:60, 40:100] = True
    assert (laid[~inside] == 0).all() and laid[5:55, 45:95].min() == 1


def test_compressed_black_is_black(tmp_path: Path) -> None:
    """Grey levels up to 16 count as black and from 239 on as white, so a video's noise does not leak."""
    (mask,) = load_mask(save(tmp_path / "m.png", np.full((64, 64), 240, np.uint8)), WHOLE, Fraction(25), 9)(1)
    assert (mask == 1).all()
    with pytest.raises(SyncloraError, match=r"m\.png: the mask is black all over"):
        load_mask(save(tmp_path / "m.png", np.full((64, 64), 15, np.uint8)), WHOLE, Fraction(25), 9)


def test_mask_video_moves(tmp_path: Path) -> None:
    """White in the left half, later in the right one; a video that ends before the clip is refused."""
    frames = torch.zeros(20, 64, 64, 3, dtype=torch.uint8)
    frames[:10, :, :32], frames[10:, :, 32:] = 255, 255
    write_clip(tmp_path / "m.mp4", Clip(frames, Fraction(25)), crf=8)
    mask = load_mask(tmp_path / "m.mp4", WHOLE, Fraction(25), 20)(20)
    assert (mask[:10, :, 40:] == 0).all() and (mask[:10, :, 5:28] == 1).all()
    assert (mask[10:, :, :24] == 0).all() and (mask[10:, :, 36:60] == 1).all()
    with pytest.raises(SyncloraError, match=r"m\.mp4: the mask ends 10 frames before the clip of 30"):
        load_mask(tmp_path / "m.mp4", WHOLE, Fraction(25), 30)
    write_clip(tmp_path / "b.mp4", Clip(frames * 0, Fraction(25)))
    with pytest.raises(SyncloraError, match="black all over"):
        load_mask(tmp_path / "b.mp4", WHOLE, Fraction(25), 20)


def test_mask_of_another_aspect_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "m.png", np.full((30, 64), 255, np.uint8))
    with pytest.raises(SyncloraError, match=r"m\.png: 64x30 px, an aspect of 2\.133; the mask needs.*64x64"):
        load_mask(path, WHOLE, Fraction(25), 9)


def test_mask_that_is_no_picture_is_refused(tmp_path: Path) -> None:
    (tmp_path / "m.png").write_bytes(b"hello")
    with pytest.raises(SyncloraError, match=r"m\.png: not an image"):
        load_mask(tmp_path / "m.png", WHOLE, Fraction(25), 9)
    with pytest.raises(SyncloraError, match=r"no\.png: no such file. Pass the mask, e\.g\. --mask"):
        load_mask(tmp_path / "no.png", WHOLE, Fraction(25), 9)


def test_blend_is_the_source_where_alpha_is_zero() -> None:
    source, edited = noise(1)[0], noise(1, seed=1)[0]
    alpha = torch.zeros(64, 64)
    alpha[:, 32:] = 1
    out = blend(source, edited, alpha)
    assert torch.equal(out[:, :32], source[:, :32]) and torch.equal(out[:, 32:], edited[:, 32:])


@pytest.fixture(scope="module")
def heads() -> tuple[Tensor, Tensor]:
    """A drawn portrait, and the same person in a hat: uint8 [1, 192, 192, 3] each."""
    person = sample_person(1_000_102).replace(hat="none")
    still_ = Motion.still(1)
    return render(person, still_, 192), render(apply_edit(person, "hat", 1_000_102), still_, 192)


def test_kept_background_is_the_source(heads: tuple[Tensor, Tensor]) -> None:
    """The head is edited; the corners, far from any person, are the source bit for bit, whatever the edit did there."""
    source, hat = heads
    edited = hat.clone()
    person = segment_person(hat[0]) > 0
    edited[0][~person] = 0
    edited[0, :24, :24], edited[0, :24, -24:] = 255, 0
    out = Region(keep_background=True).show(source, source, edited)
    assert torch.equal(out[0, :24, :24], source[0, :24, :24]) and torch.equal(out[0, :24, -24:], source[0, :24, -24:])
    face = (slice(90, 130), slice(80, 112))
    assert (out[0][face].int() - edited[0][face].int()).abs().max() <= 1
    new = (hat[0].int() - source[0].int()).abs().sum(-1) > 60  # the hat
    shown = (out[0].int() - hat[0].int()).abs().sum(-1)[new] < 30
    assert shown.float().mean() > 0.8  # a hat that the source's person does not reach into


def test_edit_in_files_keeps_the_outside(
    make_video: Callable[..., Path], tiny_backbone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through files: outside the mask the frames handed to the encoder are the source's, bit for bit."""
    from synclora import Editor, edit, read_clip
    from synclora.editing import editor as module

    video = make_video(frames=30)
    mask = np.zeros((128, 128), np.uint8)
    mask[32:96, 32:96] = 255
    save(tmp_path / "f.png", np.full((128, 128, 3), 200, np.uint8))
    written: list[Tensor] = []
    real = module.write_frames

    def spy(path: Path, batches: Iterator[Tensor], *arguments: Any, **settings: Any) -> list[str]:
        return real(path, (kept(batch, written) for batch in batches), *arguments, **settings)

    monkeypatch.setattr(module, "write_frames", spy)
    path = save(tmp_path / "m.png", mask)
    edit(video, tmp_path / "f.png", tmp_path / "o.mp4", mask=path, editor=Editor(tiny_backbone), steps=1)
    frames, source = torch.cat(written), read_clip(video).frames
    outside = torch.from_numpy(mask == 0)
    assert torch.equal(frames[:, outside], source[:, outside]) and not torch.equal(frames, source)


def kept(batch: Tensor, into: list[Tensor]) -> Tensor:
    into.append(batch)
    return batch


def test_kept_background_in_a_pasted_crop(monkeypatch: pytest.MonkeyPatch) -> None:
    """A person in the left half of the crop: the rest of it, and all around it, is the source, bit for bit."""
    person = torch.zeros(32, 32)
    person[:, :16] = 1
    monkeypatch.setattr("synclora.editing.region.segment_person", lambda frame: person)
    placement = Placement(Crop(30, 0, 64, 64, 32, 32), 160, 64, pasted=True)
    source = noise(2, 160)[:, :64]
    seen = placement.model_frames(source)
    out = Region(keep_background=True, placement=placement).show(source, seen, 255 - seen)
    changed = (out != source).any(0).any(-1)
    assert changed[:, 38:60].float().mean() > 0.95
    changed[:, 30:64] = False
    assert not changed.any()
