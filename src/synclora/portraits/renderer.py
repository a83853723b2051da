"""Person x motion -> frames: one sphere-traced head volume, small painted patches, baked body and backdrop.

    frames = render(sample_person(1), sample_motion(2, frames=33), size=256)   # uint8 [33, 256, 256, 3]

Everything that does not move is baked once per person (`bake`); a frame then costs one short ray march over the head's
box, some lookups and the patches. Shape legend: f frames of a chunk, h x w the head's box, S the frame's side.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from synclora.portraits import features
from synclora.portraits.accessories import lay_earrings, lay_glasses
from synclora.portraits.features import Skin
from synclora.portraits.geometry import HeadVolume, bake_head, step, surface_at
from synclora.portraits.motion import Motion
from synclora.portraits.person import FABRICS, HAIR_COLORS, Person
from synclora.portraits.textures import FACE_WINDOW, backdrop, body_texture, face_texture, linear, strand_texture
from synclora.portraits.view import HIT, Clip, distance, head_box, march, patch_index

BODY_TOP = 0.62
"""The body texture is only drawn below this fraction of the frame."""


@dataclass(frozen=True)
class Baked:
    """A person's still parts at one size: head volume, textures, and backdrop and lit body in display gamma x 255."""

    volume: HeadVolume
    face: Tensor
    strands: Tensor
    backdrop: Tensor  # [3, S, S], 0..255
    body: Tensor  # [1, 5, R, R]: rgb 0..255, cover, cloth
    light: Tensor  # [3], unit vector towards the light
    key: Tensor  # [3] linear rgb
    ambient: Tensor  # [3] linear rgb


_cache: OrderedDict[tuple[Person, int, str], Baked] = OrderedDict()


def bake(person: Person, size: int, device: torch.device) -> Baked:
    """The still parts of a person, from a small cache of the last people used."""
    key = (person, size, str(device))
    if key in _cache:
        _cache.move_to_end(key)
        return _cache[key]
    azimuth, elevation = math.radians(person.light_azimuth), math.radians(person.light_elevation)
    light = torch.tensor(
        [math.sin(azimuth) * math.cos(elevation), math.sin(elevation), math.cos(azimuth) * math.cos(elevation)],
        device=device,
    )  # fmt: skip
    warm, hard = person.light_warmth, person.light_contrast
    key_rgb = torch.tensor([1.0 + 0.10 * warm, 1.0, 1.0 - 0.14 * warm], device=device) * (0.80 + 0.46 * hard)
    ambient = torch.tensor([1.0 - 0.06 * warm, 1.0, 1.0 + 0.08 * warm], device=device) * (0.46 - 0.20 * hard)
    resolution = 256 if size <= 288 else 512
    body = body_texture(person, 192 if size <= 144 else 384 if size <= 288 else 768 if size <= 576 else 1024, device)
    nx, ny = body[:, 3:4], body[:, 4:5]
    nz = (1.0 - nx * nx - ny * ny).clamp(min=0.05).sqrt()
    lit = _irradiance(nx * light[0] + ny * light[1] + nz * light[2], ny, key_rgb, ambient, body[:, 7:8])
    body_rgb = (body[:, :3] * lit[:, :, 0]).clamp(0, 1).sqrt().mul(255.0)
    baked = Baked(
        bake_head(person, device), face_texture(person, resolution, device), strand_texture(person, device),
        backdrop(person, size, device).sqrt_().mul_(255.0), torch.cat([body_rgb, body[:, 5:7]], 1).contiguous(),
        light, key_rgb, ambient,
    )  # fmt: skip
    _cache[key] = baked
    while len(_cache) > 6:
        _cache.popitem(last=False)
    return baked


def _irradiance(
    facing: Tensor, up: Tensor, key: Tensor, ambient: Tensor, ao: Tensor, shadow: Tensor | None = None
) -> Tensor:
    """Light falling on a surface, [f, 3, ...] from facing = n.l, up = n.y and occlusion, all [f, ...].

    Red wraps further round the terminator than blue, as light does that has travelled under skin.
    """
    sky = (0.78 + 0.22 * up) * ao
    out = []
    for c, wrap in enumerate((0.34, 0.20, 0.16)):
        direct = ((facing + wrap) * (1.0 / (1.0 + wrap))).clamp_(min=0.0)
        if shadow is not None:
            direct.mul_(shadow)
        out.append(direct.mul_(key[c]).addcmul_(sky, ambient[c].expand_as(sky)))
    return torch.stack(out, 1)


