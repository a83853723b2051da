"""Files under one root, be it a local folder or a URL of an object store, by paths relative to it.

    files = Files("s3://bucket/pairs")
    files.write_bytes("report.html", b"...")
    with files.local("media/a.source.mp4") as path:
        clip = read_clip(path)

A local file is written beside its destination and renamed over it; on an object store one put is atomic by itself. A
reader so never sees half a file.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, cast

from synclora.atomic import atomic_path
from synclora.errors import SyncloraError

LOCAL_PROTOCOLS = ("file", "local")


class Files:
    """What lies under `root`: a local path, `file://`, or any URL that fsspec opens (`s3://`, `gs://`, `memory://`).

    Raises:
        SyncloraError: the URL's protocol is unknown, or the package that opens it is not installed.
    """

    def __init__(self, root: Path | str) -> None:
        protocol, found, rest = str(root).partition("://")
        if isinstance(root, Path) and re.match("[a-z][a-z0-9+]+:/", str(root)):  # Path made one slash of two
            raise SyncloraError(
                f"{root}: looks like a URL, and a local folder is needed here. Copy the store to a local folder first."
            )
        if isinstance(root, Path) or not found:
            self.folder: Path | None = Path(root)
            self.url = str(root)
        elif protocol in LOCAL_PROTOCOLS:
            self.folder = Path(rest)
            self.url = str(self.folder)
        else:
            self.folder = None
            self.url = str(root).rstrip("/")
            self._fs, self._base = _filesystem(str(root))

    @property
    def local_root(self) -> Path:
        """The local folder. SyncloraError where the root is remote."""
        if self.folder is None:
            raise SyncloraError(
                f"{self.url}: is not a local folder, and files on this machine are needed here. "
                "Copy the store to a local folder first (e.g. with `aws s3 sync` or `gsutil rsync`)."
            )
        return self.folder

    def path(self, relative: str) -> Path:
        """The local path of a file. SyncloraError where the root is remote or the path leaves it."""
        return self.local_root / inside(relative, self.url)

    def name(self, relative: str) -> str:
        """How a message calls a file."""
        return str(self.folder / relative) if self.folder is not None else f"{self.url}/{relative}"

    def exists(self, relative: str) -> bool:
        """Whether there is a file of this path."""
        if self.folder is not None:
            return os.path.isfile(self.path(relative))  # false also for names that no file can have
        with _told(self.name(relative)):
            return bool(self._fs.isfile(self._key(relative)))

    def open(self, relative: str) -> BinaryIO:
        """The file opened for reading; the caller closes it."""
        if self.folder is not None:
            return open(self.path(relative), "rb")
        with _told(self.name(relative)):
            return cast(BinaryIO, self._fs.open(self._key(relative), "rb"))

    def read_bytes(self, relative: str) -> bytes:
        """All of a file.

        Raises:
            SyncloraError: it is missing or cannot be read.
        """
        with _told(self.name(relative)), self.open(relative) as handle:
            return handle.read()

    def write_bytes(self, relative: str, data: bytes) -> None:
        """Put `data` in place as one file, whole or not at all."""
        if self.folder is not None:
            with atomic_path(self.path(relative)) as temporary:
                temporary.write_bytes(data)
            return
        with _told(self.name(relative)):
            self._fs.pipe_file(self._key(relative), data)

    def put(self, local_file: Path | str, relative: str) -> None:
        """Copy a local file into place, whole or not at all."""
        if self.folder is not None:
            with atomic_path(self.path(relative)) as temporary:
                shutil.copyfile(local_file, temporary)
            return
        with _told(self.name(relative)):
            self._fs.put_file(str(local_file), self._key(relative))

    @contextmanager
    def writing(self, relative: str) -> Iterator[Path]:
        """Yield a local path of the same suffix to write to; what is there when the block ends well is put in place."""
        if self.folder is not None:
            with atomic_path(self.path(relative)) as temporary:
                yield temporary
            return
        with tempfile.TemporaryDirectory(prefix="synclora-") as folder:
            temporary = Path(folder) / f"written{PurePosixPath(relative).suffix}"
            yield temporary
            self.put(temporary, relative)

    @contextmanager
    def local(self, relative: str) -> Iterator[Path]:
        """Yield a local path of a file: the file itself, or a copy that is removed when the block ends.

        Raises:
            SyncloraError: it is missing or cannot be fetched.
        """
        if self.folder is not None:
            path = self.path(relative)
            if not os.path.isfile(path):
                raise _missing(str(path))
            yield path
            return
        with tempfile.TemporaryDirectory(prefix="synclora-") as folder:
            path = Path(folder) / PurePosixPath(relative).name
            with _told(self.name(relative)):
                self._fs.get_file(self._key(relative), str(path))
            yield path

    def list(self, prefix: str = "") -> list[str]:
        """Relative paths of all files below the folder `prefix`, sorted; files being written are left out."""
        if self.folder is not None:
            top = self.path(prefix) if prefix else self.folder
            found = [p.relative_to(self.folder).as_posix() for p in top.rglob("*") if p.is_file()]
        else:
            with _told(self.name(prefix)):
                base = self._key(prefix) if prefix else self._base
                self._fs.invalidate_cache()
                keys = cast("list[str]", self._fs.find(base)) if self._fs.exists(base) else []
            found = [key.removeprefix(self._base).lstrip("/") for key in keys]
        return sorted(name for name in found if not PurePosixPath(name).name.startswith("."))

    def remove(self, relative: str) -> None:
        """Delete a file; one that is not there is no error."""
        if self.folder is not None:
            self.path(relative).unlink(missing_ok=True)
        elif self.exists(relative):
            with _told(self.name(relative)):
                self._fs.rm_file(self._key(relative))

    def _key(self, relative: str) -> str:
        return f"{self._base}/{inside(relative, self.url)}"


def inside(relative: str, root: str) -> str:
    """`relative` itself, if it is a path that stays below its root.

    Raises:
        SyncloraError: it is empty, absolute, holds a NUL or leads out by "..".
    """
    if not stays_inside(relative):
        raise SyncloraError(
            f"{root}: the path {relative!r} leaves the store; paths in it are relative and without '..'."
        )
    return relative


def printable(text: str, most: int = 500) -> str:
    """The text with control characters and broken Unicode escaped, and cut where it is long: fit for a terminal."""
    text = text if len(text) <= most else f"{text[:most]}... ({len(text)} characters)"
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


def stays_inside(relative: str) -> bool:
    """Whether a path is relative, not empty and free of ".." and NUL."""
    path = PurePosixPath(relative)
    return bool(path.parts) and not path.is_absolute() and ".." not in path.parts and "\0" not in relative


def _filesystem(url: str) -> tuple[Any, str]:
    """fsspec's file system for a URL, and the path of the URL in it."""
    import fsspec

    protocol = url.partition("://")[0]
    try:
        filesystem, base = fsspec.core.url_to_fs(url)
    except ImportError as error:
        package = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs"}.get(protocol, "its fsspec package")
        raise SyncloraError(
            f"{url}: {protocol}:// needs a package that is not installed. Install it with: pip install {package}"
        ) from error
    except ValueError as error:
        raise SyncloraError(
            f"{url}: {error}. Use a local folder, or a URL such as s3://bucket/folder or gs://bucket/folder."
        ) from error
    return filesystem, str(base).rstrip("/")


def _missing(name: str) -> SyncloraError:
    return SyncloraError(f"{name}: there is no such file.")


@contextmanager
def _told(name: str) -> Iterator[None]:
    """Tell a fault of the storage as a SyncloraError.

    Every fsspec package raises exceptions of its own for a refused key, a timeout or a lost connection; they share no
    base class, hence the wide net. The cause stays attached.
    """
    try:
        yield
    except SyncloraError:
        raise
    except FileNotFoundError as error:
        raise _missing(name) from error
    except Exception as error:
        what = (str(error).splitlines() or [""])[0] or type(error).__name__
        raise SyncloraError(
            f"{name}: the storage answered: {what}. Check the address, the credentials and the network, and run the "
            "same command again; what is finished is kept."
        ) from error
