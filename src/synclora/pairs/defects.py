"""Pairs with a known fault, as an imperfect generator makes them: what a filter is calibrated and tested on.

    synclora pairs generate --generator procedural --defects --count 400 --seed 0 --out out/raw

    pair = defective_pair(seed=3, kind="shift", strength=2.5)     # the target is 2.5 frames late
    clean = defective_pair(seed=3, kind="shift", strength=0)      # the same clip without the fault

A defect of motion edits the target's curves before the target is drawn, so that its size is exact; one of appearance
edits what is drawn. Clips are chosen in which the defect shows: gaze that never moves cannot be frozen. The truth is
stored with the pair, as JSON: {"kind", "strength", "unit", "affects"}; nothing that scores a pair reads it.
"""

from __future__ import annotations

import dataclasses
import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from math import copysign

import torch
from torch import Tensor

from synclora.errors import SyncloraError
from synclora.pairs.procedural import MAX_EDITS, Pair, check_frames, check_seed
from synclora.pairs.takes import FINE, Take, blinks, draw_take
from synclora.portraits import (
    TEST_SEED_START,
    Motion,
    Person,
    caption,
    render,
    sample_edit,
    sample_person,
)

ID = "procedural-defects"
MIN_FRAMES = 17  # 0.7 s at 25 fps: room for a blink and a turn of the head
CROSSFADE = 5  # frames over which a person turns into another
CLEAN = "none"  # the kind of a clean pair
SKIN_APART = 0.15  # sRGB distance at which another person's skin is plainly another

# Root mean square differences (units of the curves) above which a change of a clip's motion is there to be seen.
SEEN = {
    "mouth_open": 0.15,
    "mouth_width": 0.3,
    "blink_left": 0.12,
    "gaze_x": 4.0,
    "gaze_y": 3.0,
    "yaw": 3.0,
    "pitch": 2.5,
    "roll": 2.0,
}
LIMITS = {"yaw": 45.0, "pitch": 25.0, "roll": 20.0}  # degrees; how far a head turns in front of a camera
HEAD = ("yaw", "pitch", "roll", "shift_x", "shift_y", "scale")


@dataclass(frozen=True)
class Defect:
    """One kind of fault and its scale; strength 0 is always the clean clip."""

    unit: str  # of the strength
    low: float  # least strength drawn for a pool
    high: float  # greatest strength drawn for a pool
    edit: Callable[[Take, float], Motion] | None = None  # of the target's motion; None: a fault of appearance
    signed: bool = False  # whether the strength has a direction, drawn at random in a pool
    whole: bool = False  # whether a pool draws whole strengths only


def _shift(take: Take, strength: float) -> Motion:
    return take.motion(take.times - strength)


def _speed(take: Take, strength: float) -> Motion:
    return take.motion(take.times * (1.0 + strength))


def _drift(take: Take, strength: float) -> Motion:
    return take.motion(take.times - strength * take.times / (take.frames - 1))


def _scaled(take: Take, factor: float) -> Motion:
    """Mouth scaled about closed and relaxed, head about its mean place, within what a mouth and a neck do."""
    clean = take.clean
    curves = {name: (value - value.mean()) * factor + value.mean() for name, value in _of(clean, HEAD).items()}
    for name, limit in LIMITS.items():  # a clip that turns further than the limit already keeps its own turn
        wide = max(limit, float(getattr(clean, name).abs().max()))
        curves[name] = curves[name].clamp(-wide, wide)
    curves["mouth_open"] = (clean.mouth_open * factor).clamp(0, 1)
    curves["mouth_width"] = (clean.mouth_width * factor).clamp(-1, 1)
    return dataclasses.replace(clean, **curves)


def _damped(take: Take, strength: float) -> Motion:
    return _scaled(take, 1.0 - strength)


def _exaggerated(take: Take, strength: float) -> Motion:
    return _scaled(take, 1.0 + strength)


def _blink_drop(take: Take, strength: float) -> Motion:
    clean = take.clean
    lids = {name: value * (1.0 - strength) for name, value in _of(clean, ("blink_left", "blink_right")).items()}
    return dataclasses.replace(clean, **lids)


