"""Backbones by name: `nano` comes with the package; the others are published models, a folder, a file or a hub id.

    synclora edit ... --backbone nano                                          in the package
                      --backbone ltx-2.3                                       from the hub's cache, once downloaded
                      --backbone models/my-ltx                                 a folder in the diffusers layout
                      --backbone models/my-ltx/ltx-2.3-22b-dev.safetensors     one file, and the folder for the rest
                      --backbone someone/some-model                            a hub id

Nothing of tens of gigabytes is ever fetched unasked for a preset: its error holds the command that does.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch

from synclora.backbones.base import Backbone
from synclora.backbones.presence import cached_folder, first_of, missing_files
from synclora.backbones.single_file import INDEX_NAME, SingleFile, open_single_file
from synclora.errors import SyncloraError

WEIGHTS = Path(__file__).parents[1] / "weights"
PRESETS = {"nano": WEIGHTS / "nano"}
LORA_NAME = "sync_lora.safetensors"


@dataclass(frozen=True)
class Published:
    """A model on the hub.

    Attributes:
        repo: hub id, of the diffusers layout.
        gigabytes: of the parts that are used (10^9 bytes). LTX-Video: as the hub lists them. LTX-2: counted from the
            configurations at 2 bytes a weight.
        licence: of the weights.
        gated: whether the hub asks for a login.
    """

    repo: str
    gigabytes: int
    licence: str
    gated: bool = False

    @property
    def command(self) -> str:
        """What downloads the parts that are used, and no sound."""
        patterns = ("*.json", *(f"{part}/*" for part in PARTS))
        return " ".join([f"hf download {self.repo}", *(f'--include "{pattern}"' for pattern in patterns)])


PARTS = ("transformer", "vae", "text_encoder", "tokenizer", "connectors")
_OPEN_WEIGHTS = "LTX-Video Open Weights License (commercial use below 10 million US dollars of yearly revenue)"
_COMMUNITY = "LTX-2 Community License (free below 10 million US dollars of yearly revenue)"
PUBLISHED = {
    "ltxv-2b": Published("Lightricks/LTX-Video-0.9.5", 25, _OPEN_WEIGHTS),
    "ltxv-13b": Published("Lightricks/LTX-Video-0.9.7-dev", 48, _OPEN_WEIGHTS),
    "ltx-2.0": Published("Lightricks/LTX-2", 67, _COMMUNITY),
    "ltx-2.3": Published("diffusers/LTX-2.3-Diffusers", 70, _COMMUNITY),
    "ltx-2.5": Published("Lightricks/LTX-2.5-Diffusers", 70, "LTX-2.x Community License", gated=True),
}


def load_backbone(
    name_or_path: str | Path = "nano",
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
    *,
    share: bool = False,
) -> Backbone:
    """A backbone, ready to edit or to be trained on: frozen and in evaluation mode.

    Args:
        name_or_path: a preset's name, a folder in the diffusers layout, a checkpoint of one file, or a hub id.
        device: "cpu", "cuda", ...
        dtype: of the weights; by default `default_dtype(device)`.
        share: on a GPU that is too small for the whole model, let its parts take turns there (editing, not training).

    Raises:
        SyncloraError: no such model, files missing or damaged, or a device that is not there.
    """
    from synclora.backbones import checkpoint
    from synclora.backbones.distilled import is_distilled
    from synclora.backbones.ltx2 import LTX2Backbone
    from synclora.backbones.ltx_video import LTXVideoBackbone

    single_file, where = _single_file(name_or_path), locate(name_or_path)
    families = {"LTXVideoTransformer3DModel": LTXVideoBackbone, "LTX2VideoTransformer3DModel": LTX2Backbone}
    _, transformer = checkpoint.read_index(where).get("transformer", (None, "LTXVideoTransformer3DModel"))
    if transformer not in families:
        raise SyncloraError(
            f"{where}: its transformer is of the class {transformer}; needed is one of {', '.join(families)}."
        )
    device = _available(device)
    load = families[transformer].load
    dtype = dtype or default_dtype(device)
    backbone = load(where, device, dtype, name=str(name_or_path), single_file=single_file, share=share)
    backbone.distilled = is_distilled(where, str(name_or_path), single_file)
    return backbone


def locate(name_or_path: str | Path) -> str | Path:
    """The folder or hub id of a model: a preset's place, that of a single file's other parts, or what is given.

    Raises:
        SyncloraError: a preset whose weights are not here, with the command that downloads them; or a damaged file.
    """
    name = str(name_or_path)
    if (single_file := _single_file(name_or_path)) is not None:
        return _beside(single_file)
    if name in PUBLISHED:
        return _cached(name)
    where = PRESETS.get(name, name_or_path)
    if where in PRESETS.values() and not (Path(where) / INDEX_NAME).is_file():
        raise SyncloraError(
            f"{where}: the weights of {name_or_path!r} are missing from this installation. Install synclora again, or"
            " give another model's folder with --backbone."
        )
    return where


def _cached(name: str, parts: Iterable[str] = PARTS) -> Path:
    """The folder of a published model in the hub's cache, these parts of it whole."""
    published = PUBLISHED[name]
    folder = cached_folder(published.repo)
    missing = [INDEX_NAME] if folder is None else missing_files(folder, parts)
    if folder is not None and not missing:
        return folder
    what = "its weights are not here" if missing == [INDEX_NAME] else f"{folder} lacks {first_of(missing)}"
    login = " after `hf auth login` (the licence is accepted on the model's page)" if published.gated else ""
    raise SyncloraError(
        f"{name}: {what} (about {published.gigabytes} GB in all; {published.licence}). Download all of it{login} with\n"
        f"  {published.command}\nor give a folder that holds it with --backbone."
    )


def _single_file(name_or_path: str | Path) -> SingleFile | None:
    path = Path(name_or_path)
    if path.suffix != ".safetensors":
        return None
    if not path.is_file():
        raise SyncloraError(f"{path}: no such file. Give the path of the checkpoint.")
    return open_single_file(path)


def _beside(single_file: SingleFile) -> str | Path:
    """The model that a checkpoint of one file takes everything else from: its own folder's, or the published one."""
    folder = single_file.path.parent
    if (folder / INDEX_NAME).is_file():
        return folder
    name = single_file.published
    try:
        return _cached(name, [part for part in PARTS if not single_file.holds(part)])
    except SyncloraError as error:
        raise SyncloraError(
            f"{single_file.path}: holds no text encoder, and there is no {INDEX_NAME} beside it. Put it into"
            f" the folder of the model it belongs to, or, as it looks like {name}: {error}"
        ) from error


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
