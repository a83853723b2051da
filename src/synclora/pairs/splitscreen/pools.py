"""All stages at once on Ray: a pool of actors for each, with so many GPUs an actor, and items that move on as they are
finished.

Only ids and words travel; pictures and videos pass through the store, which every machine must reach (a URL, or a
folder they share). An actor that dies is started again, and its items are tried once more before they are given up.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from synclora.errors import SyncloraError
from synclora.pairs.child import told
from synclora.pairs.jobs import open_ray, ray_cause
from synclora.pairs.splitscreen.files import Failure, Item, ItemFiles
from synclora.pairs.splitscreen.stages import STAGE_CLASSES, Stage, Work
from synclora.pairs.store import PairStore

EXECUTORS = ("local", "ray")
Progress = Callable[[str, int, int], None]


class OnRay:
    """Runs a plan on this machine's Ray, or on the cluster at `address`."""

    def __init__(self, address: str | None = None, kinds: Sequence[type[Stage]] = STAGE_CLASSES) -> None:
        self.address, self.kinds = address, kinds

    def __call__(self, work: Work, plan: dict[str, list[Item]], progress: Progress | None) -> Iterator[Item]:
        """Yields items as they are finished. SyncloraError where Ray is missing or no model can be loaded."""
        if not any(plan.values()):
            return
        first = next(number for number, kind in enumerate(self.kinds) if plan[kind.name])
        needs = [(kind, *_needs(work, kind)) for kind in self.kinds[first:]]
        ray, ours = _ray(self.address, sum(workers for _, workers, _ in needs), sum(w * gpus for _, w, gpus in needs))
        try:
            pools = [_Pool(ray, kind, work, workers, gpus, plan[kind.name]) for kind, workers, gpus in needs]
            yield from _flow(ray, pools, progress)
        finally:
            if ours:
                ray.shutdown()


class _Pool:
    """The actors of one stage and the items that wait for them."""

    def __init__(self, ray: Any, kind: type[Stage], work: Work, workers: int, gpus: float, items: list[Item]) -> None:
        self.kind, self.work = kind, work
        self.waiting: deque[Item] = deque(items)
        self.batch = kind(work).batch
        self.done = 0
        actor = ray.remote(num_cpus=1, num_gpus=gpus, max_restarts=-1, max_task_retries=1)(_Actor)
        self.idle = [actor.remote(kind, work) for _ in range(workers)]

    def start(self) -> Iterator[tuple[Any, tuple[_Pool, Any, list[Item]]]]:
        """Give waiting items to idle actors; yields each task's reference and what it is."""
        while self.waiting and self.idle:
            items = [self.waiting.popleft() for _ in range(min(self.batch, len(self.waiting)))]
            actor = self.idle.pop()
            yield actor.run.remote(items), (self, actor, items)

    def lost(self, items: list[Item], why: str) -> None:
        """Record that the actor died with these."""
        for item in items:
            failure = Failure(item.id, self.kind.name, f"the worker died: {why}", final=False)
            ItemFiles(PairStore(self.work.url), item.id).write_failure(failure)


class _Actor:
    """One stage in a process of its own."""

    def __init__(self, kind: type[Stage], work: Work) -> None:
        self._stage = kind(work)

    def run(self, items: list[Item]) -> list[Item]:
        return self._stage(items)


def _flow(ray: Any, pools: list[_Pool], progress: Progress | None) -> Iterator[Item]:
    """Move items from pool to pool as they are finished; yields those that leave the last."""
    from ray.exceptions import RayError, RayTaskError

    running: dict[Any, tuple[_Pool, Any, list[Item]]] = {}
    while True:
        for pool in pools:
            running.update(pool.start())
        if not running:
            return
        [reference], _ = ray.wait([*running], num_returns=1)
        pool, actor, items = running.pop(reference)
        pool.idle.append(actor)
        try:
            ready = ray.get(reference)
        except RayTaskError as error:
            raise ray_cause(error) from error
        except RayError as error:  # the actor died, or was ended for want of memory
            if "No module named" in str(error):
                raise ray_cause(error) from error
            ready = []
            pool.lost(items, told(error))
        pool.done += len(items)
        number = pools.index(pool)
        if number + 1 < len(pools):
            pools[number + 1].waiting.extend(ready)
        else:
            yield from ready
        if progress:
            left = sum(len(p.waiting) for p in pools[: number + 1]) + sum(
                len(at_work) for p, _, at_work in running.values() if pools.index(p) <= number
            )
            progress(pool.kind.title, pool.done, pool.done + left)


def _needs(work: Work, kind: type[Stage]) -> tuple[int, float]:
    """Actors and GPUs an actor of a stage; those without a model take one processor."""
    settings = getattr(work.config, kind.name, None) if kind.name in work.models else None
    return (settings.workers, settings.gpus) if settings is not None else (1, 0.0)


def _ray(address: str | None, workers: int, gpus: float) -> tuple[Any, bool]:
    """Ray with room for all actors, and whether it was started or joined here.

    Raises:
        SyncloraError: it is not installed, does not answer, or has fewer GPUs than all actors need together.
    """
    ray, ours = open_ray(address, workers)
    there = float(ray.cluster_resources().get("GPU", 0))
    if gpus > there:
        if ours:
            ray.shutdown()
        raise SyncloraError(
            f"all stages together need {gpus:g} GPUs, and Ray has {there:g}. Lower `workers` or `gpus` of the stages"
            " (0.5 shares a GPU), or use --executor local, which needs one GPU for one stage after the other."
        )
    return ray, ours
