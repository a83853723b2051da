"""A LoRA file in another tool's style: `synclora lora convert FILE -o OUT --to comfyui|diffusers|kohya|peft|bare`.

Every number is kept in its dtype and every header string is kept; alpha is folded into B where the style has no place
for it. Converted there and back, a file of factor 1 is the same bit for bit.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from synclora.adapters.hub import locate
from synclora.adapters.rules import known_adapter, rules_header, rules_of
from synclora.atomic import atomic_path
from synclora.diffusion.lora_file import PEFT_WEIGHTS, LoraError, LoraFile, read_lora, write_lora
from synclora.diffusion.lora_keys import STYLES, blocks_in, known_modules


@dataclass(frozen=True)
class Converted:
    """What conversion did."""

    path: Path
    source_styles: tuple[str, ...]
    style: str
    modules: int
    folded: int  # modules whose alpha went into B

    def summary(self) -> str:
        folded = f", alpha folded into B in {self.folded}" if self.folded else ""
        return f"{self.path}: {' and '.join(self.source_styles)} to {self.style}, {self.modules} modules{folded}."


def convert(lora: Path | str, output: Path | str, to: str) -> Converted:
    """Write a LoRA in another style, atomically.

    A published adapter's rules (prompt, window ...) are written into the header where it is silent, for a renamed copy
    is no longer known by its name.

    Args:
        lora: file, folder or hub id.
        output: file to write; for "peft" a folder, of adapter_model.safetensors and adapter_config.json.
        to: a name of `synclora.diffusion.lora_keys.STYLES`.

    Raises:
        LoraError: an unknown style, a file that is no whole LoRA, or modules whose names the style cannot hold.
        SyncloraError: the output cannot be written.
    """
    if to not in STYLES:
        raise LoraError(f"{to}: no such style; needed is one of {', '.join(STYLES)}.")
    located = locate(lora)
    file = read_lora(located.path)
    strange = sorted(set(file.modules) - known_modules(blocks_in(file.modules)))
    if strange:
        raise LoraError(
            f"{located.path}: {strange[0]} is no layer of an LTX-Video or LTX-2.x transformer ({len(strange)} such in"
            " all), so its name in another style is not known. Convert it with the tool that made it."
        )
    if known_adapter(located.path, located.repo):
        rules = rules_of(located.path, file.header, located.repo)
        file = replace(file, header=rules_header(rules) | file.header)
    output = Path(output)
    if to == "peft":
        _write_peft(output, file)
    elif output.suffix != ".safetensors" or output.is_dir():
        raise LoraError(f"{output}: a file name that ends in .safetensors is needed.")
    else:
        write_lora(output, file, to)
    folded = 0 if STYLES[to].alpha else sum(module.scale != 1 for module in file.modules.values())
    return Converted(output, file.styles, to, len(file.modules), folded)


def _write_peft(folder: Path, file: LoraFile) -> None:
    """PEFT's folder: it takes ranks and alphas from adapter_config.json alone, and 8 for what is not there."""
    if folder.suffix == ".safetensors" or folder.exists():
        raise LoraError(f"{folder}: PEFT's adapters are folders; the name of one that does not exist yet is needed.")
    from peft import LoraConfig

    ranks = {name: module.rank for name, module in file.modules.items()}
    most = max(set(ranks.values()), key=list(ranks.values()).count)
    others = {name: rank for name, rank in ranks.items() if rank != most}
    config = LoraConfig(
        r=most, lora_alpha=most, target_modules=sorted(ranks), rank_pattern=others, alpha_pattern=dict(others)
    )
    config.inference_mode = True
    with atomic_path(folder) as temporary:
        config.save_pretrained(str(temporary))
        write_lora(temporary / PEFT_WEIGHTS, file, "peft")
