"""`synclora doctor` where things are broken: it still ends, and says what is wrong and the way out."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from synclora.cli import app
from synclora.doctor import diagnose, machine
from synclora.doctor.machine import Card
from synclora.doctor.report import _picture_presets, _presence
from synclora.editing.image_editors import how_it_fits

GB = 10**9


def test_without_torch_it_says_so_and_fails() -> None:
    """No traceback, and none of the checks that would only say the same."""
    code = "import sys; sys.modules['torch'] = None; from synclora.cli import app; app(['doctor'])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | {"COLUMNS": "200"}
    )
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert (
        "FAILS: ModuleNotFoundError" in done.stdout and "pip install --upgrade --force-reinstall torch" in done.stdout
    )
    assert "nano cannot edit here" in done.stdout and "video encoding" not in done.stdout


def test_a_card_that_cannot_be_asked_is_a_finding(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The presets are then told for the CPU; a cache that is a file is another finding. Nano works all the same."""
    (tmp_path / "file").touch()

    def broken() -> list[Card]:
        raise RuntimeError("CUDA error: device kernel image is invalid\nmore")

    monkeypatch.setattr(machine, "cards", broken)
    monkeypatch.setattr(machine, "cache_folder", lambda: tmp_path / "file" / "hub")
    found = diagnose()
    told = {problem.text: problem for problem in found.problems}
    assert "GPU: RuntimeError: CUDA error: device kernel image is invalid" in told
    cache = next(problem for text, problem in told.items() if text.startswith("hub cache: "))
    assert "file is a file, not a folder" in cache.text and "HF_HOME" in cache.way_out
    assert not any("sees no CUDA device" in text for text in told)
    assert found.exit_code == 0 and {preset.fits for preset in found.presets if preset.name == "nano"} == {"on the CPU"}


def test_how_image_models_fit() -> None:
    """FLUX.2 [klein]: 7.8 + 8.0 + 0.2 GB of weights. 16 fit into 24 less 4.8; into 12 less 3.2 (3 GiB) the largest
    part does, into 8 none. All must go through the host's memory."""
    sizes = [round(billions * 2e9) for billions in (3.88, 4.02, 0.084)]
    assert [how_it_fits(sizes, free * GB, free * GB) for free in (24, 12, 8)] == ["whole", "turns", "layers"]
    card = Card(0, "some card", 12 * GB, 12 * GB, "9.0")
    fits = {preset.name: preset.fits for preset in _picture_presets(card, 64 * GB)}
    assert fits["flux2-klein"].startswith("parts take turns") and fits["flux2"] == "no: 113 GB of memory are needed"


def test_a_download_without_its_tokenizer_is_partial(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "vae").mkdir()
    (tmp_path / "vae" / "a.safetensors").touch()
    (tmp_path / "vae" / "config.json").touch()
    (tmp_path / "model_index.json").write_text('{"vae": ["a", "b"], "tokenizer": ["a", "b"]}')
    monkeypatch.setattr("synclora.doctor.report.cached_folder", lambda repo: tmp_path)
    assert _presence("a/b", ("vae",)) == ("whole", ())
    assert _presence("a/b", ("vae", "tokenizer")) == ("partial", ("tokenizer/",))


def test_a_working_folder_that_is_gone_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """By any command; torch would end the process with an error of its own."""
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    done = CliRunner().invoke(app, ["doctor"])
    assert done.exit_code == 2 and "the working folder is not there any more. cd to" in done.stderr
