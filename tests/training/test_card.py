"""The model card says what is known, and the push puts it beside the adapter; the hub is faked."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from synclora.diffusion.lora_file import read_header
from synclora.errors import SyncloraError
from synclora.tensors import write_tensors
from synclora.training import card
from synclora.training.card import model_card, push, require_hub
from synclora.training.checks import check_folders
from synclora.training.config import TrainConfig, parse_config

HEADER = {
    "synclora_version": "0.1.0", "backbone": "ltx-2.3", "base_model": "ltx-2.3", "steps": "3000", "pairs": "532",
    "data": "pairs", "data_sha256": "d" * 64, "base_fingerprint": "f" * 64, "reference_attention": "joint",
    "reference_downscale_factor": "1", "reference_temporal_scale_factor": "1", "trigger_prompt": "3d1t",
    "window": "512x512x81@25",
}  # fmt: skip


def make_adapter(folder: Path, header: dict[str, str] = HEADER) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / "adapter.safetensors"
    name = "diffusion_model.transformer_blocks.0.attn1.to_q"
    write_tensors(path, {f"{name}.lora_A.weight": torch.ones(2, 4), f"{name}.lora_B.weight": torch.ones(4, 2)}, header)
    return path


def configured(tmp_path: Path, **changes: Any) -> TrainConfig:
    values: dict[str, Any] = {
        "backbone": "ltx-2.3", "output": str(tmp_path / "run"), "data": {"pairs": "/home/me/secret/pairs"},
        "attention": "joint", "rank": 128, "steps": 3000, "push_to_hub": "me/my-lora",
    }  # fmt: skip
    return parse_config(values | changes)


def front_of(text: str) -> dict[str, Any]:
    return yaml.safe_load(text.split("---\n")[1])


def test_a_card_of_a_published_base(tmp_path: Path) -> None:
    """Front matter names base, licence, library and tags; the text the commands, the window, the settings, the data."""
    adapter = make_adapter(tmp_path / "run")
    text = model_card(adapter, configured(tmp_path))
    front = front_of(text)
    assert front["base_model"] == "diffusers/LTX-2.3-Diffusers" and front["library_name"] == "diffusers"
    assert front["license"] == "other" and "LTX-2 Community" in front["license_name"]
    assert {"lora", "synclora"} <= set(front["tags"]) and front["instance_prompt"] == "3d1t"
    assert '--backbone ltx-2.3 --lora me/my-lora --prompt "3d1t"' in text
    assert 'load_lora_weights("me/my-lora", weight_name="adapter.safetensors")' in text
    assert "512x512x81@25" in text and "| rank, alpha | 128, 128 |" in text and "532 pairs" in text
    assert "/home/me" not in text


def test_only_what_was_measured_is_claimed(tmp_path: Path) -> None:
    """Without metrics: nothing was measured. With them: the last value of each, and synchrony is said to be missing."""
    adapter, config = make_adapter(tmp_path / "run"), configured(tmp_path)
    assert "Nothing was measured" in model_card(adapter, config)
    lines = ['{"step": 100, "validation/loss": 0.5}', '{"step": 200, "validation/loss": 0.25, "samples/psnr": 21}']
    lines.append('{"step": 300, "validat')  # cut short by a kill
    (tmp_path / "run" / "metrics.jsonl").write_text("\n".join(lines))
    text = model_card(adapter, config)
    assert "| 0.25 | 200 |" in text and "| 21 | 200 |" in text and "0.5 |" not in text
    assert "Synchrony of the edits with their sources was not measured." in text
    (tmp_path / "run" / "metrics.jsonl").write_text('{"step": 300, "samples/sync": 0.83}')
    text = model_card(adapter, config)
    assert "| 0.83 | 300 |" in text and "not measured" not in text


def test_a_base_of_ones_own(tmp_path: Path) -> None:
    """A local base is not named by its path, has no base_model and no licence that is not known."""
    header = {name: value for name, value in HEADER.items() if name not in ("trigger_prompt", "base_model")}
    adapter = make_adapter(tmp_path / "run", header)
    config = configured(tmp_path, backbone="/home/me/models/mine", attention="self", push_to_hub=None)
    text = model_card(adapter, config)
    assert "base_model" not in front_of(text) and "license" not in front_of(text)
    assert "/home/me" not in text and "only synclora samples it as trained" in text


class FakeApi:
    """Stands in for huggingface_hub.HfApi."""

    calls: list[Any] = []  # noqa: RUF012

    def create_repo(self, repo: str, **options: Any) -> str:
        self.calls.append((repo, options))
        return f"https://huggingface.co/{repo}"

    def create_commit(self, repo: str, operations: list[Any], **options: Any) -> None:
        self.calls.append({operation.path_in_repo: operation.path_or_fileobj for operation in operations})


def test_push_puts_adapter_card_and_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One commit to a repository that is private if new; the configuration names no path of this machine."""
    monkeypatch.setattr(FakeApi, "calls", [])
    monkeypatch.setattr(card, "HfApi", FakeApi)
    adapter, config = make_adapter(tmp_path / "run"), configured(tmp_path)
    assert push(adapter, config, "me/my-lora") == "https://huggingface.co/me/my-lora"
    made, files = FakeApi.calls
    assert made == ("me/my-lora", {"private": True, "exist_ok": True})
    assert set(files) == {"adapter.safetensors", "README.md", "config.yaml"}
    assert files["adapter.safetensors"] == str(adapter) and files["README.md"].startswith(b"---\nbase_model")
    saved = yaml.safe_load(files["config.yaml"])
    assert saved["rank"] == 128 and "/home/me" not in files["config.yaml"].decode()


