"""The five stages, each a class that takes items and gives back those that are ready for the next.

    PortraitStage -> EditStage -> LayoutStage -> VideoStage -> SplitStage

A stage reads what the one before it left in `stages/<id>/` and leaves its own file there; nothing else passes between
them, so that they may run one after the other, days apart, or side by side on many machines. A stage that uses a model
loads it at its first item. An item that cannot be made gets a `failed.json` with the reason, and stops no other.
"""

from __future__ import annotations

import gc
import hashlib
import random
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from itertools import islice
from typing import Any, ClassVar

import numpy as np
import torch

from synclora.clip import Clip, apply_crop, centered_crop, read_clip, write_clip
from synclora.errors import SyncloraError
from synclora.pairs.child import told
from synclora.pairs.generate import save_pair
from synclora.pairs.procedural import Pair
from synclora.pairs.splitscreen.align import Unfit, fit
from synclora.pairs.splitscreen.calls import Request, arguments
from synclora.pairs.splitscreen.config import SplitScreenConfig, StageConfig
from synclora.pairs.splitscreen.files import Failure, Item, ItemFiles
from synclora.pairs.splitscreen.layout import Layout, Picture, compose, measure_seam, split
from synclora.pairs.splitscreen.models import Model, load, quiet
from synclora.pairs.splitscreen.prompts import video_prompt
from synclora.pairs.store import PairStore

GENERATOR = "split-screen"
PORTRAIT, EDITED, ALIGNED, COMPOSED, VIDEO = "portrait.png", "edited.png", "aligned.png", "composed.png", "video.mp4"
RECORD = "record.json"
VIDEO_CRF = 4  # near-lossless: both clips are cut from it and encoded once more
BLANK = 1.0  # of 255: standard deviation below which a picture shows nothing, as a safety checker's black one
RATE = 25.0  # frames a second, where the model takes any


@dataclass(frozen=True)
class Work:
    """What every stage is told: where, how, and with what models (by stage)."""

    url: str
    config: SplitScreenConfig
    models: dict[str, Model]

    @property
    def fps(self) -> Fraction:
        """Frame rate of the videos."""
        rate = self.config.video.fps or self.models["video"].call.rate or RATE
        return Fraction(rate).limit_denominator(1001)

    @property
    def layout(self) -> Layout:
        """The canvas, of a size that the video model takes."""
        c = self.config
        return Layout.of(c.width, c.height, c.trim, c.gutter, self.models["video"].call.multiple)


def seed_for(seed: int, stage: str) -> int:
    """The seed of a stage's noise for a pair's seed: 63 bits of a SHA-256."""
    return int.from_bytes(hashlib.sha256(f"{seed} {stage}".encode()).digest()[:8], "big") >> 1


class Stage:
    """A step that makes `output` of each item; calling it again on an item makes the same again."""

    name: ClassVar[str]
    title: ClassVar[str]
    output: ClassVar[str]

    def __init__(self, work: Work) -> None:
        self.work = work
        self.store = PairStore(work.url)

    @property
    def batch(self) -> int:
        """How many items are made at once."""
        return 1

    def __call__(self, items: Sequence[Item]) -> list[Item]:
        """Make them, `batch` at a time, and return those that could be made."""
        left, made = iter(items), []
        while part := [*islice(left, self.batch)]:
            made += self._make_all(part)
        return made

    def close(self) -> None:
        """Give back the memory that the stage holds."""

    def prepare(self) -> None:
        """Load what is expensive, once; raises SyncloraError, which ends the job, where that is not possible."""

    def make(self, items: Sequence[Item]) -> None:
        """Make the output of some items; raises where one of them cannot be made."""
        raise NotImplementedError

    def files(self, item: Item) -> ItemFiles:
        """An item's folder."""
        return ItemFiles(self.store, item.id)

    def _make_all(self, items: list[Item]) -> list[Item]:
        self.prepare()
        try:
            self.make(items)
            return items
        except Exception as error:
            if len(items) > 1:  # find out whose fault it is
                return [item for one in items for item in self._make_all([one])]
            reason = str(error) if isinstance(error, (SyncloraError, Unfit)) else f"failed with {told(error)}"
            failure = Failure(items[0].id, self.name, reason, final=isinstance(error, Unfit))
        self.files(items[0]).write_failure(failure)
        _free()
        return []


