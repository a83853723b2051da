"""What a training will take, told before anything is loaded: memory, time, disk, and what is wrong with its data.

    synclora train --plan recipes/ltx/ltxv-13b-48gb.yaml

Everything is computed from configurations (see `synclora.training.costs`); no weights are needed and none are read. On
a machine with a GPU its memory and its matrix rate are measured and planned for; elsewhere a few cards are compared.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch

from synclora.backbones.base import Geometry
from synclora.diffusion.lora import TARGETS
from synclora.training.checks import Findings, check_data, check_folders
from synclora.training.config import TrainConfig, load_config
from synclora.training.costs import Flops, Network, Step, activation_bytes, describe, flops
from synclora.training.placement import TEXT, VAE
from synclora.training.published import Model, model_of

GIB = 2**30
UTILISATION = 0.4  # of a card's matrix rate: what this project aims at, not what it has measured
PCIE = 25e9  # bytes a second from CPU memory to a GPU (PCIe 4.0, 16 lanes)
ALLOWANCE = GIB  # CUDA's own memory and what its allocator cannot use
USABLE = 0.98  # of a card's nominal memory
GATHERED = 3  # layers whose weights are there at once when the base is cut up or offloaded
MEASURED_SIZE = 8192  # of the matrices whose product measures a GPU's rate


@dataclass(frozen=True)
class Card:
    """A GPU: its memory in GiB, and its rate of bf16 matrix products in TFLOP/s, without sparsity."""

    name: str
    memory: float
    rate: float


# Rates of NVIDIA's data sheets, sums in float32.
CARDS = (Card("RTX 4090", 24, 165), Card("L40S", 48, 362), Card("A100", 80, 312), Card("H100", 80, 989))


@dataclass(frozen=True)
class Plan:
    """A planned training.

    Attributes:
        config, model, network: what was planned.
        processes: one a GPU.
        geometry, frames: of the largest clips.
        step: one pass of one process over the largest clips.
        memory: bytes on each GPU while training, by item.
        encoding: bytes on each GPU for weights while clips, then prompts, are encoded, before training.
        host: bytes of CPU memory that the offloaded base takes in each process.
        cache: bytes on disk for encoded clips and prompts.
        data: what the pairs are.
        problems: what must be set right before training.
        cards: those to compare with, the GPU found or a few.
    """

    config: TrainConfig
    model: Model
    network: Network
    processes: int
    geometry: Geometry
    frames: int
    step: Step
    memory: dict[str, int]
    encoding: int
    host: int
    cache: int
    data: Findings
    cards: tuple[Card, ...]
    problems: list[str] = field(default_factory=list)

    @property
    def total(self) -> int:
        """Bytes on each GPU while training."""
        return sum(self.memory.values())

    @property
    def flops(self) -> Flops:
        """Of one pass of one process; a step has `accumulation` of them."""
        return flops(self.network, self.step)

    def fits(self, card: Card, cached: bool = False) -> bool:
        """Whether training and the encoding before it fit on a card; with a full cache the former alone."""
        encoding = 0 if cached else self.encoding + ALLOWANCE
        return max(self.total, encoding) <= USABLE * card.memory * GIB

    def seconds(self, card: Card) -> float:
        """Estimated time of a step: arithmetic at `UTILISATION` of the rate, or the offloaded base's way if longer."""
        arithmetic = self.flops.total / (UTILISATION * card.rate * 1e12)
        passes = 3 if self.step.checkpointing else 2
        return self.config.accumulation * max(arithmetic, passes * self.host / PCIE)

    def lines(self) -> list[str]:
        """The plan in words, problems last."""
        return [*self._what(), "", *self._memory(), "", *self._time(), *self._problems()]

    def _what(self) -> list[str]:
        config, step, model, found = self.config, self.step, self.model, self.data
        a_step = config.batch * config.accumulation * self.processes
        pairs = f"{a_step} a step (batch {config.batch} x accumulation {config.accumulation} x {_n(self.processes)})"
        if found.pairs is not None:
            pairs += f"; {found.pairs} to learn from, each seen {config.steps * a_step / found.pairs:.3g} times"
            pairs += f"; {found.held_out} held out"
        size = f"{self.geometry.width}x{self.geometry.height}, {self.frames} frames at {self.geometry.fps:g} fps"
        window = " (the largest bucket)" if config.data.buckets else ""
        return [
            f"model      {config.backbone}: {self.network.weights / 1e9:.2f} billion weights, by {model.origin}",
            f"window     {size}{window}: {step.target} target + {step.reference} reference tokens, {config.attention}"
            f" attention; prompts of up to {step.text} tokens",
            f"LoRA       rank {config.rank}: {self.network.lora_weights(config.rank) / 1e6:.1f} million weights",
            f"pairs      {pairs}",
            f"disk       {self.cache / 1e9:.2f} GB for encoded clips and prompts"
            if self.cache
            else "disk       unknown",
            *(f"note       {note}" for note in found.notes),
        ]

    def _memory(self) -> list[str]:
        items = {**self.memory, f"a GPU, of {self.processes}" if self.processes > 1 else "in all": self.total}
        width = max(map(len, items))
        lines = ["memory while training, computed"]
        lines += [f"  {name:<{width}}  {count / GIB:6.1f} GiB" for name, count in items.items()]
        lines.append(
            f"memory while encoding, before: {self.encoding / GIB:.1f} GiB of weights at most, on the GPU; the VAE"
            " alone where the cache (data.cache) is full"
        )
        if self.host:
            lines.append(f"CPU memory for the offloaded base: {self.host / GIB:.1f} GiB a process, pinned")
        if self.config.sharding == "full" and self.processes == 1:
            lines.append("sharding: full cuts the base up among the processes of `accelerate launch --num_processes N`")
            base = _base_bytes(self.config, self.network, 1)
            for count in (2, 4, 8):
                less = base - _base_bytes(self.config, self.network, count)
                lines.append(f"  with {count} processes {(self.total - less) / GIB:.1f} GiB each")
        return lines

    def _time(self) -> list[str]:
        work = self.flops
        lines = [
            f"work       {work.total / 1e12:.1f} TFLOP a pass (forward {work.forward / 1e12:.1f}, backward "
            f"{work.backward / 1e12:.1f}, recomputed {work.recomputed / 1e12:.1f})",
            f"estimated at {UTILISATION:.0%} of the matrix rate (an aim, not a measurement), without encoding,"
            " validation and samples:",
        ]
        for card in self.cards:
            fits = "fits" if self.fits(card) else "fits cached" if self.fits(card, cached=True) else "does not fit"
            seconds = self.seconds(card)
            lines.append(
                f"  {card.name + f', {card.memory:.0f} GB':<18} {card.rate:5.0f} TFLOP/s  {fits:<12}"
                f"  {seconds:7.3g} s a step, {_duration(seconds * self.config.steps)} for {self.config.steps} steps"
            )
        return lines

    def _problems(self) -> list[str]:
        if not self.problems:
            return []
        count = len(self.problems)
        return ["", f"{count} problem{'s'[: count > 1]}:", *(f"  {number}. {text}" for number, text in
                enumerate(self.problems, start=1))]  # fmt: skip


