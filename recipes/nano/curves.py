"""Draw the losses of training runs, one after the other, as the training card shows them.

    python recipes/nano/curves.py --output recipes/nano/curves.png runs/nano/sync_lora_9 runs/nano/sync_lora_17

Each folder is a run of `synclora train`; its `metrics.jsonl` is read. Dots are steps, lines their running mean, rings
the loss on held-out clips.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import matplotlib.pyplot as plt

SMOOTH = 10  # values of the running mean


def read(run: Path) -> tuple[list[tuple[int, float]], list[tuple[int, float]]]:
    """(step, loss) of training and of validation."""
    train, held_out = [], []
    for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        for name, values in (("train/loss", train), ("validation/loss", held_out)):
            if name in record:
                values.append((record["step"], record[name]))
    return train, held_out


def draw(runs: list[Path], output: Path) -> None:
    figure, axes = plt.subplots(figsize=(10, 3.4), layout="constrained")
    begin = 0
    for number, run in enumerate(runs):
        train, held_out = read(run)
        colour = f"C{number}"
        steps, losses = [begin + step for step, _ in train], [loss for _, loss in train]
        smooth = [
            sum(losses[max(0, i - SMOOTH + 1) : i + 1]) / (i - max(0, i - SMOOTH + 1) + 1) for i in range(len(losses))
        ]
        axes.plot(steps, losses, ".", color=colour, alpha=0.25, markersize=4)
        axes.plot(steps, smooth, color=colour, label=run.name)
        axes.plot([begin + s for s, _ in held_out], [v for _, v in held_out], "o", color=colour, markerfacecolor="none")
        begin = max([*steps, begin])
        axes.axvline(begin, color="0.85", linewidth=1, zorder=0)
    axes.set(xlabel="step", ylabel="loss of the velocity", xlim=(0, begin))
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper center", frameon=False, ncols=len(runs), fontsize=8, columnspacing=1.2)
    figure.savefig(output, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description="Draw the losses of training runs, one after the other.")
    parser.add_argument("runs", type=Path, nargs="+", help="output folders of `synclora train`")
    parser.add_argument("--output", type=Path, required=True, help="picture to write")
    arguments = parser.parse_args()
    draw(arguments.runs, arguments.output)


if __name__ == "__main__":
    main()
