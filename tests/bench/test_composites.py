"""Composited edits on rendered portraits: what they change, what they leave, and that they hold still."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from synclora import portraits
from synclora.bench import worn
from synclora.bench.composites import EDITS, composite
from synclora.bench.matting import OVAL, Layers, foreground
from synclora.bench.scenes import SCENES, scene
from synclora.faces import track

SEED, SIZE, FRAMES = 1_000_000, 192, 5


def layers_of(person: portraits.Person, frames: int = FRAMES) -> Layers:
    clip = portraits.render(person, portraits.sample_motion(SEED, frames, 25.0), SIZE, "cpu")
    return Layers(clip.numpy(), track(clip))


def person() -> portraits.Person:
    """Brown hair, blue clothes, no glasses, hat or beard."""
    return portraits.sample_person(SEED).replace(
        glasses="none", hat="none", beard="none", hair_style="short", hair_color="brown"
    )


@pytest.fixture(scope="module")
def layers() -> Layers:
    return layers_of(person())


def changed(layers: Layers, edited: np.ndarray) -> np.ndarray:
    """Where a frame differs from the source by more than a level, bool [F, H, W]."""
    return (np.abs(edited.astype(int) - layers.frames) > 1).any(-1)


def box(layers: Layers, frame: int) -> tuple[int, int, int, int]:
    low, high = (
        layers.landmarks[frame, OVAL, :2].min(0).astype(int),
        layers.landmarks[frame, OVAL, :2].max(0).astype(int),
    )
    return low[0], low[1], high[0], high[1]


def test_every_edit_is_a_function_of_clip_and_seed(layers: Layers) -> None:
    """The same seed gives the same frames, bit for bit; identity is the clip; every other kind shows (0.3 levels)."""
    for kind in EDITS:
        edited = composite(layers, kind, SEED)
        assert edited is not None and edited.shape == layers.frames.shape and edited.dtype == np.uint8, kind
        again = composite(Layers(layers.frames, layers.landmarks), kind, SEED)
        assert again is not None and np.array_equal(edited, again), kind
        difference = np.abs(edited.astype(float) - layers.frames).mean()
        assert difference == 0 if kind == "identity" else difference > 0.3, kind


def test_edits_change_only_where_they_should(layers: Layers) -> None:
    """Hair above the brows' line beside the face; clothes below the chin; a background outside the person; make-up and
    glasses about the face's oval."""
    where = {}
    for kind in ("hair", "clothes", "background", "makeup", "glasses"):
        edited = composite(layers, kind, SEED)
        assert edited is not None, kind
        where[kind] = changed(layers, edited)
    for frame in range(FRAMES):
        left, top, right, bottom = box(layers, frame)
        middle, tall = (left + right) // 2, bottom - top
        assert where["hair"][frame, max(0, top - tall // 5), middle]
        assert not where["hair"][frame, bottom:].any()
        assert where["clothes"][frame, -3, middle] and not where["clothes"][frame, :top].any()
        assert where["background"][frame, 3, 3] and not where["background"][frame, top:bottom, middle].any()
        outside = where["makeup"][frame].copy()
        outside[top:bottom, left:right] = False
        assert not outside.any() and where["makeup"][frame, top:bottom, left:right].mean() > 0.02
        assert where["glasses"][frame].any() and not where["glasses"][frame, bottom - tall // 4 :].any()


def test_masks_are_where_the_renderer_drew(layers: Layers) -> None:
    """Against the same person drawn with other hair, other clothes: nine tenths of the mask is where pixels differ, and
    covers four fifths of them."""
    motion = portraits.sample_motion(SEED, FRAMES, 25.0)
    for part, other in (("hair", {"hair_color": "blond"}), ("clothes", {"clothes_color": "red"})):
        drawn = portraits.render(person().replace(**other), motion, SIZE, "cpu").numpy()
        truth = (np.abs(drawn.astype(int) - layers.frames) > 24).any(-1)
        mask = getattr(layers, part)
        assert mask is not None, part
        solid = mask > 0.5
        assert (solid & truth).sum() > 0.85 * solid.sum(), part
        assert (solid & truth).sum() > 0.8 * truth.sum(), part


def test_spectacles_follow_the_head(layers: Layers) -> None:
    """Shifting the clip by 5 px shifts what is drawn by 5 px, within 3 levels on average where it is."""
    edited = worn.glasses(layers, SEED)
    moved = replace(layers, frames=np.roll(layers.frames, 5, axis=2), landmarks=layers.landmarks + np.array([5, 0, 0]))
    shifted = np.roll(worn.glasses(moved, SEED), -5, axis=2)
    there = changed(layers, edited)
    assert np.abs(shifted.astype(float) - edited)[there].mean() < 3
    assert np.abs(edited.astype(float) - layers.frames)[there].mean() > 10


def test_spectacles_are_not_put_over_spectacles() -> None:
    """Rendered people with glasses are told from others and take no more; a bald head takes clothes, no hair."""
    for glasses in ("round", "square", "thin"):
        wearing = layers_of(person().replace(glasses=glasses, glasses_color="black"), 2)
        assert worn.wears_glasses(wearing) and composite(wearing, "glasses", SEED) is None, glasses
    bald = layers_of(person().replace(hair_style="bald"), 2)
    assert not worn.wears_glasses(bald)
    assert composite(bald, "hair", SEED) is None and composite(bald, "clothes", SEED) is not None


def test_foreground_keeps_nothing_of_the_old_background() -> None:
    """Red over green through a soft edge: at alpha 0.5 the estimate is red to 20 levels, the mixture 85 off."""
    alpha = np.repeat(np.clip(np.linspace(-5, 6, 96), 0, 1)[None], 96, 0).astype(np.float32)
    red, green = np.array([200.0, 40, 40]), np.array([30.0, 180, 60])
    frame = (alpha[..., None] * red + (1 - alpha[..., None]) * green).round().astype(np.uint8)
    half = int(np.argmin(np.abs(alpha[0] - 0.5)))
    assert np.abs(frame[48, half] - red).max() > 60
    assert np.abs(foreground(frame, alpha)[48, half] - red).max() < 20


def test_scenes_differ_and_repeat() -> None:
    """Five kinds of scene, none of them flat, each the same for the same seed."""
    pictures = [scene(48, 64, seed) for seed in range(SEED, SEED + 12)]
    assert len({picture.tobytes() for picture in pictures}) == 12 and len(SCENES) == 5
    assert all(picture.shape == (48, 64, 3) and picture.std() > 5 for picture in pictures)
    assert np.array_equal(scene(48, 64, SEED), pictures[0])
