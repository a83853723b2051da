"""Who is in the picture: every trait of a procedural portrait as plain, JSON-friendly values.

python -c "from synclora.portraits import sample_person; print(sample_person(7).to_dict())"
"""

from __future__ import annotations

import dataclasses
import random
from dataclasses import dataclass
from typing import Any

Color = tuple[float, float, float]

TEST_SEED_START = 1_000_000
"""Seeds from here on are held out: people and motions with such seeds are for tests only, never for training."""

HAIR_STYLES = ("bald", "buzz", "short", "side_part", "swept", "curly", "afro", "fringe", "bob", "long", "bun")
HAIR_COLORS: dict[str, Color] = {
    "black": (0.10, 0.085, 0.08), "dark brown": (0.23, 0.145, 0.095), "brown": (0.37, 0.235, 0.145),
    "auburn": (0.46, 0.20, 0.11), "red": (0.68, 0.29, 0.11), "blond": (0.80, 0.62, 0.34),
    "platinum": (0.90, 0.83, 0.68), "grey": (0.57, 0.57, 0.58), "white": (0.86, 0.86, 0.85),
    "blue": (0.16, 0.33, 0.68), "pink": (0.86, 0.40, 0.58), "purple": (0.42, 0.22, 0.58), "teal": (0.10, 0.48, 0.48),
}  # fmt: skip
NATURAL_HAIR = ("black", "dark brown", "brown", "auburn", "red", "blond")
EYE_COLORS: dict[str, Color] = {
    "brown": (0.36, 0.20, 0.10), "dark brown": (0.24, 0.13, 0.07), "hazel": (0.48, 0.36, 0.15),
    "green": (0.29, 0.48, 0.26), "blue": (0.26, 0.48, 0.74), "grey": (0.48, 0.54, 0.59),
}  # fmt: skip
SKIN_TONES: dict[str, Color] = {
    "pale": (0.95, 0.79, 0.70), "fair": (0.91, 0.71, 0.59), "light": (0.86, 0.65, 0.51), "tan": (0.77, 0.55, 0.40),
    "olive": (0.72, 0.53, 0.37), "brown": (0.58, 0.38, 0.26), "dark": (0.43, 0.27, 0.19), "deep": (0.33, 0.205, 0.15),
}  # fmt: skip
FABRICS: dict[str, Color] = {
    "red": (0.70, 0.14, 0.15), "green": (0.17, 0.45, 0.27), "blue": (0.16, 0.32, 0.63), "navy": (0.10, 0.14, 0.29),
    "white": (0.90, 0.90, 0.89), "black": (0.12, 0.12, 0.13), "yellow": (0.88, 0.68, 0.18), "teal": (0.10, 0.48, 0.49),
    "purple": (0.41, 0.24, 0.55), "grey": (0.47, 0.48, 0.51), "orange": (0.88, 0.43, 0.13), "pink": (0.87, 0.53, 0.60),
}  # fmt: skip
BACKDROPS: dict[str, Color] = {
    "blue": (0.45, 0.58, 0.72), "beige": (0.80, 0.73, 0.62), "green": (0.38, 0.52, 0.42), "grey": (0.58, 0.60, 0.63),
    "purple": (0.48, 0.42, 0.60), "orange": (0.82, 0.56, 0.38), "teal": (0.28, 0.52, 0.55), "dark": (0.17, 0.19, 0.24),
    "pink": (0.84, 0.64, 0.66), "yellow": (0.86, 0.76, 0.46),
}  # fmt: skip
LIP_COLORS: dict[str, Color] = {
    "red": (0.72, 0.08, 0.12), "plum": (0.45, 0.10, 0.26), "coral": (0.88, 0.32, 0.25), "pink": (0.86, 0.30, 0.46),
}  # fmt: skip
SHADOW_COLORS: dict[str, Color] = {
    "blue": (0.22, 0.34, 0.66), "violet": (0.45, 0.22, 0.55), "green": (0.14, 0.45, 0.36), "bronze": (0.46, 0.25, 0.13),
}  # fmt: skip
BEARDS = ("none", "stubble", "moustache", "goatee", "full")
GLASSES = ("none", "round", "square", "thin", "sun")
HATS = ("none", "beanie", "cap", "bowler")
EARRINGS = ("none", "stud", "hoop", "drop")
CLOTHES = ("crew", "v_neck", "collar", "stripes", "hoodie")
BACKGROUNDS = ("gradient", "bokeh", "wall", "room")


