"""Edit a clip of any length: the edited first frame's look on the source's motion.

    synclora edit source.mp4 --first-frame edited.png -o edited.mp4

    from synclora import Editor, read_clip
    edited = Editor("nano").edit(read_clip("source.mp4"), first_frame)   # a Clip, source's fps and sound

    windows of the source -> sampler.make -> frames of each window -> region.show -> the output's frames

`Editor.edit` does this in memory; `edit`, at the end, reads, checks and writes files, one window in memory at a time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from synclora.adapters.rules import SAMPLINGS, Sampling, prompt_for, sampling_for
from synclora.backbones.base import Attention, Backbone, Geometry
from synclora.backbones.presets import load_backbone, locate
from synclora.clip import Clip, apply_crop, centered_crop, check_output, count_frames, iter_windows, probe, write_frames
from synclora.diffusion.guidance import Guidance
from synclora.editing.adapter import Adapter, attach, find_lora
from synclora.editing.carry import Carrier
from synclora.editing.detail import DETAIL_CHOICES, DetailSampler
from synclora.editing.facecrop import CROP_CHOICES, place
from synclora.editing.first_frame import check_first_frame, load_first_frame
from synclora.editing.frames import FIT_CHOICES, frames_to_read
from synclora.editing.guards import check_choice, check_folder, check_seed, check_steps, resolve_device
from synclora.editing.keyframes import check_indices, load_keyframes, load_large
from synclora.editing.masks import load_mask, mask_of
from synclora.editing.parts import Parts
from synclora.editing.pictures import Notice
from synclora.editing.region import Region, check_strength
from synclora.editing.result import EditResult, adapter_notices, placement_notices, source_notices
from synclora.editing.sampler import REFINE_SIGMAS, Sampler
from synclora.editing.stages import Progress, Stages
from synclora.editing.windows import overlap_of, run, slices, starts
from synclora.errors import SyncloraError

if TYPE_CHECKING:
    from synclora.backbones.upsampler import Upsampler

DEFAULT_STEPS = {"nano": 4}
OTHER_STEPS = 30  # what the undistilled LTX models are sampled with


class Editor:
    """A backbone with its Sync-LoRA, ready to edit clips.

    Args:
        backbone: a preset's name, a diffusers folder, a hub id, or a `Backbone`.
        lora: a LoRA file; "default" for the one that comes with the backbone; None for the plain base model, which
            animates the edited frame without seeing the source.
        device: "auto" (CUDA where there is one), "cpu", "cuda", "cuda:1" ...
        upscale: a latent upsampler's file, folder or hub id, or "default" for the one in the model's folder: the output
            is then twice the model's size each way, made in two stages (see `synclora.editing.sampler`).
        sampling: "distilled" or "dev", of the base; None: as the weights tell (`synclora.backbones.distilled`).

    Raises:
        SyncloraError: missing or damaged weights, a LoRA or upsampler of another base, an unknown device.
    """

    def __init__(
        self,
        backbone: str | Path | Backbone = "nano",
        lora: str | Path | None = "default",
        device: str = "auto",
        *,
        upscale: str | Path | None = None,
        sampling: str | None = None,
    ) -> None:
        self._sampling = check_choice("--sampling", sampling, tuple(SAMPLINGS)) if sampling else None
        if isinstance(backbone, (str, Path)):
            lora_path = find_lora(backbone, lora)  # before the weights are loaded, which may take minutes
            with _one_progress_bar():
                self.backbone: Backbone = load_backbone(str(backbone), device=resolve_device(device), share=True)
        else:
            lora_path = find_lora(backbone.name, lora)
            self.backbone = backbone
        self.adapter: Adapter | None = attach(self.backbone, lora_path) if lora_path is not None else None
        self.upsampler: Upsampler | None = None
        if upscale is not None:
            from synclora.backbones.upsampler import load_upsampler  # seconds to import, and rarely needed

            model = locate(backbone) if isinstance(backbone, (str, Path)) else backbone.name
            self.upsampler = load_upsampler(upscale, self.backbone, model)

    @property
    def geometry(self) -> Geometry:
        """The videos it makes: the backbone's, or of twice the size with an upsampler."""
        geometry = self.backbone.geometry
        if self.upsampler is None:
            return geometry
        return replace(geometry, width=2 * geometry.width, height=2 * geometry.height)

    @property
    def sampling(self) -> Sampling:
        """How this backbone is sampled where nothing else is asked for.

        As `sampling` says; else as the adapter does, of the ways that suit it the one for this base; else a distilled
        base at its own noise levels.
        """
        if self._sampling:
            return SAMPLINGS[self._sampling]
        told: bool | None = getattr(self.backbone, "distilled", None)
        distilled = "distilled" in self.backbone.name.lower() if told is None else told
        asked = sampling_for(self.adapter.rules, distilled=distilled) if self.adapter else None
        if asked is None and distilled:
            return SAMPLINGS["distilled"]
        return asked or Sampling(DEFAULT_STEPS.get(self.backbone.name, OTHER_STEPS), Guidance())

    @property
    def default_steps(self) -> int:
        return self.sampling.steps

    def edit(
        self,
        clip: Clip,
        first_frame: Tensor,
        prompt: str = "",
        steps: int | None = None,
        seed: int = 0,
        attention: Attention | None = None,
        progress: Progress | None = None,
        stages: Stages | None = None,
        *,
        keyframes: Mapping[int, Tensor] | None = None,
        strength: float = 1.0,
        mask: Tensor | None = None,
        keep_background: bool = False,
        detail: str | None = None,
    ) -> Clip:
        """Make the edited clip: as many frames as `clip`, at its frame rate, with its sound.

        Args:
            clip: the source, of any length; cropped to the model's size where it has another.
            first_frame: its first frame with the edit applied, uint8 [H, W, 3] of the model's size.
            prompt: what the edited video shows, in words; may be empty.
            steps: denoising steps; None for the backbone's own.
            seed: of the noise; the same seed gives the same edit.
            attention: "self" or "joint" for the reference; None for what the LoRA was trained with.
            progress: called as progress(stage, done, total).
            stages: a stopwatch to use in place of `progress`.
            keyframes: further edited frames by their number, as `first_frame`.
            strength: how much of the edit shows, 0 (the source) to 1.
            mask: where it may show: [H, W] or [F, H, W], bool, uint8 (0 to 255) or float (0 to 1). Elsewhere the output
                is the source.
            keep_background: whether it may show on the person alone (see `synclora.editing.region`).
            detail: "source": what the edit leaves alone is the source's own (`synclora.editing.detail`); "model": every
                pixel as the model made it. None: "source" with an adapter trained for few steps, as nano's is, where
                the second run costs little; else "model".

        Raises:
            SyncloraError: a clip, frame or setting that does not fit, or weights that give no finite numbers.
        """
        geometry = self.geometry
        stages = stages or Stages(progress)
        check_indices(keyframes or {}, clip.num_frames)
        frames = clip.frames
        if (clip.width, clip.height) != (geometry.width, geometry.height):
            frames = apply_crop(frames, centered_crop(clip.width, clip.height, geometry.width, geometry.height))
        alpha = None if mask is None else mask_of(mask, len(frames), geometry.height, geometry.width)
        region = Region(check_strength(strength), alpha, keep_background)
        overlap = overlap_of(geometry)
        windows = slices(frames, geometry.frames, overlap)
        images = {0: first_frame, **(keyframes or {})}
        made, done = [], 0
        batches = self.stream(windows, float(clip.fps), images, prompt, steps, seed, attention, stages, detail)
        stages.rounds(len(starts(len(frames), geometry.frames, overlap)))
        for edited in batches:
            source = frames[done : done + len(edited)]
            made.append(region.show(source, source, edited))
            done += len(edited)
        stages.finish()
        return Clip(torch.cat(made), clip.fps, clip.origin)

    def stream(
        self,
        windows: Iterable[Tensor],
        fps: float,
        images: Mapping[int, Tensor],
        prompt: str = "",
        steps: int | None = None,
        seed: int = 0,
        attention: Attention | None = None,
        stages: Stages | None = None,
        detail: str | None = None,
        carrier: Carrier | None = None,
    ) -> Iterator[Tensor]:
        """Edit windows as they come; the whole edit shows, everywhere. `edit` tells what the other arguments are.

        Args:
            windows: of the source at the model's size, as `synclora.clip.iter_windows` cuts them: the model's frames
                long, the overlap `synclora.editing.windows.overlap_of`.
            fps: frames a second.
            images: the edited frames by their number, 0 among them.
            carrier: of these images, for `detail` "source"; None for a new one.

        Returns:
            Batches of edited frames, uint8 [m, H, W, 3], each frame once and in order.
        """
        for index, image in images.items():
            self._check_frame("first frame" if index == 0 else f"keyframe {index}", image)
        sampling, detail = self.sampling, self.check_detail(detail)
        sampler: Sampler | DetailSampler = Sampler(
            self.backbone,
            self.adapter,
            images,
            self._prompt(prompt),
            check_steps(sampling.steps if steps is None else steps),
            attention or (self.adapter.attention if self.adapter else "self"),
            fps,
            torch.Generator().manual_seed(check_seed(seed)),
            stages or Stages(),
            sampling.guidance,
            sampling.sigmas if steps in (None, sampling.steps) else None,
            self.upsampler,
            sampling.refine or REFINE_SIGMAS,
        )
        if detail == "source":
            sampler = DetailSampler(sampler, self._prompt(""), carrier)
        sampler.read_prompt()
        return run(windows, overlap_of(self.backbone.geometry), sampler.make)

    def check_detail(self, detail: str | None) -> str:
        """What `detail` comes to here: "source" or "model".

        Raises:
            SyncloraError: it is neither, or "source" without a LoRA.
        """
        if detail is None:
            return "source" if self.adapter and self.adapter.rules.steps is not None else "model"
        if check_choice("--detail", detail, DETAIL_CHOICES) == "source" and self.adapter is None:
            raise SyncloraError(
                "--detail source: without a LoRA the model does not see the source, and its edit cannot be put on it. "
                "Pass a --lora, or --detail model."
            )
        return detail

    def _prompt(self, prompt: str) -> str:
        return prompt_for(self.adapter.path, self.adapter.rules, prompt) if self.adapter else prompt

    def memory_notices(self) -> list[Notice]:
        """Whether the parts of the model take turns on the GPU."""
        turns = getattr(self.backbone, "turns", None)
        return [Notice("memory", turns.notice)] if turns else []

    def _check_frame(self, name: str, frame: Tensor) -> None:
        geometry = self.geometry
        needed = (geometry.height, geometry.width, 3)
        if tuple(frame.shape) != needed or frame.dtype != torch.uint8:
            raise SyncloraError(
                f"{name}: {frame.dtype} {list(frame.shape)}; uint8 {list(needed)} is needed. "
                "Read a picture file with synclora.editing.first_frame.load_first_frame, which fits it."
            )


