"""Each class is called as it wants to be, and what cannot work is said before anything is loaded."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from synclora.errors import SyncloraError
from synclora.pairs.splitscreen.calls import CALLS, Request, arguments
from synclora.pairs.splitscreen.config import StageConfig, load_config
from synclora.pairs.splitscreen.models import Model, find, load
from synclora.pairs.splitscreen.run import generate_split_screen
from tests.pairs.splitscreen import tiny
from tests.pairs.splitscreen.conftest import Configured

SHORT: dict[str, Any] = {"max_sequence_length": 32}


def picture(seed: int = 0, width: int = 64, height: int = 64) -> Image.Image:
    generator = np.random.default_rng(1_000_080 + seed)
    small = generator.integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def found(role: Any, folder: Path, **changes: Any) -> tuple[Model, Any]:
    settings = StageConfig.model_validate({"model": str(folder), "steps": 2, "dtype": "float32"} | changes)
    model = find(role, settings)
    return model, load(model, settings)


def made(model: Model, pipeline: Any, request: Request) -> Any:
    with torch.inference_mode():
        result = pipeline(**arguments(model.call, type(pipeline), model.chosen, request))
    if request.frames:
        return np.asarray(result.frames)
    return np.stack([np.asarray(image, np.float32) / 255 for image in result.images])


@pytest.mark.parametrize(("role", "name"), [("portrait", "sd"), ("edit", "kontext"), ("video", "ltx")])
def test_a_batch_gives_what_one_at_a_time_gives(models: dict[str, Path], role: Any, name: str) -> None:
    """Two items in one call against two calls: each from its own seed, equal to a grey level (batched sums round
    otherwise), and unlike one another."""
    model, pipeline = found(role, models[name], options={} if name == "sd" else SHORT)
    assert model.call.batches
    images = [] if role == "portrait" else [picture(0), picture(1)]
    length: dict[str, Any] = {"frames": 9, "fps": 25.0} if role == "video" else {}
    both = made(model, pipeline, Request(["a hat", "red hair"], 64, 64, [7, 8], images, **length))
    for n, words in enumerate(("a hat", "red hair")):
        alone = made(model, pipeline, Request([words], 64, 64, [7 + n], images[n : n + 1], **length))
        assert alone.shape == (1, *both.shape[1:]) and np.abs(alone[0] - both[n]).max() < 1.5 / 255
    assert np.abs(both[0] - both[1]).mean() > 2 / 255


@pytest.mark.parametrize("name", ["qwen", "klein", "pix2pix"])
def test_an_editing_class_follows_the_picture_and_the_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Qwen-Image-Edit, FLUX.2 [klein] and InstructPix2Pix: the output has the picture's size, and another picture or
    other words give another."""
    from tests.editing import tiny_editors

    tiny_editors.small_qwen(monkeypatch, 64)  # a megapixel in earnest
    model, pipeline = found("edit", getattr(tiny_editors, name)(tmp_path / name))
    wanted = [("a hat", picture(0)), ("a hat", picture(1)), ("red hair", picture(0))]
    first, *others = (made(model, pipeline, Request([words], 64, 64, [7], [image])) for words, image in wanted)
    assert first.shape == (1, 64, 64, 3)
    for other in others:
        assert not np.array_equal(first, other)


@pytest.mark.parametrize("index", ["LTXConditionPipeline", "LTXPipeline"])
def test_ltx_starts_from_the_picture_whatever_its_index_names(tmp_path: Path, index: str) -> None:
    """The index of LTX-Video names the text-to-video class; the picture makes a difference to every frame."""
    model, pipeline = found("video", tiny.ltx(tmp_path / "ltx", index), options=SHORT)
    assert model.pipeline == ("LTXConditionPipeline" if "Condition" in index else "LTXImageToVideoPipeline")
    videos = [
        made(model, pipeline, Request(["a hat"], 96, 64, [7], [picture(n, 96, 64)], 9, 25.0))[0] for n in range(2)
    ]
    assert videos[0].shape == (9, 64, 96, 3)
    assert np.abs(videos[0] - videos[1]).mean(axis=(1, 2, 3)).min() > 1e-3


