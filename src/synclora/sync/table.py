"""A sync report on the terminal: the score, what is wrong, and a row a channel."""

from __future__ import annotations

from typing import TYPE_CHECKING

from synclora.sync.findings import LATE, blink_words, is_late
from synclora.sync.lag import MIN_R
from synclora.sync.score import BlinkScore, ChannelScore

if TYPE_CHECKING:
    from rich.console import Console

    from synclora.sync.run import SyncResult

STYLES = {"bad": "red", "warn": "yellow", "good": "green"}
SIGNS = {"bad": "✗", "warn": "!", "good": "✓"}


def print_report(result: SyncResult, console: Console | None = None) -> None:
    """Show a result on stdout, or on the console given."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = console or Console()
    report = result.report
    overall = "not judged" if report.overall is None else f"{report.overall:.2f}"
    console.print(Text.assemble(("synchrony ", "bold"), (overall, "bold"), ("" if report.overall is None else " of 1")))
    console.print(Text(f"{result.edited} against {result.source}: {report.frames} frames at {report.fps} fps", "dim"))
    for finding in result.findings:
        tone = STYLES[finding.severity]
        console.print(Text.assemble((f"{SIGNS[finding.severity]} ", tone), finding.text))
    for notice in result.notices:
        console.print(Text(f"note: {notice}", "dim"))
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("channel", no_wrap=True)
    for head in ("r", "lag", "amplitude"):
        table.add_column(head, justify="right", no_wrap=True)
    table.add_column("")
    for name, score in report.channels.items():
        table.add_row(name, *(Text(cell, style) for cell, style in _cells(score)), style="" if score.judged else "dim")
    console.print()
    console.print(table)
    console.print(f"\n{_blinks(report.blinks)}", highlight=False)


def _cells(score: ChannelScore) -> list[tuple[str, str]]:
    """(text, style) of r, lag, amplitude and remark."""
    if not score.judged:
        return [("-", ""), ("-", ""), ("-", ""), (f"not judged: {score.why}", "")]
    amplitude = _number(score.amplitude)
    if score.lag is None:
        bad = bool(score.why) or score.r_best is None or score.r_best < MIN_R
        return [
            (_number(score.r), ""),
            ("-", ""),
            (amplitude, ""),
            (score.why or score.lag_why, "red" if bad else "dim"),
        ]
    tone = "red" if is_late(score) else "green" if abs(score.lag) < LATE else "dim"
    lag = f"{score.lag:+.1f}".replace("-0.0", "+0.0")
    return [(_number(score.r), ""), (lag, tone), (amplitude, ""), ("no clear lag" if tone == "dim" else "", "dim")]


def _blinks(blinks: BlinkScore) -> str:
    scores = (("precision", blinks.precision), ("recall", blinks.recall), ("F1", blinks.f1))
    return "; ".join([blink_words(blinks), ", ".join(f"{n} {v:.2f}" for n, v in scores if v is not None)]).strip("; ")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
