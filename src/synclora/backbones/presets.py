"""Backbones by name: `nano` comes with the package, everything else is a folder or a hub id."""

from __future__ import annotations

from pathlib import Path

import torch

from synclora.backbones.base import Backbone
from synclora.errors import SyncloraError

WEIGHTS = Path(__file__).parents[1] / "weights"
PRESETS = {"nano": WEIGHTS / "nano"}
LORA_NAME = "sync_lora.safetensors"


def load_backbone(
    name_or_path: str | Path = "nano", device: str | torch.device = "cpu", dtype: torch.dtype | None = None
) -> Backbone:
    """A backbone, ready to edit or to be trained on: frozen and in evaluation mode.

    Args:
        name_or_path: a preset's name, a folder in the diffusers layout, or a hub id.
        device: "cpu", "cuda", ...
        dtype: of the weights; by default `default_dtype(device)`.

    Raises:
        SyncloraError: no such model, files missing or damaged, or a device that is not there.
    """
    from synclora.backbones.ltx_video import LTXVideoBackbone

    where = PRESETS.get(str(name_or_path), name_or_path)
    if where in PRESETS.values() and not (Path(where) / "model_index.json").is_file():
        raise SyncloraError(
            f"{where}: the weights of {name_or_path!r} are missing from this installation. Install synclora again, or"
            " give another model's folder with --backbone."
        )
    device = _available(device)
    return LTXVideoBackbone.load(where, device, dtype or default_dtype(device), name=str(name_or_path))


def nano_lora_path() -> Path:
    """The Sync-LoRA that comes with nano.

    Raises:
        SyncloraError: it is missing from this installation.
    """
    path = PRESETS["nano"] / LORA_NAME
    if not path.is_file():
        raise SyncloraError(
            f"{path}: nano's Sync-LoRA is missing from this installation. Install synclora again, or name a LoRA with"
            " --lora."
        )
    return path


def default_dtype(device: str | torch.device) -> torch.dtype:
    """bfloat16 where the hardware multiplies it natively (about 4 times as fast on such CPUs), float32 elsewhere."""
    if torch.device(device).type != "cpu":
        return torch.bfloat16
    capabilities = getattr(torch.cpu, "get_capabilities", dict)()  # absent before torch 2.11
    native = any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16"))
    return torch.bfloat16 if native else torch.float32


def _available(device: str | torch.device) -> torch.device:
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError) as error:
        raise SyncloraError(
            f"device {device!r} is not usable here ({str(error).splitlines()[0]}). Use --device cpu, or cuda on a"
            " machine whose torch was built for it."
        ) from error
    return found
