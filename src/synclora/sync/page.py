"""A sync report as one HTML file to look at: both clips playing in step, every channel's curves, what is wrong where.

    synclora sync talk.mp4 edited.mp4 --html report.html

The file needs no network and no other file. All words are in the HTML; `page.js` draws the curves and drives the video.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
from numpy.typing import NDArray

from synclora import __version__
from synclora.atomic import write_text
from synclora.faces.signals import MotionSignals
from synclora.sync.findings import LATE, NAMES, Finding, blink_words, difference, is_late, lag_words, mark_blinks, runs
from synclora.sync.lag import MIN_R
from synclora.sync.preview import Preview
from synclora.sync.score import ChannelScore, SyncReport, counted_blinks

DEGREES = ("yaw", "pitch", "roll")
RING = 2 * np.pi * 24  # length of the score's circle in the page's units
PLACES = 8  # buttons for the places of one finding


def write_page(
    path: Path | str,
    names: tuple[str, str],
    report: SyncReport,
    found: Sequence[Finding],
    source: MotionSignals,
    edited: MotionSignals,
    preview: Preview,
) -> None:
    """Write the page; `names` are what the source and the edited clip are called on it.

    Raises:
        SyncloraError: the file cannot be written.
    """
    template = Template(_asset("page.html"))
    seconds = float(source.num_frames / source.fps)
    text = template.substitute(
        title=escape(f"{names[1]} against {names[0]}"),
        source=escape(names[0]),
        edited=escape(names[1]),
        facts=f"{report.frames} frames, {float(source.fps):g} fps, {seconds:.2f} s",
        score=_score(report),
        split=f"{100 * preview.split / preview.width:.3f}",
        aspect=f"{preview.width / preview.height:.4f}",
        width=preview.width,
        height=preview.height,
        last=report.frames - 1,
        sound='<label class="check"><input id="sound" type="checkbox" checked><span>sound</span></label>'
        if preview.sound
        else "",
        findings="\n".join(_finding(finding, source) for finding in found),
        panels="\n".join(_panel(name, score) for name, score in report.channels.items()),
        made=f"Made by synclora {escape(__version__)}.",
        data=_script_json(page_data(report, source, edited)),
        poster=b64encode(preview.poster).decode(),
        mp4=b64encode(preview.mp4).decode(),
        style=_asset("page.css"),
        script=_asset("page.js"),
    )
    write_text(path, text)


def page_data(report: SyncReport, source: MotionSignals, edited: MotionSignals) -> dict[str, Any]:
    """What the page draws: both clips' curves (null where unknown), their means where both are known and the whole
    frames that the edited one is late; blinks with what became of them; how far the clip is off at each frame; and the
    stretches in which either clip shows no face."""
    channels = {}
    for name, score in report.channels.items():
        ours, theirs = getattr(source, name), getattr(edited, name)
        both = np.isfinite(ours) & np.isfinite(theirs)
        channels[name] = {
            "judged": score.judged,
            "shift": round(score.lag or 0) if is_late(score) else 0,
            "degrees": name in DEGREES,
            "means": [round(float(c[both].mean()), 4) if both.any() else 0.0 for c in (ours, theirs)],
            "source": _values(ours),
            "edited": _values(theirs),
        }
    return {
        "fps": float(source.fps),
        "frames": report.frames,
        "channels": channels,
        "blinks": _blinks(source, edited),
        "off": [round(float(value), 3) for value in difference(report, source, edited)],
        "lost": runs(~(source.found & edited.found)),
    }


def _blinks(source: MotionSignals, edited: MotionSignals) -> dict[str, list[dict[str, Any]]]:
    """state: "" for a matched blink, "missing", "extra", or "moved +3" with the frames that the edited one is late. No
    blinks where either clip hides the eyes."""
    hidden = "eyes" in source.hidden | edited.hidden
    ours, theirs = ([], []) if hidden else counted_blinks(source, edited)
    marks = mark_blinks(ours, theirs)
    states = [["" for _ in ours], ["" for _ in theirs]]
    for i, j in marks.moved:
        states[0][i] = states[1][j] = f"moved {theirs[j].onset - ours[i].onset:+d}"
    for i in marks.missing:
        states[0][i] = "missing"
    for j in marks.extra:
        states[1][j] = "extra"
    return {
        side: [{"onset": int(b.onset), "length": int(b.length), "state": s} for b, s in zip(blinks, told, strict=True)]
        for side, blinks, told in zip(("source", "edited"), (ours, theirs), states, strict=True)
    }


def _values(curve: NDArray[np.float64]) -> list[float | None]:
    return [round(float(value), 4) if np.isfinite(value) else None for value in curve]


def _score(report: SyncReport) -> str:
    told = blink_words(report.blinks)
    if report.overall is None:
        return f'<div class="score"><div><b>–</b><span>{escape(report.why)}</span></div></div>'
    return (
        f'<div class="score"><svg viewBox="0 0 58 58" aria-hidden="true"><circle cx="29" cy="29" r="24"></circle>'
        f'<circle cx="29" cy="29" r="24" stroke-dasharray="{report.overall * RING:.2f} {RING:.2f}"></circle></svg>'
        f"<b>{report.overall:.2f}</b><span>synchrony, of 1<br>{told}</span></div>"
    )


def _finding(finding: Finding, source: MotionSignals) -> str:
    buttons = [
        f'<button type="button" data-first="{first}" data-last="{last}" data-channel="{finding.channel}" '
        f'aria-label="Show frame {first}">{float(first / source.fps):.1f} s</button>'
        for first, last in finding.frames[:PLACES]
    ]
    return f'        <li class="{finding.severity}"><p>{escape(finding.text)}</p>{"".join(buttons)}</li>'


def _panel(name: str, score: ChannelScore) -> str:
    kinds = ["panel", *(["eyes"] if name == "eyes" else []), *([] if score.judged else ["not"])]
    why = "" if score.judged else f"<p>{escape(score.why)}</p>"
    return (
        f'      <article class="{" ".join(kinds)}" data-channel="{name}"><div><h3>{NAMES[name].capitalize()}</h3>'
        f'{_told(score)}</div><div class="plot"><canvas aria-hidden="true"></canvas>{why}</div></article>'
    )


def _told(score: ChannelScore) -> str:
    if not score.judged:
        return "<p>not judged</p>"
    tone, title = "", f' title="{escape(score.lag_why)}"' if score.lag_why else ""
    if score.why:
        tone, words = "bad", score.why
    elif score.lag is None and (score.r_best is None or score.r_best < MIN_R):
        tone, words = "bad", "no lag fits"
    elif score.lag is None:
        words = "no clear lag"
    else:
        title = f' title="best fit at {score.lag:+.2f} frames"'
        if is_late(score):
            tone, words = "bad", lag_words(score.lag)
        elif abs(score.lag) < LATE:
            tone, words = "good", "on time"
        else:
            words = "no clear lag"
    numbers = f"r {_number(score.r)} · ×{_number(score.amplitude)}"
    return f'<p class="lag {tone}"{title}>{escape(words)}</p><p>{numbers}</p>'


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}".replace("-", "−")


def _script_json(value: Any) -> str:
    """JSON that no content can end the script element with."""
    return json.dumps(value, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def _asset(name: str) -> str:
    return files("synclora.sync").joinpath(name).read_text(encoding="utf-8").rstrip()
