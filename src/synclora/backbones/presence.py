"""Whether a model in the diffusers layout is whole on this disk: nothing is loaded and nothing is fetched.

folder = cached_folder("Lightricks/LTX-Video-0.9.5")     # in the hub's cache, or None
missing_files(folder, ("transformer", "vae"))            # [] where all of it is there
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

INDEX, CONFIG = "model_index.json", "config.json"
WITHOUT_WEIGHTS = ("scheduler", "tokenizer", "processor", "feature_extractor", "image_processor")  # and tokenizer_2 ...


def cached_folder(repo: str) -> Path | None:
    """The snapshot of a hub repository in the cache, whole or not; None where there is none, or `repo` is no hub id."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(repo, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError):
        return None


def first_of(missing: list[str], most: int = 4) -> str:
    """The first few of what is missing, in words."""
    return ", ".join(missing[:most]) + (" ..." if len(missing) > most else "")


def is_variant(file: Path) -> bool:
    """Whether a file of weights, or their index, is of a variant (`x.fp16.safetensors`), which is never loaded here."""
    return "." in file.name.partition(".safetensors")[0]


def missing_files(folder: Path, parts: Iterable[str] | None = None) -> list[str]:
    """What a model lacks, as paths inside its folder; empty where it is whole.

    Args:
        folder: of the diffusers layout.
        parts: the components that are needed; None: all that the index names.
    """
    try:
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        components = [name for name, kind in index.items() if isinstance(kind, list) and kind and kind[0]]
    except (OSError, ValueError, AttributeError):
        return [INDEX]
    wanted = components if parts is None else [name for name in parts if name in components]
    return [missing for name in wanted for missing in _missing(folder / name, name)]


def _missing(part: Path, name: str) -> list[str]:
    if not part.is_dir() or not any(part.iterdir()):
        return [f"{name}/"]
    if name.startswith(WITHOUT_WEIGHTS):
        return []
    missing = [] if (part / CONFIG).is_file() else [f"{name}/{CONFIG}"]
    index = next((file for file in part.glob("*.safetensors.index.json") if not is_variant(file)), None)
    if index is None:
        weights = any(file.is_file() and not is_variant(file) for file in part.glob("*.safetensors"))
        return missing if weights else [*missing, f"{name}/*.safetensors"]
    try:
        shards = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, AttributeError):
        return [*missing, f"{name}/{index.name}"]
    return missing + [f"{name}/{shard}" for shard in shards if not (part / shard).is_file()]