def test_ltx2_starts_from_the_picture_and_its_sound_is_left(tmp_path: Path) -> None:
    """LTX-2's class gives frames and sound; of its 48 blocks the default leaves out the 28th, here it is the second."""
    options = {"max_sequence_length": 16, "spatio_temporal_guidance_blocks": [1]}
    model, pipeline = found("video", tiny.ltx2(tmp_path / "ltx2"), options=options)
    assert model.pipeline == "LTX2ImageToVideoPipeline"
    videos = [
        made(model, pipeline, Request(["a hat"], 96, 64, [7], [picture(n, 96, 64)], 9, 25.0))[0] for n in range(2)
    ]
    assert videos[0].shape == (9, 64, 96, 3)
    assert np.abs(videos[0] - videos[1]).mean(axis=(1, 2, 3)).min() > 1e-3


def test_wan_of_both_sizes(cleaner: None, models: dict[str, Path], tmp_path: Path) -> None:
    """The small Wan 2.2's index names the text-to-video class and `expand_timesteps`: other defaults, rate and sizes;
    its VAE stays float32."""
    model = find("video", StageConfig(model=str(models["wan"])))
    assert (model.call.rate, model.call.multiple, model.chosen["guidance_scale"]) == (16, 16, 3.5)
    small = tmp_path / "small"
    shutil.copytree(models["wan"], small)
    index = json.loads((small / "model_index.json").read_text())
    changed = index | {"_class_name": "WanPipeline", "expand_timesteps": True}
    (small / "model_index.json").write_text(json.dumps(changed))
    model = find("video", StageConfig(model=str(small)))
    assert model.pipeline == "WanImageToVideoPipeline" and model.call.exact == ("vae",)
    assert (model.call.rate, model.call.multiple, model.chosen["num_inference_steps"]) == (24, 32, 50)


def test_every_class_in_the_table_takes_what_it_would_be_given() -> None:
    """Each row's arguments, with those of a request, are parameters of the class's call."""
    import inspect

    import diffusers

    for role, rows in CALLS.items():
        for name, call in rows.items():
            pipeline = getattr(diffusers, name)
            takes = inspect.signature(pipeline.__call__).parameters
            images = [] if role == "portrait" else [picture()]
            length: dict[str, Any] = {"frames": 9, "fps": 25.0} if role == "video" else {}
            given = arguments(call, pipeline, dict(call.defaults), Request(["a"], 64, 64, [1], images, **length))
            assert set(given) <= set(takes), name
            assert {"prompt", "generator", call.guidance, "num_inference_steps"} <= set(takes), name
            assert role == "portrait" or "image" in given


def test_a_class_that_cannot_do_it_is_named(models: dict[str, Path]) -> None:
    with pytest.raises(SyncloraError, match="StableDiffusionPipeline is not known for `edit`; known are Qwen"):
        find("edit", StageConfig(model=str(models["sd"])))
    with pytest.raises(SyncloraError, match="LTXPipeline makes no picture from words alone"):
        find("portrait", StageConfig(model=str(models["ltx"])))
    with pytest.raises(SyncloraError, match="'NoPipeline' is no pipeline of diffusers"):
        find("edit", StageConfig(model=str(models["sd"]), pipeline="NoPipeline"))