@dataclass(frozen=True)
class Person:
    """One portrait subject with clothes, surroundings and light.

    Lengths are head units (1.0 = 100 mm) or factors around 1. Named colours index this module's tables; `skin` is an
    sRGB triple in [0, 1]. Angles are degrees. `smile_offset` in [-1, 1] is added to the motion's smile, which makes a
    smiling twin of a person under the same motion.
    """

    seed: int  # textures (strands, freckles, backdrop shapes) draw from it
    look: str  # "man" or "woman": the caption's noun
    age: float  # years, 18..85
    skin: Color
    skin_name: str
    freckles: float  # 0..1
    blush: float  # 0..1
    head_width: float
    head_height: float
    jaw_width: float
    chin_length: float
    chin_size: float
    cheek_size: float
    brow_ridge: float  # 0..1
    nose_width: float
    nose_length: float
    nose_height: float
    lip_fullness: float
    mouth_size: float
    eye_size: float
    eye_spacing: float
    eye_tilt: float  # -1..1, outer corner up
    eye_openness: float
    ear_size: float
    brow_thickness: float
    brow_arch: float  # 0..1
    eye_color: str
    hair_style: str
    hair_color: str
    hair_volume: float
    hairline: float  # -1 (low) .. 1 (receding)
    part_side: float  # -1 or 1
    beard: str
    lipstick: str  # "none" or a LIP_COLORS name
    eye_shadow: str  # "none" or a SHADOW_COLORS name
    glasses: str
    glasses_color: str
    hat: str
    hat_color: str
    earrings: str
    clothes: str
    clothes_color: str
    clothes_accent: str
    background: str
    background_color: str
    background_accent: str
    light_azimuth: float  # degrees, 0 = camera, positive = from image right
    light_elevation: float  # degrees
    light_warmth: float  # -1 (cold) .. 1 (warm)
    light_contrast: float  # 0 (flat) .. 1 (hard)
    smile_offset: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """All traits as plain JSON values."""
        data = dataclasses.asdict(self)
        data["skin"] = list(self.skin)
        return data

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Person:
        """The inverse of `to_dict`. Raises ValueError naming unknown or missing traits."""
        names = {f.name for f in dataclasses.fields(cls)}
        required = {f.name for f in dataclasses.fields(cls) if f.default is dataclasses.MISSING}
        unknown, missing = sorted(set(data) - names), sorted(required - set(data))
        if unknown or missing:
            raise ValueError(f"Person: unknown traits {unknown}, missing traits {missing}; expected {sorted(names)}")
        r, g, b = data["skin"]
        return cls(**{**data, "skin": (float(r), float(g), float(b))})

    def replace(self, **traits: Any) -> Person:
        """A copy with some traits changed."""
        return dataclasses.replace(self, **traits)


def skin_color(name: str, rng: random.Random) -> Color:
    """A tone near SKIN_TONES[name], sRGB in [0, 1]."""
    r, g, b = SKIN_TONES[name]
    light, warm = rng.uniform(0.94, 1.05), rng.uniform(-0.02, 0.02)
    return (round(min(1.0, r * light + warm), 4), round(min(1.0, g * light), 4), round(min(1.0, b * light - warm), 4))


