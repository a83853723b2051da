"""Photographic wear for clips that show one motion in several looks: a camera and light in common, a finish each.

    shot = sample_shot(seed, frames=33, fps=25.0, size=128)
    worn = [film(clip, shot, sample_finish(seed, look)) for look, clip in enumerate(clips_of(shot.drawn_size))]

What moves or changes with time belongs to the scene and the camera and is the `Shot`: framing, shake, zoom, lights that
flicker or are switched, a shadow that crosses, focus that is pulled, something that passes before the lens. An edit has
to keep all that, so every look gets the same. What stands still over time is the `Finish`: colours, contrast, softness,
vignette, paper, strength of the grain, coarseness of the compression. The edited first frame shows it, so every look
may have its own. Grain is one film's: the same grains in every look, more or less strongly.
"""

from __future__ import annotations

import colorsys
import math
import random
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from synclora.portraits.geometry import step
from synclora.portraits.patterns import GREY, pattern

BLOCK = 8  # pixels of a compressed block
QUANTUM = 16.0 / 255.0  # of a block's mean at coarseness 1: that of JPEG's example table for brightness


@dataclass(frozen=True)
class Shot:
    """What camera and light do over F frames of S x S px, for every look alike."""

    places: Tensor  # [F, S, S, 2]: where in the drawn clip each pixel looks, -1..1, x before y
    light: Tensor  # [F, 3, 1, 1]: factor of display values (gamma 2), 1 in frame 0
    shade: Tensor | None  # [F, 1, S, S]: the same where a shadow crosses; None: none does
    focus: Tensor | None  # [F, 1, 1, 1]: share of the blurred picture, 0 sharp; None: always sharp
    passing: tuple[Tensor, Tensor] | None  # cover [F, 1, S, S] and colours [3, S, S] of what passes; None: nothing
    grain: int  # seed of the grains

    @property
    def drawn_size(self) -> int:
        """Side in px, even, of the clips to film: enough for the closest framing to stay sharp."""
        size = self.places.shape[1]
        row = self.places[:, size // 2]
        closest = 2.0 * (1.0 - 1.0 / size) / float((row[:, -1] - row[:, 0]).norm(dim=-1).min())
        return 2 * round(size * min(max(closest, 1.1), 1.4) / 2)


@dataclass(frozen=True)
class Finish:
    """What a look is like all the time; the defaults change nothing."""

    mix: tuple[tuple[float, float, float], ...] = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))  # rgb to rgb
    lift: tuple[float, float, float] = (0.0, 0.0, 0.0)  # added after `mix`
    gamma: float = 1.0  # exponent of display values
    contrast: float = 0.0  # -1 flat .. 1 steep about the middle
    levels: int = 0  # of each colour, as on a poster; 0: all
    softness: float = 0.0  # px, standard deviation of a blur; below 0 sharpens by that much
    bloom: float = 0.0  # 0..1, light that spreads about bright places
    vignette: float = 0.0  # 0..1, darkness of the corners
    paper: float = 0.0  # 0..0.3, depth of a relief that lies over the screen
    paper_seed: int = field(default=0)
    grain: float = 0.0  # 0..0.08, standard deviation in display values
    grain_size: int = 1  # px
    coarseness: float = 0.0  # 0 none, 1 as JPEG at quality 50, 3 bad; of a codec that sends differences


def drift(rng: random.Random, times: Tensor, fast: float, slow: float) -> Tensor:
    """A smooth curve [F] within about -1..1, 0 in frame 0: sines with periods from `fast` to `slow` seconds."""
    curve = torch.zeros_like(times)
    for _ in range(4):
        period = math.exp(rng.uniform(math.log(fast), math.log(slow)))
        curve += 0.5 * torch.sin(2.0 * math.pi * (times / period + rng.random()))
    return curve - curve[:1]


