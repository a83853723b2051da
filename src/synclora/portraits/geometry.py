"""A person's head as a small volume of signed distances and surface attributes, baked once and looked up per pixel.

Head frame: x to image right, y up, z to the camera; 1.0 = 100 mm; the origin lies between the eyes, inside the head.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from synclora.portraits.person import Person

VOXEL = 0.05
UNIT = 0.315
"""One head unit (100 mm) as a fraction of the frame at scale 1."""
ORIGIN_Y = 0.465
"""Height of the head frame's origin in the frame, as a fraction from the top."""
NECK_PIVOT = (0.0, -1.15, -0.22)
"""The point about which the head turns."""


@dataclass(frozen=True)
class HeadVolume:
    """Baked head: `distance` [1, 1, D, H, W] in head units, negative inside; `surface` [D * H * W, 8] holds for every
    voxel the unit normal (3), hair and hat membership (signed, ~head units), ambient occlusion and two strand
    coordinates, side by side for `surface_at`. `low` and `high` are the volume's corners, `box` the tight bounds
    (x0, x1, y0, y1, z0, z1) of what lies inside the surface.
    """

    distance: Tensor
    surface: Tensor
    low: tuple[float, float, float]
    high: tuple[float, float, float]
    box: tuple[float, float, float, float, float, float]


def surface_at(volume: HeadVolume, at: Tensor) -> Tensor:
    """The surface attributes [n, 8] at normalised volume coordinates [n, 3], trilinear."""
    shape = volume.distance.shape[2:]
    base, weight = None, None
    for size, axis in zip(shape, (2, 1, 0), strict=True):
        spot = ((at[:, axis] + 1.0) * ((size - 1) / 2.0)).clamp_(0.0, size - 1.001)
        cell = spot.long()
        second = spot.sub_(cell)[:, None]
        pair = torch.cat([1.0 - second, second], 1)
        base = cell if base is None else base.mul_(size).add_(cell)
        weight = pair if weight is None else (weight[:, :, None] * pair[:, None, :]).flatten(1)
    assert base is not None and weight is not None
    row, layer = shape[2], shape[1] * shape[2]
    corners = torch.tensor([a + b + c for a in (0, layer) for b in (0, row) for c in (0, 1)], device=at.device)
    return F.embedding_bag(base[:, None] + corners, volume.surface, per_sample_weights=weight, mode="sum")


def ellipsoid(
    x: Tensor, y: Tensor, z: Tensor, center: tuple[float, float, float], radii: tuple[float, float, float]
) -> Tensor:
    """Approximate signed distance to an ellipsoid (first-order, exact at the surface); broadcasts x, y, z."""
    a, b, c = ((x - center[0]) / radii[0]) ** 2, ((y - center[1]) / radii[1]) ** 2, ((z - center[2]) / radii[2]) ** 2
    k0 = (a + b + c).sqrt_()
    k1 = (a / radii[0] ** 2 + b / radii[1] ** 2 + c / radii[2] ** 2).sqrt_().clamp_(min=1e-4)
    return k0 * (k0 - 1.0) / k1


def blend(a: Tensor, b: Tensor, k: float) -> Tensor:
    """Smooth union of two distances with blend width k."""
    h = (k - (a - b).abs()).clamp_(min=0.0)
    return torch.minimum(a, b).sub_(h.square_().mul_(0.25 / k))


def carve(a: Tensor, b: Tensor, k: float) -> Tensor:
    """Smooth intersection of two distances with blend width k."""
    return -blend(-a, -b, k)


def step(x: Tensor, low: float | Tensor, high: float | Tensor) -> Tensor:
    """Smoothstep of x from low to high; low > high falls instead."""
    t = ((x - low) / (high - low)).clamp(0.0, 1.0)
    return t * t * (3.0 - 2.0 * t)


