"""Which base a LoRA file belongs to, and which base a transformer is: told from names, shapes and configuration.

The layers of LTX-Video 13B and of LTX-2.x's video stream have the same names and shapes. A file of those alone says no
more than that, unless its header does; it loads into either without an error, and only its own makes sense of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Base:
    """A model that LoRAs are made for; `blocks` and `width` (channels) of its transformer."""

    title: str
    family: str
    width: int
    blocks: int
    gated: bool = False  # attention with a gate a head (`to_gate_logits`), and prompts modulated (`prompt_adaln`)


BASES = {
    "nano": Base("synclora's nano", "ltx-video", 256, 6),
    "ltxv-2b": Base("LTX-Video 0.9.x 2B", "ltx-video", 2048, 28),
    "ltxv-13b": Base("LTX-Video 0.9.7 and 0.9.8 13B", "ltx-video", 4096, 48),
    "ltx-2.0": Base("LTX-2.0 19B", "ltx-2", 4096, 48),
    "ltx-2.3": Base("LTX-2.3 22B", "ltx-2", 4096, 48, gated=True),
    "ltx-2.5": Base("LTX-2.5", "ltx-2", 4096, 48, gated=True),
}

# Header strings that tools write about the base, and what in them names one.
# `backbone` last: in files of earlier versions of synclora it may be a folder's name, which says what its owner likes.
_HEADER_KEYS = ("base_model", "base", "model_version", "ss_base_model_version", "modelspec.architecture", "backbone")
_NAMED = {
    "nano": ("nano",),
    "ltxv-2b": ("ltxv-2b", "ltx-video-2b", "ltxv_2b", "2b-0.9"),
    "ltxv-13b": ("ltxv-13b", "ltx-video-13b", "ltxv_13b", "13b-0.9", "0.9.7", "0.9.8-13b"),
    "ltx-2.0": ("ltx-2.0", "ltx2.0", "ltx-2-19b", "ltx-2 19b"),
    "ltx-2.3": ("ltx-2.3", "ltx2.3", "ltx_2.3"),
    "ltx-2.5": ("ltx-2.5", "ltx2.5", "ltx_2.5"),
}


@dataclass(frozen=True)
class Guess:
    """The bases a LoRA file fits, best known first, and why; empty where it fits none that is known."""

    bases: tuple[str, ...]
    reason: str
    conflict: str = ""  # what the header says against the layers


def guess_base(shapes: Mapping[str, tuple[int, int]], header: Mapping[str, str]) -> Guess:
    """The bases whose layers a LoRA's are.

    Args:
        shapes: module (diffusers' name) -> (in, out) of the layer it changes.
        header: of the file.
    """
    width, blocks = _width(shapes), _blocks(shapes)
    if width is None:
        return Guess((), "no layer of a transformer block of LTX-Video or LTX-2.x is among its modules")
    fitting = tuple(name for name, base in BASES.items() if base.width == width and blocks <= base.blocks)
    told = [f"width {width}, {blocks} block{'s'[: blocks != 1]}"]
    if second := [m for m in shapes if "audio" in m or m.startswith("av_")]:
        fitting = tuple(name for name in fitting if BASES[name].family == "ltx-2")
        told.append(f"layers of LTX-2's audio stream, such as {second[0]}")
    if gated := [m for m in shapes if m.endswith("to_gate_logits") or "prompt_adaln" in m]:
        fitting = tuple(name for name in fitting if BASES[name].gated)
        told.append(f"layers of LTX-2.3 and later, such as {gated[0]}")
    named = base_in_header(header)
    if named and named not in fitting:
        titles = " or ".join(BASES[name].title for name in fitting) or "no known base"
        return Guess(
            fitting, "; ".join(told), f"the header names {BASES[named].title}, the layers are those of {titles}"
        )
    if named:
        return Guess((named,), "; ".join([*told, "named in the header"]))
    if len(fitting) > 1:
        told.append("these have the same layers, and nothing in the file says which it was trained on")
    if not fitting:
        told.append("no known base has such layers")
    return Guess(fitting, "; ".join(told))


def base_in_header(header: Mapping[str, str]) -> str | None:
    """The base that a file's header names, if it names one that is known."""
    for key in _HEADER_KEYS:
        text = header.get(key, "").lower()
        if key == "model_version" and text[:1].isdigit():
            text = f"ltx-{text}"
        for name, parts in _NAMED.items():
            if text and (text in parts or any(part in text for part in parts if len(part) > 4)):
                return name
    return None


def base_of_config(config: Mapping[str, Any]) -> str | None:
    """The base a transformer is, by its configuration (diffusers' config.json); None where it is none that is known."""
    width = config.get("num_attention_heads", 0) * config.get("attention_head_dim", 0)
    family = family_of_class(str(config.get("_class_name", "")))
    if family == "ltx-2":
        version = _ltx2_version(config)
        return version if width == BASES[version].width else None
    found = (
        n for n, b in BASES.items() if b.family == family and (b.width, b.blocks) == (width, config.get("num_layers"))
    )
    return next(found, None)


def config_of(transformer: Any) -> dict[str, Any]:
    """A loaded diffusers transformer's configuration, its class's name included, as config.json has it."""
    return {**dict(transformer.config), "_class_name": type(transformer).__name__}


def family_of_class(name: str) -> str | None:
    """ "ltx-video" or "ltx-2" for the name of a diffusers transformer class, None for others."""
    return {"LTXVideoTransformer3DModel": "ltx-video", "LTX2VideoTransformer3DModel": "ltx-2"}.get(name)


def titles(bases: Iterable[str]) -> str:
    """Bases in words: "LTX-2.0 19B or LTX-2.3 22B"."""
    return " or ".join(BASES[name].title for name in bases)


def _ltx2_version(config: Mapping[str, Any]) -> str:
    """By the switches that diffusers' class documents as new in 2.5 and in 2.3."""
    if (
        not config.get("ff_bias", True)
        or not config.get("use_prompt_adaln_single", True)
        or config.get("use_keyframes_abs_pos_embedding", False)
    ):
        return "ltx-2.5"
    return "ltx-2.3" if config.get("gated_attn", False) or config.get("cross_attn_mod", False) else "ltx-2.0"


def _width(shapes: Mapping[str, tuple[int, int]]) -> int | None:
    """Channels of the video stream, from the first layer that reads or writes it."""
    for module, (wide_in, wide_out) in shapes.items():
        if not module.startswith("transformer_blocks."):
            continue
        layer = module.split(".", 2)[-1]
        if layer in ("attn1.to_q", "attn1.to_k", "attn1.to_v", "attn2.to_q", "ff.net.0.proj", "attn1.to_gate_logits"):
            return wide_in
        if layer in ("attn1.to_out.0", "attn2.to_out.0", "ff.net.2"):
            return wide_out
    return None


def _blocks(shapes: Iterable[str]) -> int:
    numbers = [module.split(".")[1] for module in shapes if module.startswith("transformer_blocks.")]
    return max((int(number) + 1 for number in numbers if number.isdecimal()), default=0)
