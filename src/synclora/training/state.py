"""Everything that resuming a training needs, and checkpoint folders that are whole or absent.

Three trainings use this (the latent autoencoder's, the base's, the LoRA's):

    state = TrainState(modules={"lora": {name: parameter, ...}}, optimizer=optimizer)
    if newest := latest_checkpoint(folder):
        load_checkpoint(newest, state)
    while state.step < total:
        items = sampler.indices(state.step)                       # data order: a pure function of (seed, step)
        noise = torch.randn(shape, generator=step_generator(seed, state.step))
        set_lr(optimizer, warmup_cosine(state.step, warmup, total, lr))
        ...
        state.step += 1                                           # steps finished
        save_checkpoint(folder, state, keep=2)

Resuming is exact by construction: what is drawn in a step depends on (seed, step) alone, the learning rate on the step
alone, and parameters and optimizer moments are stored bit for bit.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from synclora.atomic import atomic_path, sha256
from synclora.errors import SyncloraError
from synclora.tensors import dump_tensors, make_folder, read_tensors
from synclora.training.precision import join_moment, parts_of_moment

FORMAT = 1
STATE_FILE = "state.json"
OPTIMIZER_FILE = "optimizer.safetensors"
RNG_FILE = "rng.safetensors"

Weights = nn.Module | Mapping[str, Tensor]


@dataclass
class TrainState:
    """All that a training carries from one step to the next.

    Attributes:
        modules: named weights: a module (its whole state dict, buffers included) or a mapping of names to tensors (only
            these, e.g. the LoRA's parameters or a moving average). Each is stored as `NAME.safetensors`, bit for bit.
        optimizer: its per-parameter state is stored by parameter name; every parameter it steps must be in `modules`.
            Hyperparameters are not stored: they come from the configuration, the learning rate from the step.
        step: optimizer steps finished so far; also the position in the data (see `PairSampler`).
        extra: small JSON values to carry along (no NaN or infinity).
    """

    modules: dict[str, Weights]
    optimizer: torch.optim.Optimizer | None = None
    step: int = 0
    extra: dict[str, Any] = field(default_factory=dict)


# ---------------------------------------------------------------- pure functions of the step


def warmup_cosine(step: int, warmup: int, total: int, lr: float, floor: float = 0.0) -> float:
    """Learning rate for step `step` (0-based): linear rise for `warmup` steps, half a cosine down to `floor * lr`.

    lr * (step + 1) / warmup while step < warmup; then lr * (floor + (1 - floor) * (1 + cos(pi p)) / 2) with
    p = (step - warmup) / (total - warmup) in [0, 1].
    """
    if step < warmup:
        return lr * (step + 1) / warmup
    progress = min((step - warmup) / max(total - warmup, 1), 1.0)
    return lr * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress)))


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set one learning rate for all parameter groups."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(lr)
        else:
            group["lr"] = lr


def step_seed(seed: int, step: int, stream: str = "step") -> int:
    """A 63-bit seed for one step and one purpose; near (seed, step) pairs give unrelated seeds (sha256)."""
    digest = hashlib.sha256(f"{seed}/{step}/{stream}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def step_generator(seed: int, step: int, stream: str = "step", device: torch.device | str = "cpu") -> torch.Generator:
    """The generator all random draws of one step come from. Draw on the CPU for the same numbers on every device."""
    return torch.Generator(device=device).manual_seed(step_seed(seed, step, stream))


class PairSampler:
    """Which items step `step` trains on: every item once an epoch, in an order that depends only on (seed, epoch).

    Batches run on across the end of an epoch, so none is short and `num_pairs` may be smaller than `batch`.
    """

    def __init__(self, num_pairs: int, batch: int, seed: int) -> None:
        if num_pairs < 1 or batch < 1:
            raise ValueError(f"PairSampler needs at least one pair and one pair a batch, got {num_pairs} and {batch}")
        self.num_pairs, self.batch, self.seed = num_pairs, batch, seed
        self._epoch, self._order = -1, []

    def indices(self, step: int) -> list[int]:
        """`batch` indices in [0, num_pairs) for 0-based step `step`."""
        first = step * self.batch
        return [self._item(position) for position in range(first, first + self.batch)]

    def _item(self, position: int) -> int:
        epoch, place = divmod(position, self.num_pairs)
        if epoch != self._epoch:
            generator = step_generator(self.seed, epoch, "epoch")
            self._epoch, self._order = epoch, torch.randperm(self.num_pairs, generator=generator).tolist()
        return self._order[place]


# ---------------------------------------------------------------- checkpoint folders


def save_checkpoint(folder: Path | str, state: TrainState, keep: int = 2) -> Path:
    """Write `folder/step-00001234` in one atomic rename, then remove all but the newest `keep` checkpoints.

    Holds one safetensors file for each module, the optimizer's and the generators' states, and `state.json` with the
    step, `extra` and each file's sha256. Returns the checkpoint's path.

    Raises:
        SyncloraError: the folder cannot be written or the disk is full; older checkpoints stay as they were.
    """
    folder = make_folder(folder)
    destination = folder / f"step-{state.step:08d}"
    with atomic_path(destination) as temporary:
        temporary.mkdir()
        for name, weights in state.modules.items():
            dump_tensors(temporary / f"{name}.safetensors", _tensors(weights))
        if state.optimizer is not None:
            dump_tensors(temporary / OPTIMIZER_FILE, _optimizer_tensors(state))
        dump_tensors(temporary / RNG_FILE, _rng_tensors())
        record = {
            "format": FORMAT,
            "step": state.step,
            "files": {file.name: sha256(file) for file in sorted(temporary.iterdir())},
            "extra": state.extra,
        }
        (temporary / STATE_FILE).write_text(json.dumps(record, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    _prune(folder, max(keep, 1), newest=destination)
    return destination


def checkpoints(folder: Path | str) -> list[Path]:
    """All checkpoint folders, oldest step first, whole or not."""
    folder = Path(folder)
    if not folder.is_dir():
        return []
    found = [path for path in folder.iterdir() if path.is_dir() and re.fullmatch(r"step-\d+", path.name)]
    return sorted(found, key=lambda path: int(path.name.removeprefix("step-")))


def latest_checkpoint(folder: Path | str) -> Path | None:
    """The newest checkpoint whose files all match their recorded sha256; None if there is none."""
    return next((path for path in reversed(checkpoints(folder)) if is_whole(path)), None)


def is_whole(path: Path | str) -> bool:
    """Whether a checkpoint has its `state.json` and every file in it matches its sha256."""
    path = Path(path)
    try:
        files = json.loads((path / STATE_FILE).read_text(encoding="utf-8"))["files"]
        return all(sha256(path / name) == digest for name, digest in files.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def load_checkpoint(path: Path | str, state: TrainState) -> None:
    """Bring `state` to what `save_checkpoint` stored: weights and moments in place, generators, step and `extra`.

    Raises:
        SyncloraError: a file is missing or cut short, or names, shapes or dtypes differ from those in `state`.
    """
    path = Path(path)
    try:
        record = json.loads((path / STATE_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SyncloraError(f"{path}: not a whole checkpoint ({error}). Remove it to use the one before.") from error
    if record.get("format") != FORMAT:
        raise SyncloraError(
            f"{path}: checkpoint format {record.get('format')}; this version reads format {FORMAT}. "
            "Resume with the version that wrote it, or choose another output folder."
        )
    for name, weights in state.modules.items():
        _copy_into(path / f"{name}.safetensors", _tensors(weights))
    if state.optimizer is not None:
        _load_optimizer(path / OPTIMIZER_FILE, state)
    _set_rng(read_tensors(path / RNG_FILE)[0])
    state.step, state.extra = record["step"], record["extra"]


# ---------------------------------------------------------------- parts


def _tensors(weights: Weights) -> Mapping[str, Tensor]:
    return weights.state_dict() if isinstance(weights, nn.Module) else weights


def _copy_into(path: Path, tensors: Mapping[str, Tensor]) -> None:
    stored, _ = read_tensors(path)
    _check_names(path, set(stored), set(tensors))
    for name, tensor in tensors.items():
        if stored[name].shape != tensor.shape or stored[name].dtype != tensor.dtype:
            raise SyncloraError(
                f"{path}: {name} is {tuple(stored[name].shape)} {stored[name].dtype}; this training has "
                f"{tuple(tensor.shape)} {tensor.dtype}. Resume with its own settings, or choose another output."
            )
    with torch.no_grad():
        for name, tensor in tensors.items():
            tensor.copy_(stored[name])


def _check_names(path: Path, stored: set[str], needed: set[str]) -> None:
    if stored == needed:
        return
    missing, unknown = sorted(needed - stored), sorted(stored - needed)
    raise SyncloraError(
        f"{path}: holds other tensors than this training has (missing: {', '.join(missing[:3]) or 'none'}; "
        f"unknown: {', '.join(unknown[:3]) or 'none'}). Resume with its own settings, or choose another output."
    )


def _named_parameters(state: TrainState) -> dict[str, Tensor]:
    """The optimizer's parameters by `MODULE/NAME`, in the optimizer's order."""
    names: dict[int, str] = {}
    for module_name, weights in state.modules.items():
        items = weights.named_parameters() if isinstance(weights, nn.Module) else weights.items()
        for name, tensor in items:
            names.setdefault(id(tensor), f"{module_name}/{name}")
    assert state.optimizer is not None
    parameters = [parameter for group in state.optimizer.param_groups for parameter in group["params"]]
    unnamed = [tuple(parameter.shape) for parameter in parameters if id(parameter) not in names]
    if unnamed:
        raise ValueError(f"the optimizer steps {len(unnamed)} parameters that are in no module: {unnamed[:3]}")
    return {names[id(parameter)]: parameter for parameter in parameters}


def _optimizer_tensors(state: TrainState) -> dict[str, Tensor]:
    assert state.optimizer is not None
    tensors: dict[str, Tensor] = {}
    for name, parameter in _named_parameters(state).items():
        for key, value in state.optimizer.state.get(parameter, {}).items():
            if not isinstance(value, Tensor):
                raise ValueError(f"optimizer state {key} of {name} is {type(value).__name__}; it must be a tensor")
            parts = parts_of_moment(value)
            tensors |= {f"{name}:{key}": value} if parts is None else {f"{name}:{key}.{n}": p for n, p in parts.items()}
    return tensors


def _load_optimizer(path: Path, state: TrainState) -> None:
    assert state.optimizer is not None
    stored, _ = read_tensors(path)
    parameters = _named_parameters(state)
    grouped: dict[str, dict[str, Tensor]] = {}
    for full, value in stored.items():
        name, key = full.rsplit(":", 1)
        grouped.setdefault(name, {})[key] = value
    if grouped:  # empty when saved before the first step
        _check_names(path, set(grouped), set(parameters))
    groups = state.optimizer.param_groups
    on_device = {id(p) for group in groups if group.get("fused") or group.get("capturable") for p in group["params"]}
    state.optimizer.state.clear()
    # Set directly: Optimizer.load_state_dict would cast the moments to the parameter's dtype.
    for name, values in grouped.items():
        parameter, parts = parameters[name], dict[str, dict[str, Tensor]]()
        for key, value in values.items():
            if "." in key:  # of a moment in 8 bits
                moment, part = key.split(".")
                parts.setdefault(moment, {})[part] = value
                continue
            stays = key == "step" and id(parameter) not in on_device
            state.optimizer.state[parameter][key] = value if stays else value.to(parameter.device)
        for moment, tensors in parts.items():
            state.optimizer.state[parameter][moment] = join_moment(moment, tensors, parameter)


def _rng_tensors() -> dict[str, Tensor]:
    tensors = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        tensors.update({f"cuda:{index}": value for index, value in enumerate(torch.cuda.get_rng_state_all())})
    return tensors


def _set_rng(tensors: dict[str, Tensor]) -> None:
    torch.set_rng_state(tensors["cpu"])
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            if f"cuda:{index}" in tensors:
                torch.cuda.set_rng_state(tensors[f"cuda:{index}"], index)


def _prune(folder: Path, keep: int, newest: Path) -> None:
    """Remove old checkpoints and what a kill in the middle of a save left behind."""
    older = [path for path in checkpoints(folder) if path != newest]
    for path in older[: max(len(older) - (keep - 1), 0)]:
        shutil.rmtree(path, ignore_errors=True)
    for path in folder.glob(".step-*.part"):
        shutil.rmtree(path, ignore_errors=True)
    for path in folder.glob(".step-*.old"):
        shutil.rmtree(path, ignore_errors=True)
