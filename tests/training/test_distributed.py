"""Several processes: that they train what one does, save what one does, and end together."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny_run
import torch
import two_processes
import yaml
from safetensors.torch import load_file
from test_kill import last_step  # which also tells the server what to import

from synclora.diffusion.lora import load_lora
from synclora.errors import SyncloraError
from synclora.training.state import checkpoints, is_whole

Run = Callable[..., Path]
pytestmark = pytest.mark.timeout(600)  # seconds on a core of its own, minutes on a shared one

SETTINGS: dict[str, Any] = {"caption_dropout": 0.5, "checkpoint_every": 10, "keep": 2}


def weights(output: Path, step: int) -> dict[str, torch.Tensor]:
    return load_file(output / "checkpoints" / f"step-{step:08d}" / "lora.safetensors")


def difference(one: Path, other: Path, step: int) -> float:
    a, b = weights(one, step), weights(other, step)
    assert a.keys() == b.keys()
    return max((value - b[name]).abs().max().item() for name, value in a.items())


def losses(output: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]


def values(output: Path, **changes: Any) -> dict[str, Any]:
    return tiny_run.values(output, **{"precision": "fp32"} | SETTINGS | changes)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two processes train: a copy of the base in each (`copies`); the base cut up (`cut`), with samples."""
    folder = tmp_path_factory.mktemp("trained")
    cut = {"sharding": "full", "gradient_checkpointing": True, "samples": 1, "sample_every": 8, "checkpoint_every": 2}
    jobs = [
        values(folder / "copies", steps=20, ema=0.9),
        values(folder / "cut", steps=8, **cut | {"keep": 4}),
    ]
    assert two_processes.finish(two_processes.start(folder / "told", jobs)) == [0, 0], two_processes.told(
        folder / "told"
    )
    return folder


def test_two_processes_equal_one_with_twice_the_accumulation(trained: Path, tmp_path: Path, run: Run) -> None:
    """20 steps: LoRA weights and their average equal to 1e-6, the logged numbers, of six digits, to 2e-5."""
    one = run(tmp_path / "one", accumulation=2, steps=20, ema=0.9, **SETTINGS).parent
    assert difference(one, trained / "copies", 20) < 1e-6
    a, b = (load_file(p / "checkpoints/step-00000020/ema.safetensors") for p in (one, trained / "copies"))
    assert max((value - b[name]).abs().max().item() for name, value in a.items()) < 1e-6
    for ours, theirs in zip(losses(one), losses(trained / "copies"), strict=True):
        assert ours == pytest.approx(theirs, rel=2e-5), ours["step"]


def test_goes_on_in_another_number_of_processes(trained: Path, tmp_path: Path, run: Run) -> None:
    """Two processes' checkpoint 10 goes on in one with twice the accumulation, to the same weights; with another
    number of pairs a step it is refused, with the accumulation that fits."""
    again = tmp_path / "again"
    shutil.copytree(trained / "copies", again)
    shutil.rmtree(again / "checkpoints" / "step-00000020")
    (again / "adapter.safetensors").unlink()
    with pytest.raises(SyncloraError, match=r"steps are of 4 pairs; .* 1 process are 2. Set accumulation: 2 or"):
        run(again, steps=20, ema=0.9, **SETTINGS)
    run(again, accumulation=2, steps=20, ema=0.9, **SETTINGS)
    assert difference(again, trained / "copies", 20) < 1e-6


def test_a_base_that_is_cut_up_trains_the_same_lora(trained: Path, tmp_path: Path, run: Run) -> None:
    """FSDP2 equals one process to 1e-6; its files are ordinary: all layers, and the adapter edits alike."""
    one = run(tmp_path / "one", accumulation=2, steps=8, samples=1, sample_every=8, **SETTINGS).parent
    assert difference(one, trained / "cut", 8) < 1e-6
    for ours, theirs in zip(losses(one), losses(trained / "cut"), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-3), ours["step"]
    assert (trained / "cut" / "samples" / "step-00000008.png").is_file()
    backbone = tiny_run.tiny_backbone()
    header = load_lora(
        backbone.transformer, trained / "cut" / "adapter.safetensors", base_fingerprint=backbone.fingerprint()
    )
    assert header["window"] == "64x64x9@25"
    a, b = (load_file(path / "adapter.safetensors") for path in (one, trained / "cut"))
    assert a.keys() == b.keys() and all(torch.equal(value, b[name]) for name, value in a.items())


