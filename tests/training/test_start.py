"""Training a LoRA further from a file's weights."""

import json
from pathlib import Path

import ltx_tiny
import pytest
import tiny_run
import torch
from rich.console import Console

from synclora.diffusion.lora import LoraError, add_lora, fingerprint, lora_state, resume_lora, save_lora
from synclora.errors import SyncloraError
from synclora.training import trainer
from synclora.training.config import parse_config


def saved(path: Path) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    transformer = ltx_tiny.transformer()
    for parameter in add_lora(transformer, 4):
        parameter.data.normal_()
    save_lora(path, transformer, base_fingerprint=fingerprint(transformer), dtype=torch.float32)
    return lora_state(transformer)


def test_a_resumed_lora_holds_the_files_weights_and_learns(tmp_path: Path) -> None:
    """The weights are the file's, in float32 and trainable, and nothing else is."""
    state = saved(tmp_path / "lora.safetensors")
    torch.manual_seed(0)
    transformer = ltx_tiny.transformer()
    parameters = resume_lora(transformer, tmp_path / "lora.safetensors", base_fingerprint=fingerprint(transformer))
    again = lora_state(transformer)
    assert again.keys() == state.keys() and all(torch.equal(again[name], state[name]) for name in state)
    learning = [parameter for parameter in transformer.parameters() if parameter.requires_grad]
    assert {id(p) for p in learning} == {id(p) for p in parameters}
    assert {p.dtype for p in parameters} == {torch.float32}


def test_a_lora_of_another_base_is_refused(tmp_path: Path) -> None:
    saved(tmp_path / "lora.safetensors")
    with pytest.raises(LoraError, match="another base"):
        resume_lora(ltx_tiny.transformer(), tmp_path / "lora.safetensors", base_fingerprint="0" * 64)


def test_training_goes_on_from_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, console: Console) -> None:
    """A run whose `start` is another run's adapter begins at that adapter's held-out loss (bf16 file); a rank that is
    not the file's is refused."""
    monkeypatch.setattr(trainer, "open_clips", tiny_run.noise_clips)
    settings = tiny_run.values(tmp_path / "one", steps=20, batch=6, rank=4, precision="fp32", validate_every=20)
    first = trainer.train(parse_config(settings), backbone=tiny_run.tiny_backbone(), console=console)
    settings = tiny_run.values(tmp_path / "two", steps=1, batch=6, rank=4, precision="fp32", start=str(first))
    trainer.train(parse_config(settings), backbone=tiny_run.tiny_backbone(), console=console)

    def losses(run: str) -> list[float]:
        lines = (tmp_path / run / "metrics.jsonl").read_text().splitlines()
        return [value["validation/loss"] for line in lines if "validation/loss" in (value := json.loads(line))]

    assert losses("two")[0] == pytest.approx(losses("one")[-1], rel=1e-3) != losses("one")[0]
    settings = tiny_run.values(tmp_path / "three", steps=1, rank=8, precision="fp32", start=str(first))
    with pytest.raises(SyncloraError, match="rank: 4"):
        trainer.train(parse_config(settings), backbone=tiny_run.tiny_backbone(), console=console)
