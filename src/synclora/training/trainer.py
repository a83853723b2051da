"""Train a LoRA on a frozen backbone.

    synclora train recipes/nano/sync_lora.yaml
    accelerate launch --multi_gpu --num_processes 8 -m synclora train CONFIG.yaml       # a process for each of 8 GPUs

    OUTPUT/config.yaml            the resolved configuration
    OUTPUT/cache/                 encoded clips and prompts
    OUTPUT/checkpoints/step-N/    all that resuming needs
    OUTPUT/metrics.jsonl, tensorboard/, samples/step-N.png
    OUTPUT/adapter.safetensors    the result

Started again, it goes on from the newest whole checkpoint and ends with the same adapter, bit for bit on the CPU, as if
it had never stopped. It never starts over in a folder that holds another run.

Several processes hold the same LoRA and the same optimizer. A step's pairs and noise are drawn for all of them at once
and dealt out; their gradients are averaged, once a step. So n processes do what one does with n times the accumulation.
"""

from __future__ import annotations

import math
import os
from contextlib import nullcontext
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn

from synclora.backbones.base import Backbone
from synclora.diffusion.lora import save_lora
from synclora.errors import SyncloraError
from synclora.tensors import make_folder
from synclora.training import prepare
from synclora.training.buckets import BucketSampler, buckets_of
from synclora.training.card import push, require_hub
from synclora.training.clips import open_clips
from synclora.training.config import TrainConfig, load_config
from synclora.training.ema import MovingAverage
from synclora.training.folder import ADAPTER, PAIRS_A_STEP, how_to_go_on, newest
from synclora.training.folder import only_run as _only_run
from synclora.training.latents import LatentCache, module_fingerprint, text_fingerprint
from synclora.training.log import NoLog, RunLog
from synclora.training.objective import Draws, load_batch, pixel_weights, precision_context, step_loss
from synclora.training.placement import TEXT, VAE, on_device, place_base, place_small
from synclora.training.precision import make_optimizer, step_context
from synclora.training.state import (
    TrainState,
    Weights,
    latest_checkpoint,
    load_checkpoint,
    save_checkpoint,
    set_lr,
    warmup_cosine,
)
from synclora.training.validation import held_out_loss, sample_edits
from synclora.training.world import World


def train(
    config: Path | str | TrainConfig,
    resume: bool = True,
    *,
    backbone: Backbone | None = None,
    console: Console | None = None,
) -> Path:
    """Train, or go on training, and return the path of the adapter.

    Args:
        config: a configuration or the path of its YAML file.
        resume: go on from the newest whole checkpoint in the output folder; False refuses a folder that holds a run.
        backbone: a loaded backbone, instead of the configured name; it is given a LoRA.
        console: where progress and notices go; stderr by default.

    Raises:
        SyncloraError: a bad configuration or bad data, an output folder that cannot be written or belongs to another
            run, a loss that is not a number (names the step), or too little memory. Of several processes one raises,
            and the others end (see `synclora.training.world`).
    """
    with World.open() as world:
        config = config if isinstance(config, TrainConfig) else load_config(config)
        output = config.output
        if not world.main:
            console = Console(file=open(os.devnull, "w"))  # noqa: SIM115
        world.way_out = lambda: how_to_go_on(output)
        world.on_main(lambda: require_hub(config))
        make_folder(output)
        with _only_run(output) if world.main else nullcontext():
            adapter = _train(config, resume, world, backbone, console or Console(stderr=True))
    if config.push_to_hub is not None and world.main:
        push(adapter, config, config.push_to_hub)
    return adapter


def _train(config: TrainConfig, resume: bool, world: World, backbone: Backbone | None, console: Console) -> Path:
    checkpoint = world.on_main(lambda: newest(config, resume, world.size))
    if checkpoint is None and world.main:
        config.save(config.output / "config.yaml")
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    device = world.device(config.device) if backbone is None else backbone.device
    backbone = prepare.load(config) if backbone is None else backbone
    try:
        return _Run(config, world, device, backbone, console).run(checkpoint)
    except torch.OutOfMemoryError as error:
        raise SyncloraError(
            f"{device} ran out of memory with batch {config.batch}. Lower batch (and raise accumulation by as much), "
            "or set gradient_checkpointing: true, then quantize: int8, sharding: full or offload: true; checkpoints "
            "stay."
        ) from error


