"""The edited first frame: taken out of the source, read back after the edit, and checked against the source.

    synclora first-frame source.mp4 -o frame.png     # the frame to edit, at the exact crop the model will see

What a picture editor may have done to the image in between (turned it by EXIF, cut holes into it, stored 16 bits,
another size, another colour profile) is put right here and told in a notice; what cannot be put right is an error.
"""

from __future__ import annotations

import io
import math
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from synclora.errors import SyncloraError

if TYPE_CHECKING:
    from PIL import Image

    from synclora.clip import Crop
    from synclora.faces.signals import MotionSignals

ASPECT_TOLERANCE = 0.02  # relative; picture editors round sizes to multiples of 8 or 16
LARGEST_IMAGE = 16_384  # px a side; beyond this an image is a mistake or an attack
# How far the tracker's reading may differ before it is told. An edit alone moves it: over 80 drawn edits that keep the
# pose, by up to 5 deg of yaw, 9 of pitch (beards), 1 of roll, 8 of gaze, 0.03 in place and a seventh of the lids' gap.
TURN_TOLERANCE = {"yaw": 8.0, "pitch": 11.0, "roll": 5.0}  # degrees
GAZE_TOLERANCE = 12.0  # degrees
PLACE_TOLERANCE = 0.15  # distances between the outer eye corners
EYE_TOLERANCE = 0.5  # lids nearer than this part of the other frame's gap are closed
EYEBALL_RADIUS = 0.13  # of the distance between the outer eye corners: 12 mm of about 90 mm in adults
_WAY_OUT = "Start from the picture that `synclora first-frame SOURCE -o frame.png` writes and keep its size"


@dataclass(frozen=True)
class Notice:
    """Something a person should know that does not stop the edit."""

    kind: str  # stable name, e.g. "resized", "head_turned"
    text: str  # one sentence

    def __str__(self) -> str:
        return self.text

    def to_json(self) -> dict[str, str]:
        return asdict(self)


def extract_first_frame(source: Path | str, width: int, height: int) -> Tensor:
    """Frame 0 of a video at the crop the model sees: uint8 [height, width, 3].

    Raises:
        SyncloraError: the video cannot be read.
    """
    from synclora.clip import read_clip

    return read_clip(source, frames=1, crop=source_crop(source, width, height)).frames[0]


def source_crop(source: Path | str, width: int, height: int) -> Crop:
    """The one crop of a video that editing and `first-frame` share: largest, centred, of the model's aspect."""
    from synclora.clip import centered_crop, probe

    info = probe(source)
    return centered_crop(info.width, info.height, width, height)


def write_first_frame(source: Path | str, output: Path | str, backbone: str | Path = "nano") -> tuple[int, int]:
    """Write the frame to edit as a PNG (8-bit RGB), atomically; returns its width and height, those of the model.

    Raises:
        SyncloraError: the video or the model's settings cannot be read, or the file cannot be written.
    """
    from synclora.atomic import atomic_path
    from synclora.backbones.checkpoint import read_settings
    from synclora.backbones.presets import PRESETS

    output = Path(output)
    if output.suffix.lower() != ".png":
        raise SyncloraError(
            f"{output}: the frame to edit is written without loss, as PNG. Name it {output.with_suffix('.png').name}."
        )
    settings = read_settings(PRESETS.get(str(backbone), backbone))
    frame = extract_first_frame(source, settings.width, settings.height)
    with atomic_path(output) as temporary:
        to_image(frame).save(temporary, format="PNG")
    return settings.width, settings.height


def to_image(frame: Tensor) -> Image.Image:
    """A Pillow image of a uint8 [H, W, 3] frame."""
    from PIL import Image

    return Image.fromarray(frame.contiguous().numpy())


