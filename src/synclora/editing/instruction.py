"""The edited first frame by words: made by an image-editing model, laid back onto frame 0, and shown before sampling.

    synclora edit talk.mp4 --instruction "give her short red hair" -o red.mp4
    synclora edit talk.mp4 --instruction "..." -o red.mp4 --editor flux-kontext --yes

    frame 0 at the crop the video model sees, at the size the image model likes
      -> image model -> laid back onto frame 0 -> global drift of colour undone -> the size in the source
      -> OUT.first-frame.png, and what is to be said about it -> go on?

The image model is gone from memory before the video model is loaded.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from synclora.atomic import atomic_path
from synclora.clip import check_output, probe, read_clip
from synclora.editing.adapter import find_lora
from synclora.editing.drift import steady_colours
from synclora.editing.facecrop import CROP_CHOICES, Placement, place
from synclora.editing.first_frame import TURN_TOLERANCE, check_first_frame
from synclora.editing.guards import check_choice, check_folder, check_seed
from synclora.editing.image_editors import DEFAULT_EDITOR, FoundEditor, ImageEditor, find_editor
from synclora.editing.pictures import Notice, to_image
from synclora.editing.stages import Progress, Stages
from synclora.errors import SyncloraError

MOST_WORDS = 2000  # characters of an instruction
TOLD_MOVE = 0.004  # of the shorter side: smaller corrections are not worth a line
UNCHANGED = 0.5  # grey levels, mean: the edit changed nothing


@dataclass(frozen=True)
class Proposal:
    """An edited first frame that waits for a person's word.

    Attributes:
        path: the PNG.
        frame: uint8 [H, W, 3], of the size that `synclora first-frame` writes.
        notices: what was put right, and what may keep the edit from following the source.
        seconds: of each stage.
    """

    path: Path
    frame: Tensor
    notices: list[Notice]
    seconds: dict[str, float]

    def summary(self) -> list[str]:
        """Lines for a person."""
        height, width = self.frame.shape[:2]
        took = f"{sum(self.seconds.values()):.1f} s"
        return [*(f"note: {notice}" for notice in self.notices), f"{self.path}  ({width}x{height}; {took})"]


def first_frame_path(output: Path | str) -> Path:
    """Where the edited first frame of an output is written: OUT.first-frame.png beside OUT.mp4."""
    output = Path(output)
    return output.with_name(f"{output.stem}.first-frame.png")


def chosen_first_frame(
    source: Path | str,
    output: Path | str,
    first_frame: Path | str | None,
    instruction: str | None,
    **settings: Any,
) -> Path | None:
    """The edited first frame as it was given, or made by words (`first_frame_by_words`, whose settings these are).

    Raises:
        SyncloraError: both or neither were given, or as `first_frame_by_words`.
    """
    if first_frame is not None and instruction is not None:
        raise SyncloraError(
            "--first-frame and --instruction exclude each other: give the edited first frame, or the words to make it."
        )
    if instruction is not None:
        return first_frame_by_words(source, instruction, output, **settings)
    if first_frame is not None:
        return Path(first_frame)
    raise SyncloraError(
        "the edited first frame is missing: give it with --first-frame (the frame to edit: `synclora first-frame"
        f' {source} -o frame.png`), or say what to change with --instruction "give her short red hair".'
    )


def first_frame_by_words(
    source: Path | str,
    instruction: str,
    output: Path | str,
    *,
    yes: bool = False,
    further: Iterable[Path] = (),
    editor: str | Path = DEFAULT_EDITOR,
    backbone: str | Path = "nano",
    lora: str | Path | None = "default",
    crop: str = "face",
    seed: int = 0,
    device: str = "auto",
    bars: Callable[[], AbstractContextManager[Progress | None]] = nullcontext,
    tell: Callable[[str], None] = print,
    ask: Callable[[str], bool] | None = None,
) -> Path | None:
    """Make the edited first frame, show it, and ask whether to go on: its path, or None where the answer is no.

    Args:
        source, output: of the edit that is to follow.
        instruction: what to change, in words.
        yes: do not ask.
        further: files that the edit will read, too.
        bars: shows progress while the picture is made, and is gone when the question comes.
        tell: gets each line for the person.
        ask: gets the question; None: asked on the terminal.

    Raises:
        SyncloraError: as `propose_first_frame`; one of `further` is missing; or there is no terminal to ask
            on, once the picture is written.
    """
    if missing := next((path for path in further if not path.exists()), None):
        raise SyncloraError(f"{missing}: no such file. Check the path; it would be needed after the image model.")
    with bars() as progress:
        proposal = propose_first_frame(
            source, instruction, output,
            editor=editor, backbone=backbone, lora=lora, crop=crop, seed=seed, device=device, progress=progress,
        )  # fmt: skip
    for line in proposal.summary():
        tell(line)
    files = (shlex.quote(str(path)) for path in (source, proposal.path, output))
    on = "  synclora edit {} --first-frame {} -o {}".format(*files)
    if yes:
        return proposal.path
    if ask is None:
        if not sys.stdin.isatty():
            raise SyncloraError(
                f"{proposal.path}: the edited first frame is written, and there is no terminal to ask whether it is"
                f" good. Look at it and go on, with the other options that you gave, with\n{on}\nor pass --yes to go on"
                " unasked."
            )
        ask = _ask
    if ask("Go on with this first frame?"):
        return proposal.path
    tell(
        "Nothing was sampled. Change the words or --seed and run it again, or edit the picture and go on, with the"
        f" other options that you gave, with\n{on}"
    )
    return None


def propose_first_frame(
    source: Path | str,
    instruction: str,
    output: Path | str,
    *,
    editor: str | Path = DEFAULT_EDITOR,
    backbone: str | Path = "nano",
    lora: str | Path | None = "default",
    crop: str = "face",
    seed: int = 0,
    device: str = "auto",
    progress: Progress | None = None,
) -> Proposal:
    """Edit frame 0 by words and write it beside the output, whole or not at all.

    Everything that the edit of the video needs is looked for first: hours of work are not begun that cannot go on.

    Args:
        editor: a preset's name, a folder or a hub id (`synclora.editing.image_editors`).
        backbone, lora, crop, device: of the edit that is to follow.
        seed: of the image model's noise.

    Raises:
        SyncloraError: files, weights or settings that do not fit, or an image model that failed.
    """
    from synclora.backbones.checkpoint import read_settings
    from synclora.backbones.presets import locate

    words = _check_instruction(instruction)
    check_folder(check_output(output, source))
    check_seed(seed)
    check_choice("--crop", crop, CROP_CHOICES)
    probe(source)
    settings = read_settings(locate(backbone))
    find_lora(backbone, lora)
    found = find_editor(editor)
    stages = Stages(progress)
    stages.begin("Looking at the source")
    placement = place(source, settings.width, settings.height, crop)
    seen, exact = _frame_zero(source, placement, found)

    stages.begin("Loading the image model")
    with ImageEditor(found, device) as model:
        stages.begin("Editing the first frame", found.call.steps)
        made = model.edit(seen, words, seed, stages)
        notices = [Notice("editor", model.notice)] if model.notice else []
    stages.begin("Aligning")
    frame, more = fit_back(made, seen, exact)
    notices += more
    path = first_frame_path(output)
    with atomic_path(path) as temporary:
        to_image(frame).save(temporary, format="PNG")
    stages.finish()
    return Proposal(path, frame, notices, stages.seconds)


def fit_back(made: Tensor, seen: Tensor, exact: Tensor) -> tuple[Tensor, list[Notice]]:
    """Bring what an image model made back onto frame 0.

    Args:
        made: the edited picture; seen: what it was made from, uint8 [h, w, 3] each, at the image model's size.
        exact: frame 0 at the video model's crop, uint8 [H, W, 3].

    Returns:
        The edited first frame, uint8 [H, W, 3], and what is to be told.
    """
    height, width = exact.shape[:2]
    made, notices = _aligned(made, seen, min(height, width) / min(seen.shape[:2]))
    frame, drift = steady_colours(_resized(made, height, width), exact)
    if drift:
        text = f"the image model shifted all colours by {drift:.1f} grey levels; that was undone."
        notices.append(Notice("colours", text))
    if float((frame.float() - exact.float()).abs().mean()) < UNCHANGED:
        text = "the image model changed next to nothing. Say more plainly what should be different."
        notices.append(Notice("unchanged", text))
    poses = {notice.kind for notice in notices}
    told = {"out_of_pose": {"head_turned", "head_nodded", "head_tilted"}, "misplaced": {"head_moved"}}
    covered = {kind for name, kinds in told.items() if name in poses for kind in kinds}
    return frame, notices + [n for n in check_first_frame(frame, exact) if n.kind not in covered]


def _aligned(made: Tensor, seen: Tensor, ratio: float) -> tuple[Tensor, list[Notice]]:
    """The edited picture laid onto what it was made from; lengths are told times `ratio`."""
    try:
        from synclora.faces.align import align, align_background
    except ImportError as error:
        text = f"the edited first frame was not aligned: the face tracker cannot be imported ({error})."
        return made, [Notice("unaligned", text)]
    by, alignment = "by the face", align(made, seen)
    if alignment is None:
        by, alignment = "by the background", align_background(made, seen)
    if alignment is None:
        text = "neither a face nor a common background was found in both pictures, so the edit was not aligned."
        return made, [Notice("unaligned", text)]
    notices = []
    how = f"{alignment.moved_px * ratio:.1f} px, {alignment.degrees:+.1f} deg, scale {alignment.scale:.3f}"
    if not alignment.small:
        text = (
            f"the image model drew the person elsewhere ({how} {by}), more than is put right: the video would start out"
            " of place. Ask for it in other words (e.g. add: keep pose and framing), or another --seed."
        )
        notices.append(Notice("misplaced", text))
    elif alignment.applied and alignment.moved_px > TOLD_MOVE * min(seen.shape[:2]):
        notices.append(Notice("aligned", f"the edited first frame was moved back onto the source's {by}: {how}."))
    yaw, pitch, roll = alignment.pose_difference
    left = {"yaw": yaw, "pitch": pitch, "roll": roll + alignment.degrees * alignment.applied}
    off = [f"{name} {angle:+.0f} deg" for name, angle in left.items() if abs(angle) > TURN_TOLERANCE[name]]
    if off:
        text = (
            f"the head is turned away from the source's first frame ({', '.join(off)}): the edit would start out of"
            " pose and jump. Ask for it in other words (e.g. add: keep pose and gaze), or another --seed."
        )
        notices.append(Notice("out_of_pose", text))
    return alignment.picture, notices


def _frame_zero(source: Path | str, placement: Placement, found: FoundEditor) -> tuple[Tensor, Tensor]:
    """Frame 0 at the video model's crop: at the image model's size, and as `synclora first-frame` writes it."""
    crop = placement.crop
    wide, high = found.call.size_for(crop.out_width, crop.out_height)
    shown = replace(crop, out_width=wide, out_height=high)  # cut from the source itself: as much detail as it has
    seen, exact = (read_clip(source, frames=1, crop=cut).frames[0] for cut in (shown, placement.large_crop))
    return seen, exact


def _resized(picture: Tensor, height: int, width: int) -> Tensor:
    if tuple(picture.shape[:2]) == (height, width):
        return picture
    planes = picture.permute(2, 0, 1)[None].float()
    planes = F.interpolate(planes, size=(height, width), mode="bicubic", antialias=True)
    return planes[0].permute(1, 2, 0).round().clamp(0, 255).to(torch.uint8)


def _check_instruction(instruction: str) -> str:
    words = " ".join(instruction.split())
    if not words:
        raise SyncloraError('--instruction is empty; say what to change, e.g. --instruction "give her short red hair".')
    if len(words) > MOST_WORDS:
        raise SyncloraError(f"--instruction has {len(words)} characters; at most {MOST_WORDS} are read.")
    return words


def _ask(question: str) -> bool:
    import typer

    return typer.confirm(question, default=True)
