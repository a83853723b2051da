"""The launch lines of the documentation, as they are typed: `accelerate launch` on the CPU, with a real backbone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file

from synclora.training.config import load_config
from synclora.training.trainer import train

pytestmark = pytest.mark.timeout(300)  # seconds on a core of its own
STEPS = 3


def configure(tmp_path: Path, backbone: Path, name: str, **changes: Any) -> Path:
    """A configuration of a few steps; the runs of a test share their cache."""
    data = {"procedural": {"motions": 2, "looks": 2}, "validation": 1, "frames": 9, "cache": str(tmp_path / "cache")}
    values = {
        "backbone": str(backbone), "output": str(tmp_path / name), "data": data, "rank": 4, "steps": STEPS, "batch": 1,
        "lr": 1e-2, "warmup": 0, "precision": "fp32", "samples": 0, "validate_every": 100, "checkpoint_every": 2,
        "log_every": 1, "threads": 1, "device": "cpu",
    }  # fmt: skip
    path = tmp_path / f"{name}.yaml"
    path.write_text(yaml.safe_dump(values | changes))
    return path


def launch(*arguments: object) -> subprocess.CompletedProcess[str]:
    """`accelerate launch ...`, without what its own configuration on this machine may say."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("ACCELERATE_", "MASTER_"))}
    return subprocess.run(
        [sys.executable, "-m", "accelerate.commands.launch", *map(str, arguments)],
        env=environment | {"OMP_NUM_THREADS": "1", "HF_HOME": "/nonexistent"},
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )


def test_two_processes_with_a_base_cut_up_equal_one(tiny_backbone: Path, tmp_path: Path) -> None:
    """`accelerate launch --multi_gpu --num_processes 2`, FSDP2: the weights of one process with twice the accumulation
    to 1e-6, steps of two pairs, and the adapter's path as all that is printed to stdout."""
    config = configure(tmp_path, tiny_backbone, "two", sharding="full", gradient_checkpointing=True)
    done = launch("--multi_gpu", "--num_processes", 2, "-m", "synclora", "train", config)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{tmp_path / 'two' / 'adapter.safetensors'}\n"
    train(load_config(configure(tmp_path, tiny_backbone, "one", accumulation=2)))
    checkpoint = f"checkpoints/step-{STEPS:08d}"
    assert json.loads((tmp_path / "two" / checkpoint / "state.json").read_text())["extra"]["pairs a step"] == 2
    two, one = (load_file(tmp_path / name / checkpoint / "lora.safetensors") for name in ("two", "one"))
    assert two.keys() == one.keys() and max((two[name] - one[name]).abs().max().item() for name in one) < 1e-6


def test_one_process_in_place_of_several_is_refused(tiny_backbone: Path, tmp_path: Path) -> None:
    """`accelerate launch --cpu --num_processes 2` starts one process, whose steps would be of half the pairs: refused
    before anything is written, with the line that works."""
    done = launch(
        "--cpu", "--num_processes", 2, "-m", "synclora", "train", configure(tmp_path, tiny_backbone, "refused")
    )
    assert done.returncode == 1  # accelerate's own
    (told,) = (line for line in done.stderr.splitlines() if line.startswith("synclora:"))
    assert "`accelerate launch --multi_gpu --num_processes N -m synclora train CONFIG`" in told
    assert not (tmp_path / "refused").exists()
