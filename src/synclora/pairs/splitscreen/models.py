"""Which pipeline a stage uses: found, checked and identified before anything is loaded, and loaded when it is needed.

Nothing is fetched: a hub model that is not in the hub's cache is told with the command that downloads it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from synclora.backbones.presence import INDEX, first_of, missing_files
from synclora.editing.pipelines import require
from synclora.errors import SyncloraError
from synclora.pairs.splitscreen.calls import SIBLINGS, Call, Role, call_of, settings_of
from synclora.pairs.splitscreen.config import StageConfig


@dataclass(frozen=True)
class Model:
    """A pipeline on disk.

    Attributes:
        role: what it is used for.
        name: as the configuration names it.
        commit: of the hub's repository; None for a folder.
        pipeline: name of diffusers' class.
        chosen: the arguments that are the same in every call.
    """

    role: Role
    name: str
    folder: Path
    commit: str | None
    pipeline: str
    call: Call
    chosen: dict[str, Any]

    def told(self) -> dict[str, Any]:
        """What a record says of it."""
        return {"model": self.name, "commit": self.commit, "pipeline": self.pipeline, "settings": self.chosen}


def find(role: Role, settings: StageConfig) -> Model:
    """The model of a stage.

    Raises:
        SyncloraError: it is not here, is no pipeline of a class that can do this, lacks parts, or a setting is one it
            does not take.
    """
    import diffusers
    from diffusers.pipelines.pipeline_utils import DiffusionPipeline

    folder, commit = _folder(role, settings)
    index = _index(folder)
    named = settings.pipeline or SIBLINGS[role].get(index.get("_class_name", ""), index.get("_class_name"))
    pipeline = getattr(diffusers, named, None) if isinstance(named, str) else None
    if not (isinstance(pipeline, type) and issubclass(pipeline, DiffusionPipeline)):
        raise SyncloraError(
            f"{folder / INDEX}: {named!r} is no pipeline of diffusers {diffusers.__version__}. Name one with"
            f" {role}.pipeline, or use another model."
        )
    if missing := missing_files(folder):
        raise SyncloraError(
            f"{role}.model: {folder}: incomplete; missing are {first_of(missing)}. {_fetch_again(settings)}"
        )
    call = call_of(role, pipeline, index, settings.model)
    require(call.packages, pipeline.__name__)
    if settings.batch > 1 and not call.batches:
        raise SyncloraError(f"{role}.batch is {settings.batch}; {named} makes one at a time. Leave it out.")
    chosen = settings_of(call, pipeline, settings, f"{role}: {settings.model}")
    _check_device(role, settings)
    return Model(role, settings.model, folder, commit, pipeline.__name__, call, chosen)


def load(model: Model, settings: StageConfig) -> Any:
    """The pipeline, on its device.

    Raises:
        SyncloraError: its files are damaged, or do not fit into memory.
    """
    import diffusers
    import torch

    from synclora.backbones.presets import default_dtype

    device = _device(settings)
    dtype = default_dtype(device) if settings.dtype == "auto" else getattr(torch, settings.dtype)
    types = {"default": dtype, **dict.fromkeys(model.call.exact, torch.float32)} if model.call.exact else dtype
    kind: Any = getattr(diffusers, model.pipeline)
    try:
        with quiet():
            pipeline = kind.from_pretrained(model.folder, dtype=types, local_files_only=True, use_safetensors=True)
        if settings.offload == "model":
            pipeline.enable_model_cpu_offload(device=device)
        elif settings.offload == "sequential":
            pipeline.enable_sequential_cpu_offload(device=device)
        else:
            pipeline.to(device)
    except torch.OutOfMemoryError as error:
        raise SyncloraError(
            f"{model.name}: does not fit onto {device}. Set {model.role}.offload: model (or sequential)."
        ) from error
    except Exception as error:  # damaged files show as a dozen classes, of safetensors, json, torch and diffusers
        what = (str(error).splitlines() or [""])[0]
        raise SyncloraError(
            f"{model.folder}: {model.pipeline} cannot be loaded from it ({type(error).__name__}: {what})."
            f" {_fetch_again(settings)}"
        ) from error
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@contextmanager
def quiet() -> Iterator[None]:
    """Keep bars of loading and warnings about long prompts (CLIP sees 77 tokens, T5 all) out of the terminal."""
    from diffusers.utils import logging as ours
    from transformers.utils import logging as theirs

    before = [(library, library.get_verbosity()) for library in (ours, theirs)]
    try:
        for library, _ in before:
            library.set_verbosity_error()
            library.disable_progress_bar()
        yield
    finally:
        for library, verbosity in before:
            library.set_verbosity(verbosity)
            library.enable_progress_bar()


def _folder(role: Role, settings: StageConfig) -> tuple[Path, str | None]:
    folder = Path(settings.model)
    if folder.is_dir():
        if not (folder / INDEX).is_file():
            raise SyncloraError(f"{folder}: has no {INDEX}. Give {role}.model a folder of diffusers' layout.")
        return folder, None
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(settings.model, revision=settings.revision, local_files_only=True))
        if not (folder / INDEX).is_file():
            raise LocalEntryNotFoundError(f"{folder} has no {INDEX}")
    except LocalEntryNotFoundError as error:
        raise SyncloraError(
            f"{role}.model: {settings.model} is not here. Download it with\n  {_command(settings)}\n(`hf auth login`"
            " first where its page asks for it), or give a folder that holds it."
        ) from error
    except HFValidationError as error:
        raise SyncloraError(
            f"{role}.model: {settings.model!r} is neither a folder nor a hub id such as Qwen/Qwen-Image."
        ) from error
    return folder, folder.name


def _command(settings: StageConfig) -> str:
    revision = f" --revision {settings.revision}" if settings.revision else ""
    return f"hf download {settings.model}{revision}"


def _fetch_again(settings: StageConfig) -> str:
    if Path(settings.model).is_dir():
        return "Copy or download the whole model again."
    return f"Go on with the download:\n  {_command(settings)}"


def _index(folder: Path) -> dict[str, Any]:
    try:
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SyncloraError(f"{folder / INDEX}: cannot be read ({error}).") from error
    if not isinstance(index, dict):
        raise SyncloraError(f"{folder / INDEX}: is no JSON object.")
    return index


def _device(settings: StageConfig) -> Any:
    import torch

    name = settings.device
    return torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)


def _check_device(role: Role, settings: StageConfig) -> None:
    import torch

    try:
        torch.empty(0, device=_device(settings))
    except (RuntimeError, AssertionError) as error:
        raise SyncloraError(
            f"{role}.device is {settings.device!r}, which is not usable here ({str(error).splitlines()[0]})."
        ) from error
