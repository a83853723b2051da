"""The sequence: everything an edit shows the network, as one list of tokens.

    tokens      | target frame 0 | target frames 1 .. f-1 | keyframes | reference           |
    holds       | edited image   | video being made       | optional  | the source video    |
    timestep    | 0              | sigma                  | 0         | 0                   |
    position    | (t, y, x)      | (t, y, x)              | (t, y, x) | the target's, again |

Reference and target carry identical positions; only the timestep tells the source from the edit. The order of tokens
means nothing to the network (positions decide), so we fix one: target first, reference last.

A window of a long video begins with what is already made (`Continuation`) and is shown the edited image again from
where it belongs, before the window (`Anchor`):

    tokens      | target: made, video being made | edited image   | source's frame 0 | reference          |
    timestep    | 0,    sigma                    | 0              | 0                | 0                  |
    position    | (t, y, x)                      | (-before, y, x)| (-before, y, x)  | the target's again |

`build` makes every sequence, in training and in editing. Conditions are small frozen objects with one method,
`apply_to(sequence)`, and compose in any order.

Shapes: B batch, N tokens, C latent channels, (f, h, w) latent frames, rows, columns.
Sources: positions, clean tokens and the identical reference positions follow the public LTX-Video code (diffusers'
`LTXConditionPipeline`, Lightricks' in-context LoRA trainers). That frame 0 is overwritten at full strength and the
source video enters as a reference is the paper's (In-Context Sync-LoRA, arXiv 2512.03013).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

Grid = tuple[int, int, int]


@dataclass(frozen=True)
class Sequence:
    """Tokens with their positions and roles; nothing in it is ever changed in place.

    Attributes:
        tokens: `[B, N, C]` float32.
        positions: `[B, 3, N]` float32: seconds, pixel row, pixel column.
        clean: `[B, N]` bool, known content: timestep 0, never noised, never stepped.
        target: `[B, N]` bool, tokens that decode to the output video; they come first.
        reference: `[B, N]` bool, tokens of the source video; they come last.
        grid: latent frames, rows and columns of the target.
        fps: frames a second of the video.
        spatial, temporal: pixels a latent row or column spans, frames a latent frame spans.
    """

    tokens: Tensor
    positions: Tensor
    clean: Tensor
    target: Tensor
    reference: Tensor
    grid: Grid
    fps: float
    spatial: int = 32
    temporal: int = 8

    @classmethod
    def start(cls, latents_BCfhw: Tensor, fps: float, *, spatial: int = 32, temporal: int = 8) -> Sequence:
        """A sequence of target tokens alone, none of them clean."""
        tokens_BNC = patchify(latents_BCfhw.float())
        batch, count, _ = tokens_BNC.shape
        grid = _grid(latents_BCfhw)
        none = torch.zeros(batch, count, dtype=torch.bool, device=tokens_BNC.device)
        at = positions(grid, fps, spatial, temporal).to(tokens_BNC.device)
        return cls(tokens_BNC, at.expand(batch, -1, -1), none, ~none, none, grid, float(fps), spatial, temporal)

    @property
    def num_target(self) -> int:
        """Number of target tokens, f * h * w; what the noise shift depends on."""
        f, h, w = self.grid
        return f * h * w

    @property
    def num_reference(self) -> int:
        """Number of reference tokens (of each item of the batch)."""
        return int(self.reference[0].sum())

    @property
    def noisy(self) -> Tensor:
        """`[B, N]` bool: the tokens that are noised, predicted and scored."""
        return self.target & ~self.clean

    def timesteps(self, sigma: Tensor | float) -> Tensor:
        """`[B, N]` noise level of each token: sigma, and 0 where clean. `sigma`: `[B]` or a number, in [0, 1]."""
        sigma = torch.as_tensor(sigma, dtype=torch.float32, device=self.clean.device)
        return sigma.reshape(-1, 1) * ~self.clean

    def with_tokens(self, tokens_BNC: Tensor) -> Sequence:
        """The same sequence holding other tokens."""
        if tokens_BNC.shape != self.tokens.shape:
            raise ValueError(f"tokens {tuple(tokens_BNC.shape)} do not fit a sequence of {tuple(self.tokens.shape)}")
        return replace(self, tokens=tokens_BNC)

    def target_latents(self) -> Tensor:
        """The target tokens as latents `[B, C, f, h, w]`, ready to decode."""
        return unpatchify(self.tokens[:, : self.num_target], self.grid)

    def without_reference(self) -> Sequence:
        """Target and keyframes only."""
        return self._between(0, self.tokens.shape[1] - self.num_reference)

    def reference_only(self) -> Sequence:
        """The reference tokens only."""
        return self._between(self.tokens.shape[1] - self.num_reference, self.tokens.shape[1])

    def to(self, device: torch.device | str) -> Sequence:
        """The sequence on another device."""
        return replace(self, **{name: getattr(self, name).to(device) for name in _TOKEN_AXIS})

    def _between(self, start: int, stop: int) -> Sequence:
        parts = {name: getattr(self, name).narrow(axis, start, stop - start) for name, axis in _TOKEN_AXIS.items()}
        return replace(self, **parts)

    def _append(self, latents_BCfhw: Tensor, positions_3N: Tensor, *, reference: bool) -> Sequence:
        """Clean tokens that are not target, added at the end (reference) or just before the reference (keyframes)."""
        tokens_BNC = patchify(latents_BCfhw.to(self.tokens))
        yes = torch.ones(tokens_BNC.shape[:2], dtype=torch.bool, device=self.tokens.device)
        added = replace(
            self,
            tokens=tokens_BNC,
            positions=positions_3N.to(self.positions).expand(len(yes), -1, -1),
            clean=yes,
            target=~yes,
            reference=yes if reference else ~yes,
        )
        parts = (self.without_reference(), added, self.reference_only())
        joined = {n: torch.cat([getattr(part, n) for part in parts], dim=axis) for n, axis in _TOKEN_AXIS.items()}
        return replace(self, **joined)


_TOKEN_AXIS = {"tokens": 1, "positions": 2, "clean": 1, "target": 1, "reference": 1}


class Condition(Protocol):
    """Something known about the video: turns a sequence into one that holds it."""

    def apply_to(self, sequence: Sequence) -> Sequence: ...


@dataclass(frozen=True)
class FirstFrame:
    """The edited image: overwrites latent frame 0 of the target and marks it clean. `latents`: `[B, C, 1, h, w]`."""

    latents: Tensor

    def apply_to(self, sequence: Sequence) -> Sequence:
        _check(self.latents, sequence, frames=1)
        return _overwrite_start(sequence, self.latents)


@dataclass(frozen=True)
class Continuation:
    """What is already made: overwrites the first m latent frames of the target and marks them clean.

    A long video is made in windows that overlap; each begins with the end of the one before. `latents`:
    `[B, C, m, h, w]`, m at most the target's own frames.
    """

    latents: Tensor

    def apply_to(self, sequence: Sequence) -> Sequence:
        frames = min(self.latents.shape[2], sequence.grid[0])
        _check(self.latents, sequence, frames=frames)
        return _overwrite_start(sequence, self.latents)


@dataclass(frozen=True)
class Keyframe:
    """An edited image at pixel frame `index`: clean tokens appended at that frame's time. Index 0 is a `FirstFrame`."""

    latents: Tensor
    index: int

    def apply_to(self, sequence: Sequence) -> Sequence:
        if self.index == 0:
            return FirstFrame(self.latents).apply_to(sequence)
        _check(self.latents, sequence, frames=1)
        last = (sequence.grid[0] - 1) * sequence.temporal
        if not 0 < self.index <= last:
            raise ValueError(f"keyframe at frame {self.index}: the video has frames 0 to {last}")
        at_3N = positions(_grid(self.latents), sequence.fps, sequence.spatial, sequence.temporal)
        at_3N[0] = self.index / sequence.fps
        return sequence._append(self.latents, at_3N, reference=False)


