"""Where training clips come from, and that nothing held out is trained on."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import pytest
import torch

from synclora.backbones.base import Geometry
from synclora.errors import SyncloraError
from synclora.pairs import Pair, PairStore, save_pair
from synclora.training.clips import DrawnClips, StoredClips, open_clips
from synclora.training.config import VALIDATION_SEED_START, Data, Procedural
from synclora.training.mix import Mix

GEOMETRY = Geometry(64, 64, 17, 25.0)


def make_store(root: Path, count: int = 4, frames: int = 17, fps: int = 25) -> PairStore:
    """Pairs of flat grey clips: pair i's source has level 20 i at frame 0 and 4 more in each frame; the target +10."""
    rows = []
    for index in range(count):
        levels = 20 * index + 4 * torch.arange(frames)[:, None, None, None] + torch.zeros(1, 64, 96, 3)
        source = levels.to(torch.uint8)
        pair = Pair(f"pair-{index}", source, source + 10, Fraction(fps), f"prompt {index}", [], index, None)
        rows.append(save_pair(root, pair, generator="grey"))
    store = PairStore(root)
    store.append(rows)
    return store


def test_every_ordered_pair_of_looks_of_a_motion() -> None:
    """3 motions in 3 looks: 3 * 3 * 2 pairs, each within one motion, none of a clip with itself; shards cover all."""
    clips = DrawnClips("train", Procedural(motions=3, looks=3), GEOMETRY, 17)
    assert len(set(clips.pairs)) == len(clips.pairs) == 18
    assert all(i // 3 == j // 3 and i != j for i, j in clips.pairs)
    many = DrawnClips("train", Procedural(motions=20, looks=2), GEOMETRY, 17)
    assert [number for shard in many.shards for number in shard] == list(range(40))


def test_drawn_looks_share_the_motion() -> None:
    """What is loaded is what is drawn: look k of motion m, with its caption; other looks differ in picture."""
    from synclora.portraits import caption, render, sample_motion
    from synclora.training.pool import sample_looks

    clips = DrawnClips("train", Procedural(motions=1, looks=2, seed=11), GEOMETRY, 9)
    frames, captions = clips.load(0)
    assert frames.shape == (2, 9, 64, 64, 3) and frames.dtype == torch.uint8
    looks, motion = sample_looks(11, 2), sample_motion(11, 9, 25.0)
    assert captions == [caption(person) for person in looks]
    assert torch.equal(frames[1], render(looks[1], motion, 64, "cpu"))
    assert not torch.equal(frames[0], frames[1])


def test_held_out_motions_are_never_drawn_for_training() -> None:
    """Validation motions start where training seeds must end, so the two cannot meet. Settings decide the identity."""
    train, held_out = open_clips(Data(procedural=Procedural(motions=5), validation=3), GEOMETRY)
    assert isinstance(train, DrawnClips) and isinstance(held_out, DrawnClips)
    assert train._pool.seed + train._pool.motions <= VALIDATION_SEED_START == held_out._pool.seed
    assert len(held_out.pairs) == 6
    others = [Procedural(motions=6), Procedural(motions=5, looks=4), Procedural(motions=5, seed=1)]
    made = [DrawnClips("train", other, GEOMETRY, 17) for other in others]
    made.append(DrawnClips("train", Procedural(motions=5), GEOMETRY, 9))
    assert len({clips.identity for clips in [train, *made]}) == 5
    assert len({clips.content for clips in [train, *made]}) == 5


def test_a_mix_is_held_out_alike_and_told_apart(tmp_path: Path) -> None:
    """Validation draws the same shares. The default leaves identities, pools and saved configurations as they were."""
    mix = Mix(drawn=0.5, warped=0.5)
    mixed = Data(procedural=Procedural(motions=5, mix=mix), validation=3)
    for clips in open_clips(mixed, GEOMETRY):
        assert isinstance(clips, DrawnClips) and clips._pool.mix == mix
    plain = DrawnClips("train", Procedural(motions=5), GEOMETRY, 17)
    other = DrawnClips("train", Procedural(motions=5, mix=mix), GEOMETRY, 17)
    assert plain.identity != other.identity and plain.content != other.content
    assert plain._pool.path(0) != other._pool.path(0)
    assert "mix" not in Procedural(motions=5, mix=Mix(drawn=1.0)).model_dump()
    assert Procedural(motions=5, mix=mix).model_dump()["mix"] == {"drawn": 0.5, "worn": 0.0, "warped": 0.5}
    frames, captions = DrawnClips("train", Procedural(motions=2, looks=2, mix=mix), GEOMETRY, 9).load(0)
    kinds = [mix.kind(seed) for seed in range(2)]
    assert sorted(kinds) == ["drawn", "warped"] and frames.shape == (4, 9, 64, 64, 3)
    assert [text == "a moving picture" for text in captions[::2]] == [kind == "warped" for kind in kinds]


def test_content_follows_the_renderer(monkeypatch: pytest.MonkeyPatch) -> None:
    """A renderer that draws anything else gives another content digest, so that old latents count as stale."""
    from synclora import portraits
    from synclora.training.pool import drawing_digest

    before = DrawnClips("train", Procedural(), GEOMETRY, 17)
    real = portraits.render
    monkeypatch.setattr(portraits, "render", lambda *a: real(*a) ^ 1)
    drawing_digest.cache_clear()
    after = DrawnClips("train", Procedural(), GEOMETRY, 17)
    drawing_digest.cache_clear()
    assert before.content != after.content and before.identity == after.identity


def test_stored_pairs_are_read_cropped_and_cut_into_windows(tmp_path: Path) -> None:
    """34 frames are two windows of 17, 64 of 96 columns are kept, source and target stay together."""
    make_store(tmp_path, frames=41)
    train, held_out = open_clips(Data(pairs=tmp_path, validation=1), GEOMETRY)
    assert isinstance(train, StoredClips) and isinstance(held_out, StoredClips)
    assert len(train.pairs) == 3 * 2 and len(held_out.pairs) == 1
    frames, captions = train.load(0)
    assert frames.shape == (12, 17, 64, 64, 3)
    for (row, first), (source, target) in zip(train.windows, train.pairs, strict=True):
        level = 20 * int(row.id[-1]) + 4 * first
        for clip, expected in ((source, level), (target, level + 10)):
            assert frames[clip, 0].float().mean().item() == pytest.approx(expected, abs=3)
            assert frames[clip, 16].float().mean().item() == pytest.approx(expected + 64, abs=3)
            assert captions[clip] == row.prompt
    assert not {row.id for row, _ in train.windows} & {row.id for row, _ in held_out.windows}


def test_stored_clips_are_brought_to_the_backbones_rate(tmp_path: Path) -> None:
    """50 fps clips of 33 frames are 17 frames at 25 fps, every second one: levels rise by 8 a frame."""
    make_store(tmp_path, count=2, frames=33, fps=50)
    train, _ = open_clips(Data(pairs=tmp_path, validation=1), GEOMETRY)
    frames, _ = train.load(0)
    rise = frames[0].float().mean((1, 2, 3)).diff()
    assert frames.shape[1] == 17 and rise.mean().item() == pytest.approx(8, abs=0.5)


def test_pairs_of_one_source_are_held_out_together(tmp_path: Path) -> None:
    """Two pairs with the same source clip go to the same side."""
    store = make_store(tmp_path, count=3)
    rows = store.rows()
    twin = type(rows[0])(**{**vars(rows[0]), "id": "twin"})
    store.append(twin)
    for validation in (1, 2):
        train, held_out = open_clips(Data(pairs=tmp_path, validation=validation), GEOMETRY)
        assert isinstance(train, StoredClips) and isinstance(held_out, StoredClips)
        sides = [{row.sha256_source for row, _ in clips.windows} for clips in (train, held_out)]
        assert sides[0] and sides[1] and not sides[0] & sides[1]


@pytest.mark.parametrize(
    ("frames", "held_out", "message"),
    [
        (17, 4, "4 usable pairs; data.validation holds out 4 and none is left"),
        (9, 1, r"4 pairs are shorter than 17 frames at 25 fps: pair-0 \(9 frames at 25 fps\).*Set data.frames to 9"),
    ],
)
def test_unusable_stores_are_refused(tmp_path: Path, frames: int, held_out: int, message: str) -> None:
    """Too few or too short pairs: the message gives the counts and the value that would do."""
    make_store(tmp_path, frames=frames)
    with pytest.raises(SyncloraError, match=message):
        open_clips(Data(pairs=tmp_path, validation=held_out), GEOMETRY)


def test_altered_and_missing_media_are_refused(tmp_path: Path) -> None:
    """A file that is gone is named before training starts, one that was altered when it is read."""
    store = make_store(tmp_path)
    train, _ = open_clips(Data(pairs=tmp_path, validation=1), GEOMETRY)
    assert isinstance(train, StoredClips)
    victim = store.target_path(train.windows[0][0])
    victim.write_bytes(victim.read_bytes() + b"x")
    with pytest.raises(SyncloraError, match="not what the table recorded"):
        train.load(0)
    victim.unlink()
    with pytest.raises(SyncloraError, match=rf"1 faults.*{train.windows[0][0].id}.*missing"):
        open_clips(Data(pairs=tmp_path, validation=1), GEOMETRY)


@pytest.mark.parametrize(("frames", "suggested"), [(16, 9), (25, 17)])
def test_frames_the_backbone_cannot_take(frames: int, suggested: int) -> None:
    """Frames that are not 8k+1, or more than the window, are refused with one that fits."""
    with pytest.raises(SyncloraError, match=f"data.frames is {frames}; .*such as {suggested}"):
        open_clips(Data(procedural=Procedural(), frames=frames), GEOMETRY)


def test_drawn_portraits_are_square() -> None:
    """A backbone of another shape is refused."""
    with pytest.raises(SyncloraError, match="96x64"):
        open_clips(Data(procedural=Procedural()), Geometry(96, 64, 17, 25.0))
