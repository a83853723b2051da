"""Fixtures of the training tests: quiet console, tiny clips in place of real ones."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import tiny_run
import torch
from rich.console import Console

from synclora.backbones.ltx_video import LTXVideoBackbone
from synclora.training import trainer
from synclora.training.config import parse_config


@pytest.fixture
def backbone() -> LTXVideoBackbone:
    return tiny_run.tiny_backbone()


@pytest.fixture
def console() -> Console:
    return Console(file=io.StringIO(), width=2000)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Tiny models are slower on several threads, above all on a busy machine; other tests keep their number."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, console: Console) -> Callable[..., Path]:
    """Train a fresh tiny backbone on noise clips: `run(output, resume=True, **settings)`."""
    monkeypatch.setattr(trainer, "open_clips", tiny_run.noise_clips)

    def train(output: Path, resume: bool = True, backbone_seed: int = 0, **settings: object) -> Path:
        config = parse_config(tiny_run.values(output, precision="fp32", **settings))
        return trainer.train(config, resume, backbone=tiny_run.tiny_backbone(backbone_seed), console=console)

    return train
