"""How much of the edit shows, and where: strength, a mask, and the background kept as it is.

    out = source + alpha * (edited - source)        alpha = strength * mask * person * border

Where alpha is 0 the output is the source, bit for bit (before the video is compressed). Each factor is in [0, 1]:

- strength: one number. Every pixel goes the straight way from source to edit, so any strength keeps the timing of both,
  0 is the source itself and each step shows a little more, in the first frame as in the last. (To start denoising from
  a noised source instead, as image editors do, gives neither end exactly, and a first frame unlike the others.)
- mask: `synclora.editing.masks`.
- person: MediaPipe's selfie segmentation of the source, united with that of the edited clip: a hat that is new is part
  of the person, and so is the hair that it hides.
- border: of a pasted crop (`synclora.editing.facecrop`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from synclora.editing.facecrop import Placement
from synclora.editing.masks import Alpha
from synclora.errors import SyncloraError

if TYPE_CHECKING:
    from synclora.editing.carry import Carrier

PERSON = (0.15, 0.65)  # of the segmentation: below it background, above it all person


@dataclass
class Region:
    """What of the edit shows in the output.

    Attributes:
        strength: 0 to 1.
        mask: in the output's size; None: everywhere.
        keep_background: whether only the person is edited.
        placement: how the model's picture lies in the output; None: it is the output.
        carrier: which carried the edited images along, and holds them in the output's size; None: none.
    """

    strength: float = 1.0
    mask: Alpha | None = None
    keep_background: bool = False
    placement: Placement | None = None
    carrier: Carrier | None = None

    def __post_init__(self) -> None:
        pasted = self.placement is not None and self.placement.pasted
        self._border = self.placement.border() if self.placement is not None else None
        self._everything = self.strength == 1 and self.mask is None and not self.keep_background and not pasted

    def show(self, source: Tensor, seen: Tensor, edited: Tensor, start: int = 0) -> Tensor:
        """The output of the next frames.

        Args:
            source: uint8 [F, H, W, 3], the source in the output's size.
            seen: uint8 [F, h, w, 3], what the model saw of it.
            edited: uint8 [F, h, w, 3].
            start: number of the first of them.

        Returns:
            uint8 [F, H, W, 3].
        """
        if self._everything:
            return edited
        if self.strength == 0:
            return source
        out = self.placement.paste(source, seen, edited) if self.placement is not None else edited
        if self.placement is not None and self.carrier is not None:
            rows, columns = self.placement.window
            for index in range(len(source)):
                part = out[index, rows, columns]
                part[:] = self.carrier.show_large(start + index, source[index, rows, columns], part)
        mask = self.mask(len(source)) if self.mask is not None else None
        shown = []
        for index in range(len(source)):  # one by one: large frames as floats take room
            alpha = torch.full(source.shape[1:3], float(self.strength))
            if self._border is not None:
                alpha = alpha * self._border
            if mask is not None:
                alpha = alpha * mask[min(index, len(mask) - 1)]
            if self.keep_background:
                alpha = alpha * self._person(seen[index], edited[index])
            shown.append(blend(source[index], out[index], alpha))
        return torch.stack(shown)

    def _person(self, seen: Tensor, edited: Tensor) -> Tensor:
        """float [H, W] of the output's size."""
        person = torch.maximum(segment_person(seen), segment_person(edited))
        if self.placement is None or not self.placement.pasted:
            return person
        (width, height), crop = self.placement.size, self.placement.crop
        whole = torch.zeros(height, width)
        large = F.interpolate(person[None, None], size=(crop.height, crop.width), mode="bilinear")[0, 0]
        whole[crop.top : crop.top + crop.height, crop.left : crop.left + crop.width] = large
        return whole


def blend(source: Tensor, edited: Tensor, alpha: Tensor) -> Tensor:
    """source + alpha (edited - source) for uint8 [H, W, 3] and float [H, W]; the source itself where alpha is 0."""
    mixed = torch.lerp(source.float(), edited.float(), alpha[..., None]).round().clamp(0, 255).to(torch.uint8)
    return torch.where(alpha[..., None] > 0, mixed, source)


def check_strength(strength: float) -> float:
    """`strength`, if it is a number from 0 to 1."""
    if not 0 <= strength <= 1:
        raise SyncloraError(f"--strength {strength:g}: 0 (the source) to 1 (the whole edit) is needed.")
    return float(strength)


def segment_person(frame: Tensor) -> Tensor:
    """How much of each pixel is a person, float [H, W] in [0, 1], of a frame uint8 [H, W, 3]."""
    found: Any = _segmenter().process(np.ascontiguousarray(frame.numpy()))
    low, high = PERSON
    return ((torch.from_numpy(np.array(found.segmentation_mask)) - low) / (high - low)).clamp(0, 1)


_opened: dict[str, Any] = {}


def _segmenter() -> Any:
    """MediaPipe's selfie segmentation, opened once; each picture is looked at on its own."""
    if "selfie" not in _opened:
        try:
            from synclora.faces.graphs import quiet_stderr

            with quiet_stderr():
                from mediapipe.python.solutions.selfie_segmentation import SelfieSegmentation

                _opened["selfie"] = SelfieSegmentation(model_selection=0)
                _opened["selfie"].process(np.zeros((64, 64, 3), np.uint8))
        except ImportError as error:
            raise SyncloraError(
                f"MediaPipe, which tells the person from the background, cannot be imported ({error}). Install it, or "
                "pass --detail model, and a --mask in place of --keep-background."
            ) from error
    return _opened["selfie"]
