"""The names of a LoRA's tensors, in the styles in the wild.

    style      key of the first matrix                                          alpha
    comfyui    diffusion_model.transformer_blocks.0.attn1.to_q.lora_A.weight    folded (Lightricks' trainers too)
    diffusers  transformer.transformer_blocks.0.attn1.to_q.lora_A.weight        folded, or in the file's header
    peft       base_model.model.transformer_blocks.0.attn1.to_q.lora_A.weight   folded, or in adapter_config.json
    bare       transformer_blocks.0.attn1.to_q.lora_A.weight                    folded
    kohya      lora_unet_transformer_blocks_0_attn1_to_q.lora_down.weight       a tensor beside: .alpha

A module has two names outside its blocks: Lightricks' own (`patchify_proj`; ComfyUI and kohya files) and diffusers'
(`proj_in`). Inside synclora it always has diffusers'. kohya's underscores cannot be split back into dots by rule
(`to_out_0` is `to_out.0`, yet `audio_attn1` stays), so such a name is looked up among the names a model has.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

Part = Literal["A", "B", "alpha"]

# Lightricks' name of a module outside the blocks -> diffusers' name.
_RENAMED = {
    "patchify_proj": "proj_in",
    "audio_patchify_proj": "audio_proj_in",
    "adaln_single": "time_embed",
    "audio_adaln_single": "audio_time_embed",
    "prompt_adaln_single": "prompt_adaln",
    "audio_prompt_adaln_single": "audio_prompt_adaln",
    "av_ca_video_scale_shift_adaln_single": "av_cross_attn_video_scale_shift",
    "av_ca_audio_scale_shift_adaln_single": "av_cross_attn_audio_scale_shift",
    "av_ca_a2v_gate_adaln_single": "av_cross_attn_video_a2v_gate",
    "av_ca_v2a_gate_adaln_single": "av_cross_attn_audio_v2a_gate",
}
_NATIVE = {theirs: own for own, theirs in _RENAMED.items()}


@dataclass(frozen=True)
class Style:
    """How a style writes a module's tensors."""

    prefix: str
    native: bool  # Lightricks' names, not diffusers'
    a: str = "lora_A"
    b: str = "lora_B"
    flat: bool = False  # dots of the module's name as underscores
    alpha: bool = False  # alpha as a tensor of its own, not folded into B


STYLES = {
    "comfyui": Style("diffusion_model.", native=True),
    "diffusers": Style("transformer.", native=False),
    "kohya": Style("lora_unet_", native=True, a="lora_down", b="lora_up", flat=True, alpha=True),
    "peft": Style("base_model.model.", native=False),
    "bare": Style("", native=False),
}

# What is read, longest first: some tools put one prefix before another.
_PREFIXES = {
    "base_model.model.diffusion_model.": "peft",
    "base_model.model.transformer.": "peft",
    "base_model.model.": "peft",
    "model.diffusion_model.": "comfyui",
    "diffusion_model.": "comfyui",
    "transformer.": "diffusers",
    "": "bare",
}
_FLAT_PREFIXES = ("lora_unet_", "lora_transformer_", "lycoris_")
_PARTS: dict[str, Part] = {"lora_A": "A", "lora_down": "A", "lora.down": "A"}
_PARTS |= {"lora_B": "B", "lora_up": "B", "lora.up": "B", "alpha": "alpha"}
# A module, a matrix, perhaps the name PEFT gives an adapter in memory ("default"), and "weight".
_KEY = re.compile(r"(.+)\.(lora_A|lora_B|lora_down|lora_up|lora\.down|lora\.up|alpha)(?:(?:\.\w+)?\.weight)?")


@dataclass(frozen=True)
class Key:
    """What one tensor of a LoRA file is."""

    style: str
    module: str  # diffusers' name
    part: Part


@dataclass(frozen=True)
class SortedKeys:
    """A file's keys, sorted: module -> part -> key; the rest; and how many keys each style has."""

    modules: dict[str, dict[Part, str]] = field(default_factory=dict)
    unknown: list[str] = field(default_factory=list)
    styles: dict[str, int] = field(default_factory=dict)


