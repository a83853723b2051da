"""One window of an edit: source frames in, edited frames out.

This is the method at inference: encode the source, put it beside the edited image and noise, denoise, decode. The first
window begins with the edited image. A later one begins with what the window before it made, and is shown the edited
image with its own source frame once more, just before its start, so that look and colour do not drift from window to
window. Of several edited images the nearest one before the window is shown; those inside it stand at their own frames.

docs/editing.md tells what each of these is worth.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from synclora.backbones.base import Attention, Backbone, Text
from synclora.clip import Crop, apply_crop, from_model, to_model
from synclora.diffusion.flow import sample_loop, sigma_schedule
from synclora.diffusion.guidance import Guidance, guided
from synclora.diffusion.sequence import (
    Anchor,
    Condition,
    Continuation,
    FirstFrame,
    Keyframe,
    Reference,
    Sequence,
    build,
)
from synclora.editing.adapter import Adapter
from synclora.editing.frames import pad_frames
from synclora.editing.guards import finite
from synclora.editing.stages import Stages


@dataclass
class Sampler:
    """Makes the windows of one edit, in order.

    Attributes:
        backbone, adapter: the model and its LoRA (None: it does not see the source).
        images: the edited images by the number of their frame, 0 among them; uint8 [H, W, 3] of the model's size.
        prompt, steps, attention: of the denoising.
        fps: frames a second of the clip.
        generator: of the noise; drawn from once a window.
        guidance, sigmas: what the adapter asks for; sigmas are the steps' own noise levels where those are fixed.
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
    _text: Text | None = None
    _edited: dict[int, Tensor] = field(default_factory=dict)  # latents of the edited images
    _source: dict[int, Tensor] = field(default_factory=dict)  # the source's frames under those already passed

    @torch.inference_mode()
    def make(self, window: Tensor, start: int, context: Tensor | None) -> Tensor:
        """The edit of one window.

        Args:
            window: uint8 [n, H, W, 3] of the source at the model's size, n at most the model's window.
            start: the number of its first frame.
            context: its first frames as they were made already, uint8 [m, H, W, 3]; None for the clip's first window.

        Returns:
            uint8 [n, H, W, 3].

        Raises:
            SyncloraError: the weights give numbers that are not finite.
        """
        backbone, geometry = self.backbone, self.backbone.geometry
        source = pad_frames(window, geometry.fit_up(len(window)))
        noise = torch.randn(1, geometry.channels, *geometry.latent_grid(len(source)), generator=self.generator)
        conditions = self._conditions(source, start, context)
        if self._text is None:
            self._text = backbone.embed([self.prompt])
        text = self._text

        self.stages.begin("Denoising", self.steps)
        sequence = build(
            noise.to(backbone.device), self.fps, conditions, spatial=geometry.spatial, temporal=geometry.temporal
        )
        negative = backbone.embed([""]) if self.guidance.cfg != 1 else None
        network = guided(backbone, sequence, text, self.guidance, negative, attention=self.attention)

        def velocity(sequence: Sequence, sigma: float) -> Tensor:
            return finite(network(sequence, sigma), "denoising", backbone)

        levels = sigma_schedule(self.steps, sequence.num_target) if self.sigmas is None else torch.tensor(self.sigmas)
        sequence = sample_loop(velocity, sequence, levels, self.stages.step)

        self.stages.begin("Decoding")
        video = finite(backbone.decode(sequence.target_latents()), "decoding", backbone)
        self.stages.end()
        return from_model(video)[: len(window)]

    def _conditions(self, source: Tensor, start: int, context: Tensor | None) -> list[Condition]:
        geometry = self.backbone.geometry
        conditions: list[Condition] = []
        self.stages.begin("Encoding the source")
        if self.adapter is not None:
            conditions.append(Reference(self._encode_source(source), self.adapter.downscale))
        self.stages.begin("Encoding the edited frames")
        if context is None:
            conditions.append(FirstFrame(self._encode_image(0)))
        else:
            if len(context):
                known = self._encode(context[: geometry.fit_down(len(context))], "encoding what is already made")
                conditions.append(Continuation(known))
            conditions.append(self._anchor(start))
        for index in self.images:
            if 0 < index - start < len(source):
                conditions.append(Keyframe(self._encode_image(index), index - start))
            if 0 <= index - start < len(source):
                self._source[index] = source[index - start]
        return conditions

    def _anchor(self, start: int) -> Anchor:
        """The nearest edited image before the window; as far before it as latent frames lie apart, however long ago."""
        geometry = self.backbone.geometry
        nearest = max(index for index in self.images if index <= start and index in self._source)
        before = min(max(start - nearest, 1), geometry.temporal)
        if self.adapter is None:
            return Anchor(self._encode_image(nearest), None, before)
        source = self._encode_source(self._source[nearest][None])
        return Anchor(self._encode_image(nearest), source, before, self.adapter.downscale)

    def _encode_source(self, frames: Tensor) -> Tensor:
        factor = self.adapter.downscale if self.adapter else 1
        return self._encode(_shrink(frames, factor), "encoding the source")

    def _encode_image(self, index: int) -> Tensor:
        if index not in self._edited:
            doing = "encoding the first frame" if index == 0 else f"encoding the edited frame {index}"
            self._edited[index] = self._encode(self.images[index][None], doing)
        return self._edited[index]

    def _encode(self, frames: Tensor, doing: str) -> Tensor:
        return finite(self.backbone.encode(to_model(frames)), doing, self.backbone)


def _shrink(frames: Tensor, factor: int) -> Tensor:
    """The frames `factor` times smaller each way."""
    if factor == 1:
        return frames
    height, width = frames.shape[1:3]
    return apply_crop(frames, Crop(0, 0, width, height, width // factor, height // factor))
