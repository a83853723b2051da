"""Creatures of anything: arbitrary pictures, each moved by one and the same warp, in as many looks as wanted.

    warp = sample_warp(seed, frames=33, fps=25.0, size=128)
    clips = [move(warp, sample_surface(seed, look, size=128)) for look in range(3)]

A `Warp` is all that happens, where and when: a figure before a ground, both drifting, the figure turning and swelling
in places, with slits that open as mouths do and lids that close within a few frames. It is one set of sampling places,
used for every look. A `Surface` is what is seen: pictures of ground and figure, colours of eyes and mouths. Frame 0 is
not warped, but for mouths that may be open; its eyes are.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from synclora.portraits.geometry import step
from synclora.portraits.motion import Motion, sample_motion
from synclora.portraits.patterns import GREY, pattern, random_color
from synclora.portraits.person import Person, sample_person
from synclora.portraits.renderer import render
from synclora.portraits.wear import drift

MARGIN = 1.3  # a picture reaches this far where the frame reaches 1, so that what moves in has been drawn
FINER = 1.2  # pixels of a picture for one of the frame
PORTRAIT_SHARE = 0.5  # looks of a warp without eyes and mouths of its own that are stills of drawn portraits
SEEDS_TOGETHER = 100_000  # a seed's motions and people come from its own block of seeds: held out stays held out


@dataclass(frozen=True)
class Warp:
    """What happens in F frames of S x S px. Places are picture coordinates, -1..1 over a whole picture, x before y."""

    ground: Tensor  # [F, S, S, 2]: where in the ground's picture each pixel looks
    figure: Tensor | None  # the same for the figure; None: the ground is all there is
    outline: tuple[Tensor, ...]  # [F, 1, S, S] cover of the figure, in the shapes a look may choose from
    eyes: Tensor  # [F, 1, S, S] cover by open eyes
    irises: Tensor  # of those, by irises
    pupils: Tensor
    edges: Tensor  # by the lids' edges
    mouths: Tensor  # by open mouths
    teeth: Tensor
    portraits: bool  # whether stills of portraits suit it: no eyes or mouths of its own


@dataclass(frozen=True)
class Surface:
    """What is seen, whatever happens to it. Colours are sRGB triples in [0, 1]."""

    ground: Tensor  # [3, P, P] in [0, 1]
    figure: Tensor
    outline: int  # number of the figure's shape
    eye: Tensor  # [3]
    iris: Tensor
    pupil: Tensor
    edge: Tensor
    mouth: Tensor
    tooth: Tensor


@dataclass
class _Field:
    """Coordinates [F, S, S] of a layer and what its local movements add."""

    x: Tensor
    y: Tensor

    def push(self, cx: float, cy: float, reach: float, dx: Tensor, dy: Tensor, swell: Tensor, swirl: Tensor) -> None:
        """Move what lies about (cx, cy) by (dx, dy), swell it and turn it; all [F], weaker with the distance.

        Frame coordinates are pulled back, hence the signs. Amounts up to 0.6 of `reach` fold nothing over.
        """
        u, v = self.x - cx, self.y - cy
        near = torch.exp((u * u + v * v) * (-0.5 / reach**2))
        dx, dy, swell, swirl = (part[:, None, None] for part in (dx, dy, swell, swirl))
        self.x = self.x - near * (dx + swell * u - swirl * v)
        self.y = self.y - near * (dy + swell * v + swirl * u)


def sample_warp(seed: int, frames: int, fps: float, size: int) -> Warp:
    """Draw a warp; the same arguments give the same one.

    Raises ValueError for frames < 1, fps <= 0, size < 16 or a negative seed.
    """
    if frames < 1 or not fps > 0 or size < 16 or seed < 0:
        raise ValueError(
            f"sample_warp: seed {seed}, frames {frames}, fps {fps}, size {size}; "
            "need seed >= 0, frames >= 1, fps > 0, size >= 16"
        )
    rng = random.Random(f"warp-{seed}")
    times = torch.arange(frames) / fps
    line = torch.linspace(-1.0, 1.0, size) * (1.0 - 1.0 / size)  # middles of pixels
    x, y = (v.expand(frames, size, size) for v in (line[None, None, :], line[None, :, None]))
    motion, other = sample_motion(seed, frames, fps), sample_motion(_akin(seed, rng), frames, fps)
    layered = rng.random() < 0.75
    ground = _drifting(rng, times, x, y, motion, 0.4 if layered else 1.0)
    _ripple(rng, times, ground, rng.choice((0.0, 0.5, 1.0)))
    figure, outline, body = None, (), ground
    if layered:
        body = figure = _drifting(rng, times, x, y, motion, 1.0)
    has_features = rng.random() < 0.75
    features = _place_features(rng, has_features)
    _ripple(rng, times, body, rng.choice((0.3, 1.0)))
    _twitch(rng, body, other, 2 if has_features else rng.randint(3, 6))
    px = 1.6 / size
    if figure is not None:
        reach = rng.uniform(0.62, 0.85)
        outline = tuple(_outline(random.Random(rng.getrandbits(32)), figure, reach, px)[:, None] for _ in range(2))
    parts = _draw_features(rng, body, motion, other, features, px)
    seen_by = None if figure is None else _places(figure)
    return Warp(_places(ground), seen_by, outline, **parts, portraits=not has_features)


def _akin(seed: int, rng: random.Random) -> int:
    """Another seed for training if `seed` is, for validation if it is, for tests if it is."""
    return seed // SEEDS_TOGETHER * SEEDS_TOGETHER + rng.randrange(SEEDS_TOGETHER)


def _places(layer: _Field) -> Tensor:
    return torch.stack([layer.x, layer.y], -1) / MARGIN


def _still(curve: Tensor) -> Tensor:
    return curve - curve[:1]


def _drifting(rng: random.Random, times: Tensor, x: Tensor, y: Tensor, motion: Motion, share: float) -> _Field:
    """A layer that shifts, leans and comes closer, and turns as a round head does: its middle moves further."""
    amount = share * rng.uniform(0.5, 1.0)
    shift_x = amount * (2.0 * _still(motion.shift_x) + 0.06 * drift(rng, times, 0.7, 2.5))
    shift_y = amount * (2.0 * _still(motion.shift_y) + 0.05 * drift(rng, times, 0.7, 2.5))
    turn = amount * torch.deg2rad(1.3 * _still(motion.roll)) + amount * 0.05 * drift(rng, times, 0.8, 2.5)
    closer = torch.exp(amount * (1.5 * _still(motion.scale) + 0.06 * drift(rng, times, 0.8, 3.0)))
    c, s = ((f(turn) / closer)[:, None, None] for f in (torch.cos, torch.sin))
    x, y = x - shift_x[:, None, None], y - shift_y[:, None, None]
    layer = _Field(c * x + s * y, c * y - s * x)
    if share == 1.0:
        none = torch.zeros_like(times)
        yaw, pitch = (0.42 * amount * torch.sin(torch.deg2rad(_still(a))) for a in (motion.yaw, motion.pitch))
        layer.push(0.0, 0.0, 0.6, yaw, -pitch, none, none)
    return layer


def _ripple(rng: random.Random, times: Tensor, layer: _Field, share: float) -> None:
    """Slow waves through a whole layer."""
    for _ in range(2 if share else 0):
        angle, rate, phase = rng.uniform(0.0, 2.0 * math.pi), rng.uniform(1.5, 4.0), rng.uniform(0.0, 6.28)
        wave = torch.sin(rate * (layer.x * math.cos(angle) + layer.y * math.sin(angle)) + phase)
        amount = (share * rng.uniform(0.02, 0.05) * drift(rng, times, 0.5, 2.0))[:, None, None]
        layer.x, layer.y = layer.x + wave * amount, layer.y - wave * amount * rng.uniform(-1.0, 1.0)


def _twitch(rng: random.Random, layer: _Field, motion: Motion, count: int) -> None:
    """Places that move by themselves, in the rhythms of mouths, brows, smiles, glances and breath."""
    curves = {
        "mouth_open": 1.0, "mouth_width": 0.7, "smile": 1.0, "brow": 0.8, "gaze_x": 1 / 24, "blink_left": 0.8,
        "breath": 0.5,
    }  # fmt: skip
    for _ in range(count):
        reach = rng.uniform(0.12, 0.35)
        amounts = []
        for limit in (0.5 * reach, 0.5 * reach, 0.4, 0.5):
            name = rng.choice(list(curves))
            curve = _still(getattr(motion, name)) * curves[name]
            amounts.append(curve * limit * rng.uniform(-1.0, 1.0) * (rng.random() < 0.6))
        dx, dy, swell, swirl = amounts
        layer.push(rng.uniform(-0.7, 0.7), rng.uniform(-0.7, 0.7), reach, dx, dy, swell, swirl)


def _place_features(rng: random.Random, wanted: bool) -> list[tuple[str, float, float, float]]:
    """(kind, x, y, half width) of eyes and mouths that do not touch; half of the time where a face has them."""
    if not wanted:
        return []
    if rng.random() < 0.5:
        apart, level, wide = rng.uniform(0.22, 0.36), rng.uniform(-0.3, 0.0), rng.uniform(0.12, 0.19)
        mouth = ("mouth", rng.uniform(-0.06, 0.06), level + rng.uniform(0.36, 0.5), rng.uniform(0.15, 0.3))
        return [("eye", -apart, level, wide), ("eye", apart, level, wide), mouth]
    kinds = ["eye"] * rng.randint(1, 4) + ["mouth"] * rng.randint(0, 2)
    placed: list[tuple[str, float, float, float]] = []
    for kind in kinds:
        for _ in range(20):
            half, cx, cy = rng.uniform(0.1, 0.22), rng.uniform(-0.5, 0.5), rng.uniform(-0.5, 0.5)
            if all(math.hypot(cx - p[1], cy - p[2]) > 1.35 * (half + p[3]) for p in placed):
                placed.append((kind, cx, cy, half))
                break
    return placed


def _draw_features(
    rng: random.Random,
    body: _Field,
    motion: Motion,
    other: Motion,
    features: list[tuple[str, float, float, float]],
    px: float,
) -> dict[str, Tensor]:
    """Covers [F, 1, S, S] by eyes, irises, pupils, lid edges, mouths, teeth; lids and lips move the body's places.

    They act together; now and then an eye or a mouth has its own time.
    """
    names = ("eyes", "irises", "pupils", "edges", "mouths", "teeth")
    covers = {name: torch.zeros_like(body.x) for name in names}
    tall, iris, lean = rng.uniform(0.5, 0.8), rng.uniform(0.5, 0.7), rng.uniform(-0.3, 0.3)
    for kind, cx, cy, half in features:
        acts = other if rng.random() < 0.2 else motion
        if kind == "eye":
            _draw_eye(body, covers, acts, (cx, cy, half, half * tall), iris, px)
        else:
            _draw_mouth(body, covers, acts, (cx, cy, half), lean, px)
    return {name: cover.clamp(0.0, 1.0)[:, None] for name, cover in covers.items()}


def _draw_eye(
    body: _Field,
    covers: dict[str, Tensor],
    motion: Motion,
    box: tuple[float, float, float, float],
    iris: float,
    px: float,
) -> None:
    """An eye: its lid is the skin above it, drawn down over it."""
    cx, cy, wide, tall = box
    closed, gaze_x, gaze_y = (curve[:, None, None] for curve in (motion.blink_left, motion.gaze_x, motion.gaze_y))
    u, v = (body.x - cx) / wide, (body.y - cy) / tall
    soft = px / tall
    inside = step(u * u + v * v, 1.0 + 2.0 * soft, 1.0 - 2.0 * soft)
    arch = 1.0 - 0.35 * u * u  # half height of the opening at u
    lid = arch * (2.0 * closed - 1.0)
    opened = inside * step(v, lid - soft, lid + soft)
    dx, dy = (body.x - cx - gaze_x * (0.45 * wide / 20.0)) / tall, (body.y - cy + gaze_y * (0.4 * tall / 12.0)) / tall
    near = (dx * dx + dy * dy).sqrt()
    covers["eyes"] += opened
    covers["irises"] += opened * step(near, iris + soft, iris - soft)
    covers["pupils"] += opened * step(near, 0.45 * iris + soft, 0.45 * iris - soft)
    covers["edges"] += inside * step((v - lid).abs(), 0.16 + soft, 0.16 - soft)
    body.y = body.y - inside * (1.0 - opened) * (2.0 * tall * closed)


def _draw_mouth(
    body: _Field, covers: dict[str, Tensor], motion: Motion, box: tuple[float, float, float], lean: float, px: float
) -> None:
    """A mouth: a slit that opens as the jaw below it goes down, wide or narrow."""
    cx, cy, wide = box
    opening, smile, width = (curve[:, None, None] for curve in (motion.mouth_open, motion.smile, motion.mouth_width))
    half = wide * (1.0 + 0.22 * width + 0.12 * smile)
    gap = wide * 0.85 * opening
    u = (body.x - cx) / half
    round_ = (1.0 - u * u).clamp(min=0.0)
    middle = cy + wide * (lean - 0.45 * smile) * (u * u - 0.5)
    top, bottom = middle - 0.25 * gap * round_, middle + 0.85 * gap * round_ + 0.5 * px
    there = step(u.abs(), 1.0 + px / wide, 1.0 - px / wide)
    hole = there * step(body.y, top - px, top + px) * step(body.y, bottom + px, bottom - px)
    line = there * step((body.y - middle).abs(), 0.05 * wide + px, 0.05 * wide) * step(opening, 0.3, 0.0)
    covers["mouths"] += torch.maximum(hole, line)
    covers["teeth"] += hole * step(body.y, top + (0.22 * wide) + px, top + (0.22 * wide) - px)
    # The skin below goes down with the jaw, more weakly towards its ends; above it stays.
    below = step(body.y, cy - 0.1 * wide, cy + 0.3 * wide) * torch.exp(-(u * u) - ((body.y - cy) / (2.2 * wide)) ** 2)
    body.y = body.y - below * gap * 0.7
    body.x = body.x - torch.exp(-(u * u) - ((body.y - cy) / wide) ** 2) * (body.x - cx) * (0.16 * width)


def _outline(rng: random.Random, figure: _Field, reach: float, px: float) -> Tensor:
    """The figure's cover [F, S, S]: a round thing with bulges; half of the time it stands on the lower border."""
    squeeze = rng.uniform(0.75, 1.1)
    x, y = figure.x / squeeze, figure.y
    angle = torch.atan2(y, x)
    radius = torch.full_like(x, reach)
    for waves in (2, 3, 5):
        radius = radius + reach * 0.09 * rng.uniform(-1, 1) * torch.sin(waves * angle + rng.uniform(0.0, 6.28))
    gap = (x * x + y * y).sqrt() - radius
    if rng.random() < 0.5:
        shoulders = (figure.x.abs() - rng.uniform(0.3, 0.8) - 0.6 * (y - 0.8).clamp(min=0.0)).clamp(min=0.3 - y)
        gap = torch.minimum(gap, shoulders)
    return step(gap, px, -px)


