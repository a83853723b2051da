"""The words that portraits and edits are made of, each with its weight; `prompts` puts them together.

A list says what may be chosen in one place of a sentence. Weights are relative within a list and only make rare what
would look odd if it were common (pink hair); skin, clothes and scene are drawn independently of one another.
"""

from __future__ import annotations

Weighted = dict[str, float]


def equal(*words: str) -> Weighted:
    """Words of equal weight."""
    return dict.fromkeys(words, 1.0)


# Adults only: the grammar makes no picture of a child.
AGES: dict[str, tuple[int, float]] = {  # words -> about how old in years, weight
    "in {their} early twenties": (22, 1.0),
    "in {their} late twenties": (28, 1.2),
    "in {their} thirties": (35, 1.4),
    "in {their} forties": (45, 1.2),
    "in {their} fifties": (55, 1.0),
    "in {their} sixties": (65, 0.8),
    "in {their} seventies": (75, 0.6),
    "in {their} eighties": (84, 0.3),
}
GENDERS: Weighted = {"woman": 1.0, "man": 1.0, "androgynous person": 0.12}
PRONOUNS = {"woman": "her", "man": "his", "androgynous person": "their"}

SKINS = equal(
    "very fair skin", "fair skin", "light skin with freckles", "light olive skin", "olive skin", "tan skin",
    "light brown skin", "medium brown skin", "deep brown skin", "very dark skin",
)  # fmt: skip
FACES = equal(
    "a round face", "an oval face", "a narrow face", "a square jaw", "high cheekbones", "full cheeks", "a strong chin",
    "a broad nose", "a straight nose", "full lips", "deep-set eyes", "wide-set eyes", "thick eyebrows", "thin eyebrows",
)  # fmt: skip
EYES: Weighted = {"brown": 3, "dark brown": 3, "hazel": 1.5, "green": 1, "blue": 1.5, "grey": 1}

# style -> weight for a woman, for a man; any other gender takes the mean.
HAIR_STYLES: dict[str, tuple[float, float]] = {
    "long straight": (1.5, 0.3), "long wavy": (1.5, 0.3), "long curly": (1.2, 0.3),
    "shoulder-length straight": (1.2, 0.3), "shoulder-length wavy": (1.2, 0.4), "chin-length": (1.0, 0.3),
    "short straight": (0.7, 1.5), "short wavy": (0.6, 1.2), "short curly": (0.7, 1.2), "cropped": (0.5, 1.2),
    "buzz-cut": (0.15, 1.0), "slicked-back": (0.3, 0.9),
    "coily natural": (0.7, 0.7), "braided": (0.7, 0.4), "side-parted": (0.5, 1.0), "tied-back": (1.0, 0.4),
    "shaved": (0.05, 0.6),
}  # fmt: skip
LONG_HAIR = ("long straight", "long wavy", "long curly", "shoulder-length straight", "shoulder-length wavy")
NO_HAIR = "shaved"
HAIR_COLORS: Weighted = {
    "black": 2, "dark brown": 2, "brown": 2, "auburn": 1, "red": 0.7, "dark blond": 1, "blond": 1,
    "platinum blond": 0.4,
}  # fmt: skip
GREY_HAIR: Weighted = {"grey": 1.5, "silver": 1, "white": 1}
DYED_HAIR: Weighted = {"pink": 1, "blue": 1, "teal": 0.6, "purple": 1, "copper red": 1}

BEARDS: Weighted = {
    "": 3, "stubble": 1.2, "a short beard": 1, "a full beard": 0.8, "a long beard": 0.3, "a goatee": 0.5,
    "a moustache": 0.5,
}  # fmt: skip
GLASSES: Weighted = {
    "": 5, "round metal glasses": 0.5, "square black glasses": 0.5, "thin gold-rimmed glasses": 0.4,
    "tortoiseshell glasses": 0.5, "clear-framed glasses": 0.3, "red-framed glasses": 0.2,
}  # fmt: skip
HATS: Weighted = {
    "": 9, "a knitted beanie": 0.4, "a baseball cap worn backwards": 0.3, "a wide-brimmed felt hat": 0.3,
    "a straw hat": 0.3, "a flat cap": 0.3, "a beret": 0.3,
}  # fmt: skip
NEW_HATS = (
    "a {color} knitted beanie", "a {color} baseball cap", "a {color} bowler hat", "a {color} beret", "a straw hat",
    "a {color} cowboy hat", "a {color} felt fedora", "a {color} bicycle helmet", "a golden crown", "a flower crown",
    "a {color} bandana", "large {color} headphones",
)  # fmt: skip
EARRINGS: Weighted = {"": 4, "small stud earrings": 0.6, "silver hoop earrings": 0.6, "pearl earrings": 0.4}
MAKEUP = equal(
    "bold red lipstick and dark eyeliner", "plum lipstick", "coral lipstick and bronze eye shadow",
    "blue eye shadow and pink lipstick", "smoky eye make-up", "golden glitter on the eyelids", "green eye shadow",
)  # fmt: skip

