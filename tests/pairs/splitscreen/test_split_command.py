"""`synclora pairs generate`: each generator with its own settings, and none of the other's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from synclora.errors import SyncloraError
from synclora.pairs import PairStore
from synclora.pairs.splitscreen import run
from synclora.pairs.splitscreen.command import generate_pairs
from synclora.pairs.splitscreen.files import Failure


def test_drawn_pairs_as_before(tmp_path: Path) -> None:
    lines, any_pairs = generate_pairs(tmp_path, 1, size=64, frames=9)
    assert any_pairs and lines == [f"{tmp_path}: 1 pairs generated, 0 were already there."]
    assert PairStore(tmp_path).rows()[0].width == 64


@pytest.mark.parametrize(("made", "present"), [(2, 1), (0, 0)])
def test_split_screen_gets_its_settings_and_tells_refusals(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made: int, present: int
) -> None:
    """No pair at all is told by the second value, for the exit status."""
    got: list[Any] = []

    def generate(*positional: Any, **named: Any) -> run.Generated:
        got.append((positional, named))
        return run.Generated(made, present, [Failure("split-screen-0000009", "layout", "no face", True)])

    monkeypatch.setattr(run, "generate_split_screen", generate)
    config = tmp_path / "config.yaml"
    lines, any_pairs = generate_pairs("s3://b/p", 4, 7, generator="split-screen", config=config, executor="ray")
    assert any_pairs == bool(made + present)
    assert lines == [
        "split-screen-0000009: layout: no face",
        f"s3://b/p: {made} pairs generated, {present} were already there, 1 refused (see s3://b/p/refused.jsonl).",
    ]
    assert got == [
        (
            ("s3://b/p", 4, config, 7),
            {"prompts": None, "executor": "ray", "ray_address": None, "progress": None},
        )
    ]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"generator": "magic"}, "choose one of: procedural, split-screen"),
        ({"generator": "split-screen"}, "needs --config"),
        ({"generator": "split-screen", "config": Path("c"), "size": 64, "defects": True}, "no --size or --defects"),
        ({"prompts": Path("p.jsonl")}, "procedural takes no --prompts. They are for --generator split-screen"),
    ],
)
def test_settings_of_the_other_generator_are_refused(tmp_path: Path, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(SyncloraError, match=said):
        generate_pairs(tmp_path, 1, **settings)
    assert not list(tmp_path.iterdir())