def sample_surface(seed: int, look: int, size: int, portraits: bool = False) -> Surface:
    """Draw what a look shows, for frames of `size` px; the same arguments give the same.

    portraits: allow stills of drawn portraits as pictures.
    """
    rng = random.Random(f"surface-{seed}-{look}")
    side = round(size * MARGIN * FINER)
    ground, figure = (pattern(rng.getrandbits(31), side, side) for _ in range(2))
    if portraits and rng.random() < PORTRAIT_SHARE:
        figure = _still_of(sample_person(_akin(seed, rng)), rng, side)
    else:
        line = torch.linspace(-MARGIN, MARGIN, side)
        x, y, round_ = line[None, :], line[:, None], rng.uniform(0.0, 0.5)
        lit = 1.1 + rng.uniform(-0.35, 0.35) * x + rng.uniform(-0.45, 0.1) * y - round_ * (x * x + y * y)
        figure = figure * (lit / lit.max()).clamp(min=0.25)
    return Surface(ground, figure, rng.randrange(2), **_feature_colors(rng, figure))


def _still_of(person: Person, rng: random.Random, side: int) -> Tensor:
    """One frame of a person as a picture [3, side, side] in [0, 1]."""
    pose = Motion.still(1, yaw=rng.uniform(-15.0, 15.0), smile=rng.random(), scale=1.0 / MARGIN**0.5)
    still = render(person, pose, max(side, 64))[0].permute(2, 0, 1).float() / 255.0
    return still if side >= 64 else F.interpolate(still[None], (side, side), mode="area")[0]


