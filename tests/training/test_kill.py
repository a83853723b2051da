"""Killed at any instant and started again, a training ends as if it had never stopped.

SYNCLORA_KILLS=10 python -m pytest tests/training/test_kill.py        # the long version
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import tiny_run
import torch
import yaml
from safetensors.torch import load_file

from synclora.training import trainer
from synclora.training.config import parse_config
from synclora.training.state import checkpoints

KILLS = int(os.environ.get("SYNCLORA_KILLS", "3"))
STEPS = 12 * KILLS


def last_step(output: Path) -> int:
    """The newest step in the log, -1 where there is none."""
    try:
        return json.loads((output / "metrics.jsonl").read_text().splitlines()[-1])["step"]
    except (OSError, ValueError, IndexError):
        return -1


# Each run is a process of its own, forked from a server that has imported the heavy modules once and computed nothing.
# (Not tiny_run itself: Python before 3.12.8 gives the server no path to this folder.)
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(
    [
        "diffusers.models.autoencoders.autoencoder_kl_ltx",
        "diffusers.models.transformers.transformer_ltx",
        "synclora.backbones.ltx_video",
        "synclora.training.trainer",
        "torch.utils.tensorboard.writer",
        "transformers.models.byt5.tokenization_byt5",
        "transformers.models.t5.modeling_t5",
    ]
)


def start(config: Path) -> BaseProcess:
    run = SERVER.Process(target=tiny_run.main, args=(str(config),))
    run.start()
    return run


@pytest.mark.timeout(300 + 60 * KILLS)
def test_killed_training_gives_the_same_adapter_bit_for_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGKILL at random instants (in encoding, between checkpoints, in a save): equal adapters, losses and moments."""
    settings = {"steps": STEPS, "checkpoint_every": 3, "accumulation": 2, "caption_dropout": 0.5}
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    monkeypatch.setattr(trainer, "open_clips", tiny_run.noise_clips)
    through = parse_config(tiny_run.values(whole, **settings))
    threads = torch.get_num_threads()
    trainer.train(through, backbone=tiny_run.tiny_backbone(dtype=torch.bfloat16))
    torch.set_num_threads(threads)

    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(tiny_run.values(killed, **settings)))
    rng = random.Random(os.environ.get("SYNCLORA_KILL_SEED", "0"))
    reached = []
    for kill in range(KILLS):
        run = start(config)
        # The first kill comes while clips are encoded, each other one some steps further on than the one before.
        goal = -1 if kill == 0 else last_step(killed) + rng.randint(1, 12)
        while run.is_alive():
            if (killed / "cache" / "train-00000.safetensors").exists() if kill == 0 else last_step(killed) >= goal:
                break
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.05))
        run.kill()  # SIGKILL
        run.join()
        assert run.exitcode == -signal.SIGKILL, "the run ended by itself before it was killed"
        reached.append((last_step(killed), [path.name for path in checkpoints(killed / "checkpoints")]))
    last = start(config)
    last.join()
    assert last.exitcode == 0
    print("killed at (step, checkpoints):", reached)

    one, other = load_file(whole / trainer.ADAPTER), load_file(killed / trainer.ADAPTER)
    assert one.keys() == other.keys() and len(one) == 2 * 2 * 10  # A and B of 10 layers in each of 2 blocks
    for name, value in one.items():
        assert torch.equal(value, other[name]), name
    for file in ("lora.safetensors", "optimizer.safetensors"):
        end = Path("checkpoints") / f"step-{STEPS:08d}" / file
        assert (whole / end).read_bytes() == (killed / end).read_bytes(), file
    assert (whole / "metrics.jsonl").read_text() == (killed / "metrics.jsonl").read_text()
