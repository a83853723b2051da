"""The pair store: what it records, that it survives, and that every fault is found and named."""

import sys
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from fsspec.implementations.memory import MemoryFileSystem

from synclora.atomic import sha256
from synclora.clip import Clip, read_clip, write_clip
from synclora.errors import SyncloraError
from synclora.pairs import Pair, PairRow, PairStore, save_pair


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

    monkeypatch.setattr(pq.ParquetWriter, "write_table", dies)
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


def test_a_row_without_a_value_and_a_wrong_type_are_refused(store: PairStore) -> None:
    """A null where a value must be, and text where a number must be, are told with the column or the cause."""
    table = pq.read_table(store.table_path)
    for column, values, said in (
        ("prompt", pa.array([None, "x"]), "Casting field 'prompt' with null values"),
        ("frames", pa.array(["nine", "9"]), "not a readable Parquet file"),
        ("id", pa.array([b"\xff\xfe", b"x"]), "not a readable Parquet file"),
    ):
        at = table.schema.get_field_index(column)
        broken = table.set_column(at, column, values)
        pq.write_table(broken.replace_schema_metadata(table.schema.metadata), store.table_path)
        with pytest.raises(SyncloraError, match=said):
            store.rows()


def test_format_1_is_read_and_rewritten_as_2(store: PairStore) -> None:
    """A table without `appearance` and `defect` gives rows with None there, and keeps them when rows are added."""
    rows = store.rows()
    table = pq.read_table(store.table_path).drop_columns(["appearance", "defect"])
    pq.write_table(table.replace_schema_metadata({"synclora_pairs": "1"}), store.table_path)
    assert store.rows() == rows and rows[0].appearance is None and rows[0].defect is None
    added = replace(rows[0], id="c", defect='{"kind": "none"}', appearance="{}")
    assert store.append([added, replace(rows[1], verdict="keep")], replace=True) == 2
    assert store.rows() == [rows[0], replace(rows[1], verdict="keep"), added]
    assert pq.read_schema(store.table_path).metadata[b"synclora_pairs"] == b"2"


def test_tables_larger_than_memory_allows_at_once(store: PairStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows read and replaced some at a time are the same rows in the same order."""
    monkeypatch.setattr("synclora.pairs.store.ROWS_AT_ONCE", 7)
    first = store.rows()[0]
    many = [replace(first, id=f"{i:03d}", seed=i) for i in range(50)]
    assert store.append(many) == 50 and len(store) == 52
    assert store.append([replace(many[30], prompt="new")], replace=True) == 1
    assert [row.id for row in store.iter_rows()] == ["a", "b", *(row.id for row in many)]
    assert [row.seed for row in store.rows() if row.prompt == "new"] == [30]


@pytest.fixture(params=["memory", "file"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return f"memory://pairs-{uuid4().hex}/deep" if request.param == "memory" else f"file://{tmp_path}/store"


def test_a_store_at_a_url_does_what_a_folder_does(url: str) -> None:
    """Rows, ids, hash and verify agree with a local store of the same pairs; faults are found there too."""
    store = PairStore(url)
    assert not store.exists() and store.ids() == set()
    rows = [save_pair(store, pair_of("a")), save_pair(store, pair_of("b"))]
    assert store.append(rows) == 2 and store.rows() == rows and store.ids() == {"a", "b"}
    assert store.verify() == [] and store.is_whole(rows[0])
    assert store.list("media") == [f"media/{i}.{side}.mp4" for i in "ab" for side in ("source", "target")]
    assert store.append(replace(rows[0], prompt="new"), replace=True) == 1
    assert [row.prompt for row in PairStore(url).rows()] == ["new", "a person"]
    digest = store.content_hash()
    with store.local(rows[0].source) as path:
        assert read_clip(path).num_frames == 9
        store.put(path, rows[1].target)
    assert faults(store) and faults(store)[0].startswith("b: the target file media/b.target.mp4 was altered")
    store.remove(rows[0].source)
    assert faults(store, deep=False) == ["a: the source file media/a.source.mp4 is missing"]
    assert store.content_hash() == digest  # of the table, not of the files


def test_side_files(url: str) -> None:
    store = PairStore(url)
    store.write_bytes("measurements/part-0001.parquet", b"one")
    store.write_bytes("measurements/part-0000.parquet", b"zero")
    assert store.list("measurements") == ["measurements/part-0000.parquet", "measurements/part-0001.parquet"]
    assert store.read_bytes("measurements/part-0001.parquet") == b"one" and store.list("none") == []
    store.remove("measurements/part-0000.parquet")
    store.remove("measurements/part-0000.parquet")
    assert store.list() == ["measurements/part-0001.parquet"]
    with pytest.raises(SyncloraError, match="no such file"):
        store.read_bytes("measurements/part-0000.parquet")
    for path in ("../x", "/etc/passwd", "", "a/../../x", "a\0b"):
        with pytest.raises(SyncloraError, match="leaves the store"):
            store.write_bytes(path, b"")


def test_a_remote_store_has_no_local_paths() -> None:
    store = PairStore("memory://bucket/pairs")
    for ask in (lambda: store.root, lambda: store.table_path):
        with pytest.raises(SyncloraError, match="is not a local folder"):
            ask()
    with pytest.raises(SyncloraError, match="synclora pairs generate --out memory://bucket/pairs"):
        store.rows()


def test_a_missing_package_and_an_unknown_protocol_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(SyncloraError, match="pip install s3fs"):
        PairStore("s3://bucket/pairs")
    with pytest.raises(SyncloraError, match="nonsense://x"):
        PairStore("nonsense://x")
    with pytest.raises(SyncloraError, match="looks like a URL, and a local folder is needed"):
        PairStore(Path("s3://bucket/pairs"))


def test_a_refusing_storage_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a storage package raises becomes one error that names the address and the cause."""

    def refuses(*_, **__):
        raise RuntimeError("Unable to locate credentials")

    store = PairStore("memory://bucket/pairs")
    monkeypatch.setattr(MemoryFileSystem, "pipe_file", refuses)
    with pytest.raises(SyncloraError, match=r"memory://bucket/pairs/report\.html: .*Unable to locate credentials"):
        store.write_bytes("report.html", b"")


def test_paths_that_no_file_can_have_are_missing_files(store: PairStore) -> None:
    """A path longer than a file system allows is a missing file, told in a line of bounded length without controls."""
    change(store, 0, source="media/" + "x" * 100_000, target="media/\x1b[2J.mp4")
    (long, control) = faults(store)
    assert long.startswith("a: the source file media/xxx") and len(long) < 600
    assert control == "a: the target file media/\\x1b[2J.mp4 is missing"
