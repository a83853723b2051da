"""What a training step costs: tokens, bytes and floating-point operations, by formulas. Nothing is loaded or run.

    network = describe(transformer_on_meta, TARGETS)
    step = Step(batch=1, target=2816, reference=2816, text=256, rank=128, attention="joint", checkpointing=True)
    activation_bytes(network, step), flops(network, step).total

The formulas follow the forward of `backbones/ltx_transformer.py` and `backbones/ltx2_transformer.py` line by line: what
autograd keeps of each, under bf16 autocast with float32 LoRA weights, or in float32 throughout. `tests/training` holds
them against what autograd did keep (real tensors at small size, tensors without content at the true size of 13B).

Symbols: N tokens of the sequence (target and reference, of the whole batch), T text tokens, D width, L blocks, r rank.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

FLASH_BACKWARD = 2.5  # fused attention runs two products forward and, scores computed again, five backward


@dataclass(frozen=True)
class Linear:
    """A linear layer: `rows` says what runs through it; `lora` whether it gets one."""

    wide_in: int
    wide_out: int
    rows: Literal["tokens", "text", "levels"]
    lora: bool

    @property
    def weights(self) -> int:
        """Numbers in its matrix."""
        return self.wide_in * self.wide_out


@dataclass(frozen=True)
class Network:
    """A transformer, as far as costs depend on it.

    Attributes:
        weights: numbers in all, the base's; of LTX-2 the video stream alone.
        block_weights: numbers in the linear layers of its blocks: what quantisation takes.
        block_rows: rows of those, each of which has a scale when quantised.
        width, heads, blocks, text_width: of the blocks; text_width is that of the embedded prompts.
        modulations: shifts, scales and gates of a block: 6, or 9 where reading the text has its own.
        gated: whether heads have gates.
        text_norm: whether the tokens are normalised before reading the text (LTX-2).
        rotation: numbers of a token's cosines and sines.
        linears: every linear layer.
    """

    weights: int
    block_weights: int
    block_rows: int
    width: int
    heads: int
    blocks: int
    text_width: int
    modulations: int
    gated: bool
    text_norm: bool
    rotation: int
    linears: tuple[Linear, ...]

    def lora_weights(self, rank: int) -> int:
        """Numbers in all A and B of a rank."""
        return sum(rank * (layer.wide_in + layer.wide_out) for layer in self.linears if layer.lora)


@dataclass(frozen=True)
class Step:
    """One forward and backward pass of one process.

    Attributes:
        batch: pairs in it.
        target, reference: tokens of each, of one pair.
        text: tokens of a prompt, padding included.
        rank: of the LoRA.
        attention: who reads the reference.
        checkpointing: whether blocks are recomputed in backward.
        mixed: bf16 with LoRA weights in float32; else all in float32.
    """

    batch: int
    target: int
    reference: int
    text: int
    rank: int
    attention: Literal["self", "joint"]
    checkpointing: bool
    mixed: bool = True

    @property
    def tokens(self) -> int:
        """N: of the whole batch."""
        return self.batch * (self.target + self.reference)

    @property
    def size(self) -> int:
        """Bytes of an activation."""
        return 2 if self.mixed else 4

    @property
    def text_rows(self) -> int:
        """Text tokens that run through the network: under `self` once for the target and once for the reference."""
        return self.batch * self.text * (2 if self.attention == "self" and self.reference else 1)


@dataclass(frozen=True)
class Flops:
    """Floating-point operations of a step, a multiplication and an addition counted as two."""

    forward: float
    backward: float
    recomputed: float

    @property
    def total(self) -> float:
        """All of them."""
        return self.forward + self.backward + self.recomputed


def describe(transformer: nn.Module, targets: tuple[str, ...] | list[str]) -> Network:
    """What costs depend on, of a transformer of diffusers' LTX classes; one without weights (device "meta") will do.

    Args:
        transformer: LTX-2's without its audio stream (`ltx2_transformer.drop_audio`); a LoRA in it is not counted.
        targets: ends of the names of layers that get a LoRA.
    """
    config: Any = transformer.config
    blocks: Any = transformer.transformer_blocks
    is_ltx2 = "audio_in_channels" in config
    found, block_weights, block_rows = [], 0, 0
    for name, module in transformer.named_modules():
        name = name.removesuffix(".base_layer")
        if not isinstance(module, nn.Linear) or ".lora_" in name:
            continue
        wide_out, wide_in = module.weight.shape
        in_block = name.startswith("transformer_blocks.")
        lora = any(name == target or name.endswith(f".{target}") for target in targets)
        found.append(Linear(wide_in, wide_out, _rows(name), lora))
        block_weights += wide_in * wide_out if in_block else 0
        block_rows += wide_out if in_block else 0
    width, heads = config["num_attention_heads"] * config["attention_head_dim"], config["num_attention_heads"]
    modulated = is_ltx2 and bool(config["cross_attn_mod"])
    projected = not is_ltx2 or config["use_prompt_embeddings"]
    return Network(
        weights=sum(p.numel() for name, p in transformer.named_parameters() if ".lora_" not in name),
        block_weights=block_weights,
        block_rows=block_rows,
        width=width,
        heads=heads,
        blocks=len(blocks),
        text_width=config["caption_channels"] if projected else config["cross_attention_dim"],
        modulations=9 if modulated else 6,
        gated=is_ltx2 and bool(config["gated_attn"]),
        text_norm=is_ltx2,
        rotation=width if is_ltx2 and config["rope_type"] == "split" else 2 * width,
        linears=tuple(found),
    )


def _rows(name: str) -> Literal["tokens", "text", "levels"]:
    if name.startswith("caption_projection") or name.endswith(("attn2.to_k", "attn2.to_v")):
        return "text"
    return "tokens" if name.startswith(("transformer_blocks.", "proj_in", "proj_out")) else "levels"


# ---------------------------------------------------------------- floating-point operations


def flops(network: Network, step: Step) -> Flops:
    """Floating-point operations of a step: matrix products and attention, which are all but a few in a thousand.

    The base is frozen: backward goes through it once, for the tokens' gradients. A LoRA's backward has its weights'
    gradients too. Blocks that are checkpointed run forward twice.
    """
    rows = {"tokens": step.tokens, "text": step.text_rows, "levels": 2 * step.batch}
    base = {kind: sum(2 * rows[kind] * x.weights for x in network.linears if x.rows == kind) for kind in rows}
    lora = sum(2 * rows[x.rows] * step.rank * (x.wide_in + x.wide_out) for x in network.linears if x.lora)
    scores = step.batch * (_self_scores(step) + (step.target + step.reference) * step.text)
    attention = 4 * scores * network.width * network.blocks
    forward = sum(base.values()) + lora + attention
    backward = base["tokens"] + 2 * lora + FLASH_BACKWARD * attention
    return Flops(forward, backward, forward if step.checkpointing else 0.0)


def _self_scores(step: Step) -> int:
    """Pairs of tokens of which one reads the other in self-attention, of one pair of clips."""
    if step.attention == "joint":
        return (step.target + step.reference) ** 2
    return step.reference**2 + step.target * (step.target + step.reference)


# ---------------------------------------------------------------- bytes


@dataclass(frozen=True)
class _Pass:
    """One run through the network: the whole sequence under `joint`; the reference, then the target under `self`."""

    tokens: int
    read: int  # tokens of before whose keys and values it reads too
    text: int


def _passes(step: Step) -> list[_Pass]:
    text = step.batch * step.text
    if step.attention == "joint" or not step.reference:
        return [_Pass(step.tokens, 0, text)]
    reference = step.batch * step.reference
    return [_Pass(reference, 0, text), _Pass(step.batch * step.target, reference, text)]


def block_bytes(network: Network, step: Step) -> int:
    """What autograd keeps of all tokens' way through one block, between forward and backward."""
    return sum(_block_bytes(network, step, run) for run in _passes(step))