def sample_shot(seed: int, frames: int, fps: float, size: int) -> Shot:
    """Draw a shot; the same arguments give the same one. Lights and focus are at rest in frame 0.

    Raises ValueError for frames < 1, fps <= 0 or size < 16.
    """
    if frames < 1 or not fps > 0 or size < 16:
        raise ValueError(f"sample_shot: frames {frames}, fps {fps}, size {size}; need frames >= 1, fps > 0, size >= 16")
    rng = random.Random(f"shot-{seed}")
    times = torch.arange(frames) / fps
    places = _camera(random.Random(rng.getrandbits(64)), times, size)
    light = _light(random.Random(rng.getrandbits(64)), times)
    line = torch.linspace(-1.0, 1.0, size)
    shade = _shade(random.Random(rng.getrandbits(64)), times, line) if rng.random() < 0.35 else None
    focus = None
    if rng.random() < 0.2:
        focus = (drift(rng, times, 0.8, 2.5).abs() * rng.uniform(0.5, 1.2)).clamp(0.0, 1.0)[:, None, None, None]
    passing = _passing(random.Random(rng.getrandbits(64)), times, line) if rng.random() < 0.12 else None
    return Shot(places, light, shade, focus, passing, rng.getrandbits(31))


def _camera(rng: random.Random, times: Tensor, size: int) -> Tensor:
    """Framing, and hand, dolly or tripod."""
    zoom = 1.0 if rng.random() < 0.25 else rng.uniform(1.0, 1.4)
    slack = 0.7 * (1.0 - 1.0 / zoom)
    x, y = torch.full_like(times, slack * rng.uniform(-1, 1)), torch.full_like(times, slack * rng.uniform(-0.8, 0.5))
    turn, closer = torch.zeros_like(times), torch.full_like(times, zoom)
    if rng.random() < 0.65:
        hand = rng.uniform(0.3, 1.0)
        x = x + hand * (0.060 * drift(rng, times, 1.2, 4.0) + 0.008 * drift(rng, times, 0.15, 0.4))
        y = y + hand * (0.050 * drift(rng, times, 1.2, 4.0) + 0.008 * drift(rng, times, 0.15, 0.4))
        turn = turn + hand * math.radians(3.5) * drift(rng, times, 1.0, 3.0)
    if rng.random() < 0.5:
        closer = closer * torch.exp(rng.choice((-0.12, 0.14)) * rng.uniform(0.3, 1.0) * times / 1.3)
    closer = closer.clamp(min=0.96)
    line = torch.linspace(-1.0, 1.0, size) * (1.0 - 1.0 / size)  # middles of pixels
    gx, gy = line[None, None, :], line[None, :, None]
    c, s = ((f(turn) / closer)[:, None, None] for f in (torch.cos, torch.sin))
    return torch.stack([c * gx - s * gy + x[:, None, None], s * gx + c * gy + y[:, None, None]], -1)


def _light(rng: random.Random, times: Tensor) -> Tensor:
    """Exposure that drifts or flickers, a lamp that is switched, a white balance that wanders: [F, 3, 1, 1]."""
    stops = torch.zeros_like(times)
    if rng.random() < 0.6:
        stops += rng.uniform(0.05, 0.25) * drift(rng, times, 0.8, 4.0)
    if rng.random() < 0.25:
        stops += rng.uniform(0.02, 0.10) * drift(rng, times, 0.08, 0.3)
    if rng.random() < 0.2:
        at, takes = rng.uniform(0.15, 1.2), rng.uniform(0.04, 0.2)
        on = step(times, at, at + takes)
        stops += rng.choice((-1.0, 1.0)) * rng.uniform(0.25, 0.6) * (on - on[:1])
    warmth = rng.uniform(0.0, 0.12) * drift(rng, times, 0.8, 4.0) if rng.random() < 0.4 else torch.zeros_like(times)
    # Half of the exponent, as display values are roots of light.
    return torch.exp(0.5 * torch.stack([stops + warmth, stops, stops - warmth], -1))[..., None, None]


