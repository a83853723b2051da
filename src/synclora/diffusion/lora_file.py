"""LoRA files of any style, read as one thing and written in any style.

    y = W x + (alpha / rank) * B (A x)        A: [rank, in], B: [out, rank]

Only kohya's files hold alpha as a tensor. diffusers keeps it in the safetensors header (`lora_adapter_metadata`) and
PEFT in `adapter_config.json` beside the file; a file that says nothing means alpha = rank. Reading keeps the tensors
as they are, in their dtype; alpha is folded into B where the style written has no place for it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from synclora.diffusion.lora_keys import (
    STYLES,
    Part,
    SortedKeys,
    blocks_in,
    flat_names,
    is_flat_lora,
    known_modules,
    sort_keys,
    write_key,
)
from synclora.errors import SyncloraError
from synclora.tensors import write_tensors

PEFT_WEIGHTS, PEFT_CONFIG = "adapter_model.safetensors", "adapter_config.json"
ADAPTER_METADATA = "lora_adapter_metadata"  # diffusers' JSON of ranks and alphas, a string of the header


class LoraError(SyncloraError, ValueError):
    """A LoRA file that cannot be used, and why."""


@dataclass(frozen=True)
class LoraModule:
    """One module's matrices: `a` `[rank, in]`, `b` `[out, rank]`; `alpha` None where the file names none."""

    a: Tensor
    b: Tensor
    alpha: float | None = None

    @property
    def rank(self) -> int:
        return len(self.a)

    @property
    def scale(self) -> float:
        """alpha / rank; 1 where no alpha is named."""
        return 1.0 if self.alpha is None else self.alpha / self.rank

    def folded(self) -> Tensor:
        """B times the scale, in B's dtype; B itself, bit for bit, where the scale is 1."""
        return self.b if self.scale == 1 else (self.b.float() * self.scale).to(self.b.dtype)


@dataclass(frozen=True)
class LoraFile:
    """A whole LoRA: header strings, the styles its keys had, and module name (diffusers') -> matrices."""

    header: dict[str, str]
    styles: tuple[str, ...]
    modules: dict[str, LoraModule]


def open_lora(path: Path | str) -> Any:
    """The file as safetensors' lazy reader, a context manager.

    Raises:
        LoraError: missing, damaged, or not a safetensors file.
    """
    if not Path(path).is_file():
        raise LoraError(f"{path}: no such LoRA file. Give the path of a .safetensors file.")
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise LoraError(f"{path}: not a whole safetensors file ({error}). Fetch or train it again.") from error


def read_header(path: Path | str) -> dict[str, str]:
    """The file's header strings; errors as `open_lora`."""
    with open_lora(path) as file:
        return file.metadata() or {}


def sort_file_keys(keys: Iterable[str], modules: Iterable[str] | None = None) -> SortedKeys:
    """A file's keys by module, among the names of a model and of all that LTX-Video and LTX-2.x have."""
    keys = list(keys)
    return sort_keys(keys, flat_names({*known_modules(blocks_in(keys)), *(modules or ())}))


def read_lora(path: Path | str, modules: Iterable[str] | None = None) -> LoraFile:
    """A LoRA file of any style.

    Args:
        path: of the .safetensors file.
        modules: the model's module names; kohya's underscored names are looked up among them and those of the
            LTX-Video and LTX-2.x architectures.

    Raises:
        LoraError: missing, damaged, no LoRA, another kind of adapter, or half of a pair is missing.
    """
    with open_lora(path) as file:
        header, names = file.metadata() or {}, list(file.keys())
        tensors = {name: file.get_tensor(name) for name in names}
    if not names:
        raise LoraError(f"{path}: holds no tensors. Fetch or train it again.")
    keys = sort_file_keys(names, modules)
    if keys.unknown:
        raise LoraError(f"{path}: {_why_unknown(keys)}")
    alphas = header_alphas(header, peft_config(path), keys.modules)
    result = {}
    for module, parts in keys.modules.items():
        if not {"A", "B"} <= parts.keys():
            raise LoraError(f"{path}: {module} lacks lora_A or lora_B. The file is incomplete; fetch or save it again.")
        a, b = tensors[parts["A"]], tensors[parts["B"]]
        if a.ndim != 2 or b.ndim != 2 or len(a) != b.shape[1] or not len(a):
            raise LoraError(
                f"{path}: {module} has A {tuple(a.shape)} and B {tuple(b.shape)}; needed are (rank, in) and"
                " (out, rank). The file is damaged or no LoRA of linear layers; fetch or save it again."
            )
        alpha = _scalar(path, parts["alpha"], tensors[parts["alpha"]]) if "alpha" in parts else alphas.get(module)
        result[module] = LoraModule(a, b, alpha)
    return LoraFile(header, tuple(sorted(keys.styles)), result)


