"""One window of an edit: source frames in, edited frames out.

This is the method at inference: encode the source, put it beside the edited image and noise, denoise, decode. The first
window begins with the edited image. A later one is shown the edited image with its own source frame once more, just
before its start, so that look and colour do not drift from window to window, and begins with what the window before it
made, unless the adapter was trained for few steps. Of several edited images the nearest one before the window is shown;
those inside it stand at their own frames.

With an upsampler there are two stages: the edit at the model's own size, which is half of the output's; its latents
upsampled; and a short second run at the output's size from part of the noise. Adapter, reference and edited images are
in both: a second stage that does not see the source lets the motion drift.

docs/editing.md tells what each of these is worth.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from synclora.backbones.base import Attention, Backbone, Text
from synclora.clip import Crop, apply_crop, from_model, to_model
from synclora.diffusion.flow import add_noise, sample_loop, sigma_schedule
from synclora.diffusion.guidance import Guidance, guided
from synclora.diffusion.sequence import (
    Anchor,
    Condition,
    Continuation,
    FirstFrame,
    Grid,
    Keyframe,
    Reference,
    Sequence,
    build,
    patchify,
)
from synclora.editing.adapter import Adapter
from synclora.editing.frames import pad_frames
from synclora.editing.guards import finite
from synclora.editing.stages import Stages

# Noise levels of the second stage for bases that are not distilled: the last 4 of 10 steps of LTX-Video's schedule, as
# diffusers documents it for its upsampler. Those of distilled bases are in `synclora.adapters.rules`.
REFINE_SIGMAS = (0.932, 0.813, 0.618, 0.347, 0.0)


@dataclass
class Sampler:
    """Makes the windows of one edit, in order.

    Attributes:
        backbone, adapter: the model and its LoRA (None: it does not see the source).
        images: the edited images by the number of their frame, 0 among them; uint8 [H, W, 3] of the output's size.
        prompt, steps, attention: of the denoising.
        fps: frames a second of the clip.
        generator: of the noise; drawn from once a window and stage.
        guidance, sigmas: what the adapter asks for; sigmas are the steps' own noise levels where those are fixed.
        upsample: latents to latents of twice the rows and columns; the output is then twice the model's size each way.
        refine: noise levels of the stage after it.
        references: latents of the source's last window by its start and how many times smaller; samplers that make the
            same windows share them.
    """

    backbone: Backbone
    adapter: Adapter | None
    images: Mapping[int, Tensor]
    prompt: str
    steps: int
    attention: Attention
    fps: float
    generator: torch.Generator
    stages: Stages
    guidance: Guidance = field(default_factory=Guidance)
    sigmas: tuple[float, ...] | None = None
    upsample: Callable[[Tensor], Tensor] | None = None
    refine: tuple[float, ...] = REFINE_SIGMAS
    references: dict[tuple[int, int], Tensor] = field(default_factory=dict)
    _texts: tuple[Text, Text | None] | None = None
    _edited: dict[tuple[int, int], Tensor] = field(default_factory=dict)  # latents of the edited images, by size
    _source: dict[int, Tensor] = field(default_factory=dict)  # the source's frames under those already passed

    @torch.inference_mode()
    def read_prompt(self) -> None:
        """Embed the prompt: before all else, so that a text encoder can make room for the other parts."""
        self.stages.begin("Reading the prompt")
        embed = self.backbone.embed
        self._texts = embed([self.prompt]), embed([""]) if self.guidance.cfg != 1 else None
        self.stages.end()

    @torch.inference_mode()
    def make(self, window: Tensor, start: int, context: Tensor | None) -> Tensor:
        """The edit of one window.

        Args:
            window: uint8 [n, H, W, 3] of the source at the output's size, n at most the model's window.
            start: the number of its first frame.
            context: its first frames as they were made already, uint8 [m, H, W, 3]; None for the clip's first window.

        Returns:
            uint8 [n, H, W, 3].

        Raises:
            SyncloraError: the weights give numbers that are not finite.
        """
        backbone, geometry = self.backbone, self.backbone.geometry
        if self._texts is None:
            self.read_prompt()
        source = pad_frames(window, geometry.fit_up(len(window)))
        grid = geometry.latent_grid(len(source))
        steps = self.sigmas or tuple(sigma_schedule(self.steps, math.prod(grid)).tolist())
        if self.upsample is None:
            latents = self._denoise("Denoising", None, grid, self._conditions(source, start, context, 1), steps)
        else:
            latents = self._denoise("Denoising", None, grid, self._conditions(source, start, context, 2), steps)
            self.stages.begin("Upsampling")
            latents = finite(self.upsample(latents), "upsampling", backbone)
            grid = grid[0], 2 * grid[1], 2 * grid[2]
            conditions = self._conditions(source, start, context, 1)
            latents = self._denoise("Refining", latents, grid, conditions, self.refine)

        self.stages.begin("Decoding")
        video = finite(backbone.decode(latents), "decoding", backbone)
        self.stages.end()
        return from_model(video)[: len(window)]

    def _denoise(
        self, stage: str, begin: Tensor | None, grid: Grid, conditions: list[Condition], sigmas: tuple[float, ...]
    ) -> Tensor:
        """One stage: latents `begin` (None: anything) at the first noise level, walked down to 0; `[1, C, f, h, w]`."""
        backbone, geometry = self.backbone, self.backbone.geometry
        self.stages.begin(stage, len(sigmas) - 1)
        noise = self._noise(grid).to(backbone.device)
        clean = build(
            noise if begin is None else begin,
            self.fps,
            conditions,
            spatial=geometry.spatial,
            temporal=geometry.temporal,
        )
        sequence = add_noise(clean, patchify(noise), sigmas[0])
        text, negative = self._texts or (None, None)
        network = guided(backbone, sequence, text, self.guidance, negative, attention=self.attention)

        def velocity(sequence: Sequence, sigma: float) -> Tensor:
            return finite(network(sequence, sigma), stage.lower(), backbone)

        return sample_loop(velocity, sequence, torch.tensor(sigmas), self.stages.step).target_latents()

    def _noise(self, grid: Grid) -> Tensor:
        return torch.randn(1, self.backbone.geometry.channels, *grid, generator=self.generator)

    def _conditions(self, source: Tensor, start: int, context: Tensor | None, smaller: int = 1) -> list[Condition]:
        """What is known of a window, all of it `smaller` times smaller each way than the output."""
        geometry = self.backbone.geometry
        conditions: list[Condition] = []
        self.stages.begin("Encoding the source")
        if self.adapter is not None:
            conditions.append(Reference(self._reference(source, start, smaller), self.adapter.downscale))
        self.stages.begin("Encoding the edited frames")
        if context is None:
            conditions.append(FirstFrame(self._encode_image(0, smaller)))
        else:
            if len(context) and self._carries_over:
                known = _shrink(context[: geometry.fit_down(len(context))], smaller)
                conditions.append(Continuation(self._encode(known, "encoding what is already made")))
            conditions.append(self._anchor(start, smaller))
        for index in self.images:
            if 0 < index - start < len(source):
                conditions.append(Keyframe(self._encode_image(index, smaller), index - start))
            if 0 <= index - start < len(source):
                self._source[index] = source[index - start].clone()  # a view would hold the whole window
        return conditions

    @property
    def _carries_over(self) -> bool:
        """Whether a window is shown what the one before made. An adapter trained for few steps does better without: it
        reads the motion off the source, and copies what it is given, faults and all (docs/editing.md)."""
        return self.adapter is None or self.adapter.rules.steps is None

    def _anchor(self, start: int, smaller: int) -> Anchor:
        """The nearest edited image before the window; as far before it as latent frames lie apart, however long ago."""
        geometry = self.backbone.geometry
        nearest = max(index for index in self.images if index <= start and index in self._source)
        before = min(max(start - nearest, 1), geometry.temporal)
        image = self._encode_image(nearest, smaller)
        if self.adapter is None:
            return Anchor(image, None, before)
        source = self._encode_source(self._source[nearest][None], smaller)
        return Anchor(image, source, before, self.adapter.downscale)

    def _reference(self, source: Tensor, start: int, smaller: int) -> Tensor:
        if (start, smaller) not in self.references:
            for known in [key for key in self.references if key[0] != start]:
                del self.references[known]
            self.references[start, smaller] = self._encode_source(source, smaller)
        return self.references[start, smaller]

    def _encode_source(self, frames: Tensor, smaller: int) -> Tensor:
        factor = self.adapter.downscale if self.adapter else 1
        return self._encode(_shrink(frames, smaller * factor), "encoding the source")

    def _encode_image(self, index: int, smaller: int) -> Tensor:
        if (index, smaller) not in self._edited:
            doing = "encoding the first frame" if index == 0 else f"encoding the edited frame {index}"
            self._edited[index, smaller] = self._encode(_shrink(self.images[index][None], smaller), doing)
        return self._edited[index, smaller]

    def _encode(self, frames: Tensor, doing: str) -> Tensor:
        return finite(self.backbone.encode(to_model(frames)), doing, self.backbone)


def _shrink(frames: Tensor, factor: int) -> Tensor:
    """The frames `factor` times smaller each way."""
    if factor == 1:
        return frames
    height, width = frames.shape[1:3]
    return apply_crop(frames, Crop(0, 0, width, height, width // factor, height // factor))