def _shade(
    clip: Clip,
    person: Person,
    baked: Baked,
    part: slice,
    left: Tensor,
    top: Tensor,
    w: int,
    h: int,
    hit: dict[str, Tensor],
) -> tuple[Tensor, Tensor]:
    """Colour [f, 3, h, w] (0..255, display gamma) and hair share [f, h, w] of the traced surface."""
    device, volume = clip.device, baked.volume
    rest, live, owner, qx, qy = hit["rest"], hit["live"], hit["owner"], hit["qx"], hit["qy"]
    frames = qx.shape[0]
    signals = {k: v[part] for k, v in clip.signals.items()}
    px = 1.0 / clip.unit[part]
    surface = qx.new_zeros(frames * h * w, 8).index_copy_(0, live, surface_at(volume, rest))
    nx, ny, nz, region, cover, ao, across, along = surface.t().contiguous().view(8, frames, h, w)

    # Face colour and relief, looked up from the front; brows ride on the forehead.
    x0, x1, y0, y1 = FACE_WINDOW
    ry = hit["rest_y"]
    lift = 0.065 * signals["brow"]
    ry = ry - lift * step(ry, 0.06, 0.19) * step(ry, 0.62, 0.38)
    look = torch.stack([(qx - x0) * (2.0 / (x1 - x0)) - 1.0, (ry - y0) * (2.0 / (y1 - y0)) - 1.0], -1)
    face = F.grid_sample(baked.face.expand(frames, -1, -1, -1), look, align_corners=True, padding_mode="border")
    front = (nz * 2.5).clamp(0.0, 1.0)
    albedo, gloss = face[:, :3].contiguous(), face[:, 5]
    shine = torch.zeros_like(qx)
    bump_x, bump_y = face[:, 3] * front, face[:, 4] * front

    uv = torch.stack([across * (1.0 / 3.3), along * 0.5], -1)
    strand = F.grid_sample(baked.strands.expand(frames, -1, -1, -1), uv, align_corners=True, padding_mode="reflection")[
        :, 0
    ]
    soft = torch.clamp(px * 0.7, min=0.016)
    hair = ((region + (strand - 0.5) * 0.055) / (2.0 * soft) + 0.5).clamp_(0.0, 1.0)
    bald = person.hair_style == "bald"

    skin = Skin(albedo.flatten(2), shine.flatten(1))
    flat_x, flat_y = qx.flatten(1), qy.flatten(1)

    def patch(point: tuple[float, float, float], reach: tuple[float, float]):
        index = patch_index(clip, part, point, reach, left, top, w, h)
        u, v = flat_x.gather(1, index), flat_y.gather(1, index)
        wide = index[:, None].expand(-1, 3, -1)
        spot = Skin(skin.albedo.gather(2, wide)[..., None], skin.shine.gather(1, index)[..., None])
        return index, wide, spot, u[..., None], v[..., None]

    for side, blink in ((-1.0, "blink_left"), (1.0, "blink_right")):
        index, wide, spot, u, v = patch(features.eye_center(person, side), (0.27, 0.17))
        features.paint_eye(
            person, spot, u, v, px, side, signals[blink], signals["smile"], signals["gaze_x"], signals["gaze_y"]
        )
        skin.albedo.scatter_(2, wide, spot.albedo[..., 0])
        skin.shine.scatter_(1, index, spot.shine[..., 0])
    index, wide, spot, u, v = patch(features.mouth_center(person), (0.46, 0.34))
    features.paint_mouth(person, spot, u, v, px, signals["mouth_open"], signals["mouth_width"], signals["smile"])
    skin.albedo.scatter_(2, wide, spot.albedo[..., 0])
    skin.shine.scatter_(1, index, spot.shine[..., 0])
    albedo, shine = skin.albedo.view_as(albedo), skin.shine.view_as(shine)

    if not bald:
        color = linear(HAIR_COLORS[person.hair_color], device)[:, None, None]
        depth_tone = (0.42 + 0.95 * strand) * (0.55 + 0.45 * ao)
        share = hair[:, None] * (0.62 if person.hair_style == "buzz" else 1.0)
        albedo = albedo * (1.0 - share) + color * (depth_tone[:, None] * share)
    if person.hat != "none":
        cloth = linear(FABRICS[person.hat_color], device)[:, None, None]
        on = (cover / (2.0 * soft) + 0.5).clamp_(0.0, 1.0)
        weave = 0.88 + 0.18 * torch.sin(torch.atan2(qx, hit["qz"] + 0.14) * 44.0) if person.hat == "beanie" else 0.95
        albedo = albedo * (1.0 - on[:, None]) + cloth * (weave * on)[:, None]
        hair = hair * (1.0 - on)
        gloss = gloss * (1.0 - 0.8 * on)
        plain = 1.0 - on
        bump_x, bump_y, shine = bump_x * plain, bump_y * plain, shine * plain
    bare = 1.0 - hair
    nx, ny = nx + bump_x * bare, ny + bump_y * bare
    norm = (nx * nx + ny * ny + nz * nz).clamp_(min=1e-4).rsqrt_()

    # Light in the head frame: turning three numbers a frame is cheaper than turning every normal.
    light = baked.light @ clip.turn[part]
    lx, ly, lz = (light[:, i, None, None] for i in range(3))
    facing = (nx * lx + ny * ly + nz * lz) * norm
    reach = 0.24
    span = [2.0 * reach / (volume.high[i] - volume.low[i]) for i in range(3)]
    probe = rest + (light * light.new_tensor(span))[owner]
    clear = torch.ones_like(qx).flatten().index_copy_(0, live, distance(volume, probe)).view_as(qx)
    shadow = (clear / (facing * reach).clamp(min=0.05)).clamp_(0.0, 1.0).mul_(0.72).add_(0.28)
    view = clip.turn[part][:, 2]
    hx, hy, hz = F.normalize(light + view, dim=1).split(1, dim=1)
    half = (nx * hx[..., None] + ny * hy[..., None] + nz * hz[..., None]) * norm
    rim = (
        1.0 - ((nx * view[:, 0, None, None] + ny * view[:, 1, None, None] + nz * view[:, 2, None, None]) * norm).abs()
    ).clamp_(0, 1)
    up = ny * norm
    lit = _irradiance(facing, up, baked.key, baked.ambient, ao, shadow)
    base = half.clamp(min=0.0)
    p4 = (base * base).square_()
    p16 = p4 * p4 * p4 * p4
    oil = (p16 * 0.16 + p4.pow(8) * 0.10) * gloss * bare
    lustre = ((half + (strand - 0.5) * 0.16).clamp_(0.0, 1.0) ** 14) * (0.05 + 0.22 * strand) * hair
    lustre = lustre * (region * 12.0).clamp_(0.0, 1.0)  # single strands at the hairline do not gleam
    spec = (oil + lustre) * shadow + shine * bare
    fringe = rim.pow(4) * (0.10 + 0.10 * up)
    color = albedo * lit
    color.add_((spec + fringe * ao * 0.6)[:, None] * (0.5 + 0.5 * baked.key[:, None, None]))
    return color.clamp_(0.0, 1.0).sqrt_().mul_(255.0), hair


