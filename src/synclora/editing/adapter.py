"""The Sync-LoRA of an editor: found, put into the backbone's transformer, and its header read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from synclora.backbones.base import Attention, Backbone
from synclora.backbones.presets import LORA_NAME, PRESETS
from synclora.diffusion.lora import load_lora, remove_lora
from synclora.errors import SyncloraError


@dataclass(frozen=True)
class Adapter:
    """A LoRA that is in place, and how it wants the reference shown."""

    path: Path
    attention: Attention  # what it was trained with
    downscale: int  # the reference is so many times smaller than the target, each way


def find_lora(backbone: str | Path, lora: str | Path | None) -> Path | None:
    """The LoRA file meant by `lora` ("default": the one that comes with the backbone; None: none).

    Raises:
        SyncloraError: no such file, or a backbone that comes without one.
    """
    if lora is None:
        return None
    if str(lora) != "default":
        if not Path(lora).is_file():
            raise SyncloraError(
                f"{lora}: no such LoRA file. Pass a .safetensors file with --lora, or --no-lora for the base model."
            )
        return Path(lora)
    beside = Path(PRESETS.get(str(backbone), backbone)) / LORA_NAME
    if not beside.is_file():
        raise SyncloraError(
            f"{backbone}: comes without a Sync-LoRA (no {LORA_NAME} in it). Name one that was trained on this base "
            "with --lora FILE, or pass --no-lora to animate the edited frame without the source's motion."
        )
    return beside


def attach(backbone: Backbone, path: Path) -> Adapter:
    """Load the LoRA into the backbone's transformer.

    Raises:
        SyncloraError: not a LoRA file, NaN weights, another base's, or a reference layout that is not supported.
    """
    header = load_lora(backbone.transformer, path, base_fingerprint=backbone.fingerprint())
    try:
        return read_adapter(path, header)
    except SyncloraError:
        remove_lora(backbone.transformer)
        raise


def read_adapter(path: Path, header: Mapping[str, str]) -> Adapter:
    """What a LoRA file's header asks for; published files that say nothing are `joint`, at full size."""
    attention = header.get("reference_attention", "joint")
    if attention != "self" and attention != "joint":
        raise SyncloraError(f"{path}: reference_attention is {attention!r} in its header; 'self' or 'joint' is needed.")
    if _factor(path, header, "reference_temporal_scale_factor") != 1:
        raise SyncloraError(
            f"{path}: reference_temporal_scale_factor is {header['reference_temporal_scale_factor']} in its header; "
            "only 1, a reference of the target's own frames, is supported. Use a LoRA trained so."
        )
    return Adapter(path, attention, _factor(path, header, "reference_downscale_factor"))


def _factor(path: Path, header: Mapping[str, str], name: str) -> int:
    text = header.get(name, "1")
    if not text.isdecimal() or int(text) < 1:
        raise SyncloraError(f"{path}: {name} is {text!r} in its header; a whole number from 1 on is needed.")
    return int(text)
