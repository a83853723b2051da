"""How diffusers' image-editing pipelines are called: one row a class, for `edit --instruction` and for making pairs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

from synclora.errors import SyncloraError


@dataclass(frozen=True)
class EditCall:
    """What is particular to a pipeline class.

    Attributes:
        area: pixels of the pictures it was trained on.
        multiple: what their sides are a multiple of.
        steps: denoising steps.
        settings: further arguments: guidance, as the model's makers advise.
        guidance: the argument that is the guidance scale.
        sized: whether the size of the output is told; else it is the input's.
        sizes: the only sizes it was trained on (width, height); empty: any of that area.
        rescales: whether the class brings its input to `area` itself, whatever the output's size: of another size the
            output shows another part of the picture, larger or smaller.
        batches: whether one call takes several pictures.
        packages: what transformers needs for it and does not install.
    """

    area: int
    multiple: int
    steps: int
    settings: Mapping[str, Any] = field(default_factory=dict)
    guidance: str = "guidance_scale"
    sized: bool = True
    sizes: tuple[tuple[int, int], ...] = ()
    rescales: bool = False
    batches: bool = False
    packages: tuple[str, ...] = ()

    def size_for(self, width: int, height: int) -> tuple[int, int]:
        """The size (width, height) at which a picture of width x height pixels is edited."""
        aspect = width / height
        if self.sizes:
            return min(self.sizes, key=lambda size: abs(math.log(size[0] / size[1] / aspect)))
        ideal = math.sqrt(self.area * aspect), math.sqrt(self.area / aspect)
        wide, high = (max(1, round(side / self.multiple)) * self.multiple for side in ideal)
        return wide, high


_MEGAPIXEL = 1024 * 1024
_KONTEXT = (
    *((672, 1568), (688, 1504), (720, 1456), (752, 1392), (800, 1328), (832, 1248), (880, 1184), (944, 1104)),
    (1024, 1024),
)
_KONTEXT_SIZES = (*_KONTEXT, *((high, wide) for wide, high in _KONTEXT[:-1]))


def _qwen(steps: int) -> EditCall:
    settings = {"true_cfg_scale": 4.0, "negative_prompt": " "}  # without a negative prompt there is no guidance
    return EditCall(
        _MEGAPIXEL, 32, steps, settings, guidance="true_cfg_scale", rescales=True, packages=("torchvision",)
    )


EDIT_CALLS = {
    "QwenImageEditPipeline": _qwen(50),
    "QwenImageEditPlusPipeline": _qwen(40),
    # The pictures are brought to their size before, exactly, so the class must not choose another.
    "FluxKontextPipeline": EditCall(
        _MEGAPIXEL, 16, 28, {"guidance_scale": 2.5, "_auto_resize": False}, sizes=_KONTEXT_SIZES, batches=True
    ),
    "Flux2Pipeline": EditCall(_MEGAPIXEL, 16, 50, {"guidance_scale": 4.0}),
    "Flux2KleinPipeline": EditCall(_MEGAPIXEL, 16, 4, {"guidance_scale": 1.0}),
    "StableDiffusionInstructPix2PixPipeline": EditCall(
        512 * 512, 8, 100, {"guidance_scale": 7.5, "image_guidance_scale": 1.5}, sized=False
    ),
}


def edit_call(pipeline: str, index: Mapping[str, Any]) -> EditCall | None:
    """How a class is called, or None where it is not known to edit pictures.

    index: the model's model_index.json, which tells FLUX.2 [klein] that is not distilled, sampled as FLUX.2 [dev] is.
    """
    if pipeline == "Flux2KleinPipeline" and not index.get("is_distilled"):
        pipeline = "Flux2Pipeline"
    return EDIT_CALLS.get(pipeline)


def require(packages: tuple[str, ...], pipeline: str) -> None:
    """SyncloraError where a package that a class needs is not installed."""
    for package in packages:
        if find_spec(package) is None:
            raise SyncloraError(
                f"{pipeline} needs the package {package}, which is not installed. Install it with: pip install"
                f" {package}"
            )
