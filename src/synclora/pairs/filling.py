"""What every command that fills a store needs: its lock, and rows that reach the table soon but not each one alone."""

from __future__ import annotations

import fcntl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import TextIO

from synclora.errors import SyncloraError
from synclora.pairs.store import MEDIA, PairRow, PairStore

SECONDS_BETWEEN_TABLES = 5.0  # how much finished work a kill can cost
TABLE_SHARE = 0.05  # at most this part of the time goes into writing the table, however long it is


@contextmanager
def only_run(store: PairStore) -> Iterator[None]:
    """Hold a local store's lock (freed by the system however the process ends) and sweep up what a killed run left.

    A remote store has no lock: one run at a time is the caller's to see to.

    Raises:
        SyncloraError: another run holds it.
    """
    if not store.is_local:
        yield
        return
    root = store.root
    with _opened(root) as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise SyncloraError(f"{root}: another run is at work in this store. Wait for it to end.") from error
        for leftover in [*root.glob(".*.part.parquet"), *(root / MEDIA).glob(".*.part.mp4")]:
            leftover.unlink(missing_ok=True)
        yield


def _opened(root: Path) -> TextIO:
    try:
        root.mkdir(parents=True, exist_ok=True)
        return open(root / ".lock", "w")
    except OSError as error:
        raise SyncloraError(
            f"{root}: cannot be written ({error.strerror}). Choose another folder for the store."
        ) from error


@contextmanager
def admitting(store: PairStore) -> Iterator[Callable[[PairRow], None]]:
    """Yield a function that admits a row whose media are in place.

    Rows reach the table some seconds later at most, or as soon as the block ends, however it ends; the longer writing
    the table takes, the rarer it is written.
    """
    waiting: list[PairRow] = []
    last, pause = monotonic(), SECONDS_BETWEEN_TABLES

    def write() -> None:
        nonlocal last, pause
        began = monotonic()
        store.append(waiting, replace=True)
        waiting.clear()
        last = monotonic()
        pause = max(SECONDS_BETWEEN_TABLES, (last - began) / TABLE_SHARE)

    def admit(row: PairRow) -> None:
        waiting.append(row)
        if monotonic() - last > pause:
            write()

    try:
        yield admit
    finally:
        if waiting:
            write()