def _body(clip: Clip, baked: Baked, part: slice, canvas: Tensor) -> Tensor:
    """Lay the body over canvas [f, 3, S, S]; returns the cover by clothes and by the whole body, [2, f, S, S]."""
    size = clip.size
    first = int(BODY_TOP * size)
    signals = {k: v[part] for k, v in clip.signals.items()}
    x = (torch.arange(size, device=clip.device) + 0.5)[None, None, :] / size
    y = (torch.arange(first, size, device=clip.device) + 0.5)[None, :, None] / size
    # The neck's root follows the head, the shoulders follow half of it; breathing lifts the chest.
    follow = 1.0 - 0.45 * step(y, 0.80, 0.98)
    scale = 1.0 + (signals["scale"] - 1.0) * 0.6
    u = (x - 0.5 - signals["shift_x"] * follow) / scale + 0.5
    v = (y - 0.85 - signals["shift_y"] * follow + 0.006 * signals["breath"]) / scale + 0.85
    v = v - 0.06 * (signals["scale"] - 1.0)
    u, v = torch.broadcast_tensors(u, v)
    grid = torch.stack([(u + 0.2) / 1.4 * 2.0 - 1.0, (v - 0.5) / 0.8 * 2.0 - 1.0], -1)
    body = F.grid_sample(baked.body.expand(grid.shape[0], -1, -1, -1), grid, align_corners=True, padding_mode="border")
    cover, cloth = body[:, 3:4], body[:, 4]
    canvas[:, :, first:].lerp_(body[:, :3], cover.expand(-1, 3, -1, -1))
    full = canvas.new_zeros(2, canvas.shape[0], size, size)
    full[0, :, first:], full[1, :, first:] = cloth, cover[:, 0]
    return full


