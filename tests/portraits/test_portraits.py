"""The procedural portraits: exact pairs, seeded sampling, edits that show, motion that a face tracker can read."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch

from synclora.portraits import (
    EDIT_KINDS,
    TEST_SEED_START,
    Motion,
    Person,
    apply_edit,
    caption,
    render,
    render_batch,
    renderer,
    sample_edit,
    sample_motion,
    sample_person,
)  # fmt: skip

torch.set_num_threads(1)
STILL = Motion.still(1, smile=0.2)


def difference(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Largest channel difference per pixel, [F, H, W]."""
    return (a.int() - b.int()).abs().amax(-1)


def test_rendering_is_deterministic_and_batches_are_exact() -> None:
    people, motion = [sample_person(3), sample_person(4)], sample_motion(5, 5)
    batch = render_batch(people, [motion], 96)
    renderer._cache.clear()
    assert batch.shape == (2, 5, 96, 96, 3) and batch.dtype == torch.uint8
    for i, person in enumerate(people):
        assert torch.equal(batch[i], render(person, motion, 96))


def test_a_slice_of_motion_gives_the_same_frames() -> None:
    """A frame depends on its own pose only; the head's box may round to other blocks of rays, nothing more."""
    person, motion = sample_person(8), sample_motion(9, 9)
    a, b = render(person, motion, 128)[4:6], render(person, motion[4:6], 128)
    assert difference(a, b).float().mean() < 0.5


def test_the_picture_is_the_same_at_every_size() -> None:
    for seed in (1, 20):
        person, motion = sample_person(seed), sample_motion(seed, 8)[7:8]
        small = render(person, motion, 128)[0].permute(2, 0, 1).float()
        large = render(person, motion, 384)[0].permute(2, 0, 1).float()
        shrunk = torch.nn.functional.avg_pool2d(large[None], 3)[0]
        assert (small - shrunk).abs().mean() < 4.0


def test_nothing_behind_a_head_shines_through_it() -> None:
    """Dots: pixels that follow the backdrop's colour amid pixels that do not."""
    around = torch.ones(1, 1, 3, 3)
    for seed in (900001, 900005, 900009):
        person, motion = sample_person(seed).replace(background="gradient"), sample_motion(seed, 9)[4:9:4]
        dark, light = (render(person.replace(background_color=c, background_accent=c), motion, 128)
                       for c in ("dark", "pink"))  # fmt: skip
        follows = (difference(dark, light) > 6).float()[:, None]
        alone = (follows > 0) & (torch.nn.functional.conv2d(follows, around, padding=1) < 3.5)
        assert alone.sum() <= 4, (seed, alone.sum())


def test_people_are_grey_haired_when_they_are_old() -> None:
    people = [sample_person(s) for s in range(300)]
    grey = [p.age for p in people if p.hair_color in ("grey", "white")]
    assert len(grey) < 0.25 * len(people) and min(grey) > 55


def test_motion_moves_what_it_names() -> None:
    person = sample_person(23)
    rest = render(person, STILL, 192)
    for change, limit in (
        ({"mouth_open": 0.8}, 0.25),
        ({"blink_left": 1.0, "blink_right": 1.0}, 0.06),
        ({"gaze_x": 18.0}, 0.04),
    ):
        moved = difference(rest, render(person, Motion.still(1, smile=0.2, **change), 192)) > 24
        share = moved.float().mean().item()
        assert 0.0003 < share < limit, (change, share)
    # gaze to image right moves dark iris pixels right; yaw > 0 moves the nose right
    left, right = (render(person, Motion.still(1, yaw=y), 192)[0, 85:130].float().mean(-1) for y in (-25.0, 25.0))
    assert (left - right.flip(-1)).abs().mean() < (left - right).abs().mean()


@pytest.mark.parametrize("kind", EDIT_KINDS)
def test_every_edit_shows_and_stays_where_it_belongs(kind: str) -> None:
    everywhere = {"light", "background", "skin", "age", "hair_style", "hat"}
    for seed in (2, 23, 34):
        person = sample_person(seed)
        edited = apply_edit(person, kind, seed)
        assert edited != person and edited == apply_edit(person, kind, seed)
        changed = (difference(render(person, STILL, 128), render(edited, STILL, 128)) > 16).float()[0]
        assert changed.sum() >= 12, (kind, seed, changed.sum())
        if kind not in everywhere:
            assert changed.mean() < 0.40
        if kind == "clothes":
            assert changed[:75].mean() < 0.01
        if kind in ("eye_color", "makeup", "smile", "glasses", "beard"):
            assert changed[:30].sum() == 0 and changed[:, :20].sum() == 0
        if kind == "background":
            assert changed[40:90, 52:76].mean() < 0.02


