"""What is asked of the models for each pair: a written grammar, or a file of one's own prompts.

    python -c "from synclora.pairs.splitscreen.prompts import portrait; print(portrait(7))"

A portrait is drawn trait by trait (`people`, from the lists of `words`), one to three edits change traits of it, and
the caption says what the edited portrait looks like. Everything follows from the seed.
"""

from __future__ import annotations

import random
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from synclora.errors import SyncloraError
from synclora.pairs.splitscreen import words
from synclora.pairs.splitscreen.people import Person, pick, sample_edits, sample_person, with_article

TALKS = 0.8  # share of the people who talk; the others do something else with their face
MOST_LINE = 1 << 20  # bytes of one line of a prompt file


class PortraitPrompt(BaseModel):
    """The words for one pair, the same in a file of prompts (one JSON object a line, all five required)."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, str_strip_whitespace=True)

    portrait: str = Field(min_length=8, max_length=2000, description="what the portrait shows, for text-to-image")
    instruction: str = Field(min_length=4, max_length=1000, description="what to change, for the editing model")
    motion: str = Field(min_length=4, max_length=1000, description="what the person does, one sentence or two")
    caption: str = Field(min_length=4, max_length=1000, description="what the edited video shows")
    edit_kinds: list[str] = Field(min_length=1, max_length=8, description="what was edited, e.g. [hat]")


def portrait(seed: int) -> PortraitPrompt:
    """The words for one pair; the same seed gives the same words."""
    rng = random.Random(f"split-screen {seed}")
    person = sample_person(rng)
    edited, kinds, instructions = sample_edits(person, rng)
    return PortraitPrompt(
        portrait=_portrait(person),
        instruction=_instruction(instructions),
        motion=_motion(rng),
        caption=_caption(edited),
        edit_kinds=kinds,
    )


def video_prompt(motion: str) -> str:
    """The text for the image-to-video model: both halves, one motion."""
    return (
        "A split screen of two videos side by side, with a plain bar between them that stays where it is. Both show the"
        " same performance of the same person at the same instant, in perfect step: every blink, glance, word and turn"
        f" of the head happens in both halves on the same frame. {motion} The camera does not move, nothing crosses the"
        " bar, and nothing else changes in either half."
    )


def read_prompts(path: Path | str) -> list[PortraitPrompt]:
    """The prompts of a file with one JSON object a line (see `PortraitPrompt`); blank lines are skipped.

    Raises:
        SyncloraError: no readable file, no prompt in it, or a line that is wrong, with its number and what is wrong.
    """
    path = Path(path)
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise SyncloraError(
            f"{path}: cannot be read ({error.strerror}). Give a JSONL file with one prompt a line."
        ) from error
    found: list[PortraitPrompt] = []
    for number, line in enumerate(lines, start=1):
        if line.strip():
            found.append(_read_line(path, number, line))
    if not found:
        raise SyncloraError(
            f"{path}: holds no prompt. One JSON object a line is needed; docs/split-screen.md shows one."
        )
    return found


def _read_line(path: Path, number: int, line: bytes) -> PortraitPrompt:
    try:
        if len(line) > MOST_LINE:
            raise ValueError(f"{len(line)} bytes long; at most {MOST_LINE} are read")
        prompt = PortraitPrompt.model_validate_json(line.strip())
        bad = [kind for kind in prompt.edit_kinds if not kind or not kind.replace("_", "").isalnum() or len(kind) > 40]
        if bad:
            raise ValueError(f"edit_kinds: {bad[0]!r} is no short word of letters, digits and _")
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        what = f"{where}: {first['msg']}" if where else first["msg"]
        raise SyncloraError(f"{path}, line {number}: {what}. Needed are {_NEEDED}.") from error
    except ValueError as error:
        raise SyncloraError(f"{path}, line {number}: {error}. Needed are {_NEEDED}.") from error
    return prompt


_NEEDED = 'the texts "portrait", "instruction", "motion" and "caption", the list "edit_kinds", and nothing else'


def _looks(p: Person) -> list[str]:
    """Hair and what is worn on the head."""
    hair = "a shaved head" if p.hair_style == words.NO_HAIR else f"{p.hair_style} {p.hair_color} hair"
    return [part for part in (hair, p.beard, p.glasses, p.earrings, p.makeup) if part]


def _listed(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _worn(p: Person) -> str:
    return f"wearing {_listed([*([p.hat] if p.hat else []), with_article(p.clothes)])}"


def _portrait(p: Person) -> str:
    traits = _listed([p.skin, p.face, f"{p.eyes} eyes", *_looks(p)])
    return (
        f"A photograph of {with_article(p.gender)} {p.age} with {traits},"
        f" {_worn(p)}. Background: {p.scene}. {p.light[0].upper()}{p.light[1:]}. {p.framing[0].upper()}{p.framing[1:]},"
        f" {p.pose}, looking into the camera, {p.expression}, the mouth closed. One person alone, the face and the"
        " shoulders uncovered by hands or objects, sharp and natural."
    )


def _caption(p: Person) -> str:
    tail = "".join(f", {part}" for part in p.extra)
    smile = ", with a slight smile" if p.expression == "a slight smile" else ""
    seen = f"with {_listed([f'{p.eyes} eyes', *_looks(p)])}"
    return f"{with_article(p.gender).capitalize()} {p.age} {seen}, {_worn(p)}{smile}, before {p.scene}{tail}."


def _instruction(parts: list[str]) -> str:
    what = "; ".join(parts)
    return (
        f"{what[0].upper()}{what[1:]}. Keep the same person, the same face, the same pose of the head, the same gaze,"
        " the same framing and everything else exactly as it is."
    )


def _motion(rng: random.Random) -> str:
    first = pick(rng, words.GESTURES)
    second = pick(rng, words.GESTURES, first)
    if rng.random() < TALKS:
        what = f"talks to the camera about {pick(rng, words.TOPICS)}, {pick(rng, words.MANNERS)}"
    else:
        what = pick(rng, words.SILENT)
    return f"The person {what}, {first}, and {second}."