def _render_chunk(
    clip: Clip, person: Person, baked: Baked, part: slice, box: tuple[Tensor, Tensor, int, int]
) -> Tensor:
    left, top, w, h = box[0][part], box[1][part], box[2], box[3]
    frames, device = left.shape[0], clip.device
    canvas = baked.backdrop.expand(frames, -1, -1, -1).clone()
    covers = _body(clip, baked, part, canvas)

    columns = left[:, None, None] + torch.arange(w, device=device)
    rows = top[:, None, None] + torch.arange(h, device=device)[:, None]
    unit = clip.unit[part]
    x = (columns + 0.5 - clip.center_x[part]) / unit
    y = (clip.center_y[part] - rows - 0.5) / unit
    x, y = (v.contiguous() for v in torch.broadcast_tensors(x, y))
    hit = march(clip, baked.volume, part, x, y)
    color, hair = _shade(clip, person, baked, part, left, top, w, h, hit)

    flat = (rows * clip.size + columns).flatten(1)
    wide = flat[:, None].expand(-1, 3, -1)
    under = canvas.flatten(2).gather(2, wide).view_as(color)
    cloth, body = covers.flatten(2).gather(2, flat.expand(2, -1, -1)).view(2, frames, h, w)
    px = 1.0 / unit
    alpha = ((1.0 - hit["near"] / px) * (1.0 / (1.0 - HIT))).clamp_(0.0, 1.0)
    # Clothes lie over the neck, hair falls over clothes.
    skin = 1.0 - hair
    neck = step(hit["qy"], -1.20, -1.32) * skin
    alpha = alpha * (1.0 - neck * cloth) * (1.0 - skin * step(hit["qy"], -1.50, -1.68))
    shade = (1.0 - hit["around"].clamp(min=0.0) / 0.22).clamp_(min=0.0).square_() * 0.34
    shade = shade * step(y, -0.85, -1.10) * step(y, -1.95, -1.5)
    under = under * (1.0 - shade * body)[:, None]
    mixed = under + (color - under) * alpha[:, None]
    if person.earrings != "none":
        lay_earrings(clip, person, part, left, top, x, y, hit["depth"], alpha, mixed)
    if person.glasses != "none":
        lay_glasses(clip, person, part, left, top, x, y, hit["depth"], alpha, mixed)
    canvas.flatten(2).scatter_(2, wide, mixed.flatten(2))
    return canvas.add_(0.5).clamp_(0.0, 255.0).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


@torch.inference_mode()
def render(
    person: Person,
    motion: Motion,
    size: int = 256,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Draw a person performing a motion: uint8 [F, size, size, 3] RGB on `device`.

    The same arguments give the same frames; the person does not depend on the motion nor the motion on the person.
    size: 64..1024 pixels, the same picture at every size. Raises ValueError for other sizes or a dtype other than
    float32.
    """
    if not 64 <= size <= 1024:
        raise ValueError(f"render: size {size}; need 64 to 1024")
    if dtype is not torch.float32:
        raise ValueError(f"render: dtype {dtype}; only torch.float32 is supported")
    device = torch.device(device)
    return draw(person, bake(person, size, device), motion, size, device)


@torch.inference_mode()
def draw(person: Person, baked: Baked, motion: Motion, size: int, device: torch.device) -> Tensor:
    """`render` with the person's still parts given, at `size` px: uint8 [F, size, size, 3]."""
    clip = Clip(person, motion, size, device)
    box = head_box(clip, baked.volume, 0.06)
    # About 100k pixels of head a chunk keep the working set inside the CPU's cache.
    chunk = max(1, int((4e5 if device.type == "cuda" else 6e4) / (box[2] * box[3])))
    parts = [_render_chunk(clip, person, baked, slice(i, i + chunk), box) for i in range(0, len(motion), chunk)]
    return torch.cat(parts)


def render_batch(
    persons: Sequence[Person], motions: Sequence[Motion], size: int = 256, device: str | torch.device = "cpu"
) -> Tensor:
    """`render` for several people: uint8 [B, F, size, size, 3]. One motion may be shared: `render_batch([a, b], [m])`.

    Raises ValueError if the counts or the motions' lengths do not match.
    """
    shared = list(motions) * len(persons) if len(motions) == 1 else list(motions)
    if not persons or len(shared) != len(persons) or len({len(m) for m in shared}) != 1:
        raise ValueError(
            f"render_batch: {len(persons)} persons, motions of {[len(m) for m in motions]} "
            "frames; need equal counts and lengths"
        )
    return torch.stack([render(p, m, size, device) for p, m in zip(persons, shared, strict=True)])
