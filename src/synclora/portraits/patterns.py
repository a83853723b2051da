"""Pictures of nothing: seeded patterns in random colours, to dress portraits in and to warp.

    python -c "from synclora.portraits.patterns import pattern; print(pattern(3, 128, 128).shape)"

Clouds, ridges, marble, stripes, rings, checks, dots, cells, cracks, gradients, blobs and fallen leaves, alone or mixed.
They are drawn on the CPU, so that they are the same on every device.
"""

from __future__ import annotations

import colorsys
import math
import random
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from synclora.portraits.geometry import step
from synclora.portraits.textures import noise

MIXED_SHARE = 0.4  # patterns that lay one field's colours over another's
LEAST_CONTRAST = 0.11  # standard deviation of brightness; a flat picture shows no motion
LEAVES = 90
GREY = torch.tensor([0.299, 0.587, 0.114])

Field = Callable[[random.Random, Tensor, Tensor], Tensor]


def _lattice(rng: random.Random, x: Tensor, y: Tensor, across: int) -> Tensor:
    """Smooth noise with `across` features, [h, w] in about [0, 1]."""
    coarse = noise(rng.getrandbits(31), across, across)[None]
    return F.interpolate(coarse, (y.shape[0], x.shape[1]), mode="bicubic", align_corners=True)[0, 0]


def _stretched(field: Tensor) -> Tensor:
    low, high = field.min(), field.max()
    return (field - low) / (high - low).clamp(min=1e-6)


def clouds(rng: random.Random, x: Tensor, y: Tensor) -> Tensor:
    """Fractal noise: octaves whose strength falls as their number of features grows."""
    across, fall = rng.randint(2, 6), rng.uniform(0.45, 0.75)
    octaves = [fall**k * _lattice(rng, x, y, across * 2**k) for k in range(5)]
    return _stretched(torch.stack(octaves).sum(0))


def _ridges(rng: random.Random, x: Tensor, y: Tensor) -> Tensor:
    return _stretched(1.0 - (2.0 * clouds(rng, x, y) - 1.0).abs().sqrt())


def _blobs(rng: random.Random, x: Tensor, y: Tensor) -> Tensor:
    level, soft = rng.uniform(0.4, 0.6), rng.choice((0.01, 0.03, 0.1))
    return step(_stretched(_lattice(rng, x, y, rng.randint(4, 12))), level - soft, level + soft)


def _turned(rng: random.Random, x: Tensor, y: Tensor, waver: float) -> tuple[Tensor, Tensor]:
    """Coordinates turned at random and made to waver."""
    angle = rng.uniform(0.0, math.pi)
    u, v = x * math.cos(angle) + y * math.sin(angle), y * math.cos(angle) - x * math.sin(angle)
    return u + waver * (_lattice(rng, x, y, 4) - 0.5), v + waver * (_lattice(rng, x, y, 4) - 0.5)


def _wave(rng: random.Random, phase: Tensor) -> Tensor:
    """A wave of period 1 in [0, 1]: round or with edges."""
    wave = torch.sin(2.0 * math.pi * phase)
    return (0.5 + rng.choice((0.5, 1.5, 6.0)) * wave).clamp(0.0, 1.0)


def _marble(rng: random.Random, x: Tensor, y: Tensor) -> Tensor:
    u, _ = _turned(rng, x, y, 0.0)
    return _wave(rng, rng.uniform(1.0, 3.0) * u + rng.uniform(0.6, 2.0) * clouds(rng, x, y))


def _stripes(rng: random.Random, x: Tensor, y: Tensor) -> Tensor:
    u, _ = _turned(rng, x, y, rng.choice((0.0, 0.15, 0.4)))
    return _wave(rng, rng.uniform(1.5, 5.0) * u)


def _rings(rng: random.Random, x: Tensor, y: Tensor) -> Tensor:
    u, v = _turned(rng, x, y, rng.choice((0.0, 0.25)))
    distance = ((u - rng.uniform(-0.5, 0.5)) ** 2 + (v - rng.uniform(-0.5, 0.5)) ** 2).sqrt()
    return _wave(rng, rng.uniform(1.2, 4.0) * distance)


def _checks(rng: random.Random, x: Tensor, y: Tensor) -> Tensor:
    u, v = _turned(rng, x, y, rng.choice((0.0, 0.2)))
    rate, weave = rng.uniform(1.2, 4.0), rng.random() < 0.5
    a, b = _wave(rng, rate * u), _wave(rng, rate * v * rng.uniform(0.7, 1.4))
    return 0.5 * (a + b) if weave else (a - b).abs()


def _dots(rng: random.Random, x: Tensor, y: Tensor) -> Tensor:
    u, v = _turned(rng, x, y, rng.choice((0.0, 0.15)))
    rate, size = rng.uniform(1.5, 5.0), rng.uniform(0.22, 0.42)
    u, v = (rate * u) % 1.0 - 0.5, (rate * v) % 1.0 - 0.5
    return step((u * u + v * v).sqrt(), size + 0.05, size - 0.05)


def _gradient(rng: random.Random, x: Tensor, y: Tensor) -> Tensor:
    u, v = _turned(rng, x, y, 0.3)
    return _stretched(u if rng.random() < 0.6 else (u**2 + v**2).sqrt())


