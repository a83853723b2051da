"""The parts that move or stand apart: eyes, mouth, glasses, earrings; each paints one small patch of every frame.

Shape legend: f frames, h x w the patch. All positions are head-frame units (1.0 = 100 mm) as `geometry` defines them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from synclora.portraits.geometry import step
from synclora.portraits.person import EYE_COLORS, FABRICS, Person
from synclora.portraits.textures import linear, lip_color


@dataclass
class Skin:
    """What a patch painter changes: albedo [f, 3, h, w] (linear rgb) and an added highlight [f, h, w]."""

    albedo: Tensor
    shine: Tensor

    def paint(self, mask: Tensor, color: Tensor) -> None:
        """Lay `color` ([3] or [f, 3, h, w]) over the albedo where mask [f, h, w] is 1; it hides the shine below."""
        m = mask[:, None]
        layer = color[:, None, None] if color.ndim == 1 else color
        self.albedo.mul_(1.0 - m).add_(m * layer)
        self.shine.mul_(1.0 - mask)


def edge(distance: Tensor, px: Tensor) -> Tensor:
    """Coverage of a pixel of width px by the side where distance > 0."""
    return (distance / px + 0.5).clamp_(0.0, 1.0)


def eye_center(p: Person, side: float) -> tuple[float, float, float]:
    return (side * 0.315 * p.eye_spacing, 0.0, 0.78)


def paint_eye(
    p: Person, skin: Skin, u: Tensor, v: Tensor, px: Tensor, side: float, blink: Tensor, smile: Tensor,
    gaze_x: Tensor, gaze_y: Tensor,
) -> None:  # fmt: skip
    """One eye. u, v [f, h, w] are head-frame x, y of the pixels; px and the signals are [f, 1, 1]."""
    eye_w = 0.185 * p.eye_size
    e = (u * side - 0.315 * p.eye_spacing) / eye_w
    opening = 0.076 * p.eye_size * p.eye_openness
    arc = (1.0 - e * e).clamp_(min=0.0)
    # The upper lid peaks a little inward, the lower one outward: an almond, not a lens.
    bulge = arc.sqrt() * (0.72 + 0.28 * arc)
    line = e * (0.020 * p.eye_tilt + 0.006) - 0.010
    lower_open = line - opening * 0.66 * bulge * (1.0 + 0.12 * e) * (1.0 - 0.22 * smile)
    upper_open = line + opening * bulge * (1.0 - 0.14 * e)
    lower = lower_open + (line - lower_open) * 0.15 * blink
    upper = upper_open + (lower - 0.004 - upper_open) * blink
    # Lids follow the gaze up and down a little.
    upper = upper + gaze_y * (0.0009 * (1.0 - blink)) * arc
    inside = edge(torch.minimum(upper - v, v - lower), px) * (e.abs() < 1.0)

    # Lid skin that comes down in a blink: a touch darker and warmer than the cheek.
    lid = edge(upper_open + 0.02 - v, px * 4) * edge(v - lower, px * 2) * step(e.abs(), 1.06, 0.9)
    skin.albedo.mul_(1.0 - lid[:, None] * torch.tensor([0.10, 0.17, 0.17], device=u.device)[:, None, None])

    ball = 0.165
    cx = side * 0.315 * p.eye_spacing + ball * torch.sin(gaze_x * (math.pi / 180.0))
    cy = -0.002 + ball * torch.sin(gaze_y * (math.pi / 180.0)) * 0.85
    dx, dy = u - cx, v - cy
    radius = (dx * dx + dy * dy).sqrt_()
    iris_r, pupil_r = 0.085 * p.eye_size, 0.034 * p.eye_size
    shade = 1.0 - 0.50 * torch.exp((v - upper) * 38.0).clamp_(max=1.0) - 0.22 * e * e
    white = torch.tensor([0.86, 0.83, 0.81], device=u.device)[:, None, None] * shade.clamp_(0.25, 1.0)[:, None]
    pink = step(e, -0.72, -1.0) * 0.7
    white = white * (1.0 - pink[:, None] * torch.tensor([0.15, 0.55, 0.55], device=u.device)[:, None, None])
    iris = linear(EYE_COLORS[p.eye_color], u.device)[:, None, None]
    glow = (0.85 - 5.5 * dy).clamp_(0.5, 1.7) * (
        0.75 + 0.5 * (radius / iris_r).clamp(max=1.0) * (1.0 - (radius / iris_r) ** 6).clamp(min=0.0)
    )
    fibre = 1.0 + 0.13 * torch.sin(torch.atan2(dy, dx) * 18.0)
    ring = 1.0 - 0.72 * step(radius, iris_r * 0.78, iris_r * 1.0)
    iris_rgb = (
        iris * (1.35 * glow * fibre * ring * (1.0 - 0.35 * torch.exp((v - upper) * 30.0).clamp_(max=1.0)))[:, None]
    )
    in_iris = edge(iris_r - radius, px)[:, None]
    eye = white * (1.0 - in_iris) + iris_rgb * in_iris
    in_pupil = edge(pupil_r - radius, px)[:, None]
    eye = eye * (1.0 - in_pupil) + 0.006 * in_pupil
    skin.paint(inside, eye)
    toward = math.copysign(1.0, p.light_azimuth)
    size = 0.021 * p.eye_size
    glint = ((dx - toward * 0.030) ** 2 + (dy - 0.030) ** 2).sqrt_()
    small = ((dx + toward * 0.034) ** 2 + (dy + 0.032) ** 2).sqrt_()
    skin.shine.add_(inside * (edge(size - glint, px * 1.2) * 0.95 + edge(0.010 - small, px) * 0.30))

    # Wet lower rim, lashes; a lash line thickens outwards and ends in a wing.
    rim = torch.exp(-(((v - lower + 0.008) / 0.009) ** 2)) * (arc > 0.02) * 0.45
    skin.albedo.mul_(1.0 - rim[:, None] * torch.tensor([0.25, 0.45, 0.45], device=u.device)[:, None, None])
    heavy = 1.0 if p.look == "man" and p.lipstick == "none" else 1.7
    if p.lipstick != "none" or p.eye_shadow != "none":
        heavy = 2.3
    reach = step(e, -1.02, -0.85) * step(e, 1.20 if heavy > 1.5 else 1.04, 0.97)
    thick = 0.0085 * heavy * (0.75 + 0.35 * e.clamp(-1, 1)) + 0.003
    wing = (e - 0.95).clamp(min=0.0) * 0.16 * (heavy > 1.5)
    lash = edge(thick - (v - (upper + thick * 0.45 + wing)).abs(), px * 1.2) * reach
    light_hair = p.hair_color in ("white", "blond", "red", "platinum") and p.lipstick == "none"
    dark = torch.tensor([0.055, 0.032, 0.022] if light_hair else [0.014, 0.009, 0.008], device=u.device)
    skin.paint(lash * 0.95, dark)
    below = edge(0.0035 * heavy - (v - (lower - 0.001)).abs(), px * 2.0) * step(e, -0.6, 0.2) * step(e, 1.0, 0.9)
    skin.paint(below * (0.28 + 0.14 * heavy), dark)


def mouth_center(p: Person) -> tuple[float, float, float]:
    return (0.0, -0.76, 0.84)


def paint_mouth(
    p: Person, skin: Skin, u: Tensor, v: Tensor, px: Tensor, opening: Tensor, width: Tensor, smile: Tensor
) -> None:
    """Lips, teeth and tongue. u, v [f, h, w] are head-frame x, y of the pixels; px and the signals are [f, 1, 1]."""
    device = u.device
    gap = 0.30 * opening
    half = 0.262 * p.mouth_size * (1.0 + 0.20 * width + 0.17 * smile - 0.10 * opening)
    m = u / half
    arc = (1.0 - m * m).clamp_(min=0.0)
    seam = (
        -0.712 + (0.062 * smile + 0.010 - 0.25 * gap) * m * m - 0.006 * torch.exp(-((m / 0.18) ** 2)) * (1.0 - opening)
    )
    pout = 1.0 - 0.22 * width - 0.10 * smile
    full = p.lip_fullness * pout
    top_in = seam + gap * 0.20 * arc
    low_in = seam - gap * 0.80 * arc.sqrt() * (0.6 + 0.4 * arc)
    bow = 1.0 - 0.30 * torch.exp(-((m / 0.11) ** 2)) + 0.10 * torch.exp(-(((m.abs() - 0.26) / 0.16) ** 2))
    top_out = top_in + 0.066 * full * arc * bow
    low_out = low_in - 0.084 * full * arc.sqrt() * (0.55 + 0.45 * arc)
    within = m.abs() < 1.0
    # Soft shade under the lower lip and at the corners of the mouth.
    under = torch.exp(-(((low_out - 0.030 - v) / 0.032) ** 2)) * step(m.abs(), 0.85, 0.2) * 0.42
    corner = torch.exp(-(((m.abs() - 1.0) * half / 0.030) ** 2 + ((v - seam) / 0.026) ** 2)) * (0.45 + 0.25 * smile)
    tone = torch.tensor([0.40, 0.52, 0.54], device=device)[:, None, None]
    skin.albedo.mul_(1.0 - torch.maximum(under, corner)[:, None] * tone)
    # Cheek fold of a smile.
    fold_x = half * 1.06 + 0.055 + 0.10 * (v + 0.72).clamp(-0.3, 0.3).neg() * 1.2
    fold = (
        torch.exp(-(((u.abs() - fold_x) / 0.028) ** 2)) * step(v, -0.88, -0.74) * step(v, -0.42, -0.56) * (0.55 * smile)
    )
    skin.albedo.mul_(1.0 - fold[:, None] * tone * 0.8)

    lips = edge(torch.minimum(top_out - v, v - low_out), px * 1.3) * within
    color = linear(lip_color(p), device)[:, None, None]
    up = ((v - top_in) / (top_out - top_in).clamp(min=1e-3)).clamp(0.0, 1.0)
    down = ((low_in - v) / (low_in - low_out).clamp(min=1e-3)).clamp(0.0, 1.0)
    lower = (v < (top_in + low_in) * 0.5).float()
    form = (1 - lower) * (0.66 + 0.30 * up) + lower * (0.72 + 0.50 * torch.sin(down * 2.9))
    creases = 1.0 + 0.05 * torch.sin(u * 130.0 + 4.0 * m)
    skin.paint(lips * (0.97 if p.lipstick != "none" else 0.90), color * (form * creases)[:, None])
    wet = 0.55 if p.lipstick != "none" else 0.22
    skin.shine.add_(lips * lower * torch.exp(-(((down - 0.42) / 0.20) ** 2 + (m / 0.42) ** 2)) * wet * 0.55)

    # The mouth's inside; never thinner than the dark seam of closed lips.
    seam_half = 0.0065 * (0.4 + 0.6 * arc)
    inner = edge(torch.minimum(top_in + seam_half - v, v - low_in + seam_half), px) * within
    depth = ((top_in - v) / 0.10).clamp(0.0, 1.0)
    cavity = torch.tensor([0.070, 0.014, 0.014], device=device)[:, None, None] * (0.45 + 0.75 * depth)[:, None]
    tongue = edge(
        1.0 - ((u / (half * 0.62)) ** 2 + ((v - low_in - 0.01) / (0.020 + 0.30 * gap)) ** 2).sqrt_(),
        torch.full_like(px, 0.25),
    )
    tongue = tongue * step(opening, 0.15, 0.4)
    rose = torch.tensor([0.50, 0.13, 0.13], device=device)[:, None, None] * (0.75 + 0.3 * depth)[:, None]
    cavity = cavity * (1.0 - tongue[:, None]) + rose * tongue[:, None]
    ivory = torch.tensor([0.80, 0.77, 0.70], device=device)[:, None, None]
    between = 1.0 - 0.22 * torch.exp(-(((((u / 0.058 + 0.5) % 1.0) - 0.5).abs() / 0.07) ** 2))
    t_shade = (1.0 - 0.55 * m * m) * between
    # Teeth never close the gap: its dark floor is what makes the opening readable.
    hang = top_in - torch.clamp(gap * 0.42, max=0.058) + 0.02 * m * m
    upper_teeth = edge(v - hang, px * 1.2) * step(m.abs(), 0.92, 0.78)
    lower_top = low_in + 0.030 * step(gap, 0.06, 0.14) - 0.02 * m * m
    lower_teeth = edge(lower_top - v, px * 1.5) * step(m.abs(), 0.72, 0.55) * 0.8
    lit = 0.45 + 0.55 * step(v, top_in + 0.004, top_in - 0.028)
    cavity = cavity * (1 - lower_teeth[:, None]) + ivory * (0.55 * t_shade * lower_teeth)[:, None]
    cavity = cavity * (1 - upper_teeth[:, None]) + ivory * (t_shade * lit * upper_teeth)[:, None]
    skin.paint(inner, cavity)


def glasses_layer(p: Person, x: Tensor, y: Tensor, px: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Frame coverage, frame shade, lens tint and lens reflection [f, h, w] on the plane of the glasses (x, y there)."""
    ax = x.abs()
    cx, cy = 0.335, -0.015
    dx, dy = ax - cx, y - cy
    if p.glasses == "round":
        sd, thick = (dx * dx + dy * dy).sqrt() - 0.235, 0.017
    else:
        hw, hh, r = (
            (0.265, 0.185, 0.085)
            if p.glasses == "square"
            else (0.255, 0.150, 0.11)
            if p.glasses == "thin"
            else (0.285, 0.205, 0.13)
        )
        qx, qy = dx.abs() - hw + r, dy.abs() - hh + r - 0.02 * (dy > 0)
        sd = (qx.clamp(min=0) ** 2 + qy.clamp(min=0) ** 2).sqrt() + torch.maximum(qx, qy).clamp(max=0) - r
        thick = {"square": 0.026, "thin": 0.010, "sun": 0.022}[p.glasses]
    ring = edge(thick - sd.abs(), px)
    inner = 0.10
    bridge = (
        edge(thick * 0.9 - (y - 0.035 - 1.6 * (inner**2 - ax * ax)).abs(), px)
        * edge(inner + 0.006 - ax, px)
        * edge(sd, px)
    )
    frame = torch.maximum(ring, bridge)
    shade = 0.75 + 0.6 * ((-sd.abs() / thick + 1.0).clamp(0, 1)) * (dy > -0.05)
    lens = edge(-sd, px)
    streak = dx * 0.6 + dy + 0.03
    glare = (
        lens
        * (step((streak - 0.06).abs(), 0.045, 0.03) + 0.7 * step((streak + 0.035).abs(), 0.018, 0.008))
        * step(dy, -0.16, 0.12)
    )
    return frame, shade, lens * (0.86 if p.glasses == "sun" else 0.05), glare * 0.13


def glasses_color(p: Person, device: torch.device) -> Tensor:
    """Linear rgb of the frame, [3]."""
    base = FABRICS[p.glasses_color]
    return linear((base[0] * 0.75, base[1] * 0.75, base[2] * 0.75), device)
