"""Where things are: frame pixels <-> head frame, and the ray march that finds the head's surface.

Shape legend: f frames of a chunk, h x w the head's box, S the frame's side.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from synclora.portraits.geometry import NECK_PIVOT, ORIGIN_Y, UNIT, HeadVolume
from synclora.portraits.motion import Motion
from synclora.portraits.person import Person

COARSE_STEPS, FINE_STEPS, LATE_STEPS = 9, 4, 14


def rotation(motion: Motion, device: torch.device) -> Tensor:
    """Head to view rotation [F, 3, 3]: yaw about y, then pitch about x, then roll about z."""
    yaw, pitch, roll = (getattr(motion, n).to(device) * (math.pi / 180.0) for n in ("yaw", "pitch", "roll"))
    cy, sy, cp, sp, cr, sr = yaw.cos(), yaw.sin(), pitch.cos(), pitch.sin(), roll.cos(), roll.sin()
    zero, one = torch.zeros_like(yaw), torch.ones_like(yaw)

    def matrix(*rows: Tensor) -> Tensor:
        return torch.stack(rows, -1).view(-1, 3, 3)

    about_y = matrix(cy, zero, sy, zero, one, zero, -sy, zero, cy)
    about_x = matrix(one, zero, zero, zero, cp, sp, zero, -sp, cp)
    about_z = matrix(cr, sr, zero, -sr, cr, zero, zero, zero, one)
    return about_z @ about_x @ about_y


class Clip:
    """Per-frame numbers of one clip, each [F, 1, 1], and the mapping between frame pixels and the head frame."""

    def __init__(self, person: Person, motion: Motion, size: int, device: torch.device) -> None:
        def per_frame(name: str) -> Tensor:
            return getattr(motion, name).to(device=device, dtype=torch.float32)[:, None, None]

        self.size, self.device = size, device
        self.signals = {n: per_frame(n) for n in motion.curves()}
        self.signals["smile"] = (self.signals["smile"] + person.smile_offset).clamp(-0.6, 1.0)
        self.turn = rotation(motion, device)
        self.unit = UNIT * size * self.signals["scale"]  # pixels per head unit
        self.center_x = (0.5 + self.signals["shift_x"]) * size
        self.center_y = (ORIGIN_Y + self.signals["shift_y"] - 0.004 * self.signals["breath"]) * size

    def project(self, points: Tensor) -> Tensor:
        """Head-frame points [N, 3] -> pixel x, pixel y and depth, [F, N, 3]."""
        pivot = torch.tensor(NECK_PIVOT, device=self.device)
        view = (points - pivot) @ self.turn.transpose(1, 2) + pivot
        x = self.center_x[..., 0] + view[..., 0] * self.unit[..., 0]
        y = self.center_y[..., 0] - view[..., 1] * self.unit[..., 0]
        return torch.stack([x, y, view[..., 2]], -1)


def points_tensor(rows: Sequence[Sequence[float]], device: torch.device) -> Tensor:
    return torch.tensor(rows, device=device, dtype=torch.float32)


def head_box(clip: Clip, volume: HeadVolume, margin: float) -> tuple[Tensor, Tensor, int, int]:
    """Left and top pixel [F] (int) and common width and height of the box that holds the projected head."""
    x0, x1, y0, y1, z0, z1 = volume.box
    corners = points_tensor([(x, y, z) for x in (x0, x1) for y in (y0, y1) for z in (z0, z1)], clip.device)
    spots = clip.project(corners)
    size, pad = clip.size, margin * clip.unit[:, 0, 0]
    left = (spots[..., 0].amin(1) - pad).clamp(0, size)
    right = (spots[..., 0].amax(1) + pad).clamp(0, size)
    top = (spots[..., 1].amin(1) - pad).clamp(0, size)
    # Nothing of the head is drawn below its neck's fade-out, except long hair.
    bottom = (spots[..., 1].amax(1) + pad).clamp(0, size)
    # Even sides, for rays in blocks of 2 x 2.
    width = min(size // 2 * 2, (int((right - left).max().item()) + 3) // 2 * 2)
    height = min(size // 2 * 2, (int((bottom - top).max().item()) + 3) // 2 * 2)
    return left.floor().long().clamp(0, size - width), top.floor().long().clamp(0, size - height), width, height


def march(clip: Clip, volume: HeadVolume, part: slice, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """Sphere-trace the head along parallel rays. x, y [f, h, w] are view coordinates in head units.

    Returns q (3 x [f, h, w], head frame), rest (normalised volume coordinates [f, 1, h, w, 3] of the undeformed face),
    depth, nearest distance (`near` where it is below a pixel, `around` coarsely), all [f, h, w].
    """
    turn = clip.turn[part]
    frames = turn.shape[0]
    axes, ways = [], []
    start = 1.30
    dx, dy = x - NECK_PIVOT[0], y - NECK_PIVOT[1]
    for i in range(3):
        scale = 2.0 / (volume.high[i] - volume.low[i])
        along = turn[:, 2, i, None, None]
        q = (
            dx * turn[:, 0, i, None, None]
            + dy * turn[:, 1, i, None, None]
            + (along * (start - NECK_PIVOT[2]) + NECK_PIVOT[i])
        )
        axes.append(q.sub_(volume.low[i]).mul_(scale).sub_(1.0))
        ways.append(along * scale)
    jaw = clip.signals["mouth_open"][part] * (0.21 * 2.0 / (volume.high[1] - volume.low[1]))
    jaw_y = [2.0 * (v - volume.low[1]) / (volume.high[1] - volume.low[1]) - 1.0 for v in (-0.60, -1.16)]
    jaw_z = [2.0 * (v - volume.low[2]) / (volume.high[2] - volume.low[2]) - 1.0 for v in (-0.15, 0.45)]
    field = volume.distance.expand(frames, -1, -1, -1, -1)
    depth = torch.full_like(x, start)
    near = torch.full_like(x, 9.0)

    def place(out: Tensor, gx: Tensor, gy: Tensor, gz: Tensor, jaw: Tensor) -> Tensor:
        """Volume coordinates of the face at rest: the open jaw is pulled back up."""
        t = ((gy - jaw_y[0]) * (1.0 / (jaw_y[1] - jaw_y[0]))).clamp_(0.0, 1.0)
        w = ((gz - jaw_z[0]) * (1.0 / (jaw_z[1] - jaw_z[0]))).clamp_(0.0, 1.0)
        out[..., 0], out[..., 2] = gx, gz
        torch.add(gy, t.mul_(t).mul_(w).mul_(jaw), out=out[..., 1])
        return out

    def distance(at: Tensor) -> Tensor:
        return F.grid_sample(field, at[:, None], align_corners=True, padding_mode="border")[:, 0, 0]

    # Cone march: one ray for every 2 x 2 pixels goes as far as the surface is clear of all four ...
    h, w = x.shape[1:]
    rough = [a.view(frames, h // 2, 2, w // 2, 2).mean((2, 4)) for a in axes]
    travel = torch.zeros_like(rough[0])
    around = torch.full_like(travel, 9.0)
    at = x.new_empty(*travel.shape, 3)
    cone = 1.5 / clip.unit[part]
    for _ in range(COARSE_STEPS):
        d = distance(place(at, *rough, jaw))
        torch.minimum(around, d, out=around)
        d = d.sub_(cone).clamp_(-0.05, 0.6)
        d = torch.where(d > 0, d * 1.15 + 0.004, d)
        travel.add_(d)
        for a, way in zip(rough, ways, strict=True):
            a.addcmul_(d, way, value=-1.0)
    # ... and every pixel's own ray goes on from there.
    around = F.interpolate(around[:, None], scale_factor=2.0, mode="bilinear", align_corners=False)[:, 0]
    travel = travel[:, :, None, :, None].expand(-1, -1, 2, -1, 2).reshape(frames, h, w)
    depth.sub_(travel)
    for a, way in zip(axes, ways, strict=True):
        a.addcmul_(travel, way, value=-1.0)
    rest = x.new_empty(*x.shape, 3)
    best = depth.clone()
    for k in range(FINE_STEPS):
        d = distance(place(rest, *axes, jaw))
        best = torch.where(d < near, depth, best)
        torch.minimum(near, d, out=near)
        d.clamp_(max=0.6)
        if k < FINE_STEPS - 2:
            # A little too far lets grazing rays arrive or pass in few steps; from inside, the distance leads back out.
            d = torch.where(d > 0, d * 1.2 + 0.012, d)
        depth.sub_(d)
        for a, way in zip(axes, ways, strict=True):
            a.addcmul_(d, way, value=-1.0)
    # Few rays are still on their way, mostly those that slip past an edge; only they go on.
    px = 1.0 / clip.unit[part]
    late = ((d > 0.25 * px) & (depth > -0.8)).flatten().nonzero()[:, 0]
    if late.numel():
        owner = late // (h * w)
        ray = [a.flatten()[late] for a in axes]
        way = [v[owner, 0, 0] for v in ways]
        slack = jaw[owner, 0, 0]
        passed, closest, nearest = (v.flatten()[late] for v in (depth, near, best))
        at = x.new_empty(late.numel(), 3)
        for k in range(LATE_STEPS):
            point = place(at, *ray, slack)[None, None, None]
            d = F.grid_sample(volume.distance, point, align_corners=True, padding_mode="border")[0, 0, 0, 0]
            nearest = torch.where(d < closest, passed, nearest)
            torch.minimum(closest, d, out=closest)
            d.clamp_(max=0.6)
            if k < LATE_STEPS - 4:
                d = torch.where(d > 0, d * 1.2 + 0.02, d)
            passed.sub_(d)
            for r, v in zip(ray, way, strict=True):
                r.addcmul_(d, v, value=-1.0)
        # A ray that missed is shaded where it came closest: the soft outer pixel of an edge.
        back = torch.where(d > 0.02, nearest - passed, torch.zeros_like(d))
        passed.add_(back)
        for a, r, v in zip(axes, ray, way, strict=True):
            a.view(-1)[late] = r.addcmul_(back, v)
        depth.view(-1)[late], near.view(-1)[late] = passed, closest
    place(rest, *axes, jaw)
    q = [axes[i].add_(1.0).mul_((volume.high[i] - volume.low[i]) / 2.0).add_(volume.low[i]) for i in range(3)]
    return {
        "qx": q[0],
        "qy": q[1],
        "qz": q[2],
        "rest": rest,
        "depth": depth,
        "near": near,
        "around": torch.minimum(around, near),
    }


def patch_index(
    clip: Clip,
    part: slice,
    point: tuple[float, float, float],
    reach: tuple[float, float],
    left: Tensor,
    top: Tensor,
    w: int,
    h: int,
) -> Tensor:
    """Flat indices [f, ph * pw] into the head's box of a patch around a head-frame point, `reach` in head units."""
    spot = clip.project(points_tensor([point], clip.device))[part, 0]
    pw = min(w, int(2 * reach[0] * float(clip.unit.max())) + 2)
    ph = min(h, int(2 * reach[1] * float(clip.unit.max())) + 2)
    px = (spot[:, 0].round().long() - left - pw // 2).clamp(0, w - pw)
    py = (spot[:, 1].round().long() - top - ph // 2).clamp(0, h - ph)
    columns = px[:, None, None] + torch.arange(pw, device=clip.device)
    rows = py[:, None, None] + torch.arange(ph, device=clip.device)[:, None]
    return (rows * w + columns).flatten(1)
