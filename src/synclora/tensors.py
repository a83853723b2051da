"""Tensors in and out of safetensors files, atomically, with errors a person can act on."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from synclora.atomic import atomic_path
from synclora.errors import SyncloraError

Metadata = dict[str, str] | None


def make_folder(folder: Path | str) -> Path:
    """Make a folder and those above it; SyncloraError if that is not possible."""
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SyncloraError(
            f"{folder}: cannot be written ({error.strerror}). Choose an output folder that can be made."
        ) from error
    return folder


def write_tensors(destination: Path | str, tensors: Mapping[str, Tensor], metadata: Metadata = None) -> None:
    """Write named tensors, each in its own dtype and bit for bit, so that the file is either whole or absent.

    Tensors may live on any device and may share memory (each name is then stored in full).

    Raises:
        SyncloraError: the folder cannot be written or the disk is full.
    """
    with atomic_path(destination) as temporary:
        dump_tensors(temporary, tensors, metadata)


def dump_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Metadata = None) -> None:
    """Write named tensors straight to `path`, for use inside `atomic_path`; a full disk is an OSError."""
    path.touch()
    mode = path.stat().st_mode  # what the user's umask gives; save_file alone would leave 0600
    try:
        save_file(_separate(tensors), str(path), metadata=metadata or {})
        path.chmod(mode)
    except SafetensorError as error:
        # The Rust writer hides the error number in its message: IoError(Os { code: 28, kind: StorageFull, ... }).
        code = re.search(r"code: (\d+)|os error (\d+)", str(error))
        if code is None:
            raise
        raise OSError(int(code.group(1) or code.group(2)), str(error), str(path)) from error


def read_tensors(path: Path | str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read every tensor (CPU) and the header's strings.

    Raises:
        SyncloraError: the file is missing, cut short or not a safetensors file.
    """
    path = Path(path)
    try:
        with safe_open(str(path), framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except FileNotFoundError as error:
        raise SyncloraError(f"{path}: no such file; a whole safetensors file is needed here.") from error
    except (SafetensorError, OSError) as error:
        raise SyncloraError(
            f"{path}: not a whole safetensors file ({error}). It was cut short or altered; remove it and run again."
        ) from error


def _separate(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous CPU tensors, no two of which share memory (safetensors refuses those)."""
    seen: set[int] = set()
    result: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu().contiguous()
        if tensor.numel() and tensor.untyped_storage().data_ptr() in seen:
            tensor = tensor.clone()
        seen.add(tensor.untyped_storage().data_ptr())
        result[name] = tensor
    return result
