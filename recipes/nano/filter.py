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
from trial import table, trial

from synclora.atomic import write_json, write_text
from synclora.pairs.curate import curate
from synclora.pairs.generate import generate_store
from synclora.pairs.jobs import executor as make_executor
from synclora.pairs.store import PairRow, PairStore
from synclora.sync.gate import load_thresholds


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
        results[name] = trial(
            folder,
            arguments.backbone,
            {"pairs": str(store.root), "frames": arguments.frames, "cache": str(out / "cache")},
            steps=arguments.steps,
            batch=arguments.batch,
            count=arguments.count,
            frames=arguments.frames,
            threads=arguments.threads,
            console=console,
        )
    pairs = {name: len(part) for name, part in chosen.items()}
    clean = {name: sum('"none"' in (row.defect or "") for row in part) / len(part) for name, part in chosen.items()}
    told = {name: {"pairs": pairs[name], "of them clean": f"{clean[name]:.0%}"} for name in chosen}
    write_json(out / "filter.json", {"pairs": pairs, "clean": clean, "methods": results})
    write_text(out / "filter.md", table(results, told))
    print((out / "filter.md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