def test_resume_in_as_many_processes_is_exact(trained: Path, tmp_path: Path) -> None:
    """Steps 6 to 8 again from checkpoint 4, base cut up: weights and moments are the same bits."""
    again = tmp_path / "cut"
    shutil.copytree(trained / "cut", again)
    for step in (6, 8):
        shutil.rmtree(again / "checkpoints" / f"step-{step:08d}")
    (again / "adapter.safetensors").unlink()
    job = yaml.safe_load((trained / "cut" / "config.yaml").read_text()) | {"output": str(again)}
    assert two_processes.finish(two_processes.start(tmp_path / "told", [job])) == [0, 0]
    for name in ("lora.safetensors", "optimizer.safetensors"):
        end = Path("checkpoints/step-00000008") / name
        assert (again / end).read_bytes() == (trained / "cut" / end).read_bytes(), name


def test_refused_in_all_with_one_message(tmp_path: Path) -> None:
    """A wrong configuration ends both processes with exit code 2, and one of them says why."""
    jobs = [values(tmp_path / "run", rank=0)]
    assert two_processes.finish(two_processes.start(tmp_path / "told", jobs)) == [2, 2]
    assert len(told := two_processes.told(tmp_path / "told")) == 1 and "rank is 0" in told[0]


@pytest.mark.parametrize("victim", [0, 1])
def test_one_killed_ends_the_other_with_a_message(tmp_path: Path, run: Run, victim: int) -> None:
    """SIGKILL of either: the other ends by itself, naming it, the newest checkpoint and the way out; training goes on
    from there, in one process."""
    output = tmp_path / "run"
    settings = {"steps": 4000, "checkpoint_every": 2}
    processes = two_processes.start(tmp_path / "told", [values(output, **settings)])
    while last_step(output) < 5 and all(process.is_alive() for process in processes):
        time.sleep(0.01)
    assert all(process.is_alive() for process in processes), two_processes.told(tmp_path / "told")
    processes[victim].kill()
    codes = two_processes.finish(processes)
    assert codes[victim] == -signal.SIGKILL and codes[1 - victim] == 1
    message = "\n".join(two_processes.told(tmp_path / "told"))
    assert f"process {victim} of 2 (counted from 0) ended or stopped answering" in message
    assert "checkpoints/step-0000" in message and "run the same command again" in message
    newest = checkpoints(output / "checkpoints")[-1]
    assert is_whole(newest) and weights(output, int(newest.name[5:]))


@pytest.mark.parametrize(
    "line",
    [
        ("torch.distributed.run", "--standalone", "--nproc-per-node", "2"),
        ("accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--main_process_port", "0"),
    ],
    ids=["torchrun", "accelerate"],
)
def test_the_launcher_ends_all_when_one_is_killed(tmp_path: Path, line: tuple[str, ...]) -> None:
    """SIGKILL of process 1 ends the launcher and process 0; the message and a checkpoint stay."""
    output, here = tmp_path / "run", Path(__file__).parent
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(values(output, steps=4000, checkpoint_every=2, precision="bf16")))
    script = tmp_path / "train.py"
    script.write_text(
        f"import os, sys\nsys.path.insert(0, {str(here)!r})\nimport tiny_run\n"
        f"open({str(tmp_path)!r} + '/pid' + os.environ['RANK'], 'w').write(str(os.getpid()))\n"
        f"tiny_run.main({str(config)!r})\n"
    )
    command = [sys.executable, "-m", *line, str(script)]
    launcher = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    while last_step(output) < 5 and launcher.poll() is None:
        time.sleep(0.05)
    os.kill(int((tmp_path / "pid1").read_text()), signal.SIGKILL)
    _, errors = launcher.communicate(timeout=200)
    assert launcher.returncode != 0
    assert "synclora: process 1 of 2 (counted from 0) ended or stopped answering" in errors
    assert "run the same command again" in errors and is_whole(checkpoints(output / "checkpoints")[-1])
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid0").read_text()), 0)
