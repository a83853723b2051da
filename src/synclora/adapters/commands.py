"""The commands of `synclora lora`: one function each, no logic.

synclora lora inspect SagiPolaczek/LTX-2.3-Sync-LoRA
synclora lora convert kohya.safetensors -o comfy.safetensors --to comfyui
synclora lora merge sync_lora.safetensors --backbone nano -o merged
synclora lora extract-metadata sync_lora.safetensors
"""

from __future__ import annotations

import json as json_text
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from synclora.console import say

lora_app = typer.Typer(help="Look into, convert and merge LoRA files of any tool.", no_args_is_help=True)

Adapter = Annotated[str, typer.Argument(help="LoRA: a .safetensors file, a folder that holds one, or a hub id.")]


class KeyStyle(str, Enum):
    """How a LoRA file names its tensors; see docs/adapters.md."""

    comfyui = "comfyui"
    diffusers = "diffusers"
    kohya = "kohya"
    peft = "peft"
    bare = "bare"


@lora_app.command("inspect")
def lora_inspect(
    lora: Adapter, json: Annotated[bool, typer.Option("--json", help="Print it as JSON, the header included.")] = False
) -> None:
    """Tell a LoRA's style, layers, rank, base and rules, and what is wrong with it."""
    from synclora.adapters.inspect import inspect_lora

    found = inspect_lora(lora)
    say(*([json_text.dumps(found.to_json(), indent=2)] if json else found.lines()))


@lora_app.command("convert")
def lora_convert(
    lora: Adapter,
    output: Annotated[Path, typer.Option("-o", "--output", help="File to write; for peft, a folder.")],
    to: Annotated[KeyStyle, typer.Option(help="Style to write.")],
) -> None:
    """Write a LoRA for another tool; values and header are kept."""
    from synclora.adapters.convert import convert

    say(convert(lora, output, to.value).summary())


@lora_app.command("merge")
def lora_merge(
    lora: Adapter,
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder to write, a whole model.")],
    backbone: Annotated[str, typer.Option(help="Its base: a preset, or a diffusers folder.")] = "nano",
    strength: Annotated[float, typer.Option(help="Factor on the adapter; 1 as trained.")] = 1.0,
) -> None:
    """Merge a LoRA into a copy of its base, which then runs without it in any diffusers pipeline."""
    from synclora.adapters.merge import merge

    say(*merge(lora, backbone, output, strength).summary())


@lora_app.command("extract-metadata")
def lora_extract_metadata(lora: Adapter) -> None:
    """Print a LoRA's header as JSON."""
    from synclora.adapters.inspect import extract_metadata

    say(json_text.dumps(extract_metadata(lora), indent=2, ensure_ascii=False))
