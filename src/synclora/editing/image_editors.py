"""Models that edit a picture as they are told: which are known, where their weights are, and one loaded and at work.

    with ImageEditor(find_editor("flux2-klein"), device="cuda") as editor:
        edited = editor.edit(picture, "give her short red hair", seed=0)        # uint8 [h, w, 3] each

A model is a preset's name, a folder in the diffusers layout or a hub id in the hub's cache. Nothing is ever fetched:
the error for missing weights holds the command that does, with their size and licence. The classes are diffusers' own.
"""

from __future__ import annotations

import gc
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from synclora.backbones.presence import INDEX, cached_folder, first_of, missing_files
from synclora.backbones.presets import default_dtype
from synclora.editing.guards import resolve_device
from synclora.editing.pictures import to_image
from synclora.editing.pipelines import EDIT_CALLS, EditCall, edit_call, require
from synclora.editing.stages import Stages
from synclora.errors import SyncloraError


@dataclass(frozen=True)
class EditorPreset:
    """An image-editing model on the hub.

    Attributes:
        repo: hub id, of the diffusers layout.
        billions: weights of each part, in 10^9; on disk and in memory 2 bytes each. Transformers and VAEs counted from
            diffusers' configurations, text encoders as their makers state them.
        licence: of the weights.
        gated: whether the hub asks for a login.
    """

    repo: str
    billions: Mapping[str, float]
    licence: str
    gated: bool = False

    @property
    def gigabytes(self) -> int:
        """Of the download, in 10^9 bytes."""
        return round(2 * sum(self.billions.values()))

    @property
    def command(self) -> str:
        """What downloads the parts that are used."""
        patterns = ("*.json", *(f"{part}/*" for part in (*self.billions, "scheduler", "tokenizer*", "processor")))
        return " ".join([f"hf download {self.repo}", *(f'--include "{pattern}"' for pattern in patterns)])


DEFAULT_EDITOR = "flux2-klein"
_QWEN = {"transformer": 20.43, "text_encoder": 8.29, "vae": 0.127}
_FLUX_TERMS = "Non-Commercial License (no commercial use of the model)"
EDITORS = {
    "qwen-image-edit": EditorPreset("Qwen/Qwen-Image-Edit-2511", _QWEN, "Apache License 2.0"),
    "flux-kontext": EditorPreset(
        "black-forest-labs/FLUX.1-Kontext-dev",
        {"transformer": 11.90, "text_encoder": 0.123, "text_encoder_2": 4.76, "vae": 0.084},
        f"FLUX.1 [dev] {_FLUX_TERMS}",
        gated=True,
    ),
    "flux2": EditorPreset(
        "black-forest-labs/FLUX.2-dev",
        {"transformer": 32.22, "text_encoder": 24.01, "vae": 0.084},
        f"FLUX {_FLUX_TERMS}",
        gated=True,
    ),
    "flux2-klein": EditorPreset(
        "black-forest-labs/FLUX.2-klein-4B",
        {"transformer": 3.88, "text_encoder": 4.02, "vae": 0.084},
        "Apache License 2.0",
    ),
}


# What the work takes beside the weights: a part of the card, at least so many bytes.
RESERVE_SHARE, RESERVE = 0.2, 3 * 2**30


@dataclass(frozen=True)
class FoundEditor:
    """An image-editing model here on disk: its name as it was given, its folder, diffusers' class, and its call."""

    name: str
    folder: Path
    pipeline: str
    call: EditCall


def find_editor(name: str | Path = DEFAULT_EDITOR) -> FoundEditor:
    """The model that is meant, checked but not loaded.

    Raises:
        SyncloraError: it is not here, is not whole, or of a class that is not known to edit pictures.
    """
    preset, folder = EDITORS.get(str(name)), Path(name)
    if preset is not None or not folder.is_dir():
        cached = cached_folder(preset.repo if preset else str(name))
        if cached is None or not (cached / INDEX).is_file():
            raise _not_here(str(name), preset)
        folder = cached
    if missing := missing_files(folder):
        raise SyncloraError(f"{folder}: incomplete; missing are {first_of(missing)}. {_fetch_again(str(name), preset)}")
    index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    pipeline = str(index.get("_class_name"))
    call = edit_call(pipeline, index)
    if call is None:
        raise SyncloraError(
            f"{folder}: its pipeline is of the class {pipeline}; editing by words knows {', '.join(EDIT_CALLS)}. Choose"
            " another model with --editor."
        )
    require(call.packages, pipeline)
    return FoundEditor(str(name), folder, pipeline, call)


def _not_here(name: str, preset: EditorPreset | None) -> SyncloraError:
    if preset is None and (Path(name).exists() or not _like_hub_id(name)):
        return SyncloraError(
            f"{name}: no such model. --editor takes a preset ({', '.join(EDITORS)}), a folder in the diffusers layout"
            " or a hub id."
        )
    about = f" (about {preset.gigabytes} GB; {preset.licence})" if preset else ""
    login = " after `hf auth login` (the licence is accepted on the model's page)" if preset and preset.gated else ""
    return SyncloraError(
        f"{name}: its weights are not here{about}. Download them{login} with\n  {_command(name, preset)}\nor give a"
        " folder that holds them with --editor, or edit the frame yourself: `synclora first-frame SOURCE -o"
        " frame.png`, then --first-frame."
    )


def _like_hub_id(name: str) -> bool:
    parts = name.split("/")
    return len(parts) == 2 and all(parts) and parts[0] not in (".", "..", "~")