def _block_bytes(network: Network, step: Step, run: _Pass) -> int:
    width, size = network.width, step.size
    # Under autocast a LoRA's input is cast anew for each layer, norms keep float32 and hand it on, and so attention's
    # result is float32 too: with gates it is kept once more.
    mixed, wide = step.mixed, 4
    norm = (wide + size if mixed else size) * width
    per_token = network.modulations * size * width  # rows of the modulation table, gathered for every token
    per_token += (2 + (network.modulations == 9)) * size * width  # 1 + scale of the modulated norms
    per_token += (2 + network.text_norm) * norm
    per_token += 3 * (wide if mixed else size) * width  # norm_q, norm_k of self-attention, norm_q of the text's
    per_token += 6 * size * width  # fused attention: q, k, v, result; of the text: q, result
    per_token += 2 * wide * width if mixed and network.gated else 0
    per_token += 4 * size * width  # GELU's input
    # Inputs of LoRA layers: q, k, v share one unless cast; the results of attention are kept already unless cast.
    inputs = (3 + 1) + (1 + 1) + (1 + 4) if mixed else (1 + 0) + (1 + 0) + (1 + 4)
    per_token += inputs * size * width + 8 * step.rank * size
    per_token += 2 * wide * (network.heads + 2)  # statistics of attention and norms
    per_text = ((wide if mixed else size) + 2 * size + 2 * size * mixed) * width + 2 * step.rank * size
    kept = per_token * run.tokens + per_text * run.text
    kept += 2 * size * width * run.read  # its own keys and values joined with those it reads
    return kept + (network.lora_weights(step.rank) * 2 // network.blocks if mixed else 0)  # its LoRA's matrices, cast


def shared_bytes(network: Network, step: Step) -> int:
    """What is kept once: the rotation (float32) and the last norm's modulation."""
    return step.tokens * (4 * network.rotation + 2 * step.size * network.width)


def saved_bytes(network: Network, step: Step) -> int:
    """What is kept when the forward pass has ended: of checkpointed blocks their inputs, under `self` the cache too."""
    if not step.checkpointing:
        return shared_bytes(network, step) + network.blocks * block_bytes(network, step)
    inputs = network.blocks * step.tokens * step.size * network.width
    return shared_bytes(network, step) + inputs + sum(_keys(network, step, run.read) for run in _passes(step))


def activation_bytes(network: Network, step: Step) -> int:
    """The most that activations take at any time of a step, the LoRA's gradients left out.

    With checkpointing that is at the end of the forward pass or in backward, when one block is there again.
    """
    return max(_forward_peak(network, step), _backward_peak(network, step))


def _forward_peak(network: Network, step: Step) -> int:
    last = _passes(step)[-1]
    # GELU's input and result, float32 casts around them, rows of the modulation
    running = (17 + network.modulations) * last.tokens * step.size * network.width
    return saved_bytes(network, step) + running


def _backward_peak(network: Network, step: Step) -> int:
    saved = saved_bytes(network, step)
    if not step.checkpointing:
        return saved
    block = max(_block_bytes(network, step, run) + workspace_bytes(network, step, run) for run in _passes(step))
    # Gradients of the cache come as it goes, a little ahead of it: 0.8 of a token's width a block, as measured.
    ahead = sum(0.8 * run.read * step.size * network.width * network.blocks for run in _passes(step))
    return saved + block + int(ahead)


def _keys(network: Network, step: Step, tokens: int) -> int:
    """Every block's keys and values of some tokens; keys are float32 under autocast."""
    return network.blocks * tokens * (4 + step.size) * network.width


def workspace_bytes(network: Network, step: Step, run: _Pass) -> int:
    """What comes and goes in a block's backward: gradients of GELU and around it."""
    return 16 * run.tokens * step.size * network.width
