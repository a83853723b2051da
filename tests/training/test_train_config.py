"""Training configurations: what is refused, and in which words."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny_run
import yaml

from synclora.errors import SyncloraError
from synclora.training.config import (
    FREE,
    TrainConfig,
    differences,
    flatten,
    load_config,
    parse_config,
)


def write(path: Path, values: object) -> Path:
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stepz": 3}, r"unknown field stepz \(did you mean steps\?\); allowed here: backbone, output"),
        ({"data": {"procedural": {"motion": 3}}}, r"unknown field data.procedural.motion \(did you mean motions\?\)"),
        ({"attention": "both"}, r"attention is 'both'; allowed: 'self' or 'joint'"),
        ({"rank": 0}, r"rank is 0; input should be greater than or equal to 1"),
        ({"lr": "fast"}, r"lr is 'fast'; input should be a valid number"),
        ({"caption_dropout": 1.5}, r"caption_dropout is 1.5; .*less than or equal to 1"),
        ({"start": "a.safetensors", "alpha": 8}, r"start goes on with the file's own layers and scale"),
        ({"data": {}}, r"data: needs exactly one of pairs"),
        ({"data": {"pairs": "x", "procedural": {}}}, r"data: needs exactly one of pairs"),
        ({"data": {"procedural": {"motions": 900_001}}}, r"seed \+ motions is 900001; at most 900000"),
        ({"data": {"procedural": {"looks": 1}}}, r"data.procedural.looks is 1; .*greater than or equal to 2"),
    ],
)
def test_refused_values_are_named(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    """An error names the file, the field, the value found and what is allowed."""
    path = write(tmp_path / "train.yaml", tiny_run.values(tmp_path, **changes))
    with pytest.raises(SyncloraError, match=message) as raised:
        load_config(path)
    assert str(path) in str(raised.value)


def test_missing_output_says_what_it_is(tmp_path: Path) -> None:
    """A missing field is told with its own description."""
    with pytest.raises(SyncloraError, match="output is missing: folder of this run"):
        load_config(write(tmp_path / "c.yaml", {"data": {"procedural": {}}}))


@pytest.mark.parametrize("text", ["a: [", "- 1", "", "\x00"])
def test_not_a_configuration(tmp_path: Path, text: str) -> None:
    """Broken YAML, a list or nothing at all is a SyncloraError that names the file."""
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(SyncloraError, match=r"c\.yaml"):
        load_config(tmp_path / "c.yaml")


def test_missing_file(tmp_path: Path) -> None:
    """A path that is not there is named."""
    with pytest.raises(SyncloraError, match=r"none\.yaml: cannot be read"):
        load_config(tmp_path / "none.yaml")


def test_exponents_without_a_dot_are_numbers(tmp_path: Path) -> None:
    """YAML 1.1 reads `1e-4` as text; a learning rate written so is still 0.0001."""
    path = tmp_path / "c.yaml"
    path.write_text("output: x\nlr: 1e-4\ndata: {procedural: {}}\n")
    assert load_config(path).lr == 1e-4


def test_resolved_configuration_reads_back_the_same(tmp_path: Path) -> None:
    """save then load is the identity, defaults included."""
    config = parse_config(tiny_run.values(tmp_path))
    config.save(tmp_path / "resolved.yaml")
    assert load_config(tmp_path / "resolved.yaml") == config
    assert yaml.safe_load((tmp_path / "resolved.yaml").read_text())["grad_clip"] == 1.0


def test_what_a_resume_compares() -> None:
    """Fields that decide the numbers are reported with both values, bookkeeping fields are not; the digest agrees."""
    old = parse_config(tiny_run.values("a", rank=4, keep=2))
    same = parse_config(tiny_run.values("b", rank=4, keep=5, threads=2))
    other = parse_config(tiny_run.values("a", rank=8, data={"procedural": {"motions": 4, "looks": 2}}))
    assert differences(old.resolved(), same) == [] and old.digest() == same.digest()
    assert differences(old.resolved(), other) == ["data.procedural.motions (was 3, now 4)", "rank (was 4, now 8)"]
    assert old.digest() != other.digest()


def test_every_field_is_described_and_every_free_name_exists() -> None:
    """Each field has one line on what it does; a misspelt name in FREE would silently be compared."""
    config = parse_config(tiny_run.values("a"))
    stored = TrainConfig.model_validate(config.resolved() | {"data": {"pairs": "x"}})
    names = set(flatten(config.resolved())) | set(flatten(stored.resolved()))
    assert names >= FREE
    for model in (TrainConfig, type(config.data), type(config.data.procedural)):
        for name, field in model.model_fields.items():  # type: ignore[union-attr]
            assert field.description and len(field.description) < 110, name
