"""What training motions are made of: portraits as drawn, portraits as filmed, pictures of anything that is warped.

    data: {procedural: {motions: 1500, looks: 3, mix: {drawn: 0.5, worn: 0.3, warped: 0.2}}}

A LoRA that has seen one renderer learns its faces; what it is to learn is "this motion, that look". Which kind a motion
is follows from its seed alone, and any run of seeds holds every kind in its share.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

if TYPE_CHECKING:
    from torch import Tensor

    from synclora.portraits import Person

Kind = Literal["drawn", "worn", "warped"]
KINDS: tuple[Kind, ...] = ("drawn", "worn", "warped")
ONE_FINISH_SHARE = 0.35  # worn motions whose looks differ in the person and the clothes only
ONE_DRESS_SHARE = 0.35  # worn motions whose looks keep their patterns
FILMED_SHARE = 0.5  # warped motions that are filmed, with shake, changing light and a finish


class Mix(BaseModel):
    """Shares of the motions by kind; together 1."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    drawn: float = Field(default=0.0, ge=0, le=1, description="share of portraits as the renderer draws them")
    worn: float = Field(
        default=0.0, ge=0, le=1, description="share of portraits in patterns, with camera, light, grain, compression"
    )
    warped: float = Field(default=0.0, ge=0, le=1, description="share of arbitrary pictures under arbitrary warps")

    @model_validator(mode="after")
    def _whole(self) -> Mix:
        total = self.drawn + self.worn + self.warped
        if abs(total - 1.0) > 1e-6:
            raise ValueError(f"drawn, worn and warped are shares and sum to {total:g}; make them sum to 1")
        return self

    def kind(self, seed: int) -> Kind:
        """What the motion of a seed is. Multiples of the golden ratio spread evenly over [0, 1), whatever the seeds."""
        place = (seed * 2654435769 & 0xFFFFFFFF) / 2**32
        for kind in KINDS[:-1]:
            place -= getattr(self, kind)
            if place < 0:
                return kind
        # Shares that sum to 1 less a rounding error must not call up a kind that was given none.
        return next(kind for kind in reversed(KINDS) if getattr(self, kind) > 0)


DRAWN_ONLY = Mix(drawn=1.0)


def draw_looks(
    kind: Kind, seed: int, people: Sequence[Person], frames: int, fps: float, size: int, device: str = "cpu"
) -> tuple[Tensor, list[str]]:
    """One motion in as many looks as there are people: uint8 [looks, F, size, size, 3] on the CPU, and captions.

    Everything follows from the arguments. `people` say who is seen where anybody is; of the worn and the warped kinds
    the captions say no more than is true of every such clip.
    """
    import torch

    from synclora.portraits import caption, render, sample_motion

    if kind == "warped":
        return _warped(seed, len(people), frames, fps, size, device), ["a moving picture"] * len(people)
    motion = sample_motion(seed, frames, fps)
    if kind == "drawn":
        clips = torch.stack([render(person, motion, size, device).cpu() for person in people])
        return clips, [caption(person) for person in people]
    from synclora.portraits.costume import render_dressed
    from synclora.portraits.wear import film, sample_finish, sample_shot

    rng = random.Random(f"worn-{seed}")
    shot = sample_shot(seed, frames, fps, size)
    one_finish, one_dress = rng.random() < ONE_FINISH_SHARE, rng.random() < ONE_DRESS_SHARE
    clips = []
    for look, person in enumerate(people):
        clip = render_dressed(person, motion, shot.drawn_size, seed, 0 if one_dress else look, device)
        clips.append(film(clip, shot, sample_finish(seed, 0 if one_finish else look)).cpu())
    return torch.stack(clips), [caption(person).partition(" with ")[0] + " on film" for person in people]


def _warped(seed: int, looks: int, frames: int, fps: float, size: int, device: str) -> Tensor:
    import torch

    from synclora.portraits.warps import move, sample_surface, sample_warp
    from synclora.portraits.wear import film, sample_finish, sample_shot

    filmed = random.Random(f"warped-{seed}").random() < FILMED_SHARE
    shot = sample_shot(seed, frames, fps, size)
    side = shot.drawn_size if filmed else size
    warp = sample_warp(seed, frames, fps, side)
    clips = [move(warp, sample_surface(seed, look, side, warp.portraits), device) for look in range(looks)]
    if filmed:
        clips = [film(clip, shot, sample_finish(seed, look)) for look, clip in enumerate(clips)]
    return torch.stack(clips).cpu()


def mix_digest(mix: Mix, drawn: str) -> str:
    """A digest of what a mix draws, `drawn` being that of the plain renderer; changes when anything is drawn otherwise.

    Of drawn portraits alone it is `drawn` itself.
    """
    if mix == DRAWN_ONLY:
        return drawn
    digest = hashlib.sha256(f"{drawn}/{mix.model_dump_json()}".encode())
    for kind in KINDS[1:]:
        if getattr(mix, kind) > 0:
            digest.update(_kind_digest(kind).encode())
    return digest.hexdigest()


@lru_cache(maxsize=2)
def _kind_digest(kind: Kind) -> str:
    """A digest of small clips of one kind, enough of them to show most of what it can draw."""
    from synclora.portraits import sample_person

    digest = hashlib.sha256()
    people = [sample_person(seed) for seed in range(2 if kind == "worn" else 1)]
    for seed in range(12):
        clips, captions = draw_looks(kind, seed, people, 5, 5.0, 64)
        digest.update(clips.numpy().tobytes())
        digest.update("/".join(captions).encode())
    return digest.hexdigest()
