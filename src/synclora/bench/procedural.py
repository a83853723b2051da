"""Pairs of the procedural suite: people, motions and edits of the renderer that training never draws."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction

from synclora.bench.baselines import BenchPair
from synclora.clip import Clip
from synclora.errors import SyncloraError

DEFAULT_SIZE, DEFAULT_FRAMES, DEFAULT_FPS = 128, 25, Fraction(25)  # where no backbone says otherwise


def held_out_pairs(
    count: int,
    *,
    seed: int = 1_000_000,
    size: int = DEFAULT_SIZE,
    frames: int = DEFAULT_FRAMES,
    fps: Fraction = DEFAULT_FPS,
) -> Iterator[BenchPair]:
    """Render `count` test pairs of seeds seed, seed + 1, ...; the kinds of edit take turns.

    Raises:
        SyncloraError: a seed that training may draw.
    """
    from synclora import portraits

    if seed < portraits.TEST_SEED_START:
        raise SyncloraError(
            f"bench seed {seed}: pairs below {portraits.TEST_SEED_START} may have been trained on. "
            f"Pass --seed {portraits.TEST_SEED_START} or more."
        )
    for index in range(count):
        person = portraits.sample_person(seed + index)
        motion = portraits.sample_motion(seed + index, frames, float(fps))
        kind = portraits.EDIT_KINDS[index % len(portraits.EDIT_KINDS)]
        edited = portraits.apply_edit(person, kind, seed + index)
        source = Clip(portraits.render(person, motion, size, "cpu"), fps)
        yield BenchPair(source, portraits.render(edited, motion, size, "cpu"), seed + index, kind)
