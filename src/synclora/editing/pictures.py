"""Pictures as people and their editors leave them: turned by EXIF, with holes, 16 bits, other colour profiles.

What can be put right is put right and told in a notice; what cannot is an error.
"""

from __future__ import annotations

import io
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from synclora.errors import SyncloraError

if TYPE_CHECKING:
    from PIL import Image

ASPECT_TOLERANCE = 0.02  # relative; picture editors round sizes to multiples of 8 or 16
LARGEST_IMAGE = 16_384  # px a side; beyond this an image is a mistake or an attack
WAY_OUT = "Start from the picture that `synclora first-frame SOURCE -o frame.png` writes and keep its size"


@dataclass(frozen=True)
class Notice:
    """Something a person should know that does not stop the edit."""

    kind: str  # stable name, e.g. "resized", "head_turned"
    text: str  # one sentence

    def __str__(self) -> str:
        return self.text

    def to_json(self) -> dict[str, str]:
        return asdict(self)


def to_image(frame: Tensor) -> Image.Image:
    """A Pillow image of a uint8 [H, W, 3] frame."""
    from PIL import Image

    return Image.fromarray(frame.contiguous().numpy())


def open_picture(
    path: Path, what: str = "the edited first frame", flag: str = "--first-frame edited.png"
) -> tuple[Image.Image, list[Notice]]:
    """An image file as 8-bit RGB in sRGB, or RGBA where anything is transparent, turned the way EXIF says.

    Raises:
        SyncloraError: no such file, not an image, or damaged; `what` and `flag` name it there.
    """
    image, notices = _open(path, what, flag)
    image, more = _upright_rgb(image, path)
    return image, notices + more


def picture_width(path: Path | str) -> int:
    """The width of a readable image file as it is shown, in pixels."""
    return open_picture(Path(path))[0].width


def same_aspect(size: tuple[int, int], other: tuple[int, int]) -> bool:
    """Whether two sizes (width, height) are of one aspect, but for rounding."""
    ratio = size[0] * other[1] / (size[1] * other[0])
    return max(ratio, 1 / ratio) - 1 <= ASPECT_TOLERANCE


def _open(path: Path, what: str, flag: str) -> tuple[Image.Image, list[Notice]]:
    from PIL import Image, UnidentifiedImageError

    if not path.exists():
        raise SyncloraError(f"{path}: no such file. Pass {what}, e.g. {flag}.")
    if path.is_dir():
        raise SyncloraError(f"{path}: a folder; an image file is needed, e.g. {flag}.")
    try:
        image = Image.open(path)
        if max(image.size) > LARGEST_IMAGE:
            raise SyncloraError(
                f"{path}: {image.width}x{image.height} px; at most {LARGEST_IMAGE} a side is read. {WAY_OUT}."
            )
        image.load()
    except UnidentifiedImageError as error:
        raise SyncloraError(
            f"{path}: not an image that can be read ({path.stat().st_size} bytes, no known image format). "
            "Save {what} as PNG, JPEG or WebP."
        ) from error
    except Image.DecompressionBombError as error:
        raise SyncloraError(f"{path}: far too many pixels for one frame. {WAY_OUT}.") from error
    except (OSError, SyntaxError, ValueError) as error:
        raise SyncloraError(f"{path}: a damaged image ({error}). Save {what} again, as PNG.") from error
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