def load_first_frame(
    path: Path | str,
    size: tuple[int, int],
    *,
    source_frame: Tensor | None = None,
    source_size: tuple[int, int] | None = None,
) -> tuple[Tensor, list[Notice]]:
    """Read the edited frame at the model's `size` (width, height): uint8 [height, width, 3], and what was put right.

    EXIF rotation and an embedded colour profile are applied; palette, grey, 16-bit and CMYK images become 8-bit RGB;
    transparent parts show `source_frame` (uint8 [height, width, 3]); another size of the same aspect is resized. An
    image of the whole source's aspect (`source_size`: width, height) is cropped as the source is.

    Raises:
        SyncloraError: no such file, not an image, damaged, or an aspect that is neither the model's nor the source's.
    """
    path = Path(path)
    image, notices = _open(path)
    image, more = _upright_rgb(image, path)
    notices += more
    image, more = _fit(image, path, size, source_size)
    notices += more
    if image.mode == "RGBA":
        notices.append(_transparency_notice(image, path, source_frame))
        image = _over(image, source_frame)
    return torch.from_numpy(np.array(image.convert("RGB"))), notices


def check_first_frame(edited: Tensor, source_frame: Tensor) -> list[Notice]:
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
        return [Notice("no_face", "no face was found in the source's first frame; the edit was made all the same.")]
    notices = []
    if found > 1:
        text = (
            f"{found} faces were found in the source's first frame; one portrait is expected, the largest is compared."
        )
        notices.append(Notice("faces", text))
    if not signals.found[1]:
        notices.append(Notice("no_edited_face", "no face was found in the edited frame, so its pose was not compared."))
    elif signals.found[0]:
        notices += _pose_notices(signals)
    return notices


def _pose_notices(signals: MotionSignals) -> list[Notice]:
    """Frame 0 is the source, frame 1 the edited frame; where a signal is NaN nothing is said."""
    notices = []
    advice = "Keep the source frame's pose in the edited frame, or expect a jump at the start."
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
    names = ("source's first frame", "edited frame")
    for shut, wide in ((0, 1), (1, 0)):
        if signals.eyes[shut] < EYE_TOLERANCE * signals.eyes[wide]:
            text = f"eyes are closed in the {names[shut]} and open in the {names[wide]}. {advice}"
            notices.append(Notice("eyes", text))
    return notices


def _degrees(shift: float) -> float:
    """The turn of an eyeball that moves its iris by `shift`, in distances between the outer eye corners."""
    return math.degrees(math.asin(max(-1.0, min(1.0, shift / EYEBALL_RADIUS)))) if math.isfinite(shift) else math.nan


def _open(path: Path) -> tuple[Image.Image, list[Notice]]:
    from PIL import Image, UnidentifiedImageError

    if not path.exists():
        raise SyncloraError(f"{path}: no such file. Pass the edited first frame, e.g. --first-frame edited.png.")
    if path.is_dir():
        raise SyncloraError(f"{path}: a folder; an image file is needed, e.g. --first-frame {path / 'edited.png'}.")
    try:
        image = Image.open(path)
        if max(image.size) > LARGEST_IMAGE:
            raise SyncloraError(
                f"{path}: {image.width}x{image.height} px; at most {LARGEST_IMAGE} a side is read. {_WAY_OUT}."
            )
        image.load()
    except UnidentifiedImageError as error:
        raise SyncloraError(
            f"{path}: not an image that can be read ({path.stat().st_size} bytes, no known image format). "
            "Save the edited frame as PNG, JPEG or WebP."
        ) from error
    except Image.DecompressionBombError as error:
        raise SyncloraError(f"{path}: far too many pixels for one frame. {_WAY_OUT}.") from error
    except (OSError, SyntaxError, ValueError) as error:
        raise SyncloraError(f"{path}: a damaged image ({error}). Save the edited frame again, as PNG.") from error
    if getattr(image, "n_frames", 1) > 1:
        return image, [Notice("animated", f"{path.name} holds several pictures; the first one is used.")]
    return image, []


