"""Models larger than the GPU: their parts take turns on it, and the text encoder is let go where the host is short too.

Editing needs the text encoder once, the VAE before and after, the transformer in between. Where all of them fit beside
what the work itself takes, all stay. Where not, each is brought to the GPU as it is needed and stays until its room is
needed; a text encoder that alone is too large for the GPU runs on the CPU. The weights never change, so the host's copy
is kept (of files read in their own dtype it is the file's pages, which the system may drop) and nothing is copied back.

    turns = turns_for(torch.device("cuda"), {"transformer": ..., "vae": ..., "text encoder": ...})   # None: all fit
    turns.use(vae)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from typing import Any

import psutil
import torch
from torch import Tensor, nn

from synclora.errors import SyncloraError

# What the work takes beside the weights (activations, cached keys and values): a part of the card, at least so much.
RESERVE_SHARE, RESERVE = 0.2, 3 * 2**30
HOST_SHARE = 0.1  # of the host's memory: with less than this available, a text encoder that is done is let go


class Turns:
    """Parts that share a device: the ones used last are there.

    Args:
        device: to share.
        reserve: bytes that parts leave free.
        free: tells the bytes that are free on the device now.
        capacity: bytes that parts may take at most; a larger part stays on the CPU.
    """

    def __init__(self, device: torch.device, *, reserve: int, free: Callable[[], int], capacity: int) -> None:
        self.device = torch.empty(0, device=device).device  # "cuda" as tensors have it: "cuda:0"
        self.reserve, self.capacity = reserve, capacity
        self.notice = ""
        self._free = free
        self._here: dict[nn.Module, list[tuple[dict[str, Any], str, Tensor]]] = {}  # the last used last; host copies

    def use(self, module: nn.Module) -> torch.device:
        """Bring a part to the device, if it fits at all; the device it is on then."""
        size = bytes_of(module)
        if module not in self._here:
            if size > self.capacity:
                return torch.device("cpu")
            while self._here and self._free() < size + self.reserve:
                self._leave(next(iter(self._here)))
            self._here[module] = []
        held = self._here.pop(module)
        self._here[module] = held  # the newest
        with torch.inference_mode(False):
            moved = {id(host): owner[name] for owner, name, host in held}
            for owner, name, tensor in list(_tensors(module)):  # each time: a LoRA may have been added since
                if tensor.device != self.device:
                    if id(tensor) not in moved:
                        moved[id(tensor)] = _copy(tensor, self.device)
                    held.append((owner, name, tensor))
                    owner[name] = moved[id(tensor)]
        return self.device

    def here(self, module: nn.Module) -> bool:
        """Whether the part is on the device now."""
        return module in self._here

    def forget(self, module: nn.Module) -> None:
        """A part that will not come again."""
        if module in self._here:
            self._leave(module)

    def _leave(self, module: nn.Module) -> None:
        for owner, name, host in self._here.pop(module):
            owner[name] = host


def _tensors(module: nn.Module) -> Iterator[tuple[dict[str, Any], str, Tensor]]:
    """Every weight and buffer, with the place that holds it; one that is tied comes once for each place."""
    for child in module.modules():
        for owner in (child._parameters, child._buffers):
            for name, tensor in owner.items():
                if tensor is not None:
                    yield owner, name, tensor


def _copy(tensor: Tensor, device: torch.device) -> Tensor:
    copied = tensor.detach().to(device)
    return nn.Parameter(copied, requires_grad=tensor.requires_grad) if isinstance(tensor, nn.Parameter) else copied


def turns_for(device: torch.device, parts: Mapping[str, nn.Module]) -> Turns | None:
    """How the parts of a model share a GPU; None where all of them fit, or the device is no GPU.

    Args:
        device: where the model is to run.
        parts: its networks by name, with weights or on the device "meta"; the transformer is called "transformer".

    Raises:
        SyncloraError: the transformer alone does not fit.
    """
    if device.type != "cuda":
        return None

    def free() -> int:
        torch.cuda.empty_cache()
        return torch.cuda.mem_get_info(device)[0]

    return planned(device, parts, free, torch.cuda.mem_get_info(device)[1])


def planned(device: torch.device, parts: Mapping[str, nn.Module], free: Callable[[], int], total: int) -> Turns | None:
    """`turns_for` on a device of `total` bytes, of which `free` tells how many are free."""
    sizes = {name: bytes_of(module) for name, module in parts.items()}
    reserve, room = max(int(RESERVE_SHARE * total), RESERVE), free()
    if sum(sizes.values()) + reserve <= room:
        return None
    told = f"{device} has {_gigabytes(room)} free and the model takes {_gigabytes(sum(sizes.values()))}"
    if sizes["transformer"] > room:
        raise SyncloraError(
            f"{told}, {_gigabytes(sizes['transformer'])} of it the transformer, which must fit. Use a larger GPU or"
            " another that is free (--device cuda:1), a smaller backbone, or --device cpu."
        )
    turns = Turns(device, reserve=reserve, free=free, capacity=max(room - reserve, sizes["transformer"]))
    on_cpu = [name for name, size in sizes.items() if size > turns.capacity]
    turns.notice = f"{told}: its parts take turns there, which costs some seconds an edit."
    if on_cpu:
        turns.notice += f" The {' and '.join(on_cpu)} does not fit alone and runs on the CPU."
    return turns


def host_is_short() -> bool:
    """Whether little of the host's memory is available."""
    memory = psutil.virtual_memory()
    return memory.available < HOST_SHARE * memory.total


def bytes_of(module: nn.Module) -> int:
    """Bytes that a network's weights take."""
    return sum(tensor.numel() * tensor.element_size() for tensor in chain(module.parameters(), module.buffers()))


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.1f} GB"
