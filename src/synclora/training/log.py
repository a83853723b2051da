"""Numbers of a training: `metrics.jsonl` (an object a line), TensorBoard, and a progress bar with the time left."""

from __future__ import annotations

import json
from pathlib import Path
from types import TracebackType

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from synclora.atomic import write_text

METRICS = "metrics.jsonl"


class RunLog:
    """A context manager over the three; lines of steps that a resume will do again are taken out first."""

    def __init__(self, folder: Path, step: int, total: int, console: Console | None = None) -> None:
        from torch.utils.tensorboard.writer import SummaryWriter

        self._path = folder / METRICS
        if self._path.exists():
            write_text(self._path, "".join(line + "\n" for line in _lines_until(self._path, step) if step))
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1 if step else 0)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(elapsed_when_finished=True),
            console=console or Console(stderr=True),
        )
        self._task = self._progress.add_task("training", total=total, completed=step, note="")

    def __enter__(self) -> RunLog:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()
        self._board.close()

    def numbers(self, step: int, values: dict[str, float]) -> None:
        """Add values of a step (steps finished so far) to the file and to TensorBoard."""
        with open(self._path, "a", encoding="utf-8") as file:
            file.write(
                json.dumps({"step": step} | {name: float(f"{value:.6g}") for name, value in values.items()}) + "\n"
            )
        for name, value in values.items():
            self._board.add_scalar(name, value, step)
        if not self._progress.console.is_terminal:
            shown = "  ".join(f"{name} {value:.4g}" for name, value in values.items())
            self.say(f"step {step}  {shown}")

    def advance(self, step: int, note: str) -> None:
        """Move the progress bar to a step."""
        self._progress.update(self._task, completed=step, note=note)

    def say(self, text: str) -> None:
        """Print a line above the progress bar."""
        self._progress.console.print(escape(text), soft_wrap=True, highlight=False)


class NoLog(RunLog):
    """What processes other than the first have in its place."""

    def __init__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        pass

    def __enter__(self) -> RunLog:
        return self

    def numbers(self, step: int, values: dict[str, float]) -> None:
        """Nothing."""

    def advance(self, step: int, note: str) -> None:
        """Nothing."""

    def say(self, text: str) -> None:
        """Nothing."""


def _lines_until(path: Path, step: int) -> list[str]:
    """Whole lines of steps up to `step`; a line cut short by a kill is left out."""
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line)
        except (ValueError, KeyError, TypeError):
            continue
    return kept
