"""The methods of the benchmark: each makes an edited clip of a held-out pair.

synclora         the editor with its Sync-LoRA, as it comes
model            the same, every pixel as the model made it (`--detail model`)
base             the same backbone without the LoRA: animates the edited frame, never sees the source
first_frame      the edited frame, repeated: no motion at all
mesh_warp        the edited frame, warped with the source's face mesh (`synclora.bench.warps`)
flow_warp        the edited frame, warped with the source's optical flow
flow_difference  the source, and what the edit added to frame 0, warped with the source's optical flow
colour_transfer  the source, its colours mapped as frame 0's were
truth            the true edited clip: the ceiling of what the tracker can read
late_truth       the true clip two frames late: what poor timing alone costs
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from synclora.bench import warps

if TYPE_CHECKING:
    from synclora.clip import Clip

LATE = 2  # frames


@dataclass(frozen=True)
class BenchPair:
    """A held-out pair: the source clip, the true edited clip's frames (uint8 [F, H, W, 3]), its seed and edit, and on
    footage where it was cut from ("talk.mp4 at 3.20 s")."""

    source: Clip
    truth: Tensor
    seed: int
    kind: str
    place: str = ""


Method = Callable[[BenchPair], Tensor]  # the edited frames, uint8 [F, H, W, 3]


def first_frame(pair: BenchPair) -> Tensor:
    """Repeat the edited first frame."""
    return pair.truth[:1].expand_as(pair.truth).contiguous()


def mesh_warp(pair: BenchPair) -> Tensor:
    """Warp the edited first frame with the face mesh tracked in the source."""
    return torch.from_numpy(warps.mesh_warp(pair.source.frames.numpy(), pair.truth[0].numpy()))


def flow_warp(pair: BenchPair) -> Tensor:
    """Warp the edited first frame with the optical flow of the source."""
    return torch.from_numpy(warps.flow_warp(pair.source.frames.numpy(), pair.truth[0].numpy()))


def flow_difference(pair: BenchPair) -> Tensor:
    """Add what the edit added to the first frame, warped with the optical flow of the source."""
    return torch.from_numpy(warps.flow_difference(pair.source.frames.numpy(), pair.truth[0].numpy()))


def colour_transfer(pair: BenchPair) -> Tensor:
    """Give the source's frames the colours that its first frame got."""
    return torch.from_numpy(warps.colour_transfer(pair.source.frames.numpy(), pair.truth[0].numpy()))


def truth(pair: BenchPair) -> Tensor:
    """The true edited clip."""
    return pair.truth


def late_truth(pair: BenchPair) -> Tensor:
    """The true edited clip two frames late, its first frame held meanwhile."""
    return pair.truth[[max(index - LATE, 0) for index in range(len(pair.truth))]]


PIXEL_METHODS: dict[str, Method] = {
    "first_frame": first_frame,
    "mesh_warp": mesh_warp,
    "flow_warp": flow_warp,
    "flow_difference": flow_difference,
    "colour_transfer": colour_transfer,
    "truth": truth,
    "late_truth": late_truth,
}
METHODS = ("synclora", "model", "base", *PIXEL_METHODS)
