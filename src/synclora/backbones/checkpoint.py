"""Reading a model in the diffusers layout: a folder, or the same on the Hugging Face hub.

    model_index.json   transformer/   vae/   text_encoder/   tokenizer/   [connectors/]   [synclora.json]

`synclora.json` is ours and optional: the video size, window and prompt length a model was trained for.
Only safetensors weights are read. Everything that is missing, damaged or not finite is told in one paragraph.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from accelerate import init_empty_weights
from huggingface_hub import hf_hub_download, snapshot_download
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers.utils import logging as transformers_logging

from synclora.backbones.presence import is_variant
from synclora.backbones.single_file import INDEX_NAME, SingleFile
from synclora.errors import SyncloraError

SETTINGS_NAME = "synclora.json"
_DIFFUSERS_LOG = logging.getLogger("diffusers.models.modeling_utils")

T = TypeVar("T")
Module = TypeVar("Module", bound=nn.Module)

# What from_pretrained of diffusers, transformers and safetensors raise over files that are absent or damaged.
_LOAD_ERRORS = (OSError, ValueError, KeyError, RuntimeError, TypeError, SafetensorError)


@dataclass(frozen=True)
class Settings:
    """The content of `synclora.json`; the defaults are those of LTX-Video in-context LoRA training.

    Attributes:
        width, height: pixels.
        frames: longest window.
        fps: frames a second.
        prompt_tokens: prompts are cut to this many.
    """

    width: int = 512
    height: int = 512
    frames: int = 81
    fps: float = 25.0
    prompt_tokens: int = 256


def is_folder(where: str | Path) -> bool:
    """Whether `where` is a folder here; if not it is taken for a hub id.

    Raises:
        SyncloraError: it is neither, going by its form.
    """
    if Path(where).is_dir():
        return True
    parts = str(where).split("/")
    if len(parts) != 2 or not all(parts) or parts[0] in (".", "..", "~") or Path(where).exists():
        raise SyncloraError(
            f"{where}: no such model folder. Give a preset's name, a folder in the diffusers layout (with"
            " model_index.json in it) or a hub id such as Lightricks/LTX-Video-0.9.5."
        )
    return False


def read_settings(where: str | Path, default: Settings = Settings()) -> Settings:
    """The model's `synclora.json`, or the defaults, of the model's family, where there is none.

    Raises:
        SyncloraError: not JSON, an unknown name, or a value that is not a positive number.
    """
    path = find_file(where, SETTINGS_NAME)
    if path is None:
        return default
    content = read_json(path, "Correct it, or delete it for defaults.")
    known = {field.name: type(field.default) for field in fields(Settings)}
    for name, value in content.items() if isinstance(content, dict) else [("content", content)]:
        allowed = (int, float) if known.get(name) is float else int
        if name not in known or isinstance(value, bool) or not isinstance(value, allowed) or value <= 0:
            raise SyncloraError(
                f"{path}: {name} is {value!r}; needed are positive numbers, whole but for fps, and no names but"
                f" {', '.join(known)}. Correct it, or delete the file for defaults."
            )
    return replace(default, **content)


def read_index(where: str | Path) -> dict[str, Any]:
    """The model's `model_index.json`, library and class of each of its parts; empty where there is none.

    Raises:
        SyncloraError: not a JSON object.
    """
    path = find_file(where, INDEX_NAME)
    content = {} if path is None else read_json(path, "Fetch the model again.")
    if not isinstance(content, dict):
        raise SyncloraError(f"{path}: not a JSON object. Fetch the model again.")
    return content


def load_module(
    kind: type[Module], where: str | Path, part: str, *, single_file: SingleFile | None = None, **options: Any
) -> Module:
    """One of the model's networks, complete, finite, frozen and in evaluation mode.

    Args:
        kind: a diffusers or transformers class.
        where: folder or hub id.
        part: the subfolder.
        single_file: holds the weights in place of the subfolder, if it holds this part.
        options: for `from_pretrained`.

    Raises:
        SyncloraError: missing or damaged files, missing tensors, or values that are not finite.
    """
    if single_file is not None and single_file.holds(part):
        return fill_from(skeleton(kind, where, part), where, part, single_file=single_file, **options)
    loader: Any = kind
    module, report = load_part(
        where,
        part,
        partial(loader.from_pretrained, where, use_safetensors=True, output_loading_info=True, **options),
    )
    _require_complete(module, report["missing_keys"], f"{where}/{part}")
    return module.eval().requires_grad_(False)


def fill_from(
    module: Module,
    where: str | Path,
    part: str,
    dtype: torch.dtype,
    device: torch.device | str = "cpu",
    *,
    single_file: SingleFile | None = None,
) -> Module:
    """A `skeleton` with the weights of a subfolder, or of `single_file` if it holds this part; see `fill`."""
    if single_file is not None and single_file.holds(part):
        return fill(module, [(single_file.path, single_file.names(part))], str(single_file.path), dtype, device)
    return fill(module, [(path, None) for path in weight_files(where, part)], f"{where}/{part}", dtype, device)


def skeleton(kind: type[Module], where: str | Path, part: str, trim: Callable[[Module], None] | None = None) -> Module:
    """A network of a subfolder's configuration without weights (on the device "meta"), for `fill`.

    Raises:
        SyncloraError: no such subfolder, or a damaged configuration.
    """
    loader: Any = kind
    config = load_part(where, part, partial(loader.load_config, where))
    with init_empty_weights(include_buffers=False):
        module = loader.from_config(config)
    if trim is not None:
        trim(module)
    return module


def fill(
    module: Module,
    files: Iterable[tuple[Path, Mapping[str, str] | None]],
    where: str,
    dtype: torch.dtype,
    device: torch.device | str = "cpu",
) -> Module:
    """A `skeleton` with its weights read: complete, finite, frozen and in evaluation mode.

    A tensor at a time, so that the host never holds more than the weights and one tensor; on the CPU and in the file's
    own dtype they are views into the file and no copy of it.

    Args:
        module: without weights.
        files: safetensors files, each with the names of the module's tensors and theirs in the file (None: the same).
        where: named in errors.
        dtype, device: of the weights.

    Raises:
        SyncloraError: missing or damaged files, missing tensors, or values that are not finite.
    """
    missing = set(module.state_dict())
    for path, names in files:
        try:
            with safe_open(path, framework="pt") as file:
                keys = names or {key: key for key in file.keys()}  # noqa: SIM118
                state = {n: file.get_tensor(key).to(device, dtype) for n, key in keys.items() if n in missing}
            module.load_state_dict(state, strict=False, assign=True)
            missing -= state.keys()
        except _LOAD_ERRORS as error:
            raise SyncloraError(
                f"{path}: cannot be loaded ({_first_line(error)}). It is damaged, or does not belong to the"
                " configuration it is read for; fetch it again."
            ) from error
    _require_complete(module, missing, where)
    return module.eval().requires_grad_(False)


def load_part(where: str | Path, part: str, from_pretrained: Callable[..., T]) -> T:
    """One subfolder of the model through its own loader, its errors told in our words.

    Raises:
        SyncloraError: missing or damaged files.
    """
    local = is_folder(where)
    if local and not (Path(where) / part).is_dir():
        raise SyncloraError(
            f"{where}: has no {part} folder. A model in the diffusers layout is needed (model_index.json, transformer,"
            " vae, text_encoder, tokenizer); fetch it again whole."
        )
    bars_wanted = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()  # one a folder, for milliseconds
    _DIFFUSERS_LOG.addFilter(_no_error)
    try:
        return from_pretrained(subfolder=part, local_files_only=local)
    except _LOAD_ERRORS as error:
        way_out = "Fetch the model again." if local else _unreachable(error)
        raise SyncloraError(f"{where}/{part}: cannot be loaded ({_first_line(error)}). {way_out}") from error
    finally:
        _DIFFUSERS_LOG.removeFilter(_no_error)
        if bars_wanted:
            transformers_logging.enable_progress_bar()


def _no_error(record: logging.LogRecord) -> bool:
    """Whether to log what diffusers says: its errors are raised too, and told in our words."""
    return record.levelno < logging.ERROR


def _require_complete(module: nn.Module, missing: Iterable[str], where: str) -> None:
    if absent := sorted(missing):
        raise SyncloraError(
            f"{where}: {absent[0]} is missing ({len(absent)} tensors in all). The weights are incomplete or do"
            " not belong to config.json beside them; fetch the model again."
        )
    for name, tensor in module.state_dict().items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise SyncloraError(
                f"{where}: {name} holds NaN or infinite values. The file is damaged or its training diverged;"
                " fetch the model again or use an earlier checkpoint."
            )


def weight_files(where: str | Path, part: str) -> list[Path]:
    """The safetensors files of a subfolder, fetched first where `where` is a hub id."""
    folder = Path(where)
    if not is_folder(where):
        folder = Path(load_part(where, part, partial(_fetch, where)))
    files = sorted(path for path in (folder / part).glob("*.safetensors") if not is_variant(path))
    if not files:
        raise SyncloraError(f"{where}/{part}: holds no .safetensors files. Fetch the model again.")
    return files


def _fetch(where: str | Path, subfolder: str, local_files_only: bool) -> str:
    return snapshot_download(str(where), allow_patterns=f"{subfolder}/*", local_files_only=local_files_only)


def find_file(where: str | Path, name: str) -> Path | None:
    """A file of the model, fetched where `where` is a hub id; None where the model has none."""
    if is_folder(where):
        path = Path(where) / name
        return path if path.exists() else None
    try:
        return Path(hf_hub_download(str(where), name))
    except LocalEntryNotFoundError as error:
        raise SyncloraError(f"{where}: {_unreachable(error)}") from error
    except EntryNotFoundError:
        return None
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise SyncloraError(f"{where}: {_unreachable(error)}") from error


def read_json(path: Path, way_out: str) -> Any:
    """A JSON file's content.

    Raises:
        SyncloraError: it is not readable; `way_out` ends the message.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SyncloraError(f"{path}: not readable JSON ({error}). {way_out}") from error


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def _unreachable(error: Exception) -> str:
    return (
        f"not a folder here, and not to be had from the Hugging Face hub ({type(error).__name__}). Check the name, the"
        " network and, for gated models, `hf auth login`; or fetch the model and give its folder."
    )