def _blink_extra(take: Take, strength: float) -> Motion:
    """One blink of another clip, laid where the eyes are open."""
    place = _extra_blink(take)
    clean = take.clean
    if place is None:
        return clean
    onset, shape = place
    instants = (take.times - onset) * FINE
    inside = (instants >= 0) & (instants <= len(shape) - 1)
    low = instants.floor().clamp(0, len(shape) - 2)
    between = torch.lerp(shape[low.long()], shape[low.long() + 1], (instants - low).clamp(0, 1).float())
    extra = torch.where(inside, between, torch.zeros(())) * strength
    lids = {name: torch.maximum(value, extra) for name, value in _of(clean, ("blink_left", "blink_right")).items()}
    return dataclasses.replace(clean, **lids)


def _extra_blink(take: Take) -> tuple[float, Tensor] | None:
    """(onset in frames, closure at FINE samples a frame) of a blink that fits, three open frames on either side."""
    shapes = blinks(take.other.blink_left)
    if not shapes:
        return None
    run = shapes[0]
    shape = take.other.blink_left[run.start - 1 : run.stop + 1]
    length = len(shape) / FINE
    shut = take.clean.blink_left > 0
    onsets = [
        onset
        for onset in range(2, int(take.frames - length) - 2)
        if not shut[max(0, onset - 3) : int(onset + length) + 4].any()
    ]
    return (take.rng("extra blink").choice(onsets), shape) if onsets else None


def _gaze_frozen(take: Take, strength: float) -> Motion:
    clean = take.clean
    held = {
        n: value[0] + (value - value[0]) * (1.0 - strength) for n, value in _of(clean, ("gaze_x", "gaze_y")).items()
    }
    return dataclasses.replace(clean, **held)


def _wrong_visemes(take: Take, strength: float) -> Motion:
    clean, other = take.clean, take.other_motion()
    names = ("mouth_open", "mouth_width")
    mixed = {name: torch.lerp(value, getattr(other, name), strength) for name, value in _of(clean, names).items()}
    return dataclasses.replace(clean, **mixed)


def _head_drift(take: Take, strength: float) -> Motion:
    """Yaw turns further and further away from where the clip looks on average, pitch by half as much."""
    clean = take.clean
    turn = strength * (take.times / (take.frames - 1)).float()
    away = {name: -copysign(1.0, float(getattr(clean, name)[-1])) for name in ("yaw", "pitch")}
    return dataclasses.replace(
        clean, yaw=clean.yaw + away["yaw"] * turn, pitch=clean.pitch + 0.5 * away["pitch"] * turn
    )


DEFECTS: dict[str, Defect] = {
    "shift": Defect("frames, late where positive", 1, 6, _shift, signed=True, whole=True),
    "speed": Defect("part by which it runs too fast, too slow where negative", 0.10, 0.15, _speed, signed=True),
    "drift": Defect("frames of lag at the end, late where positive", 3, 6, _drift, signed=True),
    "damped": Defect("part of the mouth's and head's motion lost", 0.4, 0.8, _damped),
    "exaggerated": Defect("part by which the mouth's and head's motion is too large", 0.5, 1.0, _exaggerated),
    "blink_drop": Defect("part of the lids' closure lost", 0.8, 1.0, _blink_drop),
    "blink_extra": Defect("closure of one more blink", 0.8, 1.0, _blink_extra),
    "gaze_frozen": Defect("part of the gaze's motion lost", 0.8, 1.0, _gaze_frozen),
    "wrong_visemes": Defect("part of another clip's mouth motion", 0.8, 1.0, _wrong_visemes),
    "head_drift": Defect("degrees of extra yaw at the end, half of it in pitch", 12.0, 25.0, _head_drift),
    "identity_change": Defect("part of the way to another person, from mid-clip on", 0.6, 1.0),
    "flicker": Defect("deviation of each frame's brightness, half of it in colour", 0.05, 0.15),
}
KINDS = tuple(DEFECTS)


