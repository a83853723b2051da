"""An adapter put into its base for good: `synclora lora merge FILE --backbone FOLDER -o MERGED`.

    W' = W + strength * (alpha / rank) * B A        in float32, then rounded to W's dtype

The result is an ordinary diffusers folder that runs anywhere without a LoRA loader. It is written shard by shard, so
the memory needed is that of the base's largest file. `merged_adapter.json` in it keeps the adapter's header and rules,
and `synclora edit --backbone MERGED` goes by them.
"""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor, linalg

from synclora.adapters.hub import locate
from synclora.adapters.rules import Rules, require_base, rules_header, rules_of
from synclora.atomic import atomic_path, write_json
from synclora.backbones import presets
from synclora.backbones.presets import LORA_NAME
from synclora.diffusion.lora import fingerprint_tensors, require_fingerprint, require_finite, require_fit
from synclora.diffusion.lora_file import LoraError, LoraFile, LoraModule, read_lora
from synclora.tensors import dump_tensors

MERGED_NAME = "merged_adapter.json"
_WEIGHTS = "diffusion_pytorch_model.safetensors"
_WIDE = {"float32", "bfloat16", "float16"}


@dataclass(frozen=True)
class Merged:
    """What merging did."""

    path: Path
    modules: int
    dtype: str  # of the merged layers
    lost: float  # |W' - W - delta| / |delta| over all modules: the part of the adapter that rounding took
    checked: bool  # whether the adapter named its base, and it was this one

    def summary(self) -> list[str]:
        lines = [
            f"{self.path}: {self.modules} layers merged in {self.dtype}; rounding took {self.lost:.2%} of the adapter."
        ]
        if not self.checked:
            lines.append("The adapter does not name its base, so only its shapes could be checked.")
        return lines


def merge(lora: Path | str, backbone: Path | str, output: Path | str, strength: float = 1.0) -> Merged:
    """Write a copy of a backbone folder with a LoRA merged into its transformer, atomically.

    Args:
        lora: file, folder or hub id, of any style.
        backbone: a preset's name or a folder in the diffusers layout; left as it is.
        output: folder to write; must not exist yet.
        strength: factor on the adapter; 1 as trained.

    Raises:
        LoraError: not a whole LoRA, another base's, values or a strength that are not finite, or a base that is no such
            folder.
        SyncloraError: no room, or the output cannot be written.
    """
    if not math.isfinite(strength):
        raise LoraError(f"strength is {strength}; a number is needed, 1 as trained.")
    base, output = Path(presets.locate(backbone)), Path(output)
    if output.exists():
        raise LoraError(f"{output}: is there already. Name a folder that does not exist yet.")
    located, shards = locate(lora), _shards(base)
    state = _State(shards)
    file = read_lora(located.path, state.shapes)
    rules = rules_of(located.path, file.header, located.repo)
    require_base(located.path, rules, _json(base / "transformer" / "config.json"))
    fingerprint = state.fingerprint() if "base_fingerprint" in file.header else None
    require_fingerprint(located.path, file.header, fingerprint)
    require_fit(located.path, file, state.shapes)
    _require_mergeable(located.path, base, file, state)
    _require_room(base, output)

    tally = _Tally()
    with atomic_path(output) as temporary:
        shutil.copytree(base, temporary, ignore=_left_out(base))
        (temporary / "transformer").mkdir()
        for name in ("config.json", f"{_WEIGHTS}.index.json"):
            if (base / "transformer" / name).is_file():
                shutil.copyfile(base / "transformer" / name, temporary / "transformer" / name)
        for shard in shards:
            tensors, header = _merged_shard(shard, file, strength, tally)
            dump_tensors(temporary / "transformer" / shard.name, tensors, header)
        write_json(temporary / MERGED_NAME, _record(file, rules, strength, fingerprint))
    return Merged(output, len(file.modules), tally.dtype, tally.lost, fingerprint is not None)


def merged_rules(folder: Path | str) -> Rules | None:
    """The rules of the adapter that was merged into a backbone folder; None for any other folder.

    Raises:
        LoraError: the record is damaged.
    """
    path = Path(folder) / MERGED_NAME
    if not path.is_file():
        return None
    try:
        return rules_of(path, json.loads(path.read_text(encoding="utf-8"))["header"])
    except (ValueError, KeyError, TypeError) as error:
        raise LoraError(f"{path}: damaged ({error}). Merge the adapter again.") from error


@dataclass
class _Tally:
    """Sums of squares over all merged layers: of the change wanted, and of what rounding made of it."""

    wanted: float = 0.0
    missed: float = 0.0
    dtype: str = ""

    @property
    def lost(self) -> float:
        return (self.missed / self.wanted) ** 0.5 if self.wanted else 0.0


