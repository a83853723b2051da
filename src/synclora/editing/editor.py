"""Edit a clip: the edited first frame's look on the source's motion.

    synclora edit source.mp4 --first-frame edited.png -o edited.mp4

    from synclora import Editor, read_clip
    edited = Editor("nano").edit(read_clip("source.mp4", frames=33), first_frame)   # a Clip, source's fps and sound

`Editor.edit` is the whole method at inference; around it, `edit` reads, checks and writes files.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from synclora.backbones.base import Attention, Backbone, Geometry
from synclora.backbones.presets import load_backbone
from synclora.clip import (
    Clip,
    ClipInfo,
    Crop,
    apply_crop,
    centered_crop,
    check_output,
    from_model,
    probe,
    read_clip,
    to_model,
    write_clip,
)
from synclora.diffusion.flow import sample_loop, sigma_schedule
from synclora.diffusion.sequence import Condition, FirstFrame, Reference, Sequence, build
from synclora.editing.adapter import Adapter, attach, find_lora
from synclora.editing.first_frame import Notice, check_first_frame, load_first_frame, source_crop
from synclora.editing.frames import FIT_CHOICES, frames_to_read, frames_to_use, pad_frames
from synclora.editing.guards import check_folder, check_seed, check_steps, finite, resolve_device
from synclora.editing.stages import Progress, Stages
from synclora.errors import SyncloraError

DEFAULT_STEPS = {"nano": 8}
OTHER_STEPS = 30  # what the undistilled LTX models are sampled with


class Editor:
    """A backbone with its Sync-LoRA, ready to edit clips.

    Args:
        backbone: a preset's name, a diffusers folder, a hub id, or a `Backbone`.
        lora: a LoRA file; "default" for the one that comes with the backbone; None for the plain base model, which
            animates the edited frame without seeing the source.
        device: "auto" (CUDA where there is one), "cpu", "cuda", "cuda:1" ...

    Raises:
        SyncloraError: missing or damaged weights, a LoRA of another base, an unknown device.
    """

    def __init__(
        self, backbone: str | Path | Backbone = "nano", lora: str | Path | None = "default", device: str = "auto"
    ) -> None:
        if isinstance(backbone, (str, Path)):
            lora_path = find_lora(backbone, lora)  # before the weights are loaded, which may take minutes
            with _one_progress_bar():
                self.backbone: Backbone = load_backbone(str(backbone), device=resolve_device(device))
        else:
            lora_path = find_lora(backbone.name, lora)
            self.backbone = backbone
        self.adapter: Adapter | None = attach(self.backbone, lora_path) if lora_path is not None else None

    @property
    def default_steps(self) -> int:
        return DEFAULT_STEPS.get(self.backbone.name, OTHER_STEPS)

    @torch.inference_mode()
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
    ) -> Clip:
        """Make the edited clip: as many frames as `clip`, at its frame rate, with its sound.

        Args:
            clip: the source, at most the model's window long; cropped to the model's size where it has another.
            first_frame: its first frame with the edit applied, uint8 [H, W, 3] of the model's size.
            prompt: what the edited video shows, in words; may be empty.
            steps: denoising steps; None for the backbone's own.
            seed: of the noise; the same seed gives the same edit.
            attention: "self" or "joint" for the reference; None for what the LoRA was trained with.
            progress: called as progress(stage, done, total).
            stages: a stopwatch to use in place of `progress`.

        Raises:
            SyncloraError: a clip, frame or setting that does not fit, or weights that give no finite numbers.
        """
        backbone, geometry = self.backbone, self.backbone.geometry
        stages = stages or Stages(progress)
        steps = check_steps(self.default_steps if steps is None else steps)
        generator = torch.Generator().manual_seed(check_seed(seed))
        attention = attention or (self.adapter.attention if self.adapter else "self")
        source = self._prepare(clip)
        self._check_frame(first_frame)

        stages.begin("Encoding the source")
        conditions: list[Condition] = []
        if self.adapter is not None:
            downscale = self.adapter.downscale
            latents = backbone.encode(to_model(_shrink(source, downscale)))
            conditions.append(Reference(finite(latents, "encoding the source", backbone), downscale))

        stages.begin("Encoding the first frame")
        latents = backbone.encode(to_model(first_frame[None]))
        conditions.append(FirstFrame(finite(latents, "encoding the first frame", backbone)))
        text = backbone.embed([prompt])

        stages.begin("Denoising", steps)
        grid = geometry.latent_grid(source.shape[0])
        noise = torch.randn(1, geometry.channels, *grid, generator=generator)
        sequence = build(
            noise.to(latents.device),
            float(clip.fps),
            conditions,
            spatial=geometry.spatial,
            temporal=geometry.temporal,
        )
        cached = self.adapter is not None and attention == "self"
        cache = backbone.reference_cache(sequence, text) if cached else None

        def velocity(sequence: Sequence, sigma: float) -> Tensor:
            answer = backbone.velocity(sequence, sigma, text, attention=attention, cache=cache)
            return finite(answer, "denoising", backbone)

        sigmas = sigma_schedule(steps, sequence.num_target)
        sequence = sample_loop(velocity, sequence, sigmas, stages.step)

        stages.begin("Decoding")
        video = finite(backbone.decode(sequence.target_latents()), "decoding", backbone)
        stages.end()
        return Clip(from_model(video)[: clip.num_frames], clip.fps, clip.origin)

    def _prepare(self, clip: Clip) -> Tensor:
        """The source's frames at the model's size and padded to a length the model takes."""
        geometry = self.backbone.geometry
        if not 1 <= clip.num_frames <= geometry.frames:
            raise SyncloraError(
                f"clip of {clip.num_frames} frames; {self.backbone.name} takes 1 to {geometry.frames} at a time. "
                f"Cut it, e.g. clip[:{geometry.frames}]."
            )
        frames = clip.frames
        if (clip.width, clip.height) != (geometry.width, geometry.height):
            crop = centered_crop(clip.width, clip.height, geometry.width, geometry.height)
            frames = apply_crop(frames, crop)
        return pad_frames(frames, geometry.fit_up(clip.num_frames))

    def _check_frame(self, first_frame: Tensor) -> None:
        geometry = self.backbone.geometry
        needed = (geometry.height, geometry.width, 3)
        if tuple(first_frame.shape) != needed or first_frame.dtype != torch.uint8:
            raise SyncloraError(
                f"first frame: {first_frame.dtype} {list(first_frame.shape)}; uint8 {list(needed)} is needed. "
                "Read a picture file with synclora.editing.first_frame.load_first_frame, which fits it."
            )


@dataclass(frozen=True)
class EditResult:
    """What `edit` made, and all that it has to say about it."""

    output: Path  # the video written
    source: Clip  # what the model saw: cropped, first N frames
    first_frame: Tensor  # uint8 [H, W, 3], as the model saw it
    edited: Clip
    notices: list[Notice]
    settings: dict[str, Any]  # every setting that shaped the result, JSON-serialisable
    seconds: dict[str, float]  # wall-clock time of each stage

    def summary(self) -> list[str]:
        """Lines for a person: what was written, and every notice."""
        clip = self.edited
        rate = f"{clip.num_frames} frames at {float(clip.fps):g} fps"
        sound = "with the source's sound" if clip.origin else "the source has no sound"
        took = f"{sum(self.seconds.values()):.1f} s"
        return [*(f"note: {notice}" for notice in self.notices), f"{self.output}  ({rate}, {sound}; {took})"]


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
    device: str = "auto",
    editor: Editor | None = None,
    progress: Progress | None = None,
) -> EditResult:
    """Edit a video file: source video + edited first frame -> output video with the source's frame rate and sound.

    Args:
        source: the portrait video.
        first_frame: its first frame with the edit applied, as a picture file (see `write_first_frame`).
        output: the .mp4 to write; whole or absent.
        prompt: what the edited video shows, in words; may be empty.
        backbone, lora, device: see `Editor`; left alone where `editor` is given.
        steps: denoising steps; None for the backbone's own.
        seed: of the noise.
        frames: take the first so many frames; None for the whole clip.
        fit: where the clip's length does not suit the model and `frames` is None: "pad" repeats the last frame for the
            model and cuts back, "trim" takes the longest length that suits, "error" refuses.
        editor: one that is already loaded, to edit many clips.
        progress: called as progress(stage, done, total).

    Raises:
        SyncloraError: anything about the files, weights or settings that does not fit; nothing is written then.
    """
    output = check_folder(check_output(output, source, first_frame))
    if steps is not None:
        check_steps(steps)
    check_seed(seed)
    if fit not in FIT_CHOICES:
        raise SyncloraError(f"--fit {fit!r} is not known; choose one of: {', '.join(FIT_CHOICES)}.")
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
        editor = Editor(backbone, lora, device)
    geometry = editor.backbone.geometry

    stages.begin("Reading the source")
    crop = source_crop(source, geometry.width, geometry.height)
    clip = read_clip(source, frames=frames_to_read(source, geometry, frames), crop=crop)
    clip = clip[: frames_to_use(source, clip.num_frames, geometry, frames, fit)]
    notices = _source_notices(info, clip, geometry)

    stages.begin("Checking the first frame")
    frame, more = load_first_frame(
        first_frame,
        (geometry.width, geometry.height),
        source_frame=clip.frames[0],
        source_size=(info.width, info.height),
    )
    notices += more + check_first_frame(frame, clip.frames[0])

    edited = editor.edit(clip, frame, prompt, steps, seed, stages=stages)
    stages.begin("Writing the video")
    notices += [Notice("written", text) for text in write_clip(output, edited)]
    stages.end()
    settings = {
        "source": str(source),
        "first_frame": str(first_frame),
        "output": str(output),
        "prompt": prompt,
        "backbone": editor.backbone.name,
        "backbone_fingerprint": editor.backbone.fingerprint(),
        "lora": str(editor.adapter.path) if editor.adapter else None,
        "attention": editor.adapter.attention if editor.adapter else None,
        "steps": editor.default_steps if steps is None else steps,
        "seed": seed,
        "frames": edited.num_frames,
        "padded_frames": geometry.fit_up(edited.num_frames),
        "fit": fit,
        "fps": str(edited.fps),
        "size": [geometry.width, geometry.height],
        "device": str(editor.backbone.device),
    }
    return EditResult(output, clip, frame, edited, notices, settings, stages.seconds)


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


def _shrink(frames: Tensor, factor: int) -> Tensor:
    """The frames `factor` times smaller each way."""
    if factor == 1:
        return frames
    height, width = frames.shape[1:3]
    return apply_crop(frames, Crop(0, 0, width, height, width // factor, height // factor))


def _source_notices(info: ClipInfo, clip: Clip, geometry: Geometry) -> list[Notice]:
    """What a person should know of how the source was taken."""
    name, notices = info.path.name, []
    if info.variable:
        text = f"{name} has a variable frame rate; its frames were taken at a constant {float(clip.fps):g} a second."
        notices.append(Notice("variable_rate", text))
    if not 0.6 < float(clip.fps) / geometry.fps < 1.7:
        text = f"{name} has {float(clip.fps):g} frames a second; the model learnt motion at {geometry.fps:g}."
        notices.append(Notice("frame_rate", text))
    if clip.num_frames < info.frames:
        text = f"the first {clip.num_frames} of about {info.frames} frames of {name} were edited."
        notices.append(Notice("cut", text))
    if clip.num_frames == 1:
        notices.append(Notice("one_frame", f"{name}: one frame was edited, so there is no motion to follow."))
    if min(info.width, info.height) < min(geometry.width, geometry.height):
        text = f"{name} is {info.width}x{info.height} px, smaller than the model's picture; it was enlarged."
        notices.append(Notice("enlarged", text))
    return notices
