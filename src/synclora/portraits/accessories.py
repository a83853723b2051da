"""Glasses and earrings: worn in front of the finished head, hidden by whatever of it is nearer."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from synclora.portraits import features
from synclora.portraits.features import edge
from synclora.portraits.geometry import NECK_PIVOT, step
from synclora.portraits.person import Person
from synclora.portraits.view import Clip, points_tensor


def window(clip: Clip, part: slice, spots: Sequence[Sequence[float]], left: Tensor, top: Tensor) -> tuple[slice, slice]:
    """Rows and columns of the head's box that hold the projected spots in every frame of the part."""
    at = clip.project(points_tensor(spots, clip.device))[part]
    column, row = at[..., 0] - left[:, None], at[..., 1] - top[:, None]
    x0, x1, y0, y1 = torch.stack([column.amin(), column.amax(), row.amin(), row.amax()]).tolist()
    return slice(max(0, int(y0)), max(0, int(y1) + 2)), slice(max(0, int(x0)), max(0, int(x1) + 2))


def lay_glasses(
    clip: Clip,
    person: Person,
    part: slice,
    left: Tensor,
    top: Tensor,
    x: Tensor,
    y: Tensor,
    depth: Tensor,
    covered: Tensor,
    color: Tensor,
) -> None:
    """Lay glasses over color [f, 3, h, w], the head's box at left, top [f]; x, y are view coordinates, depth and
    covered those of the head.
    """
    turn = clip.turn[part]
    px = 1.0 / clip.unit[part]
    plane = 1.02
    reach = [(a, b, c) for a in (-1.0, 1.0) for b in (-0.36, 0.30) for c in (-0.3, 1.05)]
    rows, columns = window(clip, part, reach, left, top)
    x, y, depth, covered = (v[:, rows, columns] for v in (x, y, depth, covered))
    color = color[:, :, rows, columns]
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
    clip: Clip,
    person: Person,
    part: slice,
    left: Tensor,
    top: Tensor,
    x: Tensor,
    y: Tensor,
    depth: Tensor,
    covered: Tensor,
    color: Tensor,
) -> None:
    """Lay earrings over color [f, 3, h, w], behind whatever of the head is nearer."""
    px = 1.0 / clip.unit[part]
    # Hair over the ears: the earrings come forward to hang in front of it.
    out, ahead = (0.90, 0.38) if person.hair_style in ("bob", "long", "fringe") else (0.83, 0.0)
    everything = x, y, depth, covered, color
    for side in (-1, 1):
        at = (side * out * person.head_width, -0.36 - 0.04 * person.ear_size, ahead)
        # An earring hangs straight down in the picture however the head is tilted: a window with room all around.
        reach = [(at[0] + a, at[1] + b, at[2]) for a in (-0.5, 0.5) for b in (-0.55, 0.3)]
        rows, columns = window(clip, part, reach, left, top)
        x, y, depth, covered, color = (v[..., rows, columns] for v in everything)
        spot = clip.project(points_tensor([at], clip.device))[part, 0, :, None, None]
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
