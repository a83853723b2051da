"""Run one job over many items: in this process, in worker processes, or on Ray Data.

    class Count:                                      # what a job has to offer; it travels to the workers by pickle
        def load(self): return lambda item: len(item)   # once a worker: load what is expensive, return the measure
        def failed(self, item, why): return -1          # stands in for the result of an item that cannot be done
        def limit(self, item): return 60.0              # seconds after which an item is given up
        def finish(self, results): return {"done": len(results)}   # once a chunk: write the results, say what was done

    for summary in executor("processes", workers=2).map_chunks(Count(), [["a", "b"], ["c"]]):
        ...

No item stops a job. An exception of the measure becomes `failed`; and in worker processes and on Ray the measure runs
in a child process of its own, so that one that dies (a decoder's segmentation fault, memory exhausted) or hangs is
replaced: the item that was in work is tried once more if the child died, and is then given up with the reason. What
`finish` raises ends the job, for it says that results cannot be kept.
"""

from __future__ import annotations

import logging
import os
import pickle
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from itertools import islice
from queue import SimpleQueue
from typing import Any, Protocol, cast

from synclora.errors import SyncloraError
from synclora.pairs.child import Child, Job, Summary, guarded, told

EXECUTORS = ("processes", "local", "ray")


class Executor(Protocol):
    """Something that runs a job."""

    def map_chunks(self, job: Job, chunks: Sequence[Sequence[Any]]) -> Iterator[Summary]:
        """Run `job` over all items of all chunks; yields what `finish` says of each chunk, as the chunks finish."""
        ...


def executor(name: str, workers: int = 1, ray_address: str | None = None) -> Executor:
    """The executor of a name in `EXECUTORS`, with so many workers of one thread each.

    Raises:
        SyncloraError: an unknown name, fewer than one worker, or an address without Ray.
    """
    if name not in EXECUTORS:
        raise SyncloraError(f"executor {name!r} is not known; choose one of: {', '.join(EXECUTORS)}.")
    if workers < 1:
        raise SyncloraError(f"workers is {workers}; at least 1 is needed.")
    if ray_address is not None and name != "ray":
        raise SyncloraError(f"the Ray address {ray_address!r} is of no use to the executor {name!r}; choose ray.")
    if name == "local":
        if workers > 1:
            raise SyncloraError(f"{workers} workers in one process are not possible; choose the executor processes.")
        return InProcess()
    return Processes(workers) if name == "processes" else OnRay(workers, ray_address)


class InProcess:
    """One item after the other in this very process: to step through with a debugger. A crash here is a crash."""

    def map_chunks(self, job: Job, chunks: Sequence[Sequence[Any]]) -> Iterator[Summary]:
        if not chunks:
            return
        measure = job.load()
        for chunk in chunks:
            yield job.finish([guarded(job, measure, item) for item in chunk])


class Processes:
    """`workers` child processes, each fed by a thread that also finishes its chunks."""

    def __init__(self, workers: int) -> None:
        self.workers = workers

    def map_chunks(self, job: Job, chunks: Sequence[Sequence[Any]]) -> Iterator[Summary]:
        if not chunks:
            return
        count = min(self.workers, len(chunks))
        children = [Child(job) for _ in range(count)]
        idle: SimpleQueue[Child] = SimpleQueue()
        for child in children:
            idle.put(child)

        def run(chunk: Sequence[Any]) -> Summary:
            child = idle.get()
            try:
                return job.finish([child(item) for item in chunk])
            finally:
                idle.put(child)

        pool = ThreadPoolExecutor(count)
        try:
            queue = iter(chunks)
            running: set[Future[Summary]] = {pool.submit(run, chunk) for chunk in islice(queue, 2 * count)}
            while running:
                finished, running = wait(running, return_when=FIRST_COMPLETED)
                for future in finished:
                    yield future.result()
                running |= {pool.submit(run, chunk) for chunk in islice(queue, len(finished))}
        finally:
            for child in children:
                child.close()  # an item in work then raises Closed in its thread
            pool.shutdown(wait=True, cancel_futures=True)
            for child in children:
                child.wait()


