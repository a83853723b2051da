"""What a training run is told, from YAML; every field has one line that says what it does and its unit.

    backbone: nano
    output: runs/sync
    data: {procedural: {motions: 1500, looks: 3, seed: 0}}
    steps: 2000

Unknown fields and impossible values are refused before anything is loaded. The resolved configuration (defaults filled
in) is saved as `OUTPUT/config.yaml`, and a resume is checked against it.
"""

from __future__ import annotations

import difflib
import hashlib
import json
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from synclora.atomic import write_text
from synclora.errors import SyncloraError
from synclora.training.mix import DRAWN_ONLY, Mix

VALIDATION_SEED_START = 900_000  # procedural motions from here up to the test seeds are kept for validation

# Fields that change nothing in the adapter's numbers (or, for paths, are compared by the content behind them).
FREE = {
    "output", "backbone", "data.cache", "data.pairs", "data.procedural.pool", "checkpoint_every", "keep",
    "validate_every", "sample_every", "samples", "log_every", "gradient_checkpointing", "threads", "device",
    "sharding", "offload", "push_to_hub",
}  # fmt: skip

# What one step learns from is their product with the number of processes, which a resume is held to instead.
STEP_FIELDS = {"batch", "accumulation"}


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Procedural(_Model):
    """Drawn portraits: `motions` motions in `looks` looks each; every ordered pair of looks of a motion is a pair."""

    motions: int = Field(default=1500, ge=1, description="number of motions, each with its own portrait seed")
    looks: int = Field(
        default=3, ge=2, description="looks each motion is drawn in; gives looks * (looks - 1) pairs a motion"
    )
    seed: int = Field(default=0, ge=0, description="portrait seed of the first motion; the others follow on")
    pool: Path | None = Field(
        default=None, description="folder of rendered clips to share between runs; none: keep only latents"
    )
    mix: Mix = Field(default=DRAWN_ONLY, description="shares of the motions that are drawn, worn and warped; sum 1")

    @model_serializer(mode="wrap")
    def _without_the_default_mix(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Runs and caches made before there was a mix stay valid: the default is not written."""
        values = serialize(self)
        if self.mix == DRAWN_ONLY:
            values.pop("mix", None)
        return values

    @model_validator(mode="after")
    def _below_validation(self) -> Procedural:
        if self.seed + self.motions > VALIDATION_SEED_START:
            raise ValueError(
                f"seed + motions is {self.seed + self.motions}; at most {VALIDATION_SEED_START}, "
                "as later seeds are kept for validation and tests"
            )
        return self


class Bucket(_Model):
    """A size that clips are trained at: pixels, a multiple of the backbone's 32, and frames, 8k+1."""

    width: int = Field(ge=1, description="pixels")
    height: int = Field(ge=1, description="pixels")
    frames: int = Field(ge=1, description="frames, 8k+1")

    def __str__(self) -> str:
        return f"{self.width}x{self.height}x{self.frames}"


class Data(_Model):
    """What to learn from: exactly one of `pairs` and `procedural`."""

    pairs: Path | None = Field(default=None, description="folder of a pair store")
    procedural: Procedural | None = Field(default=None, description="drawn portraits, rendered straight into the cache")
    validation: int = Field(
        default=8, ge=1, description="held-out pairs (of a store) or motions (drawn); never trained on"
    )
    frames: int | None = Field(
        default=None, ge=1, description="frames of each training clip, 8k+1; none: the backbone's window"
    )
    buckets: list[Bucket] | None = Field(
        default=None,
        min_length=1,
        description="sizes to train at, each pair at the nearest (aspect ratio, length); none: the backbone's",
    )
    cache: Path | None = Field(default=None, description="folder for encoded clips and prompts; none: OUTPUT/cache")

    @model_validator(mode="after")
    def _one_source(self) -> Data:
        if (self.pairs is None) == (self.procedural is None):
            raise ValueError("needs exactly one of pairs: FOLDER and procedural: {motions, looks, seed}")
        if self.buckets is not None and (self.pairs is None or self.frames is not None):
            raise ValueError(
                "buckets go with pairs: FOLDER, and each has its own frames; leave procedural and frames out"
            )
        return self


class TrainConfig(_Model):
    """A LoRA training run."""

    backbone: str = Field(default="nano", description="name of a shipped backbone, a folder or a hub id; stays frozen")
    output: Path = Field(description="folder of this run: adapter, checkpoints, logs, samples, cache")
    data: Data = Field(description="what to learn from")
    attention: Literal["self", "joint"] = Field(
        default="self", description="who reads the source: self (fast) or joint"
    )
    rank: int = Field(default=64, ge=1, description="rank of the LoRA matrices")
    alpha: float | None = Field(default=None, gt=0, description="LoRA scale times rank; none: equal to rank (scale 1)")
    targets: list[str] | None = Field(
        default=None, description="names of the layers that get a LoRA; none: attention and ff"
    )
    start: Path | None = Field(
        default=None,
        description="LoRA file whose weights to train further, instead of new ones; its rank must be `rank`",
    )
    steps: int = Field(default=2000, ge=1, description="optimizer steps")
    batch: int = Field(default=16, ge=1, description="pairs in one forward pass of one process")
    accumulation: int = Field(default=1, ge=1, description="forward passes of each process that make one step")
    optimizer: Literal["adamw", "adamw8bit"] = Field(
        default="adamw", description="adamw8bit: moments in 8 bits, a quarter of the memory (torchao)"
    )
    lr: float = Field(default=2e-4, gt=0, description="highest learning rate (AdamW), reached after warmup")
    warmup: int = Field(
        default=100, ge=0, description="steps over which the learning rate rises; then half a cosine down to 0"
    )
    weight_decay: float = Field(default=0.0, ge=0, description="AdamW weight decay")
    grad_clip: float = Field(
        default=1.0, gt=0, description="largest allowed norm of the gradient of all LoRA weights together"
    )
    ema: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="decay of a moving average of the LoRA weights, which is validated and written instead of them",
    )
    caption_dropout: float = Field(
        default=0.1, ge=0, le=1, description="probability of replacing a prompt by the empty one"
    )
    sampling_steps: int | None = Field(
        default=None,
        ge=1,
        description="train for editing in so many steps: at the noise levels those visit and no others; none: at all",
    )
    later_windows: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="share of the steps that are of a later window of a long clip; clips of 4 latent frames or more",
    )
    changed_weight: float = Field(
        default=1.0,
        ge=1,
        description="what a token in which target and source differ counts at most; one in which they agree counts 1",
    )
    pixel_weighted: bool = Field(
        default=False, description="let errors in each latent channel count as much as they show in pixels"
    )
    seed: int = Field(default=0, ge=0, description="seed of initial weights, data order, noise levels and noise")
    device: Literal["auto", "cpu", "cuda"] = Field(
        default="auto", description="where to train; auto: cuda if there is one"
    )
    precision: Literal["bf16", "fp32"] = Field(default="bf16", description="of the frozen base; LoRA weights stay fp32")
    quantize: Literal["none", "int8", "fp8"] = Field(
        default="none", description="weights of the frozen base in 8 bits: half the memory of bf16 (torchao)"
    )
    sharding: Literal["none", "full"] = Field(
        default="none",
        description="the frozen base over several processes; none: a copy in each; full: cut up among them (FSDP2)",
    )
    offload: bool = Field(
        default=False, description="keep the frozen base in CPU memory and bring each layer to the GPU when it is used"
    )
    gradient_checkpointing: bool = Field(
        default=False, description="recompute activations in backward: less memory, 1/3 slower"
    )
    threads: int | None = Field(default=None, ge=1, description="CPU threads; none: torch's choice")
    checkpoint_every: int = Field(
        default=100, ge=1, description="steps between checkpoints: the most work a kill can cost"
    )
    keep: int = Field(default=2, ge=1, description="newest checkpoints to keep")
    validate_every: int = Field(default=200, ge=1, description="steps between held-out losses")
    sample_every: int = Field(default=500, ge=1, description="steps between sample edits")
    samples: int = Field(default=3, ge=0, description="held-out pairs edited for the sample strips; 0: none")
    log_every: int = Field(default=10, ge=1, description="steps between log lines")
    push_to_hub: str | None = Field(
        default=None, description="hub id, such as me/my-lora, to push the finished adapter and its card to"
    )

    @model_validator(mode="after")
    def _start_brings_its_own(self) -> TrainConfig:
        if self.start is not None and (self.alpha is not None or self.targets is not None):
            raise ValueError("start goes on with the file's own layers and scale; leave alpha and targets out")
        return self

    @property
    def lora_alpha(self) -> float:
        """alpha, or the rank where none is given."""
        return self.rank if self.alpha is None else self.alpha

    def resolved(self) -> dict[str, Any]:
        """All fields as plain YAML/JSON values."""
        return self.model_dump(mode="json")

    def digest(self) -> str:
        """A short sha256 of the fields that decide the adapter's numbers."""
        values = {name: value for name, value in flatten(self.resolved()).items() if name not in FREE}
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]

    def save(self, path: Path | str) -> None:
        """Write the resolved configuration as YAML, atomically."""
        write_text(path, yaml.safe_dump(self.resolved(), sort_keys=False))