def planned(seed: int) -> tuple[str, str, float]:
    """What the pool's pair of a seed is: (kind or "none", kind whose clips it is chosen from, strength).

    Odd seeds are defective, even ones clean; both go through the kinds in turn, so that clean clips are chosen as
    defective ones are and nothing but the defect tells them apart.
    """
    chosen = KINDS[seed // 2 % len(KINDS)]
    if seed % 2 == 0:
        return CLEAN, chosen, 0.0
    kind = DEFECTS[chosen]
    rng = random.Random(f"strength-{seed}")
    strength = float(rng.randint(int(kind.low), int(kind.high))) if kind.whole else rng.uniform(kind.low, kind.high)
    return chosen, chosen, round(rng.choice((-1, 1)) * strength if kind.signed else strength, 4)


def defect_pool_pair(
    seed: int, *, size: int = 128, frames: int = 33, fps: Fraction | float = 25, test: bool = False
) -> Pair:
    """The pair of a seed in a raw pool: clean for even seeds, defective for odd ones; see `planned`."""
    _, chosen, strength = planned(seed)
    return defective_pair(seed, chosen, strength, size=size, frames=frames, fps=fps, test=test)


def defective_pair(
    seed: int,
    kind: str,
    strength: float,
    *,
    size: int = 128,
    frames: int = 33,
    fps: Fraction | float = 25,
    test: bool = False,
) -> Pair:
    """Render a pair whose target has one defect; the clip depends on seed and kind, not on the strength.

    `strength` is in the kind's unit (`DEFECTS[kind].unit`); 0 is clean; strengths beyond the pool's range are allowed
    as far as the motion reaches (shift and drift within +-8 frames, speed within +-0.15). `test=True` draws from the
    seeds kept apart for evaluation.

    Raises:
        SyncloraError: an unknown kind, a seed or strength outside its range, frames not 8k + 1 or fewer than 17.
    """
    check_defect(kind, strength)
    check_length(frames)
    check_seed(seed)
    seed = seed + TEST_SEED_START if test else seed
    rate = Fraction(fps).limit_denominator(1001)
    defect = DEFECTS[kind]
    take = draw_take(seed, frames, float(rate), lambda candidate: _shows(candidate, kind))
    person = sample_person(seed)
    edited, kinds = sample_edit(person, seed, 1 + seed % MAX_EDITS)
    motion = take.clean
    target = render(edited, defect.edit(take, strength) if defect.edit and strength else motion, size)
    if kind == "identity_change" and strength:
        target = _crossfaded(take, target, render(_another(edited, take, strength), motion, size))
    elif kind == "flicker" and strength:
        target = _flickering(take, target, strength)
    return Pair(
        id=f"{ID}-{seed:07d}",
        source=render(person, motion, size),
        target=target,
        fps=rate,
        prompt=caption(edited),
        edit_kinds=list(kinds),
        seed=seed,
        curves=motion.curves(),
        defect=_truth(kind, strength),
    )


def _truth(kind: str, strength: float) -> str:
    if not strength:
        return json.dumps({"kind": CLEAN, "strength": 0.0})
    affects = "motion" if DEFECTS[kind].edit else "appearance"
    return json.dumps({"kind": kind, "strength": strength, "unit": DEFECTS[kind].unit, "affects": affects})


def _shows(take: Take, kind: str) -> bool:
    """Whether the defect at its greatest strength would be there to be seen in this clip."""
    defect = DEFECTS[kind]
    if defect.edit is None:
        return True
    clean = take.clean
    if kind == "blink_drop" and not blinks(clean.blink_left):
        return False
    if kind == "blink_extra" and _extra_blink(take) is None:
        return False
    if kind == "wrong_visemes" and _r(clean.mouth_open, take.other_motion().mouth_open) > 0.4:
        return False
    changed = defect.edit(take, defect.high)
    return any(float((getattr(changed, n) - getattr(clean, n)).square().mean().sqrt()) >= SEEN[n] for n in SEEN)


def _another(person: Person, take: Take, strength: float) -> Person:
    """A person on the way to another: measures and skin in between, hair, eyes and beard the other's from half on."""
    rng = take.rng("another person")
    base = TEST_SEED_START if take.seed >= TEST_SEED_START else 0
    others = [sample_person(base + rng.randrange(TEST_SEED_START)) for _ in range(12)]
    apart = {o.seed: sum((a - b) ** 2 for a, b in zip(o.skin, person.skin, strict=True)) ** 0.5 for o in others}
    far = [o for o in others if apart[o.seed] >= SKIN_APART] or [max(others, key=lambda o: apart[o.seed])]
    other = far[0]
    traits = {
        name: getattr(person, name) + (getattr(other, name) - getattr(person, name)) * strength for name in _MEASURES
    }
    red, green, blue = (a + (b - a) * strength for a, b in zip(person.skin, other.skin, strict=True))
    switched = {name: getattr(other, name) for name in _FEATURES} if strength >= 0.5 else {}
    return person.replace(**traits, skin=(red, green, blue), **switched)


_MEASURES = (
    "age", "freckles", "blush", "head_width", "head_height", "jaw_width", "chin_length", "chin_size", "cheek_size",
    "brow_ridge", "nose_width", "nose_length", "nose_height", "lip_fullness", "mouth_size", "eye_size", "eye_spacing",
    "eye_tilt", "eye_openness", "ear_size", "brow_thickness", "brow_arch",
)  # fmt: skip
_FEATURES = ("look", "eye_color", "hair_style", "hair_color", "hair_volume", "hairline", "beard")


def _crossfaded(take: Take, before: Tensor, after: Tensor) -> Tensor:
    """One clip that turns into another between 35 and 65 % of its length."""
    middle = take.rng("identity change").uniform(0.35, 0.65) * (take.frames - 1)
    share = ((take.times - middle) / CROSSFADE + 0.5).clamp(0, 1).float()[:, None, None, None]
    return torch.lerp(before.float(), after.float(), share).round().to(torch.uint8)


def _flickering(take: Take, frames: Tensor, strength: float) -> Tensor:
    """Each frame's brightness and colour off by normally distributed gains of its own."""
    rng = take.rng("flicker")
    gains = [[bright + 0.5 * rng.gauss(0, 1) for _ in range(3)] for bright in (rng.gauss(0, 1) for _ in frames)]
    gain = 1.0 + strength * torch.tensor(gains)[:, None, None, :]
    return (frames.float() * gain).round().clamp(0, 255).to(torch.uint8)


def check_length(frames: int) -> None:
    """Raise SyncloraError unless clips of `frames` can show every kind of defect."""
    check_frames(frames)
    if frames < MIN_FRAMES:
        raise SyncloraError(f"frames is {frames}; pairs with defects need at least {MIN_FRAMES}, better 33.")


def check_defect(kind: str, strength: float) -> None:
    """Raise SyncloraError unless there is such a defect and it can be that strong."""
    if kind not in DEFECTS:
        raise SyncloraError(f"defect {kind!r} is not known; choose one of: {', '.join(KINDS)}.")
    high = {"shift": 8.0, "drift": 8.0, "exaggerated": 2.0, "head_drift": 40.0, "speed": 0.15, "flicker": 0.5}.get(
        kind, 1.0
    )
    low = -high if DEFECTS[kind].signed else 0.0
    if not low <= strength <= high:
        raise SyncloraError(f"{kind} of strength {strength} ({DEFECTS[kind].unit}): {low:g} to {high:g} is possible.")


def _of(motion: Motion, names: tuple[str, ...]) -> dict[str, Tensor]:
    return {name: getattr(motion, name) for name in names}


def _r(a: Tensor, b: Tensor) -> float:
    """Pearson's correlation; 0 where either is flat."""
    a, b = a - a.mean(), b - b.mean()
    power = float((a.square().sum() * b.square().sum()).sqrt())
    return float((a * b).sum()) / power if power > 0 else 0.0
