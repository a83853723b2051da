"""Edits of filmed clips whose true result is known, because it is computed frame by frame from the clip itself.

identity    nothing changes: what the method itself costs
grade       a colour grade of the whole picture
hair        the hair in another colour
clothes     the clothes in another colour
background  another background behind the person
glasses     spectacles pinned to the face mesh
makeup      lips, brows and eye lids in colour, pinned to the face mesh

Each is a function of the clip's frames, mesh and masks and of a seed; the look that the seed draws stays the same
through the clip. What cannot be done well is not done: no hair colour where no hair was found, no spectacles over
spectacles.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from synclora.bench import worn
from synclora.bench.matting import Layers, foreground
from synclora.bench.pixels import Colour, Frames, Mask, labs_of, mixed, to_lab, to_rgb
from synclora.bench.scenes import scene

HAIR_COLOURS = (
    (126, 44, 24),
    (176, 96, 44),
    (206, 170, 110),
    (36, 28, 26),
    (44, 62, 132),
    (168, 70, 110),
    (90, 60, 38),
)
CLOTHES_COLOURS = (
    (150, 34, 40),
    (32, 62, 120),
    (34, 92, 66),
    (214, 176, 70),
    (92, 50, 104),
    (46, 46, 52),
    (206, 120, 96),
)
FAR_ENOUGH = 22.0  # in Lab, of a new colour from the old
BRIGHTER, DARKER = 26.0, 34.0  # most change of lightness (0 to 100) in which hair and cloth stay believable
CONTRAST = (0.7, 1.7)  # least and most gain of light and shade in a recoloured part
REACH = 2.0  # deviations from the mean that light and shade are kept to: what shines through at an edge is neither
LEAST_BACKGROUND = 0.1  # of the picture


def identity(layers: Layers, seed: int) -> Frames:
    """The clip itself."""
    return layers.frames


def grade(layers: Layers, seed: int) -> Frames:
    """A colour grade: contrast as an S, tinted shadows and lights, saturation."""
    rng = random.Random(seed)
    shadows, lights, saturation, contrast = rng.choice(
        (
            ((0.02, 0.06, 0.12), (1.06, 0.98, 0.8), 0.9, 0.35),  # teal and orange
            ((0.1, 0.05, 0.03), (1.04, 0.95, 0.8), 0.75, 0.0),  # an old print
            ((0.0, 0.02, 0.09), (0.78, 0.9, 1.06), 0.65, 0.25),  # blue hour
            ((0.03, 0.03, 0.03), (1.0, 0.99, 0.96), 0.0, 0.45),  # black and white
            ((0.06, 0.0, 0.08), (1.05, 0.92, 0.98), 1.25, 0.15),  # magenta film
        )
    )
    low, high = np.array(shadows, np.float32), np.array(lights, np.float32)
    result = np.empty_like(layers.frames)
    for index, frame in enumerate(layers.frames):
        picture = frame.astype(np.float32) / 255
        grey = (picture @ np.array([0.2126, 0.7152, 0.0722], np.float32))[..., None]
        picture = grey + saturation * (picture - grey)
        picture = picture + contrast * (picture * picture * (3 - 2 * picture) - picture)
        result[index] = np.clip((low + (high - low) * picture) * 255 + 0.5, 0, 255)
    return result


def hair(layers: Layers, seed: int) -> Frames | None:
    """The hair in another colour, light and shade kept."""
    return None if layers.hair is None else _recoloured(layers.frames, layers.hair, HAIR_COLOURS, seed)


def clothes(layers: Layers, seed: int) -> Frames | None:
    """The clothes in another colour, folds kept."""
    return None if layers.clothes is None else _recoloured(layers.frames, layers.clothes, CLOTHES_COLOURS, seed)


def background(layers: Layers, seed: int) -> Frames | None:
    """A drawn, still background; the soft edge of the person keeps nothing of the old one."""
    person = layers.person
    if not LEAST_BACKGROUND < 1 - float(person.mean()) < 1 - LEAST_BACKGROUND:
        return None
    behind = scene(layers.frames.shape[1], layers.frames.shape[2], seed).astype(np.float32)
    result = np.empty_like(layers.frames)
    for index, (frame, alpha) in enumerate(zip(layers.frames, person, strict=True)):
        front = np.where((alpha == 1)[..., None], frame, foreground(frame, alpha))
        mixed = alpha[..., None] * front + (1 - alpha[..., None]) * behind
        result[index] = np.clip(mixed.round(), 0, 255)
    return result


def glasses(layers: Layers, seed: int) -> Frames | None:
    """Spectacles on a face without."""
    return None if worn.wears_glasses(layers) else worn.glasses(layers, seed)


EDITS: dict[str, Callable[[Layers, int], Frames | None]] = {
    "identity": identity,
    "grade": grade,
    "hair": hair,
    "clothes": clothes,
    "background": background,
    "glasses": glasses,
    "makeup": worn.make_up,
}


def composite(layers: Layers, kind: str, seed: int) -> Frames | None:
    """The edited clip, uint8 [F, H, W, 3]; None where this clip cannot take this kind of edit (a key of EDITS)."""
    return EDITS[kind](layers, seed)


def _recoloured(frames: Frames, mask: Mask, colours: Sequence[Colour], seed: int) -> Frames:
    """A part of the picture in one of the colours, far enough from its own: in Lab, with lightness moved and stretched
    about the part's mean over the clip, and the new hue as strong as there is light."""
    labs = np.stack([to_lab(frame) for frame in frames])
    mean = np.average(labs.reshape(-1, 3), axis=0, weights=mask.ravel())
    deviation = float(np.sqrt(np.average((labs[..., 0] - mean[0]).ravel() ** 2, weights=mask.ravel())))
    aim = _new_colour(mean, colours, seed)
    gain = float(np.clip(0.3 * aim[0] / max(deviation, 1.0), *CONTRAST))
    result = np.empty_like(frames)
    for index, (lab, cover) in enumerate(zip(labs, mask, strict=True)):
        apart = np.clip(lab[..., 0] - mean[0], -REACH * deviation, REACH * deviation)
        light = np.maximum(aim[0] + gain * apart, 0)[..., None]
        hue = aim[1:] * np.clip(light / max(aim[0], 1.0), 0.25, 1.1) + 0.3 * (lab[..., 1:] - mean[1:])
        result[index] = mixed(frames[index], cover, to_rgb(np.concatenate([light, hue], axis=-1)))
    return result


def _new_colour(mean: NDArray, colours: Sequence[Colour], seed: int) -> NDArray:
    """One of the colours in Lab, its lightness within reach of the old, FAR_ENOUGH from the old or farthest."""
    aims = labs_of(colours)
    light = np.clip(aims[:, 0], mean[0] - DARKER, mean[0] + BRIGHTER)
    aims *= (light / np.maximum(aims[:, 0], 1.0))[:, None]  # less light, less colour
    apart = np.linalg.norm(aims - mean, axis=1)
    chosen = np.flatnonzero(apart >= FAR_ENOUGH)
    return aims[random.Random(seed).choice(chosen.tolist()) if len(chosen) else int(apart.argmax())]
