"""The Sync-LoRA of an editor: found, put into the backbone's transformer, and its rules read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from synclora.adapters import hub
from synclora.adapters.bases import config_of
from synclora.adapters.merge import MERGED_NAME, merged_rules
from synclora.adapters.rules import KNOWN, Rules, require_base, rules_of
from synclora.backbones.base import Attention, Backbone
from synclora.backbones.checkpoint import is_folder
from synclora.backbones.presets import LORA_NAME, PRESETS, PUBLISHED, locate
from synclora.diffusion.lora import load_lora
from synclora.diffusion.lora_file import read_header
from synclora.errors import SyncloraError


@dataclass(frozen=True)
class Adapter:
    """A LoRA that is in place, and how it wants to be sampled."""

    path: Path
    attention: Attention  # what it was trained with
    downscale: int  # the reference is so many times smaller than the target, each way
    rules: Rules = field(default_factory=Rules)  # all that it asks for: prompt, window, sampling


def find_lora(backbone: str | Path, lora: str | Path | None) -> Path | None:
    """The LoRA file meant by `lora`: a path or hub id; "default": the one that comes with the backbone; None: none.

    Of a backbone that a LoRA was merged into, that is the record of it.

    Raises:
        SyncloraError: no such file, a hub id that cannot be fetched, no such backbone, or one that comes without a
            LoRA.
    """
    if lora is None:
        return None
    if str(lora) != "default":
        return hub.locate(lora).path
    where = locate(backbone)
    folder = Path(where)
    if is_folder(where) and not (folder / "transformer").is_dir():
        raise SyncloraError(
            f"{backbone}: has no transformer folder, so it is no model in the diffusers layout. Give such a folder, a"
            f" preset ({', '.join([*PRESETS, *PUBLISHED])}), a .safetensors file or a hub id with --backbone."
        )
    beside = next((folder / name for name in (LORA_NAME, MERGED_NAME) if (folder / name).is_file()), None)
    if beside is None:
        known = [f"such as {known.repo}" for known in KNOWN if known.rules.base == str(backbone)]
        raise SyncloraError(
            f"{backbone}: comes without a Sync-LoRA (no {LORA_NAME} in it). Name one that was trained on this base "
            f"with --lora FILE{', '.join(['', *known])}, or pass --no-lora to animate the edited frame without the "
            "source's motion."
        )
    return beside


def attach(backbone: Backbone, path: Path) -> Adapter:
    """Load the LoRA into the backbone's transformer; one that was merged into it is there already.

    Raises:
        SyncloraError: not a LoRA file, NaN weights, another base's, or a reference layout that is not supported.
    """
    if path.name == MERGED_NAME and (rules := merged_rules(path.parent)):
        return _adapter(path, rules)
    adapter = read_adapter(path, read_header(path))
    require_base(path, adapter.rules, config_of(backbone.transformer))
    load_lora(backbone.transformer, path, base_fingerprint=backbone.fingerprint())
    return adapter


def read_adapter(path: Path, header: Mapping[str, str]) -> Adapter:
    """What a LoRA file asks for; published files that say nothing are `joint`, at full size."""
    return _adapter(path, rules_of(path, header))


def _adapter(path: Path, rules: Rules) -> Adapter:
    return Adapter(path, rules.attention, rules.downscale, rules)
