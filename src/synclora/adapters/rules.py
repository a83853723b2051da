"""What an adapter asks of sampling: how the reference is read, which prompt, which window, which sampler.

A file's header says it (synclora writes it there on training and on conversion); for published adapters whose headers
are silent there is a table, found by hub id or file name:

    rules = rules_of(path, header, repo)                 # a pure function: nothing is read or fetched
    require_base(path, rules, config_of(transformer))    # before the weights go in
    prompt_for(path, rules, ""), sampling_for(rules, distilled=False), rules.attention, rules.downscale, rules.window
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from synclora.adapters.bases import BASES, base_in_header, base_of_config, family_of_class
from synclora.backbones.base import Attention
from synclora.diffusion.guidance import DEV, DISTILLED_SIGMAS, Guidance
from synclora.diffusion.lora_file import LoraError


@dataclass(frozen=True)
class Sampling:
    """One way to sample: a number of steps or, where they are fixed, their noise levels; and the guidance."""

    steps: int
    guidance: Guidance
    sigmas: tuple[float, ...] | None = None  # steps + 1, the last 0; None: the usual schedule
    refine: tuple[float, ...] | None = None  # those of a second stage, at twice the size; None: the usual ones


SAMPLINGS = {
    # The second stage's levels are the last three of the first's, as Lightricks and diffusers publish them.
    "distilled": Sampling(len(DISTILLED_SIGMAS) - 1, Guidance(), DISTILLED_SIGMAS, DISTILLED_SIGMAS[5:]),
    "dev": Sampling(30, DEV),
}


@dataclass(frozen=True)
class Window:
    """The video an adapter was trained on: pixels, frames and frames a second."""

    width: int
    height: int
    frames: int
    fps: float

    def __str__(self) -> str:
        return f"{self.width}x{self.height}x{self.frames}@{self.fps:g}"


@dataclass(frozen=True)
class Rules:
    """How to sample with an adapter; None and () leave the choice to the backbone and the user."""

    attention: Attention = "joint"  # how published in-context LoRAs were trained
    downscale: int = 1  # the reference is so many times smaller than the target, each way
    prompt: str | None = None  # the exact prompt it was trained with
    window: Window | None = None
    sampling: tuple[str, ...] = ()  # names of SAMPLINGS that suit it: which, is the base's matter
    base: str | None = None  # a name of synclora.adapters.bases.BASES
    adapter: str | None = None  # hub id, of an adapter that is known
    steps: int | None = None  # denoising steps it was trained for, without guidance


@dataclass(frozen=True)
class Known:
    """A published adapter."""

    repo: str
    file: str
    licence: str
    rules: Rules


KNOWN = (
    Known(
        repo="SagiPolaczek/LTX-2.3-Sync-LoRA",
        file="ltx-2.3-sync-lora-3d1t-r256.safetensors",
        licence="that of LTX-2's weights: free of charge below 10 million US dollars of yearly revenue",
        rules=Rules(
            attention="joint",
            downscale=1,
            prompt="3d1t",
            window=Window(512, 512, 81, 25),
            sampling=("distilled", "dev"),
            base="ltx-2.3",
            adapter="SagiPolaczek/LTX-2.3-Sync-LoRA",
        ),
    ),
)


def rules_of(path: Path | str, header: Mapping[str, str], repo: str | None = None) -> Rules:
    """What an adapter asks of sampling.

    Args:
        path: of the file; its name tells published adapters, nothing is read.
        header: the file's header strings; what they say outranks the table of published adapters.
        repo: hub id the file came from, if it did.

    Raises:
        LoraError: a header string that is not what it must be, or a reference layout that is not supported.
    """
    known = known_adapter(path, repo)
    rules = known.rules if known else Rules(base=base_in_header(header))
    attention = header.get("reference_attention", rules.attention)
    if attention != "self" and attention != "joint":
        raise LoraError(f"{path}: reference_attention is {attention!r} in its header; 'self' or 'joint' is needed.")
    if _factor(path, header, "reference_temporal_scale_factor") not in (None, 1):
        raise LoraError(
            f"{path}: reference_temporal_scale_factor is {header['reference_temporal_scale_factor']} in its header; "
            "only 1, a reference of the target's own frames, is supported. Use a LoRA trained so."
        )
    return replace(
        rules,
        attention=attention,
        downscale=_downscale(path, header) or rules.downscale,
        prompt=_prompt(header) or rules.prompt,
        window=_window(path, header) or rules.window,
        steps=_factor(path, header, "sampling_steps") or rules.steps,
        sampling=_sampling(path, header) or rules.sampling,
    )


def prompt_for(path: Path | str, rules: Rules, prompt: str) -> str:
    """The prompt to sample with: the adapter's own where it was trained with one alone, and none was given.

    Raises:
        LoraError: another prompt than the one it was trained with.
    """
    if rules.prompt is None or prompt == rules.prompt:
        return prompt
    if prompt:
        raise LoraError(
            f"{path}: the prompt is {prompt!r}; this adapter was trained with {rules.prompt!r} alone, and the edit is"
            " told by the first frame. Leave --prompt out."
        )
    return rules.prompt


def sampling_for(rules: Rules, *, distilled: bool) -> Sampling | None:
    """How to sample on a base that is distilled or is not; None where the adapter leaves it to the backbone."""
    if rules.steps is not None:
        return Sampling(rules.steps, Guidance())
    name = "distilled" if distilled else "dev"
    return SAMPLINGS[name] if name in rules.sampling else None


def known_adapter(path: Path | str, repo: str | None = None) -> Known | None:
    """The published adapter a file is, by hub id, by its place in the hub's cache, or by its name."""
    parts = Path(path).parts
    for known in KNOWN:
        cached = "models--" + known.repo.replace("/", "--")
        if known.repo == repo or cached in parts or (repo is None and parts and parts[-1] == known.file):
            return known
    return None


