"""The diagnosis as tables on a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from synclora.doctor.machine import OPTIONAL

if TYPE_CHECKING:
    from synclora.doctor.report import Diagnosis, Preset


def print_diagnosis(diagnosis: Diagnosis, console: Console | None = None) -> None:
    """Print machine, checks, presets and problems."""
    console = console or Console()
    console.print(_machine(diagnosis))
    console.print(_presets(diagnosis.presets))
    for problem in diagnosis.problems:
        mark = "[red]problem[/]" if problem.fatal else "[yellow]note[/]"
        console.print(mark, Text(f"{problem.text}\n    -> {problem.way_out}"), soft_wrap=True)
    works = "nano can edit here" if diagnosis.exit_code == 0 else "nano cannot edit here"
    console.print(Text(works, style="green" if diagnosis.exit_code == 0 else "red"))


def _machine(diagnosis: Diagnosis) -> Table:
    table = Table(show_header=False, box=None, pad_edge=False)
    for card in diagnosis.cards:
        text = f"{card.name}, {_gb(card.free)} of {_gb(card.total)} free, compute capability {card.capability}"
        table.add_row(f"cuda:{card.index}", Text(text))
    memory = f"{_gb(diagnosis.memory_available)} of {_gb(diagnosis.memory_total)} available"
    table.add_row("memory", memory)
    for disk in diagnosis.disks:
        table.add_row(disk.what, Text(f"{_gb(disk.free)} free ({disk.path})"))
    shown = ", ".join(f"{name} {number}" for name, number in diagnosis.versions.items() if number)
    table.add_row("versions", Text(shown))
    for name, command in OPTIONAL.items():
        if diagnosis.versions.get(name) is None:
            table.add_row(f"{name} (optional)", Text(f"not installed: {command}"))
    for check in diagnosis.checks:
        table.add_row(check.name, Text(f"{'works' if check.works else 'FAILS'}: {check.seen}"))
    return table


def _presets(presets: list[Preset]) -> Table:
    table = Table("preset", "weights", "fits", "at once", "largest part", "transformer int8", box=None, pad_edge=False)
    for preset in presets:
        weights = f"{preset.presence} ({preset.gigabytes} GB)" if preset.gigabytes else preset.presence
        if (fits := preset.fitting) is None:
            table.add_row(f"{preset.name} (pictures)", weights, preset.fits, "", "", "")
            continue
        table.add_row(preset.name, weights, preset.fits, _gb(fits.needed), _gb(fits.turns), _gb(fits.int8))
    return table


def _gb(count: int) -> str:
    return f"{count / 1e9:.1f} GB"