class _State:
    """A transformer's tensors in its shards, without loading them."""

    def __init__(self, shards: list[Path]) -> None:
        self.shards = shards
        self.shapes: dict[str, tuple[int, ...]] = {}  # linear layer -> (out, in)
        for shard in shards:
            with _open(shard) as file:
                for name in file.keys():  # noqa: SIM118
                    shape = tuple(file.get_slice(name).get_shape())
                    if name.endswith(".weight") and len(shape) == 2:
                        self.shapes[name.removesuffix(".weight")] = shape

    def fingerprint(self) -> str:
        """What `synclora.diffusion.lora.fingerprint` says of the loaded transformer."""

        def tensors():
            for shard in self.shards:
                with _open(shard) as file:
                    for name in file.keys():  # noqa: SIM118
                        yield name, file.get_tensor(name)

        return fingerprint_tensors(tensors())


def _merged_shard(
    shard: Path, file: LoraFile, strength: float, tally: _Tally
) -> tuple[dict[str, Tensor], dict[str, str]]:
    with _open(shard) as opened:
        header = opened.metadata() or {}
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    for name, tensor in tensors.items():
        module = file.modules.get(name.removesuffix(".weight"))
        if module is not None and name.endswith(".weight"):
            tensors[name] = _merged(tensor, module, strength, tally)
    return tensors, header


def _merged(weight: Tensor, module: LoraModule, strength: float, tally: _Tally) -> Tensor:
    delta = strength * module.scale * (module.b.float() @ module.a.float())
    result = (weight.float() + delta).to(weight.dtype)
    tally.wanted += float(linalg.vector_norm(delta)) ** 2
    tally.missed += float(linalg.vector_norm(result.float() - weight.float() - delta)) ** 2
    tally.dtype = str(weight.dtype).removeprefix("torch.")
    return result


def _record(file: LoraFile, rules: Rules, strength: float, fingerprint: str | None) -> dict[str, Any]:
    return {
        "header": rules_header(rules) | file.header,
        "strength": strength,
        "base_fingerprint": fingerprint,
    }


def _shards(base: Path) -> list[Path]:
    """The transformer's safetensors files: those of the index, or the only one."""
    folder = base / "transformer"
    if not (folder / "config.json").is_file():
        raise LoraError(
            f"{base}: no diffusers folder with a transformer in it. Give a preset, or a model's folder (of a hub id,"
            " the one that `hf download ID` prints)."
        )
    index = folder / f"{_WEIGHTS}.index.json"
    names = [_WEIGHTS]
    if index.is_file():
        names = sorted(set(_json(index).get("weight_map", {}).values()))
    missing = [name for name in names if not (folder / name).is_file()]
    if missing or not names:
        raise LoraError(f"{folder}: {(missing or [_WEIGHTS])[0]} is missing. Fetch the model again, in safetensors.")
    return [folder / name for name in names]


def _json(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise LoraError(f"{path}: not readable JSON ({error}). Fetch the model again.") from error


def _open(shard: Path) -> Any:
    try:
        return safe_open(shard, framework="pt")
    except (SafetensorError, OSError) as error:
        raise LoraError(f"{shard}: not a whole safetensors file ({error}). Fetch the model again.") from error


def _require_mergeable(path: Path, base: Path, file: LoraFile, state: _State) -> None:
    require_finite(path, file)
    for shard in state.shards:
        with _open(shard) as opened:
            for name in set(opened.keys()) & {f"{module}.weight" for module in file.modules}:
                kind = str(opened.get_tensor(name).dtype).removeprefix("torch.")
                if kind not in _WIDE:
                    raise LoraError(
                        f"{base}: {name} is {kind}; rounding to so few bits would swallow the adapter. Merge into the"
                        " bfloat16 model and quantise that."
                    )


def _require_room(base: Path, output: Path) -> None:
    needed = sum(p.stat().st_size for p in base.rglob("*") if p.is_file())
    parent = next(folder for folder in output.absolute().parents if folder.is_dir())
    free = shutil.disk_usage(parent).free
    if free < needed:
        raise LoraError(
            f"{output}: {needed / 1e9:.1f} GB are needed and {free / 1e9:.1f} GB are free. Free some space or choose"
            " another disk."
        )


def _left_out(base: Path) -> Any:
    """Everything is copied but the transformer, written anew, and a LoRA beside the model: it is for the old base."""

    def ignore(folder: str, names: list[str]) -> list[str]:
        top = Path(folder) == base
        return [name for name in names if top and name in ("transformer", LORA_NAME, MERGED_NAME)]

    return ignore