def load_config(path: Path | str) -> TrainConfig:
    """Read a configuration.

    Raises:
        SyncloraError: no such file, not YAML, an unknown field or a value out of range; names the field, the value
            found and what is allowed.
    """
    path = Path(path)
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SyncloraError(
            f"{path}: cannot be read ({error.strerror}). A YAML training configuration is needed."
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SyncloraError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise SyncloraError(f"{path}: holds {type(values).__name__}, needs fields such as `output: runs/sync`.")
    return parse_config(values, str(path))


def parse_config(values: dict[str, Any], origin: str = "configuration") -> TrainConfig:
    """Check plain values; `origin` is what errors call them. Raises SyncloraError as `load_config` does."""
    try:
        return TrainConfig.model_validate(values)
    except ValidationError as error:
        problems = "; ".join(_problem(item) for item in error.errors())
        raise SyncloraError(f"{origin}: {problems}. Correct it and run again.") from error


def differences(saved: dict[str, Any], config: TrainConfig) -> list[str]:
    """Fields in which a saved resolved configuration differs from this one in what decides the adapter's numbers."""
    known = {name: field.default for name, field in TrainConfig.model_fields.items() if not field.is_required()}
    old, new = known | flatten(saved), flatten(config.resolved())  # a run may be older than a field
    free = FREE | STEP_FIELDS
    names = [name for name in sorted(old.keys() | new.keys()) if name not in free and old.get(name) != new.get(name)]
    return [f"{name} (was {_show(old.get(name))}, now {_show(new.get(name))})" for name in names]


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested fields as one level of dotted names."""
    result: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            result |= flatten(value, f"{prefix}{name}.")
        else:
            result[prefix + name] = value
    return result


def _show(value: Any) -> str:
    return "unset" if value is None else repr(value)


def _problem(item: Any) -> str:
    """One pydantic error in words: field, value found, what is allowed."""
    place, kind, found, context = item["loc"], item["type"], item["input"], item.get("ctx", {})
    field = ".".join(str(part) for part in place) or "the whole"
    if kind == "extra_forbidden":
        allowed = list(_model_at(place[:-1]).model_fields)
        close = difflib.get_close_matches(str(place[-1]), allowed, n=1)
        hint = f" (did you mean {close[0]}?)" if close else ""
        return f"unknown field {field}{hint}; allowed here: {', '.join(allowed)}"
    if kind == "missing":
        return f"{field} is missing: {_model_at(place[:-1]).model_fields[str(place[-1])].description}"
    if kind == "literal_error":
        return f"{field} is {found!r}; allowed: {context['expected']}"
    if kind == "value_error":
        return f"{field}: {context['error']}" if place else str(context["error"])
    return f"{field} is {found!r}; {item['msg'][0].lower()}{item['msg'][1:]}"


def _model_at(place: tuple[Any, ...]) -> type[BaseModel]:
    model: type[BaseModel] = TrainConfig
    for name in place:
        model = {"data": Data, "procedural": Procedural, "mix": Mix}.get(str(name), model)
    return model
