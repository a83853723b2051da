"""Trainings in several processes, forked from a server that has imported the heavy modules once."""

from __future__ import annotations

import multiprocessing
import os
import socket
from collections.abc import Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

# The same server as in test_kill.py, and the same preloads.
SERVER = multiprocessing.get_context("forkserver")


def start(folder: Path, jobs: list[dict[str, Any]], size: int = 2) -> Sequence[BaseProcess]:
    """Processes 0 .. size - 1, which train each of `jobs`, one after the other; they print to FOLDER/RANK.txt."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    folder.mkdir(parents=True, exist_ok=True)
    processes = [SERVER.Process(target=main, args=(rank, size, port, str(folder), jobs)) for rank in range(size)]
    for process in processes:
        process.start()
    return processes


def finish(processes: Sequence[BaseProcess], seconds: float = 500) -> list[int | None]:
    """The exit codes of processes; one that does not end in time is killed and has None."""
    codes: list[int | None] = []
    for process in processes:
        process.join(seconds)
        codes.append(process.exitcode)
        if process.exitcode is None:
            process.kill()
            process.join()
    return codes


def told(folder: Path) -> list[str]:
    """What the processes printed, one after the other, without what libraries log."""
    lines = [line for path in sorted(folder.glob("*.txt")) for line in path.read_text().splitlines()]
    return [line for line in lines if line.startswith("synclora:") or "Error" in line]


def main(rank: int, size: int, port: int, folder: str, jobs: list[dict[str, Any]]) -> None:
    """One process."""
    with open(f"{folder}/{rank}.txt", "w") as printed:
        os.dup2(printed.fileno(), 1)
        os.dup2(printed.fileno(), 2)
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(size)}
    os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
    import tiny_run
    import torch
    import typer
    from rich.console import Console

    from synclora.console import Commands
    from synclora.training import trainer

    torch.set_num_threads(1)
    trainer.open_clips = tiny_run.noise_clips  # type: ignore[assignment]
    app = typer.Typer(cls=Commands)

    @app.callback()
    def _group() -> None:
        """More than one command, so that it stays a group."""

    @app.command()
    def train() -> None:
        for job in jobs:
            path = Path(job["output"]).with_suffix(f".{rank}.yaml")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(__import__("yaml").safe_dump(job))
            with open(os.devnull, "w") as nowhere:
                trainer.train(path, backbone=tiny_run.tiny_backbone(), console=Console(file=nowhere))

    app(["train"])
