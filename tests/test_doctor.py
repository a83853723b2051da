"""`synclora doctor`: presence, fits and problems told from what is found, on machines that are only described."""

from __future__ import annotations

import io
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from synclora.backbones.presence import missing_files
from synclora.doctor import Diagnosis, diagnose, machine
from synclora.doctor.machine import Card, Check
from synclora.doctor.memory import SIZES, fitting
from synclora.doctor.report import _problems
from synclora.doctor.table import print_diagnosis
from synclora.training.published import model_of

GB = 10**9


@pytest.fixture(scope="module")
def here() -> Diagnosis:
    return diagnose()


def model(folder: Path, shards: int = 2) -> Path:
    """A transformer in shards, a VAE in one file, a tokenizer without weights, a part that is not used."""
    parts = {"transformer": ["diffusers", "A"], "vae": ["diffusers", "B"], "tokenizer": ["transformers", "C"]}
    for part in parts:
        (folder / part).mkdir(parents=True)
    names = [f"model-{n}.safetensors" for n in range(shards)]
    for name in names:
        (folder / "transformer" / name).write_bytes(b"w")
    index = {"weight_map": {f"layer{n}": name for n, name in enumerate(names)}}
    (folder / "transformer" / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "vae" / "vae.safetensors").write_bytes(b"w")
    for part in ("transformer", "vae"):
        (folder / part / "config.json").write_text("{}")
    (folder / "tokenizer" / "tokenizer.json").write_text("{}")
    listed = {"_class_name": "X", **parts, "safety_checker": [None, None]}
    (folder / "model_index.json").write_text(json.dumps(listed))
    return folder


def test_a_whole_model_lacks_nothing_and_each_missing_file_is_named(tmp_path: Path) -> None:
    folder = model(tmp_path / "model")
    assert missing_files(folder) == []
    (folder / "transformer" / "model-1.safetensors").unlink()
    (folder / "transformer" / "config.json").unlink()
    shutil.rmtree(folder / "vae")
    assert missing_files(folder) == ["transformer/config.json", "transformer/model-1.safetensors", "vae/"]
    (folder / "transformer" / "config.json").write_text("{}")
    (folder / "vae").mkdir()
    assert missing_files(folder, ("transformer",)) == ["transformer/model-1.safetensors"]
    (folder / "vae" / "config.json").write_text("{}")
    assert missing_files(folder, ("vae", "connectors")) == ["vae/*.safetensors"]
    assert missing_files(tmp_path) == ["model_index.json"]


@pytest.mark.parametrize("lacks", ["plain", "variant"])
def test_a_variant_beside_the_plain_weights_does_not_count(lacks: str, tmp_path: Path) -> None:
    """Both have an index; loading reads the plain one, whose name sorts last."""
    folder = model(tmp_path / "model")
    part = folder / "transformer"
    index = {"weight_map": {"layer": "model.fp16-1.safetensors"}}
    (part / "model.fp16.safetensors.index.json").write_text(json.dumps(index))
    (part / "model.fp16-1.safetensors").write_bytes(b"w")
    (part / ("model-1.safetensors" if lacks == "plain" else "model.fp16-1.safetensors")).unlink()
    assert missing_files(folder) == (["transformer/model-1.safetensors"] if lacks == "plain" else [])


@pytest.mark.parametrize(
    ("name", "card", "fit"),
    [
        ("ltxv-2b", 24, "whole"),
        ("ltxv-13b", 24, "no"),
        ("ltxv-13b", 40, "turns"),
        ("ltxv-13b", 80, "whole"),
        ("ltx-2.3", 24, "no"),
        ("ltx-2.3", 40, "turns"),
        ("ltx-2.3", 80, "whole"),
    ],
)
def test_what_fits_on_which_card(name: str, card: int, fit: str) -> None:
    """13B weights are 26 GB in bfloat16; with the text encoder 36 (T5) and 61 GB (Gemma), and the reserve."""
    assert fitting(SIZES[name], card * GB, card * GB, 128 * GB).fit == fit


@pytest.mark.parametrize("name", SIZES)
def test_sizes_are_those_of_the_configurations(name: str) -> None:
    """Every part's weights, to the last digit given, are what diffusers' classes have in that configuration."""
    model = model_of(name)
    counts = {"transformer": sum(p.numel() for p in model.transformer.parameters()), **model.encoders}
    digits = 4 if name == "nano" else 2
    assert SIZES[name].billions == {part: round(count / 1e9, digits) for part, count in counts.items()}
    config: Any = model.transformer.config
    assert SIZES[name].width == config["num_attention_heads"] * config["attention_head_dim"]
    assert SIZES[name].blocks == config["num_layers"]