def edit(
    source: Path | str,
    first_frame: Path | str,
    output: Path | str,
    *,
    prompt: str = "",
    backbone: str | Path | Backbone = "nano",
    lora: str | Path | None = "default",
    steps: int | None = None,
    seed: int = 0,
    frames: int | None = None,
    fit: str = "pad",
    keyframes: Mapping[int, Path | str] | None = None,
    strength: float = 1.0,
    mask: Path | str | None = None,
    keep_background: bool = False,
    crop: str = "face",
    device: str = "auto",
    upscale: str | Path | None = None,
    sampling: str | None = None,
    detail: str | None = None,
    editor: Editor | None = None,
    progress: Progress | None = None,
) -> EditResult:
    """Edit a video file: source video + edited first frame -> output video with the source's frame rate and sound.

    Args:
        source: the portrait video, of any length and size.
        first_frame: its first frame with the edit applied, as a picture file (see `write_first_frame`), or the whole
            picture edited.
        output: the .mp4 to write; whole or absent.
        prompt: what the edited video shows, in words; may be empty.
        backbone, lora, device, upscale, sampling: see `Editor`; left alone where `editor` is given.
        steps: denoising steps; None for the backbone's own.
        seed: of the noise.
        frames: take the first so many frames; None for the whole clip.
        fit: where the clip's length does not suit the model and `frames` is None: "pad" repeats the last frame for the
            model and cuts back, "trim" takes the longest length that suits, "error" refuses.
        keyframes: further edited frames, picture files by frame number.
        strength: how much of the edit shows, 0 (the source) to 1.
        mask: picture or video, white where the edit may show.
        keep_background: whether it may show on the person alone.
        crop: "face" or "center" (see `synclora.editing.facecrop.place`).
        detail: "source" or "model" (see `Editor.edit`).
        editor: one that is already loaded, to edit many clips.
        progress: called as progress(stage, done, total).

    Raises:
        SyncloraError: anything about the files, weights or settings that does not fit; nothing is written then.
    """
    pictures = dict(keyframes or {})
    inputs = [source, first_frame, *pictures.values(), *([mask] if mask else [])]
    output = check_folder(check_output(output, *inputs))
    check_settings(steps, seed, strength, fit, crop, detail)
    stages = Stages(progress)
    stages.begin("Looking at the source")
    info = probe(source)
    if not Path(first_frame).exists():
        raise SyncloraError(
            f"{first_frame}: no such file. Pass the edited first frame; to get the frame to edit: "
            f"synclora first-frame {source} -o frame.png"
        )
    if editor is None:
        stages.begin("Loading the model")
        editor = Editor(backbone, lora, device, upscale=upscale, sampling=sampling)
    detail = editor.check_detail(detail)
    geometry = editor.geometry
    overlap = overlap_of(geometry)

    stages.begin("Reading the source")
    limit = frames_to_read(source, info, geometry, frames, fit)
    if pictures:
        check_indices(pictures, limit or count_frames(source))
    placement = place(source, geometry.width, geometry.height, crop)
    windows = iter_windows(source, geometry.frames, overlap, frames=limit, crop=placement.crop)
    first = next(windows)

    stages.begin("Checking the edited frames")
    image, notices = load_first_frame(
        first_frame,
        (geometry.width, geometry.height),
        source_frame=first.frames[0],
        source_size=(info.width, info.height),
        crop=placement.crop,
    )
    notices += check_first_frame(image, first.frames[0])
    images, more = load_keyframes(pictures, source, placement)
    notices += more
    alpha = load_mask(mask, placement, info.fps, limit or info.frames) if mask else None
    images = {0: image, **images}
    carrier = None
    if detail == "source" and strength > 0:
        carrier = Carrier(images, load_large({0: first_frame, **pictures}, source, placement))
    region = Region(strength, alpha, keep_background, placement, carrier)

    parts = Parts(chain([first], windows), overlap, source, placement, stages, limit)
    edited = editor.stream(parts, float(first.fps), images, prompt, steps, seed, None, stages, detail, carrier)
    stages.rounds(len(starts(limit or info.frames, geometry.frames, overlap)))
    written = write_frames(output, parts.output(edited, region), first.fps, origin=first.origin)
    stages.finish()
    notices = [
        *source_notices(info, parts.count, geometry),
        *adapter_notices(editor.adapter, editor.backbone.geometry),
        *editor.memory_notices(),
        *placement_notices(info, placement),
        *notices,
        *(Notice("written", text) for text in written),
    ]
    settings = {
        "source": str(source),
        "first_frame": str(first_frame),
        "output": str(output),
        "prompt": prompt,
        "backbone": editor.backbone.name,
        "backbone_fingerprint": editor.backbone.fingerprint(),
        "lora": str(editor.adapter.path) if editor.adapter else None,
        "attention": editor.adapter.attention if editor.adapter else None,
        "upscale": editor.upsampler.path if editor.upsampler else None,
        "steps": editor.default_steps if steps is None else steps,
        "seed": seed,
        "frames": parts.count,
        "padded_frames": geometry.fit_up(parts.count),
        "fit": fit,
        "keyframes": {index: str(path) for index, path in pictures.items()},
        "strength": strength,
        "mask": str(mask) if mask else None,
        "keep_background": keep_background,
        "crop": [placement.crop.left, placement.crop.top, placement.crop.width, placement.crop.height],
        "detail": detail,
        "fps": str(first.fps),
        "size": list(placement.size),
        "device": str(editor.backbone.device),
    }
    return EditResult(
        output,
        Path(source),
        image,
        parts.count,
        first.fps,
        first.origin is not None,
        placement,
        notices,
        settings,
        stages.seconds,
    )


def check_settings(
    steps: int | None = None,
    seed: int = 0,
    strength: float = 1.0,
    fit: str = "pad",
    crop: str = "face",
    detail: str | None = None,
) -> None:
    """Refuse settings of `edit` that no clip and no model could take.

    Raises:
        SyncloraError: which, and what is possible.
    """
    if steps is not None:
        check_steps(steps)
    check_seed(seed)
    check_strength(strength)
    check_choice("--fit", fit, FIT_CHOICES)
    check_choice("--crop", crop, CROP_CHOICES)
    if detail is not None:
        check_choice("--detail", detail, DETAIL_CHOICES)


@contextmanager
def _one_progress_bar() -> Iterator[None]:
    """Silence transformers' own bar while weights are loaded; ours tells the stage."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
