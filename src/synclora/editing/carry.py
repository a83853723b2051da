"""The edited images themselves, carried along with the source: sharp where the source's pixels can be found again.

    out = made + sure * (carried - made)
    carried = moved(edited) + kept * (source - moved(own))

`own` is the source's frame of an edited image, `moved` takes either to another frame by the source's optical flow. What
the edit keeps of the source's structure moves on as the source does (`kept`: lips under another skin); what is new
there is the edited image's. How sure that is falls with p, the difference between source and moved(own) around a pixel,
and with c, how far the flow there and back misses its start:

    sure = exp(-(p / FOUND)^2 - (c / MISSED)^2)

A mouth that opens, what a head uncovers, fast motion: there the network's picture stays. What the edit adds to a head
or takes off it goes with the head instead (`synclora.editing.attached`). At its own number an edited image is shown as
it was given, bit for bit; between two of them each counts by how near it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from synclora.editing.attached import Attached, Seen, around, find_attached
from synclora.editing.facecrop import kept_structure
from synclora.optical_flow import find_flow, grey, move

Array = NDArray[np.float32]

FOUND = 16.0  # grey levels
MISSED = 1 / 64  # of the picture's height
CHANGED = 25.0  # grey levels: at this difference half of the source's detail stays, whatever its structure
REACH = 1 / 85  # of the picture's height: standard deviation of the blur that tells what is around a pixel


@dataclass
class _Known:
    """An edited image and the source's frame it belongs to, float [H, W, 3]; kept [H, W]; what goes with the head; how
    the source's pixels went to the last frame it was carried to, and how the head."""

    edited: Array
    own: Array
    kept: Array
    attached: Attached | None
    flow: Array  # from which the search for the next one starts
    way: Array  # which stays where the head is not seen

    def rest(self) -> None:
        """Begin at the image's own frame."""
        self.flow, self.way = np.zeros_like(self.flow), np.zeros_like(self.way)


class Carrier:
    """Carries the edited images through the windows of one edit, in order.

    Args:
        images: the edited images by the number of their frame, uint8 [H, W, 3].
    """

    def __init__(self, images: Mapping[int, Tensor]) -> None:
        self._images = images
        self._known: dict[int, _Known] = {}

    def show(self, window: Tensor, start: int, made: Tensor) -> Tensor:
        """The frames `made` of a window of the source (uint8 [F, H, W, 3] both) with the edited images carried in.

        Args:
            start: number of the window's first frame.
        """
        source, own = window.numpy(), made.numpy()
        seen = Seen(source)
        end = start + len(source)
        for index in self._images:
            if start <= index < end and index not in self._known:
                self._known[index] = _known(self._images[index].numpy(), source[index - start])
        parts: dict[int, list[tuple[float, Array, Array]]] = {number: [] for number in range(start, end)}
        for index, known in self._known.items():
            before = max((i for i in self._known if i < index), default=None)
            after = min((i for i in self._known if i > index), default=None)
            if index >= start:
                if before is not None:
                    known.rest()
                    for number, sure, carried in _carry(
                        known, source, seen, start, range(index - 1, max(before, start - 1), -1)
                    ):
                        parts[number].append(((number - before) / (index - before), sure, carried))
                known.rest()
                parts[index] = [(1.0, np.ones_like(known.kept), known.edited)]
            for number, sure, carried in _carry(
                known, source, seen, start, range(max(index + 1, start), min(after or end, end))
            ):
                share = 1.0 if after is None else (after - number) / (after - index)
                parts[number].append((share, sure, carried))
        shown = [_mixed(own[number - start], parts[number]) for number in range(start, end)]
        return torch.from_numpy(np.stack(shown))


def _known(edited: NDArray[np.uint8], own: NDArray[np.uint8]) -> _Known:
    new, old = edited.astype(np.float32), own.astype(np.float32)
    planes = [torch.from_numpy(picture).permute(2, 0, 1)[None] for picture in (old, new)]
    structure = kept_structure(planes[0], planes[1])[0, 0].numpy()
    near = 1 / (1 + (_around(new - old) / CHANGED) ** 2)
    kept = np.maximum(structure, near)
    attached = find_attached(edited, own, 1 - near, kept)
    return _Known(new, old, kept, attached, *np.zeros((2, *edited.shape[:2], 2), np.float32))


def _carry(
    known: _Known, source: NDArray[np.uint8], seen: Seen, start: int, numbers: range
) -> Iterator[tuple[int, Array, Array]]:
    """(number, sure [H, W], carried [H, W, 3]) of the frames `numbers`, each next to the one before it."""
    reference = grey(known.own.astype(np.uint8))
    for number in numbers:
        here, frame = source[number - start].astype(np.float32), grey(source[number - start])
        known.flow = flow = find_flow(frame, reference, known.flow)
        back = move(find_flow(reference, frame), flow)
        missed = np.hypot(*(flow + back).transpose(2, 0, 1)) / (MISSED * len(flow))
        difference = here - move(known.own, flow)
        sure = np.exp(-((_around(difference) / FOUND) ** 2) - missed**2)
        carried = move(known.edited, flow) + move(known.kept, flow)[..., None] * difference
        if known.attached is not None:
            sure, carried = _attach(known, known.attached, seen, number - start, here, sure, carried)
        yield number, sure, carried


def _attach(
    known: _Known, attached: Attached, seen: Seen, place: int, here: Array, sure: Array, carried: Array
) -> tuple[Array, Array]:
    """`sure` and `carried` of the window's frame `place`, under what goes with the head."""
    way = attached.way(seen.landmarks[place])
    known.way = way = known.way if way is None else way
    added, removed, hidden = (
        move(plane, flow)
        for plane, flow in ((attached.added, way), (attached.removed, way), (attached.added, known.flow))
    )
    person, beside = seen.person(place), around(attached.added, added)
    ground = np.maximum(beside, around(attached.removed, removed)) * (1 - person)
    layers = [
        (sure * (1 - hidden), carried),
        (ground * attached.ground.same, here + attached.ground.change),
        (beside * person * (1 - hidden) * attached.body.same, here + attached.body.change),
        (removed * attached.bare, known.edited),
        (added, move(known.edited, way)),
    ]
    weight, colours = np.zeros_like(sure), np.zeros_like(carried)
    for alpha, picture in layers:
        weight = weight + alpha * (1 - weight)
        colours = colours + alpha[..., None] * (picture - colours)
    return weight, colours / np.maximum(weight, 1e-6)[..., None]


def _around(difference: Array) -> Array:
    """The largest channel of a difference [H, W, 3], blurred."""
    import cv2

    return np.asarray(cv2.GaussianBlur(np.abs(difference).max(-1), (0, 0), REACH * len(difference)), np.float32)


def _mixed(made: NDArray[np.uint8], parts: list[tuple[float, Array, Array]]) -> NDArray[np.uint8]:
    """The frame as made, under what was carried to it: (share, sure, carried) of one edited image or two."""
    weight, squares, carried = (np.zeros((*made.shape[:2], 1), np.float32) for _ in range(3))
    for share, sure, picture in parts:
        weighted = (share * sure)[..., None]
        weight, squares, carried = weight + weighted, squares + weighted * sure[..., None], carried + weighted * picture
    some = np.maximum(weight, 1e-6)
    return (made + squares / some * (carried / some - made)).round().clip(0, 255).astype(np.uint8)