def _nearest(rng: random.Random, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Distances to the nearest and second nearest of some random points, and the nearest one's own number in [0, 1]."""
    count = rng.choice((10, 20, 40, 60))
    points = 2.4 * noise(rng.getrandbits(31), count, 2)[0] - 1.2
    squares = (x[..., None] - points[:, 0]) ** 2 + (y[..., None] - points[:, 1]) ** 2
    near, who = squares.topk(2, dim=-1, largest=False)
    return near[..., 0].sqrt(), near[..., 1].sqrt(), noise(rng.getrandbits(31), 1, count)[0, 0][who[..., 0]]


def _cells(rng: random.Random, x: Tensor, y: Tensor) -> Tensor:
    return _nearest(rng, x, y)[2]


def _cracks(rng: random.Random, x: Tensor, y: Tensor) -> Tensor:
    near, next_, own = _nearest(rng, x, y)
    width = rng.uniform(0.02, 0.06)
    return step(next_ - near, width * 0.4, width) * (0.5 + 0.5 * own)


def _leaves(rng: random.Random, x: Tensor, y: Tensor) -> Tensor:
    """Dead leaves: shapes of all sizes fallen over one another, which has the edges and scales of photographs."""
    canvas = torch.full((y.shape[0], x.shape[1]), rng.random())
    edge = 2.0 / x.shape[1]
    for k in range(LEAVES):
        radius = 0.5 / (1.0 + 9.0 * (k / LEAVES) * rng.random() + 4.0 * k / LEAVES)
        cx, cy, angle = rng.uniform(-1.2, 1.2), rng.uniform(-1.2, 1.2), rng.uniform(0.0, math.pi)
        columns = _span(x[0], cx, 1.5 * radius)
        rows = _span(y[:, 0], cy, 1.5 * radius)
        part = canvas[rows, columns]
        dx, dy = x[:, columns] - cx, y[rows] - cy
        u, v = dx * math.cos(angle) + dy * math.sin(angle), dy * math.cos(angle) - dx * math.sin(angle)
        v = v * rng.uniform(1.0, 2.2)
        reach = (u * u + v * v).sqrt() if rng.random() < 0.6 else torch.maximum(u.abs(), v.abs())
        part.lerp_(part.new_tensor(rng.random()).expand_as(part), step(reach, radius + edge, radius - edge))
    return canvas


def _span(line: Tensor, middle: float, reach: float) -> slice:
    """Where an ascending line of coordinates is within `reach` of `middle`."""
    ends = torch.searchsorted(line.contiguous(), line.new_tensor([middle - reach, middle + reach])).tolist()
    return slice(ends[0], ends[1])


FIELDS: dict[str, Field] = {
    "clouds": clouds, "ridges": _ridges, "marble": _marble, "stripes": _stripes, "rings": _rings, "checks": _checks,
    "dots": _dots, "gradient": _gradient, "blobs": _blobs, "cells": _cells, "cracks": _cracks, "leaves": _leaves,
}  # fmt: skip
PLAIN = ("clouds", "ridges", "marble", "cells", "cracks", "leaves", "leaves", "blobs", "dots", "checks", "stripes")
"""Fields that show motion by themselves, the natural ones more than once."""


def random_color(rng: random.Random) -> tuple[float, float, float]:
    """An sRGB triple: any hue, often muted, seldom black or white."""
    return colorsys.hsv_to_rgb(rng.random(), rng.random() ** 1.5 * 0.95, rng.uniform(0.08, 1.0))


def _painted(rng: random.Random, field: Tensor) -> Tensor:
    """A field in [0, 1] as colours [3, h, w]: a ramp through two to five random ones."""
    ramp = torch.tensor([random_color(rng) for _ in range(rng.randint(2, 5))])
    place = field.clamp(0.0, 1.0) * (len(ramp) - 1)
    below = place.floor().clamp(max=len(ramp) - 2)
    low = below.long()
    return torch.lerp(ramp[low], ramp[low + 1], (place - below)[..., None]).permute(2, 0, 1)


def pattern(seed: int, height: int, width: int) -> Tensor:
    """A random picture [3, height, width] in [0, 1] (display gamma), never flat; the same for the same arguments.

    What it shows keeps its place in the picture at every size.
    """
    rng = random.Random(f"pattern-{seed}")
    x, y = torch.linspace(-1.0, 1.0, width)[None, :], torch.linspace(-1.0, 1.0, height)[:, None]
    names = tuple(FIELDS)
    picture = _painted(rng, FIELDS[rng.choice(PLAIN)](rng, x, y))
    if rng.random() < MIXED_SHARE:
        other, where = FIELDS[rng.choice(names)](rng, x, y), FIELDS[rng.choice(names)](rng, x, y)
        picture = torch.lerp(picture, _painted(rng, other), step(where, 0.42, 0.58)[None])
    fine = _lattice(rng, x, y, rng.choice((24, 40, 64)))
    light = _lattice(rng, x, y, 3)
    picture = (
        picture * (1.0 + rng.choice((0.0, 0.15, 0.35)) * (fine - 0.5)) * (1.0 + rng.uniform(0.0, 0.7) * (light - 0.5))
    )
    grey = torch.einsum("c,chw->hw", GREY, picture)
    mean, spread = picture.mean((1, 2), keepdim=True), float(grey.std())
    if spread < LEAST_CONTRAST:
        picture = mean.clamp(0.3, 0.7) + (picture - mean) * (LEAST_CONTRAST / max(spread, 1e-3))
    return picture.clamp(0.0, 1.0)
