"""Adapters' rules: from headers and from the table of published ones; where files come from; the base they need."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import huggingface_hub
import pytest

from synclora.adapters.hub import locate
from synclora.adapters.rules import (
    KNOWN,
    SAMPLINGS,
    Rules,
    Sampling,
    Window,
    prompt_for,
    require_base,
    rules_header,
    rules_of,
    sampling_for,
)
from synclora.backbones.base import Geometry
from synclora.diffusion.guidance import Guidance
from synclora.diffusion.lora_file import LoraError

REPO, FILE = KNOWN[0].repo, KNOWN[0].file


@pytest.mark.parametrize(
    ("path", "repo"),
    [
        ("anything.safetensors", REPO),
        (FILE, None),
        (f"/cache/hub/models--SagiPolaczek--LTX-2.3-Sync-LoRA/snapshots/1/{FILE}", None),
    ],
)
def test_published_sync_lora(path: str, repo: str | None):
    """By hub id, by name or by its place in the hub's cache: prompt 3d1t, 512x512x81 at 25 fps, joint attention, the
    distilled sigmas or dev guidance (30 steps, CFG 3, STG 1 at block 28, rescale 0.7), on LTX-2.3."""
    rules = rules_of(path, {}, repo)
    assert rules == Rules("joint", 1, "3d1t", Window(512, 512, 81, 25), ("distilled", "dev"), "ltx-2.3", REPO)
    distilled, dev = (SAMPLINGS[name] for name in rules.sampling)
    assert distilled.sigmas is not None and len(distilled.sigmas) == 9 and distilled.guidance.passes == 1
    assert (dev.steps, dev.sigmas) == (30, None)
    assert dev.guidance == Guidance(cfg=3, stg=1, stg_blocks=(28,), rescale=0.7)


def test_prompt_and_sampling_to_use():
    """No prompt means the adapter's own, another is refused; adapters without one take any. Distilled bases take the
    fixed sigmas, others dev guidance, where the adapter speaks of it."""
    rules = rules_of(FILE, {})
    assert prompt_for(FILE, rules, "") == prompt_for(FILE, rules, "3d1t") == "3d1t"
    with pytest.raises(LoraError, match=r"the prompt is 'red hair'; this adapter was trained with '3d1t' alone"):
        prompt_for(FILE, rules, "red hair")
    assert prompt_for("x", Rules(), "red hair") == "red hair"
    assert sampling_for(rules, distilled=True) == SAMPLINGS["distilled"]
    assert sampling_for(rules, distilled=False) == SAMPLINGS["dev"] and sampling_for(Rules(), distilled=True) is None


def test_other_repositories_files_of_that_name_are_others():
    """A hub id that is not the table's outranks a file's name."""
    assert rules_of(FILE, {}, "someone/else") == Rules()


def test_header_outranks_the_table():
    """What the file itself says holds: here a reference of half the size, seen by itself."""
    rules = rules_of(FILE, {"reference_downscale_factor": "2", "reference_attention": "self", "trigger_word": "abc"})
    assert (rules.downscale, rules.attention, rules.prompt, rules.base) == (2, "self", "abc", "ltx-2.3")


def test_steps_it_was_trained_for():
    """Two steps, no guidance, on any base; a number below 1 is refused."""
    rules = rules_of("x.safetensors", {"sampling_steps": "2"})
    for distilled in (False, True):
        assert sampling_for(rules, distilled=distilled) == Sampling(2, Guidance())
    with pytest.raises(LoraError, match="sampling_steps is '0'"):
        rules_of("x.safetensors", {"sampling_steps": "0"})


def test_silent_header():
    """Published files that say nothing are joint, at full size, with a free prompt."""
    assert rules_of("x.safetensors", {}) == Rules("joint", 1, None, None, (), None, None)


def test_header_round_trip():
    """Rules written as header strings are read back equal (all but the hub id)."""
    rules = Rules("self", 2, "a b", Window(768, 448, 121, 24.5), ("dev",), "ltx-2.5", steps=2)
    assert rules_of("x.safetensors", rules_header(rules)) == rules


@pytest.mark.parametrize(
    ("header", "factor"),
    [
        ({"reference_downscale_factor": "2"}, 2),
        ({"reference_spatial_scale_factor": "2"}, 2),
        ({"reference_downscale_factor": "2", "reference_spatial_scale_factor": "2"}, 2),
        ({"reference_downscale_factor": "2.0"}, 2),
    ],
)
def test_both_names_of_the_reference_factor(header: dict[str, str], factor: int):
    """Older trainers write one, newer ones both."""
    assert rules_of("x.safetensors", header).downscale == factor


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"reference_downscale_factor": "2", "reference_spatial_scale_factor": "4"}, "two names of one number"),
        ({"reference_downscale_factor": "half"}, "whole number from 1"),
        ({"reference_downscale_factor": "0"}, "whole number from 1"),
        ({"reference_temporal_scale_factor": "2"}, "only 1"),
        ({"reference_attention": "both"}, "'self' or 'joint'"),
        ({"window": "512x512"}, "WIDTHxHEIGHTxFRAMES@FPS"),
        ({"sampling": "dev,fast"}, "'fast' in its header"),
    ],
)
def test_headers_that_are_refused(header: dict[str, str], message: str):
    """The file, the value found and the value needed."""
    with pytest.raises(LoraError, match=f"x.safetensors.*{message}"):
        rules_of("x.safetensors", header)


def test_wrong_base_is_refused_by_name():
    """LTX-Video 13B and LTX-2.0 have LTX-2.3's layers and shapes; the adapter is kept off both, and off nano."""
    rules = rules_of(FILE, {})
    ltx2: dict[str, Any] = {
        "_class_name": "LTX2VideoTransformer3DModel",
        "num_attention_heads": 32,
        "attention_head_dim": 128,
    }
    require_base(FILE, rules, {**ltx2, "gated_attn": True})
    require_base(FILE, rules, {**ltx2, "num_attention_heads": 2})  # a tiny one of the class
    with pytest.raises(LoraError, match=r"LTX-2\.3 22B, and this base is LTX-2\.0 19B.*--backbone ltx-2\.3"):
        require_base(FILE, rules, ltx2)
    video = {**ltx2, "_class_name": "LTXVideoTransformer3DModel", "num_layers": 48}
    with pytest.raises(LoraError, match=r"this base is LTX-Video 0\.9\.7 and 0\.9\.8 13B"):
        require_base(FILE, rules, video)
    require_base("x.safetensors", Rules(), video)  # nothing is known of it


