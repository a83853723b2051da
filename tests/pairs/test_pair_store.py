"""The pair store: what it records, that it survives, and that every fault is found and named."""

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from synclora.clip import Clip, read_clip, write_clip
from synclora.errors import SyncloraError
from synclora.pairs import Pair, PairRow, PairStore, save_pair
from synclora.pairs.store import sha256


def clip_of(frames: int = 9, size: int = 64, shade: int = 90) -> torch.Tensor:
    """A gradient that moves by one column a frame: uint8 [F, size, size, 3]."""
    ramp = torch.arange(size, dtype=torch.uint8).expand(size, size)
    return torch.stack(
        [torch.stack([ramp.roll(f, 1), ramp.T, torch.full_like(ramp, shade)], -1) for f in range(frames)]
    )


def pair_of(name: str = "a", *, frames: int = 9, fps: Fraction = Fraction(25)) -> Pair:
    curves = {"yaw": [0.123456789] * frames}
    return Pair(name, clip_of(frames), clip_of(frames, shade=200), fps, "a person", ["hat", "beard"], 7, curves)


@pytest.fixture
def store(tmp_path: Path) -> PairStore:
    """Two good pairs, a and b."""
    store = PairStore(tmp_path / "pairs")
    store.append([save_pair(store.root, pair_of("a")), save_pair(store.root, pair_of("b"))])
    return store


def faults(store: PairStore, deep: bool = True) -> list[str]:
    return [str(problem) for problem in store.verify(deep)]


def change(store: PairStore, index: int, **values) -> PairRow:
    """Overwrite fields of one row and write the table as it then is."""
    rows = store.rows()
    rows[index] = replace(rows[index], **values)
    store._write(rows)
    return rows[index]


def test_rows_come_back_as_they_were_written(store: PairStore) -> None:
    """Every field survives Parquet, types included; curves are kept to 5 decimals."""
    row = store.rows()[0]
    expected = save_pair(store.root, pair_of("a"))
    assert row == expected
    assert (row.fps, row.frames, row.width, row.height, row.seed) == ("25", 9, 64, 64, 7)
    assert row.edit_kinds == ["hat", "beard"]
    assert row.motion is not None and row.motion.startswith('{"yaw":[0.12346,')
    assert row.sync is None and row.verdict == "unjudged"


def test_media_are_near_lossless(store: PairStore) -> None:
    """crf 12: what is read back differs from what was rendered by little; fps and frame count are exact."""
    clip = read_clip(store.target_path(store.rows()[0]))
    truth = clip_of(shade=200)
    assert clip.fps == 25 and clip.frames.shape == truth.shape and clip.origin is None
    assert (clip.frames.float() - truth.float()).abs().mean() < 6
    assert (clip.frames.float() - clip_of(shade=90).float()).abs().mean() > 20


def test_good_store_has_no_faults(store: PairStore) -> None:
    assert faults(store) == []


def test_known_ids_are_skipped_and_replaced_on_request(store: PairStore) -> None:
    """append(row) with an id that is there adds nothing; with replace it takes the old row's place."""
    other = replace(store.rows()[0], prompt="another")
    assert store.append(other) == 0 and store.rows()[0].prompt == "a person"
    assert store.append(other, replace=True) == 1
    assert [row.prompt for row in store.rows()] == ["another", "a person"]


def test_content_hash_follows_content(store: PairStore) -> None:
    """The hash changes with a prompt or a file's digest, not with the order of rows or the verdict."""
    before = store.content_hash()
    store._write(store.rows()[::-1])
    change(store, 0, verdict="keep")
    assert store.content_hash() == before
    change(store, 0, prompt="another")
    assert store.content_hash() != before


