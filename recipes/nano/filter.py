"""Does curation help? Three LoRAs trained alike on a raw pool, on its curated pairs, and on as many random pairs.

    python recipes/nano/filter.py --output runs/filter

The pool is drawn with `pairs generate --defects`: every second pair is clean, the others each have a known fault
(late, damped, missing blinks, another person half-way ...). Curation does not see the truth. Each LoRA is then measured
on held-out pairs, people and edits, as `synclora bench` does. Run the same line again to resume. Writes
`OUTPUT/filter.json` and `OUTPUT/filter.md`.
"""

from __future__ import annotations

import argparse
import os
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from synclora.atomic import write_json, write_text
from synclora.bench.suite import run_procedural
from synclora.pairs.curate import curate
from synclora.pairs.generate import generate_store
from synclora.pairs.jobs import executor as make_executor
from synclora.pairs.store import PairRow, PairStore
from synclora.sync.gate import load_thresholds
from synclora.training.config import parse_config
from synclora.training.trainer import train

COLUMNS = ("overall", "mouth", "eyes", "gaze_x", "yaw", "pitch", "roll")


def subset(pool: PairStore, rows: list[PairRow], folder: Path) -> PairStore:
    """A store of some of the pool's pairs, unjudged, sharing its media files."""
    store = PairStore(folder)
    if not store.exists():
        for row in rows:
            for relative in (row.source, row.target):
                link = folder / relative
                link.parent.mkdir(parents=True, exist_ok=True)
                if not link.exists():
                    os.link(pool.root / relative, link)
        store.append([replace(row, verdict="unjudged", reason="") for row in rows])
    return store


def table(results: dict[str, dict[str, Any]], pairs: dict[str, int], clean: dict[str, float]) -> str:
    """The results as Markdown."""
    lines = [
        "| trained on | pairs | of them clean | PSNR | " + " | ".join(COLUMNS) + " | blink F1 |",
        "|---|" + "---|" * (len(COLUMNS) + 4),
    ]
    for name, result in results.items():
        cells = []
        for column in COLUMNS:
            value, interval = result["sync"][column], result["sync_ci"][column]
            cells.append("-" if value is None else f"{value:.2f} [{interval[0]:.2f}, {interval[1]:.2f}]")
        low, high = result["psnr_ci"]
        psnr = f"{result['psnr']:.2f} [{low:.2f}, {high:.2f}]"
        blink = "-" if result["blink_f1"] is None else f"{result['blink_f1']:.2f}"
        lines.append(f"| {name} | {pairs[name]} | {clean[name]:.0%} | {psnr} | {' | '.join(cells)} | {blink} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare LoRAs trained with and without curation.")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--backbone", default="nano")
    parser.add_argument("--pairs", type=int, default=400, help="pairs of the raw pool")
    parser.add_argument("--seed", type=int, default=700_000, help="of the pool's first pair")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--frames", type=int, default=17, help="of training clips and of the benchmark, 8k + 1")
    parser.add_argument("--count", type=int, default=48, help="held-out pairs")
    parser.add_argument("--threads", type=int)
    arguments = parser.parse_args()
    out, console = arguments.output, Console(stderr=True)

    generate_store(out / "pool", arguments.pairs, arguments.seed, size=128, frames=33, defects=True)
    pool = PairStore(out / "pool")
    for line in curate(pool, load_thresholds(None), make_executor("local", 1, None)).summary():
        console.print(line)
    rows = pool.rows()
    kept = [row for row in rows if row.verdict == "keep"]
    chosen = {"raw pool": rows, "curated": kept, "random": random.Random(0).sample(rows, len(kept))}

    results: dict[str, dict[str, Any]] = {}
    for name, part in chosen.items():
        folder = out / name.replace(" ", "_")
        store = subset(pool, part, folder / "pairs")
        config = {
            "backbone": arguments.backbone,
            "output": str(folder / "lora"),
            "data": {"pairs": str(store.root), "frames": arguments.frames, "cache": str(out / "cache")},
            "rank": 48,
            "steps": arguments.steps,
            "batch": arguments.batch,
            "lr": 2e-3,
            "warmup": 40,
            "caption_dropout": 0.5,
            "samples": 0,
            "validate_every": arguments.steps,
            "threads": arguments.threads,
        }
        adapter = train(parse_config(config), console=console)
        measured = run_procedural(
            arguments.count,
            folder / "bench",
            backbone=arguments.backbone,
            lora=str(adapter),
            frames=arguments.frames,
            methods=("synclora",),
        )
        results[name] = measured["methods"]["synclora"]
    pairs = {name: len(part) for name, part in chosen.items()}
    clean = {name: sum('"none"' in (row.defect or "") for row in part) / len(part) for name, part in chosen.items()}
    write_json(out / "filter.json", {"pairs": pairs, "clean": clean, "methods": results})
    write_text(out / "filter.md", table(results, pairs, clean))
    print((out / "filter.md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
