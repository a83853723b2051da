"""Things worn on a filmed face, pinned to its mesh: spectacles and make-up."""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np

from synclora.bench.matting import Layers
from synclora.bench.pixels import (
    Colour,
    Frames,
    Mask,
    blurred,
    filled,
    labs_of,
    mixed,
    smooth_in_time,
    stroked,
    to_lab,
    to_rgb,
)  # fmt: skip
from synclora.faces.head import Array, Head, head_frame
from synclora.faces.irises import sample

# Rings of MediaPipe's face mesh.
LIPS_OUTER = [61, 146, 91, 181, 84, 17, 314, 405, 321, 375, 291, 409, 270, 269, 267, 0, 37, 39, 40, 185]
LIPS_INNER = [78, 95, 88, 178, 87, 14, 317, 402, 318, 324, 308, 415, 310, 311, 312, 13, 82, 81, 80, 191]
BROWS = ([70, 63, 105, 66, 107, 55, 65, 52, 53, 46], [300, 293, 334, 296, 336, 285, 295, 282, 283, 276])
LIDS = (
    ([33, 246, 161, 160, 159, 158, 157, 173, 133], [190, 56, 28, 27, 29, 30, 247, 130]),
    ([263, 466, 388, 387, 386, 385, 384, 398, 362], [414, 286, 258, 257, 259, 260, 467, 359]),
)  # the upper lid's edge, and back along its fold
EYES = ([33, 133], [362, 263])
BRIDGE_TOP, EARS = 168, (234, 454)
FOREHEAD = [151, 9, 108, 337, 107, 336, 69, 299]  # skin about the brows

BRIDGE_LINE = 0.1  # see wears_glasses
RIMS = ((22, 20, 24), (120, 24, 30), (24, 44, 96), (92, 58, 30), (196, 168, 96))
LIP_COLOURS = ((168, 20, 44), (122, 16, 52), (208, 62, 92), (150, 40, 120), (196, 70, 40))
SHADOW_COLOURS = ((70, 60, 130), (40, 96, 110), (130, 64, 100), (92, 66, 44))
BROW_COLOURS = ((34, 24, 22), (84, 44, 26), (60, 42, 34))


@dataclass(frozen=True)
class _Shape:
    """A lens: half width and height in eye distances, the exponent of its outline (2 round, larger squarer), how far
    its upper outer corner is drawn up, and the rim's thickness."""

    wide: float
    tall: float
    square: float
    winged: float
    thick: float


SHAPES = (
    _Shape(0.275, 0.26, 2.0, 0.0, 0.03),
    _Shape(0.3, 0.225, 4.5, 0.02, 0.046),
    _Shape(0.3, 0.23, 2.8, 0.07, 0.042),
)


def glasses(layers: Layers, seed: int) -> Frames:
    """Spectacles: the frame, a glint on it, its shadow, and glass that hardly shows. uint8 [F, H, W, 3].

    They are a rigid thing in the head's own frame (`synclora.faces.head`), so that they follow the skull and no brow.
    """
    rng = random.Random(seed)
    shape, rim = rng.choice(SHAPES), np.array(rng.choice(RIMS), np.float32)
    head = _steady(head_frame(layers.landmarks))
    mean = head.own.mean(0)
    result = np.empty_like(layers.frames)
    for index, frame in enumerate(layers.frames):
        lines, arms, lenses = _spectacles(mean, shape, head, index)
        size, unit = frame.shape[:2], float(head.unit[index])
        bars = stroked(lines, shape.thick * unit, size)
        if arms:
            arm = stroked(arms, 0.8 * shape.thick * unit, size)
            bars = np.maximum(bars, arm if layers.hair is None else arm * (1 - layers.hair[index]))
        glass = np.clip(filled(lenses, size) - bars, 0, 1)
        glint = np.clip(stroked([line - 0.012 * unit for line in lines], 0.3 * shape.thick * unit, size), 0, bars)
        shade = blurred(np.roll(bars, round(0.05 * unit), axis=0), 0.03 * unit)
        picture = frame * (1 - 0.3 * shade * (1 - bars))[..., None]
        picture += 0.05 * glass[..., None] * (235 - picture)
        picture += bars[..., None] * (rim - picture) + 0.35 * glint[..., None] * (255 - rim)
        result[index] = np.clip(picture.round(), 0, 255)
    return result


def make_up(layers: Layers, seed: int) -> Frames:
    """Lipstick, darker brows and eye shadow: the skin keeps its own light and shade. uint8 [F, H, W, 3]."""
    rng = random.Random(seed)
    lips, brow, shadow = rng.choice(LIP_COLOURS), rng.choice(BROW_COLOURS), rng.choice(SHADOW_COLOURS)
    result = np.empty_like(layers.frames)
    for index, (frame, xy) in enumerate(zip(layers.frames, layers.xy, strict=True)):
        size, width = frame.shape[:2], float(np.linalg.norm(xy[EARS[1]] - xy[EARS[0]]))
        mouth = np.clip(filled([xy[LIPS_OUTER]], size) - filled([xy[LIPS_INNER]], size), 0, 1)
        lids = [np.concatenate([xy[edge], xy[fold]]) for edge, fold in LIDS]
        picture = _dyed(frame, blurred(mouth, 0.008 * width), lips, 0.68, 0.42)
        brows = blurred(filled([xy[b] for b in BROWS], size), 0.016 * width)
        picture = _dyed(picture, np.clip(1.5 * brows, 0, 1) * _dark(frame, xy), brow, 0.7, 0.6)
        picture = _dyed(picture, blurred(filled(lids, size), 0.018 * width), shadow, 0.6, 0.3)
        result[index] = picture
    return result


