"""A benchmark as one HTML file to look at: the methods' clips side by side, playing in step, and the tables.

The clips of a pair are the tiles of one video, which the page cuts up again: so they cannot fall out of step, whatever
browser plays them. The file needs no network and no other file.
"""

from __future__ import annotations

import json
import math
from base64 import b64encode
from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from synclora import __version__
from synclora.atomic import write_text
from synclora.bench.baselines import BenchPair
from synclora.bench.report import NOTES, REFERENCES, Column, columns, headline, kind_cell, title
from synclora.media.writer import write_frames

CRF = 17
MOST_BYTES = 24 * 2**20  # of video in a page; further pairs are left out of it


def write_page(
    path: Path | str, table: Mapping[str, Any], pairs: Sequence[BenchPair], edited: Mapping[str, Sequence[Tensor]]
) -> None:
    """Write the page of a benchmark: its table as bench.json has it, the pairs to show and each method's clips of them.

    Raises:
        SyncloraError: the file cannot be written.
    """
    panels = ["source", "truth", *(name for name in edited if name != "truth")]
    width, height = pairs[0].source.width, pairs[0].source.height
    across = max(2, math.ceil(math.sqrt(len(panels) * height / width)))
    shown, clips, total = [], [], 0
    for index, pair in enumerate(pairs):
        tiles = [pair.source.frames, pair.truth, *(edited[name][index] for name in panels[2:])]
        data = _mp4(_tiled(tiles, across), pair)
        total += len(data)
        if clips and total > MOST_BYTES:
            break
        clips.append(f'<script class="mp4" type="text/plain">{b64encode(data).decode()}</script>')
        rows = table["clips"][index]["methods"]
        shown.append(
            {
                "title": title(pair),
                "fps": float(pair.source.fps),
                "frames": len(pair.truth),
                "told": [_told(rows.get(name)) for name in panels],
            }
        )
    data = {
        "panels": [
            {"name": name, "x": (i % across) * width, "y": (i // across) * height} for i, name in enumerate(panels)
        ],
        "width": width,
        "height": height,
        "pairs": shown,
    }
    text = Template(_asset("page.html")).substitute(
        title=f"Benchmark {escape(table['suite'])}",
        headline=escape(headline(table)),
        options="\n".join(f'<option value="{i}">{escape(pair["title"])}</option>' for i, pair in enumerate(shown)),
        panels="\n".join(_figure(name) for name in panels),
        last=max(pair["frames"] for pair in shown) - 1,
        table=_methods_table(table),
        kinds=_kinds_table(table),
        notes=escape(NOTES),
        left_out="".join(f"<li>{escape(reason)}</li>" for reason in table.get("left_out", ())),
        made=f"Made by synclora {escape(__version__)}.",
        data=json.dumps(data, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c"),
        clips="\n".join(clips),
        style=_asset("page.css"),
        script=_asset("page.js"),
    )
    write_text(path, text)


def _tiled(clips: Sequence[Tensor], across: int) -> Tensor:
    """Clips uint8 [F, H, W, 3] of one shape -> one clip with them as tiles, row by row; its sides are even."""
    frames, height, width, _ = clips[0].shape
    down = math.ceil(len(clips) / across)
    canvas = torch.zeros(frames, down * height + down * height % 2, across * width + across * width % 2, 3).to(
        torch.uint8
    )
    for index, clip in enumerate(clips):
        top, left = (index // across) * height, (index % across) * width
        canvas[:, top : top + height, left : left + width] = clip
    return canvas


def _mp4(frames: Tensor, pair: BenchPair) -> bytes:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "tiles.mp4"
        write_frames(path, [frames], pair.source.fps, crf=CRF, audio=False)
        return path.read_bytes()


def _told(row: Mapping[str, Any] | None) -> str:
    """What a clip reached, in a few words."""
    if row is None:
        return ""
    ratio = "exact" if row["psnr"] is None else f"{row['psnr']:.1f} dB"
    overall = row["sync"]["overall"]
    return ratio if overall is None else f"{ratio} · sync {overall:.2f}"


def _figure(name: str) -> str:
    kind = "reference" if name in ("source", *REFERENCES) else "method"
    return (
        f'<figure class="{kind}"><canvas></canvas><figcaption><b>{escape(name.replace("_", " "))}</b>'
        "<span></span></figcaption></figure>"
    )


def _methods_table(table: Mapping[str, Any]) -> str:
    shown = columns(table)
    rivals = [row for name, row in table["methods"].items() if name not in REFERENCES]
    lines = ["<thead><tr><th>method</th>", *(f"<th>{escape(column.title)}</th>" for column in shown), "</tr></thead>"]
    for name, row in table["methods"].items():
        kind = ' class="reference"' if name in REFERENCES else ""
        cells = "".join(
            _cell(column, row, name not in REFERENCES and _is_best(column, row, rivals)) for column in shown
        )
        lines.append(f"<tr{kind}><th>{escape(name.replace('_', ' '))}</th>{cells}</tr>")
    return "\n".join(lines)


def _kinds_table(table: Mapping[str, Any]) -> str:
    kinds = list(next(iter(table["methods"].values()))["by_kind"])
    heads = "".join(f"<th>{escape(kind.replace('_', ' '))}</th>" for kind in kinds)
    lines = [f"<thead><tr><th>method</th>{heads}</tr></thead>"]
    for name, row in table["methods"].items():
        kind = ' class="reference"' if name in REFERENCES else ""
        cells = "".join(f"<td>{escape(kind_cell(row['by_kind'][kind]))}</td>" for kind in kinds)
        lines.append(f"<tr{kind}><th>{escape(name.replace('_', ' '))}</th>{cells}</tr>")
    return "\n".join(lines)


def _cell(column: Column, row: Mapping[str, Any], best: bool) -> str:
    value, interval = column.value(row), column.interval(row)
    spread = "" if value is None or not interval else f"<i>{column.text(interval[0])}–{column.text(interval[1])}</i>"
    return f"<td{' class=best' if best else ''}>{escape(column.text(value))}{spread}</td>"


def _is_best(column: Column, row: Mapping[str, Any], rivals: Sequence[Mapping[str, Any]]) -> bool:
    values = [value for rival in rivals if (value := column.value(rival)) is not None]
    own = column.value(row)
    return own is not None and len(rivals) > 1 and own == (max(values) if column.more else min(values))


def _asset(name: str) -> str:
    return files("synclora.bench").joinpath(name).read_text(encoding="utf-8").rstrip()
