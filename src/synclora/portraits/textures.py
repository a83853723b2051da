"""Still pictures baked once per person: the face's colour and relief, hair strands, the backdrop, the clothed body."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from synclora.portraits.geometry import ORIGIN_Y, UNIT, step
from synclora.portraits.person import BACKDROPS, FABRICS, HAIR_COLORS, LIP_COLORS, SHADOW_COLORS, Color, Person

FACE_WINDOW = (-0.95, 0.95, -1.30, 1.00)
"""Head-frame x and y range that the face texture covers, seen from the front."""


def linear(color: Color, device: torch.device) -> Tensor:
    """An sRGB triple as linear light (gamma 2), shape [3]."""
    return torch.tensor(color, device=device, dtype=torch.float32) ** 2


def noise(seed: int, height: int, width: int, channels: int = 1) -> Tensor:
    """Uniform noise [channels, height, width] in [0, 1] on the CPU, the same for every device and size."""
    generator = torch.Generator().manual_seed(seed % (2**31))
    return torch.rand(channels, height, width, generator=generator)


def _smooth_noise(seed: int, cells: int, height: int, width: int) -> Tensor:
    """Noise with `cells` features across, bicubic, [height, width] in about [0, 1]."""
    coarse = noise(seed, cells, cells)[None]
    return F.interpolate(coarse, (height, width), mode="bicubic", align_corners=True)[0, 0]


def brow_color(p: Person) -> Color:
    """Brows follow the hair: darker than fair hair, lighter than black, never blue or pink."""
    name = p.hair_color if p.hair_color in HAIR_COLORS else "brown"
    r, g, b = HAIR_COLORS[name if name not in ("blue", "pink", "purple", "teal", "platinum") else "dark brown"]
    if p.hair_color == "white":
        return (0.62, 0.60, 0.58)
    return (r * 0.72, g * 0.70, b * 0.70)


def face_texture(p: Person, resolution: int, device: torch.device) -> Tensor:
    """Skin seen from the front over FACE_WINDOW, [1, 6, resolution, resolution]: linear rgb, relief x and y (slopes
    added to the normal) and gloss. Row 0 is the lowest y.
    """
    x0, x1, y0, y1 = FACE_WINDOW
    x = torch.linspace(x0, x1, resolution)[None, :]
    y = torch.linspace(y0, y1, resolution)[:, None]
    ax = x.abs()
    px = max(0.006, 1.0 * (x1 - x0) / resolution)
    eye_x, eye_w = 0.315 * p.eye_spacing, 0.175 * p.eye_size
    nose_y = -0.40 * p.nose_length
    old = max(0.0, min(1.0, (p.age - 40.0) / 45.0))
    rgb = linear(p.skin, torch.device("cpu"))[:, None, None].repeat(1, resolution, resolution)
    height = torch.zeros(resolution, resolution)

    def spot(cx: float, cy: float, rx: float, ry: float) -> Tensor:
        return torch.exp(-(((ax - cx) / rx) ** 2 + ((y - cy) / ry) ** 2))

    def tint(mask: Tensor, color: tuple[float, float, float]) -> None:
        rgb.mul_(1.0 + mask * (torch.tensor(color)[:, None, None] - 1.0))

    def crease(ya: float, yb: float, xa: float, xb: float, width: float, depth: float) -> None:
        """A fold along the mirrored segment (xa, ya)-(xb, yb): darker in its floor, cut into the relief."""
        dx, dy = xb - xa, yb - ya
        t = (((ax - xa) * dx + (y - ya) * dy) / (dx * dx + dy * dy)).clamp(0.0, 1.0)
        sag = 0.12 * math.hypot(dx, dy) * 4.0 * t * (1 - t)
        d = ((ax - xa - dx * t - sag) ** 2 + (y - ya - dy * t) ** 2).sqrt()
        taper = (4.0 * t * (1.0 - t)).clamp(min=0.0).sqrt() * 0.8 + 0.2 * ((t > 0) & (t < 1))
        line = torch.exp(-((d / width) ** 2)) * taper * depth
        height.sub_(line * width * 0.9)
        tint(line * 0.5, (0.62, 0.50, 0.46))

    # Broad colour of a face: ruddy cheeks, nose and ears, cooler eye sockets and jaw, fine mottling.
    warm = (1.10, 0.80, 0.76)
    tint(spot(0.42, -0.32, 0.22, 0.20) * (0.35 + 0.9 * p.blush), warm)
    tint(spot(0.0, nose_y + 0.03, 0.15, 0.14) * 0.6, warm)
    tint(spot(0.0, -1.02, 0.2, 0.14) * 0.25, warm)
    tint(spot(eye_x, -0.02, 0.26, 0.17) * 0.50, (0.84, 0.72, 0.72))
    tint(spot(eye_x - 0.03, -0.16, 0.17, 0.05) * (0.18 + 0.45 * old), (0.80, 0.70, 0.74))
    mottle = _smooth_noise(p.seed + 11, 40, resolution, resolution)
    rgb.mul_(0.975 + 0.05 * mottle)
    if p.freckles > 0:
        grain = _smooth_noise(p.seed + 12, 96, resolution, resolution)
        where = spot(0.34, -0.20, 0.34, 0.18) + spot(0, -0.16, 0.2, 0.2)
        tint((step(grain, 0.80, 0.95) * where.clamp(max=1.0) * p.freckles), (0.72, 0.55, 0.42))
    # Nostrils, nose wings, philtrum.
    nostril = spot(0.075 * p.nose_width, nose_y - 0.062, 0.036 * p.nose_width, 0.020)
    tint(nostril.clamp(max=1.0) * 0.92, (0.22, 0.12, 0.10))
    tint(spot(0.0, nose_y - 0.085, 0.15 * p.nose_width, 0.028) * 0.45, (0.55, 0.42, 0.40))
    tint(spot(0.205 * p.nose_width, nose_y - 0.02, 0.022, 0.065) * 0.55, (0.58, 0.44, 0.42))
    tint(spot(0.135 * p.nose_width, nose_y + 0.33, 0.05, 0.20) * 0.18, (0.70, 0.62, 0.62))
    height.sub_(spot(0.0, -0.56, 0.035, 0.06) * 0.016)
    height.add_(spot(0.055, -0.56, 0.022, 0.06) * 0.008)
    # The upper lid's fold and its shade; lids move over the skin, the fold stays.
    local = (ax - eye_x) / eye_w
    arc = (1.0 - (local * 0.86) ** 2).clamp(min=0.0)
    fold_y = 0.028 + 0.092 * p.eye_openness * p.eye_size * arc.sqrt() + 0.012 * p.eye_tilt * local
    fold = torch.exp(-(((y - fold_y) / 0.014) ** 2)) * step(local.abs(), 1.15, 0.7)
    tint(fold * 0.75, (0.55, 0.42, 0.38))
    height.sub_(fold * 0.010)
    if p.eye_shadow != "none":
        shade = spot(eye_x, 0.075, 0.22, 0.085) * step(y, -0.03, 0.04)
        color = linear(SHADOW_COLORS[p.eye_shadow], torch.device("cpu"))[:, None, None]
        rgb.lerp_(color.expand_as(rgb), (0.85 * shade).expand_as(rgb).contiguous())
    if p.lipstick != "none":
        tint(spot(0.45, -0.30, 0.16, 0.12) * 0.5, (1.10, 0.62, 0.68))
    # Age: folds from nose to mouth, crow's feet, forehead lines, bags.
    base_fold = 0.16 + 0.84 * old
    crease(nose_y + 0.0, -0.70, 0.195 * p.nose_width, 0.335 * p.mouth_size, 0.026, 0.55 * base_fold)
    if old > 0:
        for i, (dy, tilt) in enumerate(((0.05, 0.06), (0.0, 0.0), (-0.05, -0.06))):
            crease(dy, dy + tilt, eye_x + eye_w + 0.035, eye_x + eye_w + 0.15 - 0.01 * i, 0.010, old)
        wiggle = 0.012 * torch.sin(x * 9.0 + p.seed % 7)
        for i, level in enumerate((0.40, 0.48, 0.565)):
            line = (
                torch.exp(-(((y - level - wiggle * (1 + i) * 0.6 + 0.05 * ax**2) / 0.013) ** 2))
                * step(ax, 0.42, 0.15)
                * old
            )
            height.sub_(line * 0.012)
            tint(line * 0.38, (0.62, 0.50, 0.46))
        bag = (
            torch.exp(-(((y + 0.155 + 0.05 * (1 - local**2).clamp(min=-1)) / 0.016) ** 2))
            * step(local.abs(), 1.0, 0.3)
            * old
        )
        height.sub_(bag * 0.014)
        tint(bag * 0.40, (0.66, 0.54, 0.52))
        crease(-0.76, -0.97, 0.335 * p.mouth_size, 0.36, 0.024, 0.7 * old)
        crease(0.10, 0.26, 0.045, 0.05, 0.011, 0.8 * old)
    gloss = (
        0.30
        + 0.55 * spot(0, nose_y + 0.06, 0.09, 0.20)
        + 0.25 * spot(0, 0.48, 0.35, 0.16)
        + 0.2 * spot(0.42, -0.25, 0.16, 0.1)
    )
    # Hair that is painted, not modelled: brows, beard, stubble. Fine strokes come from stretched noise.
    strokes = F.interpolate(
        noise(p.seed + 13, 128, 160)[None], (resolution, resolution), mode="bicubic", align_corners=True
    )[0, 0].clamp(0, 1)
    hair = linear(brow_color(p), torch.device("cpu"))[:, None, None]

    def paint(alpha: Tensor, color: Tensor) -> None:
        a = alpha.clamp(0.0, 1.0)
        rgb.mul_(1.0 - a).add_(color * a)
        gloss.mul_(1.0 - 0.8 * a)

    b = (ax - (eye_x - 0.175)) / 0.385
    arch = 0.055 * p.brow_arch
    brow_y = (
        0.205
        + 0.03 * p.brow_ridge * 0
        + 0.045 * b
        + arch * torch.sin(b.clamp(0, 1.05) * 2.6)
        - 0.075 * (b - 0.62).clamp(min=0) ** 1.5 * 2.0
    )
    thickness = 0.040 * p.brow_thickness * (1.0 - 0.62 * b.clamp(0, 1) ** 1.6)
    edge = px * 0.8 + 0.010
    brow = step((y - brow_y).abs() - thickness, edge, -edge) * step(b, -0.05, 0.06) * step(b, 1.06, 0.86)
    height.add_(brow * 0.012)
    paint(brow * (0.72 + 0.28 * strokes), hair * (0.75 + 0.5 * strokes))
    if p.beard != "none":
        mouth_gap = step(((ax / (0.255 * p.mouth_size)) ** 2 + ((y + 0.715) / 0.085) ** 2).sqrt(), 0.90, 1.12)
        # Upper edge of a full beard: from the ear down the cheek to the corner of the moustache.
        cheek_line = -0.50 - 0.16 * step(ax, 0.56, 0.22) + 0.42 * step(ax, 0.50, 0.74)
        full = step(y - cheek_line, 0.045, -0.055) * mouth_gap
        philtrum = step(ax, 0.012, 0.05) * 0.35 + 0.65
        lip_top = -0.505 - 0.30 * (ax / 0.36) ** 2
        moustache = step((y - lip_top + 0.045).abs(), 0.085, 0.045) * step(ax, 0.355, 0.27) * mouth_gap * philtrum
        patch = step((((ax) / 0.235) ** 2 + ((y + 1.0) / 0.205) ** 2).sqrt(), 1.10, 0.88) * mouth_gap
        soul = spot(0, -0.86, 0.06, 0.06)
        alpha = {"stubble": torch.maximum(full, moustache) * (0.28 + 0.30 * strokes), "moustache": moustache,
                 "goatee": torch.maximum(torch.maximum(moustache, patch), soul),
                 "full": torch.maximum(torch.maximum(full, moustache), soul)}[p.beard]  # fmt: skip
        if p.beard != "stubble":
            alpha = (alpha * (1.25 + 0.25 * strokes) - 0.18 * (1 - strokes)).clamp(0, 1) * 0.96
            height.add_(alpha * (0.035 + 0.020 * strokes))
        paint(alpha, hair * (0.62 + 0.75 * strokes))
    step_x, step_y = (x1 - x0) / (resolution - 1), (y1 - y0) / (resolution - 1)
    slope_y, slope_x = torch.gradient(height, dim=(0, 1))
    relief = torch.stack([-slope_x / step_x, -slope_y / step_y]).clamp_(-0.9, 0.9)
    return torch.cat([rgb.clamp_(0, 1), relief, gloss[None].clamp(0.0, 1.0)])[None].to(device)


def strand_texture(p: Person, device: torch.device) -> Tensor:
    """Hair strands, [1, 1, 64, 512] in about [0, 1]: across runs along the width, slow change along the height."""
    fine = F.interpolate(noise(p.seed + 21, 10, 512)[None], (64, 512), mode="bicubic", align_corners=True)
    locks = F.interpolate(noise(p.seed + 22, 5, 96)[None], (64, 512), mode="bicubic", align_corners=True)
    return (0.42 * fine + 0.58 * locks).clamp_(0, 1).to(device)


def backdrop(p: Person, size: int, device: torch.device) -> Tensor:
    """The surroundings, linear rgb [3, size, size]."""
    line = (torch.arange(size, dtype=torch.float32) + 0.5) / size
    x, y = line[None, :], line[:, None]
    px = 1.0 / size
    first, second = (
        linear(BACKDROPS[p.background_color], torch.device("cpu")),
        linear(BACKDROPS[p.background_accent], torch.device("cpu")),
    )
    draws = noise(p.seed + 31, 24, 4)[0].tolist()
    picture = torch.empty(3, size, size)
    glow = torch.exp(-(((x - 0.5 - 0.25 * math.copysign(1, p.light_azimuth)) / 0.6) ** 2 + ((y - 0.35) / 0.6) ** 2))

    def put(mask: Tensor, color: Tensor) -> None:
        picture.mul_(1.0 - mask).add_(color[:, None, None] * mask)

    def box(ax: float, bx: float, ay: float, by: float, soft: float) -> Tensor:
        return (
            step(x, ax - soft, ax + soft)
            * step(x, bx + soft, bx - soft)
            * step(y, ay - soft, ay + soft)
            * step(y, by + soft, by - soft)
        )

    fall = step(y + 0.25 * x, 0.0, 1.25)
    picture.copy_(first[:, None, None] * (1.0 - fall * 0.55))
    if p.background == "gradient":
        picture.mul_(1.0 - fall * 0.6).add_(second[:, None, None] * fall * 0.45)
    elif p.background == "bokeh":
        picture.mul_(0.45)
        for cx, cy, r, hue in draws[:20]:
            radius = 0.035 + 0.085 * r
            d = ((x - cx) ** 2 + (y - cy * 0.95) ** 2).sqrt()
            disc = step(d, radius * 1.06 + px, radius * 0.94 - px) * (0.65 + 0.35 * step(d, radius * 0.5, radius))
            color = first.lerp(second, round(hue)) * 1.15 + 0.10
            picture.add_(disc * color[:, None, None] * (0.18 + 0.34 * hue))
    elif p.background == "wall":
        for cx, cy, r, hue in draws[:7]:
            d = ((x - cx) ** 2 / (0.6 + r) + (y - cy) ** 2).sqrt() - (0.09 + 0.15 * r)
            put(step(d, 0.015, -0.015) * 0.55, first.lerp(second, 0.35 + 0.65 * hue))
    else:
        soft = 0.012
        put(step(y, 0.80 - soft, 0.80 + soft), first * 0.40)
        left = draws[0][0] < 0.5
        at = 0.03 + 0.06 * draws[0][1] if left else 0.68 + 0.06 * draws[0][1]
        window = box(at, at + 0.27, 0.06, 0.46, soft)
        put(window, torch.tensor([0.80, 0.88, 0.95]))
        put(box(at, at + 0.27, 0.245, 0.265, 0.006) + box(at + 0.128, at + 0.142, 0.06, 0.46, 0.006), first * 0.8)
        shelf = 0.66 if left else 0.03
        for level in (0.22, 0.44):
            put(box(shelf, shelf + 0.31, level, level + 0.022, 0.005), first * 0.35)
            for k in range(7):
                w, h, hue, skip = draws[1 + k + (7 if level > 0.3 else 0)]
                if skip > 0.2:
                    left_edge = shelf + 0.012 + 0.042 * k
                    shade = second.lerp(torch.tensor([hue, w, 1 - hue]) * 0.5, 0.4)
                    put(box(left_edge, left_edge + 0.024 + 0.014 * w, level - 0.07 - 0.08 * h, level, 0.005), shade)
    return picture.mul_(0.82 + 0.30 * glow).clamp_(0, 1).to(device)


def body_texture(p: Person, resolution: int, device: torch.device) -> Tensor:
    """Neck base, chest and clothes in the frame's own coordinates over x in [-0.2, 1.2], y in [0.5, 1.3] (fractions of
    the frame), [1, 8, resolution, resolution]: linear rgb albedo, normal x and y, cover (alpha), cloth (alpha), ao.
    """
    u = torch.linspace(-0.2, 1.2, resolution)[None, :]
    v = torch.linspace(0.5, 1.3, resolution)[:, None]
    px = 2.2 / resolution
    x, y = (u - 0.5) / UNIT, (ORIGIN_Y - v) / UNIT  # head units, y up
    ax = x.abs()
    man = p.look == "man"
    width = 1.62 if man else 1.42
    neck = 0.43 if man else 0.365
    zero = torch.zeros(resolution, resolution)
    # Shoulder line: neck, trapezius slope, rounded shoulder.
    slope = (
        -1.26
        - 0.30 * ((ax - neck) / (width - neck)).clamp(min=0)
        - 0.55 * ((ax - width * 0.70) / (width * 0.34)).clamp(min=0) ** 2.2
    )
    trapeze = 0.30 * torch.exp(-(((ax - neck) / 0.16).clamp(min=0)))
    top = slope + trapeze - 0.10
    cloth_lift = 0.035
    body = step(y - top + 0.05 * step(ax, 0.5, 0.7), px * 2, -px * 2)
    cloth_body = step(y - top - cloth_lift, px * 2, -px * 2)
    depth = {"crew": -1.60, "v_neck": -2.02, "collar": -1.72, "stripes": -1.60, "hoodie": -1.62}[p.clothes]
    opening_w = {"crew": 0.50, "v_neck": 0.47, "collar": 0.40, "stripes": 0.54, "hoodie": 0.52}[p.clothes] * (
        1.06 if man else 0.97
    )
    if p.clothes in ("v_neck", "collar"):
        neckline = depth + (-1.18 - depth) * (ax / opening_w) ** 1.15
    else:
        neckline = depth + (-1.16 - depth) * (ax / opening_w) ** 2.6
    gap = (neckline - y) / (1.0 + 0.8 * (p.clothes == "v_neck"))  # > 0 is cloth
    cloth = cloth_body * step(gap, -px * 1.5, px * 1.5)
    base = linear(FABRICS[p.clothes_color], torch.device("cpu"))
    accent = linear(FABRICS[p.clothes_accent], torch.device("cpu"))
    skin = linear(p.skin, torch.device("cpu"))
    weave = _smooth_noise(p.seed + 41, 90, resolution, resolution)
    color = base[:, None, None] * (0.94 + 0.12 * weave)
    if p.clothes == "stripes":
        wave = torch.sin((y - 0.10 * x * x + 0.02 * torch.sin(x * 3)) * 2 * math.pi / 0.30)
        band = step(wave, -px * 22, px * 22)
        color = color * (1 - band) + accent[:, None, None] * band
    nx = x / (width * 1.05) * 0.75 + zero
    ny = 0.30 + 0.40 * step(y - top, -0.45, 0.0) + zero
    folds = torch.sin(x * 4.2 + 2.2 * torch.sin(y * 2.6 + p.seed % 5) + y * 1.5) * 0.10 * step(ax, 0.3, 0.9)
    nx += folds
    ny += 0.5 * folds
    ao = 0.72 + 0.28 * step(ax, 0.30, 0.85) + zero
    # Collar rib, shirt collar wings, hood.
    if p.clothes in ("crew", "stripes", "v_neck"):
        rib = step((gap - 0.055).abs(), 0.055, 0.055 - px * 3)
        color = color * (1 - rib) + (color * 0.80) * rib
        groove = torch.exp(-(((gap - 0.118) / 0.016) ** 2))
        ao -= 0.35 * groove
        ny += 0.35 * rib * ((gap - 0.055) / 0.055).clamp(-1, 1)
    elif p.clothes == "collar":
        # Two wings: a band along the opening that ends in a point below.
        outer = (gap - 0.24 - 0.10 * step(ax, 0.10, 0.5)).clamp(-1, 1)
        wing = step(outer, px * 2, -px * 2) * step(y, -2.06, -2.06 + px * 3)
        wing = wing * step(ax * 0.9 - 0.02 - 0.28 * (y + 2.06), -0.16 - px * 2, -0.16)
        trim = color * 0 + (base * 0.75 + accent * 0.25)[:, None, None]
        color = color * (1 - wing) + trim * wing
        ao -= 0.45 * torch.exp(-((outer / 0.03) ** 2)) * (outer > -px) * step(y, -2.15, -1.9)
        placket = step((ax - 0.075).abs(), 0.014 + px, 0.006) * (1 - wing)
        ao -= 0.20 * placket
        ny += 0.25 * wing
        button = ((x) ** 2 + (y + 2.25) ** 2).sqrt()
        dot = step(button, 0.045 + px, 0.045 - px)
        color = color * (1 - dot) + dot * (accent * 0.5 + 0.4)[:, None, None]
    else:
        hood = step((gap - 0.13).abs(), 0.13, 0.13 - px * 3)
        roll = ((gap - 0.13) / 0.13).clamp(-1, 1)
        ny += hood * (-0.5 * roll)
        nx += hood * 0.4 * torch.sign(x) * -roll
        ao -= 0.5 * torch.exp(-(((gap - 0.275) / 0.03) ** 2)) + 0.3 * torch.exp(-((gap / 0.03) ** 2))
        for offset in (0.17,):
            cord = (
                step((ax - offset - 0.02 * torch.sin(y * 5)).abs(), 0.022 + px, 0.022 - px)
                * step(y, -1.80, -1.86)
                * step(y, -2.40, -2.36)
            )
            color = color * (1 - cord) + cord * (accent * 0.6 + 0.3)[:, None, None]
    # Cloth casts a soft shade on the skin at its edge; the throat is rounded, with a hint of collarbones.
    shade = 1.0 - 0.45 * torch.exp(-((gap / 0.06).clamp(max=0) ** 2)) * (gap < 0)
    bone = torch.exp(-(((y + 1.74 + 0.10 * (1 - (ax / 0.7)) ** 2) / 0.035) ** 2)) * step(ax, 0.06, 0.2)
    skin_rgb = skin[:, None, None] * (shade * (1.0 + 0.10 * bone) * 0.96)
    alpha = torch.maximum(body, cloth)
    rgb = skin_rgb * (1 - cloth) + color * cloth
    skin_nx = x / (neck * 1.25) * 0.72 * step(ax, 0.9, 0.3) + 0.3 * x * step(ax, 0.3, 0.9)
    nx = nx * cloth + skin_nx * (1 - cloth)
    ny = ny * cloth + (0.12 + 0.15 * bone) * (1 - cloth)
    ao = ao.clamp(0.1, 1.0) * cloth + (1 - cloth) * 0.92
    return torch.cat([rgb, torch.stack([nx.clamp(-0.95, 0.95), ny.clamp(-0.95, 0.95), alpha, cloth, ao])])[None].to(
        device
    )


def lip_color(p: Person) -> Color:
    """Lipstick, or the skin's own redder and darker lip tone."""
    if p.lipstick != "none":
        return LIP_COLORS[p.lipstick]
    r, g, b = p.skin
    return (r * 0.86, g * 0.60, b * 0.62)
