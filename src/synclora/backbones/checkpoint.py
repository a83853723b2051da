"""Reading a model in the diffusers layout: a folder, or the same on the Hugging Face hub.

    model_index.json   transformer/   vae/   text_encoder/   tokenizer/   scheduler/   [synclora.json]

`synclora.json` is ours and optional: the video size, window and prompt length a model was trained for.
Only safetensors weights are read. Everything that is missing, damaged or not finite is told in one paragraph.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError
from safetensors import SafetensorError
from torch import nn
from transformers.utils import logging

from synclora.errors import SyncloraError

SETTINGS_NAME = "synclora.json"

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


def read_settings(where: str | Path) -> Settings:
    """The model's `synclora.json`, or the defaults where there is none.

    Raises:
        SyncloraError: not JSON, an unknown name, or a value that is not a positive number.
    """
    path = Path(where) / SETTINGS_NAME
    if not is_folder(where):
        try:
            path = Path(hf_hub_download(str(where), SETTINGS_NAME))
        except LocalEntryNotFoundError as error:
            raise SyncloraError(f"{where}: {_unreachable(error)}") from error
        except EntryNotFoundError:
            return Settings()
        except (HfHubHTTPError, OSError, ValueError) as error:
            raise SyncloraError(f"{where}: {_unreachable(error)}") from error
    if not path.exists():
        return Settings()
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SyncloraError(f"{path}: not readable JSON ({error}). Correct it, or delete it for defaults.") from error
    known = {field.name: type(field.default) for field in fields(Settings)}
    for name, value in content.items() if isinstance(content, dict) else [("content", content)]:
        allowed = (int, float) if known.get(name) is float else int
        if name not in known or isinstance(value, bool) or not isinstance(value, allowed) or value <= 0:
            raise SyncloraError(
                f"{path}: {name} is {value!r}; needed are positive numbers, whole but for fps, and no names but"
                f" {', '.join(known)}. Correct it, or delete the file for defaults."
            )
    return Settings(**content)


def load_module(kind: type[Module], where: str | Path, part: str, **options: Any) -> Module:
    """One of the model's networks, complete, finite, frozen and in evaluation mode.

    Args:
        kind: a diffusers or transformers class.
        where: folder or hub id.
        part: the subfolder.
        options: for `from_pretrained`.

    Raises:
        SyncloraError: missing or damaged files, missing tensors, or values that are not finite.
    """
    loader: Any = kind
    module, report = load_part(
        where,
        part,
        partial(loader.from_pretrained, where, use_safetensors=True, output_loading_info=True, **options),
    )
    if missing := sorted(report["missing_keys"]):
        raise SyncloraError(
            f"{where}/{part}: {missing[0]} is missing ({len(missing)} tensors in all). The weights are incomplete or do"
            " not belong to config.json beside them; fetch the model again."
        )
    for name, tensor in module.state_dict().items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise SyncloraError(
                f"{where}/{part}: {name} holds NaN or infinite values. The file is damaged or its training diverged;"
                " fetch the model again or use an earlier checkpoint."
            )
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
    bars_wanted = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # one a folder, for milliseconds
    try:
        return from_pretrained(subfolder=part, local_files_only=local)
    except _LOAD_ERRORS as error:
        said = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        way_out = "Fetch the model again." if local else _unreachable(error)
        raise SyncloraError(f"{where}/{part}: cannot be loaded ({said}). {way_out}") from error
    finally:
        if bars_wanted:
            logging.enable_progress_bar()


def _unreachable(error: Exception) -> str:
    return (
        f"not a folder here, and not to be had from the Hugging Face hub ({type(error).__name__}). Check the name, the"
        " network and, for gated models, `hf auth login`; or fetch the model and give its folder."
    )
