"""A process that measures items for another one, and is replaced when it dies or hangs.

What reads files from anywhere runs here: a decoder that crashes takes this process with it and not the job.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, Protocol

from synclora.errors import SyncloraError

LOAD_LIMIT = 300.0  # s for a child to start and load; imports alone take several seconds on a busy machine
ATTEMPTS = 2  # for an item whose child died: the death may have been another program's doing
Summary = dict[str, float]


class Job(Protocol):
    """What is done with each item and each chunk of items; see the module."""

    def load(self) -> Callable[[Any], Any]: ...
    def failed(self, item: Any, why: str) -> Any: ...
    def limit(self, item: Any) -> float: ...
    def finish(self, results: list[Any]) -> Summary: ...


class Closed(Exception):
    """The child was closed while an item was in work."""


class Child:
    """A process that measures items for this one, and is replaced when it dies or hangs. Started by the first item."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._process: BaseProcess | None = None
        self._pipe: Connection | None = None
        self._closed = False
        self._lock = threading.Lock()  # `close` comes from another thread than the calls

    def __call__(self, item: Any) -> Any:
        """The measure of an item, or the job's `failed` for it.

        Raises:
            SyncloraError: the job could not be loaded.
            Closed: `close` was called.
        """
        why = ""
        for _ in range(ATTEMPTS):
            pipe = self._started()
            try:
                pipe.send(item)
                if pipe.poll(self._job.limit(item)):
                    return pipe.recv()
                self._stop()
                return self._job.failed(item, f"not done after {self._job.limit(item):.0f} s, given up")
            except (EOFError, OSError):
                why = f"the process that measured it died ({self._stop()}), {ATTEMPTS} times in a row"
                if self._closed:
                    raise Closed from None
        return self._job.failed(item, why)

    def close(self) -> None:
        """End the process, at once."""
        with self._lock:
            self._closed = True
            if self._process is not None:
                self._process.kill()

    def wait(self) -> None:
        """Wait for the process to be gone, once it is closed and no call is in work."""
        if self._process is not None:
            self._process.join()

    def _started(self) -> Connection:
        if self._pipe is not None:
            return self._pipe
        context = multiprocessing.get_context("spawn")  # torch's thread pools do not survive a fork
        self._pipe, theirs = context.Pipe()
        with self._lock:
            if self._closed:
                raise Closed
            self._process = context.Process(target=_serve, args=(self._job, theirs), daemon=True)
            self._process.start()
        theirs.close()
        try:
            refused = self._pipe.recv() if self._pipe.poll(LOAD_LIMIT) else f"not ready after {LOAD_LIMIT:.0f} s"
        except (EOFError, OSError):
            refused = f"it died while it loaded ({self._stop()})"
        if self._closed:
            raise Closed
        if refused is not None:
            self._stop()
            raise SyncloraError(
                f"a worker process could not start: {refused}. Run again with --executor local to see it fail in full."
            )
        return self._pipe

    def _stop(self) -> str:
        """End the process and say how it ended."""
        assert self._process is not None and self._pipe is not None
        self._pipe.close()
        self._process.join(1.0)  # one that died is known to be dead a moment later than its pipe
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        code, self._pipe = self._process.exitcode or 0, None
        with suppress(ValueError):
            return f"killed by {signal.Signals(-code).name}"
        return f"exit status {code}"


def _serve(job: Job, pipe: Connection) -> None:
    """The child's life: load, then answer items until the other end closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that waits for this one
    _end_with_parent()
    _one_thread()
    try:
        measure = job.load()
    except Exception as error:
        pipe.send(str(error) if isinstance(error, SyncloraError) else told(error))
        return
    pipe.send(None)
    with suppress(EOFError, OSError):
        while True:
            item = pipe.recv()
            pipe.send(guarded(job, measure, item))


def guarded(job: Job, measure: Callable[[Any], Any], item: Any) -> Any:
    """The measure of an item, or the job's `failed` where it raises."""
    try:
        return measure(item)
    except Exception as error:
        return job.failed(item, str(error) if isinstance(error, SyncloraError) else f"failed with {told(error)}")


def told(error: BaseException) -> str:
    """An exception in one line."""
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"


def _one_thread() -> None:
    """Use one thread: parallel work is the number of workers' to decide."""
    import torch

    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)


def _end_with_parent() -> None:
    """End this process when its parent ends, however that dies, also in the middle of an item."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
