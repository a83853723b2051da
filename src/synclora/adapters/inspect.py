"""What a LoRA file is, without a model: `synclora lora inspect FILE [--json]`.

The tensors are looked at one after another, so a file larger than the memory is no trouble.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from synclora.adapters.bases import BASES, guess_base
from synclora.adapters.hub import locate
from synclora.adapters.rules import Rules, known_adapter, rules_of
from synclora.diffusion.lora_file import LoraError, header_alphas, open_lora, peft_config, read_header, sort_file_keys
from synclora.diffusion.lora_keys import SortedKeys, blocks_in, is_flat_lora, known_modules

PROVENANCE = ("synclora_version", "backbone", "steps", "data", "pairs", "seed", "config_sha256", "data_sha256")


@dataclass(frozen=True)
class Inspection:
    """What was found; `to_json` is what --json prints."""

    path: str
    bytes: int
    styles: list[str]
    modules: int
    blocks: int
    layers: dict[str, int]  # kind of layer, its block's number left out -> how many
    ranks: dict[str, int]  # rank -> modules that have it
    alphas: dict[str, int]  # alpha -> modules; "folded" where none is named
    dtypes: dict[str, int]  # dtype -> matrices
    parameters: int
    bases: list[str]  # names of synclora.adapters.bases.BASES
    base_reason: str
    base_fingerprint: str | None
    rules: Rules | None  # None where the header makes no sense; a warning says why
    header: dict[str, str]
    warnings: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def lines(self) -> list[str]:
        """For a person to read."""
        rows = {
            "file": f"{self.path}  ({_size(self.bytes)})",
            "style": " and ".join(self.styles) or "none that is known",
            "modules": f"{self.modules} in {self.blocks} blocks: {_counts(self.layers)}",
            "rank": _counts(self.ranks),
            "alpha": _counts(self.alphas),
            "dtype": f"{_counts(self.dtypes)}; {self.parameters:,} numbers",
            "base": f"{' or '.join(BASES[n].title for n in self.bases) or 'unknown'}  ({self.base_reason})",
            "fingerprint": self.base_fingerprint or "none in the header",
            "provenance": ", ".join(f"{k} {self.header[k]}" for k in PROVENANCE if k in self.header) or "none",
            **(_rules_rows(self.rules) if self.rules else {}),
        }
        return [f"{name:<12} {text}" for name, text in rows.items()] + [f"warning: {w}" for w in self.warnings]


def inspect_lora(lora: Path | str) -> Inspection:
    """Look into a LoRA file of any style: a path, a folder or a hub id.

    Raises:
        LoraError: no such file, not a safetensors file, or nothing of a LoRA in it.
    """
    located = locate(lora)
    path = located.path
    with open_lora(path) as file:
        header = file.metadata() or {}
        keys = sort_file_keys(file.keys())
        found = {key: _look(file.get_tensor(key)) for parts in keys.modules.values() for key in parts.values()}
    if not found:
        other = next((key for key in keys.unknown if is_flat_lora(key)), None)
        held = f"{other!r}, of another architecture than" if other else "nothing of"
        raise LoraError(f"{path}: holds {held} a LoRA for LTX-Video or LTX-2.x. Give such a LoRA's .safetensors file.")
    every = {m: (found[p["A"]], found[p["B"]]) for m, p in keys.modules.items() if {"A", "B"} <= p.keys()}
    pairs = {m: (a, b) for m, (a, b) in every.items() if len(a.shape) == len(b.shape) == 2 and a.shape[0] == b.shape[1]}
    guess = guess_base({m: (a.shape[1], b.shape[0]) for m, (a, b) in pairs.items()}, header)
    rules, rules_warning = _rules(path, header, located.repo)
    known = known_adapter(path, located.repo)
    warnings = [
        *_key_warnings(keys),
        *(
            [f"{_some(odd)} pairs of matrices that do not fit each other"]
            if (odd := sorted(every.keys() - pairs))
            else []
        ),
        *_value_warnings(found, pairs),
        *_alpha_warnings(header, keys),
        *([guess.conflict] if guess.conflict else []),
        *rules_warning,
        *_header_warnings(header, known=known is not None),
    ]
    return Inspection(
        path=str(path),
        bytes=path.stat().st_size,
        styles=sorted(keys.styles),
        modules=len(pairs),
        blocks=blocks_in(keys.modules),
        layers=_sorted(Counter(_kind(module) for module in pairs)),
        ranks=_sorted(Counter(str(a.shape[0]) for a, _ in pairs.values())),
        alphas=_sorted(_alphas(path, header, keys, found)),
        dtypes=_sorted(Counter(look.dtype for pair in pairs.values() for look in pair)),
        parameters=sum(look.count for pair in pairs.values() for look in pair),
        bases=[rules.base] if known and rules and rules.base else list(guess.bases),
        base_reason=f"a published adapter, {known.repo}" if known else guess.reason,
        base_fingerprint=header.get("base_fingerprint"),
        rules=rules,
        header=header,
        warnings=warnings,
    )


def extract_metadata(lora: Path | str) -> dict[str, Any]:
    """A file's header strings; those that hold JSON objects or lists as such. Errors as `inspect_lora`."""
    return {name: _parsed(text) for name, text in sorted(read_header(locate(lora).path).items())}