def _shade(rng: random.Random, times: Tensor, line: Tensor) -> Tensor:
    """A soft edge or a blind's bars of shadow or light that slide over the picture: [F, 1, S, S]."""
    angle, depth = rng.uniform(0.0, 2.0 * math.pi), rng.uniform(0.25, 0.5) * rng.choice((-1.0, -1.0, 0.7))
    across = math.cos(angle) * line[None, :] + math.sin(angle) * line[:, None]
    moved = across[None] + rng.uniform(-0.5, 0.5) + (rng.uniform(0.2, 1.0) * drift(rng, times, 1.0, 4.0))[:, None, None]
    soft = rng.uniform(0.1, 0.6)
    if rng.random() < 0.35:
        moved = 0.5 * torch.sin(moved * rng.uniform(4.0, 9.0))
    return torch.exp(depth * step(moved, -soft, soft))[:, None]


def _passing(rng: random.Random, times: Tensor, line: Tensor) -> tuple[Tensor, Tensor]:
    """A bar or a disc out of focus that crosses the picture after frame 0."""
    angle, soft, reach = rng.uniform(-0.6, 0.6) + rng.choice((0.0, math.pi)), rng.uniform(0.06, 0.2), 0.0
    wide, begins, takes = rng.uniform(0.15, 0.4), rng.uniform(0.1, 0.6), rng.uniform(0.3, 1.2)
    along = math.cos(angle) * line[None, :] + math.sin(angle) * line[:, None]
    if rng.random() < 0.5:
        reach = (math.cos(angle) * line[:, None] - math.sin(angle) * line[None, :] - rng.uniform(-0.6, 0.6)) ** 2
    start = 1.5 + wide + soft
    ahead = along[None] + (start * (1.0 - 2.0 * (times - begins).clamp(min=0.0) / takes))[:, None, None]
    cover = step((ahead**2 + reach).sqrt(), wide + soft, wide - soft)[:, None]
    colors = pattern(rng.getrandbits(31), len(line), len(line)) * rng.uniform(0.3, 1.0)
    return cover * rng.uniform(0.7, 1.0), colors


def sample_finish(seed: int, look: int) -> Finish:
    """Draw the finish of a look; the same arguments give the same one."""
    rng = random.Random(f"finish-{seed}-{look}")
    chance = rng.random
    return Finish(
        **_grade(rng),
        gamma=math.exp(rng.uniform(-0.45, 0.25)) if chance() < 0.6 else 1.0,
        contrast=rng.uniform(-0.3, 0.6) if chance() < 0.5 else 0.0,
        levels=rng.randint(4, 8) if chance() < 0.06 else 0,
        softness=rng.choice((rng.uniform(0.4, 1.0), rng.uniform(-0.8, -0.2))) if chance() < 0.4 else 0.0,
        bloom=rng.uniform(0.1, 0.5) if chance() < 0.15 else 0.0,
        vignette=rng.uniform(0.15, 0.7) if chance() < 0.3 else 0.0,
        paper=rng.uniform(0.08, 0.25) if chance() < 0.12 else 0.0,
        paper_seed=rng.getrandbits(31),
        grain=rng.uniform(0.008, 0.04) if chance() < 0.4 else 0.0,
        grain_size=rng.choice((1, 1, 2)),
        coarseness=math.exp(rng.uniform(math.log(0.25), math.log(1.4))) if chance() < 0.4 else 0.0,
    )