def test_locate_on_disk(tmp_path: Path):
    """A file, a folder with one; missing, none and several are told apart, without asking the hub."""
    one = tmp_path / "one"
    one.mkdir()
    file = one / "adapter_model.safetensors"
    file.touch()
    assert locate(file).path == locate(one).path == file and locate(file).repo is None
    (one / "other.safetensors").touch()
    with pytest.raises(LoraError, match=r"holds 2 \(adapter_model.safetensors, other.safetensors\)"):
        locate(one)
    with pytest.raises(LoraError, match="holds none"):
        locate(tmp_path)
    for missing in ("no.safetensors", "./no/such", f"{tmp_path}/no", "runs/no.safetensors", "nowhere"):
        with pytest.raises(LoraError, match="no such LoRA file"):
            locate(missing)


def test_locate_on_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A known id means its file; any other id its only .safetensors file; and a file of a repository by its path."""
    asked: list[tuple[str, str]] = []

    def download(repo: str, name: str) -> str:
        asked.append((repo, name))
        return str(tmp_path / name)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda repo, name: None)
    monkeypatch.setattr(huggingface_hub, "list_repo_files", lambda repo: ["README.md", "w/l.safetensors"])
    assert locate(REPO).repo == REPO
    locate("someone/lora")
    locate("someone/loras/a/b.safetensors")
    assert asked == [(REPO, FILE), ("someone/lora", "w/l.safetensors"), ("someone/loras", "a/b.safetensors")]
    monkeypatch.setattr(huggingface_hub, "list_repo_files", lambda repo: ["a.safetensors", "b.safetensors"])
    with pytest.raises(LoraError, match="repository holds 2"):
        locate("someone/lora")
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda repo, name: str(tmp_path / "cached"))
    assert locate(REPO).path == tmp_path / "cached" and len(asked) == 3


def test_hub_out_of_reach(monkeypatch: pytest.MonkeyPatch):
    """The message holds the very command that fetches the file, and the licence."""

    def offline(*_: Any, **__: Any) -> Any:
        raise ConnectionError("no network")

    for name in ("hf_hub_download", "list_repo_files", "snapshot_download"):
        monkeypatch.setattr(huggingface_hub, name, offline)
    with pytest.raises(LoraError) as caught:
        locate(REPO)
    assert f"`hf download {REPO} {FILE} --local-dir adapters`" in str(caught.value)
    assert "licence: that of LTX-2's weights" in str(caught.value)
    with pytest.raises(LoraError, match=r'`hf download a/b --include "\*\.safetensors" --local-dir adapters`'):
        locate("a/b")


def test_a_window_other_than_the_models_is_told() -> None:
    """Trained on 512x512x81 at 25, sampled at another size: one notice that names both; at its own size none."""
    from synclora.editing.adapter import Adapter
    from synclora.editing.result import adapter_notices

    adapter = Adapter(Path("a.safetensors"), "joint", 1, Rules(window=Window(512, 512, 81, 25.0)))
    own = Geometry(512, 512, 81, 25.0, 32, 8, 128)
    assert adapter_notices(adapter, own) == [] == adapter_notices(None, own)
    (notice,) = adapter_notices(adapter, Geometry(704, 480, 81, 25.0, 32, 8, 128))
    assert "512x512x81@25" in str(notice) and "704x480x81@25" in str(notice)