def _feature_colors(rng: random.Random, figure: Tensor) -> dict[str, Tensor]:
    """Colours of eyes and mouth that stand out from the middle of the figure and from one another."""
    middle = figure[:, figure.shape[1] // 4 : -(figure.shape[1] // 4), figure.shape[2] // 4 : -(figure.shape[2] // 4)]
    bright = float(GREY @ middle.mean((1, 2))) > 0.35
    draws = [torch.tensor(random_color(rng)) for _ in range(5)]
    pale, dark = 0.5 + 0.5 * draws[0], 0.2 * draws[1]
    eye, pupil = (pale, dark) if rng.random() < 0.8 else (dark, pale)
    mouth = dark if bright or rng.random() < 0.3 else 0.55 + 0.45 * draws[2]
    return {
        "eye": eye, "iris": 0.15 + 0.55 * draws[3], "pupil": pupil, "edge": dark if bright else pale * 0.8,
        "mouth": mouth, "tooth": 0.6 + 0.4 * draws[4] if rng.random() < 0.5 else mouth,
    }  # fmt: skip


@torch.inference_mode()
def move(warp: Warp, surface: Surface, device: str | torch.device = "cpu") -> Tensor:
    """A surface moved by a warp: uint8 [F, S, S, 3] on `device`."""

    def seen(picture: Tensor, places: Tensor) -> Tensor:
        wide = picture.to(device)[None].expand(len(places), -1, -1, -1)
        return F.grid_sample(wide, places.to(device), padding_mode="reflection", align_corners=False)

    x = seen(surface.ground if warp.figure is not None else surface.figure, warp.ground)
    if warp.figure is not None:
        cover = warp.outline[surface.outline].to(device)
        x = x.lerp_(seen(surface.figure, warp.figure), cover.expand_as(x))
    for cover, color in (
        (warp.eyes, surface.eye), (warp.irises, surface.iris), (warp.pupils, surface.pupil),
        (warp.edges, surface.edge), (warp.mouths, surface.mouth), (warp.teeth, surface.tooth),
    ):  # fmt: skip
        if cover.any():
            x = x.lerp_(color.to(device)[:, None, None].expand_as(x), cover.to(device).expand_as(x))
    return x.mul_(255.0).add_(0.5).clamp_(0.0, 255.0).to(torch.uint8).permute(0, 2, 3, 1).contiguous()