def write_lora(path: Path | str, lora: LoraFile, style: str) -> None:
    """Write a LoRA in a style, atomically; tensors keep their dtype, the header all its strings.

    Where alpha is folded into B, diffusers' own alphas in the header would be applied a second time by diffusers; they
    are then kept under `folded_lora_adapter_metadata`.

    Raises:
        SyncloraError: the file cannot be written.
    """
    header = dict(lora.header)
    if ADAPTER_METADATA in header and any(module.scale != 1 for module in lora.modules.values()):
        header[f"folded_{ADAPTER_METADATA}"] = header.pop(ADAPTER_METADATA)
    write_tensors(path, styled(lora, style), header)


def styled(lora: LoraFile, style: str) -> dict[str, Tensor]:
    """A LoRA's tensors under a style's names."""
    tensors: dict[str, Tensor] = {}

    def put(module: str, part: Part, tensor: Tensor) -> None:
        key = write_key(style, module, part)
        if key in tensors:
            raise LoraError(f"two modules have the name {key} in style {style}. Choose another style.")
        tensors[key] = tensor

    for module, matrices in lora.modules.items():
        put(module, "A", matrices.a)
        if STYLES[style].alpha:
            put(module, "B", matrices.b)
            put(module, "alpha", _alpha_tensor(matrices))
        else:
            put(module, "B", matrices.folded())
    return tensors


def peft_config(path: Path | str) -> dict[str, Any]:
    """PEFT's `adapter_config.json` beside its weights; empty for any other file.

    Raises:
        LoraError: it is not JSON.
    """
    beside = Path(path).with_name(PEFT_CONFIG)
    if Path(path).name != PEFT_WEIGHTS or not beside.is_file():
        return {}
    return _json(beside, beside.read_text(encoding="utf-8"))


def header_alphas(
    header: Mapping[str, str], config: Mapping[str, Any], modules: Iterable[str]
) -> dict[str, float | None]:
    """Module -> alpha, as diffusers' header or PEFT's configuration says; empty where neither says anything.

    A rank-stabilised LoRA has the factor alpha / sqrt(rank); its alpha is returned as alpha * sqrt(rank).
    """
    told = dict(config)
    if ADAPTER_METADATA in header:
        told = {
            key.removeprefix("transformer."): value
            for key, value in _json(f"header string {ADAPTER_METADATA}", header[ADAPTER_METADATA]).items()
        }
    if told.get("lora_alpha") is None or not told.get("r"):
        return {}
    result: dict[str, float | None] = {}
    try:
        for module in modules:
            alpha = float(_by_pattern(told.get("alpha_pattern"), module, told["lora_alpha"]))
            rank = float(_by_pattern(told.get("rank_pattern"), module, told["r"]))
            result[module] = alpha * rank**0.5 if told.get("use_rslora") else alpha
    except (TypeError, ValueError, AttributeError, re.error) as error:
        raise LoraError(
            f"lora_alpha {told['lora_alpha']!r}, r {told['r']!r} and their patterns, in the header or in"
            f" {PEFT_CONFIG}, are not what PEFT writes ({error}). Fetch or save the adapter again."
        ) from error
    return result


def _scalar(path: Path | str, key: str, tensor: Tensor) -> float:
    if tensor.numel() != 1 or not tensor.float().isfinite().all():
        raise LoraError(f"{path}: {key} is no finite number, as alpha must be. Fetch or save the file again.")
    return float(tensor)


def _by_pattern(patterns: Any, module: str, otherwise: Any) -> Any:
    """PEFT's rule: a pattern is a regular expression for the end of a module's name."""
    for pattern, value in (patterns or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            return value
    return otherwise


def _alpha_tensor(module: LoraModule) -> Tensor:
    """Alpha as kohya's trainers save it: a scalar of the matrices' dtype, float32 where that would round it."""
    alpha = torch.tensor(module.rank if module.alpha is None else module.alpha, dtype=torch.float32)
    narrow = alpha.to(module.a.dtype)
    return narrow if narrow.float() == alpha else alpha


def _why_unknown(keys: SortedKeys) -> str:
    first = keys.unknown[0]
    if is_flat_lora(first):
        return (
            f"holds {first!r}, and the model has no layer of that name. It was made for another architecture; use the"
            " base it was trained on."
        )
    return (
        f"holds {first!r}, which is no part of a plain LoRA (lora_A, lora_B, alpha). Other kinds of adapter (DoRA, LoKr"
        " ...) are not supported; convert it to a LoRA first."
    )


def _json(where: Any, text: str) -> dict[str, Any]:
    try:
        content = json.loads(text)
    except ValueError as error:
        raise LoraError(f"{where}: not JSON ({error}). Fetch or save the adapter again.") from error
    return content if isinstance(content, dict) else {}
