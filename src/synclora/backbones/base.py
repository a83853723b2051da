"""What the rest of the project knows of a model: a geometry and six methods."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from synclora.diffusion.attention import KeyValueCache
from synclora.diffusion.sequence import Grid, Sequence

Attention = Literal["joint", "self"]
Rescale = Literal["velocity", "x0"]


@dataclass(frozen=True)
class Geometry:
    """The videos a backbone makes.

    Attributes:
        width, height: pixels.
        frames: the longest window edited at once, of the form temporal * k + 1.
        fps: frames a second the model was trained at.
        spatial, temporal: pixels a latent column or row spans, frames a latent frame spans.
        channels: latent channels.
    """

    width: int
    height: int
    frames: int
    fps: float
    spatial: int = 32
    temporal: int = 8
    channels: int = 128

    def valid_frames(self, frames: int) -> bool:
        """Whether a clip of that many frames has whole latent frames (for LTX: 1, 9, 17, ... 81, ...)."""
        return frames >= 1 and (frames - 1) % self.temporal == 0

    def fit_down(self, frames: int) -> int:
        """The largest valid number of frames not above `frames` (at least 1)."""
        return max(frames - 1, 0) // self.temporal * self.temporal + 1

    def fit_up(self, frames: int) -> int:
        """The smallest valid number of frames not below `frames`."""
        return max(frames - 2 + self.temporal, 0) // self.temporal * self.temporal + 1

    def latent_grid(self, frames: int | None = None) -> Grid:
        """Latent frames, rows and columns of a clip of that many frames (by default the longest window)."""
        frames = self.frames if frames is None else frames
        if not self.valid_frames(frames):
            raise ValueError(
                f"{frames} frames; needed {self.temporal}k+1, such as {self.fit_down(frames)} or {self.fit_up(frames)}"
            )
        return (frames - 1) // self.temporal + 1, self.height // self.spatial, self.width // self.spatial


@dataclass(frozen=True)
class Text:
    """Embedded prompts: `hidden` `[B, T, D]` float32, `mask` `[B, T]` bool (False where padded)."""

    hidden: Tensor
    mask: Tensor

    def to(self, device: torch.device | str) -> Text:
        """The text on another device."""
        return Text(self.hidden.to(device), self.mask.to(device))


class Backbone(Protocol):
    """A video model: latents, text and a velocity. Tensors go in and come out on `device`, in float32."""

    @property
    def name(self) -> str: ...
    @property
    def geometry(self) -> Geometry: ...
    @property
    def device(self) -> torch.device: ...
    @property
    def dtype(self) -> torch.dtype: ...
    @property
    def transformer(self) -> nn.Module: ...
    @property
    def rescale_on(self) -> Rescale:
        """What guidance's rescale is taken of in this family (see `synclora.diffusion.guidance`)."""
        ...

    def encode(self, video_B3FHW: Tensor) -> Tensor:
        """Video in [-1, 1] as normalised latents `[B, C, f, h, w]`. A single frame encodes as latent frame 0."""
        ...

    def decode(self, latents_BCfhw: Tensor) -> Tensor:
        """Normalised latents as video `[B, 3, F, H, W]` in [-1, 1]."""
        ...

    def embed(self, prompts: list[str]) -> Text:
        """Prompts as the text the network reads; "" is a valid prompt."""
        ...

    def velocity(
        self,
        sequence: Sequence,
        sigma: Tensor | float,
        text: Text,
        *,
        attention: Attention = "self",
        cache: KeyValueCache | None = None,
        skip_blocks: Container[int] = (),
        whole: bool = False,
    ) -> Tensor:
        """The predicted velocity noise - x0 of all non-reference tokens, `[B, n, C]` float32.

        Args:
            sequence: as built by `synclora.diffusion.sequence.build`, noised to `sigma`.
            sigma: noise level in [0, 1], `[B]` or a number; the network is fed 1000 * sigma, and 0 for clean tokens.
            text: prompts, one an item of the batch.
            attention: how the reference is read (see `synclora.diffusion.attention`).
            cache: what `reference_cache` returned for this sequence and text; without it, `self` computes the
                reference anew (training, where gradients must reach it).
            skip_blocks: blocks whose self-attention is left out (spatio-temporal guidance).
            whole: under `joint`, answer for the reference's tokens too: `[B, N, C]`.
        """
        ...

    def reference_cache(self, sequence: Sequence, text: Text, *, skip_blocks: Container[int] = ()) -> KeyValueCache:
        """The reference's keys and values for `self` attention: made once per edit, read at every step.

        Each text, and each choice of `skip_blocks`, has its own.
        """
        ...

    def fingerprint(self) -> str:
        """An identity of the weights, LoRA excluded."""
        ...
