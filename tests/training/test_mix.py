"""Which kinds of motion a run trains on, and that they can be told apart, repeated and recognised when stale."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from synclora.portraits import TEST_SEED_START, sample_person, wear
from synclora.training import mix as module
from synclora.training.mix import DRAWN_ONLY, KINDS, Mix, draw_looks, mix_digest

MIX = Mix(drawn=0.5, worn=0.3, warped=0.2)


def test_every_stretch_of_seeds_holds_every_kind_in_its_share() -> None:
    """Any 50 seeds in a row: each share to within 0.06; 2000: to within 0.005; a kind of share 0 never comes."""
    for first in (0, 37, 900_000, TEST_SEED_START):
        for count, off in ((50, 0.06), (2000, 0.005)):
            kinds = [MIX.kind(seed) for seed in range(first, first + count)]
            for kind in KINDS:
                assert kinds.count(kind) / count == pytest.approx(getattr(MIX, kind), abs=off)
    assert {Mix(drawn=0.7, worn=0.3).kind(seed) for seed in range(500)} == {"drawn", "worn"}
    assert {DRAWN_ONLY.kind(seed) for seed in range(500)} == {"drawn"}


@pytest.mark.parametrize("shares", [{}, {"drawn": 0.5}, {"drawn": 1.0, "worn": 0.5}, {"drawn": 1.5, "worn": -0.5}])
def test_shares_that_are_none_are_refused(shares: dict[str, float]) -> None:
    """Shares lie in [0, 1] and sum to 1; the message gives their sum."""
    with pytest.raises(ValidationError, match=r"sum to (0|0\.5|1\.5);|less than or equal to 1"):
        Mix(**shares)
    with pytest.raises(ValidationError, match="extra"):
        Mix.model_validate({"drawn": 1.0, "filmed": 0.0})


@pytest.mark.parametrize("kind", KINDS)
def test_looks_are_repeatable_and_differ(kind: module.Kind) -> None:
    """The same arguments give the same clips and captions; the looks of a motion are different pictures."""
    people = [sample_person(TEST_SEED_START + number) for number in range(2)]
    clips, captions = draw_looks(kind, TEST_SEED_START, people, 5, 25.0, 64)
    again, _ = draw_looks(kind, TEST_SEED_START, people, 5, 25.0, 64)
    assert clips.shape == (2, 5, 64, 64, 3) and clips.dtype == torch.uint8 and len(captions) == 2
    assert torch.equal(clips, again)
    assert (clips[0].int() - clips[1].int()).abs().float().mean() > 5
    assert all(caption.isascii() and 10 < len(caption) <= 95 for caption in captions)


def test_the_digest_follows_shares_and_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawn portraits alone keep their digest; other shares, and pictures drawn otherwise, have another."""
    assert mix_digest(DRAWN_ONLY, "renderer") == "renderer"
    half = Mix(drawn=0.5, warped=0.5)
    before = mix_digest(half, "renderer")
    assert before == mix_digest(half, "renderer")
    assert len({before, mix_digest(half, "other"), mix_digest(Mix(drawn=0.4, warped=0.6), "renderer")}) == 3
    real = wear.film
    monkeypatch.setattr(wear, "film", lambda *a: real(*a) ^ 1)
    module._kind_digest.cache_clear()
    assert mix_digest(half, "renderer") != before
    module._kind_digest.cache_clear()