class _ModelStage(Stage):
    """A stage with a pipeline."""

    def __init__(self, work: Work) -> None:
        super().__init__(work)
        self._pipeline: Any = None

    @property
    def settings(self) -> StageConfig:
        """The stage's part of the configuration."""
        return getattr(self.work.config, self.name)

    @property
    def batch(self) -> int:
        return self.settings.batch

    def prepare(self) -> None:
        if self._pipeline is None:
            self._pipeline = load(self.work.models[self.name], self.settings)

    def close(self) -> None:
        self._pipeline = None
        _free()

    def run(self, request: Request) -> Any:
        """Call the pipeline; returns what it returns."""
        model = self.work.models[self.name]
        pipeline = self._pipeline
        with torch.inference_mode(), quiet():
            return pipeline(**arguments(model.call, type(pipeline), model.chosen, request))

    def note(self, item: Item, **more: Any) -> None:
        """Leave a record of how the output was made, before the output itself."""
        seed = seed_for(item.seed, self.name)
        made_by = self.work.models[self.name].told()
        self.files(item).write_json(f"{self.name}.json", {**made_by, "seed": seed, **more})


class PortraitStage(_ModelStage):
    """Words to a portrait."""

    name, title, output = "portrait", "Making portraits", PORTRAIT

    def make(self, items: Sequence[Item]) -> None:
        settings = self.work.config.portrait
        prompts = [item.prompt.portrait for item in items]
        seeds = [seed_for(item.seed, self.name) for item in items]
        made = self.run(Request(prompts, settings.width, settings.height, seeds)).images
        for item, prompt, picture in zip(items, prompts, _pictures(made, len(items)), strict=True):
            self.note(item, prompt=prompt, width=settings.width, height=settings.height)
            self.files(item).write_picture(PORTRAIT, picture)


class EditStage(_ModelStage):
    """A portrait and an instruction to the edited portrait, of the portrait's size."""

    name, title, output = "edit", "Editing portraits", EDITED

    def make(self, items: Sequence[Item]) -> None:
        from PIL import Image

        portraits = [self.files(item).read_picture(PORTRAIT) for item in items]
        height, width = portraits[0].shape[:2]
        prompts = [item.prompt.instruction for item in items]
        seeds = [seed_for(item.seed, self.name) for item in items]
        images = [Image.fromarray(portrait) for portrait in portraits]
        made = self.run(Request(prompts, width, height, seeds, images=images)).images
        for item, prompt, picture in zip(items, prompts, _pictures(made, len(items)), strict=True):
            self.note(item, prompt=prompt, width=picture.shape[1], height=picture.shape[0])
            self.files(item).write_picture(EDITED, picture)


class LayoutStage(Stage):
    """The edited portrait laid onto the portrait, and both onto one canvas."""

    name, title, output = "layout", "Laying out", COMPOSED

    def make(self, items: Sequence[Item]) -> None:
        for item in items:
            files = self.files(item)
            portrait, edited = files.read_picture(PORTRAIT), files.read_picture(EDITED)
            height, width = portrait.shape[:2]
            aligned, found = fit(portrait, _resized(edited, width, height), self.work.config.align)
            files.write_picture(ALIGNED, aligned)
            layout = self.work.layout
            halves = {"source": _resized(portrait, *layout.half), "target": _resized(aligned, *layout.half)}
            sides = ("source", "target") if source_is_left(item.seed) else ("target", "source")
            canvas, grey = compose(halves[sides[0]], halves[sides[1]], layout)
            told = {"source": "left" if sides[0] == "source" else "right", "grey": grey, **asdict(layout)}
            told["canvas"] = list(layout.canvas)
            files.write_json("layout.json", told | {"face": found})
            files.write_picture(COMPOSED, canvas)


