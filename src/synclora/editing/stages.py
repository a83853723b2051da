"""Which stage a long job is in: told to whoever shows progress, timed for the report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from time import perf_counter

Progress = Callable[[str, int, int], None]
"""Called as progress(stage, done, total): "Denoising", 3, 8. A stage is over when done == total."""


class Stages:
    """A stopwatch over named stages that follow one another.

    `begin` ends the stage before it; `end` the last one. `seconds` holds the wall-clock time of each. Where the same
    stages come round again and again (a clip made in windows), `rounds` says how often to expect each; its progress
    then runs once over all rounds, and `finish` ends those that came less often.
    """

    def __init__(self, progress: Progress | None = None) -> None:
        self.seconds: dict[str, float] = {}
        self._progress = progress
        self._stage: str | None = None
        self._total = 1
        self._started = 0.0
        self._rounds = 1
        self._begun: Counter[str] = Counter()
        self._told: dict[str, tuple[int, int]] = {}

    def rounds(self, count: int) -> None:
        """Expect the stages that begin from here on `count` times each; a guess will do."""
        self.end()
        self._rounds = count
        self._begun.clear()
        self._told.clear()

    def begin(self, stage: str, total: int = 1) -> None:
        self.end()
        self._stage, self._total, self._started = stage, total, perf_counter()
        self._begun[stage] += 1
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

    def finish(self) -> None:
        """No more rounds come."""
        self.end()
        for stage, (done, total) in self._told.items():
            if done < total and self._progress is not None:
                self._progress(stage, total, total)
        self._rounds = 1
        self._begun.clear()
        self._told.clear()

    def _tell(self, stage: str, done: int, total: int) -> None:
        before = self._begun[stage] - 1
        done, total = before * total + done, max(self._rounds, before + 1) * total
        self._told[stage] = done, total
        if self._progress is not None:
            self._progress(stage, done, total)