@dataclass(frozen=True)
class Anchor:
    """An edited image from before the window, `frames_before` its first frame: shows a later window what the edit is.

    Clean tokens appended at that frame's own, negative time, and the same frame of the source beside them among the
    reference, so that the network sees again which look belongs to which picture. `latents`: `[B, C, 1, h, w]`;
    `source`: the same, or rows and columns `downscale` times fewer (see `Reference`); None where there is no reference.
    """

    latents: Tensor
    source: Tensor | None
    frames_before: int
    downscale: int = 1

    def apply_to(self, sequence: Sequence) -> Sequence:
        if self.frames_before < 1:
            raise ValueError(f"anchor {self.frames_before} frames before the window; at least 1 is needed")
        sequence = self._appended(sequence, self.latents, downscale=1, reference=False)
        if self.source is None:
            return sequence
        return self._appended(sequence, self.source, downscale=self.downscale, reference=True)

    def _appended(self, sequence: Sequence, latents: Tensor, *, downscale: int, reference: bool) -> Sequence:
        _check(latents, sequence, frames=1, downscale=downscale)
        at_3N = positions(_grid(latents), sequence.fps, sequence.spatial * downscale, sequence.temporal)
        at_3N[0] = -self.frames_before / sequence.fps
        return sequence._append(latents, at_3N, reference=reference)


