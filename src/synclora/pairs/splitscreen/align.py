"""The edited portrait laid back onto the portrait, or refused.

Editing models shift, scale and turn what they should keep; `synclora.faces.align` finds and undoes it.
What cannot be undone, a head turned another way, is refused: frame 0 would be out of step already.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field

from synclora.pairs.splitscreen.layout import Picture


class Limits(BaseModel):
    """How much the edited picture may differ from the portrait, and what to do where no face is found."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    no_face: Literal["reject", "keep"] = Field(
        default="reject", description="where a face is missing in either picture: reject the pair, or keep both as is"
    )
    yaw: float = Field(default=8.0, gt=0, description="most difference of the heads' turn to the side, degrees")
    pitch: float = Field(default=11.0, gt=0, description="most difference of the heads' nod, degrees")
    change: float = Field(
        default=0.005, ge=0, lt=1, description="least mean difference an edit must make, as a part of full brightness"
    )


class Unfit(Exception):
    """What was made cannot be used, and making it again would end the same; the message says why."""


def fit(portrait: Picture, edited: Picture, limits: Limits) -> tuple[Picture, dict[str, float] | None]:
    """The edited picture moved onto the portrait, and by how much; None where it stays for want of a face.

    portrait, edited: uint8 [H, W, 3] of one size.

    Raises:
        Unfit: no face or several, a head that is turned or placed otherwise, or an edit that changed nothing.
    """
    from synclora.faces.align import align
    from synclora.faces.tracker import count_faces

    changed = float(np.abs(portrait.astype(np.float32) - edited).mean()) / 255
    if changed < limits.change:
        raise Unfit(f"the edit changed {changed:.4f} of the picture, which is nothing to see (limit {limits.change:g})")
    faces = {"portrait": count_faces(portrait), "edited picture": count_faces(edited)}
    for what, count in faces.items():
        if count > 1:
            raise Unfit(f"the {what} shows {count} faces")
        if count == 0 and limits.no_face == "reject":
            raise Unfit(f"no face was found in the {what}")
    found = None if 0 in faces.values() else align(_tensor(edited), _tensor(portrait))
    if found is None:
        if limits.no_face == "reject":
            raise Unfit("no face was found that both pictures show")
        return edited, None
    if not found.small:
        raise Unfit(
            f"the edited face is {found.moved_px:.0f} px off, {found.degrees:+.1f} degrees tilted and {found.scale:.2f}"
            " times its size: too much to put right"
        )
    yaw, pitch, _ = found.pose_difference
    for name, by, limit in (("yaw", yaw, limits.yaw), ("pitch", pitch, limits.pitch)):
        if abs(by) > limit:
            raise Unfit(f"the edited head is turned by {by:+.1f} degrees of {name} (limit {limit:g})")
    told = {"moved_px": found.moved_px, "scale": found.scale, "degrees": found.degrees, "yaw": yaw, "pitch": pitch}
    return found.picture.numpy(), {name: round(value, 4) for name, value in told.items()}


def _tensor(picture: Picture) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(picture))
