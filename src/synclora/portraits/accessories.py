"""Glasses and earrings: worn in front of the finished head, hidden by whatever of it is nearer."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from synclora.portraits import features
from synclora.portraits.features import edge
from synclora.portraits.geometry import NECK_PIVOT, step
from synclora.portraits.person import Person
from synclora.portraits.view import Clip, points_tensor


def lay_glasses(
    clip: Clip, person: Person, part: slice, x: Tensor, y: Tensor, depth: Tensor, covered: Tensor, color: Tensor
) -> None:
    """Lay glasses over the head's box color [f, 3, h, w]; x, y view coordinates, depth and coverage of the head."""
    turn = clip.turn[part]
    px = 1.0 / clip.unit[part]
    plane = 1.02
    dx, dy = x - NECK_PIVOT[0], y - NECK_PIVOT[1]
    r = [[turn[:, i, j, None, None] for j in range(3)] for i in range(3)]
    t = (plane - NECK_PIVOT[2] - dx * r[0][2] - dy * r[1][2]) / r[2][2]
    gx = dx * r[0][0] + dy * r[1][0] + t * r[2][0] + NECK_PIVOT[0]
    gy = dx * r[0][1] + dy * r[1][1] + t * r[2][1] + NECK_PIVOT[1]
    frame, shade, tint, glare = features.glasses_layer(person, gx, gy, px)
    cast, *_ = features.glasses_layer(person, gx + 0.035 * math.copysign(1, person.light_azimuth), gy + 0.05, px * 4)
    color.mul_(1.0 - 0.20 * (cast * covered)[:, None])
    # The temples run from the frame to the ears; the head hides what lies behind it.
    base = features.glasses_color(person, clip.device)
    rgb = base[:, None, None]
    ends = clip.project(
        points_tensor(
            [(s * a, b, c) for s in (-1, 1) for a, b, c in ((0.585, 0.04, plane - 0.02), (0.80, 0.03, -0.10))],
            clip.device,
        )
    )[part]
    unit, cx, cy = clip.unit[part], clip.center_x[part], clip.center_y[part]
    for side in range(2):
        a, b = ends[:, 2 * side, :, None, None], ends[:, 2 * side + 1, :, None, None]
        ax, ay, bx, by = (a[:, 0] - cx) / unit, (cy - a[:, 1]) / unit, (b[:, 0] - cx) / unit, (cy - b[:, 1]) / unit
        ex, ey = bx - ax, by - ay
        s = (((x - ax) * ex + (y - ay) * ey) / (ex * ex + ey * ey).clamp(min=1e-4)).clamp(0.0, 1.0)
        gap = ((x - ax - ex * s) ** 2 + (y - ay - ey * s) ** 2).sqrt()
        seen = step(a[:, 2] + (b[:, 2] - a[:, 2]) * s - depth, -0.06, 0.0)
        arm = edge((0.012 if person.glasses == "thin" else 0.022) - gap, px) * torch.maximum(seen, 1.0 - covered)
        color.mul_(1.0 - arm[:, None]).add_((rgb.clamp(min=1e-4).sqrt() * 200.0) * arm[:, None])
    color.mul_(1.0 - tint[:, None] * 0.93)
    color.add_(glare[:, None] * 255.0)
    face = (rgb * (shade[:, None] + 0.05) + 0.01).clamp(0, 1).sqrt() * 255.0
    color.mul_(1.0 - frame[:, None]).add_(face * frame[:, None])


def lay_earrings(
    clip: Clip, person: Person, part: slice, x: Tensor, y: Tensor, depth: Tensor, covered: Tensor, color: Tensor
) -> None:
    """Lay earrings over color [f, 3, h, w], behind whatever of the head is nearer."""
    px = 1.0 / clip.unit[part]
    # Hair over the ears: the earrings come forward to hang in front of it.
    out, ahead = (0.90, 0.38) if person.hair_style in ("bob", "long", "fringe") else (0.83, 0.0)
    spots = clip.project(
        points_tensor(
            [(s * out * person.head_width, -0.36 - 0.04 * person.ear_size, ahead) for s in (-1, 1)], clip.device
        )
    )[part]
    for side in range(2):
        spot = spots[:, side, :, None, None]
        dx = x - (spot[:, 0] - clip.center_x[part]) / clip.unit[part]
        dy = y - (clip.center_y[part] - spot[:, 1]) / clip.unit[part]
        if person.earrings == "stud":
            gap = 0.052 - (dx * dx + dy * dy).sqrt()
            tone = points_tensor([(0.92, 0.94, 1.0)], clip.device)
        elif person.earrings == "hoop":
            gap = 0.022 - ((dx * dx + (dy + 0.12) ** 2).sqrt() - 0.12).abs()
            tone = points_tensor([(1.0, 0.80, 0.36)], clip.device)
        else:
            drop = 0.030 + 0.035 * step(dy, -0.05, -0.20)
            gap = drop - (dx * dx + (dy + 0.15 - (dy + 0.15).clamp(-0.10, 0.13)) ** 2).sqrt()
            tone = points_tensor([(0.30, 0.75, 0.68)], clip.device)
        seen = torch.maximum(step(spot[:, 2] - depth, -0.30, -0.16), 1.0 - covered)
        mask = (edge(gap, px) * seen)[:, None]
        glint = 0.62 + 0.5 * step(dy + dx * math.copysign(1, person.light_azimuth), -0.10, 0.04)
        color.mul_(1.0 - mask).add_((tone[0][:, None, None] * (glint[:, None] * 225.0)).clamp_(max=255.0) * mask)