def _upright_rgb(image: Image.Image, path: Path) -> tuple[Image.Image, list[Notice]]:
    """8-bit RGB, or RGBA where anything is transparent, turned the way EXIF says."""
    from PIL import ImageOps

    notices: list[Notice] = []
    orientation = image.getexif().get(0x0112, 1)
    if orientation in range(2, 9):
        image = ImageOps.exif_transpose(image)
        notices.append(Notice("rotated", f"{path.name} was turned as its EXIF orientation ({orientation}) says."))
    if image.mode.startswith("I") or image.mode == "F":
        image = _eight_bits(image, path)
        notices.append(Notice("depth", f"{path.name} holds more than 8 bits a channel; it was reduced to 8."))
    image, more = _to_srgb(image, path)
    notices += more
    transparent = image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info
    if transparent:
        image = image.convert("RGBA")
        if np.asarray(image)[..., 3].min() == 255:  # an alpha channel that hides nothing
            image = image.convert("RGB")
        return image, notices
    if image.mode in ("1", "L"):
        notices.append(Notice("grey", f"{path.name} is a grey picture; the edited video will be grey where it is."))
    return image.convert("RGB"), notices


def _eight_bits(image: Image.Image, path: Path) -> Image.Image:
    from PIL import Image

    values = np.asarray(image).astype(np.float64)
    if image.mode == "F":
        if not np.isfinite(values).all() or values.min() < 0 or values.max() > 1:
            raise SyncloraError(
                f"{path}: floating-point values from {values.min():g} to {values.max():g}; 0 to 1 is what an image "
                "holds. Save the edited frame as an 8-bit PNG."
            )
        values *= 65535
    return Image.fromarray((values.clip(0, 65535) / 257).round().astype(np.uint8))


def _to_srgb(image: Image.Image, path: Path) -> tuple[Image.Image, list[Notice]]:
    """Colours as sRGB, which is what the model was trained on; phones save Display P3."""
    profile = image.info.get("icc_profile")
    if not profile or image.mode not in ("RGB", "RGBA"):
        return image, []
    from PIL import ImageCms

    try:
        theirs = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        name = ImageCms.getProfileDescription(theirs).strip()
        if "srgb" in name.lower():
            return image, []
        converted = ImageCms.profileToProfile(image, theirs, ImageCms.createProfile("sRGB"))
    except (ImageCms.PyCMSError, OSError) as error:
        return image, [Notice("profile", f"{path.name}: its colour profile cannot be used ({error}) and was ignored.")]
    assert converted is not None
    return converted, [Notice("profile", f"{path.name}: colours were converted from {name} to sRGB.")]


def _fit(
    image: Image.Image, path: Path, size: tuple[int, int], source_size: tuple[int, int] | None
) -> tuple[Image.Image, list[Notice]]:
    """The image at `size`, by resizing where its aspect is the model's and by the source's crop where it is that."""
    from PIL import Image

    width, height = size
    if image.size == size:
        return image, []
    found = f"{image.width}x{image.height}"
    box: tuple[float, float, float, float] = (0, 0, image.width, image.height)
    if _same_aspect(image.size, size):
        notice = Notice("resized", f"{path.name} is {found} px; it was resized to {width}x{height}.")
    elif source_size is not None and _same_aspect(image.size, source_size):
        from synclora.clip import centered_crop

        crop = centered_crop(image.width, image.height, width, height)
        box = (crop.left, crop.top, crop.left + crop.width, crop.top + crop.height)
        notice = Notice(
            "cropped", f"{path.name} is {found} px, the whole source's aspect; it was cropped as the source is."
        )
    else:
        needed = Fraction(width, height)
        raise SyncloraError(
            f"{path}: {found} px, an aspect of {image.width / image.height:.3f}; the model needs "
            f"{needed.numerator}:{needed.denominator} (e.g. {width}x{height}), showing what the source's first frame "
            f"shows. {_WAY_OUT}."
        )
    # premultiplied, so that what lies under transparent pixels does not bleed into their edges
    mode = image.mode
    work = image.convert("RGBa") if mode == "RGBA" else image
    return work.resize((width, height), Image.Resampling.LANCZOS, box=box).convert(mode), [notice]


def _same_aspect(size: tuple[int, int], other: tuple[int, int]) -> bool:
    ratio = size[0] * other[1] / (size[1] * other[0])
    return max(ratio, 1 / ratio) - 1 <= ASPECT_TOLERANCE


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