def test_unknown_edits_are_named() -> None:
    with pytest.raises(ValueError, match="hair_color"):
        apply_edit(sample_person(1), "moon", 0)
    with pytest.raises(ValueError, match="count"):
        sample_edit(sample_person(1), 0, count=99)
    person, kinds = sample_edit(sample_person(1), 7, count=3)
    assert len(set(kinds)) == 3 and person != sample_person(1)


def test_json_round_trips() -> None:
    person, motion = sample_person(11), sample_motion(12, 20, fps=30.0)
    assert Person.from_dict(json.loads(json.dumps(person.to_dict()))) == person
    back = Motion.from_dict(json.loads(json.dumps(motion.to_dict())))
    assert back.curves() == motion.curves() and back.fps == 30.0 and len(motion[3:9]) == 6
    with pytest.raises(ValueError, match="halo"):
        Person.from_dict({**person.to_dict(), "halo": 1})
    with pytest.raises(ValueError, match=r"mouth_open|yaw"):
        dataclasses.replace(Motion.still(4), yaw=torch.zeros(3))


def test_people_vary_and_captions_fit() -> None:
    people = [sample_person(s) for s in range(TEST_SEED_START, TEST_SEED_START + 300)]
    captions = [caption(p) for p in people] + [caption(apply_edit(p, k, 1)) for p in people[:40] for k in EDIT_KINDS]
    assert all(c.isascii() and 10 < len(c) <= 95 for c in captions)
    assert len({caption(p) for p in people}) > 250
    for trait in ("hair_style", "clothes", "background", "beard", "glasses", "hat", "skin_name", "eye_color"):
        assert len({getattr(p, trait) for p in people}) >= 4, trait


@pytest.mark.parametrize("fps", [25.0, 50.0])
def test_blinks_have_natural_lengths_and_rates(fps: float) -> None:
    blinking, count, seconds = 0, 0, 0.0
    for seed in range(60):
        closed = torch.maximum(sample_motion(seed, int(8 * fps), fps).blink_left, torch.zeros(1)) > 0.05
        edges = torch.diff(torch.cat([torch.zeros(1), closed.float(), torch.zeros(1)]))
        starts, ends = (edges > 0).nonzero()[:, 0], (edges < 0).nonzero()[:, 0]
        lengths = (ends - starts)[(starts > 0) & (ends < len(closed))].float() / fps
        assert ((lengths >= 2 / 25) & (lengths <= 7.5 / 25)).all()
        count, seconds = count + len(starts), seconds + 8.0
        blinking += bool((sample_motion(seed, round(33 * fps / 25), fps).blink_left > 0.5).any())
    assert 0.2 <= count / seconds <= 0.7
    assert blinking >= 0.7 * 60


def test_short_clips_turn_and_speak() -> None:
    motions = [sample_motion(seed, 33) for seed in range(60)]
    spans = torch.tensor([float(m.yaw.max() - m.yaw.min()) for m in motions])
    assert spans.median() > 12.0 and all(m.yaw.abs().max() <= 35 and m.pitch.abs().max() <= 20 for m in motions)
    assert torch.tensor([float(m.mouth_open.std()) for m in motions]).median() > 0.12
    assert sample_motion(4, 33).curves() == {k: v[:33] for k, v in sample_motion(4, 33).curves().items()}
    assert torch.equal(sample_motion(4, 33).yaw, sample_motion(4, 33).yaw)


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="64"):
        render(sample_person(1), STILL, 32)
    with pytest.raises(ValueError, match="frames"):
        sample_motion(1, 0)
    with pytest.raises(ValueError, match="persons"):
        render_batch([sample_person(1)], [STILL, STILL], 64)


def test_a_face_tracker_finds_the_faces_and_reads_the_head_turn() -> None:
    mediapipe = pytest.importorskip("mediapipe")
    yaws = (-25.0, -10.0, 0.0, 10.0, 25.0)
    motion = dataclasses.replace(Motion.still(len(yaws), smile=0.2), yaw=torch.tensor(yaws))
    found, people = 0, 4
    with mediapipe.solutions.face_mesh.FaceMesh(static_image_mode=True, refine_landmarks=True) as mesh:
        for seed in range(TEST_SEED_START, TEST_SEED_START + people):
            turns = []
            for frame in render(sample_person(seed), motion, 192).numpy():
                faces = mesh.process(frame).multi_face_landmarks
                if faces:
                    points = faces[0].landmark
                    turns.append(points[454].z - points[234].z)
            found += len(turns)
            assert turns == sorted(turns) or turns == sorted(turns, reverse=True)
    assert found >= 0.98 * people * len(yaws)
