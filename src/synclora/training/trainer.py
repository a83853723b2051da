"""Train a LoRA on a frozen backbone.

    synclora train recipes/nano/sync_lora.yaml

    OUTPUT/config.yaml            the resolved configuration
    OUTPUT/cache/                 encoded clips and prompts
    OUTPUT/checkpoints/step-N/    all that resuming needs
    OUTPUT/metrics.jsonl, tensorboard/, samples/step-N.png
    OUTPUT/adapter.safetensors    the result

Started again, it goes on from the newest whole checkpoint and ends with the same adapter, bit for bit on the CPU, as if
it had never stopped. It never starts over in a folder that holds another run.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import yaml
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn

from synclora import __version__
from synclora.backbones.base import Backbone
from synclora.diffusion.lora import TARGETS, add_lora, resume_lora, save_lora
from synclora.errors import SyncloraError
from synclora.tensors import make_folder
from synclora.training.clips import open_clips
from synclora.training.config import TrainConfig, differences, load_config
from synclora.training.latents import LatentCache, module_fingerprint
from synclora.training.log import RunLog
from synclora.training.objective import Draws, load_batch, precision_context, velocity_loss
from synclora.training.state import (
    PairSampler,
    TrainState,
    checkpoints,
    latest_checkpoint,
    load_checkpoint,
    save_checkpoint,
    set_lr,
    warmup_cosine,
)
from synclora.training.validation import held_out_loss, sample_edits

ADAPTER = "adapter.safetensors"


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
            run, a loss that is not a number (names the step), or too little memory.
    """
    config = config if isinstance(config, TrainConfig) else load_config(config)
    console = console or Console(stderr=True)
    make_folder(config.output)
    with _only_run(config.output):
        checkpoint = _newest(config, resume)
        if checkpoint is None:
            config.save(config.output / "config.yaml")
        if config.threads is not None:
            torch.set_num_threads(config.threads)
        backbone = _load(config) if backbone is None else backbone
        try:
            return _Run(config, backbone, console).run(checkpoint)
        except torch.OutOfMemoryError as error:
            raise SyncloraError(
                f"{backbone.device} ran out of memory with batch {config.batch}. Lower batch (and raise accumulation "
                "by as much), or set gradient_checkpointing: true; checkpoints stay."
            ) from error


