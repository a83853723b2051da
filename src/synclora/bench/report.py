"""A benchmark's result to look at: a table in Markdown, and frames side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from synclora.atomic import atomic_path
from synclora.bench.baselines import BenchPair

COLUMNS = ("overall", "mouth", "eyes", "gaze_x", "yaw", "pitch", "roll")
STRIP_FRAMES = 5
LABEL_WIDTH, LABEL_HEIGHT, GAP = 96, 14, 10  # px


def to_markdown(table: Mapping[str, Any]) -> str:
    """The methods as rows: distances to the truth, synchrony (mean and 95 % interval) and time."""
    head = ["method", "PSNR dB", "SSIM", *(f"{name} r" if name != "overall" else "sync" for name in COLUMNS)]
    head += ["blink F1", "lag 0", "s/clip"]
    lines = [
        f"Procedural benchmark: {table['count']} held-out pairs from seed {table['seed']}, {table['size']} px, "
        f"{table['frames']} frames at {table['fps']} fps; torch {table['machine']['torch']}, "
        f"{table['machine']['accelerator'] or str(table['machine']['threads']) + ' CPU threads'}.",
        "",
        "| " + " | ".join(head) + " |",
        "|" + "---|" * len(head),
    ]
    for name, row in table["methods"].items():
        ratio = "exact" if row["psnr"] is None else _cell(row["psnr"], row["psnr_ci"], 2)
        sync = [_cell(row["sync"][column], row["sync_ci"][column], 2) for column in COLUMNS]
        share = "-" if row["lag0_share"] is None else f"{100 * row['lag0_share']:.0f} %"
        cells = [name, ratio, _cell(row["ssim"], None, 3), *sync, _cell(row["blink_f1"], None, 2), share]
        lines.append("| " + " | ".join([*cells, _cell(row["seconds_per_clip"], None, 2)]) + " |")
    lines += [
        "",
        "PSNR and SSIM are against the true edited clip, without the given frame 0. sync is the overall score in "
        "[0, 1]; r is Pearson's correlation with the source at lag 0, measured on pixels, over the clips whose source "
        "moves in that channel. lag 0: part of the judged channels that fit best within half a frame. Brackets: 95 % "
        "bootstrap intervals.",
        "",
    ]
    return "\n".join(lines)


def save_strip(path: Path, pairs: Sequence[BenchPair], edited: Mapping[str, Sequence[Tensor]]) -> None:
    """Write a picture: for each pair the source, the truth and every method's clip, five frames each, as PNG."""
    from PIL import Image, ImageDraw

    count, height, width, _ = pairs[0].truth.shape
    times = np.linspace(0, count - 1, min(STRIP_FRAMES, count)).round().astype(int)
    methods = [name for name in edited if name not in ("truth", "late_truth")]
    rows = 2 + len(methods)
    block = LABEL_HEIGHT + rows * height + GAP
    sheet = Image.new("RGB", (LABEL_WIDTH + len(times) * width, len(pairs) * block), "white")
    draw = ImageDraw.Draw(sheet)
    for number, pair in enumerate(pairs):
        top = number * block
        draw.text((2, top), f"seed {pair.seed}, edit: {pair.kind}; frames {', '.join(map(str, times))}", fill="black")
        clips = {"source": pair.source.frames, "truth": pair.truth, **{name: edited[name][number] for name in methods}}
        for row, (label, clip) in enumerate(clips.items()):
            y = top + LABEL_HEIGHT + row * height
            draw.text((2, y + height // 2), label, fill="black")
            strip = np.concatenate([clip[int(time)].numpy() for time in times], axis=1)
            sheet.paste(Image.fromarray(strip), (LABEL_WIDTH, y))
    with atomic_path(path) as temporary:
        sheet.save(temporary)


def _cell(value: float | None, interval: Sequence[float] | None, digits: int) -> str:
    if value is None:
        return "-"
    text = f"{value:.{digits}f}"
    return f"{text} [{interval[0]:.{digits}f}, {interval[1]:.{digits}f}]" if interval else text
