"""Tiny pipelines of the real classes on disk, and the configuration that uses them."""

from __future__ import annotations

import importlib.util
import sys
import types
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import pytest

from synclora.pairs.splitscreen.config import SplitScreenConfig
from tests.editing import tiny_editors
from tests.pairs.splitscreen import tiny

Configured = Callable[..., SplitScreenConfig]


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of diffusers' layout: text to image, editing, and two image-to-video families."""
    folder = tmp_path_factory.mktemp("models")
    makers = {"sd": tiny.stable_diffusion, "kontext": tiny_editors.kontext, "wan": tiny.wan, "ltx": tiny.ltx}
    return {name: make(folder / name) for name, make in makers.items()}


@pytest.fixture
def configured(models: dict[str, Path]) -> Configured:
    """configured(video="ltx", align={...}, ...) -> pairs of 48x48 px and 9 frames in two steps a model."""

    def make(video: str = "ltx", **changes: Any) -> SplitScreenConfig:
        return SplitScreenConfig.model_validate(settings(models, video) | changes)

    return make


def settings(models: dict[str, Path], video: str = "ltx") -> dict[str, Any]:
    """Noise has no faces and no bar, so neither is asked for."""
    short = {"max_sequence_length": 32}
    return {
        "width": 48,
        "height": 48,
        "frames": 9,
        "trim": 8,
        "gutter": 16,
        "portrait": {"model": str(models["sd"]), "width": 64, "height": 64, "steps": 2},
        "edit": {"model": str(models["kontext"]), "steps": 2, "options": short},
        "video": {"model": str(models[video]), "steps": 2, "options": short},
        "align": {"no_face": "keep"},
        "seam": {"shift": None, "leak": None},
    }


@pytest.fixture
def cleaner(monkeypatch: pytest.MonkeyPatch) -> None:
    """The package ftfy, which diffusers needs for Wan and does not install, or what stands in for it."""
    if importlib.util.find_spec("ftfy") is None:
        from diffusers.pipelines.wan import pipeline_wan_i2v

        stand_in = types.ModuleType("ftfy")
        stand_in.__spec__ = ModuleSpec("ftfy", None)
        stand_in.__dict__["fix_text"] = str
        monkeypatch.setitem(sys.modules, "ftfy", stand_in)
        monkeypatch.setattr(pipeline_wan_i2v, "ftfy", stand_in, raising=False)