def sample_person(seed: int) -> Person:
    """Draw a person; the same seed gives the same person. Seeds >= TEST_SEED_START are held out for tests.

    Raises ValueError for a negative seed.
    """
    if seed < 0:
        raise ValueError(f"sample_person: seed {seed}; need 0 or more")
    rng = random.Random(f"person-{seed}")

    def around(spread: float, center: float = 1.0) -> float:
        return round(center + max(-2.0, min(2.0, rng.gauss(0.0, 0.75))) * spread, 4)

    look = rng.choice(("man", "woman"))
    man = look == "man"
    age = round(rng.choice((rng.uniform(18, 35), rng.uniform(25, 60), rng.uniform(55, 85))), 1)
    tone = rng.choice(tuple(SKIN_TONES))
    dark = tone in ("brown", "dark", "deep")
    styles = (
        ("bald", "buzz", "short", "short", "side_part", "swept", "curly", "afro", "long")
        if man
        else ("long", "long", "bob", "bob", "bun", "fringe", "curly", "afro", "side_part", "short")
    )
    style = rng.choice(styles)
    if dark:
        natural = rng.choice(("black", "black", "dark brown"))
    else:
        natural = rng.choice(NATURAL_HAIR)
    grey = rng.random() < min(0.8, max(0.0, (age - 56.0) / 28.0))
    color = rng.choice(("grey", "grey", "white")) if grey else natural
    if age < 45 and rng.random() < 0.08:
        color = rng.choice(("blue", "pink", "purple", "teal", "platinum"))
    made_up = (not man) and rng.random() < 0.45
    cloth = rng.sample(tuple(FABRICS), 2)
    drop = rng.sample(tuple(BACKDROPS), 2)
    hatted = rng.random() < 0.13
    return Person(
        seed=seed, look=look, age=age, skin=skin_color(tone, rng), skin_name=tone,
        freckles=round(rng.uniform(0.4, 1.0), 3) if not dark and rng.random() < 0.2 else 0.0,
        blush=round(rng.uniform(0.1, 0.6), 3),
        head_width=around(0.035, 1.02 if man else 0.985), head_height=around(0.03),
        jaw_width=around(0.07, 1.06 if man else 0.95), chin_length=around(0.05, 1.02 if man else 0.98),
        chin_size=around(0.12), cheek_size=around(0.08),
        brow_ridge=round(rng.uniform(0.4, 1.0) if man else rng.uniform(0.0, 0.5), 3),
        nose_width=around(0.11, 1.12 if dark else 1.0), nose_length=around(0.07), nose_height=around(0.12),
        lip_fullness=around(0.14, 1.15 if dark else (0.95 if man else 1.08)), mouth_size=around(0.06),
        eye_size=around(0.05, 1.0 if man else 1.06), eye_spacing=around(0.03),
        eye_tilt=round(rng.uniform(-0.5, 0.9), 3),
        eye_openness=around(0.09), ear_size=around(0.1),
        brow_thickness=around(0.18, 1.15 if man else 0.8), brow_arch=round(rng.uniform(0.1, 1.0), 3),
        eye_color=rng.choice(("brown", "dark brown") if dark else tuple(EYE_COLORS)),
        hair_style=style, hair_color=color, hair_volume=around(0.14),
        hairline=round(rng.uniform(-0.6, 0.5 + (0.5 if man and age > 45 else 0)), 3),
        part_side=rng.choice((-1.0, 1.0)),
        beard=rng.choice(("none", "none", "none", "stubble", "moustache", "goatee", "full")) if man else "none",
        lipstick=rng.choice(tuple(LIP_COLORS)) if made_up else "none",
        eye_shadow=rng.choice(tuple(SHADOW_COLORS)) if made_up and rng.random() < 0.6 else "none",
        glasses=rng.choice(("round", "square", "thin")) if rng.random() < 0.24 else "none",
        glasses_color=rng.choice(("black", "red", "blue", "grey", "navy")),
        hat=rng.choice(("beanie", "cap", "bowler")) if hatted else "none", hat_color=rng.choice(tuple(FABRICS)),
        earrings=rng.choice(("stud", "hoop", "drop")) if not man and rng.random() < 0.45 else "none",
        clothes=rng.choice(CLOTHES), clothes_color=cloth[0], clothes_accent=cloth[1],
        background=rng.choice(BACKGROUNDS), background_color=drop[0], background_accent=drop[1],
        light_azimuth=round(rng.choice((-1, 1)) * rng.uniform(15, 50), 2),
        light_elevation=round(rng.uniform(20, 50), 2),
        light_warmth=round(rng.uniform(-0.6, 0.8), 3), light_contrast=round(rng.uniform(0.3, 0.8), 3),
    )  # fmt: skip