def rules_header(rules: Rules) -> dict[str, str]:
    """The rules as header strings, which `rules_of` reads back: so that a renamed copy keeps them."""
    found = {
        "reference_attention": rules.attention,
        "reference_downscale_factor": str(rules.downscale),
        "reference_temporal_scale_factor": "1",
        "trigger_prompt": rules.prompt,
        "window": str(rules.window) if rules.window else None,
        "sampling_steps": str(rules.steps) if rules.steps else None,
        "sampling": ",".join(rules.sampling),
        "base_model": rules.base,
    }
    return {name: text for name, text in found.items() if text}


def require_base(path: Path | str, rules: Rules, config: Mapping[str, Any]) -> None:
    """Refuse an adapter whose base is known and another than the transformer of this configuration.

    The layers of LTX-Video 13B and all LTX-2.x have the same shapes, so a wrong base would load and give noise.

    Args:
        path: named in the error.
        rules: of the adapter.
        config: of the transformer, as in config.json or by `synclora.adapters.bases.config_of`. Sizes that are no
            published base's are let through within the family.

    Raises:
        LoraError: another base.
    """
    if rules.base is None:
        return
    name = str(config.get("_class_name"))
    wanted, here = BASES[rules.base], base_of_config(config)
    if family_of_class(name) == wanted.family and here in (None, rules.base):
        return
    title = BASES[here].title if here else name
    raise LoraError(
        f"{path}: trained on {wanted.title}, and this base is {title}. Use it with the base it was trained on"
        f" (--backbone {rules.base}), or train one on this base."
    )


def _prompt(header: Mapping[str, str]) -> str | None:
    names = ("trigger_prompt", "trigger_word", "trigger_words", "modelspec.trigger_phrase")
    return next((header[name] for name in names if header.get(name)), None)


def _downscale(path: Path | str, header: Mapping[str, str]) -> int | None:
    """Both names of it: newer trainers of LTX-2 write `reference_spatial_scale_factor` beside the older one."""
    old, new = (
        _factor(path, header, name) for name in ("reference_downscale_factor", "reference_spatial_scale_factor")
    )
    if old and new and old != new:
        raise LoraError(
            f"{path}: reference_downscale_factor is {old} and reference_spatial_scale_factor {new} in its header; they"
            " are two names of one number. Correct the header, or use another file."
        )
    return old or new


def _factor(path: Path | str, header: Mapping[str, str], name: str) -> int | None:
    text = header.get(name)
    if text is None:
        return None
    if not re.fullmatch(r"\d+(\.0+)?", text) or float(text) < 1:
        raise LoraError(f"{path}: {name} is {text!r} in its header; a whole number from 1 on is needed.")
    return int(float(text))


def _window(path: Path | str, header: Mapping[str, str]) -> Window | None:
    text = header.get("window")
    if not text:
        return None
    match = re.fullmatch(r"(\d+)x(\d+)x(\d+)@(\d+(?:\.\d+)?)", text)
    if match is None:
        raise LoraError(f"{path}: window is {text!r} in its header; WIDTHxHEIGHTxFRAMES@FPS is needed (512x512x81@25).")
    return Window(int(match[1]), int(match[2]), int(match[3]), float(match[4]))


def _sampling(path: Path | str, header: Mapping[str, str]) -> tuple[str, ...]:
    names = tuple(header.get("sampling", "").replace(" ", "").split(",")) if header.get("sampling") else ()
    if unknown := [name for name in names if name not in SAMPLINGS]:
        raise LoraError(f"{path}: sampling is {unknown[0]!r} in its header; needed is one of {', '.join(SAMPLINGS)}.")
    return names
