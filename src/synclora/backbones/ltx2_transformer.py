"""The video stream of an LTX-2 transformer, over diffusers' own modules: no token of audio, no weight of it.

LTX-2 makes sound beside the picture: every block holds an audio stream and two attentions between the streams. The
`forward` of diffusers always runs both; with `isolate_modalities` it leaves out the attentions between them, and the
video is then what this module computes (tested equal to 1e-5), from 12.9 of LTX-2.0's 18.5 billion block weights. What
it shares with LTX-Video is imported from `ltx_transformer`; what is different is told by the configuration, never by a
version:

    attention    rotation "interleaved" or "split", gates on the heads        rope_type, gated_attn
    positions    the middle of a token's span of pixels and time              (`midpoints`)
    text         through a projection; or modulated, at each sigma or fixed   use_prompt_embeddings, cross_attn_mod,
                                                                              use_prompt_adaln_single

Where the text is modulated at each sigma (LTX-2.3), a reference under `self` attention reads it as at sigma 0, its own
noise level: otherwise its keys and values would change at every step.

Shapes: B batch, N tokens, C latent channels, D width, T text tokens, L = 2B rows of the timestep table, K modulations
of a block (6, or 9 where reading the text has its own three).
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from synclora.backbones.ltx_transformer import Given, noise_levels, rows, through
from synclora.diffusion.attention import KeyValue, KeyValueCache, cross_attention, self_attention
from synclora.diffusion.lora import AUDIO
from synclora.diffusion.sequence import Sequence

if TYPE_CHECKING:
    from diffusers.models.transformers.transformer_ltx2 import LTX2VideoTransformer3DModel, LTX2VideoTransformerBlock


@dataclass(frozen=True)
class _Given(Given):
    """What every block is given beside the tokens; the modulation may have three more rows, for reading the text."""

    text_modulation_B2D: Tensor | None  # shift and scale of the text, at this sigma


def drop_audio(transformer: nn.Module) -> None:
    """Take everything that belongs to sound out of a transformer; its own `forward` no longer works then."""
    for module in list(transformer.modules()):
        for name in [*module._modules, *module._parameters]:
            if AUDIO.match(name):
                delattr(module, name)


def forward(
    transformer: LTX2VideoTransformer3DModel,
    sequence: Sequence,
    sigma: Tensor | float,
    text_BTD: Tensor,
    text_mask_BT: Tensor,
    cache: KeyValueCache | None = None,
    skip_blocks: Container[int] = (),
    keep: bool = True,
) -> tuple[Tensor, KeyValueCache]:
    """All tokens of a sequence through the video stream; arguments and results as in `ltx_transformer.forward`."""
    dtype = transformer.scale_shift_table.dtype
    x_BND = transformer.proj_in(sequence.tokens.to(dtype))
    level_L, row_of_BN = noise_levels(sequence, sigma)
    modulation, embedded_LD = transformer.time_embed(level_L, hidden_dtype=dtype)
    text_BTD = text_BTD.to(dtype)
    given = _Given(
        modulation.unflatten(-1, (transformer.time_embed.num_mod_params, -1)),
        row_of_BN,
        rotation=transformer.rope(midpoints(sequence)),
        text_BTD=transformer.caption_projection(text_BTD) if transformer.config["use_prompt_embeddings"] else text_BTD,
        text_bias_B1T=(1 - text_mask_BT.to(dtype))[:, None] * -10_000.0,
        text_modulation_B2D=_text_modulation(transformer, level_L[::2], dtype),
    )

    return through(transformer, _block, x_BND, given, embedded_LD, cache, skip_blocks, keep)


def midpoints(sequence: Sequence) -> Tensor:
    """Where LTX-2 sees each token: the middle of its span, `[B, 3, N]` float32 of seconds, pixel row, pixel column.

    Latent frame 0, keyframes and anchors span one pixel frame, other tokens `temporal` of them; a reference of fewer
    rows spans more pixels each. The arithmetic is diffusers', operation by operation: the highest of the rotation's
    frequencies turns a rounding at 3 seconds into 4e-4 of a radian.
    """
    start_BN, pixels_B2N = sequence.positions[:, 0], sequence.positions[:, 1:]
    frame_BN = (start_BN * sequence.fps).round()
    one_frame = (frame_BN <= 0) | ~(sequence.target | sequence.reference)
    end_BN = frame_BN + torch.where(one_frame, 1, sequence.temporal)
    seconds_B1N = ((frame_BN / sequence.fps + end_BN / sequence.fps) / 2)[:, None]
    pitch_B1N = torch.where(sequence.reference, _reference_pitch(sequence), sequence.spatial)[:, None]
    return torch.cat([seconds_B1N, (pixels_B2N + (pixels_B2N + pitch_B1N)) / 2], dim=1)


def _reference_pitch(sequence: Sequence) -> int:
    """Pixels a reference token spans each way: its rows share the picture's height."""
    height = sequence.grid[1] * sequence.spatial
    reference_rows = sequence.positions[0, 1][sequence.reference[0]].unique()
    return height // max(len(reference_rows), 1)


def _text_modulation(transformer: LTX2VideoTransformer3DModel, level_B: Tensor, dtype: torch.dtype) -> Tensor | None:
    if not (transformer.prompt_modulation and transformer.config["use_prompt_adaln_single"]):
        return None
    modulation, _ = transformer.prompt_adaln(level_B, hidden_dtype=dtype)
    return modulation.unflatten(-1, (2, -1))


def _block(
    block: LTX2VideoTransformerBlock, x_BND: Tensor, given: _Given, cached: KeyValue | None, skip: bool
) -> tuple[Tensor, KeyValue]:
    """The video half of one transformer block; also returns its self-attention's keys and values."""
    table_LKD = block.scale_shift_table + given.modulation_LKD
    shift_a, scale_a, gate_a, shift_f, scale_f, gate_f, *of_text = rows(table_LKD, given.row_of_BN).unbind(-2)

    modulated = block.norm1(x_BND) * (1 + scale_a) + shift_a
    attended, key_value = self_attention(block.attn1, modulated, given.rotation, cached, skip=skip)
    x_BND = x_BND + attended * gate_a
    x_BND = x_BND + _read_text(block, x_BND, given, of_text)
    x_BND = x_BND + block.ff(block.norm3(x_BND) * (1 + scale_f) + shift_f) * gate_f
    return x_BND, key_value


def _read_text(block: LTX2VideoTransformerBlock, x_BND: Tensor, given: _Given, of_text: list[Tensor]) -> Tensor:
    """Attention to the text, queries and text modulated where the block has the tables for it."""
    query_BND, text_BTD = block.norm2(x_BND), given.text_BTD
    if of_text:
        shift, scale, _ = of_text
        query_BND = query_BND * (1 + scale) + shift
    if block.cross_attn_adaln:
        table_B2D = block.prompt_scale_shift_table.to(x_BND.dtype)[None]
        if given.text_modulation_B2D is not None:
            table_B2D = table_B2D + given.text_modulation_B2D
        text_BTD = text_BTD * (1 + table_B2D[:, 1:]) + table_B2D[:, :1]
    answer_BND = cross_attention(block.attn2, query_BND, text_BTD, given.text_bias_B1T)
    return answer_BND * of_text[2] if of_text else answer_BND
