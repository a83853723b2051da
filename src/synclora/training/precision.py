"""Memory saved by fewer bits: the frozen base's weights and the optimizer's moments, both by torchao.

    quantize: int8 | fp8      weights of the frozen base, one scale a row; products stay in the activations' precision
    optimizer: adamw8bit      both moments, one scale each 256 values (Dettmers et al., 2022)

The LoRA's own weights stay float32, and its file is the same as ever.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from types import ModuleType
from typing import Literal

import torch
from torch import Tensor, nn

from synclora.errors import SyncloraError


def quantize_base(transformer: nn.Module, kind: Literal["int8", "fp8"], device: torch.device) -> None:
    """Quantise the weights of the linear layers of the blocks in place, each moved to `device` on its own before.

    To be called when the LoRA is in and its base's fingerprint is taken. Raises SyncloraError without torchao.
    """
    quantization = _torchao("quantization", f"quantize: {kind}")
    config = quantization.Int8WeightOnlyConfig() if kind == "int8" else quantization.Float8WeightOnlyConfig()
    frozen = {layer for _, layer in frozen_linears(transformer)}
    quantization.quantize_(transformer, config, filter_fn=lambda module, _: module in frozen, device=device)


def frozen_linears(transformer: nn.Module) -> Iterator[tuple[str, nn.Linear]]:
    """The linear layers of the transformer's blocks that stay as they are: nearly all weights of a base."""
    for name, module in transformer.named_modules():
        if isinstance(module, nn.Linear) and ".lora_" not in name and name.startswith("transformer_blocks."):
            yield name, module


def make_optimizer(
    kind: Literal["adamw", "adamw8bit"], parameters: list[nn.Parameter], lr: float, weight_decay: float
) -> torch.optim.Optimizer:
    """AdamW; with moments in 8 bits for "adamw8bit" (those of fewer than 4096 values stay float32)."""
    if kind == "adamw":
        return torch.optim.AdamW(parameters, lr=lr, weight_decay=weight_decay)
    return _torchao("optim", "optimizer: adamw8bit").AdamW8bit(parameters, lr=lr, weight_decay=weight_decay)


def step_context(optimizer: torch.optim.Optimizer) -> AbstractContextManager[object]:
    """What an optimizer's step runs in: torchao compiles its own, which a CPU may have no compiler for."""
    on_cpu = all(p.device.type == "cpu" for group in optimizer.param_groups for p in group["params"])
    is_torchao = type(optimizer).__module__.startswith("torchao")
    return torch.compiler.set_stance("force_eager") if is_torchao and on_cpu else nullcontext()


def parts_of_moment(value: Tensor) -> dict[str, Tensor] | None:
    """The tensors a quantised moment is made of, by name; None for an ordinary one."""
    flatten = getattr(value, "__tensor_flatten__", None)
    return None if flatten is None else {name: getattr(value, name) for name in flatten()[0]}


def join_moment(key: str, parts: dict[str, Tensor], parameter: Tensor) -> Tensor:
    """The inverse of `parts_of_moment` for the moment `key` of a parameter."""
    subclass = _torchao("optim.subclass_8bit", "optimizer: adamw8bit").OptimState8bit
    on_device = (parts[name].to(parameter.device) for name in ("codes", "scale", "qmap"))
    return subclass(*on_device, signed=key == "exp_avg", dtype=parameter.dtype)


def _torchao(module: str, wanted: str) -> ModuleType:
    from importlib import import_module

    try:
        return import_module(f"torchao.{module}")
    except ImportError as error:
        raise SyncloraError(
            f"{wanted} needs torchao, which is not here ({error}). Install it with `pip install synclora[quantize]`, "
            "or leave the setting out."
        ) from error