@dataclass(frozen=True)
class Reference:
    """The source video: clean tokens appended at the target's own positions.

    `latents`: `[B, C, f, h, w]`, or rows and columns `downscale` times fewer; their positions are then spread over the
    same picture (index * spatial * downscale).
    """

    latents: Tensor
    downscale: int = 1

    def apply_to(self, sequence: Sequence) -> Sequence:
        _check(self.latents, sequence, frames=sequence.grid[0], downscale=self.downscale)
        if (sequence.reference & (sequence.positions[:, 0] >= 0)).any():  # an anchor's lie before 0
            raise ValueError("the sequence already holds a reference; an edit has one source video")
        at_3N = positions(_grid(self.latents), sequence.fps, sequence.spatial * self.downscale, sequence.temporal)
        return sequence._append(self.latents, at_3N, reference=True)


def build(
    target_latents_BCfhw: Tensor, fps: float, conditions: Iterable[Condition], *, spatial: int = 32, temporal: int = 8
) -> Sequence:
    """The sequence of one edit: the ONE function that training and editing both call.

    Args:
        target_latents_BCfhw: the video to learn from (training), or anything of its shape (editing: noise replaces it).
        fps: frames a second.
        conditions: any of `FirstFrame`, `Continuation`, `Keyframe`, `Anchor`, `Reference`, in any order.
        spatial, temporal: compression of the backbone's latents.
    """
    sequence = Sequence.start(target_latents_BCfhw, fps, spatial=spatial, temporal=temporal)
    for condition in conditions:
        sequence = condition.apply_to(sequence)
    return sequence


def positions(grid: Grid, fps: float, spatial: int = 32, temporal: int = 8) -> Tensor:
    """Where each token of a latent grid lies in the video: `[3, N]` float32 of seconds, pixel row, pixel column.

    Latent frame 0 holds one pixel frame and each later one holds `temporal`, so frame f starts at pixel frame
    max(temporal * f - (temporal - 1), 0). At 25 fps: 0, 1/25, 9/25, 17/25 ... seconds. (LTX-Video's causal fix.)
    """
    frames, rows, columns = (torch.arange(n, dtype=torch.float32) for n in grid)
    seconds = (temporal * frames - (temporal - 1)).clamp(min=0) * (1.0 / float(fps))
    mesh = torch.meshgrid(seconds, rows * spatial, columns * spatial, indexing="ij")
    return torch.stack([axis.flatten() for axis in mesh])


def patchify(latents_BCfhw: Tensor) -> Tensor:
    """Latents `[B, C, f, h, w]` as tokens `[B, f*h*w, C]`: frame by frame, row by row."""
    return latents_BCfhw.flatten(2).transpose(1, 2)


def unpatchify(tokens_BNC: Tensor, grid: Grid) -> Tensor:
    """The inverse of `patchify`: tokens `[B, f*h*w, C]` as latents `[B, C, f, h, w]`."""
    return tokens_BNC.transpose(1, 2).unflatten(2, grid)


def _overwrite_start(sequence: Sequence, latents_BCfhw: Tensor) -> Sequence:
    """The sequence with its first target tokens replaced by known ones, which are clean from now on."""
    known_BnC = patchify(latents_BCfhw.to(sequence.tokens))
    n = known_BnC.shape[1]
    clean = sequence.clean.clone()
    clean[:, :n] = True
    return replace(sequence, tokens=torch.cat([known_BnC, sequence.tokens[:, n:]], dim=1), clean=clean)


def _grid(latents_BCfhw: Tensor) -> Grid:
    _, _, f, h, w = latents_BCfhw.shape
    return f, h, w


def _check(latents: Tensor, sequence: Sequence, *, frames: int, downscale: int = 1) -> None:
    _, h, w = sequence.grid
    batch, _, channels = sequence.tokens.shape
    needed = (batch, channels, frames, h // downscale, w // downscale)
    if tuple(latents.shape) != needed or h % downscale or w % downscale:
        raise ValueError(
            f"condition latents {tuple(latents.shape)} do not fit a target of {frames} x {h} x {w}"
            f" (downscale {downscale}); needed {needed}"
        )
