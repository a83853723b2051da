"""The trainer: what it learns, what it leaves alone, and what it refuses."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny_run
import torch
from PIL import Image
from rich.console import Console
from safetensors import safe_open
from safetensors.torch import load_file

from synclora import tensors
from synclora.diffusion.lora import load_lora
from synclora.errors import SyncloraError
from synclora.training import state, trainer
from synclora.training.config import parse_config
from synclora.training.latents import LatentCache
from synclora.training.state import checkpoints
from synclora.training.validation import held_out_loss

Run = Callable[..., Path]


def metrics(output: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def same(one: Path, other: Path) -> bool:
    a, b = load_file(one), load_file(other)
    return a.keys() == b.keys() and all(torch.equal(value, b[name]) for name, value in a.items())


def test_learns_and_leaves_the_base_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, console: Console) -> None:
    """60 steps on 6 pairs of noise bring their loss down by a tenth; every weight but the LoRA stays as it was."""
    monkeypatch.setattr(trainer, "open_clips", tiny_run.noise_clips)
    backbone = tiny_run.tiny_backbone()
    before = {name: tensor.clone() for name, tensor in backbone.transformer.state_dict().items()}
    cache = LatentCache(tmp_path / "cache", tiny_run.NoiseClips(), backbone)
    cache.fill()
    empty = torch.zeros(1, 16)
    start = held_out_loss(backbone, cache, empty, "self", 6, seed=1)["validation/loss"]
    settings = tiny_run.values(tmp_path, steps=60, batch=6, rank=16, precision="fp32", log_every=60)
    trainer.train(parse_config(settings), backbone=backbone, console=console)
    assert held_out_loss(backbone, cache, empty, "self", 6, seed=1)["validation/loss"] < 0.9 * start
    after = {name.replace(".base_layer", ""): tensor for name, tensor in backbone.transformer.state_dict().items()}
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_adapter_carries_the_trained_network_and_its_provenance(tmp_path: Path, run: Run) -> None:
    """The file, read into a fresh base, gives the held-out loss of the last log line; its header says how it came."""
    path = run(tmp_path, alpha=8, seed=5)
    backbone = tiny_run.tiny_backbone()
    header = load_lora(backbone.transformer, path, base_fingerprint=backbone.fingerprint())
    cache = LatentCache(tmp_path / "cache", tiny_run.noise_clips()[1], backbone)
    empty = backbone.embed([""])
    losses = held_out_loss(backbone, cache, empty.hidden[0][empty.mask[0]], "self", 2, seed=5)
    last = [line for line in metrics(tmp_path) if "validation/loss" in line][-1]
    assert last["step"] == 8
    for name, loss in losses.items():
        assert last[name] == pytest.approx(loss, rel=2e-3), name
    config = parse_config(tiny_run.values(tmp_path, precision="fp32", alpha=8, seed=5))
    expected = {"steps": "8", "rank": "4", "data": "procedural", "config_sha256": config.digest(), "pairs": "6"}
    assert expected.items() <= header.items() and header["reference_attention"] == "self"
    with safe_open(str(path), framework="pt") as file:
        assert all(name.startswith("diffusion_model.") for name in file.keys())  # noqa: SIM118


def test_accumulation_equals_a_larger_batch(tmp_path: Path, run: Run) -> None:
    """2 passes of 2 pairs = 1 pass of 4: same data, noise and mean gradient, so the same adapter but for rounding."""
    one = load_file(run(tmp_path / "one", batch=4, steps=4))
    two = load_file(run(tmp_path / "two", batch=2, accumulation=2, steps=4))
    for name, value in one.items():
        torch.testing.assert_close(value.float(), two[name].float(), rtol=0.02, atol=1e-4, msg=name)


def test_goes_on_from_the_newest_whole_checkpoint(tmp_path: Path, run: Run) -> None:
    """Stopped after step 6, its newest checkpoint damaged: goes on from step 4 to the adapter of a run never stopped,
    and the log holds each step once."""
    whole = run(tmp_path / "whole", caption_dropout=0.5)
    again = tmp_path / "again"
    run(again, caption_dropout=0.5, keep=3)
    (again / "adapter.safetensors").unlink()
    shutil.rmtree(again / "checkpoints" / "step-00000008")
    (again / "checkpoints" / "step-00000006" / "lora.safetensors").write_bytes(b"cut")
    with open(again / "metrics.jsonl", "a") as file:
        file.write('{"step": 8, "train/lo')
    assert same(run(again, caption_dropout=0.5, keep=3), whole)
    assert metrics(again) == metrics(tmp_path / "whole")


def test_finished_run_is_left_as_it_is(tmp_path: Path, run: Run, console: Console) -> None:
    """Started once more, a finished training returns its adapter and changes no file."""
    path = run(tmp_path)
    before = snapshot(tmp_path)
    assert run(tmp_path) == path and snapshot(tmp_path) == before
    assert "already finished at step 8" in console.file.getvalue()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rank": 8, "steps": 9}, r"rank \(was 4, now 8\); steps \(was 8, now 9\)"),
        ({"resume": False}, "holds a run already"),
        ({"backbone_seed": 1}, "another content of: backbone, VAE, text encoder"),
    ],
)
def test_another_run_in_the_folder_is_refused_untouched(
    tmp_path: Path, run: Run, changes: dict[str, Any], message: str
) -> None:
    """Other settings, other base weights or a start from nothing where a run is: named, no file changed."""
    run(tmp_path)
    before = snapshot(tmp_path)
    with pytest.raises(SyncloraError, match=message):
        run(tmp_path, **changes)
    assert snapshot(tmp_path) == before


def test_other_data_is_refused(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same settings over other pairs are another run."""
    run(tmp_path)
    others = (tiny_run.NoiseClips(seed=3), tiny_run.NoiseClips("validation", count=2, seed=7))
    monkeypatch.setattr(trainer, "open_clips", lambda *_: others)
    with pytest.raises(SyncloraError, match=r"another content of: data\."):
        run(tmp_path)


