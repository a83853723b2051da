"""The processes of a training: how they share work, wait for each other and end together.

    accelerate launch --multi_gpu --num_processes 8 -m synclora train CONFIG.yaml     one process a GPU; on the CPU too
    torchrun --nproc-per-node 8 -m synclora train CONFIG.yaml                         the same

The launcher says who we are in the environment (RANK, WORLD_SIZE, LOCAL_RANK); without it there is one process, and
everything here does nothing. Whatever goes wrong in one process ends all of them with one message:

    an error in one           it tells; the others end in silence
    the same error in all     the first tells
    one is killed or hangs    the first of the others tells which, and how to go on
    stopped from outside      the first tells how to go on
"""

from __future__ import annotations

import gc
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterable
from datetime import timedelta
from types import TracebackType
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from synclora.errors import SyncloraError

T = TypeVar("T")

TIMEOUT = timedelta(minutes=30)  # until a process that does not answer is given up; one round of encoding takes less
GRACE = 3.0  # seconds in which a living process answers, and one that fails tells why
_BAD_INPUT, _LOST = 2, 1  # exit codes

_base_store: Any = None  # a launcher lets a process meet the others once; trainings after the first use it again
_opened = 0


class World:
    """The processes; a context manager that ends them together. `World()` is one process alone.

    Attributes:
        rank, size: this process's number and how many there are.
        local_rank, local_size: the same, of this machine.
        way_out: says how to go on, for the message when a process is lost.
    """

    def __init__(self, rank: int = 0, size: int = 1, local_rank: int = 0, local_size: int = 1) -> None:
        self.rank, self.size, self.local_rank, self.local_size = rank, size, local_rank, local_size
        self.way_out: Callable[[], str] = lambda: "Run the same command again."
        self._store: Any = None
        self._ending = threading.Lock()
        self._unwatch: Callable[[], None] = lambda: None

    @classmethod
    def open(cls) -> World:
        """The world that the launcher describes, joined; to be used in a `with` statement.

        Raises:
            SyncloraError: `accelerate launch` was asked for several processes and started one.
        """
        _require_launched()
        rank, size, local_rank, local_size = (
            int(os.environ.get(name, default))
            for name, default in (("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0), ("LOCAL_WORLD_SIZE", 1))
        )
        world = cls(rank, size, local_rank, local_size)
        if size > 1:
            world._join()
        return world

    @property
    def main(self) -> bool:
        """Whether this process writes files and prints."""
        return self.rank == 0

    def device(self, wanted: str) -> torch.device:
        """This process's device: "cpu", or the GPU of its number; "auto" is a GPU where there is one.

        Raises:
            SyncloraError: no GPU for this process.
        """
        if wanted == "cpu" or (wanted == "auto" and not torch.cuda.is_available()):
            return torch.device("cpu")
        if not torch.cuda.is_available():
            why = "this torch was built without CUDA" if torch.version.cuda is None else "torch finds no GPU"
            raise SyncloraError(
                f"device is cuda, and {why} (`synclora doctor` tells more). Set device: cpu or auto, or train on a "
                "machine with a GPU."
            )
        if self.size == 1:
            return torch.device("cuda")
        if self.local_rank >= torch.cuda.device_count():
            raise SyncloraError(
                f"{self.local_size} processes on a machine with {torch.cuda.device_count()} GPUs. Launch one process a "
                "GPU (--num_processes), or set device: cpu."
            )
        torch.cuda.set_device(self.local_rank)
        return torch.device("cuda", self.local_rank)

    def mine(self, items: list[T]) -> list[T]:
        """This process's share: items rank, rank + size, rank + 2 size, ..."""
        return items[self.rank :: self.size]

    def gather(self, value: T) -> list[T]:
        """Every process's value, in the order of ranks."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def on_main(self, function: Callable[[], T]) -> T:
        """What a function returns in the first process, which alone runs it."""
        if self.size == 1:
            return function()
        values: list[Any] = [function() if self.main else None]
        dist.broadcast_object_list(values, src=0)
        return values[0]

    def wait(self) -> None:
        """Until all processes are here."""
        self.gather(None)

    def average(self, tensors: Iterable[Tensor]) -> None:
        """Replace tensors by their means over the processes; all processes get the same numbers."""
        if self.size == 1:
            return
        tensors = list(tensors)
        for work in [dist.all_reduce(tensor, async_op=True) for tensor in tensors]:
            work.wait()  # type: ignore[union-attr]
        for tensor in tensors:
            tensor.div_(self.size)

    def total(self, tensor: Tensor) -> Tensor:
        """The sum of a CPU tensor over the processes."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    # ------------------------------------------------------------ beginning and ending

    def __enter__(self) -> World:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.size > 1 and error is not None:
            if isinstance(error, dist.DistError) or (type(error) is RuntimeError and "gloo" in str(error)):
                self._lost(stopped=False)
            if self._others_failed():  # another process tells; it is given the time to
                time.sleep(GRACE)
                os._exit(_BAD_INPUT)
            dist.destroy_process_group()  # so that the others, which may wait for us, notice
        else:
            if self.size > 1:
                self.wait()
            if dist.is_initialized():
                dist.destroy_process_group()
                _end_threads()
        self._unwatch()

    def _join(self) -> None:
        global _base_store, _opened
        if _base_store is None:
            _base_store, _, _ = next(rendezvous("env://", timeout=TIMEOUT))
        _opened += 1
        self._store = PrefixStore(f"synclora/{_opened}", _base_store)
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(
            backend,
            store=PrefixStore("group", self._store),
            rank=self.rank,
            world_size=self.size,
            timeout=TIMEOUT,
        )
        if threading.current_thread() is threading.main_thread():
            self._unwatch = self._watch()

    def _watch(self) -> Callable[[], None]:
        """Answer SIGTERM from a thread: the main one may be waiting for a process that is gone."""
        reader, writer = socket.socketpair()
        writer.setblocking(False)

        def answer() -> None:
            while (number := reader.recv(1)) not in (b"", b"\0"):
                if number[0] == signal.SIGTERM:
                    self._lost(stopped=True)
            reader.close()

        threading.Thread(target=answer, daemon=True).start()
        before = signal.signal(signal.SIGTERM, lambda *_: None)
        fd = signal.set_wakeup_fd(writer.fileno())

        def unwatch() -> None:
            signal.set_wakeup_fd(fd)
            signal.signal(signal.SIGTERM, before)
            writer.send(b"\0")
            writer.close()

        return unwatch

    def _others_failed(self) -> bool:
        """Tell the others that this process fails, and whether one of them told so before."""
        try:
            return self._store.add("failed", 1) > 1
        except (RuntimeError, ValueError):  # the first process kept the store, and is gone; the error here is told
            return False

    def _lost(self, stopped: bool) -> None:
        """End this process, as others are gone or it is told to stop; one of those that live says so."""
        self._ending.acquire()  # never released: the first to come here ends the process
        try:
            if self._store.add("failed", 0):
                os._exit(_BAD_INPUT)
            living = self._living()
        except (RuntimeError, ValueError):  # the first process kept the store, and is gone
            living = set(range(1, self.size))
        gone = sorted(set(range(self.size)) - living)
        if self.rank == min(living):
            if not gone and stopped:
                what = "stopped from outside (SIGTERM)."
            elif not gone:
                what = "the connection between the processes broke."
            else:
                named = " and ".join(str(rank) for rank in gone)
                what = (
                    f"process {named} of {self.size} (counted from 0) ended or stopped answering, and training needs "
                    "all. If it was killed for want of memory, set sharding: full, offload: true or a smaller batch."
                )
            os.write(2, f"synclora: {what} {self.way_out()}\n".encode())
        os._exit(_LOST)

    def _living(self) -> set[int]:
        """The processes that answer within the time of grace."""
        self._store.add(f"living/{self.rank}", 1)
        until = time.monotonic() + GRACE
        while True:
            living = {rank for rank in range(self.size) if self._store.add(f"living/{rank}", 0)}
            if len(living) == self.size or time.monotonic() > until:
                return living
            time.sleep(0.05)


def _require_launched() -> None:
    """accelerate tells a single process of `--num_processes` only by an address at which it is to meet the others."""
    if "ACCELERATE_MIXED_PRECISION" in os.environ and "MASTER_PORT" in os.environ and "RANK" not in os.environ:
        raise SyncloraError(
            "accelerate launch was asked for several processes and started one, as it does with --cpu and where "
            "`accelerate config` was told of a single device; a step would learn from too few pairs. Launch with "
            "`accelerate launch --multi_gpu --num_processes N -m synclora train CONFIG`, which works on the CPU too "
            "(device: cpu), or for one process with `synclora train CONFIG`."
        )


def _end_threads() -> None:
    """Let the threads of Gloo end while Python is there; with it gone, one that frees a tensor aborts the process.

    They end with the groups, which DTensor's caches (of FSDP2) hold after they are destroyed (torch 2.13).
    """
    from torch.distributed.tensor import debug

    clear = getattr(debug, "_clear_sharding_prop_cache", None)  # for debugging, as it says; there is no other way
    if clear is not None:
        clear()
    gc.collect()
