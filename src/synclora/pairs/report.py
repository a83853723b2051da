"""One HTML file that shows what curation kept and dropped, and why.

    synclora pairs report out/pairs -o report.html

Counts, reasons, a histogram for each figure with its limits drawn in, and pairs to look at, playing side by side: the
best, the worst that were kept, the nearest misses and the clearest rejections. Self-contained; nothing is fetched.
"""

from __future__ import annotations

import base64
import io
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from html import escape
from importlib import resources
from pathlib import Path
from string import Template

import numpy as np
from numpy.typing import NDArray

from synclora.atomic import write_text
from synclora.errors import SyncloraError
from synclora.pairs.charts import histogram
from synclora.pairs.curate import GATE, UNREADABLE, judge_row
from synclora.pairs.store import PairRow, PairStore
from synclora.sync.appearance import Appearance
from synclora.sync.gate import (
    Thresholds,
    Verdict,
    common_lag,
    gaze_followed,
    head_motion,
    load_thresholds,
    parse_thresholds,
)
from synclora.sync.score import SyncReport

Progress = Callable[[str, int, int], None]

SHOWN = 8  # examples in a row
PER_KIND = 1  # clearest rejections of each kind of reason
MOST_KINDS = 12
PANEL = 120  # px, side of a clip in an example
MOST_FRAMES = 65  # of an example


@dataclass
class Figures:
    """One figure's values over the pairs in which it could be told, and whether each pair was kept."""

    values: list[float] = field(default_factory=list)
    kept: list[bool] = field(default_factory=list)


@dataclass(frozen=True)
class Entry:
    """A pair as the choice of examples sees it."""

    id: str
    verdict: Verdict

    @property
    def strain(self) -> float:
        return self.verdict.nearest.strain if self.verdict.nearest else 0.0


@dataclass
class Overview:
    """What the report tells of all pairs."""

    kinds: Counter[str] = field(default_factory=Counter)
    figures: dict[str, Figures] = field(default_factory=dict)
    entries: list[Entry] = field(default_factory=list)
    unmeasured: int = 0
    unjudged: int = 0

    @property
    def kept(self) -> int:
        return sum(entry.verdict.keep for entry in self.entries)


def write_report(store: PairStore, output: Path | str, progress: Progress | None = None) -> None:
    """Write the overview of a curated store.

    Raises:
        SyncloraError: no store, one that was not curated yet, or an output that cannot be written.
    """
    thresholds = parse_thresholds(store.read_bytes(GATE).decode(), GATE) if store.has(GATE) else load_thresholds()
    overview = survey(store, thresholds)
    if not overview.entries:
        raise SyncloraError(
            f"{store.url}: no pair here has a verdict yet. Run first: synclora pairs curate {store.url}"
        )
    chosen = choose(overview.entries)
    wanted = {entry.id for _, _, entries in chosen for entry in entries}
    rows = {row.id: row for row in store.iter_rows() if row.id in wanted}
    pictures: dict[str, str] = {}
    for row in rows.values():
        pictures[row.id] = _picture(store, row)
        if progress:
            progress("Drawing examples", len(pictures), len(rows))
    page = Template(resources.files("synclora.pairs").joinpath("report.html").read_text(encoding="utf-8"))
    write_text(output, page.substitute(_parts(store, overview, thresholds, chosen, rows, pictures)))


def survey(store: PairStore, thresholds: Thresholds) -> Overview:
    """Read every row once and collect what is shown of it."""
    overview = Overview()
    for row in store.iter_rows():
        if row.verdict == "unjudged":
            overview.unjudged += 1
            continue
        verdict = judge_row(row, thresholds)
        overview.entries.append(Entry(row.id, verdict))
        overview.kinds.update({reason.kind for reason in verdict.reasons})
        overview.unmeasured += row.sync is None
        for name, value in _figures(row, verdict):
            figures = overview.figures.setdefault(name, Figures())
            figures.values.append(value)
            figures.kept.append(verdict.keep)
    return overview


