"""The command line: what each command passes on, what it prints, and how it ends."""

import resource
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from synclora.cli import app
from synclora.clip import read_clip
from synclora.console import _laid_out
from synclora.errors import SyncloraError
from synclora.pairs import PairStore

runner = CliRunner()


def run(*arguments: object):
    return runner.invoke(app, [str(argument) for argument in arguments])


def test_help_is_quick_and_names_every_command() -> None:
    """Help costs less than a second of processor time (the clock on the wall depends on who else is at work)."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-m", "synclora", "--help"], capture_output=True, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    for command in ("first-frame", "edit", "demo", "train", "bench", "sync", "pairs", "lora"):
        assert command in done.stdout
    assert after.ru_utime - before.ru_utime < 1.0


def test_import_is_light() -> None:
    """`import synclora` and its command line load neither torch nor av; those come with the first use."""
    code = "import sys, synclora, synclora.cli; print({'torch', 'av', 'numpy', 'PIL'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
    import synclora
    from synclora.editing.editor import Editor

    assert synclora.Editor is Editor


def test_commands_in_an_error_keep_lines_of_their_own() -> None:
    """Everything else is one paragraph; an empty line begins a new one."""
    lines = ["a: its weights", "are not here. Download", "them with", '  hf download a/b --include "x"', "or not.", ""]
    text = "\n".join([*lines, "b: as", "well."])
    assert _laid_out(text).splitlines() == [
        "a: its weights are not here. Download them with",
        '  hf download a/b --include "x"',
        "or not.",
        "b: as well.",
    ]


def test_unknown_name_is_an_attribute_error() -> None:
    import synclora

    with pytest.raises(AttributeError, match="no attribute 'Editr'"):
        _ = synclora.Editr
    assert {"Clip", "Editor", "edit", "read_clip"} <= set(dir(synclora))


def test_usage_errors_exit_with_2() -> None:
    for arguments in (
        ("edit",),
        ("edit", "a.mp4", "--steps", "many"),
        ("fly",),
        ("bench", "--suite", "x", "--out", "o"),
    ):
        assert run(*arguments).exit_code == 2


def test_frame_then_edit(samples: Path, tiny_backbone: Path, tmp_path: Path) -> None:
    """The two commands a person runs, one after the other."""
    frame, out = tmp_path / "frame.png", tmp_path / "out.mp4"
    done = run("first-frame", samples / "source.mp4", "-o", frame, "--backbone", tiny_backbone)
    assert done.exit_code == 0, done.output
    assert done.stdout.strip() == f"{frame}  (128x128)"
    arguments = ("edit", samples / "source.mp4", "--first-frame", frame, "-o", out, "--backbone", tiny_backbone)
    done = run(*arguments, "--steps", 1, "--frames", 10, "--seed", 3)
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines()[0] == "note: the first 10 of about 17 frames of source.mp4 were edited."
    assert done.stdout.splitlines()[1].startswith(f"{out}  (10 frames at 25 fps, with the source's sound; ")
    assert read_clip(out).num_frames == 10


def test_every_flag_reaches_the_editor(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict = {}

    def edit(*arguments, **settings):
        seen.update(settings, arguments=arguments)
        raise SyncloraError("stop here")

    monkeypatch.setattr("synclora.editing.editor.edit", edit)
    flags = ["--prompt", "p", "--backbone", "b", "--lora", "l", "--steps", "3", "--seed", "4"]
    flags += ["--frames", "5", "--fit", "trim", "--device", "cpu", "--keyframe", "60=k.png", "--keyframe", "7=l.png"]
    flags += ["--strength", "0.5", "--mask", "m.png", "--keep-background", "--crop", "center"]
    flags += ["--upscale", "u", "--sampling", "dev", "--detail", "model"]
    run("edit", "a.mp4", "--first-frame", "f.png", "-o", "o.mp4", *flags)
    seen.pop("progress")
    assert seen == {
        "arguments": (Path("a.mp4"), Path("f.png"), Path("o.mp4")),
        "prompt": "p", "backbone": "b", "lora": "l", "steps": 3, "seed": 4, "frames": 5, "fit": "trim", "device": "cpu",
        "keyframes": {60: Path("k.png"), 7: Path("l.png")}, "strength": 0.5, "mask": Path("m.png"),
        "keep_background": True, "crop": "center", "upscale": "u", "sampling": "dev", "detail": "model",
    }  # fmt: skip
    run("edit", "a.mp4", "--first-frame", "f.png", "-o", "o.mp4", "--no-lora")
    assert seen["lora"] is None and seen["steps"] is None
    assert (seen["keyframes"], seen["strength"], seen["mask"], seen["crop"]) == ({}, 1.0, None, "face")
    assert (seen["upscale"], seen["sampling"], seen["detail"]) == (None, None, None)


@pytest.mark.parametrize(
    ("flag", "value", "told"),
    [("--steps", "0", "--steps 0"), ("--strength", "2", "--strength 2"), ("--fit", "x", "--fit 'x'"),
     ("--detail", "x", "--detail 'x'"), ("--seed", "-1", "--seed -1")],
)  # fmt: skip
def test_settings_are_refused_before_the_words_are_drawn(
    monkeypatch: pytest.MonkeyPatch, flag: str, value: str, told: str
) -> None:
    monkeypatch.setattr("synclora.editing.instruction.chosen_first_frame", lambda *_, **__: pytest.fail("drawn"))
    done = run("edit", "a.mp4", "--instruction", "a hat", "-o", "o.mp4", flag, value)
    assert done.exit_code == 2 and told in done.output


def test_words_make_the_first_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    """The frame that the words made is edited with; where the person says no, nothing is, and the exit code is 0."""
    asked: dict = {}
    edited: list = []

    def chosen(source, output, first_frame, instruction, **settings):
        asked.update(settings, given=(source, output, first_frame, instruction))
        return Path("made.png") if settings["yes"] else None

    def edit(*arguments, **_):
        edited.append(arguments[1])
        raise SyncloraError("stop here")

    monkeypatch.setattr("synclora.editing.instruction.chosen_first_frame", chosen)
    monkeypatch.setattr("synclora.editing.editor.edit", edit)
    words = ["edit", "a.mp4", "-o", "o.mp4", "--instruction", "a hat", "--editor", "e", "--seed", "4"]
    assert run(*words).exit_code == 0 and edited == []
    run(*words, "--yes")
    assert edited == [Path("made.png")] and asked["given"] == (Path("a.mp4"), Path("o.mp4"), None, "a hat")
    assert (asked["editor"], asked["seed"], asked["backbone"], asked["crop"]) == ("e", 4, "nano", "face")


def test_train_plan(tmp_path: Path) -> None:
    """A sound configuration: memory and time, exit code 0, nothing written; a store that is not there: exit code 2."""
    config = tmp_path / "train.yaml"
    config.write_text(f"output: {tmp_path / 'run'}\ndata: {{procedural: {{motions: 4, looks: 2}}}}\nbatch: 2\n")
    planned = run("train", "--plan", config)
    assert planned.exit_code == 0 and "GiB" in planned.stdout and not (tmp_path / "run").exists()
    config.write_text(f"output: {tmp_path / 'run'}\ndata: {{pairs: {tmp_path / 'nowhere'}}}\n")
    planned = run("train", "--plan", config)
    assert planned.exit_code == 2 and "nowhere" in planned.stdout


def test_errors_are_one_paragraph_on_stderr(monkeypatch: pytest.MonkeyPatch) -> None:
    def edit(*_, **__):
        raise SyncloraError("a.mp4: broken.\n   Mend it [or not].")

    monkeypatch.setattr("synclora.editing.editor.edit", edit)
    done = run("edit", "a.mp4", "--first-frame", "f.png", "-o", "o.mp4")
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr == "synclora: a.mp4: broken. Mend it [or not].\n"


def test_bugs_keep_their_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("synclora.editing.editor.edit", lambda *_, **__: 1 / 0)
    done = run("edit", "a.mp4", "--first-frame", "f.png", "-o", "o.mp4")
    assert isinstance(done.exception, ZeroDivisionError)


def test_pairs_generate_and_check(tmp_path: Path) -> None:
    """check exits with 0 on a sound store, and with 2 and one line an offender on another."""
    store = tmp_path / "pairs"
    generate = ("pairs", "generate", "--count", 2, "--seed", 5, "--out", store, "--size", 64, "--frames", 9)
    assert run(*generate).stdout == f"{store}: 2 pairs generated, 0 were already there.\n"
    assert run(*generate).stdout == f"{store}: 0 pairs generated, 2 were already there.\n"
    done = run("pairs", "check", store)
    assert (done.exit_code, done.stdout) == (0, f"{store}: 2 pairs, all sound.\n")
    rows = PairStore(store).rows()
    PairStore(store).source_path(rows[0]).unlink()
    PairStore(store).target_path(rows[1]).write_bytes(b"altered")
    assert len(run("pairs", "check", store, "--quick").stdout.splitlines()) == 2
    done = run("pairs", "check", store)
    assert done.exit_code == 2
    first, second, last = done.stdout.splitlines()
    assert first == f"{rows[0].id}: the source file media/{rows[0].id}.source.mp4 is missing"
    assert second.startswith(f"{rows[1].id}: the target file") and "was altered" in second
    assert last == f"{store}: 2 pairs, 2 problems."


def test_check_of_no_store_is_an_error(tmp_path: Path) -> None:
    done = run("pairs", "check", tmp_path)
    assert done.exit_code == 2 and "this is not a pair store" in done.stderr