class _Run:
    """One run: what is loaded, and the loop over it."""

    def __init__(self, config: TrainConfig, backbone: Backbone, console: Console) -> None:
        self.config, self.backbone, self.console = config, backbone, console
        train_clips, held_out_clips = open_clips(config.data, backbone.geometry)
        folder = config.output / "cache" if config.data.cache is None else config.data.cache
        self.pairs = LatentCache(folder, train_clips, backbone)
        self.held_out = LatentCache(folder, held_out_clips, backbone)
        # The frozen base and the data, beside the configuration, are what a resume must find unchanged.
        self.origin = {
            "backbone": backbone.fingerprint(),
            "VAE": module_fingerprint(backbone, "vae"),
            "text encoder": module_fingerprint(backbone, "text_encoder"),
            "data": train_clips.identity,
        }

        self.tokens = math.prod(backbone.geometry.latent_grid(config.data.frames))  # of the target

        torch.manual_seed(config.seed)  # LoRA's initial weights
        parameters = _add_lora(config, backbone, self.origin["backbone"])
        trained = {name: tensor for name, tensor in backbone.transformer.named_parameters() if tensor.requires_grad}
        optimizer = torch.optim.AdamW(parameters, lr=config.lr, weight_decay=config.weight_decay)
        self.state = TrainState(modules={"lora": trained}, optimizer=optimizer, extra=self.origin)

    def run(self, checkpoint: Path | None) -> Path:
        """Go on from a checkpoint, or from the start, to the adapter."""
        config, state = self.config, self.state
        if checkpoint is not None:
            load_checkpoint(checkpoint, state)
            self._check_origin(checkpoint)
            if state.step >= config.steps and self._adapter.is_file():
                self._say(f"{self._adapter}: already finished at step {state.step}.")
                return self._adapter
            self._say(f"going on from {checkpoint}")
            config.save(config.output / "config.yaml")
        for cache in (self.held_out, self.pairs):
            self._fill(cache)
        with torch.no_grad():
            empty = self.backbone.embed([""])
        self.empty = empty.hidden[0][empty.mask[0]].to(torch.bfloat16).float().cpu()
        with RunLog(config.output, state.step, config.steps, self.console) as log:
            self._loop(log)
        self._save_adapter()
        return self._adapter

    def _loop(self, log: RunLog) -> None:
        config, state = self.config, self.state
        sampler = PairSampler(len(self.pairs.clips.pairs), config.batch * config.accumulation, config.seed)
        if state.step == 0:
            self._validate(log)
        while state.step < config.steps:
            values = self._step(sampler.indices(state.step))
            state.step += 1
            log.advance(state.step, f"loss {values['train/loss']:.4f}")
            last = state.step == config.steps
            if last or state.step % config.log_every == 0:
                log.numbers(state.step, values)
            if last or state.step % config.validate_every == 0:
                self._validate(log)
            if config.samples and (last or state.step % config.sample_every == 0):
                self._sample(log)
            if last or state.step % config.checkpoint_every == 0:
                save_checkpoint(self._checkpoints, state, config.keep)

    def _step(self, pairs: list[int]) -> dict[str, float]:
        """One optimizer step; all its randomness comes from (seed, step)."""
        config, state, backbone = self.config, self.state, self.backbone
        assert state.optimizer is not None
        channels = backbone.geometry.channels
        draws = Draws.of_step(config.seed, state.step, len(pairs), self.tokens, channels, config.caption_dropout)
        lr = warmup_cosine(state.step, config.warmup, config.steps, config.lr)
        set_lr(state.optimizer, lr)
        total = 0.0
        for first in range(0, len(pairs), config.batch):
            part = slice(first, first + config.batch)
            draw = draws[part]
            batch = load_batch(self.pairs, pairs[part], self.empty, draw.no_prompt).to(backbone.device)
            sigma, noise = draw.sigma.to(backbone.device), draw.noise.to(backbone.device)
            with self._precision():
                loss = velocity_loss(backbone, batch, sigma, noise, config.attention) / config.accumulation
            loss.backward()
            total += loss.item()
        norm = nn.utils.clip_grad_norm_(list(self._trained.values()), config.grad_clip).item()
        self._require_finite({"loss": total, "gradient norm": norm})
        state.optimizer.step()
        state.optimizer.zero_grad(set_to_none=True)
        return {"train/loss": total, "train/gradient_norm": norm, "train/lr": lr}

    def _validate(self, log: RunLog) -> None:
        config = self.config
        with self._precision():
            values = held_out_loss(
                self.backbone, self.held_out, self.empty, config.attention, config.batch, config.seed
            )
        self._require_finite(values)
        log.numbers(self.state.step, values)

    def _sample(self, log: RunLog) -> None:
        config = self.config
        path = config.output / "samples" / f"step-{self.state.step:08d}.png"
        with self._precision():
            values = sample_edits(
                self.backbone, self.held_out, self.empty, config.attention, config.samples, config.seed, path
            )
        log.numbers(self.state.step, values)

    def _fill(self, cache: LatentCache) -> None:
        """Encode what the cache lacks, with a bar."""
        steps = cache.steps(self._say)
        for _ in track(steps, f"encoding {cache.clips.name} clips", len(cache.clips.shards), console=self.console):
            pass

    def _say(self, text: str) -> None:
        self.console.print(text, soft_wrap=True, highlight=False, markup=False)

    def _check_origin(self, checkpoint: Path) -> None:
        extra, self.state.extra = self.state.extra, self.origin
        changed = [name for name, value in self.origin.items() if extra.get(name) != value]
        if changed:
            raise SyncloraError(
                f"{checkpoint}: this run was started with another content of: {', '.join(changed)}. "
                "Bring it back to go on, or choose another output."
            )

    def _save_adapter(self) -> None:
        config = self.config
        provenance = {
            "synclora_version": __version__,
            "backbone": config.backbone,
            "config_sha256": config.digest(),
            "steps": str(self.state.step),
            "data": "procedural" if config.data.procedural else "pairs",
            "data_sha256": self.origin["data"],
            "pairs": str(len(self.pairs.clips.pairs)),
            "rank": str(config.rank),
            "seed": str(config.seed),
        }
        save_lora(
            self._adapter,
            self.backbone.transformer,
            base_fingerprint=self.origin["backbone"],
            reference_attention=config.attention,
            metadata=provenance,
        )

    def _precision(self):
        return precision_context(self.backbone.device, self.config.precision)

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

    @property
    def _trained(self) -> dict[str, Tensor]:
        weights = self.state.modules["lora"]
        assert isinstance(weights, dict)
        return weights

    @property
    def _adapter(self) -> Path:
        return self.config.output / ADAPTER

    @property
    def _checkpoints(self) -> Path:
        return self.config.output / "checkpoints"


