"""Edits: a person with something changed, always visibly, everything else and every motion untouched."""

from __future__ import annotations

import random
from collections.abc import Callable

from synclora.portraits import person as traits
from synclora.portraits.person import Person


def _other(rng: random.Random, options: tuple[str, ...], *avoid: str) -> str:
    return rng.choice([o for o in options if o not in avoid])


def _apart(rng: random.Random, table: dict[str, traits.Color], now: traits.Color, least: float) -> str:
    """A name whose colour differs visibly (Euclidean sRGB distance >= least) from the present one."""
    far = [n for n, c in table.items() if sum((a - b) ** 2 for a, b in zip(c, now, strict=True)) ** 0.5 >= least]
    return rng.choice(far)


def _hair_color(p: Person, rng: random.Random) -> Person:
    new = p.replace(hair_color=_apart(rng, traits.HAIR_COLORS, traits.HAIR_COLORS[p.hair_color], 0.3))
    return new if p.hair_style != "bald" else new.replace(hair_style="short")


def _hair_style(p: Person, rng: random.Random) -> Person:
    flat = ("bald", "buzz", "short", "side_part", "swept")
    options = tuple(s for s in traits.HAIR_STYLES if not (s in flat[1:] and p.hair_style in flat[1:]))
    return p.replace(hair_style=_other(rng, options, p.hair_style))


def _glasses(p: Person, rng: random.Random) -> Person:
    if p.glasses != "none" and rng.random() < 0.4:
        return p.replace(glasses="none")
    return p.replace(
        glasses=_other(rng, ("round", "square", "thin"), p.glasses),
        glasses_color=rng.choice(("black", "red", "blue", "navy")),
    )


def _hat(p: Person, rng: random.Random) -> Person:
    if p.hat != "none" and rng.random() < 0.4:
        return p.replace(hat="none")
    return p.replace(hat=_other(rng, traits.HATS, "none", p.hat), hat_color=rng.choice(tuple(traits.FABRICS)))


def _beard(p: Person, rng: random.Random) -> Person:
    if p.beard in ("full", "goatee", "moustache"):
        return p.replace(beard="none")
    return p.replace(beard=rng.choice(("full", "full", "goatee", "moustache")))


def _makeup(p: Person, rng: random.Random) -> Person:
    if p.lipstick != "none" and p.eye_shadow != "none" and rng.random() < 0.5:
        return p.replace(lipstick="none", eye_shadow="none")
    return p.replace(
        lipstick=_other(rng, tuple(traits.LIP_COLORS), p.lipstick),
        eye_shadow=_other(rng, tuple(traits.SHADOW_COLORS), p.eye_shadow),
    )


def _eye_color(p: Person, rng: random.Random) -> Person:
    return p.replace(eye_color=_apart(rng, traits.EYE_COLORS, traits.EYE_COLORS[p.eye_color], 0.25))


def _age(p: Person, rng: random.Random) -> Person:
    if p.age < 62:
        return p.replace(age=round(rng.uniform(76, 85), 1), hair_color=_other(rng, ("grey", "white"), p.hair_color))
    fresh = (
        rng.choice(("black", "dark brown", "brown", "auburn")) if p.hair_color in ("grey", "white") else p.hair_color
    )
    return p.replace(age=round(rng.uniform(18, 28), 1), hair_color=fresh)


def _skin(p: Person, rng: random.Random) -> Person:
    name = _apart(rng, traits.SKIN_TONES, traits.SKIN_TONES[p.skin_name], 0.28)
    return p.replace(skin_name=name, skin=traits.skin_color(name, rng))


def _clothes(p: Person, rng: random.Random) -> Person:
    color = _apart(rng, traits.FABRICS, traits.FABRICS[p.clothes_color], 0.35)
    return p.replace(
        clothes=_other(rng, traits.CLOTHES, p.clothes),
        clothes_color=color,
        clothes_accent=_other(rng, tuple(traits.FABRICS), color),
    )


def _background(p: Person, rng: random.Random) -> Person:
    color = _apart(rng, traits.BACKDROPS, traits.BACKDROPS[p.background_color], 0.2)
    return p.replace(
        background=_other(rng, traits.BACKGROUNDS, p.background),
        background_color=color,
        background_accent=_other(rng, tuple(traits.BACKDROPS), color),
    )


def _earrings(p: Person, rng: random.Random) -> Person:
    return p.replace(earrings=_other(rng, traits.EARRINGS, "none", p.earrings))


def _light(p: Person, rng: random.Random) -> Person:
    side = -1.0 if p.light_azimuth > 0 else 1.0
    warmth = rng.uniform(0.7, 1.0) if p.light_warmth < 0.1 else rng.uniform(-1.0, -0.7)
    return p.replace(
        light_azimuth=round(side * rng.uniform(35, 60), 2),
        light_warmth=round(warmth, 3),
        light_contrast=round(rng.uniform(0.6, 0.9), 3),
    )


def _smile(p: Person, rng: random.Random) -> Person:
    return p.replace(smile_offset=round(rng.uniform(0.55, 0.8), 3) if p.smile_offset < 0.3 else 0.0)


_EDITS: dict[str, Callable[[Person, random.Random], Person]] = {
    "hair_color": _hair_color, "hair_style": _hair_style, "glasses": _glasses, "hat": _hat, "beard": _beard,
    "makeup": _makeup, "eye_color": _eye_color, "age": _age, "skin": _skin, "clothes": _clothes,
    "background": _background, "earrings": _earrings, "light": _light, "smile": _smile,
}  # fmt: skip

EDIT_KINDS: tuple[str, ...] = tuple(_EDITS)
"""What `apply_edit` can change."""


def apply_edit(person: Person, kind: str, seed: int) -> Person:
    """The person with what `kind` names visibly changed; the same arguments give the same person.

    Raises ValueError for a kind outside EDIT_KINDS.
    """
    if kind not in _EDITS:
        raise ValueError(f"apply_edit: unknown kind {kind!r}; known kinds: {', '.join(EDIT_KINDS)}")
    return _EDITS[kind](person, random.Random(f"edit-{kind}-{seed}"))


def sample_edit(person: Person, seed: int, count: int = 1) -> tuple[Person, tuple[str, ...]]:
    """Apply `count` different random edits; returns the new person and the kinds in the order applied.

    Raises ValueError unless 1 <= count <= len(EDIT_KINDS).
    """
    if not 1 <= count <= len(EDIT_KINDS):
        raise ValueError(f"sample_edit: count {count}; need 1 to {len(EDIT_KINDS)}")
    kinds = tuple(random.Random(f"edit-kinds-{seed}").sample(EDIT_KINDS, count))
    for kind in kinds:
        person = apply_edit(person, kind, seed)
    return person, kinds
