"""What is here: graphics cards, memory, disks, versions, and whether the parts that fail most often work.

Every check is small, needs no network, and never raises: a failure is a finding with its reason.
"""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

NEEDED = ("torch", "diffusers", "transformers", "peft", "accelerate", "safetensors", "av", "mediapipe", "numpy")
OPTIONAL = {"torchao": "pip install 'synclora[quantize]'", "ray": "pip install 'synclora[ray]'"}
TINY = 32  # px of the video that is encoded


@dataclass(frozen=True)
class Card:
    """A CUDA device: bytes in all and free now."""

    index: int
    name: str
    total: int
    free: int
    capability: str


@dataclass(frozen=True)
class Disk:
    """Free bytes where something is kept."""

    what: str
    path: Path
    free: int


@dataclass(frozen=True)
class Check:
    """Something tried: whether it works, and what was seen."""

    name: str
    works: bool
    seen: str
    way_out: str = ""


def cards() -> list[Card]:
    """The CUDA devices that torch sees; raises what torch raises where it cannot ask one."""
    import torch

    if not torch.cuda.is_available():
        return []
    found = []
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        free, total = torch.cuda.mem_get_info(index)
        found.append(Card(index, properties.name, total, free, f"{properties.major}.{properties.minor}"))
    return found


def host_memory() -> tuple[int, int]:
    """Bytes of the host's memory that are available, and in all."""
    import psutil

    memory = psutil.virtual_memory()
    return memory.available, memory.total


def cache_folder() -> Path:
    """Where the hub's client keeps what it downloads."""
    from huggingface_hub.constants import HF_HUB_CACHE

    return Path(HF_HUB_CACHE)


def disks() -> list[Disk]:
    """Free room in the hub's cache and in the working folder."""
    places = {"hub cache": cache_folder(), "working folder": Path.cwd()}
    return [Disk(what, path, shutil.disk_usage(_existing(path)).free) for what, path in places.items()]


def versions() -> dict[str, str | None]:
    """Python and the packages that matter, None where one is missing."""
    found: dict[str, str | None] = {"synclora": None, **dict.fromkeys(NEEDED), **dict.fromkeys(OPTIONAL)}
    for name in found:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return {"python": platform.python_version(), **found}


def check_torch() -> Check:
    """Load what everything else needs."""

    def attempt() -> str:
        import torch

        import synclora.backbones.presets
        import synclora.editing.image_editors  # noqa: F401

        return f"torch {torch.__version__} loads"

    return _check("torch", attempt, "pip install --upgrade --force-reinstall torch synclora")


def check_cards(found: list[Card]) -> Check:
    """Look at the CUDA devices, and add them to `found`."""

    def attempt() -> str:
        found.extend(cards())
        return f"{len(found)} found" if found else "none that torch sees"

    return _check("GPU", attempt, "nvidia-smi; then leave the card out: export CUDA_VISIBLE_DEVICES=1 (or empty)")


def check_video() -> Check:
    """Encode two frames as an .mp4 and read them back."""
    way_out = "pip install --force-reinstall av"

    def attempt() -> str:
        from fractions import Fraction

        import torch

        from synclora.clip import Clip, read_clip, write_clip

        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "check.mp4"
            write_clip(path, Clip(torch.full((2, TINY, TINY, 3), 90, dtype=torch.uint8), Fraction(25)))
            back = read_clip(path).frames
        if tuple(back.shape) != (2, TINY, TINY, 3) or abs(float(back.float().mean()) - 90) > 4:
            raise ValueError(f"what was read back is not what was written ({list(back.shape)})")
        return "an .mp4 is written and read back alike"

    return _check("video encoding", attempt, way_out)


def check_tracking() -> Check:
    """Find the face in a drawn portrait."""

    def attempt() -> str:
        from synclora.faces import count_faces
        from synclora.portraits import TEST_SEED_START, render, sample_motion, sample_person

        person, motion = sample_person(TEST_SEED_START), sample_motion(TEST_SEED_START, frames=9)[:1]
        if count_faces(render(person, motion, size=128)[0]) != 1:
            raise ValueError("no face was found in a drawn portrait")
        return "a drawn face is found"

    return _check("face tracking", attempt, "pip install --force-reinstall 'mediapipe==0.10.21' 'numpy<2'")


def check_nano() -> Check:
    """Whether nano's weights and its Sync-LoRA are in the package, whole."""

    def attempt() -> str:
        from synclora.backbones.presence import missing_files
        from synclora.backbones.presets import PRESETS, nano_lora_path

        if missing := missing_files(PRESETS["nano"]):
            raise ValueError(f"missing from the package: {', '.join(missing)}")
        return f"in the package, with {nano_lora_path().name}"

    return _check("nano's weights", attempt, "pip install --force-reinstall synclora")


def check_writable() -> list[Check]:
    """Whether the working folder and the hub's cache take files."""
    cache = cache_folder()
    return [
        _writable("working folder", Path.cwd(), Path.cwd(), "cd to a folder of your own"),
        _writable("hub cache", cache, _existing(cache), "export HF_HOME=/a/folder/of/your/own"),
    ]


def _writable(name: str, shown: Path, folder: Path, way_out: str) -> Check:
    works = folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)
    seen = f"{shown} is {'' if works else 'not '}writable" if folder.is_dir() else f"{folder} is a file, not a folder"
    return Check(name, works, seen, way_out)


def _check(name: str, attempt: Callable[[], str], way_out: str) -> Check:
    try:
        return Check(name, True, attempt())
    except Exception as error:  # whatever a broken installation raises is what is looked for
        first = (str(error).splitlines() or [""])[0]
        return Check(name, False, f"{type(error).__name__}: {first}", way_out)


def _existing(path: Path) -> Path:
    return next(folder for folder in (path, *path.absolute().parents) if folder.exists())
