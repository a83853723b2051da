"""Where things are: frame pixels <-> head frame, and the ray march that finds the head's surface.

Shape legend: f frames of a chunk, h x w the head's box, S the frame's side.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from copy import copy

import torch
import torch.nn.functional as F
from torch import Tensor

from synclora.portraits.geometry import NECK_PIVOT, ORIGIN_Y, UNIT, HeadVolume
from synclora.portraits.motion import Motion
from synclora.portraits.person import Person

COARSE_STEPS, FINE_STEPS, LATE_STEPS = 9, 4, (4, 8)
HIT = 0.2
"""A ray this share of a pixel from the surface has hit it."""
BEHIND = -0.8
"""Rays deeper than this have passed the head."""

Place = Callable[[Tensor, Sequence[Tensor], Tensor], Tensor]
"""Writes the resting volume coordinates of points (three axes) under a jaw opening into its first argument."""


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

    Returns, as [f, h, w]: qx, qy, qz (head frame), rest_y (height on the undeformed face), depth, near (by how
    much a ray missed, 0 where it hit, 9 where far off) and around (coarse nearest distance); and for the n rays that
    came near the head: live (their flat positions [n]), owner (their frames [n]) and rest (normalised volume
    coordinates of the undeformed face [n, 3]).
    """
    turn = clip.turn[part]
    frames, h, w = x.shape
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

    def place(out: Tensor, point: Sequence[Tensor], jaw: Tensor) -> Tensor:
        """Volume coordinates of the face at rest: the open jaw is pulled back up."""
        gx, gy, gz = point
        t = ((gy - jaw_y[0]) * (1.0 / (jaw_y[1] - jaw_y[0]))).clamp_(0.0, 1.0)
        v = ((gz - jaw_z[0]) * (1.0 / (jaw_z[1] - jaw_z[0]))).clamp_(0.0, 1.0)
        out[..., 0], out[..., 2] = gx, gz
        torch.add(gy, t.mul_(t).mul_(v).mul_(jaw), out=out[..., 1])
        return out

    # Cone march: one ray for every 2 x 2 pixels goes as far as the surface is clear of all four ...
    rough = [a.view(frames, h // 2, 2, w // 2, 2).mean((2, 4)) for a in axes]
    travel = torch.zeros_like(rough[0])
    around = torch.full_like(travel, 9.0)
    at = x.new_empty(*travel.shape, 3)
    px = 1.0 / clip.unit[part]
    cone = 1.5 * px
    for _ in range(COARSE_STEPS):
        d = distance(volume, place(at, rough, jaw))
        torch.minimum(around, d, out=around)
        d = d.sub_(cone).clamp_(-0.05, 0.6)
        d = torch.where(d > 0, d * 1.15 + 0.004, d)
        travel.add_(d)
        for a, way in zip(rough, ways, strict=True):
            a.addcmul_(d, way, value=-1.0)

    # ... and every pixel's own ray goes on from there, unless its block has clearly passed the head.
    open_blocks = (around < 4.0 * px) | (travel < start - BEHIND)
    live = open_blocks[:, :, None, :, None].expand(-1, -1, 2, -1, 2).flatten().nonzero()[:, 0]
    owner = live // (h * w)
    ray = _Rays(
        [a.flatten()[live] for a in axes],
        [v.flatten()[owner] for v in ways],
        jaw.flatten()[owner],
        travel[:, :, None, :, None].expand(-1, -1, 2, -1, 2).flatten()[live].neg_(),
        start,
    )
    pixel = px.flatten()[owner]
    ray.trace(volume, place, FINE_STEPS)
    # Few rays are still on their way, mostly those that slip past an edge; only they go on.
    for steps in LATE_STEPS:
        late = ((ray.gap.abs() > HIT * pixel) & (ray.depth > BEHIND)).nonzero()[:, 0]
        slow = ray.only(late)
        slow.trace(volume, place, steps)
        ray.put(late, slow)
    # A ray that ended clear of the surface missed, and is shaded where it came closest: an edge's soft outer pixel.
    # All others hit, however near they have come to the surface: nothing behind may shine through.
    missed = (ray.gap > HIT * pixel) & ((ray.depth < BEHIND) | (ray.gap > 0.03))
    near = torch.where(missed, ray.near, torch.zeros_like(ray.near))
    ray.advance(torch.where(missed, ray.depth - ray.best, torch.zeros_like(ray.near)))
    rest = place(x.new_empty(live.numel(), 3), ray.axes, ray.jaw)

    def spread(values: Tensor, elsewhere: Tensor) -> Tensor:
        return elsewhere.flatten().index_copy_(0, live, values).view(frames, h, w)

    low, half = volume.low, [(b - a) / 2.0 for a, b in zip(volume.low, volume.high, strict=True)]
    q = [spread(ray.axes[i], axes[i]).add_(1.0).mul_(half[i]).add_(low[i]) for i in range(3)]
    near = spread(near, torch.full_like(x, 9.0))
    blurred = F.interpolate(around[:, None], scale_factor=2.0, mode="bilinear", align_corners=False)[:, 0]
    return {
        "qx": q[0],
        "qy": q[1],
        "qz": q[2],
        "rest_y": spread(rest[:, 1], torch.zeros_like(x)).add_(1.0).mul_(half[1]).add_(low[1]),
        "depth": spread(ray.depth, torch.full_like(x, BEHIND)),
        "near": near,
        "around": torch.minimum(blurred, near),
        "live": live,
        "owner": owner,
        "rest": rest,
    }


def distance(volume: HeadVolume, at: Tensor) -> Tensor:
    """Distances [...] at normalised volume coordinates [..., 3]."""
    if not at.numel():
        return at.new_zeros(at.shape[:-1])
    point = at.view(1, 1, 1, -1, 3)
    return F.grid_sample(volume.distance, point, align_corners=True, padding_mode="border").view(at.shape[:-1])


class _Rays:
    """Rays under way, every field [n]: `gap` is the last distance seen, `near` the least, met at depth `best`."""

    def __init__(self, axes: list[Tensor], ways: list[Tensor], jaw: Tensor, depth: Tensor, start: float) -> None:
        self.axes, self.ways, self.jaw = axes, ways, jaw
        for a, way in zip(axes, ways, strict=True):
            a.addcmul_(depth, way)
        self.depth = depth.add_(start)
        self.best = self.depth.clone()
        self.gap = torch.full_like(depth, 9.0)
        self.near = torch.full_like(depth, 9.0)
        self.stride = torch.ones_like(depth)

    def advance(self, stride: Tensor) -> None:
        self.depth.sub_(stride)
        for a, way in zip(self.axes, self.ways, strict=True):
            a.addcmul_(stride, way, value=-1.0)

    def trace(self, volume: HeadVolume, place: Place, steps: int) -> None:
        """Walk up to the surface. How fast the distance fell over the last stride tells how obliquely a ray meets the
        surface, and so how much further than the distance it may go; from inside, the same rule leads back out.
        """
        at = self.depth.new_empty(self.depth.numel(), 3)
        for _ in range(steps):
            d = distance(volume, place(at, self.axes, self.jaw))
            self.best = torch.where(d < self.near, self.depth, self.best)
            torch.minimum(self.near, d, out=self.near)
            slope = (self.gap - d).mul_(self.stride).div_(self.stride.square().add_(1e-9)).clamp_(0.2, 1.0)
            self.stride = torch.clamp(d / slope, min=-0.12, max=0.6)
            self.stride = torch.minimum(self.stride, d * 1.1 + 0.05)
            self.gap = d
            self.advance(self.stride)

    _FIELDS = ("jaw", "depth", "best", "gap", "near", "stride")

    def only(self, index: Tensor) -> _Rays:
        """A copy of some of the rays."""
        some = copy(self)
        some.axes, some.ways = [a[index] for a in self.axes], [v[index] for v in self.ways]
        for name in self._FIELDS:
            setattr(some, name, getattr(self, name)[index])
        return some

    def put(self, index: Tensor, some: _Rays) -> None:
        """Bring back what `only` took."""
        for a, b in zip(self.axes, some.axes, strict=True):
            a[index] = b
        for name in self._FIELDS:
            getattr(self, name)[index] = getattr(some, name)


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