def _grade(rng: random.Random) -> dict[str, tuple]:
    """White balance, saturation and hue as a matrix and an offset: mostly a camera's, at times a filter's."""
    saturation, hue = rng.uniform(0.5, 1.5), math.radians(rng.gauss(0.0, 6.0))
    kind = rng.random()
    if kind < 0.12:
        saturation = 0.0
    elif kind < 0.27:
        hue = rng.uniform(-math.pi, math.pi)
    elif kind < 0.45:
        saturation, hue = 1.0, 0.0
    # Rotation about the grey axis, mixed with the projection onto it.
    c, s = saturation * math.cos(hue), saturation * math.sin(hue) / math.sqrt(3.0)
    turned = torch.eye(3) * c + GREY.expand(3, 3) * (1.0 - saturation) + (1.0 / 3.0) * (saturation - c)
    turned += s * torch.tensor([[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]])
    warm, green = rng.gauss(0.0, 0.07), rng.gauss(0.0, 0.03)
    balance = torch.exp(torch.tensor([warm, green, -warm]))
    lift = torch.zeros(3)
    if saturation == 0.0 and rng.random() < 0.6:  # sepia and its like: shadows and lights of two colours
        dark, light = torch.tensor(_tone(rng, 0.08)), torch.tensor(_tone(rng, 1.0))
        balance, lift = light - dark, dark
    elif rng.random() < 0.04:  # a negative
        turned, lift = -turned, torch.ones(3)
    rows = (balance[:, None] * turned).tolist()
    return {"mix": tuple(tuple(row) for row in rows), "lift": tuple(lift.tolist())}


def _tone(rng: random.Random, value: float) -> tuple[float, float, float]:
    return colorsys.hsv_to_rgb(rng.random(), rng.uniform(0.1, 0.5), value)


@torch.inference_mode()
def film(clip: Tensor, shot: Shot, finish: Finish) -> Tensor:
    """A clip as the shot sees it, finished: uint8 [F, S, S, 3] on the clip's device.

    clip: uint8 [F, H, W, 3]; best `shot.drawn_size` px a side. Raises ValueError for another
    number of frames than the shot's.
    """
    if len(clip) != len(shot.places):
        raise ValueError(f"film: {len(clip)} frames in the clip, {len(shot.places)} in the shot; need as many")
    device = clip.device
    x = clip.permute(0, 3, 1, 2).float().div_(255.0)
    x = F.grid_sample(x, shot.places.to(device), padding_mode="reflection", align_corners=False)
    x = x.mul_(shot.light.to(device))
    if shot.shade is not None:
        x = x.mul_(shot.shade.to(device))
    if shot.passing is not None:
        cover, colors = (part.to(device) for part in shot.passing)
        x = x.lerp_(colors.expand_as(x), cover.expand_as(x))
    x = x.clamp_(0.0, 1.0)
    if shot.focus is not None:
        x = x.lerp_(blurred(x, 0.012 * x.shape[-1]), shot.focus.to(device).expand_as(x))
    x = _graded(x, finish)
    if finish.softness:
        soft = blurred(x, abs(finish.softness))
        x = soft if finish.softness > 0 else (x + (x - soft) * (-1.5 * finish.softness)).clamp_(0.0, 1.0)
    if finish.bloom:
        x = x.add_(blurred((x - 0.6).clamp(min=0.0), 0.03 * x.shape[-1]), alpha=2.0 * finish.bloom)
    x = x.mul_(_screen(finish, x.shape[-1]).to(device))
    if finish.grain:
        # Grains show most in the middle tones.
        x = x.add_(grains(shot.grain, finish.grain_size, x.shape).to(device) * (x * (1.0 - x)), alpha=4 * finish.grain)
    if finish.coarseness:
        x = compressed(x.clamp_(0.0, 1.0), finish.coarseness)
    return x.mul_(255.0).add_(0.5).clamp_(0.0, 255.0).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def _graded(x: Tensor, finish: Finish) -> Tensor:
    mix, lift = torch.tensor(finish.mix, device=x.device), torch.tensor(finish.lift, device=x.device)
    if finish.mix != Finish.mix or finish.lift != Finish.lift:
        x = torch.einsum("ij,fjhw->fihw", mix, x).add_(lift[:, None, None]).clamp_(0.0, 1.0)
    if finish.gamma != 1.0:
        x = x.pow_(finish.gamma)
    if finish.contrast:
        x = x.lerp_(x * x * (3.0 - 2.0 * x), finish.contrast)
    if finish.levels:
        x = x.mul_(finish.levels - 1).round_().div_(finish.levels - 1)
    return x


