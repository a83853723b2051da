"""A base's kind is told by its weights' own configuration, and by its name only where that is silent."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ltx2_tiny
import pytest
import torch
from safetensors.torch import save_file

from synclora.adapters.rules import SAMPLINGS
from synclora.backbones.distilled import is_distilled
from synclora.backbones.single_file import open_single_file
from synclora.editing.adapter import Adapter
from synclora.editing.editor import Editor
from synclora.errors import SyncloraError


def folder(path: Path, kind: str, scheduler: dict[str, Any] | None) -> Path:
    path.mkdir()
    index = {"transformer": ["diffusers", kind], "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"]}
    (path / "model_index.json").write_text(json.dumps(index))
    if scheduler is not None:
        (path / "scheduler").mkdir()
        (path / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler))
    return path


LTX2, LTX = "LTX2VideoTransformer3DModel", "LTXVideoTransformer3DModel"
BENT, FIXED = {"use_dynamic_shifting": True, "shift_terminal": 0.1}, {"use_dynamic_shifting": False}


@pytest.mark.parametrize(
    ("name", "kind", "scheduler", "expected"),
    [
        ("LTX-2.3", LTX2, FIXED, True),
        ("my-distilled-model", LTX2, BENT, False),
        ("LTX-2.3", LTX2, None, False),
        ("LTX-2.3-Distilled", LTX2, None, True),
        ("LTX-2.3-Distilled", LTX2, {}, True),
        ("LTX-Video-0.9.7-dev", LTX, FIXED, False),
        ("LTX-Video-0.9.7-distilled", LTX, FIXED, True),
    ],
)
def test_folders(tmp_path: Path, name: str, kind: str, scheduler: dict[str, Any] | None, expected: bool):
    """LTX-2: a scheduler that does not bend the levels by the size; else the name. LTX-Video: the name."""
    where = folder(tmp_path / name, kind, scheduler)
    assert is_distilled(where, str(where)) == expected


@pytest.mark.parametrize(
    ("name", "config", "expected"),
    [
        ("ltxv-13b.safetensors", {"allowed_inference_steps": [1.0, 0.9937, 0.725]}, True),
        ("ltxv-13b-dev.safetensors", {"allowed_inference_steps": None}, False),
        ("ltxv-13b-distilled.safetensors", {"transformer": {}}, True),
        ("ltxv-13b-distilled.safetensors", None, True),
        ("ltxv-13b-dev.safetensors", None, False),
    ],
)
def test_single_files(tmp_path: Path, name: str, config: Any, expected: bool):
    """The levels that Lightricks' header lists; else the file's own name, whatever its folder is called."""
    where = folder(tmp_path / "distilled", LTX2, FIXED)
    header = None if config is None else {"config": json.dumps(config)}
    save_file({"patchify_proj.weight": torch.zeros(1)}, where / name, header)
    single_file = open_single_file(where / name)
    assert is_distilled(where, str(where / name), single_file) == expected


def test_editors_sample_accordingly(tmp_path: Path):
    """A distilled base at its levels, with an adapter that is silent or suits both; `sampling` outranks it."""
    backbone = ltx2_tiny.backbone("2.3")
    assert Editor(backbone, None).sampling.steps == 30
    backbone.distilled = True
    editor = Editor(backbone, None)
    assert editor.sampling == SAMPLINGS["distilled"]
    editor.adapter = Adapter(tmp_path / "x.safetensors", "joint", 1)
    assert editor.sampling == SAMPLINGS["distilled"]
    assert Editor(backbone, None, sampling="dev").sampling == SAMPLINGS["dev"]
    backbone.distilled = False
    assert Editor(backbone, None, sampling="distilled").sampling == SAMPLINGS["distilled"]
    with pytest.raises(SyncloraError, match="--sampling 'fast' is not known; choose one of: distilled, dev"):
        Editor(backbone, None, sampling="fast")
