"""What each part of the method is worth: the shipped nano with parts taken away, and small LoRAs trained without them.

    python recipes/nano/ablations.py --pool runs/nano/pool --output runs/ablations

Taken away: the network, of which the edited frame carried onto the source is left; the source's and the edited frame's
detail; without it, then, denoising steps, the LoRA, the reference, its own attention. Trained alike but for one setting
(briefly, so only their differences tell): rank 4, 16 and 64; joint attention. Run the same line again to resume. Writes
`OUTPUT/ablations.json`, `OUTPUT/shipped.md` and `OUTPUT/trained.md`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from torch import Tensor
from trial import table, trial

from synclora.atomic import write_json, write_text
from synclora.backbones.base import Attention
from synclora.bench.procedural import BenchPair
from synclora.bench.suite import run_procedural
from synclora.editing.carry import Carrier
from synclora.editing.editor import Editor

STEPS = (1, 2, 4, 8, 16)
TRAINED: dict[str, dict[str, Any]] = {
    "rank 4": {"rank": 4},
    "rank 16": {"rank": 16},
    "rank 64": {"rank": 64},
    "rank 64, joint attention": {"rank": 64, "attention": "joint"},
}


def shipped(backbone: str, count: int, out: Path) -> dict[str, Any]:
    """The shipped adapter with parts taken away, on `count` held-out pairs."""
    whole, blind, base = Editor(backbone), Editor(backbone), Editor(backbone, None)
    blind.adapter = None  # its LoRA stays in the network; the source is no longer shown
    frames = whole.backbone.geometry.frames

    def using(
        editor: Editor, steps: int | None = None, attention: Attention | None = None, detail: str = "model"
    ) -> Callable[..., Tensor]:
        def method(pair: BenchPair) -> Tensor:
            return editor.edit(pair.source, pair.truth[0], steps=steps, attention=attention, detail=detail).frames

        return method

    def carried(pair: BenchPair) -> Tensor:
        return Carrier({0: pair.truth[0]}).show(pair.source.frames, 0, pair.source.frames)

    methods = {
        "as shipped": using(whole, detail="source"),
        "no network: the edited frame carried onto the source": carried,
        "every pixel the model's": using(whole),
        **{f"{steps} steps": using(whole, steps) for steps in STEPS},
        "joint attention, trained with self": using(whole, attention="joint"),
        "reference off": using(blind),
        "LoRA off": using(base),
    }
    size = whole.backbone.geometry.width
    return run_procedural(count, out, size=size, frames=frames, methods=methods)["methods"]


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure nano without its parts.")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--pool", type=Path, required=True, help="folder of rendered clips; filled as needed")
    parser.add_argument("--backbone", default="nano")
    parser.add_argument("--motions", type=int, default=512)
    parser.add_argument("--steps", type=int, default=200, help="of the training of each small LoRA")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--frames", type=int, default=17, help="of training clips and of their benchmark, 8k + 1")
    parser.add_argument("--count", type=int, default=24, help="held-out pairs")
    parser.add_argument("--threads", type=int)
    arguments = parser.parse_args()
    out, console = arguments.output, Console(stderr=True)

    without = shipped(arguments.backbone, arguments.count, out / "shipped")
    write_text(out / "shipped.md", table(without))
    drawn = {"motions": arguments.motions, "looks": 3, "pool": str(arguments.pool)}
    data = {"procedural": drawn, "frames": arguments.frames, "cache": str(out / "cache")}
    trained = {
        name: trial(
            out / name.replace(", ", "_").replace(" ", "_"),
            arguments.backbone,
            data,
            steps=arguments.steps,
            batch=arguments.batch,
            count=arguments.count,
            frames=arguments.frames,
            threads=arguments.threads,
            console=console,
            **changes,
        )
        for name, changes in TRAINED.items()
    }
    write_text(out / "trained.md", table(trained))
    write_json(out / "ablations.json", {"shipped": without, "trained": trained})
    print((out / "shipped.md").read_text(encoding="utf-8"))
    print((out / "trained.md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
