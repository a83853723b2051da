"""The edited first frame: taken out of the source, read back after the edit, and checked against the source.

    synclora first-frame source.mp4 -o frame.png     # the frame to edit, at the exact crop the model will see

What a picture editor may have done to the image in between (turned it by EXIF, cut holes into it, stored 16 bits,
another size, another colour profile) is put right here and told in a notice; what cannot be put right is an error.
"""

from __future__ import annotations

import math
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from synclora.clip import Crop, apply_crop
from synclora.editing.pictures import WAY_OUT, Notice, open_picture, same_aspect, to_image
from synclora.errors import SyncloraError

if TYPE_CHECKING:
    from PIL import Image

    from synclora.faces.signals import MotionSignals

__all__ = ["Notice", "check_first_frame", "load_first_frame", "to_image", "write_first_frame"]

# How far the tracker's reading may differ before it is told. An edit alone moves it: over 80 drawn edits that keep the
# pose, by up to 5 deg of yaw, 9 of pitch (beards), 1 of roll, 8 of gaze, 0.03 in place and a seventh of the lids' gap.
TURN_TOLERANCE = {"yaw": 8.0, "pitch": 11.0, "roll": 5.0}  # degrees
GAZE_TOLERANCE = 12.0  # degrees
PLACE_TOLERANCE = 0.15  # distances between the outer eye corners
EYE_TOLERANCE = 0.5  # lids nearer than this part of the other frame's gap are closed
EYEBALL_RADIUS = 0.13  # of the distance between the outer eye corners: 12 mm of about 90 mm in adults


def extract_first_frame(source: Path | str, width: int, height: int, crop: str = "face") -> Tensor:
    """Frame 0 of a video at the crop that a model of width x height px sees, uint8 [H, W, 3].

    Where the edit is pasted back into a larger picture the frame is as large as there, else of the model's size.

    Raises:
        SyncloraError: the video cannot be read.
    """
    from synclora.clip import read_clip
    from synclora.editing.facecrop import place

    placement = place(source, width, height, crop)
    return read_clip(source, frames=1, crop=placement.large_crop).frames[0]


def write_first_frame(
    source: Path | str,
    output: Path | str,
    backbone: str | Path = "nano",
    crop: str = "face",
    *,
    upscale: bool = False,
) -> tuple[int, int]:
    """Write the frame to edit as a PNG (8-bit RGB), atomically; returns its width and height.

    They are the crop's in the source where that is larger than the model's picture and the edit is pasted back; else
    the model's, or with `upscale` twice as large, as an edit in two stages makes them.

    Raises:
        SyncloraError: the video or the model's settings cannot be read, or the file cannot be written.
    """
    from synclora.atomic import atomic_path
    from synclora.backbones.checkpoint import read_settings
    from synclora.backbones.presets import locate

    output = Path(output)
    if output.suffix.lower() != ".png":
        raise SyncloraError(
            f"{output}: the frame to edit is written without loss, as PNG. Name it {output.with_suffix('.png').name}."
        )
    settings = read_settings(locate(backbone))
    factor = 2 if upscale else 1
    width, height = factor * settings.width, factor * settings.height
    frame = extract_first_frame(source, width, height, crop)
    with atomic_path(output) as temporary:
        to_image(frame).save(temporary, format="PNG")
    return frame.shape[1], frame.shape[0]


