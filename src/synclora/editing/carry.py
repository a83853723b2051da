"""The edited images themselves, carried along with the source: sharp where the source's pixels can be found again.

    recoloured = source + change           what the edit does to the source's colours
    carried = recoloured + moved(rest)     and what they do not tell: what is new in the picture

    out = made + told * (recoloured - made), and on that: out + sure * (carried - out)

`change` is an affine function of the frame's own colours, place by place (`synclora.editing.colours`, which also says
how far colours tell the edit), `moved` takes the places and the rest to another frame by the source's optical flow. How
sure that is falls with p, the difference between source and moved(own) around a pixel, where `own` is the source's
frame of the edited image, and with c, how far the flow there and back misses its start:

    sure = exp(-(p / FOUND)^2 - (c / MISSED)^2)

Something new on a face that turns, what a head uncovers, fast motion: there the network's picture stays. What the edit
adds to a head or takes off it goes with the head instead (`synclora.editing.attached`). At its own number an edited
image is shown as it was given, bit for bit; between two of them each counts by how near it is.

All this is found at the model's size. Where the output is larger and the edited image given is too, the image itself is
taken along the same ways (`show_large`), with the detail that the model is too small to see.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from synclora.editing.attached import Attached, Seen, around, find_attached
from synclora.editing.colours import Affine, ColourChange, recolour, resized
from synclora.editing.facecrop import kept_structure
from synclora.optical_flow import Flow, find_flow, grey, move

Array = NDArray[np.float32]

FOUND = 24.0  # grey levels
MISSED = 1 / 64  # of the picture's height
CHANGED = 25.0  # grey levels: at this difference half of the source's detail stays, whatever its structure
REACH = 1 / 85  # of the picture's height: standard deviation of the blur that tells what is around a pixel
SCENE = 0.2  # of a picture that must be found, or it is another scene, of whose colours nothing is known


@dataclass(frozen=True)
class _Drawn:
    """What is drawn of an edited image: all of it and the rest that colours do not tell, float [H, W, 3]; what of it
    goes with the head."""

    edited: Array
    rest: Array
    attached: Attached | None


@dataclass
class _Known:
    """An edited image; the source's frame it belongs to, float [H, W, 3]; how it changes that one's colours; how the
    source's pixels went to the last frame it was carried to, and how the head."""

    drawn: _Drawn
    own: Array
    colours: ColourChange
    flow: Flow  # from which the search for the next one starts
    way: Flow  # which stays where the head is not seen

    def rest(self) -> None:
        """Begin at the image's own frame."""
        self.flow, self.way = np.zeros_like(self.flow), np.zeros_like(self.way)


@dataclass(frozen=True)
class _Part:
    """An edited image's part in a frame.

    Attributes:
        index: the image's.
        share: of the frame, among the images that have a part in it.
        flow, way: how far each pixel is from its place in the image, by the source's pixels and by the head.
        change: of the frame's colours; None: the image itself is shown.
        alphas: of the layers of `_layers`, from the lowest, [H, W] in [0, 1].
    """

    index: int
    share: float
    flow: Flow
    way: Flow
    change: Affine | None
    alphas: tuple[Array, ...]

    def enlarged(self, height: int, width: int) -> _Part:
        scale = height / self.flow.shape[0]
        flow, way = (scale * _resized(found, height, width) for found in (self.flow, self.way))
        change = None if self.change is None else resized(self.change, height, width)
        alphas = tuple(_resized(alpha, height, width) for alpha in self.alphas)
        return replace(self, flow=flow, way=way, change=change, alphas=alphas)


