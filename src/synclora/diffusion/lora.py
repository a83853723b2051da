"""The LoRA: put into a transformer, saved in the one layout every loader accepts, and loaded with its base checked.

    y = W x + (alpha / rank) * B (A x)         A: [rank, in], B: [out, rank], zero at the start

File: safetensors with `diffusion_model.<module>.lora_A.weight` and `.lora_B.weight`, contiguous, alpha / rank folded
into B because several loaders ignore alpha. Its header says what sampling must know: how the reference was shown
(`reference_attention`, `reference_downscale_factor`, `reference_temporal_scale_factor`) and which weights it was
trained on (`base_fingerprint`). Reading folds any alpha it finds, so a file of any tool means the same thing here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from synclora.errors import SyncloraError
from synclora.tensors import write_tensors

ATTENTION_TARGETS = tuple(f"attn{i}.{name}" for i in (1, 2) for name in ("to_q", "to_k", "to_v", "to_out.0"))
TARGETS = (*ATTENTION_TARGETS, "ff.net.0.proj", "ff.net.2")  # every linear layer of a block

PREFIX = "diffusion_model."
_PREFIXES = (PREFIX, "transformer.")  # the second is diffusers' own
_ADAPTER = "default"


class LoraError(SyncloraError, ValueError):
    """A LoRA file that cannot be used, and why."""


def add_lora(
    transformer: nn.Module, rank: int, alpha: float | None = None, targets: Sequence[str] = TARGETS
) -> list[nn.Parameter]:
    """Put a new LoRA into the transformer's linear layers and freeze everything else.

    Args:
        transformer: changed in place; a LoRA already in it is removed first.
        rank: of A and B.
        alpha: strength, by default the rank (a factor of 1).
        targets: ends of module names.

    Returns:
        The LoRA's parameters, float32 whatever the transformer's dtype: what an optimiser is given.
    """
    _inject(transformer, list(targets), dict.fromkeys(targets, rank), rank if alpha is None else alpha)
    parameters = [p for _, layer in _layers(transformer) for p in _matrices(layer)]
    for parameter in parameters:
        parameter.data = parameter.data.float()
    return parameters


def resume_lora(transformer: nn.Module, path: Path | str, *, base_fingerprint: str | None) -> list[nn.Parameter]:
    """Put a LoRA file into the transformer to train it further; arguments and errors as in `load_lora`.

    Returns:
        The LoRA's parameters, float32: what an optimiser is given.
    """
    load_lora(transformer, path, base_fingerprint=base_fingerprint)
    transformer.requires_grad_(False)
    parameters = [p for _, layer in _layers(transformer) for p in _matrices(layer)]
    for parameter in parameters:
        parameter.data = parameter.data.float()
        parameter.requires_grad_(True)
    return parameters


def remove_lora(transformer: nn.Module) -> None:
    """Take any LoRA out again, leaving the base as it was."""
    if any(True for _ in _layers(transformer)):
        transformer.unload_lora()  # type: ignore[operator]


def set_lora_enabled(transformer: nn.Module, enabled: bool) -> None:
    """Switch the LoRA off (the bare base answers) or on again; without a LoRA, nothing happens."""
    for _, layer in _layers(transformer):
        layer.enable_adapters(enabled)


def lora_state(transformer: nn.Module) -> dict[str, Tensor]:
    """The LoRA as a file holds it: names and float32 CPU tensors, alpha / rank folded into B."""
    state = {}
    for name, layer in _layers(transformer):
        a, b = _matrices(layer)
        state[f"{PREFIX}{name}.lora_A.weight"] = a.detach().cpu().float().contiguous().clone()
        state[f"{PREFIX}{name}.lora_B.weight"] = b.detach().cpu().float() * layer.scaling[_ADAPTER]
    return state


def save_lora(
    path: Path | str,
    transformer: nn.Module,
    *,
    base_fingerprint: str,
    reference_attention: str = "self",
    reference_downscale: int = 1,
    metadata: Mapping[str, str] | None = None,
    dtype: torch.dtype = torch.bfloat16,
) -> None:
    """Write the transformer's LoRA to a safetensors file, atomically.

    Args:
        path: of the file.
        transformer: holding the LoRA.
        base_fingerprint: `fingerprint` of the transformer it was trained on.
        reference_attention: "self" or "joint", as trained; sampling does the same.
        reference_downscale: of the reference's rows and columns, as trained.
        metadata: provenance for the header (configuration, step, version ...); strings.
        dtype: of the tensors.

    Raises:
        LoraError: there is no LoRA, or its values are not finite.
        SyncloraError: the file cannot be written.
    """
    state = lora_state(transformer)
    if not state:
        raise LoraError(f"{path}: the transformer holds no LoRA to save. Call add_lora first.")
    _require_finite(path, state)
    header = {
        **(metadata or {}),
        "base_fingerprint": base_fingerprint,
        "reference_attention": reference_attention,
        "reference_downscale_factor": str(reference_downscale),
        "reference_temporal_scale_factor": "1",
    }
    write_tensors(path, {name: tensor.to(dtype) for name, tensor in state.items()}, header)


def load_lora(transformer: nn.Module, path: Path | str, *, base_fingerprint: str | None) -> dict[str, str]:
    """Put a LoRA file into the transformer, in the transformer's dtype, frozen and switched on.

    Args:
        transformer: changed in place, but only once the whole file has been checked; an older LoRA is removed.
        path: of the file; any rank, one or several, with or without alpha.
        base_fingerprint: of this transformer; None leaves out the check. Files that name no base are taken as they are.

    Returns:
        The file's header.

    Raises:
        LoraError: file missing or damaged, values not finite, trained on another base, or modules that the
            transformer lacks or that have another size there. The transformer is then unchanged.
    """
    header, tensors = _read(path)
    named = header.get("base_fingerprint")
    if named and base_fingerprint and named != base_fingerprint:
        raise LoraError(
            f"{path}: trained on another base model (fingerprint {named[:12]}..., this base is"
            f" {base_fingerprint[:12]}...). Use it with the base it was trained on, or train one on this base."
        )
    _require_finite(path, tensors)
    pairs = _pairs(path, tensors)
    _require_fit(path, transformer, pairs)

    _inject(transformer, list(pairs), {name: len(a) for name, (a, _) in pairs.items()}, alpha=None)
    for name, layer in _layers(transformer):
        for parameter, value in zip(_matrices(layer), pairs[name], strict=True):
            weight: Any = layer.get_base_layer().weight
            parameter.data = value.to(weight.device, weight.dtype)
            parameter.requires_grad_(False)
    return header


def fingerprint(module: nn.Module) -> str:
    """An identity of a module's weights, LoRA excluded.

    sha256 over every tensor's name, shape and first 64 values in bfloat16, by name; so it is the same whether the
    weights were loaded in float32 or bfloat16, and whether or not a LoRA is in place.
    """
    digest = hashlib.sha256()
    tensors = {n.replace(".base_layer.", "."): t for n, t in module.state_dict().items() if ".lora_" not in n}
    for name, tensor in sorted(tensors.items()):
        head = tensor.detach().flatten()[:64].to("cpu", torch.bfloat16)
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        digest.update(head.contiguous().view(torch.int16).numpy().tobytes())
    return digest.hexdigest()


def _inject(transformer: nn.Module, targets: list[str], ranks: dict[str, int], alpha: float | None) -> None:
    """Replace any LoRA by a new one; `alpha` None means a factor of 1 for every rank."""
    remove_lora(transformer)
    alphas: dict[str, Any] = {name: rank if alpha is None else alpha for name, rank in ranks.items()}
    config = LoraConfig(
        r=next(iter(ranks.values())), target_modules=targets, rank_pattern=ranks, alpha_pattern=alphas, lora_dropout=0.0
    )
    inject_adapter_in_model(config, transformer, _ADAPTER)


def _layers(transformer: nn.Module) -> Iterator[tuple[str, LoraLayer]]:
    for name, module in transformer.named_modules():
        if isinstance(module, LoraLayer):
            yield name, module


def _matrices(layer: Any) -> tuple[nn.Parameter, nn.Parameter]:
    return layer.lora_A[_ADAPTER].weight, layer.lora_B[_ADAPTER].weight


def _read(path: Path | str) -> tuple[dict[str, str], dict[str, Tensor]]:
    if not Path(path).is_file():
        raise LoraError(f"{path}: no such LoRA file. Give the path of a .safetensors file.")
    try:
        with safe_open(path, framework="pt") as file:
            return file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise LoraError(f"{path}: not a whole safetensors file ({error}). Fetch or train it again.") from error


def _pairs(path: Path | str, tensors: dict[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
    """Module name -> (A, B), prefixes removed and alpha / rank folded into B."""
    parts: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        module, _, part = _without_prefix(key).removesuffix(".weight").rpartition(".")
        if part not in ("lora_A", "lora_B", "alpha"):
            raise LoraError(
                f"{path}: holds {key!r}, which is no part of a plain LoRA (lora_A, lora_B, alpha). Other kinds of"
                " adapter (DoRA, LoKr ...) are not supported; convert it to a LoRA first."
            )
        parts.setdefault(module, {})[part] = tensor.float()
    pairs = {}
    for module, found in parts.items():
        if not {"lora_A", "lora_B"} <= found.keys():
            raise LoraError(f"{path}: {module} lacks lora_A or lora_B. The file is incomplete; fetch or save it again.")
        a, b = found["lora_A"], found["lora_B"]
        pairs[module] = (a, b * (found["alpha"] / len(a)) if "alpha" in found else b)
    if not pairs:
        raise LoraError(f"{path}: holds no tensors. Fetch or train it again.")
    return pairs


def _without_prefix(key: str) -> str:
    for prefix in _PREFIXES:
        key = key.removeprefix(prefix)
    return key


def _require_fit(path: Path | str, transformer: nn.Module, pairs: dict[str, tuple[Tensor, Tensor]]) -> None:
    linear = {name: module for name, module in transformer.named_modules() if isinstance(module, nn.Linear)}
    shapes = {name.removesuffix(".base_layer"): module.weight.shape for name, module in linear.items()}
    for module, (a, b) in pairs.items():
        if module not in shapes:
            raise LoraError(
                f"{path}: is for a layer {module!r} that this base model lacks. It was made for another architecture;"
                " use the base it was trained on."
            )
        out_width, in_width = shapes[module]
        if a.ndim != 2 or b.ndim != 2 or a.shape[1] != in_width or b.shape[0] != out_width or len(a) != b.shape[1]:
            raise LoraError(
                f"{path}: {module} has A {tuple(a.shape)} and B {tuple(b.shape)}; this base model needs"
                f" (rank, {in_width}) and ({out_width}, rank). Use the base the LoRA was trained on."
            )


def _require_finite(path: Path | str, tensors: dict[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise LoraError(
                f"{path}: {name} holds NaN or infinite values. The training that made it diverged; use an earlier"
                " checkpoint or a lower learning rate."
            )