def capsule(
    x: Tensor, y: Tensor, z: Tensor, a: tuple[float, float, float], b: tuple[float, float, float], ra: float, rb: float
) -> Tensor:
    """Distance to a round cone from a to b (radius interpolated along the axis)."""
    d = [q - p for p, q in zip(a, b, strict=True)]
    length = sum(v * v for v in d)
    t = (((x - a[0]) * d[0] + (y - a[1]) * d[1] + (z - a[2]) * d[2]) / length).clamp_(0.0, 1.0)
    dx, dy, dz = x - (a[0] + d[0] * t), y - (a[1] + d[1] * t), z - (a[2] + d[2] * t)
    return (dx * dx + dy * dy + dz * dz).sqrt_() - (ra + (rb - ra) * t)


def skull(p: Person, x: Tensor, y: Tensor, z: Tensor) -> Tensor:
    """Cranium, face and jaw without small features."""
    w, h = p.head_width, p.head_height
    d = ellipsoid(x, y, z, (0, 0.27 * h, -0.14), (0.775 * w, 0.88 * h, 0.92))
    d = blend(d, ellipsoid(x, y, z, (0, -0.20, 0.16), (0.685 * w, 0.84, 0.70)), 0.18)
    chin = -1.14 * p.chin_length
    d = blend(d, ellipsoid(x, y, z, (0, -0.62, 0.15), (0.585 * p.jaw_width, 0.50, 0.56)), 0.22)
    return blend(d, ellipsoid(x, y, z, (0, chin + 0.22, 0.56), (0.25 * p.jaw_width, 0.22, 0.24)), 0.34)


def skin_distance(p: Person, x: Tensor, y: Tensor, z: Tensor) -> Tensor:
    """Distance to the skin surface for x >= 0 (the head is symmetric): face, nose, lips, ears, neck."""
    d = skull(p, x, y, z)
    eye_x = 0.315 * p.eye_spacing
    d = blend(d, ellipsoid(x, y, z, (0.40 * p.head_width, -0.32, 0.50), (0.26, 0.25, 0.27 * p.cheek_size)), 0.25)
    d = blend(d, ellipsoid(x, y, z, (0.20, 0.215, 0.70), (0.36, 0.10, 0.125 + 0.04 * p.brow_ridge)), 0.20)
    # Sockets are carved with a wide, shallow blend; the eyeball then bulges back from inside them.
    d = carve(d, -ellipsoid(x, y, z, (eye_x, 0.0, 1.00), (0.23, 0.15, 0.20)), 0.22)
    d = blend(d, ellipsoid(x, y, z, (eye_x, -0.01, 0.575), (0.21, 0.17, 0.215)), 0.08)
    bottom, top_z, tip_z = -0.40 * p.nose_length, 0.80, 0.98 + 0.10 * p.nose_height
    nose = capsule(
        x, y, z, (0, 0.10, top_z - 0.06), (0, bottom + 0.07, tip_z - 0.10), 0.075 * p.nose_width, 0.098 * p.nose_width
    )
    nose = blend(nose, ellipsoid(x, y, z, (0, bottom + 0.02, tip_z - 0.06), (0.115 * p.nose_width, 0.10, 0.115)), 0.10)
    wing = ellipsoid(x, y, z, (0.125 * p.nose_width, bottom - 0.015, 0.86), (0.085 * p.nose_width, 0.075, 0.12))
    nose = blend(nose, wing, 0.09)
    d = blend(d, nose, 0.13)
    mouth = ellipsoid(x, y, z, (0, -0.70, 0.60), (0.33, 0.20, 0.255))
    d = blend(d, mouth, 0.18)
    s = p.ear_size
    # The ear is a tilted shell: a disc in y and z, thin in x, with a hollow.
    tilt_z = z + 0.14 + 0.25 * (y + 0.12)
    ex = x - 0.775 * p.head_width - 0.26 * (-tilt_z).clamp(-0.2, 0.3)
    ear = ellipsoid(ex, y, tilt_z, (0, -0.10, 0), (0.065, 0.30 * s, 0.185 * s))
    ear = carve(ear, -ellipsoid(ex, y, tilt_z, (0.085, -0.08, 0.035), (0.075, 0.17 * s, 0.085 * s)), 0.05)
    d = blend(d, ear, 0.06)
    neck_r = 0.43 if p.look == "man" else 0.365
    neck = capsule(x, y, z, (0, -0.55, -0.22), (0, -2.3, -0.30), neck_r * 0.98, neck_r * 1.06)
    return blend(d, neck, 0.12)


