"""What a person sees at the command line while waiting, and when something is wrong."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import typer
from typer.core import TyperGroup

from synclora.errors import SyncloraError

BAD_INPUT = 2
INTERRUPTED = 130


class Commands(TyperGroup):
    """A group of commands whose errors are told on stderr with exit code 2, Ctrl-C in one line with 130."""

    def invoke(self, ctx):
        try:
            _require_folder()
            return super().invoke(ctx)
        except SyncloraError as error:
            typer.echo(f"synclora: {_laid_out(str(error))}", err=True)
            raise typer.Exit(BAD_INPUT) from error
        except KeyboardInterrupt as error:
            typer.echo("synclora: interrupted; nothing half-written was left.", err=True)
            raise typer.Exit(INTERRUPTED) from error


def _require_folder() -> None:
    """SyncloraError where the working folder was deleted: torch would end the process."""
    try:
        os.getcwd()
    except OSError as error:
        raise SyncloraError("the working folder is not there any more. cd to one that is, and try again.") from error


def _laid_out(text: str) -> str:
    """A message in one line; but commands, which are indented by two, keep lines of their own to be copied, and what
    follows an empty line begins a new one."""
    lines: list[str] = [""]
    for line in text.splitlines():
        words = " ".join(line.split())
        if line == f"  {words}":
            lines += [f"  {words}", ""]
        elif words:
            lines[-1] = f"{lines[-1]} {words}".strip()
        elif lines[-1]:
            lines.append("")
    return "\n".join(line for line in lines if line)


@contextmanager
def progress_bars() -> Iterator[Callable[[str, int, int], None]]:
    """Yield progress(stage, done, total), one bar a stage on stderr, or nothing where that is no terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description:<26}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not sys.stderr.isatty()) as bars:
        tasks = {}

        def progress(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=total)
            bars.update(tasks[stage], completed=done, total=total)

        yield progress


def say(*lines: str) -> None:
    """Print lines on stdout as they are: paths stay whole, for copying."""
    for line in lines:
        typer.echo(line)