class Carrier:
    """Carries the edited images through the windows of one edit, in order.

    Args:
        images: the edited images by the number of their frame, uint8 [H, W, 3].
        large: the same in a larger size, each with the source's frame, uint8 [h, w, 3]; some may be missing.
    """

    def __init__(self, images: Mapping[int, Tensor], large: Mapping[int, tuple[Tensor, Tensor]] | None = None) -> None:
        self._images = images
        self._large = large or {}
        self._known: dict[int, _Known] = {}
        self._larger: dict[int, _Drawn] = {}
        self._parts: dict[int, list[_Part]] = {}  # of the frames that are still to be shown in the larger size

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
        parts: dict[int, list[_Part]] = {number: [] for number in range(start, end)}
        for index, known in self._known.items():
            before = max((i for i in self._known if i < index), default=None)
            after = min((i for i in self._known if i > index), default=None)
            if index >= start:
                if before is not None:
                    known.rest()
                    for number in range(index - 1, max(before, start - 1), -1):
                        share = (number - before) / (index - before)
                        parts[number].append(_follow(known, index, share, source, seen, number - start))
                known.rest()
                parts[index] = [_Part(index, 1.0, known.flow, known.way, None, ())]
            for number in range(max(index + 1, start), min(after or end, end)):
                share = 1.0 if after is None else (after - number) / (after - index)
                parts[number].append(_follow(known, index, share, source, seen, number - start))
        if self._large:
            self._parts.update(parts)
        drawn = {index: known.drawn for index, known in self._known.items()}
        pairs = zip(range(start, end), source, own, strict=True)
        return torch.from_numpy(np.stack([_mixed(made, here, parts[n], drawn) for n, here, made in pairs]))

    def show_large(self, number: int, source: Tensor, made: Tensor) -> Tensor:
        """The same for a frame of the larger size, uint8 [h, w, 3] both, which `show` had in a window before."""
        parts = self._parts.pop(number, [])
        if not parts or any(part.index not in self._large for part in parts):
            return made
        height, width = made.shape[:2]
        for part in parts:
            if part.index not in self._larger:
                self._larger[part.index] = _enlarged(self._known[part.index], *self._large[part.index])
        parts = [part.enlarged(height, width) for part in parts]
        return torch.from_numpy(_mixed(made.numpy(), source.numpy(), parts, self._larger))


def _known(edited: NDArray[np.uint8], own: NDArray[np.uint8]) -> _Known:
    new, old = edited.astype(np.float32), own.astype(np.float32)
    planes = [torch.from_numpy(picture).permute(2, 0, 1)[None] for picture in (old, new)]
    structure = kept_structure(planes[0], planes[1])[0, 0].numpy()
    near = 1 / (1 + (_around(new - old) / CHANGED) ** 2)
    attached = find_attached(edited, own, 1 - near, np.maximum(structure, near))
    colours = ColourChange(old, new, np.ones_like(near) if attached is None else 1 - attached.added)
    flow, way = np.zeros((2, *edited.shape[:2], 2), np.float32)
    return _Known(_drawn(new, old, colours.at(old, flow)[0], attached), old, colours, flow, way)


def _drawn(new: Array, old: Array, change: Affine, attached: Attached | None) -> _Drawn:
    """What is drawn of an edited image, `new`: what goes with the head is not part of the rest."""
    rest = new - old - recolour(change, old)
    if attached is not None:
        rest *= 1 - _resized(attached.added, *rest.shape[:2])[..., None]
    return _Drawn(new, rest, attached)


def _enlarged(known: _Known, edited: Tensor, own: Tensor) -> _Drawn:
    """What is drawn of an edited image, from the same image in a larger size."""
    height, width = edited.shape[:2]
    attached = known.drawn.attached
    if attached is not None:
        ground, body = (
            replace(side, change=_resized(side.change, height, width)) for side in (attached.ground, attached.body)
        )
        attached = replace(attached, ground=ground, body=body)
    new, old = edited.numpy().astype(np.float32), own.numpy().astype(np.float32)
    change = resized(known.colours.at(known.own, np.zeros_like(known.flow))[0], height, width)
    return _drawn(new, old, change, attached)