def plan(config: TrainConfig | Path | str, processes: int | None = None) -> Plan:
    """Plan a training without loading a weight.

    Args:
        config: a configuration or the path of its YAML file.
        processes: how many will train, one a GPU; by default as many as the launcher says, or one.

    Raises:
        SyncloraError: a bad configuration, or a model that is not known. Faults of data and folders are `problems`.
    """
    config = config if isinstance(config, TrainConfig) else load_config(config)
    processes = int(os.environ.get("WORLD_SIZE", 1)) if processes is None else processes
    model = model_of(config.backbone)
    network = describe(model.transformer, TARGETS if config.targets is None else config.targets)
    geometry, frames = _largest(config, model.geometry)
    step = _step(config, model, geometry, frames)
    found = check_data(config, model.geometry, config.batch * config.accumulation * processes)
    if config.quantize != "none" and (config.offload or config.sharding == "full"):
        found.notes.append(
            f"quantize: {config.quantize} keeps the base whole: offload and sharding do nothing beside it."
        )
    cache = _cache_bytes(model, network, step, found)
    return Plan(
        config=config,
        model=model,
        network=network,
        processes=processes,
        geometry=geometry,
        frames=frames,
        step=step,
        memory=_memory(config, network, step, processes),
        encoding=_encoding(config, model, network),
        host=_offloaded(config, network, processes),
        cache=cache,
        data=found,
        cards=_cards(),
        problems=[*found.problems, *_settings(config, network), *check_folders(config, cache)],
    )


def _largest(config: TrainConfig, geometry: Geometry) -> tuple[Geometry, int]:
    if config.data.buckets is None:
        return geometry, config.data.frames or geometry.frames
    from synclora.training.buckets import geometry_of

    bucket = max(config.data.buckets, key=lambda bucket: bucket.width * bucket.height * (bucket.frames + 7))
    return geometry_of(bucket, geometry), bucket.frames


