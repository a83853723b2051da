"""The folder of a run: whose it is, and from where in it a training goes on. Asked in the first process alone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml

from synclora.errors import SyncloraError
from synclora.training.config import TrainConfig, differences
from synclora.training.state import STATE_FILE, checkpoints, latest_checkpoint

ADAPTER = "adapter.safetensors"
PAIRS_A_STEP = "pairs a step"


def newest(config: TrainConfig, resume: bool, processes: int) -> Path | None:
    """The checkpoint to go on from, None for a fresh folder; SyncloraError where the folder holds another run.

    A run may go on in another number of processes, as long as its steps are of as many pairs.
    """
    output, folder = config.output, config.output / "checkpoints"
    found = checkpoints(folder)
    if not found and not (output / ADAPTER).exists():
        return None
    if not resume:
        raise SyncloraError(
            f"{output}: holds a run already. Resume it, or choose another output; nothing is overwritten."
        )
    checkpoint = latest_checkpoint(folder)
    if checkpoint is None:
        raise SyncloraError(
            f"{output}: holds a run, but no whole checkpoint to go on from ({len(found)} damaged). "
            "Restore one, or choose another output; nothing is overwritten."
        )
    try:
        saved = yaml.safe_load((output / "config.yaml").read_text(encoding="utf-8"))
        changed = differences(saved, config)
        before = int(saved["batch"]) * int(saved["accumulation"])
    except (OSError, yaml.YAMLError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise SyncloraError(
            f"{output / 'config.yaml'}: not readable, so it cannot be told whether this is the same run. "
            "Restore it, or choose another output."
        ) from error
    if changed:
        raise SyncloraError(
            f"{output}: holds a run with other settings: {'; '.join(changed)}. "
            "Set them back to resume it, or choose another output."
        )
    extra = json.loads((checkpoint / STATE_FILE).read_text(encoding="utf-8"))["extra"]
    before, now = extra.get(PAIRS_A_STEP, before), config.batch * config.accumulation * processes
    if before != now:
        fitting = [f"accumulation: {before // (config.batch * processes)}"] * (before % (config.batch * processes) == 0)
        raise SyncloraError(
            f"{output}: its steps are of {before} pairs; batch {config.batch} x accumulation {config.accumulation} x "
            f"{processes} {'process' if processes == 1 else 'processes'} are {now}. Set "
            f"{' or '.join([*fitting, 'another batch'])}, so that their product is {before}, to resume it, or choose "
            "another output."
        )
    return checkpoint


@contextmanager
def only_run(output: Path) -> Iterator[None]:
    """Hold the folder's lock; the system frees it however the process ends."""
    import fcntl

    with open(output / ".lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise SyncloraError(
                f"{output}: another run is training here. Wait for it, or choose another output."
            ) from error
        yield


def how_to_go_on(output: Path) -> str:
    """For the message of a run that broke off."""
    path = latest_checkpoint(output / "checkpoints")
    if path is None:
        return f"{output} holds no checkpoint yet: run the same command again to start anew."
    return f"Its newest checkpoint is {path}: run the same command again to go on from there."
