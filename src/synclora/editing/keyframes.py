"""Further edited frames, anywhere in the clip.

    synclora edit talk.mp4 --first-frame f0.png --keyframe 60=f60.png --keyframe 120=f120.png -o edited.mp4

Each is the source's frame of that number with the edit applied, cropped and checked as the first frame is. It is shown
to the window that holds its frame, and from there on to the windows after it in place of the first frame.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from torch import Tensor

from synclora.clip import read_clip
from synclora.editing.facecrop import Placement
from synclora.editing.first_frame import check_first_frame, load_first_frame
from synclora.editing.pictures import Notice, picture_width
from synclora.errors import SyncloraError

FINER = 1.25  # times the model's width: a picture that shows the same with fewer pixels holds no more detail


def parse_keyframes(texts: Iterable[str]) -> dict[int, Path]:
    """What `--keyframe 60=picture.png` says, by frame number.

    Raises:
        SyncloraError: not a number and a file, or two pictures for one frame.
    """
    found: dict[int, Path] = {}
    for text in texts:
        number, equals, path = text.partition("=")
        if not equals or not path or not number.strip().isdecimal():
            raise SyncloraError(f"--keyframe {text}: a frame number and a picture are needed, as in 60=frame-60.png.")
        index = int(number)
        if index in found:
            raise SyncloraError(f"--keyframe {text}: frame {index} has a picture already, {found[index]}. Pass one.")
        found[index] = Path(path)
    return found


def check_indices(indices: Iterable[int], frames: int) -> None:
    """Whether keyframes lie within a clip of so many frames, and none of them at frame 0.

    Raises:
        SyncloraError: one that does not.
    """
    for index in indices:
        if index == 0:
            raise SyncloraError("keyframe 0: that is the first frame; pass its picture as the first frame alone.")
        if not 0 < index < frames:
            last = f"frame {frames - 1}, counted from 0" if frames > 1 else "frame 0, the first frame"
            raise SyncloraError(f"keyframe {index}: the clip has {frames} frames; its last one is {last}.")


def load_keyframes(
    pictures: Mapping[int, Path | str], source: Path | str, placement: Placement
) -> tuple[dict[int, Tensor], list[Notice]]:
    """Read edited frames at the model's size, and compare each with the source's frame of its number.

    Raises:
        SyncloraError: a picture that cannot be used; see `load_first_frame`.
    """
    images, notices = {}, []
    size = placement.crop.out_width, placement.crop.out_height
    for index, path in sorted(pictures.items()):
        shown = read_clip(source, start=index, frames=1, crop=placement.crop).frames[0]
        images[index], more = load_first_frame(
            path,
            size,
            source_frame=shown,
            source_size=(placement.width, placement.height),
            crop=placement.crop,
            what="the edited frame",
            flag=f"--keyframe {index}=edited.png",
        )
        notices += more + check_first_frame(images[index], shown, f"frame {index}")
    return images, notices


def load_large(
    pictures: Mapping[int, Path | str], source: Path | str, placement: Placement
) -> dict[int, tuple[Tensor, Tensor]]:
    """The edited frames at the size of the crop they are pasted into, each with the source's frame: uint8 [h, w, 3].

    Only pictures that hold more than the model sees of them; none where nothing is pasted.

    Raises:
        SyncloraError: as `load_first_frame`.
    """
    if not placement.pasted:
        return {}
    crop, large = placement.crop, {}
    for index, path in pictures.items():
        shown = read_clip(source, start=index, frames=1, crop=placement.large_crop).frames[0]
        image, notices = load_first_frame(
            path,
            (crop.width, crop.height),
            source_frame=shown,
            source_size=(placement.width, placement.height),
            crop=crop,
        )
        width = picture_width(path)
        if any(notice.kind == "cropped" for notice in notices):
            width *= crop.width / placement.width
        if width > FINER * crop.out_width:
            large[index] = image, shown
    return large