class VideoStage(_ModelStage):
    """Both halves animated at once."""

    name, title, output = "video", "Making videos", VIDEO

    def make(self, items: Sequence[Item]) -> None:
        from PIL import Image

        config, fps = self.work.config, self.work.fps
        width, height = self.work.layout.canvas
        prompts = [video_prompt(item.prompt.motion) for item in items]
        seeds = [seed_for(item.seed, self.name) for item in items]
        images = [Image.fromarray(self.files(item).read_picture(COMPOSED)) for item in items]
        rate = float(fps)
        made = self.run(Request(prompts, width, height, seeds, images, config.frames, rate)).frames
        for item, prompt, video in zip(items, prompts, made, strict=True):
            frames = _frames(video)
            if frames.shape != (config.frames, height, width, 3):
                raise Unfit(
                    f"the video model made {list(frames.shape)}; asked were {[config.frames, height, width, 3]}"
                )
            self.note(item, prompt=prompt, width=width, height=height, frames=config.frames, fps=str(fps))
            with self.store.writing(self.files(item).path(VIDEO)) as path:
                write_clip(path, Clip(torch.from_numpy(frames), fps), crf=VIDEO_CRF, audio=False)


class SplitStage(Stage):
    """The video cut at the seam into the pair's two clips, and the full record with the pair's row."""

    name, title, output = "split", "Splitting", RECORD

    def make(self, items: Sequence[Item]) -> None:
        for item in items:
            self._split(item, self.files(item))

    def _split(self, item: Item, files: ItemFiles) -> None:
        with self.store.local(files.path(VIDEO)) as path:
            clip = read_clip(path)
        config, layout = self.work.config, self.work.layout
        placed = files.read_json("layout.json")
        canvas = files.read_picture(COMPOSED)
        frames = clip.frames.numpy()
        seam = measure_seam(frames, canvas, layout, placed["grey"])
        bad = seam.first_bad(config.seam.shift, config.seam.leak)
        kept = len(frames)
        if bad is not None:
            kept = (bad[0] - 1) // 8 * 8 + 1
            if bad[0] < 1 or kept < (config.seam.shortest or config.frames):
                raise Unfit(bad[1])
        left, right = (torch.from_numpy(half) for half in split(frames[:kept], layout))
        source, target = (left, right) if placed["source"] == "left" else (right, left)
        row = save_pair(self.store, self._pair(item, source, target, clip.fps), generator=GENERATOR)
        told = {
            "id": item.id,
            "seed": item.seed,
            "prompt": item.prompt.model_dump(),
            **{name: files.read_json(f"{name}.json") for name in ("portrait", "edit", "layout", "video")},
            "split": {"frames": kept, **seam.told(kept)},
            "versions": _versions(),
            "row": asdict(row),
        }
        files.write_json(RECORD, told)

    def _pair(self, item: Item, source: torch.Tensor, target: torch.Tensor, fps: Fraction) -> Pair:
        caption = self.work.config.caption.replace("{caption}", item.prompt.caption)
        kinds = list(item.prompt.edit_kinds)
        return Pair(item.id, source, target, fps, caption, kinds, item.seed, curves=None)


STAGE_CLASSES: tuple[type[Stage], ...] = (PortraitStage, EditStage, LayoutStage, VideoStage, SplitStage)


def source_is_left(seed: int) -> bool:
    """Which half a pair's source is, by its seed: either, so that no model's preference for a side enters the pairs."""
    return random.Random(f"side {seed}").random() < 0.5


def _pictures(images: Any, count: int) -> Iterator[Picture]:
    """PIL images as uint8 [H, W, 3], checked."""
    if len(images) != count:
        raise SyncloraError(f"the pipeline made {len(images)} pictures of {count}")
    for image in images:
        picture = np.asarray(image.convert("RGB"))
        if picture.std() < BLANK:
            raise Unfit("the picture is of one colour: the model failed, or a safety checker blackened it")
        yield picture


def _frames(video: Any) -> Picture:
    """Frames [F, H, W, 3] in [0, 1] as uint8."""
    values = np.asarray(video)
    if not np.isfinite(values).all():
        raise Unfit("the video model made values that are no numbers")
    return (values * 255).round().clip(0, 255).astype(np.uint8)


def _resized(picture: Picture, width: int, height: int) -> Picture:
    """The largest centred part of the asked aspect, resized."""
    if picture.shape[:2] == (height, width):
        return picture
    crop = centered_crop(picture.shape[1], picture.shape[0], width, height)
    return apply_crop(torch.from_numpy(np.ascontiguousarray(picture))[None], crop)[0].numpy()


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    return {name: version(name) for name in ("synclora", "diffusers", "transformers", "torch")}


def _free() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
