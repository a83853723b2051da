"""The people of the portraits, trait by trait, and the edits that change traits of them.

Everything is drawn from a `random.Random`, by the weights of `words`.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from synclora.pairs.splitscreen import words
from synclora.pairs.splitscreen.words import Weighted

MOST_EDITS: Weighted = {"1": 0.7, "2": 0.24, "3": 0.06}
OLD = 60  # years from which an edit of the age makes younger


@dataclass(frozen=True)
class Person:
    """The traits of a portrait in words; "" where there is none."""

    gender: str
    age: str
    years: int
    skin: str
    face: str
    eyes: str
    hair_style: str
    hair_color: str
    beard: str
    glasses: str
    hat: str
    earrings: str
    clothes: str
    scene: str
    light: str
    framing: str
    pose: str
    expression: str
    makeup: str = ""
    extra: tuple[str, ...] = field(default=())  # further words of the caption: style, light, face paint

    @property
    def their(self) -> str:
        """her, his or their."""
        return words.PRONOUNS[self.gender]


def sample_person(rng: random.Random) -> Person:
    """A person with everything that a portrait tells."""
    gender = pick(rng, words.GENDERS)
    age = pick(rng, {text: weight for text, (_, weight) in words.AGES.items()})
    years = words.AGES[age][0]
    style = pick(rng, _hair_styles(gender))
    grey = {35: 0.03, 45: 0.12, 55: 0.4, 65: 0.75, 75: 0.9, 84: 0.97}.get(years, 0.0)
    if rng.random() < grey:
        color = pick(rng, words.GREY_HAIR)
    else:
        color = pick(rng, words.DYED_HAIR if rng.random() < 0.03 else words.HAIR_COLORS)
    scene = pick(rng, words.SCENES)
    return Person(
        gender=gender,
        age=age.format(their=words.PRONOUNS[gender]),
        years=years,
        skin=pick(rng, words.SKINS),
        face=pick(rng, words.FACES),
        eyes=pick(rng, words.EYES),
        hair_style=style,
        hair_color=color,
        beard=pick(rng, words.BEARDS) if gender == "man" else "",
        glasses=pick(rng, words.GLASSES),
        hat=pick(rng, words.HATS),
        earrings=pick(rng, words.EARRINGS),
        clothes=f"{pick(rng, words.COLORS)} {pick(rng, words.CLOTHES)}",
        scene=scene,
        light=pick(rng, words.LIGHTS_INDOORS if scene in words.INDOORS else words.LIGHTS_OUTDOORS),
        framing=pick(rng, words.FRAMINGS),
        pose=pick(rng, words.POSES),
        expression=pick(rng, words.EXPRESSIONS),
    )


def pick(rng: random.Random, options: Weighted, *avoid: str) -> str:
    left = {word: weight for word, weight in options.items() if word not in avoid}
    return rng.choices([*left], weights=[*left.values()])[0]


def _hair_styles(gender: str) -> Weighted:
    share = {"woman": 1.0, "man": 0.0}.get(gender, 0.5)
    return {style: share * hers + (1 - share) * his for style, (hers, his) in words.HAIR_STYLES.items()}


# An edit returns the changed person and the instruction, or None where it makes no sense for this person.
Edit = Callable[[Person, random.Random], "tuple[Person, str] | None"]


def sample_edits(person: Person, rng: random.Random) -> tuple[Person, list[str], list[str]]:
    """Up to three edits of different kinds that do not undo one another."""
    count = int(pick(rng, MOST_EDITS))
    kinds: list[str] = []
    instructions: list[str] = []
    left = {kind: weight for kind, (_, weight) in _EDITS.items()}
    while len(kinds) < count and left:
        kind = pick(rng, left)
        del left[kind]
        done = _EDITS[kind][0](person, rng)
        if done is None:
            continue
        person, instruction = done
        kinds.append(kind)
        instructions.append(instruction)
        for other in _CLASHES.get(kind, ()):
            left.pop(other, None)
        if kind == "style":
            break
    return person, kinds, instructions


def _hair_color(p: Person, rng: random.Random) -> tuple[Person, str] | None:
    if p.hair_style == words.NO_HAIR:
        return None
    color = pick(rng, words.HAIR_COLORS | words.GREY_HAIR | words.DYED_HAIR, p.hair_color)
    return replace(p, hair_color=color), f"change the colour of {p.their} hair to {color}"


def _hair_style(p: Person, rng: random.Random) -> tuple[Person, str] | None:
    if p.hat:
        return None
    now_long = p.hair_style in words.LONG_HAIR
    styles = {s: w for s, w in _hair_styles(p.gender).items() if (s in words.LONG_HAIR) != now_long}
    style = pick(rng, styles, p.hair_style)
    if style == words.NO_HAIR:
        return replace(p, hair_style=style), f"shave {p.their} head bald"
    return replace(p, hair_style=style), f"give the person {style} {p.hair_color} hair"


def _glasses(p: Person, rng: random.Random) -> tuple[Person, str] | None:
    if p.glasses:
        return replace(p, glasses=""), f"remove the {p.glasses}"
    glasses = pick(rng, words.GLASSES, "")
    return replace(p, glasses=glasses), f"add {glasses}"


def _hat(p: Person, rng: random.Random) -> tuple[Person, str] | None:
    if p.hat:
        return replace(p, hat=""), f"remove {p.hat.replace('a ', 'the ', 1)}"
    hat = rng.choice(words.NEW_HATS).format(color=pick(rng, words.COLORS))
    return replace(p, hat=with_article(hat)), f"put {with_article(hat)} on {p.their} head"


def _beard(p: Person, rng: random.Random) -> tuple[Person, str] | None:
    if p.gender != "man":
        return None
    if p.beard and p.beard != "stubble":
        return replace(p, beard=""), f"remove {p.beard.replace('a ', 'the ', 1)}, so that he is clean-shaven"
    beard = pick(rng, words.BEARDS, "", "stubble")
    return replace(p, beard=beard), f"give him {beard}"


def _makeup(p: Person, rng: random.Random) -> tuple[Person, str] | None:
    if p.gender == "man" and rng.random() < 0.8:
        return None
    makeup = pick(rng, words.MAKEUP)
    return replace(p, makeup=makeup), f"add {makeup}"


def _eye_color(p: Person, rng: random.Random) -> tuple[Person, str] | None:
    color = pick(rng, words.EYES, p.eyes, *(("brown", "dark brown") if "brown" in p.eyes else ()))
    return replace(p, eyes=color), f"change the colour of {p.their} eyes to {color}"


def _age(p: Person, rng: random.Random) -> tuple[Person, str] | None:
    if p.years < OLD:
        grey = pick(rng, words.GREY_HAIR) if p.hair_style != words.NO_HAIR else p.hair_color
        hair = f", with wrinkles and {grey} hair" if p.hair_style != words.NO_HAIR else ", with wrinkles"
        older = replace(p, age=f"in {p.their} eighties", years=84, hair_color=grey)
        return older, f"make the person look eighty years old{hair}"
    color = pick(rng, words.HAIR_COLORS)
    hair = f" and {color} hair" if p.hair_style != words.NO_HAIR else ""
    younger = replace(p, age=f"in {p.their} twenties", years=25, hair_color=color)
    return younger, f"make the person look twenty-five years old, with smooth skin{hair}"


def _clothes(p: Person, rng: random.Random) -> tuple[Person, str] | None:
    if rng.random() < 0.25:
        costume = pick(rng, words.COSTUMES)
        return replace(p, clothes=costume), f"dress the person in {costume}"
    now_color = next(c for c in words.COLORS if p.clothes.startswith(f"{c} "))
    color = pick(rng, words.COLORS, now_color)
    clothes = f"{color} {pick(rng, words.CLOTHES, p.clothes.removeprefix(f'{now_color} '))}"
    return replace(p, clothes=clothes), f"change {p.their} clothes to {with_article(clothes)}"


def _background(p: Person, rng: random.Random) -> tuple[Person, str] | None:
    scene = pick(rng, words.FAR_SCENES if rng.random() < 0.4 else words.SCENES, p.scene)
    return replace(p, scene=scene), f"change the background to {scene}"


def _earrings(p: Person, rng: random.Random) -> tuple[Person, str] | None:
    if p.earrings:
        return None
    earrings = rng.choice(("large golden hoop earrings", "long silver earrings", "large green gemstone earrings"))
    return replace(p, earrings=earrings), f"add {earrings}"


def _light(p: Person, rng: random.Random) -> tuple[Person, str] | None:
    light, caption = rng.choice(words.NEW_LIGHTS)
    return replace(p, extra=(*p.extra, caption)), f"change the lighting to {light}"


def _smile(p: Person, rng: random.Random) -> tuple[Person, str] | None:
    if p.expression in ("a slight smile", "a cheerful expression"):
        return replace(p, expression="a serious expression"), "make the person look serious, without a smile"
    return replace(p, expression="a slight smile"), "make the person smile a little with closed lips"


def _face_paint(p: Person, rng: random.Random) -> tuple[Person, str] | None:
    paint = rng.choice(words.FACE_PAINTS)
    return replace(p, extra=(*p.extra, f"the face painted with {paint}")), f"paint {paint} onto {p.their} face"


def _style(p: Person, rng: random.Random) -> tuple[Person, str] | None:
    style, caption = rng.choice(words.STYLES)
    return replace(p, extra=(*p.extra, caption)), f"turn the picture into {style}"


_EDITS: dict[str, tuple[Edit, float]] = {
    "hair_color": (_hair_color, 1.2), "hair_style": (_hair_style, 1.2), "glasses": (_glasses, 1.0), "hat": (_hat, 1.0),
    "beard": (_beard, 0.8), "makeup": (_makeup, 0.6), "eye_color": (_eye_color, 0.3), "age": (_age, 0.7),
    "clothes": (_clothes, 1.2), "background": (_background, 1.2), "earrings": (_earrings, 0.4), "light": (_light, 0.5),
    "smile": (_smile, 0.3), "face_paint": (_face_paint, 0.3), "style": (_style, 0.6),
}  # fmt: skip
EDIT_KINDS: tuple[str, ...] = tuple(_EDITS)
_CLASHES = {
    "hair_color": ("age",), "hair_style": ("age", "hat"), "age": ("hair_color", "hair_style", "beard"),
    "hat": ("hair_style", "earrings"), "beard": ("age",), "makeup": ("face_paint",), "face_paint": ("makeup", "age"),
    "background": ("light",), "light": ("background",),
}  # fmt: skip


def with_article(text: str) -> str:
    """With "a" or "an" before a single thing; plurals and what has an article stay."""
    if text.startswith(("a ", "an ", "the ", "large ")) or text.endswith("s"):
        return text
    return f"{'an' if text[0] in 'aeiou' else 'a'} {text}"
