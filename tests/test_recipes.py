"""The recipes under recipes/: that they are valid, and say of themselves what planning says of them."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from synclora.training.config import load_config
from synclora.training.plan import GIB, Card, plan

RECIPES = Path(__file__).parents[1] / "recipes"
LTX = sorted((RECIPES / "ltx").glob("*.yaml"))


@pytest.mark.parametrize("path", sorted((RECIPES / "nano").glob("*.yaml")), ids=lambda path: path.name)
def test_nano_recipes_parse(path: Path) -> None:
    """Every field is known and every value allowed."""
    assert load_config(path).backbone


def test_every_model_has_recipes() -> None:
    """Cards of 24, 48 and 80 GB and 8 GPUs; LTX-2.3's text encoder does not fit on 24 GB."""
    sizes = {model: {path.stem.removeprefix(f"{model}-") for path in LTX if path.stem.startswith(model)}
             for model in ("ltxv-2b", "ltxv-13b", "ltx-2.3")}  # fmt: skip
    assert sizes["ltxv-2b"] == sizes["ltxv-13b"] == {"24gb", "48gb", "80gb", "8gpu"}
    assert sizes["ltx-2.3"] == {"48gb", "80gb", "8gpu"}


@pytest.mark.parametrize("path", LTX, ids=lambda path: path.name)
def test_ltx_recipes_say_what_planning_says(path: Path) -> None:
    """The memory in a recipe's header and in the README's table is what `plan` computes, and it fits the card."""
    text = path.read_text(encoding="utf-8")
    card = int(_found(r"of (\d+) GB: 512x512, 81 frames", text))
    processes = int(_found(r"--num_processes (\d+)", text)) if "--num_processes" in text else 1
    assert f"synclora train recipes/ltx/{path.name}" in text
    config = load_config(path)
    found = plan(config, processes)
    assert (found.geometry.width, found.geometry.height, found.frames, config.rank) == (512, 512, 81, 128)
    training, encoding = f"{found.total / GIB:.1f} GiB", f"{found.encoding / GIB:.1f} GiB"
    assert f"not measured: {training} training, {encoding} of weights encoding." in text
    if found.host:
        assert f"computed: {found.host / GIB:.1f} GiB, pinned" in text
    assert found.fits(Card("a card", card, 1))
    row = next(line for line in (path.parent / "README.md").read_text().splitlines() if f"`{path.name}`" in line)
    assert training in row and encoding in row


def _found(pattern: str, text: str) -> str:
    match = re.search(pattern, text)
    assert match is not None, f"{pattern} is not in the header"
    return match[1]


def test_gpu_measurement_runs_whole(tmp_path: Path) -> None:
    """Tiny on the CPU: both files, every bar's row for both models, and our `joint` the same numbers as diffusers'."""
    import importlib.util
    import json

    import torch

    spec = importlib.util.spec_from_file_location("measure_gpu", RECIPES / "ltx" / "measure_gpu.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["measure_gpu"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    found = module.measure(tmp_path, True, torch.device("cpu"), steps=1)
    assert json.loads((tmp_path / "gpu.json").read_text()) == found
    text = (tmp_path / "gpu.md").read_text()
    for bar, value in module.BARS.items():
        assert f"{bar} |" in text and f"at least {value}" in text
    for model in ("ltxv-13b", "ltx-2.3"):
        measured = found["models"][model]
        assert measured["editing"]["relative difference of joint"] < 0.02  # bfloat16
        assert measured["training"]["TFLOP"] > 0 and "CPU" in found["card"]
