"""Reference attention: who reads whom.

    joint (rows ask, columns answer)            self
                target   reference                          target   reference
    target        x          x                  target        x          x
    reference     x          x                  reference     .          x

`joint` is plain attention over everything, what published in-context LoRAs were trained with. In `self` the reference
reads only itself, so it is the same at every denoising step: it runs through the network once per edit, alone, leaving
its keys and values; every step then runs only the other tokens, which read [their own, the cached] keys and values.

    once per edit:   reference ----> network ----> K/V of every layer = KeyValueCache
    every step:      target    ----> network, each layer attends to [own K/V | cached K/V]

Exactly what a dense network computes under `dense_mask`, at about half the cost of a step. Nothing here holds state:
keys and values are arguments and results, so gradients, checkpointing and threads need no care.

Shapes: B batch, N tokens, D width, T tokens attended across to (text), M reference tokens, H heads, d = D / H.
`self` reference attention is this project's choice, not the paper's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from synclora.diffusion.sequence import Sequence

if TYPE_CHECKING:
    from diffusers.models.transformers.transformer_ltx import LTXAttention
    from diffusers.models.transformers.transformer_ltx2 import LTX2Attention

    Attend = LTXAttention | LTX2Attention

KeyValue = tuple[Tensor, Tensor]  # keys and values [B, N, D], after normalisation and rotation
# Scores a head (queries * keys) up to which plain products serve on a CPU: forward and backward in bf16 took 0.40 s
# where torch's fused kernel took 0.77 (2 items of 4 heads, 1088 queries, 2176 keys; one EPYC core, torch 2.13.0).
PLAIN_LIMIT = 2**22
# Cosines and sines: [B, N, D], two neighbouring channels sharing each ("interleaved"), or [B, H, N, d / 2], a head's
# first and second half sharing them ("split": LTX-2.3).
Rotation = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class KeyValueCache:
    """The reference's keys and values in each layer's self-attention; valid for one source video and one text."""

    layers: tuple[KeyValue, ...]


def dense_mask(sequence: Sequence) -> Tensor:
    """Who may read whom under `self`, `[B, N, N]` bool: row asks column. For tests; nothing else needs it dense."""
    return ~sequence.reference[:, :, None] | sequence.reference[:, None, :]


def self_attention(
    attn: Attend, x_BND: Tensor, rotation: Rotation, cached: KeyValue | None = None, *, skip: bool = False
) -> tuple[Tensor, KeyValue]:
    """Tokens attend to themselves and, if given, to cached tokens. Returns the outcome and the tokens' own K/V.

    `attn` is diffusers' own: we use its weights (LoRA included) and call its layers in its own order. With `skip` each
    token reads its own value alone (spatio-temporal guidance, see `guidance.py`): no keys, nothing cached is read.
    """
    value = own_value = attn.to_v(x_BND)
    if skip:
        return _output(attn, x_BND, value), (value, value)
    query = rotate(attn.norm_q(attn.to_q(x_BND)), rotation)
    key = own_key = rotate(attn.norm_k(attn.to_k(x_BND)), rotation)
    if cached is not None:
        key, value = torch.cat([key, cached[0]], dim=1), torch.cat([value, cached[1]], dim=1)
    return _output(attn, x_BND, _attend(attn.heads, query, key, value)), (own_key, own_value)


def cross_attention(attn: Attend, x_BND: Tensor, text_BTD: Tensor, bias_B1T: Tensor) -> Tensor:
    """Tokens attend to the text; `bias` is added to the logits (0 for a real text token, very negative for padding)."""
    query, key = attn.norm_q(attn.to_q(x_BND)), attn.norm_k(attn.to_k(text_BTD))
    return _output(attn, x_BND, _attend(attn.heads, query, key, attn.to_v(text_BTD), bias_B1T[:, None]))


def rotate(x_BND: Tensor, rotation: Rotation) -> Tensor:
    """Rotary positions: turn each pair of channels (a, b) into (a cos - b sin, b cos + a sin), in float32."""
    cos, sin = rotation
    if cos.ndim == 4:
        x_BHNd = x_BND.float().unflatten(-1, (cos.shape[1], -1)).transpose(1, 2)
        a, b = x_BHNd.chunk(2, dim=-1)
        return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1).transpose(1, 2).flatten(-2).to(x_BND.dtype)
    a, b = x_BND.float().unflatten(-1, (-1, 2)).unbind(-1)
    turned = torch.stack([-b, a], dim=-1).flatten(-2)
    return (x_BND.float() * cos + turned * sin).to(x_BND.dtype)


def _attend(heads: int, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None) -> Tensor:
    q_BHNd, k_BHNd, v_BHNd = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (query, key, value))
    small = query.shape[1] * key.shape[1] <= PLAIN_LIMIT
    attend = _plain_attention if query.device.type == "cpu" and small else scaled_dot_product_attention
    return attend(q_BHNd, k_BHNd, v_BHNd, bias).transpose(1, 2).flatten(-2).to(query.dtype)


def _output(attn: Attend, x_BND: Tensor, attended_BND: Tensor) -> Tensor:
    """Each head by its gate where the layer has gates (LTX-2.3: 2 sigmoid, 1 for a gate of 0), then the last linear."""
    if (gate := getattr(attn, "to_gate_logits", None)) is not None:
        gates_BNH1 = 2 * torch.sigmoid(gate(x_BND))[..., None]
        attended_BND = (attended_BND.unflatten(-1, (attn.heads, -1)) * gates_BNH1).flatten(-2)
    to_out, dropout = attn.to_out
    return dropout(to_out(attended_BND))


def _plain_attention(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None) -> Tensor:
    """Attention as written in the textbook, one head of one item at a time, so that its scores stay in the cache."""
    scale = query.shape[-1] ** -0.5
    biases = [None] * query.shape[0] if bias is None else bias[:, 0].unbind()
    heads = []
    for index, (q_Nd, k_Md, v_Md) in enumerate(
        zip(*(x.flatten(0, 1).unbind() for x in (query, key, value)), strict=True)
    ):
        scores_NM = (q_Nd * scale) @ k_Md.T
        if (bias_1M := biases[index // query.shape[1]]) is not None:
            scores_NM = scores_NM + bias_1M
        heads.append(scores_NM.softmax(-1) @ v_Md)
    return torch.stack(heads).unflatten(0, query.shape[:2])