def wears_glasses(layers: Layers) -> bool:
    """Whether the face wears spectacles already: their bridge crosses the nose between the eyes.

    The brightness down the nose's bridge, averaged over the frames in the head's own frame, has a narrow line there:
    its second difference over 0.03 eye distances, as a part of the mean, is 0.15 to 0.33 on two filmed faces with thin
    wire frames and 0.01 to 0.02 on a bare one; 0.7 to 1.6 and at most 0.14 on rendered ones.
    """
    head = head_frame(layers.landmarks)
    x, y = np.meshgrid(np.linspace(-0.05, 0.05, 9), np.arange(-0.16, 0.3, 0.005))
    at = head.own[:, BRIDGE_TOP, None, None] + np.stack([x, y, np.zeros_like(x)], axis=-1)
    light = sample(layers.frames, head.to_picture(at))
    profile = light.reshape(len(light), *x.shape).mean((0, 2))
    bends = profile[12:] - 2 * profile[6:-6] + profile[:-12]
    return float(np.abs(bends).max() / profile.mean()) > BRIDGE_LINE


def _spectacles(mean: Array, shape: _Shape, head: Head, index: int) -> tuple[list[Array], list[Array], list[Array]]:
    """Lines in pixels of frame `index`: rims and bridge, the arms that can be seen, and the lenses' outlines."""
    angle = np.linspace(0, 2 * np.pi, 73)
    middles = [mean[corners].mean(0) for corners in EYES]
    front = float(mean[BRIDGE_TOP, 2]) - 0.06
    level = float(np.mean([middle[1] for middle in middles])) + 0.03
    lenses, arms = [], []
    for side, middle, ear in zip((-1, 1), middles, EARS, strict=True):
        c, s = np.cos(angle), np.sin(angle)
        x = shape.wide * np.sign(c) * abs(c) ** (2 / shape.square)
        y = shape.tall * np.sign(s) * abs(s) ** (2 / shape.square)
        y -= shape.winged * np.clip(side * x / shape.wide, 0, 1) ** 2 * (y < 0)
        wrap = 0.1 * (np.clip(side * (middle[0] + x), 0, None) / 0.65) ** 2  # a frame bends back at its ends
        outline = np.stack([middle[0] * 1.06 + x, level + y, front + wrap], axis=-1)
        lenses.append(outline)
        hinge = outline[np.argmax(side * outline[:, 0] - 0.5 * abs(outline[:, 1] - level + 0.6 * shape.tall))]
        end = np.array([mean[ear, 0], level - 0.35 * shape.tall, mean[ear, 2]])
        arm = hinge + np.linspace(0, 0.9, 12)[:, None] * (end - hinge)
        placed = _placed(arm, head, index)
        across = _placed(np.array([[1.0, 0, 0], [0, 0, 0]]), head, index)
        if side * (placed[-1] - placed[0]) @ (across[0] - across[1]) > 0:  # not behind the face
            arms.append(placed)
    bow = np.linspace(-1, 1, 9)[:, None]
    inner = middles[1][0] * 1.06 - shape.wide
    bridge = np.concatenate([inner * bow, level - 0.06 - 0.05 * (1 - bow**2), front - 0.03 * (1 - bow**2)], axis=1)
    rims = [_placed(lens, head, index) for lens in lenses]
    return [*rims, _placed(bridge, head, index)], arms, rims


def _placed(own: Array, head: Head, index: int) -> Array:
    """Points [N, 3] of the head's frame in the picture of frame `index`, [N, 2]."""
    return (own @ head.axes[index].T * head.unit[index] + head.middle[index])[:, :2]


def _steady(head: Head) -> Head:
    """The same head with what trembles in its pose from frame to frame taken off."""
    axes = smooth_in_time(head.axes)
    u, _, vt = np.linalg.svd(axes)
    return Head(head.own, np.asarray(u @ vt, np.float64), smooth_in_time(head.unit), smooth_in_time(head.middle))


def _dyed(frame: Frames, cover: Mask, colour: Colour, strength: float, darker: float) -> Frames:
    """Mix a colour in: hue by `strength`, lightness towards the colour's by `darker`, kept relative to its region."""
    lab, aim = to_lab(frame), labs_of([colour])[0]
    weight = float(cover.sum())
    mean = max(1.0, float((lab[..., 0] * cover).sum() / weight)) if weight > 0 else 100.0
    light = np.clip(lab[..., :1] / mean, 0.3, 1.3)
    lab[..., 0] *= 1 + darker * (min(aim[0] / mean, 1.0) - 1)
    lab[..., 1:] += strength * (aim[1:] - lab[..., 1:]) * light
    return mixed(frame, cover, to_rgb(lab))


def _dark(frame: Frames, xy: Array) -> Mask:
    """How much darker than the forehead each pixel is, in [0, 1]: the hairs of a brow, wherever the mesh has it."""
    light = frame.mean(-1).astype(np.float32)
    x, y = np.clip(np.round(xy[FOREHEAD]).astype(int), 0, np.array(light.shape[::-1]) - 1).T
    skin = float(np.median(light[y, x]))
    return np.clip((0.88 * skin - light) / (0.2 * skin), 0, 1)