@dataclass(frozen=True)
class _Look:
    """What is kept of a tensor."""

    shape: tuple[int, ...]
    dtype: str
    count: int
    finite: bool
    zero: bool
    value: float | None  # of a scalar


def _look(tensor: Tensor) -> _Look:
    wide = tensor.float()
    return _Look(
        tuple(tensor.shape),
        str(tensor.dtype).removeprefix("torch."),
        tensor.numel(),
        bool(wide.isfinite().all()),
        not bool(wide.any()),
        float(wide) if tensor.numel() == 1 else None,
    )


def _rules(path: Path, header: Mapping[str, str], repo: str | None) -> tuple[Rules | None, list[str]]:
    try:
        return rules_of(path, header, repo), []
    except LoraError as error:
        return None, [f"synclora refuses it: {str(error).removeprefix(f'{path}: ')}"]


def _key_warnings(keys: SortedKeys) -> list[str]:
    warnings = []
    if keys.unknown:
        warnings.append(f"{_some(keys.unknown)} no part of a plain LoRA for LTX; synclora refuses such a file")
    if len(keys.styles) > 1:
        counts = ", ".join(f"{count} {style}" for style, count in sorted(keys.styles.items()))
        warnings.append(f"mixed styles: {counts} keys; other loaders may leave some out")
    if strange := sorted(set(keys.modules) - known_modules(blocks_in(keys.modules))):
        warnings.append(f"{_some(strange)} no layer of LTX-Video or LTX-2.x transformers (perhaps a text connector)")
    if half := sorted(module for module, parts in keys.modules.items() if not {"A", "B"} <= parts.keys()):
        warnings.append(f"{_some(half)} only half of a pair; the file is incomplete")
    if audio := [module for module in keys.modules if "audio" in module]:
        warnings.append(f"{len(audio)} modules are of the audio stream, which synclora leaves out")
    return warnings


def _value_warnings(found: Mapping[str, _Look], pairs: Mapping[str, tuple[_Look, _Look]]) -> list[str]:
    warnings = []
    if broken := sorted(key for key, look in found.items() if not look.finite):
        warnings.append(f"NaN or infinite values: {_some(broken)} not finite; synclora refuses such a file")
    if pairs and all(b.zero for _, b in pairs.values()):
        warnings.append("every B is 0: the adapter changes nothing (was it saved before training?)")
    return warnings


def _alpha_warnings(header: Mapping[str, str], keys: SortedKeys) -> list[str]:
    """Lightricks' trainers save B without alpha, and no loader reads their header's."""
    try:
        alpha, rank = float(header.get("lora_alpha", "")), float(header.get("lora_rank", ""))
    except ValueError:
        return []
    if alpha != rank and not any("alpha" in parts for parts in keys.modules.values()):
        return [
            f"the header says lora_alpha {alpha:g} and lora_rank {rank:g}, but no tensor holds alpha: it is taken as"
            " folded into B, as ComfyUI and diffusers do. If it was not, the adapter is"
            f" {'over' if alpha < rank else 'under'}driven"
        ]
    return []


def _header_warnings(header: Mapping[str, str], *, known: bool) -> list[str]:
    warnings = []
    if "reference_attention" not in header and not known:
        warnings.append(
            "the header does not say how the reference is read: joint attention is taken, as published ones"
        )
    if "reference_downscale_factor" not in header and "reference_spatial_scale_factor" not in header and not known:
        warnings.append("the header has no reference_downscale_factor: 1 is taken, a reference of the target's size")
    return warnings


def _alphas(path: Path, header: Mapping[str, str], keys: SortedKeys, found: Mapping[str, _Look]) -> Counter[str]:
    named = header_alphas(header, peft_config(path), keys.modules)
    values = (
        found[parts["alpha"]].value if "alpha" in parts else named.get(module) for module, parts in keys.modules.items()
    )
    return Counter("folded" if value is None else f"{value:g}" for value in values)


def _kind(module: str) -> str:
    """A layer's name without its block's number: "attn1.to_q"."""
    return module.split(".", 2)[2] if module.startswith("transformer_blocks.") else module


def _rules_rows(rules: Rules) -> dict[str, str]:
    return {
        "synclora": f"{rules.attention} attention; reference {_downscaled(rules.downscale)}",
        "prompt": f"{rules.prompt!r}, exactly" if rules.prompt else "free",
        "window": str(rules.window) if rules.window else "the backbone's",
        "sampling": _sampling(rules),
    }


def _sampling(rules: Rules) -> str:
    if rules.steps is not None:
        return f"{rules.steps} step{'s'[: rules.steps != 1]}, without guidance"
    return " or ".join(rules.sampling) or "the backbone's"


def _downscaled(factor: int) -> str:
    return "at the target's size" if factor == 1 else f"{factor} times smaller"


def _some(names: list[str]) -> str:
    """The first names and "5 are", for a sentence to go on from."""
    shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
    return f"{shown}: {len(names)} {'is' if len(names) == 1 else 'are'}"


def _counts(counts: Mapping[str, int]) -> str:
    if len(counts) == 1:
        return next(iter(counts))
    return ", ".join(f"{name} x {count}" for name, count in counts.items())


def _sorted(counts: Counter[str]) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _size(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.2f} MB"


def _parsed(text: str) -> Any:
    try:
        value = json.loads(text) if text[:1] in "{[" else text
    except ValueError:
        return text
    return value
