"""Pictures: from a decoded frame to RGB as it is shown, and from RGB to what is encoded."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from av import VideoFrame
    from av.video.reformatter import VideoReformatter
    from av.video.stream import VideoStream

# Numbers of libswscale (flags, matrices) and libavutil (ITU-T H.273 codes), which PyAV takes as they are. The named
# enumerations of PyAV hold only some of them in its older releases.
_LIMITED, _FULL = 1, 2
BT709 = 1
_UNSPECIFIED_MATRIX = 2
_BT601_MATRIX = 5
_WIDE_PRIMARIES = {9, 11, 12}  # BT.2020, DCI-P3, Display P3
_KNOWN_TRANSFERS = {1, 6, 13, 14, 15, 16, 18}  # BT.709 and its equals, sRGB, PQ, HLG
_BICUBIC, _FULL_CHROMA_OUT, _FULL_CHROMA_IN, _ACCURATE = 0x4, 0x2000, 0x4000, 0x40000


@dataclass(frozen=True)
class Shape:
    """How stored pictures become shown ones: scaled to width x height (square pixels), transposed, then flipped."""

    width: int
    height: int
    transpose: bool = False
    flip_x: bool = False
    flip_y: bool = False

    @staticmethod
    def of(frame: VideoFrame, stream: VideoStream) -> Shape:
        """Read the pixel aspect and the display matrix (ISO/IEC 14496-12, 8.3.2: x' = a x + c y, y' = b x + d y)."""
        aspect = stream.sample_aspect_ratio or Fraction(1)
        if not Fraction(1, 8) <= aspect <= 8:
            aspect = Fraction(1)
        size = max(1, round(frame.width * aspect)), frame.height
        matrix: Any = frame.side_data.get("DISPLAYMATRIX")
        if matrix is None:
            return Shape(*size)
        a, b, _, c, d = (int(v) for v in np.frombuffer(bytes(matrix), np.int32)[:5])
        if abs(a) + abs(d) >= abs(b) + abs(c):
            return Shape(*size, False, a < 0, d < 0)
        return Shape(*size, True, c < 0, b < 0)

    @property
    def rotation(self) -> int:
        """Counter-clockwise degrees; a mirrored picture counts as what is turned after mirroring it left to right."""
        if self.transpose:
            return 90 if self.flip_y else 270
        return 180 if self.flip_y else 0

    @property
    def size(self) -> tuple[int, int]:
        """Width and height as shown."""
        return (self.height, self.width) if self.transpose else (self.width, self.height)

    def apply(self, picture: np.ndarray) -> np.ndarray:
        """Turn a stored picture [H, W, 3] the way it is shown."""
        if self.transpose:
            picture = picture.transpose(1, 0, 2)
        return picture[:: -1 if self.flip_y else 1, :: -1 if self.flip_x else 1]


def to_rgb(frame: VideoFrame, shape: Shape, reformatter: VideoReformatter) -> np.ndarray:
    """Convert a decoded frame to the uint8 [H, W, 3] RGB picture that is shown.

    The frame's own colour matrix and range count; where it names no matrix, BT.709 from 720 lines or 1280 columns on
    and BT.601 below, as players do. Wide-gamut and HDR pictures (BT.2020, P3; PQ, HLG) are brought to BT.709; what is
    brighter than 203 cd/m2 is clipped to white.
    """
    unnamed = int(frame.colorspace) == _UNSPECIFIED_MATRIX
    wide = frame.color_primaries in _WIDE_PRIMARIES and frame.color_trc in _KNOWN_TRANSFERS
    rgb = reformatter.reformat(
        frame,
        width=shape.width,
        height=shape.height,
        format="rgb24",
        src_colorspace=(BT709 if frame.width >= 1280 or frame.height >= 720 else _BT601_MATRIX) if unnamed else None,
        dst_color_range=_FULL,
        dst_color_trc=BT709 if wide else None,
        dst_color_primaries=BT709 if wide else None,
        interpolation=_BICUBIC | _FULL_CHROMA_OUT | _ACCURATE,
    )
    return np.ascontiguousarray(shape.apply(rgb.to_ndarray()))


def to_yuv(picture: np.ndarray, reformatter: VideoReformatter) -> VideoFrame:
    """Convert uint8 [H, W, 3] RGB to a yuv420p frame, BT.709, limited range."""
    from av import VideoFrame

    return reformatter.reformat(
        VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24"),
        format="yuv420p",
        src_color_range=_FULL,
        dst_colorspace=BT709,
        dst_color_range=_LIMITED,
        interpolation=_BICUBIC | _FULL_CHROMA_IN | _ACCURATE,
    )


def tag_bt709(stream: VideoStream) -> None:
    """Mark an encoder's stream as BT.709, limited range."""
    context = stream.codec_context
    context.colorspace = context.color_primaries = context.color_trc = BT709
    context.color_range = _LIMITED