def _screen(finish: Finish, size: int) -> Tensor:
    """What lies over every frame alike: vignette and paper, [1, size, size]."""
    line = torch.linspace(-1.0, 1.0, size)
    over = 1.0 - 0.5 * finish.vignette * (line[None, :] ** 2 + line[:, None] ** 2) ** 1.5 / 2.0
    if finish.paper:
        relief = pattern(finish.paper_seed, size, size).mean(0)
        over = over * (1.0 + finish.paper * (relief - relief.mean()) / relief.std().clamp(min=1e-3) / 2.0)
    return over[None]


def blurred(x: Tensor, sigma: float) -> Tensor:
    """x [F, C, H, W] under a Gaussian of `sigma` px; the border is repeated."""
    reach = max(1, math.ceil(2.5 * sigma))
    at = torch.arange(-reach, reach + 1, device=x.device)
    weights = torch.exp(-0.5 * (at / sigma) ** 2)
    weights = (weights / weights.sum()).tolist()
    for dim in (2, 3):
        padding = (0, 0, reach, reach) if dim == 2 else (reach, reach, 0, 0)
        padded, length = F.pad(x, padding, mode="replicate"), x.shape[dim]
        x = padded.narrow(dim, 0, length) * weights[0]
        for k in range(1, 2 * reach + 1):
            x = x.add_(padded.narrow(dim, k, length), alpha=weights[k])
    return x


def grains(seed: int, grain_size: int, shape: torch.Size) -> Tensor:
    """Grey noise of standard deviation 1, new in every frame: [F, 1, H, W] for a shape [F, C, H, W]."""
    generator = torch.Generator().manual_seed(seed)
    frames, _, height, width = shape
    fine = torch.randn(frames, 1, height, width, generator=generator)
    return fine if grain_size < 2 else F.avg_pool2d(fine, 3, 1, 1, count_include_pad=False).mul_(3.0)


def compressed(x: Tensor, coarseness: float) -> Tensor:
    """x [F, 3, H, W] as a coarse codec leaves it: blocks of cosines, rounded, each frame sent as the difference to what
    was received of the one before, so that still places freeze and moving ones crawl.
    """
    frames, _, height, width = x.shape
    x = F.pad(x, (0, -width % BLOCK, 0, -height % BLOCK), mode="replicate")
    high, wide = x.shape[2] // BLOCK, x.shape[3] // BLOCK
    to_yuv = x.new_tensor([[0.299, 0.587, 0.114], [-0.169, -0.331, 0.5], [0.5, -0.419, -0.081]])
    k = torch.arange(BLOCK, device=x.device)
    cosines = torch.cos(math.pi / BLOCK * (k[None, :] + 0.5) * k[:, None]) * math.sqrt(2.0 / BLOCK)
    cosines[0] *= math.sqrt(0.5)
    blocks = torch.einsum("ij,fjhw->fihw", to_yuv, x).view(frames, 3, high, BLOCK, wide, BLOCK)
    sent = torch.einsum("ka,fchawb,lb->fchwkl", cosines, blocks, cosines)
    quanta = (1.0 + 0.75 * (k[:, None] + k[None, :])) * (QUANTUM * coarseness)
    quanta = torch.stack([quanta, 2.0 * quanta, 2.0 * quanta])[:, None, None]
    sent = sent / quanta
    held = torch.zeros_like(sent[0])
    for frame in sent:  # what is nearer than two thirds of a quantum is not worth sending
        change = frame - held
        held = held + change.sign() * (change.abs() + 1.0 / 3.0).floor()
        frame.copy_(held)
    blocks = torch.einsum("ka,fchwkl,lb->fchawb", cosines, sent * quanta, cosines)
    x = torch.einsum("ij,fjhw->fihw", to_yuv.inverse(), blocks.reshape(frames, 3, high * BLOCK, wide * BLOCK))
    return x[..., :height, :width].clamp(0.0, 1.0)