def test_the_numbers_are_the_formulas() -> None:
    """13B: N = 11 x 16 x 16 tokens; weights 2 bytes; the larger of sampling and decoding."""
    sizes = SIZES["ltxv-13b"]
    assert sizes.tokens == 2816
    sampling = 2 * (16 * 2 * 2816 * 4096 + 2 * 2816 * 4096 * 48)
    decoding = 2 * 16 * 3 * 81 * 512 * 512
    assert sizes.work() == max(sampling, decoding)
    fits = fitting(sizes, 80 * GB, 80 * GB, 128 * GB)
    assert fits.turns == round(13.04e9) * 2 + sizes.work() and fits.int8 == round(13.04e9) + sizes.work()
    assert fits.needed == pytest.approx(2e9 * sum(sizes.billions.values()) + sizes.work())


def test_nano_needs_little() -> None:
    """As measured while editing long clips (docs/editing.md), nano's own memory stays below a gigabyte."""
    fits = fitting(SIZES["nano"], None, None, 1 * GB, each=4)
    assert fits.fit == "cpu" and fits.needed < 0.5 * GB
    assert fitting(SIZES["ltxv-13b"], None, None, 16 * GB, each=4).fit == "no"


def test_this_machine_can_edit_with_nano(here: Diagnosis) -> None:
    """Where these tests run, nano is whole and video encoding works; every preset is listed."""
    assert here.exit_code == 0
    checks = {check.name: check.works for check in here.checks}
    assert checks["nano's weights"] and checks["video encoding"] and checks["face tracking"]
    presets = {preset.name: preset for preset in here.presets}
    assert presets["nano"].presence == "in the package"
    assert {"ltx-2.3", "ltxv-13b", "qwen-image-edit"} <= set(presets)
    assert here.versions["torch"] and all(disk.free > 0 for disk in here.disks)


def test_it_is_written_as_json_and_shown(here: Diagnosis, tmp_path: Path) -> None:
    here.write(tmp_path / "doctor.json")
    read = json.loads((tmp_path / "doctor.json").read_text())
    assert read["nano_works"] is True and read["memory_total"] == here.memory_total
    console = Console(file=io.StringIO(), width=200)
    print_diagnosis(here, console)
    shown = console.file.getvalue()  # pyright: ignore[reportAttributeAccessIssue]
    assert "nano can edit here" in shown and "ltx-2.3" in shown and "working folder" in shown


def test_every_problem_has_its_way_out(here: Diagnosis) -> None:
    """Encoding that fails, a missing package and a full disk: the first two stop nano, the third only downloads."""
    checks = [
        replace(c, works=False, seen="boom", way_out="mend it") if c.name == "video encoding" else c
        for c in here.checks
    ]
    versions = {**here.versions, "av": None}
    presets = [replace(p, presence="absent") if p.name == "ltx-2.3" else p for p in here.presets]
    full = [replace(here.disks[0], free=GB), *here.disks[1:]]
    problems = _problems(checks, versions, presets, full, [Card(0, "some card", 80 * GB, 80 * GB, "9.0")])
    fatal = {problem.text.split(":")[0] for problem in problems if problem.fatal}
    assert fatal == {"video encoding", "av is not installed"}
    assert all(problem.way_out for problem in problems)
    assert any("ltx-2.3 (70 GB)" in problem.text and "HF_HOME" in problem.way_out for problem in problems)
    assert replace(here, problems=problems).exit_code == 1


def test_a_partial_download_is_told_with_the_command(here: Diagnosis) -> None:
    partial = [
        replace(p, presence="partial", missing=("transformer/x.safetensors",)) if p.name == "ltxv-2b" else p
        for p in here.presets
    ]
    problems = _problems(here.checks, here.versions, partial, here.disks, here.cards)
    told = next(problem for problem in problems if problem.text.startswith("ltxv-2b"))
    assert "transformer/x.safetensors" in told.text and told.way_out.startswith("hf download Lightricks/LTX-Video")


def test_a_failing_check_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise OSError("no encoder")

    monkeypatch.setattr("synclora.clip.write_clip", broken)
    assert machine.check_video() == Check(
        "video encoding", False, "OSError: no encoder", "pip install --force-reinstall av"
    )
