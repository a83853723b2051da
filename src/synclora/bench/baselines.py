"""The methods of the benchmark: each makes an edited clip of a held-out pair.

synclora     the editor with its Sync-LoRA
base         the same backbone without the LoRA: animates the edited frame, never sees the source
first_frame  the edited frame, repeated: no motion at all
truth        the true edited clip: the ceiling of what the tracker can read
late_truth   the true clip two frames late: what poor timing alone costs
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from synclora.clip import Clip

LATE = 2  # frames


@dataclass(frozen=True)
class BenchPair:
    """A held-out pair: the source clip, the true edited clip's frames (uint8 [F, H, W, 3]), its seed and edit."""

    source: Clip
    truth: Tensor
    seed: int
    kind: str


Method = Callable[[BenchPair], Tensor]  # the edited frames, uint8 [F, H, W, 3]


def first_frame(pair: BenchPair) -> Tensor:
    """Repeat the edited first frame."""
    return pair.truth[:1].expand_as(pair.truth).contiguous()


def truth(pair: BenchPair) -> Tensor:
    """The true edited clip."""
    return pair.truth


def late_truth(pair: BenchPair) -> Tensor:
    """The true edited clip two frames late, its first frame held meanwhile."""
    return pair.truth[[max(index - LATE, 0) for index in range(len(pair.truth))]]


METHODS = ("synclora", "base", "first_frame", "truth", "late_truth")
PIXEL_METHODS: dict[str, Method] = {"first_frame": first_frame, "truth": truth, "late_truth": late_truth}
