"""The forward pass of an LTX-Video transformer, over diffusers' own modules.

The weights stay diffusers' `LTXVideoTransformer3DModel`, LoRA layers, gradient checkpointing and all; only the order of
calls is written here. Tested equal to its `forward` to 1e-6. Two things make it ours:

- a layer's self-attention takes and returns keys and values (reference attention, see `diffusion/attention.py`);
- a sequence has two noise levels, sigma and 0, so the timestep network runs on two rows an item instead of one a token
  (5 to 10 % of a step of nano).

                       +-- timestep (2 rows) --> shift, scale, gate of every block
    tokens -> proj_in -+-> [ norm, modulate, self-attend (+ cached K/V), gate, +
                             attend to text, +
                             norm, modulate, feed forward, gate, + ] x blocks -> norm, modulate, proj_out -> velocity

Shapes: B batch, N tokens, C latent channels, D width, T text tokens, L = 2B rows of the timestep table, K = 6
modulations of a block.
"""

from __future__ import annotations

from collections.abc import Callable, Container
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from synclora.diffusion.attention import KeyValue, KeyValueCache, Rotation, cross_attention, self_attention
from synclora.diffusion.sequence import Sequence

if TYPE_CHECKING:
    from diffusers.models.transformers.transformer_ltx import LTXVideoTransformer3DModel, LTXVideoTransformerBlock


@dataclass(frozen=True)
class Given:
    """What every block is given beside the tokens."""

    modulation_LKD: Tensor  # of each noise level: shift, scale, gate for attention and for the feed-forward
    row_of_BN: Tensor  # each token's noise level, a row of the above
    rotation: Rotation
    text_BTD: Tensor
    text_bias_B1T: Tensor  # 0 for a token of text, -10,000 for padding


def forward(
    transformer: LTXVideoTransformer3DModel,
    sequence: Sequence,
    sigma: Tensor | float,
    text_BTD: Tensor,
    text_mask_BT: Tensor,
    cache: KeyValueCache | None = None,
    skip_blocks: Container[int] = (),
    keep: bool = True,
) -> tuple[Tensor, KeyValueCache]:
    """All tokens of a sequence through the network.

    Returns the velocity of every token `[B, N, C]`, and the tokens' keys and values in every layer, or in none: `keep`
    tells (a 13B network's are gigabytes). With `cache`, each layer's self-attention reads those of the cached tokens
    too. In `skip_blocks` self-attention is left out: a token reads its own value alone.
    """
    dtype = transformer.scale_shift_table.dtype
    x_BND = transformer.proj_in(sequence.tokens.to(dtype))
    level_L, row_of_BN = noise_levels(sequence, sigma)
    modulation, embedded_LD = transformer.time_embed(level_L, hidden_dtype=x_BND.dtype)
    given = Given(
        modulation.unflatten(-1, (6, -1)),
        row_of_BN,
        rotation=transformer.rope(sequence.tokens, video_coords=sequence.positions),
        text_BTD=transformer.caption_projection(text_BTD.to(dtype)),
        text_bias_B1T=(1 - text_mask_BT.to(dtype))[:, None] * -10_000.0,
    )

    return through(transformer, _block, x_BND, given, embedded_LD, cache, skip_blocks, keep)


def through(
    transformer: Any,
    run_block: Callable[..., tuple[Tensor, KeyValue]],
    x_BND: Tensor,
    given: Given,
    embedded_LD: Tensor,
    cache: KeyValueCache | None,
    skip_blocks: Container[int],
    keep: bool,
) -> tuple[Tensor, KeyValueCache]:
    """The tokens through all blocks and the last projection; results as of `forward`.

    Args:
        run_block: `(block, x, given, cached, skip) -> (x, key_value)`, recomputed in backward under checkpointing.
        embedded_LD: of each noise level, for the last norm.
    """
    recompute = transformer.gradient_checkpointing and torch.is_grad_enabled()
    run: Any = partial(checkpoint, run_block, use_reentrant=False) if recompute else run_block
    layers: list[KeyValue] = []
    for index, block in enumerate(transformer.transformer_blocks):
        x_BND, key_value = run(block, x_BND, given, cache.layers[index] if cache else None, index in skip_blocks)
        if keep:
            layers.append(key_value)

    shift, scale = rows(transformer.scale_shift_table + embedded_LD[:, None], given.row_of_BN).unbind(-2)
    x_BND = transformer.norm_out(x_BND) * (1 + scale) + shift
    return transformer.proj_out(x_BND), KeyValueCache(tuple(layers))


def _block(
    block: LTXVideoTransformerBlock, x_BND: Tensor, given: Given, cached: KeyValue | None, skip: bool
) -> tuple[Tensor, KeyValue]:
    """One transformer block; also returns its self-attention's keys and values."""
    table_L6D = block.scale_shift_table + given.modulation_LKD
    shift_a, scale_a, gate_a, shift_f, scale_f, gate_f = rows(table_L6D, given.row_of_BN).unbind(-2)

    modulated = block.norm1(x_BND) * (1 + scale_a) + shift_a
    attended, key_value = self_attention(block.attn1, modulated, given.rotation, cached, skip=skip)
    x_BND = x_BND + attended * gate_a
    x_BND = x_BND + cross_attention(block.attn2, x_BND, given.text_BTD, given.text_bias_B1T)
    x_BND = x_BND + block.ff(block.norm2(x_BND) * (1 + scale_f) + shift_f) * gate_f
    return x_BND, key_value


def noise_levels(sequence: Sequence, sigma: Tensor | float) -> tuple[Tensor, Tensor]:
    """The timesteps `[2B]` of a batch, (1000 sigma, 0) for each item, and which of them each token `[B, N]` has."""
    batch = sequence.tokens.shape[0]
    sigma_B1 = torch.as_tensor(sigma, dtype=torch.float32, device=sequence.tokens.device).expand(batch)[:, None]
    level_L = torch.cat([1000 * sigma_B1, torch.zeros_like(sigma_B1)], dim=1).flatten()
    first_row_B1 = 2 * torch.arange(batch, device=level_L.device)[:, None]
    return level_L, first_row_B1 + sequence.clean


def rows(table_L: Tensor, row_of_BN: Tensor) -> Tensor:
    """`table[row_of]`, but with a gradient that is quick on the CPU as well."""
    return table_L.index_select(0, row_of_BN.flatten()).unflatten(0, row_of_BN.shape)
