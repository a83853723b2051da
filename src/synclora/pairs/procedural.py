"""A pair drawn by `synclora.portraits`: one motion on a person and on the edited person.

    pair = procedural_pair(seed=3, size=128, frames=33)

Both clips perform the same curves, so the pair is synchronous by construction and its true motion is known. Everything
about it follows from its seed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

from torch import Tensor

from synclora.errors import SyncloraError

MAX_EDITS = 3  # edits applied to one person


@dataclass(frozen=True)
class Pair:
    """Two clips of one motion."""

    id: str
    source: Tensor  # uint8 [F, H, W, 3]
    target: Tensor  # uint8 [F, H, W, 3]
    fps: Fraction
    prompt: str  # caption of the target
    edit_kinds: list[str]
    seed: int
    curves: dict[str, list[float]] | None  # the source's true motion, one value per frame; None where unknown
    defect: str | None = None  # as `PairRow.defect`


def procedural_pair(
    seed: int, *, size: int = 128, frames: int = 33, fps: Fraction | float = 25, test: bool = False
) -> Pair:
    """Render one pair of `frames` (8k + 1) square frames of `size` px.

    `test=True` draws from the seeds kept apart for evaluation (`TEST_SEED_START` + seed), which training never sees.

    Raises:
        SyncloraError: a seed outside its range, or frames not 8k + 1.
    """
    from synclora import portraits

    check_frames(frames)
    check_seed(seed)
    seed = seed + portraits.TEST_SEED_START if test else seed
    rate = Fraction(fps).limit_denominator(1001)
    person = portraits.sample_person(seed)
    motion = portraits.sample_motion(seed, frames, float(rate))
    edited, kinds = portraits.sample_edit(person, seed, 1 + seed % MAX_EDITS)
    return Pair(
        id=f"procedural-{seed:07d}",
        source=portraits.render(person, motion, size),
        target=portraits.render(edited, motion, size),
        fps=rate,
        prompt=portraits.caption(edited),
        edit_kinds=list(kinds),
        seed=seed,
        curves=motion.curves(),
    )


def procedural_pairs(
    count: int, seed: int = 0, *, size: int = 128, frames: int = 33, fps: Fraction | float = 25, test: bool = False
) -> Iterator[Pair]:
    """`count` pairs of seeds seed, seed + 1, ..., rendered one at a time as they are asked for."""
    for index in range(seed, seed + count):
        yield procedural_pair(index, size=size, frames=frames, fps=fps, test=test)


def check_seed(seed: int) -> None:
    """Raise SyncloraError unless a pair may be made of this seed."""
    from synclora.portraits import TEST_SEED_START

    if not 0 <= seed < TEST_SEED_START:
        raise SyncloraError(
            f"seed {seed}: pair seeds run from 0 to {TEST_SEED_START - 1}; later ones are kept for testing. "
            "Choose a smaller seed or count."
        )


def check_frames(frames: int) -> None:
    """Raise SyncloraError unless `frames` is 8k + 1."""
    if frames < 1 or frames % 8 != 1:
        raise SyncloraError(
            f"frames is {frames}; a pair needs 8k+1 frames, e.g. {max(frames // 8, 1) * 8 + 1}, "
            "because the autoencoder packs eight frames into one after the first."
        )