def test_table_is_replaced_whole(store: PairStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kill while the table is being written leaves the old table, and no stray file."""

    def dies(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(pq, "write_table", dies)
    with pytest.raises(KeyboardInterrupt):
        store.append(replace(store.rows()[0], id="c"))
    assert [row.id for row in store.rows()] == ["a", "b"]
    assert sorted(path.name for path in store.root.iterdir()) == ["media", "pairs.parquet"]


def test_missing_file_is_named(store: PairStore) -> None:
    store.source_path(store.rows()[1]).unlink()
    for deep in (True, False):
        assert faults(store, deep) == ["b: the source file media/b.source.mp4 is missing"]


def test_altered_file_is_named(store: PairStore) -> None:
    path = store.target_path(store.rows()[0])
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)
    (fault,) = faults(store)
    assert fault.startswith("a: the target file media/a.target.mp4 was altered: sha256 ")
    assert not store.is_whole(store.rows()[0]) and store.is_whole(store.rows()[1])


def test_unreadable_file_is_named(store: PairStore) -> None:
    path = store.target_path(store.rows()[0])
    path.write_text("not a video")
    change(store, 0, sha256_target=sha256(path))
    (fault,) = faults(store)
    assert fault.startswith("a: the target file cannot be read: ") and "a.target.mp4" in fault


@pytest.mark.parametrize(
    ("clip", "expected"),
    [
        (Clip(clip_of(9), Fraction(30)), "a: fps differs: source 25, target 30"),
        (Clip(clip_of(17), Fraction(25)), "a: frames differs: source 9, target 17"),
        (Clip(clip_of(9, 96), Fraction(25)), "a: width differs: source 64, target 96"),
    ],
)
def test_unequal_clips_are_named(store: PairStore, clip: Clip, expected: str) -> None:
    """A pair needs equal fps, frame counts and sizes, measured in the media and not believed of the table."""
    path = store.target_path(store.rows()[0])
    write_clip(path, clip)
    change(store, 0, sha256_target=sha256(path))
    assert faults(store)[0].startswith(expected)


def test_table_that_says_otherwise_is_named(store: PairStore) -> None:
    change(store, 1, fps="30", height=96)
    assert faults(store) == [
        f"b: {name} of the {side} is {is_}, but the table says {says}"
        for name, is_, says in (("fps", 25, 30), ("height", 64, 96))
        for side in ("source", "target")
    ]


def test_frames_not_8k_plus_1_are_named(tmp_path: Path) -> None:
    store = PairStore(tmp_path)
    store.append(save_pair(tmp_path, pair_of("odd", frames=12)))
    assert faults(store) == ["odd: 12 frames; training needs 8k+1, e.g. 9"]


def test_duplicate_ids_are_named(store: PairStore) -> None:
    store._write([*store.rows(), store.rows()[0]])
    assert faults(store) == ["a: this id occurs more than once in the table; ids must be unique"]


def test_path_out_of_the_store_is_named(store: PairStore) -> None:
    change(store, 0, source="../secret.mp4")
    assert faults(store)[0].startswith("a: the source's path '../secret.mp4' leaves the store")


@pytest.mark.parametrize("fps", ["0", "-25", "fast", "1/0"])
def test_senseless_rate_is_named(store: PairStore, fps: str) -> None:
    change(store, 0, fps=fps)
    assert faults(store)[0].startswith(f"a: fps is {fps!r}")


def test_every_offender_is_listed(store: PairStore) -> None:
    """One fault does not hide the next."""
    store.source_path(store.rows()[0]).unlink()
    store.target_path(store.rows()[1]).unlink()
    assert [problem.id for problem in store.verify()] == ["a", "b"]


def test_no_store_and_damaged_table_are_errors(tmp_path: Path, store: PairStore) -> None:
    with pytest.raises(SyncloraError, match=r"no pairs\.parquet here"):
        PairStore(tmp_path / "nowhere").rows()
    whole = store.table_path.read_bytes()
    store.table_path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(SyncloraError, match="not a readable Parquet file"):
        store.rows()


def test_table_of_another_format_is_refused(store: PairStore) -> None:
    table = pq.read_table(store.table_path)
    pq.write_table(table.replace_schema_metadata({"synclora_pairs": "99"}), store.table_path)
    with pytest.raises(SyncloraError, match="pair format '99'"):
        store.rows()
    pq.write_table(table.drop_columns(["seed"]), store.table_path)
    with pytest.raises(SyncloraError, match="lacks the columns seed"):
        store.rows()