def load_first_frame(
    path: Path | str,
    size: tuple[int, int],
    *,
    source_frame: Tensor | None = None,
    source_size: tuple[int, int] | None = None,
    crop: Crop | None = None,
    what: str = "the edited first frame",
    flag: str = "--first-frame edited.png",
) -> tuple[Tensor, list[Notice]]:
    """Read an edited frame at the model's `size` (width, height): uint8 [height, width, 3], and what was put right.

    EXIF rotation and an embedded colour profile are applied; palette, grey, 16-bit and CMYK images become 8-bit RGB;
    transparent parts show `source_frame` (uint8 [height, width, 3]); another size of the same aspect is resized. An
    image of the whole source's aspect (`source_size`: width, height) is cropped as the source is (`crop`, by default
    the largest in the middle). Where both aspects are one, it is taken for what looks more like `source_frame`.

    Raises:
        SyncloraError: no such file, not an image, damaged, or an aspect that is neither the model's nor the source's.
    """
    path = Path(path)
    image, notices = open_picture(path, what, flag)
    image, more = _fit(image, path, size, source_size, crop, source_frame)
    notices += more
    if image.mode == "RGBA":
        notices.append(_transparency_notice(image, path, source_frame))
        image = _over(image, source_frame)
    return torch.from_numpy(np.array(image.convert("RGB"))), notices


def check_first_frame(edited: Tensor, source_frame: Tensor, which: str = "first frame") -> list[Notice]:
    """What in the edited frame may keep the edit from following the source: uint8 [H, W, 3] each, of one size.

    The edited video starts from the edited frame and moves like the source, so a head that is turned, or eyes that look
    elsewhere, in that one frame have to jump. A frame that shows no face, or several, is told as well.
    """
    from synclora.clip import Clip

    try:
        from synclora.faces import count_faces, measure

        found = count_faces(source_frame)
        signals = measure(Clip(torch.stack([source_frame, edited]), Fraction(25)))
    except ImportError as error:
        return [Notice("unchecked", f"the faces were not compared: the face tracker cannot be imported ({error}).")]
    if found == 0:
        return [Notice("no_face", f"no face was found in the source's {which}; the edit was made all the same.")]
    notices = []
    if found > 1:
        text = f"{found} faces were found in the source's {which}; one portrait is expected, the largest is compared."
        notices.append(Notice("faces", text))
    if not signals.found[1]:
        notices.append(Notice("no_edited_face", "no face was found in the edited frame, so its pose was not compared."))
    elif signals.found[0]:
        notices += _pose_notices(signals, which)
    return notices


def _pose_notices(signals: MotionSignals, which: str) -> list[Notice]:
    """Frame 0 is the source, frame 1 the edited frame; where a signal is NaN nothing is said."""
    notices = []
    advice = "Keep the source frame's pose in the edited frame, or expect a jump there."
    for name, verb in (("yaw", "turned"), ("pitch", "nodded"), ("roll", "tilted")):
        source, edited = getattr(signals, name)[:2]
        if abs(edited - source) > TURN_TOLERANCE[name]:
            text = f"head {verb} {abs(edited - source):.0f} deg away from the source frame. {advice}"
            notices.append(Notice(f"head_{verb}", text))
    moved = math.hypot(signals.shift_x[1] - signals.shift_x[0], signals.shift_y[1] - signals.shift_y[0])
    if moved > PLACE_TOLERANCE:
        text = f"the head sits {moved:.1f} eye distances away from its place in the source frame. {advice}"
        notices.append(Notice("head_moved", text))
    shifts = (signals.gaze_x[1] - signals.gaze_x[0], signals.gaze_y[1] - signals.gaze_y[0])
    turn = math.hypot(*map(_degrees, shifts))
    if turn > GAZE_TOLERANCE:
        notices.append(Notice("gaze", f"eyes look {turn:.0f} deg away from the source frame's gaze. {advice}"))
    names = (f"source's {which}", "edited frame")
    for shut, wide in ((0, 1), (1, 0)):
        if signals.eyes[shut] < EYE_TOLERANCE * signals.eyes[wide]:
            text = f"eyes are closed in the {names[shut]} and open in the {names[wide]}. {advice}"
            notices.append(Notice("eyes", text))
    return notices


def _degrees(shift: float) -> float:
    """The turn of an eyeball that moves its iris by `shift`, in distances between the outer eye corners."""
    return math.degrees(math.asin(max(-1.0, min(1.0, shift / EYEBALL_RADIUS)))) if math.isfinite(shift) else math.nan