@pytest.mark.parametrize(
    ("role", "name", "changes", "said"),
    [
        (
            "edit",
            "kontext",
            {"options": {"stepps": 3}},
            "takes no setting 'stepps'.*Possible are .*num_inference_steps",
        ),
        ("edit", "kontext", {"options": {"prompt": "mine"}}, "takes no setting 'prompt'"),
        ("edit", "kontext", {"device": "cuda:99"}, "edit.device is 'cuda:99', which is not usable here"),
        ("video", "wan", {"batch": 2}, "video.batch is 2; WanImageToVideoPipeline makes one at a time"),
    ],
)
def test_settings_that_cannot_work_are_told(
    cleaner: None, models: dict[str, Path], role: Any, name: str, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(SyncloraError, match=said):
        find(role, StageConfig.model_validate({"model": str(models[name])} | changes))


def test_models_that_are_not_here_or_not_whole_come_with_the_way_out(models: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(SyncloraError, match="hf download nobody/no-such-model --revision v2"):
        find("edit", StageConfig(model="nobody/no-such-model", revision="v2"))
    with pytest.raises(SyncloraError, match="neither a folder nor a hub id"):
        find("edit", StageConfig(model="no/such/folder"))
    with pytest.raises(SyncloraError, match=r"has no model_index.json"):
        find("edit", StageConfig(model=str(tmp_path)))
    broken = tmp_path / "broken"
    shutil.copytree(models["sd"], broken)
    weights = next((broken / "unet").glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:1000])
    settings = StageConfig(model=str(broken))
    with pytest.raises(SyncloraError, match=r"StableDiffusionPipeline cannot be loaded from it.*\. Copy or download"):
        load(find("portrait", settings), settings)
    weights.unlink()
    with pytest.raises(SyncloraError, match=r"incomplete; missing are unet"):
        find("portrait", settings)


def test_all_models_that_are_not_here_are_told_at_once(configured: Configured, tmp_path: Path) -> None:
    """Each by its stage and with its own command, and nothing is written."""
    config = configured()
    gone = {
        role: getattr(config, role).model_copy(update={"model": f"nobody/no-{role}"})
        for role in ("portrait", "edit", "video")
    }
    with pytest.raises(SyncloraError) as raised:
        generate_split_screen(tmp_path / "store", 1, config.model_copy(update=gone))
    for role in gone:
        assert f"{role}.model: nobody/no-{role} is not here" in str(raised.value)
        assert f"\n  hf download nobody/no-{role}\n" in str(raised.value)
    assert not list(tmp_path.iterdir())


def test_portraits_of_a_size_that_qwen_would_draw_larger_are_refused(
    configured: Configured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Qwen-Image-Edit brings its input to a megapixel, whatever size is asked for: heads would come out of another
    size."""
    from tests.editing import tiny_editors

    tiny_editors.small_qwen(monkeypatch, 64)
    config = configured()
    edit = StageConfig(model=str(tiny_editors.qwen(tmp_path / "qwen")))
    with pytest.raises(
        SyncloraError, match=r"are 64 and 64; QwenImageEditPlusPipeline .* Make the portraits 1024x1024"
    ):
        generate_split_screen(tmp_path / "store", 1, config.model_copy(update={"edit": edit}))


def test_a_package_that_diffusers_needs_is_asked_for(models: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ftfy", None)  # as if not installed
    with pytest.raises(SyncloraError, match=r"needs the package ftfy.*pip install ftfy"):
        find("video", StageConfig(model=str(models["wan"])))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda c: c | {"widht": 3}, "widht: Extra inputs"),
        (lambda c: c | {"frames": 80}, r"frames: 80 frames; a pair needs 8k\+1, e.g. 81"),
        (lambda c: c | {"width": 47}, "width: 47 px; video is stored with even sizes"),
        (lambda c: c | {"edit": {"steps": 3}}, "edit.model: Field required"),
        (lambda c: c | {"align": {"no_face": "ask"}}, "align.no_face"),
        (lambda c: 3, "needs fields"),
    ],
)
def test_a_wrong_configuration_is_told_by_field(
    configured: Configured, tmp_path: Path, change: Callable[[dict[str, Any]], Any], said: str
) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(json.dumps(change(configured().model_dump(mode="json"))))
    with pytest.raises(SyncloraError, match=said):
        load_config(path)


def test_the_recipe_is_a_configuration() -> None:
    """All it names but the models is checked: sizes that the classes take, nothing unknown."""
    config = load_config(Path(__file__).parents[3] / "recipes" / "pairs" / "split_screen.yaml")
    assert (config.width, config.height, config.frames) == (512, 512, 81)


def test_sizes_that_a_model_does_not_take_are_told_first(configured: Configured, tmp_path: Path) -> None:
    config = configured()
    odd = config.model_copy(update={"portrait": config.portrait.model_copy(update={"width": 72})})
    with pytest.raises(
        SyncloraError, match=r"portrait\.width is 72; the model of `edit` needs a multiple of 16, e\.g\. 64"
    ):
        generate_split_screen(tmp_path, 1, odd)
    with pytest.raises(SyncloraError, match=r"multiple of 32\. Set trim: 8"):
        generate_split_screen(tmp_path, 1, configured(trim=2))
    with pytest.raises(SyncloraError, match="executor 'processes' is not known here"):
        generate_split_screen(tmp_path, 1, config, executor="processes")
    with pytest.raises(SyncloraError, match="seeds run from 0"):
        generate_split_screen(tmp_path, 1, config, -1)
    assert not list(tmp_path.iterdir())
