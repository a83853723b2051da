"""A short sentence about a person, the text prompt of a training pair."""

from __future__ import annotations

from synclora.portraits.person import Person

MAX_BYTES = 95


def caption(person: Person) -> str:
    """Describe a person in at most 95 ASCII bytes; the least telling details are left out first."""
    p = person
    age = "young" if p.age < 34 else "middle-aged" if p.age < 56 else "old"
    article = "an" if age == "old" else "a"
    style = {"side_part": "side-parted", "fringe": "fringed", "buzz": "buzz-cut", "swept": "swept-back"}.get(
        p.hair_style, p.hair_style
    )
    if p.hair_style == "bald":
        hair = "a bald head"
    elif p.hair_style in ("afro", "bob", "bun"):
        hair = f"a {p.hair_color} {p.hair_style}"
    else:
        hair = f"{style} {p.hair_color} hair"
    traits = [hair]
    if p.beard != "none":
        traits.append({"full": "a full beard", "stubble": "stubble"}.get(p.beard, f"a {p.beard}"))
    if p.glasses != "none":
        traits.append("sunglasses" if p.glasses == "sun" else f"{p.glasses} glasses")
    if p.hat != "none":
        traits.append(f"a {p.hat_color} {p.hat}")
    if p.lipstick != "none":
        traits.append(f"{p.lipstick} lipstick")
    if p.earrings != "none":
        traits.append("earrings")
    garment = {"crew": "sweater", "v_neck": "v-neck", "collar": "shirt", "stripes": "striped top", "hoodie": "hoodie"}[
        p.clothes
    ]
    wear = f", in a {p.clothes_color} {garment}"
    smile = ", smiling" if p.smile_offset > 0.25 else ""

    def sentence(parts: list[str], tail: str) -> str:
        joined = parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]
        return f"{article} {age} {p.look} with {joined}{tail}"

    while len(text := sentence(traits, wear + smile)) > MAX_BYTES and len(traits) > 1:
        traits.pop()
    return text if len(text) <= MAX_BYTES else sentence(traits, wear)
