"""Which stage a long job is in: told to whoever shows progress, timed for the report."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter

Progress = Callable[[str, int, int], None]
"""Called as progress(stage, done, total): "Denoising", 3, 8. A stage is over when done == total."""


class Stages:
    """A stopwatch over named stages that follow one another.

    `begin` ends the stage before it; `end` the last one. `seconds` holds the wall-clock time of each.
    """

    def __init__(self, progress: Progress | None = None) -> None:
        self.seconds: dict[str, float] = {}
        self._progress = progress
        self._stage: str | None = None
        self._total = 1
        self._started = 0.0

    def begin(self, stage: str, total: int = 1) -> None:
        self.end()
        self._stage, self._total, self._started = stage, total, perf_counter()
        self._tell(stage, 0, total)

    def step(self, done: int, total: int) -> None:
        """Tell of progress inside the current stage; fits `sample_loop`'s callback."""
        if self._stage is not None:
            self._total = total
            self._tell(self._stage, done, total)

    def end(self) -> None:
        if self._stage is None:
            return
        self._tell(self._stage, self._total, self._total)
        self.seconds[self._stage] = self.seconds.get(self._stage, 0.0) + perf_counter() - self._started
        self._stage = None

    def _tell(self, stage: str, done: int, total: int) -> None:
        if self._progress is not None:
            self._progress(stage, done, total)
