"""Where weights lie in a training, so that the GPU holds what it needs and no more.

    encoding     the VAE on the GPU for all clips, then the text encoder and its connectors for all prompts; the frozen
                 layers of the transformer still in the checkpoint's pages
    training     the encoders in CPU memory (the VAE comes back for sample edits); the frozen layers
                     whole on the GPU            by default
                     in 8 bits                   quantize: int8 | fp8
                     cut up among processes      sharding: full        each holds 1 / size of every layer (FSDP2)
                     in CPU memory               offload: true         pinned; each layer comes when it is used (FSDP2)

FSDP2 gathers (or copies) a layer's weights while the one before computes, and drops them when it is done. The blocks
are called part by part (`synclora.backbones`), so its units are their linear layers, not the blocks. LoRA weights,
norms and tables are small and lie whole in every process.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch._C._distributed_c10d import HashStore
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, OffloadPolicy, fully_shard

from synclora.backbones.base import Backbone
from synclora.backbones.memory import Turns
from synclora.training.config import TrainConfig
from synclora.training.precision import frozen_linears, quantize_base
from synclora.training.world import World

VAE = ("vae",)
TEXT = ("text_encoder", "connectors")  # together, as every few prompts need both


def place_small(backbone: Backbone, device: torch.device) -> None:
    """LoRA, norms and tables to the device; the encoders to the CPU, from where `on_device` fetches them."""
    for tensor in _small(backbone.transformer):
        tensor.data = tensor.data.to(device)
    for module in _parts(backbone, VAE + TEXT):
        nn.Module.to(module, "cpu")


def place_base(backbone: Backbone, config: TrainConfig, world: World, device: torch.device) -> None:
    """The frozen layers to where training reads them; the LoRA must be in.

    Raises:
        SyncloraError: quantisation without torchao.
    """
    if config.quantize != "none":
        quantize_base(backbone.transformer, config.quantize, device)
    elif config.sharding == "full" or (config.offload and device.type != "cpu"):
        shard(backbone, open_mesh(world, device, config.sharding == "full"), offload=config.offload)
        return
    nn.Module.to(backbone.transformer, device)


@contextmanager
def on_device(backbone: Backbone, names: tuple[str, ...], device: torch.device) -> Iterator[None]:
    """Some encoders (`VAE` or `TEXT`) on the device for a while; their weights on the CPU stay as they are."""
    turns = Turns(device, reserve=0, free=lambda: sys.maxsize, capacity=sys.maxsize)
    modules = _parts(backbone, names)
    try:
        for module in modules:
            turns.use(module)
        yield
    finally:
        for module in modules:
            turns.forget(module)


def open_mesh(world: World, device: torch.device, sharded: bool) -> DeviceMesh:
    """The processes a layer is cut up among: all, or this one alone."""
    if not dist.is_initialized():  # one process that offloads
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, store=HashStore(), rank=0, world_size=1)
    shape = (1, world.size) if sharded else (world.size, 1)
    return init_device_mesh(device.type, shape, mesh_dim_names=("copies", "parts"))["parts"]


def shard(backbone: Backbone, mesh: DeviceMesh, *, offload: bool) -> None:
    """Cut the transformer's frozen layers up over a mesh of processes; with `offload`, into CPU memory."""
    # F.linear of a batch is a view; nothing is written into it in place.
    warnings.filterwarnings("ignore", message=r"FSDP2-wrapped module .* returned a view tensor")
    transformer = backbone.transformer
    policy = CPUOffloadPolicy(pin_memory=mesh.device_type == "cuda") if offload else OffloadPolicy()
    whole = {tensor for tensor in _small(transformer) if isinstance(tensor, nn.Parameter)}
    for _, layer in frozen_linears(transformer):
        fully_shard(layer, mesh=mesh, reshard_after_forward=True, offload_policy=policy)
    # The root keeps the order in which layers are gathered. Its forward is ours: whatever runs the network runs in it.
    fully_shard(transformer, mesh=mesh, ignored_params=whole, offload_policy=policy)
    transformer.forward = _call
    for name in ("velocity", "reference_cache"):
        setattr(backbone, name, _inside(transformer, getattr(backbone, name)))


def _small(transformer: nn.Module) -> list[torch.Tensor]:
    frozen = {id(tensor) for _, layer in frozen_linears(transformer) for tensor in layer.parameters()}
    return [*(p for p in transformer.parameters() if id(p) not in frozen), *transformer.buffers()]


def _parts(backbone: Backbone, names: tuple[str, ...]) -> list[nn.Module]:
    """Those of these parts that the backbone has."""
    return [part for name in names if isinstance(part := getattr(backbone, name, None), nn.Module)]


def _call(method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    return method(*args, **kwargs)


def _inside(transformer: nn.Module, method: Callable[..., Any]) -> Callable[..., Any]:
    def run(*args: Any, **kwargs: Any) -> Any:
        return transformer(method, *args, **kwargs)

    return run
