"""A backbone that edits perfectly, for tests of what is built around one.

Latents are the mean colour of each block of 32 x 32 pixels by 2 frames. The velocity leads to the source's latents plus
what the clean target tokens (the edited first frame, or what is already made) add to the source's at their place.
"""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from synclora import Editor
from synclora.backbones.base import Geometry, Text
from synclora.clip import AudioOrigin, Clip
from synclora.diffusion.attention import KeyValueCache
from synclora.diffusion.sequence import Sequence
from synclora.editing.adapter import Adapter

T = 2


class Echo:
    def __init__(self, frames: int = 17, size: int = 64) -> None:
        self.name, self.geometry = "echo", Geometry(size, size, frames, 25.0, spatial=32, temporal=T, channels=3)
        self.device, self.dtype = torch.device("cpu"), torch.float32
        self.rescale_on: Any = "velocity"
        self.transformer: torch.nn.Module = torch.nn.Identity()
        self.sequences: list[Sequence] = []  # one a window

    def encode(self, video_B3FHW: Tensor) -> Tensor:
        h, w = video_B3FHW.shape[3] // 32, video_B3FHW.shape[4] // 32
        blocks = video_B3FHW.unflatten(3, (h, 32)).unflatten(5, (w, 32)).mean((4, 6))
        first, rest = blocks[:, :, :1], blocks[:, :, 1:]
        return torch.cat([first, rest.unflatten(2, (-1, T)).mean(3)], dim=2) if rest.shape[2] else first

    def decode(self, latents_BCfhw: Tensor) -> Tensor:
        big = latents_BCfhw.repeat_interleave(32, 3).repeat_interleave(32, 4)
        return torch.cat([big[:, :, :1], big[:, :, 1:].repeat_interleave(T, 2)], dim=2)

    def embed(self, prompts: list[str]) -> Text:
        return Text(torch.zeros(1, 16, 4), torch.ones(1, 16, dtype=torch.bool))

    def velocity(
        self, sequence: Sequence, sigma: Any, text: Text, *, attention: Any = "self", cache: Any = None, **_: Any
    ) -> Tensor:
        n = sequence.num_target
        source = sequence.tokens[:, sequence.reference[0] & (sequence.positions[0, 0] >= 0)]
        f, h, w = sequence.grid
        added = sequence.tokens[:, : h * w] - source[:, : h * w]
        tokens = sequence.tokens[:, : len(sequence.reference[0]) - sequence.num_reference]
        velocity = torch.zeros_like(tokens)
        velocity[:, :n] = (tokens[:, :n] - source - added.repeat(1, f, 1)) / sigma
        return velocity

    def reference_cache(self, sequence: Sequence, text: Text, **_: Any) -> KeyValueCache:
        self.sequences.append(sequence)
        return KeyValueCache(())

    def fingerprint(self) -> str:
        return "echo"


def editor(frames: int = 17, size: int = 64) -> tuple[Editor, Echo]:
    echo = Echo(frames, size)
    made = Editor(echo, lora=None)
    made.adapter = Adapter(Path("x.safetensors"), "self", 1)
    return made, echo


def grey_clip(frames: int, size: int = 64, fps: Fraction = Fraction(25), width: int | None = None) -> Clip:
    """Frames of one grey each, that wanders between 60 and 120; one level a latent frame, so that encoding keeps it."""
    levels = 90 + 30 * torch.sin((torch.arange(frames) + 1).div(T, rounding_mode="floor") * 1.3)
    pictures = levels.round().to(torch.uint8).view(-1, 1, 1, 1).repeat(1, size, width or size, 3)
    return Clip(pictures, fps, AudioOrigin(Path("talk.mp4"), Fraction(1, 5)))