def choose(entries: Sequence[Entry]) -> list[tuple[str, str, list[Entry]]]:
    """The examples, as (heading, what they are, pairs); a pair is shown once at most."""
    shown: set[str] = set()

    def take(candidates: Sequence[Entry], most: int) -> list[Entry]:
        taken = [entry for entry in candidates if entry.id not in shown][:most]
        shown.update(entry.id for entry in taken)
        return taken

    kept = sorted((e for e in entries if e.verdict.keep), key=lambda e: (-e.verdict.score, e.id))
    measured = [e for e in entries if not e.verdict.keep and e.verdict.reasons[0].kind != UNREADABLE]
    measured.sort(key=lambda e: (e.strain, e.id))
    kinds = [kind for kind, _ in Counter(e.verdict.reasons[0].kind for e in measured).most_common(MOST_KINDS)]
    sections = [
        ("Best", "Kept, of the highest rank score.", take(kept, SHOWN)),
        ("Barely kept", "Kept, and nearest to a limit.", take(sorted(kept, key=lambda e: (-e.strain, e.id)), SHOWN)),
        ("Nearest misses", "Rejected by the least.", take(measured, SHOWN)),
    ]
    clearest = []
    for kind in kinds:
        clearest += take([e for e in reversed(measured) if e.verdict.reasons[0].kind == kind], PER_KIND)
    sections.append(
        ("Clearest rejections", "The furthest beyond each limit that is most often broken worst.", clearest)
    )
    return [section for section in sections if section[2]]


def strip(source: NDArray[np.uint8], target: NDArray[np.uint8], fps: Fraction) -> tuple[bytes, bytes]:
    """Two clips side by side: a looping WebP and its first picture.

    Args:
        source, target: uint8 [F, H, W, 3] of equal length; the sizes may differ.
    """
    from PIL import Image

    frames = [
        Image.fromarray(np.concatenate([_panel(a), _panel(b)], axis=1))
        for a, b in zip(source[:MOST_FRAMES], target[:MOST_FRAMES], strict=True)
    ]
    moving, still = io.BytesIO(), io.BytesIO()
    duration = max(10, round(1000 / float(fps)))
    frames[0].save(
        moving, "WEBP", save_all=True, append_images=frames[1:], duration=duration, loop=0, quality=50, method=3
    )
    frames[0].save(still, "WEBP", quality=60)
    return moving.getvalue(), still.getvalue()


