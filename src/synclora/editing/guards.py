"""Settings and numbers checked where they enter, so that no work is begun that cannot end well."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from synclora.errors import SyncloraError

if TYPE_CHECKING:
    from synclora.backbones.base import Backbone

MOST_STEPS = 1000


def check_folder(output: Path) -> Path:
    """`output`, if a file can be made there; found out before the work, not after it.

    Raises:
        SyncloraError: its folder is a file or may not be written.
    """
    folder = next(parent for parent in output.absolute().parents if parent.exists())
    if not folder.is_dir():
        raise SyncloraError(f"{output}: {folder} is a file, not a folder. Choose another output.")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise SyncloraError(f"{output}: {folder} may not be written to. Choose another output folder.")
    return output


def check_choice(flag: str, value: str, choices: tuple[str, ...]) -> str:
    """`value`, if it is one of the choices."""
    if value not in choices:
        raise SyncloraError(f"{flag} {value!r} is not known; choose one of: {', '.join(choices)}.")
    return value


def check_steps(steps: int) -> int:
    """`steps`, if it is a number of denoising steps."""
    if not 1 <= steps <= MOST_STEPS:
        raise SyncloraError(
            f"--steps {steps}: between 1 and {MOST_STEPS} denoising steps are needed; leave it out for the model's."
        )
    return steps


def check_seed(seed: int) -> int:
    """`seed`, if the noise generator takes it."""
    if not 0 <= seed < 2**63:
        raise SyncloraError(f"--seed {seed}: a whole number from 0 to 2^63 - 1 is needed, e.g. --seed 0.")
    return seed


def resolve_device(name: str) -> str:
    """The device meant by `name`: "auto" is CUDA where there is one, else the CPU."""
    if name != "auto":
        return name
    return "cuda" if torch.cuda.is_available() else "cpu"


def finite(tensor: Tensor, doing: str, backbone: Backbone) -> Tensor:
    """`tensor`, if every number in it is finite; black or grey videos are not written in silence."""
    if bool(torch.isfinite(tensor).all()):
        return tensor
    raise SyncloraError(
        f"{backbone.name}: {doing} gave numbers that are not finite (NaN or infinity) in {backbone.dtype}. "
        "The weights are damaged or a LoRA drives them out of range; try --no-lora to see which, or another LoRA."
    )