class _Run:
    """One run: what is loaded, and the loop over it."""

    def __init__(
        self, config: TrainConfig, world: World, device: torch.device, backbone: Backbone, console: Console
    ) -> None:
        self.config, self.world, self.device = config, world, device
        self.backbone, self.console = backbone, console
        train_clips, held_out_clips = open_clips(config.data, backbone.geometry)
        folder = config.output / "cache" if config.data.cache is None else config.data.cache
        self.pairs = LatentCache(folder, train_clips, backbone, world)
        self.held_out = LatentCache(folder, held_out_clips, backbone, world)
        # The frozen base and the data, beside the configuration, are what a resume must find unchanged.
        self.origin = {
            "backbone": backbone.fingerprint(),
            "VAE": module_fingerprint(backbone, "vae"),
            "text encoder": text_fingerprint(backbone),
            "data": train_clips.identity,
        }

        self.base_model = prepare.base_name(backbone)
        parameters = prepare.put_lora(config, backbone, self.origin["backbone"])
        place_small(backbone, device)
        self.trained = {
            name: tensor for name, tensor in backbone.transformer.named_parameters() if tensor.requires_grad
        }
        self.average = None if config.ema is None else MovingAverage(self.trained, config.ema)
        modules: dict[str, Weights] = {"lora": self.trained}
        if self.average is not None:
            modules["ema"] = self.average.average
        self.state = TrainState(modules, make_optimizer(config.optimizer, parameters, config.lr, config.weight_decay))
        self.pairs_a_step = config.batch * config.accumulation * world.size

    def run(self, checkpoint: Path | None) -> Path:
        """Go on from a checkpoint, or from the start, to the adapter."""
        config, state = self.config, self.state
        adapter = config.output / ADAPTER
        if checkpoint is not None:
            load_checkpoint(checkpoint, state)
            self._check_origin(checkpoint)
            if state.step >= config.steps and adapter.is_file():
                self._say(f"{adapter}: already finished at step {state.step}.")
                return adapter
            self._say(f"going on from {checkpoint}")
            if self.world.main:
                config.save(config.output / "config.yaml")
        state.extra = self.origin | {PAIRS_A_STEP: self.pairs_a_step}
        self.empty = self._encode()
        if config.quantize != "none" and (config.offload or config.sharding == "full"):
            self._say(
                f"quantize: {config.quantize} keeps the base whole on every device; offload and sharding do nothing "
                "beside it."
            )
        place_base(self.backbone, config, self.world, self.device)
        with self._log() as log:
            self._loop(log)
        if self.world.main:
            self._save_adapter(adapter)
        return adapter

    def _encode(self) -> Tensor:
        """Fill the caches, with a bar; returns the embedded empty prompt [T, D]."""
        caches = (self.held_out, self.pairs)
        with on_device(self.backbone, VAE, self.device):
            self.channel_weights = pixel_weights(self.backbone) if self.config.pixel_weighted else None
            for cache in caches:
                steps, shards = cache.steps(self._say), len(cache.clips.shards)
                for _ in track(steps, f"encoding {cache.clips.name} clips", shards, console=self.console):
                    pass
        for cache in caches:
            cache.embed(lambda: on_device(self.backbone, TEXT, self.device))
        return self.pairs.empty()

    def _loop(self, log: RunLog) -> None:
        config, state = self.config, self.state
        sampler = BucketSampler(buckets_of(self.pairs.clips), self.pairs_a_step, config.seed)
        if state.step == 0:
            self._validate(log)
        while state.step < config.steps:
            values = self._step(sampler.indices(state.step))
            state.step += 1
            if self.average is not None:
                self.average.update(state.step)
            log.advance(state.step, f"loss {values['train/loss']:.4f}")
            last = state.step == config.steps
            if last or state.step % config.log_every == 0:
                log.numbers(state.step, values)
            if last or state.step % config.validate_every == 0:
                self._validate(log)
            if config.samples and (last or state.step % config.sample_every == 0):
                self._sample(log)
            if self.world.main and (last or state.step % config.checkpoint_every == 0):
                save_checkpoint(self._checkpoints, state, config.keep)

    def _step(self, pairs: list[int]) -> dict[str, float]:
        """One optimizer step on the pairs of all processes; all its randomness comes from (seed, step)."""
        config, backbone, optimizer = self.config, self.backbone, self.state.optimizer
        assert optimizer is not None
        grid = self.pairs.latents([self.pairs.clips.pairs[pairs[0]][1]]).shape[2:]  # of the target
        draws = Draws.of_step(
            config.seed,
            self.state.step,
            len(pairs),
            math.prod(grid),
            backbone.geometry.channels,
            config.caption_dropout,
            config.later_windows,
            grid[0],
            config.sampling_steps,
        )
        lr = warmup_cosine(self.state.step, config.warmup, config.steps, config.lr)
        set_lr(optimizer, lr)
        total = torch.zeros((), dtype=torch.float64)
        for first in self.world.mine([*range(0, len(pairs), config.batch)]):
            part = slice(first, first + config.batch)
            draw = draws[part]
            batch = load_batch(self.pairs, pairs[part], self.empty, draw.no_prompt).to(self.device)
            with self._precision():
                given = (draw.to(self.device), config.attention, config.changed_weight, self.channel_weights)
                loss = step_loss(backbone, batch, *given) / config.accumulation
            loss.backward()
            total += loss.item()
        self.world.average(tensor.grad for tensor in self.trained.values() if tensor.grad is not None)
        loss_of_all = (self.world.total(total) / self.world.size).item()
        norm = nn.utils.clip_grad_norm_(list(self.trained.values()), config.grad_clip).item()
        self._require_finite({"loss": loss_of_all, "gradient norm": norm})
        with step_context(optimizer):
            optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return {"train/loss": loss_of_all, "train/gradient_norm": norm, "train/lr": lr}

    def _validate(self, log: RunLog) -> None:
        config = self.config
        with self._averaged(), self._precision():
            values = held_out_loss(
                self.backbone,
                self.held_out,
                self.empty,
                config.attention,
                config.batch,
                config.seed,
                self.world,
                config.sampling_steps,
            )
        self._require_finite(values)
        log.numbers(self.state.step, values)

    def _sample(self, log: RunLog) -> None:
        config = self.config
        path = config.output / "samples" / f"step-{self.state.step:08d}.png"
        given = (self.backbone, self.held_out, self.empty, config.attention, config.samples, config.seed, path)
        with self._averaged(), self._precision(), on_device(self.backbone, VAE, self.device):
            values = sample_edits(*given, self.world, log.say, config.sampling_steps)
        log.numbers(self.state.step, values)

    def _check_origin(self, checkpoint: Path) -> None:
        changed = [name for name, value in self.origin.items() if self.state.extra.get(name) != value]
        if changed:
            raise SyncloraError(
                f"{checkpoint}: this run was started with another content of: {', '.join(changed)}. "
                "Bring it back to go on, or choose another output."
            )

    def _save_adapter(self, path: Path) -> None:
        with self._averaged():
            save_lora(
                path,
                self.backbone.transformer,
                base_fingerprint=self.origin["backbone"],
                reference_attention=self.config.attention,
                metadata=prepare.provenance(
                    self.config,
                    self.backbone,
                    self.pairs,
                    base_model=self.base_model,
                    steps=self.state.step,
                    data=self.origin["data"],
                ),
            )

    def _require_finite(self, values: dict[str, float]) -> None:
        if all(math.isfinite(value) for value in values.values()):
            return
        path = latest_checkpoint(self._checkpoints)
        kept = "No checkpoint was written yet." if path is None else f"The last good checkpoint is {path}."
        found = ", ".join(f"{name} {value}" for name, value in values.items() if not math.isfinite(value))
        raise SyncloraError(
            f"training diverged at step {self.state.step}: {found}. {kept} "
            "Lower lr, raise warmup or set precision: fp32, and train into another output."
        )

    def _log(self) -> RunLog:
        if not self.world.main:
            return NoLog()
        return RunLog(self.config.output, self.state.step, self.config.steps, self.console)

    def _say(self, text: str) -> None:
        self.console.print(text, soft_wrap=True, highlight=False, markup=False)

    def _averaged(self):
        return nullcontext() if self.average is None else self.average.in_place()

    def _precision(self):
        return precision_context(self.device, self.config.precision)

    @property
    def _checkpoints(self) -> Path:
        return self.config.output / "checkpoints"
