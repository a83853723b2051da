"""What editing with a preset takes, computed: bytes of the weights by part, and of the work beside them.

Weights: 2 bytes each (bfloat16; on a CPU without it: 4), in int8 1 byte each. The work, for one window of N tokens of
the target and as many of the reference, and a network of width D and L blocks:

    activations   ACTIVATIONS x 2N x D numbers of 2 bytes            of one block at a time (no gradients are kept)
    cached        2 x N x D x L numbers of 2 bytes                   keys and values of a reference under `self`
    decoding      DECODED x 3 x frames x height x width numbers      the VAE's widest layers

The work is the larger of (activations + cached) and decoding, since they follow one another.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

# A block has the residual, its normalised copy, queries, keys, values, their rotated copies, the attention's output and
# the feed-forward's four widths: with all of them alive at once about 16 widths of a token.
ACTIVATIONS = 16
DECODED = 16  # the decoder's last stage: 128 channels a 4 x 4 px, that is 2.7 numbers a value, in six copies at most
BYTES = 2
# What backbones.memory leaves free on a GPU: a part of the card, at least so many bytes.
RESERVE_SHARE, RESERVE = 0.2, 3 * 2**30

Fit = Literal["whole", "turns", "cpu", "no"]


@dataclass(frozen=True)
class Sizes:
    """A backbone's sizes.

    Attributes:
        billions: weights of each part that is loaded, in 10^9 (of LTX-2's transformer the video stream).
        width, blocks: of the transformer.
        frames, height, across: of a window: frames, and pixels high and wide.
        spatial, temporal: pixels and frames a token.
        tokens: of a window's target.
    """

    billions: Mapping[str, float]
    width: int
    blocks: int
    frames: int = 81
    height: int = 512
    across: int = 512
    spatial: int = 32
    temporal: int = 8

    @property
    def tokens(self) -> int:
        return (1 + (self.frames - 1) // self.temporal) * (self.height // self.spatial) * (self.across // self.spatial)

    def weights(self, each: int = BYTES) -> dict[str, int]:
        """Bytes of each part at so many bytes a weight."""
        return {part: round(billions * 1e9 * each) for part, billions in self.billions.items()}

    def work(self) -> int:
        """Bytes beside the weights; see the module."""
        both = 2 * self.tokens
        sampling = BYTES * (ACTIVATIONS * both * self.width + 2 * self.tokens * self.width * self.blocks)
        decoding = BYTES * DECODED * 3 * self.frames * self.height * self.across
        return max(sampling, decoding)


# Counted from configurations (`synclora.training.published`, which a test holds these against), of LTX-2's transformer
# the video stream; what was not seen of 2.5 is taken to be as in 2.3.
_T5, _GEMMA = {"text_encoder": 4.76}, {"text_encoder": 12.19}
SIZES = {
    "nano": Sizes({"transformer": 0.0070, "text_encoder": 0.0004, "vae": 0.0072}, 256, 6, 33, 128, 128, 16, 2),
    "ltxv-2b": Sizes({"transformer": 1.92, **_T5, "vae": 1.25}, 2048, 28),
    "ltxv-13b": Sizes({"transformer": 13.04, **_T5, "vae": 1.25}, 4096, 48),
    "ltx-2.0": Sizes({"transformer": 13.04, **_GEMMA, "connectors": 1.43, "vae": 1.22}, 4096, 48),
    "ltx-2.3": Sizes({"transformer": 13.12, **_GEMMA, "connectors": 3.17, "vae": 0.73}, 4096, 48),
    "ltx-2.5": Sizes({"transformer": 13.07, **_GEMMA, "connectors": 3.17, "vae": 0.73}, 4096, 48),
}


@dataclass(frozen=True)
class Fitting:
    """How a preset fits on one device.

    Attributes:
        fit: "whole" (all at once), "turns" (its parts take turns on the GPU), "cpu" (in the host's memory alone), "no".
        needed: bytes, of everything at once with the work; turns: bytes of the largest part with the work.
        int8: bytes of the transformer with int8 weights and of the work.
        why: a sentence with the numbers.
    """

    fit: Fit
    needed: int
    turns: int
    int8: int
    why: str


def fitting(sizes: Sizes, gpu_free: int | None, gpu_total: int | None, host_free: int, *, each: int = BYTES) -> Fitting:
    """How a preset fits: on a GPU with so many bytes, or without one (None) in the host's memory.

    Args:
        host_free: bytes of the host's memory that are available.
        each: bytes a weight on the CPU; on a GPU it is 2.
    """
    work = sizes.work()
    parts = sizes.weights()
    needed = sum(parts.values()) + work
    turns, int8 = parts["transformer"] + work, sizes.weights(1)["transformer"] + work
    if gpu_free is None or gpu_total is None:
        needed = sum(sizes.weights(each).values()) + work * each // BYTES
        fits = needed <= host_free
        why = f"needs {_gb(needed)} of the host's memory, {_gb(host_free)} are available"
        return Fitting("cpu" if fits else "no", needed, needed, int8, why)
    reserve = max(int(RESERVE_SHARE * gpu_total), RESERVE, work)
    if sum(parts.values()) + reserve <= gpu_free:
        return Fitting("whole", needed, turns, int8, f"needs {_gb(needed)}, {_gb(gpu_free)} are free")
    if turns <= gpu_free and max(parts.values()) <= host_free:
        why = f"all at once needs {_gb(needed)}, the transformer alone {_gb(turns)}; {_gb(gpu_free)} are free"
        return Fitting("turns", needed, turns, int8, why)
    why = f"the transformer alone needs {_gb(turns)} with the work, {_gb(gpu_free)} are free"
    return Fitting("no", needed, turns, int8, why)


def _gb(count: int) -> str:
    return f"{count / 1e9:.1f} GB"
