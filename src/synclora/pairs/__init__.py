"""Paired clips: same motion, another look."""

from synclora.pairs.generate import generate_store, save_pair
from synclora.pairs.procedural import Pair, procedural_pair, procedural_pairs
from synclora.pairs.store import PairRow, PairStore, Problem

__all__ = [
    "Pair",
    "PairRow",
    "PairStore",
    "Problem",
    "generate_store",
    "procedural_pair",
    "procedural_pairs",
    "save_pair",
]
