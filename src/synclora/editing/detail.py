"""The source's own detail in an edit: what the edit leaves alone is the source, not the model's copy of it.

    twin  the same window made with its own, unedited frames in place of the edited ones, from the same noise
    out = twin + kept * (source - twin) + real * (edited - twin)

The twin is how the model draws the source. What autoencoder and network lose or get wrong they lose in both, so that
`edited - twin` is the edit, freed of most of it, and is put on the source: editing by the difference of two
predictions, which FlowEdit (Kulikov et al. 2024, arXiv:2412.08629) does with velocities. With d, the difference around
a pixel:

- real = max(0, 1 - (NOISE / d)^2): smaller differences are the model's noise (the shrinkage of a Wiener filter).
- kept = 1 / (1 + (d / CHANGED)^2): under what is new, a hat over hair, the source's detail has no place.

On that the edited images themselves are carried along as far as they can be (`synclora.editing.carry`). An edit that
changes nothing returns the source, bit for bit. The price is a second run of the network for each window.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from synclora.editing.carry import CHANGED, REACH, Carrier
from synclora.editing.sampler import Sampler
from synclora.editing.stages import Stages

DETAIL_CHOICES = ("source", "model")
NOISE = 4.0  # grey levels


class DetailSampler:
    """Makes the windows of one edit, in order, as `Sampler` does, with the source's detail.

    Args:
        sampler: of the edit, with an adapter; not used yet.
        prompt: of the twin: what the adapter asks for, without the user's words about the edit.
        carrier: of the edited images; None for one that shows them at the model's size alone.
    """

    def __init__(self, sampler: Sampler, prompt: str, carrier: Carrier | None = None) -> None:
        if sampler.adapter is None:
            raise ValueError("without an adapter the model does not see the source, and makes no twin of it")
        generator = torch.Generator()
        generator.set_state(sampler.generator.get_state())
        self._sampler = sampler
        self._carrier = carrier or Carrier(sampler.images)
        self._frames: dict[int, Tensor] = {}  # the source's at the edited images' places, as the windows bring them
        self._twin = replace(
            sampler, images=self._frames, prompt=prompt, generator=generator, stages=Stages(), _edited={}, _source={}
        )

    def read_prompt(self) -> None:
        """See `Sampler.read_prompt`."""
        self._sampler.read_prompt()
        self._twin.read_prompt()

    def make(self, window: Tensor, start: int, context: Tensor | None) -> Tensor:
        """See `Sampler.make`; `context` holds frames that this made."""
        stages = self._sampler.stages
        for index in self._sampler.images:
            if 0 <= index - start < len(window):
                self._frames[index] = window[index - start].clone()  # a view would hold the whole window
        edited = self._sampler.make(window, start, context)
        stages.begin("Making the source alike")
        twin = self._twin.make(window, start, None if context is None else window[: len(context)])
        stages.begin("Keeping the source's detail")
        shown = keep_detail(window, twin, edited)
        stages.begin("Carrying the edited frames along")
        shown = self._carrier.show(window, start, shown)
        stages.end()
        return shown


def keep_detail(source: Tensor, twin: Tensor, edited: Tensor) -> Tensor:
    """The edit on the source's own pixels: see the module. All uint8 [F, H, W, 3], a frame at a time as floats."""
    shown = []
    for own, copy, new in zip(source, twin, edited, strict=True):
        own, copy, new = own.float(), copy.float(), new.float()
        delta = new - copy
        around = _blur(delta.abs().amax(-1))[..., None]
        real = (1 - (NOISE / around.clamp(min=NOISE)).square()).clamp(min=0)
        kept = 1 / (1 + (around / CHANGED).square())
        # kept and real both come from 1 and 0 where nothing differs: the source itself, without a rounding error.
        shown.append((own + (1 - kept) * (copy - own) + real * delta).round().clamp(0, 255).to(torch.uint8))
    return torch.stack(shown)


def _blur(plane: Tensor) -> Tensor:
    """Gaussian blur of [H, W], its edges mirrored."""
    sigma = REACH * plane.shape[0]
    reach = min(math.ceil(3 * sigma), *(side - 1 for side in plane.shape))
    taps = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / sigma).square())
    taps = (taps / taps.sum()).view(1, 1, 1, -1)
    plane = F.pad(plane[None, None], [reach] * 4, mode="reflect")
    return F.conv2d(F.conv2d(plane, taps), taps.transpose(2, 3))[0, 0]