def parse_key(key: str, flat: Mapping[str, str]) -> Key | None:
    """The style, module and part a key stands for, or None for what is no part of a plain LoRA.

    Args:
        key: a tensor's name.
        flat: `flat_names` of the model, for kohya's keys.
    """
    match = _KEY.fullmatch(key)
    if match is None:
        return None
    name, part = match[1], _PARTS[match[2]]
    for prefix in _FLAT_PREFIXES:
        if name.startswith(prefix):
            module = flat.get(name.removeprefix(prefix))
            return Key("kohya", module, part) if module else None
    prefix = next(prefix for prefix in _PREFIXES if name.startswith(prefix))
    return Key(_PREFIXES[prefix], diffusers_name(name.removeprefix(prefix)), part)


def is_flat_lora(key: str) -> bool:
    """Whether a key is a plain LoRA's under an underscored name (which the model may not have)."""
    return key.startswith(_FLAT_PREFIXES) and _KEY.fullmatch(key) is not None


def sort_keys(keys: Iterable[str], flat: Mapping[str, str]) -> SortedKeys:
    """All keys of a file, sorted by module; a second key for the same part of a module counts as unknown."""
    result = SortedKeys()
    for key in sorted(keys):
        found = parse_key(key, flat)
        if found is None or found.part in result.modules.get(found.module, {}):
            result.unknown.append(key)
            continue
        result.modules.setdefault(found.module, {})[found.part] = key
        result.styles[found.style] = result.styles.get(found.style, 0) + 1
    return result


def write_key(style: str, module: str, part: Part) -> str:
    """The key of a module's part in a style."""
    how = STYLES[style]
    name = native_name(module) if how.native else module
    name = name.replace(".", "_") if how.flat else name
    return f"{how.prefix}{name}." + {"A": f"{how.a}.weight", "B": f"{how.b}.weight", "alpha": "alpha"}[part]


def diffusers_name(module: str) -> str:
    """A module's name in diffusers, given that or Lightricks' own."""
    head, dot, rest = module.partition(".")
    return _RENAMED.get(head, head) + dot + rest


def native_name(module: str) -> str:
    """A module's name in Lightricks' code and ComfyUI, given diffusers'."""
    head, dot, rest = module.partition(".")
    return _NATIVE.get(head, head) + dot + rest


def flat_names(modules: Iterable[str]) -> dict[str, str]:
    """Underscored name -> module, for both of a module's names: what kohya's keys are looked up in."""
    return {name.replace(".", "_"): module for module in modules for name in (module, native_name(module))}


def blocks_in(keys: Iterable[str]) -> int:
    """How many transformer blocks a file's keys speak of: the highest number + 1."""
    found = (re.search(r"transformer_blocks[._](\d+)[._]", key) for key in keys)
    return max((int(match[1]) + 1 for match in found if match), default=0)


def known_modules(blocks: int) -> set[str]:
    """Every linear layer that an LTX-Video or LTX-2.x transformer of so many blocks can have, by diffusers' names."""
    return set(_TRUNK) | {f"transformer_blocks.{block}.{layer}" for block in range(blocks) for layer in _BLOCK}


_MODULATIONS = (
    *("time_embed", "audio_time_embed", "prompt_adaln", "audio_prompt_adaln"),
    *("av_cross_attn_video_scale_shift", "av_cross_attn_audio_scale_shift"),
    *("av_cross_attn_video_a2v_gate", "av_cross_attn_audio_v2a_gate"),
)
_TRUNK = (
    *("proj_in", "proj_out", "audio_proj_in", "audio_proj_out"),
    *(f"{audio}caption_projection.linear_{i}" for audio in ("", "audio_") for i in (1, 2)),
    *(f"{name}.emb.timestep_embedder.linear_{i}" for name in _MODULATIONS for i in (1, 2)),
    *(f"{name}.linear" for name in _MODULATIONS),
)
_ATTENTIONS = ("attn1", "attn2", "audio_attn1", "audio_attn2", "audio_to_video_attn", "video_to_audio_attn")
_BLOCK = (
    *(f"{name}.{part}" for name in _ATTENTIONS for part in ("to_q", "to_k", "to_v", "to_out.0", "to_gate_logits")),
    *(f"{audio}ff.{part}" for audio in ("", "audio_") for part in ("net.0.proj", "net.2")),
)