def _follow(known: _Known, index: int, share: float, source: NDArray[np.uint8], seen: Seen, place: int) -> _Part:
    """An edited image's part in the window's frame `place`, which is next to the one before."""
    reference, frame = grey(known.own.astype(np.uint8)), grey(source[place])
    known.flow = flow = find_flow(frame, reference, known.flow)
    back = move(find_flow(reference, frame), flow)
    missed = np.hypot(*(flow + back).transpose(2, 0, 1)) / (MISSED * len(flow))
    difference = source[place] - move(known.own, flow)
    sure = np.exp(-((_around(difference) / FOUND) ** 2) - missed**2)
    change, told = known.colours.at(source[place].astype(np.float32), flow)
    told = told * min(1.0, float(sure.mean()) / SCENE)
    attached = known.drawn.attached
    if attached is None:
        return _Part(index, share, flow, known.way, change, (told, sure))
    way = attached.way(seen.landmarks[place])
    known.way = way = known.way if way is None else way
    added, removed, hidden = move(attached.added, way), move(attached.removed, way), move(attached.outer, flow)
    if not attached.outer.any() and not removed.any():  # glasses: the person need not be looked for
        return _Part(index, share, flow, way, change, (told, sure, hidden, hidden, hidden, added))
    person, beside = seen.person(place), around(attached.outer, move(attached.outer, way))
    ground = np.maximum(beside, around(attached.removed, removed)) * (1 - person) * attached.ground.same
    body = beside * person * (1 - hidden) * attached.body.same
    told, sure = told * (1 - hidden), sure * (1 - hidden)
    return _Part(index, share, flow, way, change, (told, sure, ground, body, removed * attached.bare, added))


def _layers(drawn: _Drawn, part: _Part, here: Array) -> tuple[Array, Array]:
    """How much of an edited image shows in a frame `here` of the source, [H, W], and its colours times that."""
    if part.change is None:
        return np.ones(here.shape[:2], np.float32), drawn.edited
    recoloured = here + recolour(part.change, here)
    pictures = [recoloured, recoloured + move(drawn.rest, part.flow)]
    if drawn.attached is not None:
        pictures += [here + drawn.attached.ground.change, here + drawn.attached.body.change]
        pictures += [drawn.edited, move(drawn.edited, part.way)]
    weight, colours = np.zeros(here.shape[:2], np.float32), np.zeros_like(here)
    for alpha, picture in zip(part.alphas, pictures, strict=True):
        weight = weight + alpha * (1 - weight)
        colours = colours + alpha[..., None] * (picture - colours)
    return weight, colours


def _around(difference: Array) -> Array:
    """The largest channel of a difference [H, W, 3], blurred."""
    import cv2

    red, green, blue = np.abs(difference).transpose(2, 0, 1)
    largest = np.maximum(np.maximum(red, green), blue)  # four times as fast as max(-1)
    return np.asarray(cv2.GaussianBlur(largest, (0, 0), REACH * len(difference)), np.float32)


def _resized(plane: Array, height: int, width: int) -> Array:
    import cv2

    return np.asarray(cv2.resize(plane, (width, height), interpolation=cv2.INTER_LINEAR), np.float32)


def _mixed(
    made: NDArray[np.uint8], source: NDArray[np.uint8], parts: list[_Part], drawn: Mapping[int, _Drawn]
) -> NDArray[np.uint8]:
    """The frame as made, under the parts of one edited image or two."""
    if not parts:
        return made
    here = source.astype(np.float32)
    layers = [_layers(drawn[part.index], part, here) for part in parts]
    sure, carried = layers[0]
    if len(layers) > 1:  # their mean: each counts by its share and by how sure it is
        some = np.maximum(sum(part.share * sure for part, (sure, _) in zip(parts, layers, strict=True)), 1e-6)
        carried = sum(part.share * colours for part, (_, colours) in zip(parts, layers, strict=True))
        sure = sum(part.share * sure**2 for part, (sure, _) in zip(parts, layers, strict=True)) / some
        carried = (sure / some)[..., None] * carried
    return (made + carried - sure[..., None] * made).round().clip(0, 255).astype(np.uint8)
