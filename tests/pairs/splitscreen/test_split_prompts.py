"""The grammar of portraits and edits: deterministic, varied, free of nonsense; and files of one's own prompts."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path

import pytest

from synclora.errors import SyncloraError
from synclora.pairs.splitscreen import words
from synclora.pairs.splitscreen.people import EDIT_KINDS, sample_edits, sample_person
from synclora.pairs.splitscreen.prompts import PortraitPrompt, portrait, read_prompts, video_prompt
from synclora.portraits import TEST_SEED_START

MANY = 2000
GOOD = {
    "portrait": "A photograph of a man.",
    "instruction": "Put a hat on his head.",
    "motion": "The person talks.",
    "caption": "A man with a hat.",
    "edit_kinds": ["hat"],
}


def prompt(seed: int) -> PortraitPrompt:
    return portrait(TEST_SEED_START + seed)


def test_the_same_seed_gives_the_same_words_and_others_others() -> None:
    """2000 seeds: no two portraits with their edits alike, every kind of edit among them, and no gap left in a text."""
    made = [prompt(seed) for seed in range(MANY)]
    assert made[:20] == [prompt(seed) for seed in range(20)]
    assert len({(p.portrait, p.instruction) for p in made}) == MANY
    assert len({p.motion for p in made}) > 0.9 * MANY
    assert {kind for p in made for kind in p.edit_kinds} == set(EDIT_KINDS)
    for p in made:
        for text in (p.portrait, p.instruction, p.motion, p.caption):
            assert not any(bad in text for bad in ("{", "}", "  ", " ,", "a a ", "a an ", "an a ")), text
        assert "child" not in p.portrait and len(p.caption) < 320
        assert len(p.edit_kinds) == len(set(p.edit_kinds)) <= 3


def test_edits_make_sense_for_the_person() -> None:
    """No beard for a woman; no colour of hair for a shaved head; what an edit adds is in the caption."""
    for seed in range(MANY):
        rng = random.Random(seed)
        person = sample_person(rng)
        edited, kinds, told = sample_edits(person, rng)
        assert edited != person and len(kinds) == len(told) >= 1
        if person.gender == "woman":
            assert not person.beard and "beard" not in kinds
        if person.hair_style == words.NO_HAIR:
            assert "hair_color" not in kinds
        if "hat" in kinds:
            assert bool(person.hat) != bool(edited.hat) and "hair_style" not in kinds
        if "glasses" in kinds:
            assert bool(person.glasses) != bool(edited.glasses)
        if "clothes" in kinds:
            assert edited.clothes != person.clothes
        assert (edited.gender, edited.skin, edited.pose) == (person.gender, person.skin, person.pose)


def test_skin_says_nothing_of_clothes_scene_or_hair() -> None:
    """Independence of skin and each of three other traits over 4000 people: the chi-square statistic stays within five
    standard deviations, sqrt(2 df), of its mean, the degrees of freedom df."""
    rng = random.Random(TEST_SEED_START)
    people = [sample_person(rng) for _ in range(4000)]
    for trait in ("clothes", "scene", "hair_style"):
        pairs = Counter((p.skin, getattr(p, trait).split()[-1]) for p in people)
        rows, columns = (Counter(pair[side] for pair in pairs.elements()) for side in (0, 1))
        total = sum(pairs.values())
        statistic = sum(
            (pairs[r, c] - n * m / total) ** 2 / (n * m / total) for r, n in rows.items() for c, m in columns.items()
        )
        freedom = (len(rows) - 1) * (len(columns) - 1)
        assert statistic < freedom + 5 * (2 * freedom) ** 0.5, trait


def test_the_video_prompt_asks_for_one_motion_in_both_halves() -> None:
    text = video_prompt("The person nods.")
    assert "The person nods." in text and "both halves" in text and "same frame" in text


def test_own_prompts_are_read_in_order_and_blank_lines_skipped(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    lines = [json.dumps(GOOD), "", json.dumps(GOOD | {"motion": "The person nods."})]
    path.write_text("\n".join(lines) + "\n")
    assert [p.motion for p in read_prompts(path)] == ["The person talks.", "The person nods."]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "line 2: .*JSON"),
        ("[1]", "line 2: "),
        (json.dumps({k: v for k, v in GOOD.items() if k != "motion"}), "line 2: motion: Field required"),
        (json.dumps(GOOD | {"seed": 3}), "line 2: seed: Extra inputs"),
        (json.dumps(GOOD | {"caption": 3}), "line 2: caption: .*string"),
        (json.dumps(GOOD | {"caption": "  "}), "line 2: caption: "),
        (json.dumps(GOOD | {"edit_kinds": []}), "line 2: edit_kinds: "),
        (json.dumps(GOOD | {"edit_kinds": ["a b"]}), "line 2: edit_kinds: 'a b'"),
    ],
)
def test_a_wrong_line_is_named_with_what_is_wrong(tmp_path: Path, line: str, said: str) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text(json.dumps(GOOD) + "\n" + line + "\n")
    with pytest.raises(SyncloraError, match=said):
        read_prompts(path)


def test_a_file_without_prompts_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("\n\n")
    with pytest.raises(SyncloraError, match="holds no prompt"):
        read_prompts(tmp_path / "empty.jsonl")
    with pytest.raises(SyncloraError, match="cannot be read"):
        read_prompts(tmp_path / "none.jsonl")