class OnRay:
    """Ray Data: `workers` actors of one CPU, on this machine or on the cluster at `address`.

    The chunks are the rows of a dataset and the actors its map stage, so that Ray moves only names and summaries; the
    workers read and write the store themselves. A worker lost with its machine is replaced and its chunk run again.
    """

    def __init__(self, workers: int, address: str | None = None) -> None:
        self.workers, self.address = workers, address

    def map_chunks(self, job: Job, chunks: Sequence[Sequence[Any]]) -> Iterator[Summary]:
        if not chunks:
            return
        ray, ours = open_ray(self.address, self.workers)
        from ray.exceptions import RayError

        try:
            ray.data.DataContext.get_current().enable_progress_bars = False
            logging.getLogger("ray.data").setLevel(logging.ERROR)
            # Pickles of our own making, which never leave the job's memory. The job is in every row and not in the
            # actor's arguments, as those a restarted actor can lose.
            packed = pickle.dumps(job)
            rows = [{"job": packed, "chunk": pickle.dumps(list(chunk))} for chunk in chunks]
            data = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
                _RayWorker,
                batch_size=1,
                compute=ray.data.ActorPoolStrategy(size=min(self.workers, len(rows))),
                num_cpus=1,
            )
            for row in data.iter_rows():
                yield {name: float(value) for name, value in row.items()}
        except RayError as error:
            raise ray_cause(error) from error
        finally:
            if ours:
                ray.shutdown()


class _RayWorker:
    """An actor of the map stage; a batch is one chunk."""

    def __init__(self) -> None:
        self._job: Job | None = None
        self._child: Child | None = None

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[float]]:
        if self._job is None or self._child is None:
            self._job = cast(Job, pickle.loads(batch["job"][0]))
            self._child = Child(self._job)
        child = self._child
        summary = self._job.finish([child(item) for item in pickle.loads(batch["chunk"][0])])
        return {name: [float(value)] for name, value in summary.items()}


def open_ray(address: str | None, workers: int) -> tuple[Any, bool]:
    """The module `ray`, running, and whether it was started or joined here (and is to be shut down here).

    Args:
        address: of a cluster; None for this machine.
        workers: of one CPU each, that there must be room for.

    Raises:
        SyncloraError: it cannot be imported, or does not answer.
    """
    # Read when ray is imported: nothing is reported to anyone, and no worker is told to hide its devices.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # its C++ parts call harmless things errors
    os.environ.setdefault("RAY_worker_niceness", "0")  # as of worker processes; Ray's own 15 starves on a busy machine
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise SyncloraError(
            f"the executor ray needs Ray Data, which cannot be imported ({error}). "
            "Install it with: pip install 'synclora[ray]'"
        ) from error
    ours = not ray.is_initialized()
    if ours:
        _start_ray(ray, address, workers)
    return ray, ours


def _start_ray(ray: Any, address: str | None, workers: int) -> None:
    from synclora.faces.graphs import quiet_stderr

    try:
        with quiet_stderr():  # it prints that it was told to be quiet
            ray.init(
                address=address or "local",
                num_cpus=None if address else workers,
                include_dashboard=None if address else False,
                log_to_driver=False,
                logging_level="ERROR",
            )
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise SyncloraError(
            f"Ray at {address or 'this machine'} did not answer: {told(error)}. Check the address "
            "(`ray status` on the head node shows a running cluster), or leave it out to run on this machine."
        ) from error


def ray_cause(error: BaseException) -> BaseException:
    """What a worker raised as a SyncloraError, or the error itself where that says more."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, SyncloraError):
        cause = getattr(cause, "cause", None) or cause.__cause__
    if cause is not None:
        return SyncloraError(str(cause))
    if "No module named 'synclora" in str(error):
        return SyncloraError(
            "the workers of the Ray cluster cannot import synclora; every node needs the version used here. "
            "Install it there with: pip install 'synclora[ray]'"
        )
    return error
