"""A short run of the fuzzer, so that it is known to work; `fuzz_pairs.py` is the long one."""

from tests.pairs.fuzz_pairs import MUTATIONS, fuzz


def test_damaged_input_is_refused_or_true() -> None:
    """60 cases: none crashes, hangs, raises anything but SyncloraError, or is accepted as something it is not; and the
    cases are worth it: some of what they hold is accepted and some refused."""
    said: list[str] = []
    outcomes = fuzz(range(60), 1, ("import", "check"), said.append)
    assert said == [] and outcomes["cases"] == 60 and 60 % len(MUTATIONS) == 0
    assert outcomes["accepted"] > 20 and outcomes["refused"] > 20


def test_damaged_stores_are_curated() -> None:
    """8 cases through all stages, curation last: every pair gets a verdict, for a reason that a check foresaw."""
    said: list[str] = []
    assert fuzz(range(8), 2, log=said.append)["cases"] == 8 and said == []
