"""A procedural world of talking portraits: seeded people, seeded motions, an exact and fast renderer."""

from synclora.portraits.captions import caption
from synclora.portraits.edits import EDIT_KINDS, apply_edit, sample_edit
from synclora.portraits.motion import Motion, sample_motion
from synclora.portraits.person import TEST_SEED_START, Person, sample_person
from synclora.portraits.renderer import render, render_batch

__all__ = [
    "EDIT_KINDS", "TEST_SEED_START", "Motion", "Person", "apply_edit", "caption", "render", "render_batch",
    "sample_edit", "sample_motion", "sample_person",
]  # fmt: skip
