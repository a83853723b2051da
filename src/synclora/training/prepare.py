"""A backbone made ready to be trained on: loaded, its LoRA put in; and what the adapter's file will say of it."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from synclora import __version__
from synclora.adapters.bases import base_of_config, config_of
from synclora.adapters.rules import Window
from synclora.backbones.base import Backbone
from synclora.diffusion.lora import TARGETS, add_lora, resume_lora
from synclora.errors import SyncloraError
from synclora.training.buckets import buckets_of
from synclora.training.config import TrainConfig
from synclora.training.latents import LatentCache


def load(config: TrainConfig) -> Backbone:
    """The configured backbone, on the CPU: `synclora.training.placement` brings each part to the device in its time."""
    from synclora.backbones.presets import load_backbone

    dtype = torch.bfloat16 if config.precision == "bf16" else torch.float32
    return load_backbone(config.backbone, "cpu", dtype)


def put_lora(config: TrainConfig, backbone: Backbone, base_fingerprint: str) -> list[nn.Parameter]:
    """A LoRA in the transformer, new ones from the seed; its parameters.

    Raises:
        SyncloraError: targets that the backbone lacks, or a file to start from that does not fit.
    """
    torch.manual_seed(config.seed)
    targets = TARGETS if config.targets is None else config.targets
    if config.start is not None:
        parameters = resume_lora(backbone.transformer, config.start, base_fingerprint=base_fingerprint)
        if (rank := len(parameters[0])) != config.rank:
            raise SyncloraError(f"{config.start}: a LoRA of rank {rank}, but rank is {config.rank}. Set rank: {rank}.")
    else:
        try:
            parameters = add_lora(backbone.transformer, config.rank, config.lora_alpha, targets)
        except ValueError as error:
            raise SyncloraError(
                f"targets {list(targets)}: no such layers in the backbone ({error}). Give ends of module names, "
                "such as attn1.to_q, or leave targets out."
            ) from error
    if config.gradient_checkpointing:
        backbone.transformer.enable_gradient_checkpointing()  # type: ignore[operator]
    return parameters


def base_name(backbone: Backbone) -> str:
    """The base as `synclora.adapters.bases` calls it, or the backbone's own name; to be asked before FSDP2 is there."""
    return base_of_config(config_of(backbone.transformer)) or backbone.name


def provenance(
    config: TrainConfig, backbone: Backbone, cache: LatentCache, *, base_model: str, steps: int, data: str
) -> dict[str, str]:
    """How an adapter came about, for its header; `synclora.adapters.rules` reads from it how to sample.

    Args:
        config, backbone, cache: of the run.
        base_model: `base_name` of the backbone as it was loaded.
        steps: done.
        data: identity of the clips.
    """
    captions = set(cache.captions([target for _, target in cache.clips.pairs]))
    header = {
        "synclora_version": __version__,
        "backbone": Path(config.backbone).name if Path(config.backbone).exists() else config.backbone,
        "base_model": base_model,
        "config_sha256": config.digest(),
        "steps": str(steps),
        "data": "procedural" if config.data.procedural else "pairs",
        "data_sha256": data,
        "pairs": str(len(cache.clips.pairs)),
        "rank": str(config.rank),
        "seed": str(config.seed),
        "window": str(_window(backbone, cache)),
    }
    if config.sampling_steps is not None:
        header["sampling_steps"] = str(config.sampling_steps)
    if len(captions) == 1 and len(cache.clips.pairs) > 1 and (prompt := captions.pop()):
        header["trigger_prompt"] = prompt  # the only one it has seen
    return header


def _window(backbone: Backbone, cache: LatentCache) -> Window:
    """The size that most pairs were trained at."""
    most = max(buckets_of(cache.clips), key=len)
    _, target = cache.clips.pairs[most[0]]
    frames, rows, columns = cache.latents([target]).shape[2:]
    geometry = backbone.geometry
    pitch, step = geometry.spatial, geometry.temporal
    return Window(columns * pitch, rows * pitch, (frames - 1) * step + 1, geometry.fps)