def test_never_starts_over_when_all_checkpoints_are_damaged(tmp_path: Path, run: Run) -> None:
    """No whole checkpoint left: refused rather than begun again at step 0."""
    run(tmp_path)
    for path in checkpoints(tmp_path / "checkpoints"):
        (path / "state.json").unlink()
    with pytest.raises(SyncloraError, match=r"no whole checkpoint to go on from \(2 damaged\)"):
        run(tmp_path)


def test_divergence_names_the_step_and_keeps_the_last_good_checkpoint(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NaN in step 5 stops there; checkpoint 4 stays, and with the cause gone the run ends as if it had not happened."""
    whole = run(tmp_path / "whole")
    real, calls = trainer.step_loss, iter(range(100))
    monkeypatch.setattr(trainer, "step_loss", lambda *a: real(*a) * (float("nan") if next(calls) == 5 else 1))
    with pytest.raises(SyncloraError, match=r"diverged at step 5: loss nan.*last good checkpoint is .*step-00000004"):
        run(tmp_path / "nan")
    assert not (tmp_path / "nan" / "adapter.safetensors").exists()
    monkeypatch.setattr(trainer, "step_loss", real)
    assert same(run(tmp_path / "nan"), whole)


def test_full_disk_stops_with_a_message_and_the_run_goes_on_later(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ENOSPC while saving checkpoint 6 is a SyncloraError; with space again the run goes on from checkpoint 4."""
    whole, real = run(tmp_path / "whole"), state.dump_tensors

    def full(path: Path, *rest: Any) -> None:
        if "step-00000006" in str(path):
            raise OSError(28, os.strerror(28))
        real(path, *rest)

    monkeypatch.setattr(state, "dump_tensors", full)
    with pytest.raises(SyncloraError, match="step-00000006: cannot be written"):
        run(tmp_path / "full")
    monkeypatch.setattr(state, "dump_tensors", real)
    assert same(run(tmp_path / "full"), whole)


def test_output_that_cannot_be_a_folder(tmp_path: Path, run: Run) -> None:
    """An output path under a file is refused by name before anything is loaded."""
    (tmp_path / "file").write_text("")
    with pytest.raises(SyncloraError, match="file/run: cannot be written"):
        run(tmp_path / "file" / "run")


def test_two_runs_in_one_folder(tmp_path: Path, run: Run) -> None:
    """The second is refused while the first holds the folder."""
    with trainer._only_run(tmp_path), pytest.raises(SyncloraError, match="another run is training here"):
        run(tmp_path)
    run(tmp_path, steps=1)


def test_no_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, console: Console) -> None:
    """`device: cuda` where torch can use none is refused with the reason and the setting that works."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", None)
    config = parse_config(tiny_run.values(tmp_path, device="cuda"))
    with pytest.raises(SyncloraError, match=r"device is cuda, and this torch was built without CUDA.*Set device: cpu"):
        trainer.train(config, console=console)


def test_unknown_targets(tmp_path: Path, run: Run) -> None:
    """Layer names the backbone lacks are refused."""
    with pytest.raises(SyncloraError, match=r"targets \['attn9.to_q'\]: no such layers"):
        run(tmp_path, targets=["attn9.to_q"])


def test_samples_and_held_out_losses_are_written(tmp_path: Path, run: Run) -> None:
    """Every 4 steps: a strip of 2 pairs, 3 rows of 64 px each, and losses at 4 levels whose mean is the whole."""
    run(tmp_path, samples=2, sample_every=4, validate_every=4)
    assert sorted(path.name for path in (tmp_path / "samples").iterdir()) == ["step-00000004.png", "step-00000008.png"]
    with Image.open(tmp_path / "samples" / "step-00000008.png") as image:
        assert image.height == 2 * (3 * 68 + 4) and image.width > 8 * 64
        assert len(image.getcolors(1 << 20) or range(1 << 20)) > 100
    lines = [line for line in metrics(tmp_path) if "validation/loss" in line]
    assert [line["step"] for line in lines] == [0, 4, 8]
    levels = [value for name, value in lines[0].items() if "loss_at" in name]
    assert len(levels) == 4 and sum(levels) / 4 == pytest.approx(lines[0]["validation/loss"], rel=1e-4)
    assert lines[0]["validation/loss"] != lines[2]["validation/loss"]
    assert {line["step"] for line in metrics(tmp_path) if "samples/psnr" in line} == {4, 8}
    assert list((tmp_path / "tensorboard").iterdir())


def test_looking_does_not_change_the_training(tmp_path: Path, run: Run) -> None:
    """Held-out losses and samples draw nothing from the training's numbers: the adapter is the same without them."""
    assert same(run(tmp_path / "a", samples=1, sample_every=2, validate_every=3), run(tmp_path / "b"))


def test_checkpoint_files_are_readable_by_others(tmp_path: Path) -> None:
    """A file has the mode the umask gives any new file, not the 0600 of a temporary one."""
    plain = tmp_path / "plain"
    plain.touch()
    tensors.write_tensors(tmp_path / "x.safetensors", {"a": torch.zeros(1)})
    assert (tmp_path / "x.safetensors").stat().st_mode == plain.stat().st_mode
