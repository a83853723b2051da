"""A benchmark's result to read: tables in Markdown, and frames side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from synclora.atomic import atomic_path
from synclora.bench.baselines import BenchPair

REFERENCES = ("truth", "late_truth")  # not rivals
STRIP_FRAMES = 5
LABEL_WIDTH, LABEL_HEIGHT, GAP = 110, 14, 10  # px

NOTES = (
    "PSNR, SSIM, gradient error (grey levels) and flicker (grey levels beyond the truth's) are against the true edited "
    "clip, without the given frame 0. last/first: the last frame's error over the first second's; end/start: the last "
    "second's over the first's (quarters where shorter). sync is the overall score in [0, 1]; r is Pearson's "
    "correlation with the source at lag 0, measured on pixels, over the clips whose source moves in that channel. lag "
    "0: part of the clips that fit best within half a frame. Brackets: 95 % bootstrap intervals over clips."
)


@dataclass(frozen=True)
class Column:
    """A column of the tables: its title, where its number is in a method's summary, digits, whether more is better."""

    title: str
    key: str
    digits: int
    more: bool = True
    percent: bool = False

    def value(self, row: Mapping[str, Any]) -> float | None:
        """The number in a method's summary; None where nothing was judged."""
        place, _, name = self.key.partition(".")
        return row[place][name] if name else row[place]

    def interval(self, row: Mapping[str, Any]) -> Sequence[float] | None:
        """Its bootstrap interval, where there is one."""
        place, _, name = self.key.partition(".")
        found = row.get(f"{place}_ci")
        return found[name] if name and found else found

    def text(self, value: float | None) -> str:
        """The number as it is shown."""
        if value is None:
            return "exact" if self.key == "psnr" else "-"
        return f"{100 * value:.0f} %" if self.percent else f"{value:.{self.digits}f}"


COLUMNS = (
    Column("PSNR dB", "psnr", 2),
    Column("SSIM", "ssim", 3),
    Column("gradient", "gradient_error", 2, more=False),
    Column("sync", "sync.overall", 2),
    *(Column(f"{name} r", f"sync.{name}", 2) for name in ("mouth", "eyes", "gaze_x", "yaw", "pitch", "roll")),
    Column("blink F1", "blink_f1", 2),
    Column("lag 0", "lag0_clips", 0, percent=True),
    Column("flicker", "flicker", 2, more=False),
    Column("last/first", "retention", 2, more=False),
    Column("end/start", "end_to_start", 2, more=False),
    Column("identity", "identity", 3),
    Column("s/clip", "seconds_per_clip", 2, more=False),
)


def columns(table: Mapping[str, Any]) -> list[Column]:
    """The columns to show: all but identity where no model measured it."""
    rows = table["methods"].values()
    return [
        column for column in COLUMNS if column.key != "identity" or any(row["identity"] is not None for row in rows)
    ]


def headline(table: Mapping[str, Any]) -> str:
    """What was run, in one line."""
    sides = table["size"] if isinstance(table["size"], list) else [table["size"]] * 2
    rate = f" at {table['fps']} fps" if table["suite"] == "procedural" else ""
    what = "held-out rendered" if table["suite"] == "procedural" else "filmed"
    machine = table["machine"]["accelerator"] or f"{table['machine']['threads']} CPU threads"
    return (
        f"{table['suite'].capitalize()} benchmark: {table['count']} {what} pairs from seed {table['seed']}, "
        f"{sides[0]}x{sides[1]} px, {table['frames']} frames{rate}; torch {table['machine']['torch']}, {machine}."
    )


def to_markdown(table: Mapping[str, Any]) -> str:
    """The methods as rows: distances to the truth, synchrony (means and 95 % intervals) and time; then each kind of
    edit by itself."""
    shown = columns(table)
    lines = [headline(table), "", *_header(["method", *(column.title for column in shown)])]
    for name, row in table["methods"].items():
        cells = [_cell(column, row) for column in shown]
        lines.append("| " + " | ".join([name, *cells]) + " |")
    lines += ["", NOTES, "", "PSNR dB by kind of edit, and the sync score in brackets:", ""]
    kinds = list(next(iter(table["methods"].values()))["by_kind"])
    lines += _header(["method", *kinds])
    for name, row in table["methods"].items():
        lines.append("| " + " | ".join([name, *(kind_cell(row["by_kind"][kind]) for kind in kinds)]) + " |")
    if table.get("left_out"):
        lines += ["", "Left out:", "", *(f"- {reason}" for reason in table["left_out"])]
    return "\n".join([*lines, ""])


def kind_cell(values: Mapping[str, Any]) -> str:
    """PSNR and sync of one kind of edit."""
    ratio = "exact" if values["psnr"] is None else f"{values['psnr']:.2f}"
    return ratio if values["overall"] is None else f"{ratio} ({values['overall']:.2f})"


def save_strip(path: Path, pairs: Sequence[BenchPair], edited: Mapping[str, Sequence[Tensor]]) -> None:
    """Write a picture: for each pair the source, the truth and every method's clip, five frames each, as PNG."""
    from PIL import Image, ImageDraw

    count, height, width, _ = pairs[0].truth.shape
    times = np.linspace(0, count - 1, min(STRIP_FRAMES, count)).round().astype(int)
    methods = [name for name in edited if name not in REFERENCES]
    rows = 2 + len(methods)
    block = LABEL_HEIGHT + rows * height + GAP
    sheet = Image.new("RGB", (LABEL_WIDTH + len(times) * width, len(pairs) * block), "white")
    draw = ImageDraw.Draw(sheet)
    for number, pair in enumerate(pairs):
        top = number * block
        draw.text((2, top), f"{title(pair)}; frames {', '.join(map(str, times))}", fill="black")
        clips = {"source": pair.source.frames, "truth": pair.truth, **{name: edited[name][number] for name in methods}}
        for row, (label, clip) in enumerate(clips.items()):
            y = top + LABEL_HEIGHT + row * height
            draw.text((2, y + height // 2), label, fill="black")
            strip = np.concatenate([clip[int(time)].numpy() for time in times], axis=1)
            sheet.paste(Image.fromarray(strip), (LABEL_WIDTH, y))
    with atomic_path(path) as temporary:
        sheet.save(temporary)


def title(pair: BenchPair) -> str:
    """A pair by its edit and where it comes from."""
    return f"{pair.kind.replace('_', ' ')}, {pair.place or f'seed {pair.seed}'}"


def _header(titles: Sequence[str]) -> list[str]:
    return ["| " + " | ".join(titles) + " |", "|" + "---|" * len(titles)]


def _cell(column: Column, row: Mapping[str, Any]) -> str:
    value, interval = column.value(row), column.interval(row)
    text = column.text(value)
    if value is None or not interval or column.percent:
        return text
    return f"{text} [{column.text(interval[0])}, {column.text(interval[1])}]"