COLORS = equal(
    "black", "white", "grey", "navy blue", "sky-blue", "dark green", "olive green", "mustard yellow", "red", "burgundy",
    "orange", "purple", "pink", "teal", "beige", "brown",
)  # fmt: skip
CLOTHES = equal(
    "crew-neck sweater", "turtleneck", "linen shirt", "denim jacket over a T-shirt", "plain T-shirt",
    "hooded sweatshirt",
    "button-up shirt", "knitted cardigan", "blazer over a shirt", "raincoat", "polo shirt", "striped top", "wool coat",
    "fleece jacket", "workwear jacket", "leather jacket", "silk blouse", "corduroy overshirt",
)  # fmt: skip
COSTUMES = equal(
    "a medieval suit of armour", "an astronaut's suit", "a chef's jacket", "a firefighter's jacket", "a doctor's coat",
    "a wizard's robe", "a tuxedo with a bow tie", "a football jersey", "a diving suit", "a kimono",
)  # fmt: skip

INDOORS = equal(
    "a library with tall shelves", "a bright kitchen", "a living room with plants", "an office with a large window",
    "a workshop with tools on the wall", "a quiet café", "a train compartment", "a greenhouse", "a museum hall",
    "a classroom", "a garage", "a market hall", "a stairwell of raw concrete", "a brick wall",
    "a wall of weathered wood", "a photo studio with a grey backdrop", "a photo studio with a white backdrop",
    "a photo studio with a dark blue backdrop",
)  # fmt: skip
OUTDOORS = equal(
    "a city street", "a park with trees", "a beach", "a forest path", "a mountain trail", "a rooftop terrace",
    "a garden in bloom", "a field of tall grass", "a harbour", "a snowy street",
)  # fmt: skip
SCENES = INDOORS | OUTDOORS
FAR_SCENES = equal(
    "a desert with dunes", "the surface of the Moon", "an underwater reef", "a medieval castle",
    "a night city with neon",
    "a snowy mountain range", "a jungle", "a starry sky", "a theatre stage", "a field of sunflowers",
)  # fmt: skip
LIGHTS_INDOORS = equal(
    "soft window light from the left", "soft window light from the right", "a large softbox from the front",
    "warm lamp light", "bright diffuse daylight", "gentle side light with a soft shadow",
)  # fmt: skip
LIGHTS_OUTDOORS = equal(
    "even overcast daylight", "warm evening sun", "cool morning light", "bright diffuse daylight",
    "golden-hour backlight with a fill from the front", "open shade",
)  # fmt: skip
NEW_LIGHTS = (
    ("warm orange sunset light from the left", "in warm sunset light"), ("cold blue moonlight", "in blue moonlight"),
    ("red and blue neon light", "in red and blue neon light"), ("candlelight from below", "in candlelight"),
    ("hard white light from the right", "in hard light from the right"), ("soft pink light", "in soft pink light"),
)  # fmt: skip
FRAMINGS: Weighted = {
    "head and shoulders": 2, "from the chest up": 1.5, "a close-up with the whole head in the frame": 1,
    "head and shoulders, filmed at eye level with a 50 mm lens": 1,
    "head and shoulders, filmed with an 85 mm lens, the background softly blurred": 1.5,
}  # fmt: skip
POSES: Weighted = {
    "facing the camera": 3, "the head turned slightly to the left": 0.7, "the head turned slightly to the right": 0.7,
    "the head tilted a little": 0.7,
}  # fmt: skip
EXPRESSIONS: Weighted = {
    "a relaxed expression": 2, "a calm expression": 1.5, "a slight smile": 1.5, "a serious expression": 1,
    "an attentive expression": 1, "a thoughtful expression": 0.8, "a cheerful expression": 1,
}  # fmt: skip

STYLES = (
    ("an oil painting with visible brush strokes", "as an oil painting"),
    ("a watercolour painting", "as a watercolour painting"), ("a pencil drawing on paper", "as a pencil drawing"),
    ("a 3D animated film character", "as a 3D animated film character"),
    ("a hand-drawn animation character", "as a hand-drawn animation character"),
    ("a black-and-white film photograph", "in black and white"), ("a clay figure", "as a clay figure"),
    ("a marble statue", "as a marble statue"), ("a comic book drawing with ink outlines", "as a comic book drawing"),
)  # fmt: skip
FACE_PAINTS = (
    "a tiger's stripes", "a butterfly", "a skull", "colourful dots", "white clown make-up",
    "golden lines", "a star over one eye",
)  # fmt: skip

TOPICS = equal(
    "a trip by train", "the recipe of a soup", "the weather of the week", "a film seen last night", "a book",
    "an old friend", "the way to the station", "a plan for the garden", "a football match", "a mistake at work",
    "a funny misunderstanding", "learning to swim", "the repair of a bicycle", "the neighbour's cat", "a song",
    "the news of the day", "an idea for a present", "a childhood memory", "a concert", "the rules of a game",
)  # fmt: skip
MANNERS = equal(
    "calmly", "with energy", "slowly and clearly", "quickly", "thoughtfully, with pauses", "with a smile", "seriously",
    "with raised eyebrows now and then", "softly", "with surprise",
)  # fmt: skip
GESTURES = equal(
    "blinks a few times", "looks to the left and back into the camera", "looks to the right and back into the camera",
    "nods", "shakes the head slowly", "tilts the head to one side", "raises the eyebrows", "looks down for a moment",
    "looks up as if thinking", "turns the head to the left and back", "turns the head to the right and back",
    "blinks slowly", "leans forward a little", "frowns for a moment", "smiles and becomes serious again",
)  # fmt: skip
SILENT = equal(
    "listens to somebody behind the camera", "breaks into a smile", "laughs", "yawns", "sings a few words",
    "whispers a few words", "counts from one to five", "mouths the vowels a, e, i, o, u one after the other",
)  # fmt: skip