def _panel(frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The middle square of a frame at the panel's size."""
    from PIL import Image

    height, width = frame.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = Image.fromarray(frame[top : top + side, left : left + side])
    return np.asarray(square.resize((PANEL, PANEL), Image.Resampling.LANCZOS))


def _picture(store: PairStore, row: PairRow) -> str:
    """The example's picture as HTML, empty where the clips cannot be shown."""
    from synclora.clip import read_clip

    try:
        with store.local(row.source) as source, store.local(row.target) as target:
            left, right = (read_clip(path, frames=MOST_FRAMES) for path in (source, target))
        count = min(left.num_frames, right.num_frames)
        moving, still = strip(left.frames[:count].numpy(), right.frames[:count].numpy(), left.fps)
    except SyncloraError:
        return ""
    moving_url, still_url = (f"data:image/webp;base64,{base64.b64encode(data).decode()}" for data in (moving, still))
    return (
        f'<picture><source media="(prefers-reduced-motion: reduce)" srcset="{still_url}">'
        f'<img src="{moving_url}" alt="source and target side by side" loading="lazy"></picture>'
    )


def _figures(row: PairRow, verdict: Verdict) -> Iterator[tuple[str, float]]:
    """The figures of a measured row by name."""
    if row.sync is None or row.appearance is None:
        return
    report = SyncReport.from_json(json.loads(row.sync))
    look = Appearance.from_json(json.loads(row.appearance))
    named = {
        "overall score": report.overall,
        "rank score": verdict.score,
        "common lag": common_lag(report),
        "head motion": head_motion(report),
        "gaze followed": gaze_followed(report),
        "flicker": look.flicker,
        "change of look": look.change,
    }
    for name, score in report.channels.items():
        if score.judged:
            named[f"{name} r"] = score.r
            named[f"{name} motion"] = score.amplitude
    yield from ((name, value) for name, value in named.items() if value is not None)


def _limits(name: str, thresholds: Thresholds) -> tuple[float | None, float | None]:
    """(least, most) of a figure by name."""
    t = thresholds
    plain = {
        "overall score": (t.overall, None),
        "common lag": (None if t.lag is None else -t.lag, t.lag),
        "head motion": t.head or (None, None),
        "gaze followed": (t.gaze, None),
        "flicker": (None, t.flicker),
        "change of look": (None, t.change),
    }
    if name in plain:
        return plain[name]
    channel, _, what = name.rpartition(" ")
    bounds = t.channels.get(channel)
    if bounds is None:
        return None, None
    return (bounds.r, None) if what == "r" else (bounds.amplitude or (None, None))


UNITS = {"common lag": "frames late", "head motion": "x source"}


def _histograms(overview: Overview, thresholds: Thresholds) -> str:
    """Those with a limit first, then the others."""
    cards = []
    order = sorted(overview.figures, key=lambda name: _limits(name, thresholds) == (None, None))
    for name in order:
        figures, limits = overview.figures[name], _limits(name, thresholds)
        if limits == (None, None) and name.endswith(" motion"):
            continue
        unit = UNITS.get(name) or ("x source" if name.endswith(" motion") else f"{len(figures.values)} pairs")
        drawing = histogram(np.array(figures.values), np.array(figures.kept), *limits)
        title = escape(name.replace("_", " "))
        cards.append(f'<div class="card"><h3>{title}<small>{escape(unit)}</small></h3>{drawing}</div>')
    return "\n".join(cards)


def _parts(
    store: PairStore,
    overview: Overview,
    thresholds: Thresholds,
    chosen: list[tuple[str, str, list[Entry]]],
    rows: dict[str, PairRow],
    pictures: dict[str, str],
) -> dict[str, str]:
    total, kept, unmeasured = len(overview.entries), overview.kept, overview.unmeasured
    rejected = total - kept - unmeasured
    parts = [(kept, "keep", "kept"), (rejected, "drop", "rejected"), (unmeasured, "none", "not measured")]
    present = [(count, style, what) for count, style, what in parts if count or what == "kept"]
    colours = {"keep": "var(--keep)", "drop": "var(--drop)", "none": "var(--faint)"}
    more = f"; {overview.unjudged} more have no verdict yet" if overview.unjudged else ""
    return {
        "title": f"Pairs of {escape(Path(store.url).name or store.url)}",
        "subtitle": f"{escape(store.url)}: {total} pairs judged{more}.",
        "share_label": escape(", ".join(f"{count} {what}" for count, _, what in present)),
        "share": "".join(f'<i class="{style}" style="flex:{count}"></i>' for count, style, _ in present if count),
        "counts": "".join(
            f'<span style="--dot:{colours[style]}"><b>{count}</b>{what} ({100 * count / total:.0f} %)</span>'
            for count, style, what in present
        ),
        "reasons": _reasons(overview.kinds),
        "histograms": _histograms(overview, thresholds),
        "examples": "\n".join(_section(*section, rows, pictures) for section in chosen),
        "gate": escape(thresholds.to_yaml()),
    }


def _reasons(kinds: Counter[str]) -> str:
    if not kinds:
        return ""
    most = max(kinds.values())
    bars = "".join(
        f'<div>{escape(kind)}</div><i style="width:{100 * count / most:.1f}%"></i><span>{count}</span>'
        for kind, count in kinds.most_common()
    )
    return (
        "<h2>Why pairs are rejected</h2><p>Pairs that break each limit; one pair may break several.</p>"
        f'<div class="card reasons">{bars}</div>'
    )


def _section(heading: str, what: str, entries: list[Entry], rows: dict[str, PairRow], pictures: dict[str, str]) -> str:
    cards = "\n".join(_example(entry, rows[entry.id], pictures[entry.id]) for entry in entries)
    return f'<h2>{escape(heading)}</h2><p>{escape(what)} Source on the left.</p>\n<div class="pairs">{cards}</div>'


def _example(entry: Entry, row: PairRow, picture: str) -> str:
    verdict = entry.verdict
    tag = '<span class="tag k">kept</span>' if verdict.keep else '<span class="tag d">rejected</span>'
    if verdict.keep:
        nearest = verdict.nearest
        told = f"nearest limit: {nearest.text}" if nearest else "no limits"
        body = f"<ul><li>{escape(told)}</li></ul>"
    else:
        body = "<ul>" + "".join(f"<li>{escape(reason.text)}</li>" for reason in verdict.reasons) + "</ul>"
    edits = escape(", ".join(kind.replace("_", " ") for kind in row.edit_kinds))
    return (
        f'<figure class="card" style="padding:0">{picture}<figcaption>{tag} rank score {verdict.score:.2f}'
        f'{body}<div class="id">{escape(row.id)}{" · " + edits if edits else ""}</div></figcaption></figure>'
    )
