"""A published adapter, named by its hub id alone, is sampled by its own rules: on a tiny model of LTX-2.3's classes."""

from __future__ import annotations

from fractions import Fraction
from inspect import signature
from pathlib import Path
from typing import Any

import huggingface_hub
import ltx2_tiny
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from synclora.adapters.rules import KNOWN, SAMPLINGS, Window
from synclora.backbones.ltx2 import LTX2Backbone
from synclora.clip import Clip
from synclora.diffusion.lora import add_lora, save_lora
from synclora.diffusion.sequence import Sequence
from synclora.editing.editor import Editor
from synclora.errors import SyncloraError

SYNC_LORA = KNOWN[0]


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The hub's cache with a random adapter under the published one's name; its header is silent, as theirs is."""
    folder = tmp_path / f"models--{SYNC_LORA.repo.replace('/', '--')}" / "snapshots" / "0"
    folder.mkdir(parents=True)
    backbone = ltx2_tiny.backbone("2.3")
    for parameter in add_lora(backbone.transformer, rank=2):
        nn.init.normal_(parameter, std=0.1)
    save_lora(folder / "trained.safetensors", backbone.transformer, base_fingerprint="")
    save_file(load_file(folder / "trained.safetensors"), folder / SYNC_LORA.file)
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda repo, name: str(tmp_path / folder / name))
    return folder / SYNC_LORA.file


def test_a_hub_id_is_enough(cached: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a distilled base: prompt 3d1t, the eight published noise levels, one pass at each, the reference among the
    tokens (joint). Another prompt is refused."""
    backbone = ltx2_tiny.backbone("2.3")
    backbone.distilled = True
    editor = Editor(backbone, SYNC_LORA.repo)
    assert editor.adapter is not None and editor.adapter.path == cached
    prompts: list[str] = []
    calls: list[tuple[int, float]] = []
    embed, network = backbone.embed, backbone._network

    def seen(sequence: Sequence, sigma: Any, *rest: Any) -> Any:
        calls.append((sequence.tokens.shape[1] - sequence.num_target, float(sigma)))
        return network(sequence, sigma, *rest)

    monkeypatch.setattr(backbone, "_network", seen)
    monkeypatch.setattr(backbone, "embed", lambda given: prompts.extend(given) or embed(given))
    frames = torch.randint(0, 256, (ltx2_tiny.FRAMES, ltx2_tiny.SIZE, ltx2_tiny.SIZE, 3)).to(torch.uint8)
    edited = editor.edit(Clip(frames, Fraction(25)), frames[0])
    assert edited.frames.shape == frames.shape and prompts == ["3d1t"]
    levels = [1, 0.99375, 0.9875, 0.98125, 0.975, 0.909375, 0.725, 0.421875]
    assert [sigma for _, sigma in calls] == pytest.approx(levels)
    assert {reference for reference, _ in calls} == {backbone.geometry.latent_grid(len(frames))[0] * 2 * 2}
    with pytest.raises(SyncloraError, match="trained with '3d1t' alone"):
        editor.edit(Clip(frames, Fraction(25)), frames[0], prompt="a red hat")


def test_a_base_that_is_not_distilled_is_guided(cached: Path) -> None:
    """30 steps with the guidance of its pipelines; and the full-size base's window is the adapter's own."""
    backbone = ltx2_tiny.backbone("2.3")
    backbone.distilled = False
    assert Editor(backbone, SYNC_LORA.repo).sampling == SAMPLINGS["dev"]
    default = {name: given.default for name, given in signature(LTX2Backbone.from_modules).parameters.items()}
    assert SYNC_LORA.rules.window == Window(*(default[name] for name in ("width", "height", "frames", "fps")))
