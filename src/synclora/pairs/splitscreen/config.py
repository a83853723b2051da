"""What a split-screen run is told, from YAML; every field has one line that says what it does and its unit.

    width: 512
    height: 512
    portrait: {model: black-forest-labs/FLUX.1-dev}
    edit: {model: Qwen/Qwen-Image-Edit-2509}
    video: {model: Wan-AI/Wan2.2-I2V-A14B-Diffusers}

Unknown fields and impossible values are refused before anything is loaded.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from synclora.errors import SyncloraError
from synclora.pairs.splitscreen.align import Limits


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class StageConfig(_Model):
    """A pipeline and how it is run; what is left out takes the default of its class (`calls.py`)."""

    model: str = Field(min_length=1, description="hub id, or a folder of diffusers' layout")
    revision: str | None = Field(default=None, description="branch, tag or commit of a hub id; none: its main branch")
    pipeline: str | None = Field(default=None, description="diffusers' class; none: read from model_index.json")
    steps: int | None = Field(default=None, ge=1, le=1000, description="denoising steps")
    guidance: float | None = Field(default=None, ge=0, description="guidance scale")
    negative: str | None = Field(default=None, max_length=4000, description="negative prompt")
    options: dict[str, Any] = Field(
        default={}, description="further arguments of the pipeline's call, as it names them"
    )
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = Field(
        default="auto", description="of the weights; auto: bfloat16 where the device multiplies it, else float32"
    )
    # Where it runs: these change nothing in what is made but the last bits.
    device: str = Field(default="auto", description="auto, cpu, cuda, cuda:1, ...")
    offload: Literal["none", "model", "sequential"] = Field(
        default="none", description="keep the weights in host memory: by model, or layer by layer (slow, least memory)"
    )
    batch: int = Field(default=1, ge=1, le=256, description="items in one call, where the pipeline takes several")
    workers: int = Field(default=1, ge=1, le=1024, description="Ray actors of this stage")
    gpus: float = Field(default=1.0, ge=0, le=16, description="GPUs of each Ray actor; parts share one")


class ImageConfig(StageConfig):
    """A pipeline that makes pictures."""

    width: int = Field(default=1024, ge=32, le=4096, description="of the picture, px")
    height: int = Field(default=1024, ge=32, le=4096, description="of the picture, px")


class VideoConfig(StageConfig):
    """A pipeline that animates a picture."""

    fps: float | None = Field(
        default=None,
        gt=1,
        le=120,
        description="frame rate; for models without that argument, the rate they were made for",
    )


class SeamConfig(_Model):
    """What the bar between the halves must not do; a limit of null is not applied."""

    shift: float | None = Field(default=1.5, ge=0, description="most px by which an edge of the bar may be off")
    leak: float | None = Field(default=0.08, ge=0, le=1, description="most of the picture that shows in the bar")
    shortest: int | None = Field(
        default=None,
        ge=9,
        description="a clip is cut before its first bad frame if so many are left; none: all of them",
    )


class SplitScreenConfig(_Model):
    """A split-screen run."""

    portrait: ImageConfig = Field(description="makes the portrait from words")
    edit: StageConfig = Field(description="makes the edited portrait from the portrait and an instruction")
    video: VideoConfig = Field(description="animates both, side by side")
    width: int = Field(default=512, ge=32, le=2048, description="of each clip of a pair, px; even")
    height: int = Field(default=512, ge=32, le=2048, description="of each clip of a pair, px; even")
    frames: int = Field(default=81, ge=9, le=1001, description="of each clip, 8k+1")
    trim: int = Field(default=16, ge=0, le=256, description="px that are made and cut off again around each half")
    gutter: int = Field(
        default=32, ge=0, le=256, description="least width of the bar, px; even; grows to fit the video model"
    )
    caption: str = Field(
        default="{caption}", max_length=1000, description="the pairs' prompt; {caption} is the edited look in words"
    )
    align: Limits = Field(default=Limits(), description="laying the edited portrait onto the portrait")
    seam: SeamConfig = Field(default=SeamConfig(), description="judging the bar")

    @field_validator("frames")
    @classmethod
    def _packed(cls, frames: int) -> int:
        if frames % 8 != 1:
            raise ValueError(f"{frames} frames; a pair needs 8k+1, e.g. {frames // 8 * 8 + 1}")
        return frames

    @field_validator("width", "height", "gutter")
    @classmethod
    def _even(cls, px: int) -> int:
        if px % 2:
            raise ValueError(f"{px} px; video is stored with even sizes, e.g. {px + 1}")
        return px


def load_config(path: Path | str) -> SplitScreenConfig:
    """Read a configuration.

    Raises:
        SyncloraError: no readable YAML, or a field that is unknown, missing or impossible, by name.
    """
    path = Path(path)
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise SyncloraError(f"{path}: needs fields such as `width: 512`; recipes/pairs has an example.")
        return SplitScreenConfig.model_validate(content)
    except OSError as error:
        raise SyncloraError(f"{path}: cannot be read ({error.strerror}). Give a YAML file with --config.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SyncloraError(f"{path}: no YAML ({str(error).splitlines()[0]}).") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise SyncloraError(f"{path}: {where}: {first['msg'].removeprefix('Value error, ')}.") from error


def deciding(config: SplitScreenConfig) -> dict[str, Any]:
    """The settings that decide what is made, as JSON; those of where it runs are left out."""
    free = {"device", "offload", "batch", "workers", "gpus"}
    told = config.model_dump(mode="json")
    return {
        name: {k: v for k, v in value.items() if k not in free} if isinstance(value, dict) else value
        for name, value in told.items()
    }
