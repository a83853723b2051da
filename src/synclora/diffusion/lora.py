"""The LoRA: put into a transformer, saved in the one layout every loader accepts, and loaded with its base checked.

    y = W x + (alpha / rank) * B (A x)         A: [rank, in], B: [out, rank], zero at the start

File: safetensors with `diffusion_model.<module>.lora_A.weight` and `.lora_B.weight`, contiguous, alpha / rank folded
into B because several loaders ignore alpha. Its header says what sampling must know: how the reference was shown
(`reference_attention`, `reference_downscale_factor`, `reference_temporal_scale_factor`) and which weights it was
trained on (`base_fingerprint`). Files of other tools are read too, whatever their style (see `lora_file.py`).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from synclora.diffusion.lora_file import LoraError, LoraFile, read_lora
from synclora.tensors import write_tensors

ATTENTION_TARGETS = tuple(f"attn{i}.{name}" for i in (1, 2) for name in ("to_q", "to_k", "to_v", "to_out.0"))
TARGETS = (*ATTENTION_TARGETS, "ff.net.0.proj", "ff.net.2")  # every linear layer of a block

PREFIX = "diffusion_model."
_ADAPTER = "default"

# LTX-2's audio stream, by a part of a tensor's name: video is all that is made here, so a backbone is loaded without.
AUDIO = re.compile(r"(?:^|\.)(?:audio_|video_to_audio_|video_a2v_|av_cross_attn_|cross_attn_)")


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
    for name, tensor in state.items():
        if not tensor.isfinite().all():
            raise _not_finite(path, name)
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
        path: of the file, in any style; any rank, one or several, with or without alpha. Its layers of LTX-2's audio
            stream are left out where the transformer was loaded without.
        base_fingerprint: of this transformer; None leaves out the check. Files that name no base are taken as they are.

    Returns:
        The file's header.

    Raises:
        LoraError: file missing or damaged, values not finite, trained on another base, or modules that the
            transformer lacks or that have another size there. The transformer is then unchanged.
    """
    shapes = _linear_shapes(transformer)
    lora = _without_sound(read_lora(path, shapes), transformer, shapes)
    require_fingerprint(path, lora.header, base_fingerprint)
    require_finite(path, lora)
    require_fit(path, lora, shapes)

    _inject(transformer, list(lora.modules), {name: module.rank for name, module in lora.modules.items()}, alpha=None)
    for name, layer in _layers(transformer):
        module = lora.modules[name]
        b = module.b if module.scale == 1 else module.b.float() * module.scale
        for parameter, value in zip(_matrices(layer), (module.a, b), strict=True):
            weight: Any = layer.get_base_layer().weight
            parameter.data = value.to(weight.device, weight.dtype)
            parameter.requires_grad_(False)
    return lora.header


def fingerprint(module: nn.Module) -> str:
    """An identity of a module's weights, LoRA excluded.

    sha256 over every tensor's name, shape and first 64 values in bfloat16, by name; so it is the same whether the
    weights were loaded in float32 or bfloat16, and whether or not a LoRA is in place.
    """
    tensors = module.state_dict().items()
    return fingerprint_tensors((n.replace(".base_layer.", "."), t) for n, t in tensors if ".lora_" not in n)


def fingerprint_tensors(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """`fingerprint` of a module's state, given as names and tensors: so that a file can be told without a model.

    LTX-2's audio stream is left out: no edit reads it, and backbones are loaded without it.
    """
    heads = {}
    for name, tensor in tensors:
        if AUDIO.search(name):
            continue
        head = tensor.detach().flatten()[:64].to("cpu", torch.bfloat16)
        heads[name] = f"{name} {tuple(tensor.shape)}".encode() + head.contiguous().view(torch.int16).numpy().tobytes()
    digest = hashlib.sha256()
    for name in sorted(heads):
        digest.update(heads[name])
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


def _linear_shapes(transformer: nn.Module) -> dict[str, tuple[int, ...]]:
    """Linear layer -> (out, in), a LoRA's wrapping left out."""
    linear = {name: module for name, module in transformer.named_modules() if isinstance(module, nn.Linear)}
    return {
        name.removesuffix(".base_layer"): tuple(module.weight.shape)
        for name, module in linear.items()
        if ".lora_" not in name
    }


def _without_sound(lora: LoraFile, transformer: Any, shapes: Mapping[str, Sequence[int]]) -> LoraFile:
    """The LoRA without its audio layers, if the transformer is one of LTX-2 that was loaded without its own."""
    if "audio_in_channels" not in getattr(transformer, "config", {}) or any(AUDIO.search(name) for name in shapes):
        return lora
    return replace(lora, modules={name: m for name, m in lora.modules.items() if not AUDIO.search(name)})


def require_fingerprint(path: Path | str, header: Mapping[str, str], base_fingerprint: str | None) -> None:
    """Refuse a LoRA whose header names another base than this one; LoraError."""
    named = header.get("base_fingerprint")
    if named and base_fingerprint and named != base_fingerprint:
        called = f"{header['backbone']!r}, " if header.get("backbone") else ""
        raise LoraError(
            f"{path}: trained on another base model ({called}fingerprint {named[:12]}..., this base is"
            f" {base_fingerprint[:12]}...). Use it with the base it was trained on, or train one on this base."
        )


def require_fit(path: Path | str, lora: LoraFile, shapes: Mapping[str, Sequence[int]]) -> None:
    """Refuse a LoRA for layers that a model lacks or has in another size; LoraError.

    Args:
        path: named in the error.
        lora: the LoRA.
        shapes: the model's linear layers, name -> (out, in).
    """
    for name, module in lora.modules.items():
        if name not in shapes:
            raise LoraError(
                f"{path}: is for a layer {name!r} that this base model lacks. It was made for another architecture;"
                " use the base it was trained on."
            )
        out_width, in_width = shapes[name]
        if module.a.shape[1] != in_width or module.b.shape[0] != out_width:
            raise LoraError(
                f"{path}: {name} has A {tuple(module.a.shape)} and B {tuple(module.b.shape)}; this base model needs"
                f" (rank, {in_width}) and ({out_width}, rank). Use the base the LoRA was trained on; `synclora lora"
                " inspect` tells which it can be."
            )


def require_finite(path: Path | str, lora: LoraFile) -> None:
    """Refuse a LoRA with NaN or infinite values; LoraError."""
    for name, module in lora.modules.items():
        for part, tensor in (("A", module.a), ("B", module.b)):
            if not tensor.float().isfinite().all():
                raise _not_finite(path, f"{name} {part}")


def _not_finite(path: Path | str, name: str) -> LoraError:
    return LoraError(
        f"{path}: {name} holds NaN or infinite values. The training that made it diverged; use an earlier checkpoint or"
        " a lower learning rate."
    )