def test_a_push_that_fails_says_how_to_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The adapter is named as whole, and the error says to log in and run again."""

    class Refusing(FakeApi):
        def create_repo(self, repo: str, **options: Any) -> str:
            raise ConnectionError("no route to host")

    monkeypatch.setattr(card, "HfApi", Refusing)
    adapter = make_adapter(tmp_path / "run")
    with pytest.raises(SyncloraError, match=r"no route to host.*adapter\.safetensors.*hf auth login"):
        push(adapter, configured(tmp_path), "me/my-lora")
    assert adapter.is_file()


def test_a_push_that_cannot_be_is_told_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Callable[..., Path]
) -> None:
    """Without a login or with a name that the hub does not allow nothing is trained or written, and planning says it;
    the same training without push_to_hub goes through, and with it, once logged in, only pushes."""
    monkeypatch.setattr(card, "get_token", lambda: None)
    with pytest.raises(SyncloraError, match=r"push_to_hub is me/my-lora, and nobody is logged in .* `hf auth login`"):
        run(tmp_path / "run", push_to_hub="me/my-lora")
    assert list(tmp_path.iterdir()) == []
    (problem,) = check_folders(configured(tmp_path), 0)
    assert "nobody is logged in" in problem
    run(tmp_path / "run", steps=1)

    monkeypatch.setattr(card, "get_token", lambda: "token")
    with pytest.raises(SyncloraError, match="push_to_hub is 'me/my/lora', which is no hub id"):
        require_hub(configured(tmp_path, push_to_hub="me/my/lora"))
    monkeypatch.setattr(FakeApi, "calls", [])
    monkeypatch.setattr(card, "HfApi", FakeApi)
    run(tmp_path / "run", steps=1, push_to_hub="me/my-lora")
    assert set(FakeApi.calls[1]) == {"adapter.safetensors", "README.md", "config.yaml"}


def test_an_adapter_names_no_path_of_this_machine(tmp_path: Path, run: Callable[..., Path]) -> None:
    """A base in a folder is named in the header by the folder's name alone, for the file itself is pushed too."""
    header = read_header(run(tmp_path / "run", steps=1, backbone=str(tmp_path)))
    assert header["backbone"] == tmp_path.name and str(tmp_path) not in " ".join(header.values())
