"""Portraits dressed in patterns: another backdrop, other cloth, painted skin, on the same moving head.

    clip = render_dressed(person, motion, 128, seed=5, look=0)

The patterns lie in the renderer's own textures, so they turn, bend and are lit with what they cover.
"""

from __future__ import annotations

import dataclasses
import random

import torch
import torch.nn.functional as F
from torch import Tensor

from synclora.portraits.motion import Motion
from synclora.portraits.patterns import GREY, pattern
from synclora.portraits.person import Person
from synclora.portraits.renderer import Baked, bake, draw
from synclora.portraits.textures import noise
from synclora.portraits.wear import blurred


def dress(baked: Baked, seed: int, look: int) -> Baked:
    """The still parts of a person with patterns on some of them; the same arguments give the same."""
    rng = random.Random(f"dress-{seed}-{look}")
    device = baked.face.device
    backdrop, body, face, strands = baked.backdrop, baked.body, baked.face, baked.strands
    if rng.random() < 0.6:
        size = backdrop.shape[-1]
        behind = pattern(rng.getrandbits(31), size, size)[None]
        if rng.random() < 0.5:
            behind = blurred(behind, size * rng.choice((0.01, 0.025, 0.05)))
        behind = behind[0].to(device) * (255.0 * rng.uniform(0.5, 1.0))
        backdrop = behind if rng.random() < 0.7 else torch.lerp(backdrop, behind, rng.uniform(0.3, 0.7))
    if rng.random() < 0.6:
        side = body.shape[-1]
        cloth = _relative(pattern(rng.getrandbits(31), side, side), rng.uniform(0.6, 1.0)).to(device)
        worn = (body[:, :3] * cloth).clamp(max=255.0)
        if rng.random() < 0.6:  # its own colours, not only darker and lighter ones of the cloth's
            grey = torch.einsum("c,ichw->ihw", GREY.to(device), body[:, :3])[:, None]
            worn = (grey.clamp(min=60.0) * cloth).clamp(max=255.0)
        body = torch.cat([torch.lerp(body[:, :3], worn, body[:, 4:5]), body[:, 3:]], 1).contiguous()
    if rng.random() < 0.3:
        side = face.shape[-1]
        strength = rng.choice((rng.uniform(0.1, 0.3), rng.uniform(0.3, 0.8)))
        paint = _relative(pattern(rng.getrandbits(31), side, side), strength).square().to(device)
        face = torch.cat([(face[:, :3] * paint).clamp(0.0, 1.0), face[:, 3:]], 1).contiguous()
    if rng.random() < 0.3:
        locks = F.interpolate(noise(rng.getrandbits(31), 3, rng.choice((24, 60)))[None], strands.shape[-2:])
        strands = torch.lerp(strands, locks.to(device), rng.uniform(0.4, 0.9))
    return dataclasses.replace(baked, backdrop=backdrop, body=body, face=face, strands=strands)


def _relative(picture: Tensor, strength: float) -> Tensor:
    """A picture [3, h, w] as factors about 1."""
    return 1.0 + strength * (picture / picture.mean().clamp(min=0.05) - 1.0)


@torch.inference_mode()
def render_dressed(
    person: Person, motion: Motion, size: int, seed: int, look: int, device: str | torch.device = "cpu"
) -> Tensor:
    """`render` of a person in the patterns of (seed, look): uint8 [F, size, size, 3], the motion exactly as there."""
    device = torch.device(device)
    return draw(person, dress(bake(person, size, device), seed, look), motion, size, device)