def _fit(
    image: Image.Image,
    path: Path,
    size: tuple[int, int],
    source_size: tuple[int, int] | None,
    crop: Crop | None,
    source_frame: Tensor | None,
) -> tuple[Image.Image, list[Notice]]:
    """The image at `size`, by resizing where its aspect is the model's and by the source's crop where it is that."""
    if image.size == size:
        return image, []
    found = f"{image.width}x{image.height}"
    boxes = {}
    if same_aspect(image.size, size):
        text = f"{path.name} is {found} px; it was resized to {size[0]}x{size[1]}."
        boxes["resized"] = (0.0, 0.0, float(image.width), float(image.height)), text
    if source_size is not None and same_aspect(image.size, source_size):
        text = f"{path.name} is {found} px, the whole source's aspect; it was cropped as the source is."
        boxes["cropped"] = _box_in(image, source_size, size, crop), text
    if not boxes:
        needed = Fraction(*size)
        raise SyncloraError(
            f"{path}: {found} px, an aspect of {image.width / image.height:.3f}; the model needs "
            f"{needed.numerator}:{needed.denominator} (e.g. {size[0]}x{size[1]}), showing what the source's first "
            f"frame shows. {WAY_OUT}."
        )
    fitted = {kind: (_resized(image, size, box), Notice(kind, text)) for kind, (box, text) in boxes.items()}
    kind = next(iter(fitted))
    if len(fitted) > 1 and source_frame is not None:
        kind = min(fitted, key=lambda kind: _difference(fitted[kind][0], source_frame))
    picture, notice = fitted[kind]
    as_written = kind == "resized" and crop is not None and image.size == (crop.width, crop.height)
    return picture, [] if as_written else [notice]


def _box_in(
    image: Image.Image, source_size: tuple[int, int], size: tuple[int, int], crop: Crop | None
) -> tuple[float, float, float, float]:
    """The source's crop in an image of all of the source: left, top, right, bottom."""
    from synclora.clip import centered_crop

    if crop is None:
        crop, source_size = centered_crop(*image.size, *size), image.size
    x, y = image.width / source_size[0], image.height / source_size[1]
    return crop.left * x, crop.top * y, (crop.left + crop.width) * x, (crop.top + crop.height) * y


def _resized(image: Image.Image, size: tuple[int, int], box: tuple[float, float, float, float]) -> Image.Image:
    from PIL import Image

    corners = [round(side) for side in box]
    if image.mode == "RGB" and tuple(corners) == box:  # as the source's frames are resized, to the bit
        left, top, right, bottom = corners
        cut = Crop(left, top, right - left, bottom - top, *size)
        return to_image(apply_crop(torch.from_numpy(np.array(image))[None], cut)[0])
    # premultiplied, so that what lies under transparent pixels does not bleed into their edges
    work = image.convert("RGBa") if image.mode == "RGBA" else image
    return work.resize(size, Image.Resampling.LANCZOS, box=box).convert(image.mode)


def _difference(image: Image.Image, frame: Tensor) -> float:
    return float(np.abs(np.asarray(image.convert("RGB")).astype(int) - frame.numpy()).mean())


def _transparency_notice(image: Image.Image, path: Path, source_frame: Tensor | None) -> Notice:
    hidden = float((np.asarray(image)[..., 3] < 255).mean())
    if source_frame is None:
        return Notice("alpha", f"{path.name} is transparent in {hidden:.0%} of its area; black shows there.")
    return Notice(
        "alpha", f"{path.name} is transparent in {hidden:.0%} of its area; the source's first frame shows there."
    )


def _over(image: Image.Image, source_frame: Tensor | None) -> Image.Image:
    from PIL import Image

    under = Image.new("RGBA", image.size) if source_frame is None else to_image(source_frame).convert("RGBA")
    return Image.alpha_composite(under, image)
