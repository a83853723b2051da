"""Guidance: several answers of one network, put together into one velocity for the sampling loop.

    guided = v + (cfg - 1) (v - v_negative) + stg (v - v_skipped)

- CFG (classifier-free guidance): away from what the network makes of the negative prompt.
- STG (spatio-temporal guidance): away from what it makes when self-attention is left out of a few blocks.
- rescale: bring the spread back to that of v, by so much: guided *= rescale * std(v) / std(guided) + 1 - rescale.
  LTX-Video takes the spread of the velocity, LTX-2 that of the predicted video x0 = x - sigma v (`rescale_on`).

Distilled models take none; the undistilled ("dev") LTX models CFG 3, and LTX-2 STG 1 at block 28 and rescale 0.7 too.

    network = guided(backbone, sequence, text, Guidance(cfg=3.0), negative, attention="joint")
    sequence = sample_loop(network, sequence, sigmas)

Sources: CFG (Ho and Salimans, 2022); STG (Hyung et al., 2024); rescale (Lin et al., 2023, section 3.4). The terms are
those of diffusers' `LTXConditionPipeline` and `LTX2InContextPipeline`, to which the result is tested equal.
"""

from __future__ import annotations

from collections.abc import Callable, Container
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from torch import Tensor

from synclora.diffusion.attention import KeyValueCache
from synclora.diffusion.sequence import Sequence

# Noise levels of LTX-2's distilled models, as diffusers and Lightricks publish them; 8 steps, no guidance.
DISTILLED_SIGMAS = (1.0, 0.99375, 0.9875, 0.98125, 0.975, 0.909375, 0.725, 0.421875, 0.0)


@dataclass(frozen=True)
class Guidance:
    """How strongly to guide; the default is not at all.

    Attributes:
        cfg: strength away from the negative prompt; 1 for none, and then the negative prompt is never run.
        stg: strength away from skipped attention; 0 for none.
        stg_blocks: the blocks whose self-attention is skipped.
        rescale: how much of the spread is brought back, 0 to 1.
    """

    cfg: float = 1.0
    stg: float = 0.0
    stg_blocks: tuple[int, ...] = ()
    rescale: float = 0.0

    def __post_init__(self) -> None:
        if self.stg and not self.stg_blocks:
            raise ValueError("stg needs stg_blocks, the blocks whose self-attention is skipped (LTX-2: 28)")

    @property
    def passes(self) -> int:
        """How often the network runs at each step."""
        return 1 + (self.cfg != 1) + (self.stg != 0)


DEV = Guidance(cfg=3.0, stg=1.0, stg_blocks=(28,), rescale=0.7)  # LTX-2, undistilled


class Network(Protocol):
    """What of a backbone guidance calls (see `synclora.backbones.base.Backbone`)."""

    @property
    def rescale_on(self) -> Literal["velocity", "x0"]: ...
    def velocity(
        self,
        sequence: Sequence,
        sigma: float,
        text: Any,
        *,
        attention: Literal["joint", "self"],
        cache: KeyValueCache | None,
        skip_blocks: Container[int],
        whole: bool,
    ) -> Tensor: ...
    def reference_cache(self, sequence: Sequence, text: Any, *, skip_blocks: Container[int]) -> KeyValueCache: ...


def guided(
    network: Network,
    sequence: Sequence,
    text: Any,
    guidance: Guidance = Guidance(),
    negative: Any = None,
    *,
    attention: Literal["joint", "self"],
) -> Callable[[Sequence, float], Tensor]:
    """The velocity for `sample_loop`: `(sequence, sigma) -> [B, tokens, C]`.

    Under `self` attention the reference of `sequence` runs once here for each of the passes, and never again.

    Args:
        network: the backbone.
        sequence: the one that will be sampled; its reference does not change on the way.
        text: the prompt, as the backbone embeds it.
        guidance: what to add; by default the network answers alone.
        negative: the negative prompt, likewise; needed for a cfg other than 1.
        attention: how the reference is read, "self" or "joint".
    """

    def run(text: Any, skip_blocks: tuple[int, ...] = ()) -> Callable[[Sequence, float], Tensor]:
        cache = None
        if attention == "self" and sequence.num_reference:
            cache = network.reference_cache(sequence, text, skip_blocks=skip_blocks)
        return lambda sequence, sigma: network.velocity(
            sequence, sigma, text, attention=attention, cache=cache, skip_blocks=skip_blocks, whole=whole
        )

    if guidance.cfg != 1 and negative is None:
        raise ValueError(f"cfg {guidance.cfg} needs a negative prompt; embed an empty one if there is none")
    whole = guidance.rescale > 0  # the pipelines' spread is over every token, the reference's too
    plain = run(text)
    away = run(negative) if guidance.cfg != 1 else None
    skipped = run(text, guidance.stg_blocks) if guidance.stg else None

    def velocity(sequence: Sequence, sigma: float) -> Tensor:
        v = result = plain(sequence, sigma)
        if away is not None:
            result = result + (guidance.cfg - 1) * (v - away(sequence, sigma))
        if skipped is not None:
            result = result + guidance.stg * (v - skipped(sequence, sigma))
        if not whole:
            return result
        if network.rescale_on == "velocity":
            return _rescaled(result, v, guidance.rescale)
        x = sequence.tokens[:, : v.shape[1]]
        return (x - _rescaled(x - sigma * result, x - sigma * v, guidance.rescale)) / sigma

    return velocity


def _rescaled(guided_BNC: Tensor, plain_BNC: Tensor, rescale: float) -> Tensor:
    spread, wanted = (x.std(dim=(1, 2), keepdim=True) for x in (guided_BNC, plain_BNC))
    return guided_BNC * (rescale * wanted / spread + 1 - rescale)