def _add_lora(config: TrainConfig, backbone: Backbone, base_fingerprint: str) -> list[nn.Parameter]:
    targets = TARGETS if config.targets is None else config.targets
    if config.start is not None:
        parameters = resume_lora(backbone.transformer, config.start, base_fingerprint=base_fingerprint)
        if (rank := len(parameters[0])) != config.rank:
            raise SyncloraError(f"{config.start}: a LoRA of rank {rank}, but rank is {config.rank}. Set rank: {rank}.")
        return _with_checkpointing(config, backbone, parameters)
    try:
        parameters = add_lora(backbone.transformer, config.rank, config.lora_alpha, targets)
    except ValueError as error:
        raise SyncloraError(
            f"targets {list(targets)}: no such layers in the backbone ({error}). Give ends of module names, "
            "such as attn1.to_q, or leave targets out."
        ) from error
    return _with_checkpointing(config, backbone, parameters)


def _with_checkpointing(config: TrainConfig, backbone: Backbone, parameters: list[nn.Parameter]) -> list[nn.Parameter]:
    if config.gradient_checkpointing:
        backbone.transformer.enable_gradient_checkpointing()  # type: ignore[operator]
    return parameters


def _load(config: TrainConfig) -> Backbone:
    from synclora.backbones.presets import load_backbone

    device = config.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.bfloat16 if config.precision == "bf16" else torch.float32
    return load_backbone(config.backbone, device, dtype)


def _newest(config: TrainConfig, resume: bool) -> Path | None:
    """The checkpoint to go on from, None for a fresh folder; SyncloraError where the folder holds another run."""
    output, folder = config.output, config.output / "checkpoints"
    found = checkpoints(folder)
    if not found and not (output / ADAPTER).exists():
        return None
    if not resume:
        raise SyncloraError(
            f"{output}: holds a run already. Resume it, or choose another output; nothing is overwritten."
        )
    newest = latest_checkpoint(folder)
    if newest is None:
        raise SyncloraError(
            f"{output}: holds a run, but no whole checkpoint to go on from ({len(found)} damaged). "
            "Restore one, or choose another output; nothing is overwritten."
        )
    try:
        saved = yaml.safe_load((output / "config.yaml").read_text(encoding="utf-8"))
        changed = differences(saved, config)
    except (OSError, yaml.YAMLError, AttributeError) as error:
        raise SyncloraError(
            f"{output / 'config.yaml'}: not readable, so it cannot be told whether this is the same run. "
            "Restore it, or choose another output."
        ) from error
    if changed:
        raise SyncloraError(
            f"{output}: holds a run with other settings: {'; '.join(changed)}. "
            "Set them back to resume it, or choose another output."
        )
    return newest


@contextmanager
def _only_run(output: Path) -> Iterator[None]:
    """Hold the folder's lock; the system frees it however the process ends."""
    import fcntl

    with open(output / ".lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise SyncloraError(
                f"{output}: another run is training here. Wait for it, or choose another output."
            ) from error
        yield
