"""Small LoRAs trained alike and measured alike, for comparisons; and their results as a table."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from synclora.bench.suite import run_procedural
from synclora.training.config import parse_config
from synclora.training.trainer import train

COLUMNS = ("overall", "mouth", "eyes", "gaze_x", "yaw", "pitch", "roll")
RANK = 48


def trial(
    folder: Path,
    backbone: str,
    data: dict[str, Any],
    *,
    steps: int,
    batch: int,
    count: int,
    frames: int,
    threads: int | None,
    console: Console,
    **changes: Any,
) -> dict[str, Any]:
    """Train a LoRA in `folder/lora` (it resumes) and measure it on `count` held-out pairs of `frames` frames.

    Args:
        data: the configuration's `data`.
        changes: fields of the configuration that differ from the others', such as rank=4.

    Returns:
        The entry of bench.json, of the model's own pixels: the source's detail would hide what the LoRA lacks.
    """
    config = {
        "backbone": backbone,
        "output": str(folder / "lora"),
        "data": data,
        "rank": RANK,
        "steps": steps,
        "batch": batch,
        "lr": 2e-3,
        "warmup": min(40, steps // 5),
        "caption_dropout": 0.5,
        "sampling_steps": 2,
        "samples": 0,
        "validate_every": steps,
        "threads": threads,
        **changes,
    }
    adapter = train(parse_config(config), console=console)
    measured = run_procedural(
        count, folder / "bench", backbone=backbone, lora=str(adapter), frames=frames, methods=("model",)
    )
    return measured["methods"]["model"]


def table(results: Mapping[str, dict[str, Any]], told: Mapping[str, Mapping[str, object]] | None = None) -> str:
    """Results as Markdown, a row each; `told`: further columns before them, by row and heading."""
    told = told or {}
    extra = list(next(iter(told.values()), {}))
    headings = ["", *extra, "PSNR", *COLUMNS, "blink F1"]
    lines = [f"| {' | '.join(headings)} |", "|---" * len(headings) + "|"]
    for name, result in results.items():
        cells = [name, *(str(told[name][heading]) for heading in extra)]
        cells.append(_cell(result["psnr"], result["psnr_ci"]))
        cells += [_cell(result["sync"][column], result["sync_ci"][column]) for column in COLUMNS]
        cells.append(_cell(result["blink_f1"], None))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _cell(value: float | None, interval: list[float] | None) -> str:
    if value is None:
        return "-"
    return f"{value:.2f}" + (f" [{interval[0]:.2f}, {interval[1]:.2f}]" if interval else "")