def _step(config: TrainConfig, model: Model, geometry: Geometry, frames: int) -> Step:
    tokens = (geometry.fit_up(frames) - 1) // geometry.temporal + 1
    tokens *= (geometry.height // geometry.spatial) * (geometry.width // geometry.spatial)
    return Step(
        batch=config.batch,
        target=tokens,
        reference=tokens,
        text=model.prompt_tokens,
        rank=config.rank,
        attention=config.attention,
        checkpointing=config.gradient_checkpointing,
        mixed=config.precision == "bf16",
    )


def _memory(config: TrainConfig, network: Network, step: Step, processes: int) -> dict[str, int]:
    lora = network.lora_weights(config.rank)
    kind = f"frozen base, {config.precision if config.quantize == 'none' else config.quantize}"
    how = ", cut up" if _cut(config) else ""
    items = {
        f"{kind}{how}": _base_bytes(config, network, processes),
        "LoRA weights, float32": 4 * lora,
        "LoRA gradients, float32": 4 * lora,
        # two moments: float32, or a byte each and a float32 scale for every 256
        f"{config.optimizer} moments": 8 * lora if config.optimizer == "adamw" else 2 * lora + 2 * lora // 64,
        "moving average": 4 * lora if config.ema is not None else 0,
        "activations": activation_bytes(network, step),
        "layers gathered": _gathered(config, network),
        "CUDA and allocator": ALLOWANCE,
    }
    return {name: count for name, count in items.items() if count}


def _cut(config: TrainConfig) -> bool:
    """Whether the base's layers lie elsewhere and are brought together when used; a quantised base stays whole."""
    return config.quantize == "none" and (config.sharding == "full" or config.offload)


def _base_bytes(config: TrainConfig, network: Network, processes: int) -> int:
    size = 2 if config.precision == "bf16" else 4
    rest, layers = (network.weights - network.block_weights) * size, network.block_weights * size
    if config.quantize != "none":
        return rest + network.block_weights + 4 * network.block_rows
    if config.offload:
        return rest
    return rest + (layers // processes if config.sharding == "full" else layers)


def _offloaded(config: TrainConfig, network: Network, processes: int) -> int:
    if config.quantize != "none" or not config.offload:
        return 0
    layers = network.block_weights * (2 if config.precision == "bf16" else 4)
    return layers // processes if config.sharding == "full" else layers


def _gathered(config: TrainConfig, network: Network) -> int:
    if not _cut(config):
        return 0
    return (
        GATHERED
        * max(x.weights for x in network.linears if x.rows == "tokens")
        * (2 if config.precision == "bf16" else 4)
    )


def _encoding(config: TrainConfig, model: Model, network: Network) -> int:
    size = 2 if config.precision == "bf16" else 4
    vae, text = (sum(model.encoders.get(part, 0) for part in parts) for parts in (VAE, TEXT))  # one after the other
    small = max(vae, text) + network.weights - network.block_weights
    return small * size + 4 * network.lora_weights(config.rank)


def _cache_bytes(model: Model, network: Network, step: Step, found: Findings) -> int:
    """bf16 latents of every clip, every caption once and the empty prompt of both sets; prompts at their longest."""
    latents = found.clips * step.target * model.geometry.channels
    return 2 * (latents + (found.captions + 2) * step.text * network.text_width)


def _settings(config: TrainConfig, network: Network) -> list[str]:
    problems = []
    if not network.lora_weights(1):
        problems.append(f"targets {config.targets}: no such layers in the backbone. Give ends of module names.")
    if config.start is not None and not config.start.is_file():
        problems.append(f"start {config.start}: no such LoRA file. Name one, or leave start out.")
    return problems


def _cards() -> tuple[Card, ...]:
    if not torch.cuda.is_available():
        return CARDS
    properties = torch.cuda.get_device_properties(0)
    return (Card(properties.name, properties.total_memory / GIB, matrix_rate(torch.device("cuda")) / 1e12),)


def matrix_rate(device: torch.device, size: int = MEASURED_SIZE, seconds: float = 0.5) -> float:
    """Floating-point operations a second of a bf16 product of two square matrices, measured for a while."""
    a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    for _ in range(3):
        torch.mm(a, b)
    wait()
    count, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        for _ in range(4):
            torch.mm(a, b)
        wait()
        count += 4
    return count * 2 * size**3 / (time.perf_counter() - start)


def _n(processes: int) -> str:
    return f"{processes} process{'es' if processes > 1 else ''}"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
