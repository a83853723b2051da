"""The first frame by words: pipelines of the real classes at tiny size, alignment, colours, and the question asked."""

from __future__ import annotations

import io
import json
import math
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from synclora import portraits
from synclora.clip import read_clip
from synclora.editing import image_editors, instruction, pipelines
from synclora.editing.drift import steady_colours
from synclora.editing.image_editors import EDITORS, FoundEditor, ImageEditor, find_editor
from synclora.editing.instruction import chosen_first_frame, first_frame_by_words, fit_back, propose_first_frame
from synclora.editing.pipelines import EDIT_CALLS, EditCall
from synclora.errors import SyncloraError
from synclora.portraits import TEST_SEED_START
from tests.editing import tiny_editors

SEED = TEST_SEED_START + 50
SIDE = 64  # px at which the tiny image models work
WORDS = "give her short red hair"


@pytest.fixture(scope="module", autouse=True)
def small() -> object:
    """The classes' calls as they are, but at 64 x 64 px and for two steps."""
    patch = pytest.MonkeyPatch()
    for name, call in EDIT_CALLS.items():
        patch.setitem(EDIT_CALLS, name, replace(call, area=SIDE * SIDE, steps=2, sizes=()))
    yield
    patch.undo()


@pytest.fixture(scope="module")
def pix2pix(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_editors.pix2pix(tmp_path_factory.mktemp("editors") / "pix2pix")


def noise(seed: int = TEST_SEED_START) -> Tensor:
    return torch.randint(0, 256, (SIDE, SIDE, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("family", ["pix2pix", "kontext", "klein"])
def test_a_pipeline_of_the_real_class_edits_as_told(tmp_path: Path, family: str) -> None:
    """The same seed gives the same picture; another instruction, picture or seed another one; the size is kept."""
    found = find_editor(getattr(tiny_editors, family)(tmp_path / family))
    assert found.call.size_for(128, 128) == (SIDE, SIDE)
    picture = noise()
    with ImageEditor(found, "cpu") as editor:
        one = editor.edit(picture, WORDS, 0)
        assert one.shape == picture.shape and one.dtype == torch.uint8
        assert torch.equal(one, editor.edit(picture, WORDS, 0))
        for other in (
            editor.edit(picture, "b", 0),
            editor.edit(255 - picture, WORDS, 0),
            editor.edit(picture, WORDS, 1),
        ):
            assert not torch.equal(one, other)
    assert editor._pipeline is None


@pytest.mark.parametrize("plus", [True, False])
def test_qwen_edits_as_told(tmp_path: Path, plus: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Qwen-Image-Edit's two classes: the same as other classes, and guided: the network is asked twice a step."""
    tiny_editors.small_qwen(monkeypatch, SIDE)
    found = find_editor(tiny_editors.qwen(tmp_path / "qwen", plus=plus))
    assert found.pipeline == ("QwenImageEditPlusPipeline" if plus else "QwenImageEditPipeline")
    with ImageEditor(found, "cpu") as editor:
        asked: list[str] = []
        network: Any = editor._pipeline.transformer
        whole = network.cache_context
        network.cache_context = lambda name: asked.append(name) or whole(name)
        one = editor.edit(noise(), WORDS, 0)
        assert one.shape == (SIDE, SIDE, 3) and asked == ["cond", "uncond"] * 2
        assert torch.equal(one, editor.edit(noise(), WORDS, 0))
        for other in (editor.edit(noise(), "b", 0), editor.edit(255 - noise(), WORDS, 0)):
            assert not torch.equal(one, other)


def test_klein_that_is_not_distilled_is_sampled_longer(tmp_path: Path) -> None:
    """4 steps without guidance belong to the distilled weights alone; model_index.json tells which they are."""
    folder = tiny_editors.klein(tmp_path / "klein", distilled=False)
    assert find_editor(folder).call.settings == {"guidance_scale": 4.0}
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"is_distilled": True}))
    assert find_editor(folder).call.settings == {"guidance_scale": 1.0}


def test_sizes_are_the_models_own() -> None:
    """A megapixel of the picture's aspect, in multiples; Kontext's list; InstructPix2Pix' 512."""
    kontext = pipelines._KONTEXT_SIZES
    assert len(kontext) == 17 and (1024, 1024) in kontext and (1568, 672) in kontext and (672, 1568) in kontext
    call = EditCall(1024 * 1024, 32, 1)
    assert call.size_for(768, 512) == (1248, 832)
    assert replace(call, sizes=kontext).size_for(512, 512) == (1024, 1024)
    assert replace(call, sizes=kontext).size_for(704, 512) == (1184, 880)


@pytest.mark.parametrize("name", list(EDITORS))
def test_missing_weights_are_told_with_size_licence_and_command(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_editors, "cached_folder", lambda repo: None)
    with pytest.raises(SyncloraError) as raised:
        find_editor(name)
    preset = EDITORS[name]
    told = str(raised.value)
    assert f"hf download {preset.repo} " in told and f"{preset.gigabytes} GB" in told and preset.licence in told
    assert ("hf auth login" in told) == preset.gated


def test_the_default_is_open_and_sizes_add_up() -> None:
    """16 GB: 3.9 billion weights of the transformer, 4.0 of the text encoder, at two bytes each."""
    preset = EDITORS[image_editors.DEFAULT_EDITOR]
    assert "Apache" in preset.licence and not preset.gated and preset.gigabytes == 16
    assert not EDIT_CALLS["Flux2KleinPipeline"].packages, "the default must run with what is installed"


def test_other_models_are_refused_by_class_and_halves_by_file(tmp_path: Path, pix2pix: Path) -> None:
    with pytest.raises(SyncloraError, match=r"photoshop: no such model.*qwen-image-edit"):
        find_editor("photoshop")
    other = tmp_path / "other"
    other.mkdir()
    (other / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    with pytest.raises(SyncloraError, match=r"StableDiffusionPipeline; .*FluxKontextPipeline"):
        find_editor(other)
    (other / "model_index.json").write_text((pix2pix / "model_index.json").read_text())
    with pytest.raises(SyncloraError, match=r"incomplete; missing are .*unet/.*\. Copy or download the whole model"):
        find_editor(other)
    (tmp_path / "model.ckpt").touch()
    with pytest.raises(SyncloraError, match=r"model\.ckpt: no such model.*folder in the diffusers layout"):
        find_editor(tmp_path / "model.ckpt")


def test_a_package_that_a_class_needs_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipelines, "find_spec", lambda name: None)
    (tmp_path / "model_index.json").write_text('{"_class_name": "QwenImageEditPlusPipeline"}')
    with pytest.raises(SyncloraError, match="pip install torchvision"):
        find_editor(tmp_path)


def drawn(seed: int, kind: str | None = None, size: int = 256) -> Tensor:
    person, motion = portraits.sample_person(seed), portraits.sample_motion(seed, 9)[:1]
    return portraits.render(portraits.apply_edit(person, kind, seed) if kind else person, motion, size=size)[0]


def moved(picture: Tensor, x: float, y: float, scale: float, degrees: float) -> Tensor:
    turn, side = math.radians(degrees), picture.shape[0]
    linear = scale * np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    middle = np.array([side, side]) / 2 - 0.5
    matrix = np.column_stack([linear, middle + np.array([x, y]) - linear @ middle])
    return torch.from_numpy(
        cv2.warpAffine(picture.numpy(), matrix, (side, side), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT_101)
    )


def apart(one: Tensor, other: Tensor) -> float:
    inner = slice(one.shape[0] // 8, -one.shape[0] // 8)
    return float((one[inner, inner].float() - other[inner, inner].float()).abs().mean())


def test_what_the_image_model_moved_and_tinted_is_put_back() -> None:
    """An edit moved by 9 px of 256, 4 % and 3 degrees and tinted everywhere: within 1.5 grey levels of the true edit at
    the video model's 128 px (8.9 before), and told."""
    seen, exact = drawn(SEED), drawn(SEED, size=128)
    true = drawn(SEED, "hat", size=128)
    made = moved(drawn(SEED, "hat"), 7, -6, 1.04, 3)
    made = (made.float() * torch.tensor([1.03, 1.0, 0.95]) + torch.tensor([4.0, -3.0, 5.0])).round().clamp(0, 255)
    frame, notices = fit_back(made.to(torch.uint8), seen, exact)
    assert apart(frame, true) < 1.5 < 5 < apart(instruction._resized(made.to(torch.uint8), 128, 128), true)
    kinds = [notice.kind for notice in notices]
    assert "aligned" in kinds and "colours" in kinds
    assert not {"misplaced", "out_of_pose", "head_moved", "head_tilted"} & set(kinds)
    told = next(notice.text for notice in notices if notice.kind == "aligned")
    assert "-3.0 deg" in told and "scale 0.96" in told


def test_a_person_drawn_elsewhere_or_turned_is_told_with_numbers() -> None:
    """A third larger is more than is put right; a head turned by 20 degrees would start out of pose."""
    seen = drawn(SEED)
    _, notices = fit_back(moved(seen, 0, 0, 1.33, 0), seen, seen)
    told = {notice.kind: notice.text for notice in notices}
    assert "misplaced" in told and "scale 0.7" in told["misplaced"]

    def turned(yaw: float) -> Tensor:
        motion = portraits.sample_motion(SEED, 9)[:1]
        return portraits.render(portraits.sample_person(SEED), replace(motion, yaw=torch.tensor([yaw])), size=256)[0]

    _, notices = fit_back(turned(11.0), turned(-11.0), turned(-11.0))
    told = {notice.kind: notice.text for notice in notices}
    assert "yaw" in told["out_of_pose"] and "head_turned" not in told


def test_an_edit_that_changes_nothing_is_told() -> None:
    seen = drawn(SEED)
    frame, notices = fit_back(seen, seen, seen)
    assert torch.equal(frame, seen) and [notice.kind for notice in notices] == ["unchanged"]


@pytest.mark.parametrize("kind", ["light", "skin", "background", "clothes", "hair_color"])
def test_colours_that_an_edit_changed_are_left_alone(kind: str) -> None:
    """Only a shift of the whole picture is undone, bit for bit nothing otherwise."""
    edited = drawn(SEED, kind, size=128)
    steady, drift = steady_colours(edited, drawn(SEED, size=128))
    assert drift == 0 and torch.equal(steady, edited)


@pytest.mark.parametrize("kind", ["hat", "hair_color"])
def test_a_drift_of_all_colours_is_undone_around_an_edit(kind: str) -> None:
    """gain 0.96, offset +7 in red and -5 in blue: within 1 grey level of the edit without it."""
    source, edited = drawn(SEED, size=128), drawn(SEED, kind, size=128)
    drifted = (edited.float() * 0.96 + torch.tensor([7.0, 1.0, -5.0])).round().clamp(0, 255).to(torch.uint8)
    steady, drift = steady_colours(drifted, source)
    assert 1.5 < drift < 12 and float((steady.float() - edited.float()).abs().mean()) < 1.0


def test_from_words_to_the_first_frame_beside_the_output(
    tmp_path: Path, samples: Path, tiny_backbone: Path, pix2pix: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The image model sees frame 0 at the video model's crop; the PNG has the video model's size and is told."""
    source, output = samples / "source.mp4", tmp_path / "out.mp4"
    seen: list[Tensor] = []
    real = ImageEditor.edit

    def spy(self: ImageEditor, picture: Tensor, *rest: object) -> Tensor:
        seen.append(picture)
        return real(self, picture, *rest)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(ImageEditor, "edit", spy)
    proposal = propose_first_frame(source, WORDS, output, editor=pix2pix, backbone=tiny_backbone, device="cpu")
    frame = read_clip(source, frames=1).frames
    small = torch.nn.functional.interpolate(frame.permute(0, 3, 1, 2).float(), (SIDE, SIDE), mode="area")
    assert float((seen[0].permute(2, 0, 1) - small[0]).abs().mean()) < 6
    assert proposal.path == tmp_path / "out.first-frame.png"
    assert Image.open(proposal.path).size == (128, 128)
    assert (np.asarray(Image.open(proposal.path)) == proposal.frame.numpy()).all()
    assert str(proposal.path) in proposal.summary()[-1]
    assert [path.name for path in tmp_path.iterdir()] == ["out.first-frame.png"]


def test_what_the_edit_itself_lacks_is_told_before_the_image_model(
    tmp_path: Path, samples: Path, tiny_backbone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The source, then the LoRA; neither the image model's weights nor a word on them come first."""
    monkeypatch.setattr(instruction, "find_editor", lambda _: pytest.fail("looked for the image model"))
    for source, lora, said in (
        (tmp_path / "gone.mp4", None, r"gone\.mp4: cannot be read"),
        (samples / "source.mp4", tmp_path / "gone.safetensors", r"gone\.safetensors: no such LoRA file"),
    ):
        with pytest.raises(SyncloraError, match=said):
            propose_first_frame(source, WORDS, tmp_path / "out.mp4", backbone=tiny_backbone, lora=lora)
    assert not list(tmp_path.iterdir())


def test_a_device_that_is_not_there_is_told_before_loading(pix2pix: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_editors, "_load", lambda *_: pytest.fail("loaded"))
    with pytest.raises(SyncloraError, match=r"does not go onto device 'cuda:99'.*--device"):
        ImageEditor(find_editor(pix2pix), "cuda:99")


@pytest.fixture
def proposed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A proposal without a model, to ask about."""
    path = tmp_path / "out.first-frame.png"
    made = instruction.Proposal(path, torch.zeros(8, 8, 3, dtype=torch.uint8), [], {"Aligning": 1.0})
    monkeypatch.setattr(instruction, "propose_first_frame", lambda *_, **__: made)
    return path


def test_the_frame_is_shown_and_the_answer_obeyed(proposed: Path) -> None:
    lines: list[str] = []
    for yes, answer, expected in ((True, False, proposed), (False, True, proposed), (False, False, None)):
        got = first_frame_by_words("a.mp4", WORDS, "out.mp4", yes=yes, tell=lines.append, ask=lambda _, a=answer: a)
        assert got == expected
    assert sum(str(proposed) in line and "8x8" in line for line in lines) == 3
    assert f"--first-frame {proposed}" in lines[-1]


def test_without_a_terminal_it_stops_and_says_how_to_go_on(proposed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    with pytest.raises(SyncloraError, match=rf"\n  synclora edit a.mp4 --first-frame {proposed} -o out.mp4\n.*--yes"):
        first_frame_by_words("a.mp4", WORDS, "out.mp4", tell=lambda _: None)


def test_a_mask_or_keyframe_that_is_not_there_is_told_before_the_image_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(instruction, "propose_first_frame", lambda *_, **__: pytest.fail("made a picture"))
    with pytest.raises(SyncloraError, match=r"mask\.png: no such file"):
        first_frame_by_words("a.mp4", WORDS, "out.mp4", further=[tmp_path / "mask.png"])


def test_a_first_frame_and_words_exclude_each_other_and_one_is_needed(proposed: Path) -> None:
    assert chosen_first_frame("a.mp4", "out.mp4", "edited.png", None, yes=True) == Path("edited.png")
    assert chosen_first_frame("a.mp4", "out.mp4", None, WORDS, yes=True, tell=lambda _: None) == proposed
    with pytest.raises(SyncloraError, match="exclude each other"):
        chosen_first_frame("a.mp4", "out.mp4", "edited.png", WORDS)
    with pytest.raises(SyncloraError, match=r"--first-frame \(.*--instruction"):
        chosen_first_frame("a.mp4", "out.mp4", None, None)


@pytest.mark.parametrize(
    ("words", "message"), [("  ", "--instruction is empty"), ("a" * 3000, "3000 characters; at most 2000")]
)
def test_bad_instructions_are_refused(tmp_path: Path, words: str, message: str) -> None:
    with pytest.raises(SyncloraError, match=message):
        propose_first_frame("a.mp4", words, tmp_path / "out.mp4")


def test_a_black_picture_is_an_error() -> None:
    """What a safety check hands back must not become a video."""
    editor = ImageEditor.__new__(ImageEditor)
    editor.found = FoundEditor("a", Path(), "b", EditCall(SIDE * SIDE, 8, 1))
    editor._pipeline = lambda **_: SimpleNamespace(images=[Image.new("RGB", (SIDE, SIDE))])
    with pytest.raises(SyncloraError, match="black picture"):
        editor.edit(noise(), WORDS)
