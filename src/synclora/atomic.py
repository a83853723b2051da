"""Files that are either whole or absent: write beside the destination, then rename over it."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from synclora.errors import SyncloraError


@contextmanager
def atomic_path(destination: Path | str) -> Iterator[Path]:
    """Yield a temporary path (same folder, same suffix) that becomes `destination` when the block ends well.

    The file or folder written there is flushed to disk and renamed over the destination, so a kill at any instant
    leaves the old content or the new, never half. No rename puts a folder over a folder: there the old one is first
    moved aside (to `.NAME.*.old`) and removed last, and a kill between the two renames leaves it under that name. If
    the block raises, what was written is removed and the destination stays as it was.

    Raises:
        SyncloraError: the folder cannot be written or the disk is full. An OSError of the block that names another file
            passes through.
    """
    destination = Path(destination)
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(destination, error) from error
    # Part of the name only, for a name may be as long as the file system allows already.
    temporary = destination.parent / f".{destination.stem[:40]}.{uuid.uuid4().hex[:8]}.part{destination.suffix}"
    try:
        yield temporary
        _flush(temporary)
        _replace(temporary, destination)
    except OSError as error:
        _remove(temporary)
        # OSError also covers codec errors of PyAV that carry an errno; only those of the file system are told here.
        if error.errno in _WRITE_ERRORS and _names(error, temporary, destination):
            raise _unwritable(destination, error) from error
        raise
    except BaseException:
        _remove(temporary)
        raise


def write_text(destination: Path | str, text: str) -> None:
    """Write UTF-8 text atomically."""
    with atomic_path(destination) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(destination: Path | str, value: Any) -> None:
    """Write JSON atomically; NaN and infinity are refused with ValueError, as JSON has none."""
    write_text(destination, json.dumps(value, indent=2, allow_nan=False) + "\n")


_WRITE_ERRORS = {
    errno.ENOSPC,
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.EDQUOT,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.ENAMETOOLONG,
    errno.EFBIG,
    errno.EIO,
}


def sha256(path: Path) -> str:
    """Hex digest of a file's bytes."""
    digest = hashlib.sha256()
    with open(path, "rb") as handle:
        while block := handle.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _unwritable(destination: Path, error: OSError) -> SyncloraError:
    return SyncloraError(
        f"{destination}: cannot be written ({os.strerror(error.errno or 0)}); a writable folder with free space is "
        "needed. Free some space or choose another output; nothing was left behind."
    )


def _names(error: OSError, temporary: Path, destination: Path) -> bool:
    """Tell whether the error is about what we write: a failed write names no file, a failed open or rename does."""
    named = [os.fspath(name) for name in (error.filename, error.filename2) if isinstance(name, (str, os.PathLike))]
    return not named or any(name.startswith((str(temporary), str(destination))) for name in named)


def _flush(path: Path) -> None:
    files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
    for file in files:
        with open(file, "rb") as handle:
            os.fsync(handle.fileno())


def _replace(temporary: Path, destination: Path) -> None:
    if temporary.is_dir() and destination.is_dir():
        aside = destination.parent / f".{destination.name}.{uuid.uuid4().hex[:8]}.old"
        os.rename(destination, aside)
        try:
            os.rename(temporary, destination)
        except OSError:
            os.rename(aside, destination)
            raise
        shutil.rmtree(aside, ignore_errors=True)
    else:
        os.replace(temporary, destination)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