def _command(name: str, preset: EditorPreset | None) -> str:
    return preset.command if preset else f"hf download {name}"


def _fetch_again(name: str, preset: EditorPreset | None) -> str:
    if preset is None and Path(name).is_dir():
        return "Copy or download the whole model again, or give another with --editor."
    return f"Go on with the download:\n  {_command(name, preset)}"


class ImageEditor:
    """A loaded image-editing model; as a context manager it frees its memory at the end.

    Args:
        found: which one.
        device: "auto", "cpu", "cuda", "cuda:1" ... On a GPU too small for all of it its parts take turns there, or its
            layers; `notice` tells.

    Raises:
        SyncloraError: files that cannot be loaded, or a device that is not there.
    """

    def __init__(self, found: FoundEditor, device: str = "auto") -> None:
        self.found, self.notice = found, ""
        target = torch.device(resolve_device(device))
        self._pipeline: Any = None
        try:
            torch.empty(0, device=target)  # before minutes of loading
            self._pipeline = _load(found, target)
            self.notice = _settle(self._pipeline, target)
        except (RuntimeError, AssertionError) as error:
            self.close()
            raise SyncloraError(
                f"{found.name}: does not go onto device {str(target)!r} ({str(error).splitlines()[0]}). Choose another"
                " with --device, or a smaller model with --editor."
            ) from error

    def edit(self, picture: Tensor, instruction: str, seed: int = 0, stages: Stages | None = None) -> Tensor:
        """Edit a picture, uint8 [h, w, 3] of the size that `found.call.size_for` gives; the result has the same size.

        The noise is drawn on the CPU, so that a seed means the same picture on every device, but for rounding.

        Raises:
            SyncloraError: the model gave a black picture (its safety check does so), or ran out of memory.
        """
        call, (height, width) = self.found.call, picture.shape[:2]
        arguments: dict[str, Any] = {"num_inference_steps": call.steps, **call.settings}
        if call.sized:
            arguments |= {"width": width, "height": height}
        if "_auto_resize" in arguments:
            arguments["max_area"] = width * height  # else Kontext scales the size back to its own area
        if stages is not None:

            def tell(_: Any, step: int, __: Any, state: dict[str, Any]) -> dict[str, Any]:
                stages.step(step + 1, call.steps)
                return state

            arguments["callback_on_step_end"] = tell
        generator = torch.Generator().manual_seed(seed)
        try:
            made = self._pipeline(prompt=instruction, image=to_image(picture), generator=generator, **arguments)
        except torch.OutOfMemoryError as error:
            raise SyncloraError(
                f"{self.found.name}: out of memory at {width}x{height} px ({str(error).splitlines()[0]}). Choose a"
                f" smaller model with --editor ({', '.join(EDITORS)}), or --device cpu."
            ) from error
        edited = torch.from_numpy(np.array(made.images[0].convert("RGB")))
        if int(edited.max()) == 0:
            raise SyncloraError(
                f"{self.found.name}: gave a black picture: its safety check refused the instruction {instruction!r}, or"
                " its weights are damaged. Put it in other words, or choose another model with --editor."
            )
        return edited

    def close(self) -> None:
        """Let the model go, and its memory."""
        self._pipeline = None
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def __enter__(self) -> ImageEditor:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def _load(found: FoundEditor, device: torch.device) -> Any:
    import diffusers
    from diffusers.utils import logging as ours
    from transformers.utils import logging as theirs

    for library in (ours, theirs):
        library.disable_progress_bar()
    try:
        kind = getattr(diffusers, found.pipeline)
        pipeline = kind.from_pretrained(
            found.folder, dtype=default_dtype(device), local_files_only=True, use_safetensors=True
        )
    except Exception as error:  # damaged files show as a dozen classes, of safetensors, json, torch and diffusers
        raise SyncloraError(
            f"{found.folder}: {found.pipeline} cannot be loaded from it ({type(error).__name__}:"
            f" {(str(error).splitlines() or [''])[0]}). {_fetch_again(found.name, EDITORS.get(found.name))}"
        ) from error
    finally:
        for library in (ours, theirs):
            library.enable_progress_bar()
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def how_it_fits(sizes: list[int], free: int, total: int) -> Literal["whole", "turns", "layers"]:
    """How parts of so many bytes go onto a GPU: all of them at once, one at a time, or layer by layer."""
    room = free - max(int(RESERVE_SHARE * total), RESERVE)
    return "whole" if sum(sizes) <= room else "turns" if max(sizes) <= room else "layers"


def _settle(pipeline: Any, device: torch.device) -> str:
    """Put a pipeline onto a device as it fits there; what to tell of it."""
    parts = [part for part in pipeline.components.values() if isinstance(part, torch.nn.Module)]
    sizes = [sum(p.numel() * p.element_size() for p in part.parameters()) for part in parts]
    if device.type != "cuda":
        pipeline.to(device)
        return ""
    free, total = torch.cuda.mem_get_info(device)
    fits = how_it_fits(sizes, free, total)
    if fits == "whole":
        pipeline.to(device)
        return ""
    told = f"the image model takes {sum(sizes) / 1e9:.0f} GB and {device} has {free / 1e9:.0f} GB free: its"
    if fits == "turns":
        pipeline.enable_model_cpu_offload(device=device)
        return f"{told} parts took turns there."
    pipeline.enable_sequential_cpu_offload(device=device)
    return f"{told} layers took turns there, which is slow."