def _lumps(x: Tensor, y: Tensor, z: Tensor, frequency: float, phase: float) -> Tensor:
    """A cheap bumpy field in [-1, 1] for curls."""
    a = torch.sin(x * frequency + phase + 1.7 * torch.sin(y * frequency * 0.6))
    b = torch.sin(y * frequency * 1.1 + 2.0 * phase + 1.3 * torch.sin(z * frequency * 0.7))
    return a * b * torch.sin(z * frequency * 0.9 + 0.7 * phase + 1.1 * torch.sin(x * frequency * 0.5)).add(0.4).div(1.4)


def hair_fields(p: Person, x: Tensor, y: Tensor, z: Tensor, base: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Hair distance, hair membership (> 0 is hair), strand coordinate across and along, all on the grid."""
    style, side = p.hair_style, p.part_side
    full = torch.zeros_like(base)
    top = 0.70 * p.head_height + 0.07 * p.hairline
    if style == "fringe":
        top = 0.34
    elif style in ("bob", "long"):
        top -= 0.04
    shift = 0.10 * side if style in ("side_part", "swept", "bob") else 0.0
    face_x = (x - shift * (y > 0)) / (0.60 * p.head_width)
    # Receding temples widen the face oval near its top, fuller hair narrows it.
    recede = 1.0 + 0.10 * p.hairline * step(y, 0.2, 0.6)
    oval = ((face_x / recede).abs() ** 2.6 + ((y + 0.35) / (top + 0.35)).clamp(min=0.0).abs() ** 2.6 + 1e-6) ** (
        1 / 2.6
    ) - 1.0
    if style == "fringe":
        oval = torch.maximum(oval, (x.abs() / (0.62 * p.head_width)) ** 4 + ((y + 0.35) / 0.68).clamp(min=0) ** 6 - 1.0)
    oval = torch.maximum(oval * 0.6, (0.10 - z) * 0.9 + full)
    sideburn = -0.16 if p.look == "man" else -0.05
    low = sideburn + (-0.78 - sideburn) * step(z, -0.05, -0.50)
    region = blend(oval + full, y - low + full, 0.12)
    thick = {"bald": 0.0, "buzz": 0.03, "short": 0.11, "side_part": 0.15, "swept": 0.20, "curly": 0.22, "afro": 0.35,
             "fringe": 0.14, "bob": 0.15, "long": 0.14, "bun": 0.075}[style] * p.hair_volume  # fmt: skip
    if p.hat != "none":
        thick = min(thick, 0.10)
    grow = step(region, 0.0, 0.16 if style not in ("afro", "curly") else 0.22)
    crown = 0.55 + 0.45 * step(y, -0.2, 0.6)
    amount = thick * grow * crown
    if style == "afro":
        # Wider than tall: the frame ends a hand above the head.
        amount = amount * (1.0 - 0.38 * step(y, 0.55, 1.15))
    if style == "swept":
        amount = amount * (1.0 + 0.9 * step(z, 0.1, 0.7) * step(y, 0.5, 0.8))
    if style == "side_part":
        amount = (
            amount
            * (1.0 + 0.55 * step(-x * side, -0.3, 0.5))
            * (1.0 - 0.55 * torch.exp(-(((x - 0.34 * side) / 0.07) ** 2)) * (y > 0.4))
        )
    phase = (p.seed % 97) * 0.37
    if style in ("curly", "afro") and p.hat == "none":
        amount = amount + grow * (0.065 if style == "curly" else 0.05) * _lumps(x, y, z, 11.0, phase)
    angle_top = torch.atan2(x, (y + 0.1).clamp(min=-5) + full)  # strands run front to back
    angle_fall = torch.atan2(x, z + 0.1) + full  # strands fall downwards
    along = z + full
    across = angle_top
    if style in ("fringe", "long", "bob"):
        lower = step(y, 0.95, 0.55)
        across, along = angle_fall, y + 0.6 * z * (1 - lower) + full
    elif style in ("side_part",):
        across, along = 1.1 * z + 0.35 * y + full, x + full
    elif style == "bun":
        across, along = torch.atan2(x, 0.9 - 0.6 * z + 0.3 * y) * 1.6 + full, z + full
    wave = 0.05 * torch.sin(along * 5.0 + phase)
    hair = base - amount
    if style in ("bob", "long"):
        end = -0.95 if style == "bob" else -1.75
        radius = 0.90 * p.head_width + 0.04 * p.hair_volume
        flare = 1.0 - 0.08 * (y + 0.4) if style == "long" else 1.0 - 0.10 * (y + 0.2)
        tube = (((x / flare) / radius) ** 2 + ((z + 0.18) / 0.84) ** 2).sqrt() - 1.0
        curtain = tube * 0.75 + 0.012 * torch.sin(angle_fall * 17.0 + phase) + full
        curtain = carve(curtain, y - 0.45 + full, 0.5)
        curtain = carve(curtain, end - y + 0.10 * torch.cos(x * 2.0) + full, 0.25)
        # Open at the front: the locks frame the face and fall in front of the shoulders.
        curtain = carve(curtain, z - 0.32 - 0.10 * step(y, -1.0, 0.2) + full, 0.16)
        # Nothing grows in front of the face and the throat.
        front = torch.minimum(0.56 * p.head_width - x.abs(), z + 0.06) + full
        curtain = carve(curtain, front, 0.10)
        hair = blend(hair, curtain, 0.10)
        region = torch.maximum(region, step(curtain, 0.06, -0.02) * 0.35 - 0.15)
    if style == "bun" and p.hat == "none":
        ball = ellipsoid(x, y, z, (0, 1.20 * p.head_height, -0.38), (0.36, 0.31, 0.36))
        hair = blend(hair, ball, 0.08)
        region = torch.maximum(region, 0.1 - ball)
    return hair, region, across + wave, along


def hat_fields(p: Person, x: Tensor, y: Tensor, z: Tensor, thickness: float) -> Tensor | None:
    """Distance to the hat, or None without one."""
    if p.hat == "none":
        return None
    w, h, t = p.head_width, p.head_height, 0.035 + 0.45 * thickness
    dome = ellipsoid(x, y, z, (0, 0.30 * h, -0.14), (0.775 * w + t, 0.90 * h + t, 0.92 + t))
    tilt = y - 0.25 * z
    if p.hat == "beanie":
        tall = ellipsoid(x, y, z, (0, 0.42 * h, -0.16), (0.775 * w + t, 0.93 * h + t, 0.90 + t))
        dome = blend(dome, tall, 0.05)
        cuff = carve(dome - 0.045, ((tilt - 0.50).abs() - 0.13), 0.05)
        return torch.minimum(carve(dome, 0.40 - tilt, 0.04), cuff)
    if p.hat == "cap":
        crown = carve(dome, 0.46 - tilt, 0.04)
        plate = (y - 0.56 + 0.30 * (z - 0.75) + 0.34 * x * x).abs() - 0.042
        disc = ((x / 0.66) ** 2 + ((z - 0.55) / 0.92) ** 2).sqrt().sub(1.0).mul(0.6)
        return torch.minimum(crown, carve(carve(plate + disc * 0, disc + plate * 0, 0.03), 0.3 - z + plate * 0, 0.03))
    crown = carve(ellipsoid(x, y, z, (0, 0.45 * h, -0.14), (0.775 * w + t, 0.98 * h, 0.92 + t)), 0.50 - tilt, 0.04)
    disc = ((x / 1.22) ** 2 + ((z + 0.1) / 1.32) ** 2).sqrt().sub(1.0).mul(1.2)
    brim = carve((tilt - 0.54 - 0.16 * x * x).abs() - 0.03, disc + 0 * tilt, 0.04)
    return blend(crown, brim, 0.05)


def bake_head(p: Person, device: torch.device) -> HeadVolume:
    """Bake a person's head into a `HeadVolume` on `device` (about 0.2 million voxels)."""
    big = p.hair_style in ("afro", "curly")
    half_x = 1.40 if p.hat == "bowler" else 1.45 if big else 1.15
    bottom = -2.0
    top = 1.70 if p.hair_style in ("afro", "bun") else 1.45
    back, front = -1.55 if p.hat == "bowler" or big else -1.30, 1.60 if p.hat == "cap" else 1.30
    voxel = 0.7 * VOXEL if p.hat in ("cap", "bowler") else VOXEL  # brims are thin
    nx = math.ceil(half_x / voxel)
    half_x = nx * voxel
    ny, nz = math.ceil((top - bottom) / voxel), math.ceil((front - back) / voxel)
    top, front = bottom + ny * voxel, back + nz * voxel
    xs = torch.linspace(0.0, half_x, nx + 1, device=device)
    y = torch.linspace(bottom, top, ny + 1, device=device)[None, :, None]
    z = torch.linspace(back, front, nz + 1, device=device)[:, None, None]

    def mirror(half: Tensor) -> Tensor:
        return torch.cat([half[..., 1:].flip(-1), half], dim=-1)

    skin = mirror(skin_distance(p, xs, y, z))
    base = mirror(skull(p, xs, y, z))
    x = torch.cat([-xs[1:].flip(0), xs])[None, None, :]
    hair, region, across, along = hair_fields(p, x, y, z, base)
    if p.hair_style == "bald":
        region = torch.full_like(skin, -1.0)
        total = skin
    else:
        total = torch.minimum(skin, hair)
        # What is deep in skin territory (ears poking out, the neck) is not hair.
        region = torch.minimum(region, (skin - hair) * 3.0 + 0.05)
    hat = hat_fields(p, x, y, z, 0.12 if p.hair_style not in ("bald", "buzz", "bun") else 0.03)
    cover = torch.full_like(skin, -1.0)
    if hat is not None:
        # Hair above a hat's edge is pressed under it.
        cap_line = 0.48 + 0.25 * z
        total = torch.where((y > cap_line) & (hair < skin), torch.maximum(total, torch.minimum(skin, hat)), total)
        cover = (total - hat).clamp(-0.2, 0.2)
        total = torch.minimum(total, hat)
    volume = total[None, None]
    gz, gy, gx = torch.gradient(total, spacing=voxel, dim=(0, 1, 2))
    normal = F.normalize(torch.stack([gx, gy, gz])[None], dim=1)
    # Occlusion: how far the distance falls short of growing by the step taken along the normal.
    low, high = (-half_x, bottom, back), (half_x, top, front)
    ao = torch.ones_like(total)
    for reach, weight in ((0.14, 0.45), (0.34, 0.55)):
        shape = normal.shape[2:]
        grid = torch.stack([g.expand(shape) for g in (x, y, z)], -1)
        point = grid + normal[0].permute(1, 2, 3, 0) * reach
        scale = torch.tensor([2.0 / (b - a) for a, b in zip(low, high, strict=True)], device=device)
        point = (point - torch.tensor(low, device=device)) * scale - 1.0
        reached = F.grid_sample(volume, point[None], align_corners=True, padding_mode="border")[0, 0]
        ao = ao - weight * (1.0 - ((reached - total) / reach).clamp(0.0, 1.0))
    surface = torch.cat([normal[0], torch.stack([region.clamp(-0.3, 0.3), cover, ao, across, along])])
    surface = surface.flatten(1).t()
    solid = total < 0.03
    spans = []
    for origin, keep in zip(low, ((0, 1), (0, 2), (1, 2)), strict=True):
        line = solid.any(dim=keep[1]).any(dim=keep[0])
        index = line.nonzero()[:, 0]
        spans += [origin + voxel * (int(index[0]) - 1), origin + voxel * (int(index[-1]) + 1)]
    return HeadVolume(volume.contiguous(), surface.contiguous(), low, high, tuple(spans))  # type: ignore[arg-type]
