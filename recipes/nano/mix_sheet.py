"""What nano is trained on, at a glance: a contact sheet of each kind of motion.

    python recipes/nano/mix_sheet.py mix.png --each 4

From left to right: portraits as drawn, portraits as filmed, pictures that are warped, every eighth frame of each. Two
rows are a motion, one a look. The motions are validation's, so the sheet shows nothing that is trained on. Prints how
many frames a second of processor time each kind takes.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from synclora.atomic import atomic_path
from synclora.training.config import VALIDATION_SEED_START
from synclora.training.mix import KINDS, draw_looks
from synclora.training.pool import sample_looks

FRAMES, FPS, SIZE, LOOKS, EVERY, GAP = 33, 25.0, 128, 2, 8, 12


def rows_of(clips: Tensor) -> Tensor:
    """Looks [n, F, H, W, 3] as n rows of every eighth frame: [n * H, columns * W, 3]."""
    shown = clips[:, ::EVERY]
    return shown.permute(0, 2, 1, 3, 4).reshape(shown.shape[0] * shown.shape[2], -1, 3)


def main() -> None:
    parser = argparse.ArgumentParser(description="Draw a contact sheet of the kinds of training motions.")
    parser.add_argument("sheet", type=Path, help="PNG to write")
    parser.add_argument("--each", type=int, default=4, help="motions of each kind")
    parser.add_argument("--seed", type=int, default=VALIDATION_SEED_START)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    columns = []
    for kind in KINDS:
        started, rows = time.process_time(), []
        for seed in range(arguments.seed, arguments.seed + arguments.each):
            rows.append(rows_of(draw_looks(kind, seed, sample_looks(seed, LOOKS), FRAMES, FPS, SIZE)[0]))
        spent = time.process_time() - started
        columns += [torch.cat(rows), torch.full((len(rows) * LOOKS * SIZE, GAP, 3), 255, dtype=torch.uint8)]
        print(f"{kind}: {arguments.each * LOOKS * FRAMES / spent:.0f} frames a second on one core")
    with atomic_path(arguments.sheet) as path:
        Image.fromarray(torch.cat(columns[:-1], 1).numpy()).save(path, format="PNG")


if __name__ == "__main__":
    main()
