"""Files that are whole or absent."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest

from synclora import atomic
from synclora.atomic import atomic_path, write_json, write_text
from synclora.errors import SyncloraError


def test_replaces_in_one_step(tmp_path: Path) -> None:
    """Until the block ends the old content stands; afterwards only the new file is there."""
    target = tmp_path / "deep" / "a.txt"
    write_text(target, "old")
    with atomic_path(target) as temporary:
        assert temporary.parent == target.parent and temporary.suffix == ".txt"
        temporary.write_text("new")
        assert target.read_text() == "old"
    assert target.read_text() == "new"
    assert list(target.parent.iterdir()) == [target]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_failure_keeps_the_old(tmp_path: Path, error: type[BaseException]) -> None:
    """An exception passes through; what was written is gone."""
    write_text(tmp_path / "a.txt", "old")
    with pytest.raises(error), atomic_path(tmp_path / "a.txt") as temporary:
        temporary.write_text("half")
        raise error
    assert (tmp_path / "a.txt").read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 1


def test_folders(tmp_path: Path) -> None:
    """A folder replaces a folder whole; a failure keeps the old one."""
    target = tmp_path / "state"
    for name in ("one", "two"):
        with atomic_path(target) as temporary:
            temporary.mkdir()
            (temporary / name).write_text(name)
    assert [p.name for p in target.iterdir()] == ["two"]
    with pytest.raises(ValueError), atomic_path(target) as temporary:
        temporary.mkdir()
        (temporary / "three").write_text("3")
        raise ValueError
    assert [p.name for p in target.iterdir()] == ["two"]
    assert list(tmp_path.iterdir()) == [target]


def test_failed_rename_brings_the_old_folder_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the new folder cannot be put in place, the one moved aside returns."""
    target = tmp_path / "state"
    target.mkdir()
    (target / "old").write_text("old")
    rename = atomic.os.rename

    def failing(source: Path, destination: Path) -> None:
        if ".part" in Path(source).name or "part" in Path(source).suffix:
            raise OSError(errno.ENOSPC, "No space left on device")
        rename(source, destination)

    monkeypatch.setattr(atomic.os, "rename", failing)
    with pytest.raises(SyncloraError, match="No space left"), atomic_path(target) as temporary:
        temporary.mkdir()
    assert [p.name for p in target.iterdir()] == ["old"]
    assert list(tmp_path.iterdir()) == [target]


def test_write_errors_are_told(tmp_path: Path) -> None:
    """A full disk, a file in the folder's place, a folder in the file's place: SyncloraError naming the file."""
    with (
        pytest.raises(SyncloraError, match=r"a\.txt: cannot be written \(No space left"),
        atomic_path(tmp_path / "a.txt"),
    ):
        raise OSError(errno.ENOSPC, "No space left on device")
    (tmp_path / "file").write_text("x")
    with pytest.raises(SyncloraError, match="cannot be written"):
        write_text(tmp_path / "file" / "a.txt", "x")
    (tmp_path / "folder").mkdir()
    with pytest.raises(SyncloraError, match="Is a directory"):
        write_text(tmp_path / "folder", "x")
    with pytest.raises(SyncloraError, match="File name too long"):
        write_text(tmp_path / ("n" * 300), "x")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder"]


def test_errors_about_other_files_pass(tmp_path: Path) -> None:
    """An input that may not be read is not blamed on the output."""
    blocked = PermissionError(errno.EACCES, "Permission denied", str(tmp_path / "input"))
    with pytest.raises(PermissionError), atomic_path(tmp_path / "a.txt"):
        raise blocked
    with pytest.raises(FileNotFoundError), atomic_path(tmp_path / "a.txt"):
        (tmp_path / "none").read_text()


def test_longest_name(tmp_path: Path) -> None:
    """A name of 255 bytes, the most file systems take, can be written."""
    write_text(tmp_path / ("n" * 251 + ".txt"), "x")
    assert len(list(tmp_path.iterdir())) == 1


def test_json(tmp_path: Path) -> None:
    """JSON round trip; NaN is refused and leaves nothing."""
    write_json(tmp_path / "a.json", {"r": 0.5})
    assert json.loads((tmp_path / "a.json").read_text()) == {"r": 0.5}
    with pytest.raises(ValueError):
        write_json(tmp_path / "b.json", {"r": float("nan")})
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]
