"""How diffusers' pipelines are called: one row a class, and the one function that builds the arguments.

Any text-to-image class will do, as their arguments have the same names. Image-to-video classes differ, so those known
to work are listed; a class of another name is one row more here. Editing classes are in `synclora.editing.pipelines`.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from synclora.editing.pipelines import EDIT_CALLS, EditCall, edit_call
from synclora.errors import SyncloraError

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

    from synclora.pairs.splitscreen.config import StageConfig

Role = Literal["portrait", "edit", "video"]

NEGATIVE = (
    "blurred, distorted face, extra fingers, subtitles, text, watermark, logo, still picture, jumping camera, cut,"
    " zoom, the two halves moving differently, one half frozen"
)


@dataclass(frozen=True)
class Call:
    """What is particular to a class.

    Attributes:
        defaults: arguments where the configuration gives none; what is not here either is the class's own default.
        guidance: the argument that `guidance` of the configuration means.
        batches: whether one call takes several items.
        multiple: what the sides of a picture must be a multiple of, px.
        rate: frames a second that a model without the argument `frame_rate` was made for.
        exact: components kept in float32.
        packages: what diffusers or transformers need for it and do not install.
        editing: of a class that edits: its own row.
    """

    defaults: dict[str, Any] = field(default_factory=dict)
    guidance: str = "guidance_scale"
    batches: bool = False
    multiple: int = 16
    rate: float | None = None
    exact: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()
    editing: EditCall | None = None


def _editing(call: EditCall) -> Call:
    defaults = {"num_inference_steps": call.steps, **call.settings}
    return Call(defaults, call.guidance, call.batches, call.multiple, packages=call.packages, editing=call)


_QWEN: dict[str, Any] = {"true_cfg_scale": 4.0, "negative_prompt": " "}
_LTX: dict[str, Any] = {
    "negative_prompt": NEGATIVE,
    "decode_timestep": 0.05,  # of the VAEs that finish the last step themselves; the others ignore both
    "decode_noise_scale": 0.025,
}
_WAN = {"negative_prompt": NEGATIVE, "num_inference_steps": 40, "guidance_scale": 3.5}

CALLS: dict[Role, dict[str, Call]] = {
    "portrait": {
        "QwenImagePipeline": Call(_QWEN, "true_cfg_scale", batches=True),
        "StableDiffusionPipeline": Call({"negative_prompt": "drawing, deformed, blurred"}, batches=True, multiple=8),
        "ZImagePipeline": Call({"num_inference_steps": 9, "guidance_scale": 0.0}, batches=True),
    },
    "edit": {name: _editing(call) for name, call in EDIT_CALLS.items()},
    "video": {
        "WanImageToVideoPipeline": Call(_WAN, rate=16.0, exact=("vae",), packages=("ftfy",)),
        "LTXImageToVideoPipeline": Call(_LTX, batches=True, multiple=32),
        "LTXConditionPipeline": Call(_LTX | {"image_cond_noise_scale": 0.0}, multiple=32),
        "LTX2ImageToVideoPipeline": Call({"negative_prompt": NEGATIVE}, multiple=32),
    },
}
# What a model's index names, and the class of the same family that does what is needed here.
SIBLINGS: dict[Role, dict[str, str]] = {
    "portrait": {},
    "edit": {},
    "video": {
        "WanPipeline": "WanImageToVideoPipeline",
        "LTXPipeline": "LTXImageToVideoPipeline",
        "LTX2Pipeline": "LTX2ImageToVideoPipeline",
        "LTX2ConditionPipeline": "LTX2ImageToVideoPipeline",
    },
}
_WAN_5B = replace(
    CALLS["video"]["WanImageToVideoPipeline"],
    defaults=_WAN | {"num_inference_steps": 50, "guidance_scale": 5.0},
    multiple=32,
    rate=24.0,
)


def call_of(role: Role, pipeline: type, index: dict[str, Any], where: str) -> Call:
    """How a class is called for a role.

    index: the model's model_index.json, which tells a family's variants apart (Wan 2.2's small model, distilled ones).

    Raises:
        SyncloraError: a class that cannot do it.
    """
    name = pipeline.__name__
    if name == "WanImageToVideoPipeline" and index.get("expand_timesteps"):
        return _WAN_5B
    if role == "edit" and (call := edit_call(name, index)) is not None:
        return _editing(call)
    if name in CALLS[role]:
        return CALLS[role][name]
    known = ", ".join(CALLS[role])
    if role != "portrait":
        raise SyncloraError(f"{where}: the class {name} is not known for `{role}`; known are {known}.")
    needed = {"prompt", "height", "width", "num_inference_steps", "generator", "output_type"}
    parameters = inspect.signature(pipeline.__call__).parameters
    must = [n for n, p in parameters.items() if p.default is p.empty and n not in ("self", "prompt", "kwargs", "args")]
    if needed - set(parameters) or must or "num_frames" in parameters:
        raise SyncloraError(f"{where}: the class {name} makes no picture from words alone; known to do so are {known}.")
    return Call(batches=True)


def settings_of(call: Call, pipeline: type, settings: StageConfig, where: str) -> dict[str, Any]:
    """The arguments that the configuration decides, defaults filled in.

    Raises:
        SyncloraError: one that the class does not take, or that is not the configuration's to give.
    """
    parameters = inspect.signature(pipeline.__call__).parameters
    asked = {
        "num_inference_steps": settings.steps,
        call.guidance: settings.guidance,
        "negative_prompt": settings.negative,
    }
    given = {name: value for name, value in asked.items() if value is not None}
    for name in (*given, *settings.options):
        if name not in parameters or name in _OURS:
            possible = ", ".join(sorted(set(parameters) - _OURS - {"self"}))
            raise SyncloraError(
                f"{where}: {pipeline.__name__} takes no setting {name!r} from the configuration. Possible are"
                f" {possible}."
            )
    chosen = call.defaults | settings.options | given
    for name in ("num_inference_steps", call.guidance):  # so that the record says what the class's default was
        if name in parameters and parameters[name].default is not inspect.Parameter.empty:
            chosen.setdefault(name, parameters[name].default)
    return {name: value for name, value in chosen.items() if name in parameters}


_OURS = {
    "prompt", "image", "images", "height", "width", "num_frames", "frame_rate", "generator", "output_type",
    "return_dict", "num_images_per_prompt", "num_videos_per_prompt", "max_area",
}  # fmt: skip


@dataclass(frozen=True)
class Request:
    """What is asked for in one call.

    Attributes:
        prompts: one a item.
        width, height: px.
        seeds: of the noise, one a item.
        images: one a item, for what starts from a picture.
        frames, fps: of a video.
    """

    prompts: Sequence[str]
    width: int
    height: int
    seeds: Sequence[int]
    images: Sequence[Image] = ()
    frames: int | None = None
    fps: float | None = None


def arguments(call: Call, pipeline: type, chosen: dict[str, Any], request: Request) -> dict[str, Any]:
    """The keyword arguments of the call.

    Noise is drawn on the CPU from each item's own seed, so that it is the same on every device and in every batch.
    """
    parameters = inspect.signature(pipeline.__call__).parameters
    generators = [_generator(seed) for seed in request.seeds]
    count = len(request.prompts)
    many = call.batches and count > 1
    made: dict[str, Any] = dict(chosen)
    made |= {"prompt": list(request.prompts) if many else request.prompts[0]}
    made |= {"generator": generators if many else generators[0]}
    made |= {"output_type": "np" if request.frames else "pil"}
    made |= {name: px for name, px in (("width", request.width), ("height", request.height)) if name in parameters}
    if many and isinstance(made.get("negative_prompt"), str):
        made["negative_prompt"] = [made["negative_prompt"]] * count
    if request.images:
        made["image"] = list(request.images) if many else request.images[0]
    if request.frames:
        made["num_frames"] = request.frames
        if "frame_rate" in parameters:
            made["frame_rate"] = request.fps
    if "max_area" in parameters:
        made["max_area"] = request.width * request.height
    return made


def _generator(seed: int) -> torch.Generator:
    import torch

    return torch.Generator("cpu").manual_seed(seed)
