"""How a portrait moves: per-frame curves of speech, eyes and head, sampled in seconds so that any frame rate works."""

from __future__ import annotations

import dataclasses
import math
import random
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

CHANNELS = (
    "mouth_open", "mouth_width", "smile", "blink_left", "blink_right", "gaze_x", "gaze_y", "yaw", "pitch", "roll",
    "shift_x", "shift_y", "scale", "brow", "breath",
)  # fmt: skip


@dataclass(frozen=True)
class Motion:
    """Curves of one clip: float32 tensors [F], and the frame rate.

    Left and right are the image's. Degrees: gaze_x, yaw > 0 towards image right; gaze_y, pitch > 0 up; roll > 0 is the
    top of the head leaning to image right. Raises ValueError where a curve is not [F] like the others.
    """

    mouth_open: Tensor  # 0 closed .. 1 wide open
    mouth_width: Tensor  # -1 narrow (oo) .. 1 wide (ee)
    smile: Tensor  # 0..1
    blink_left: Tensor  # 0 open .. 1 closed, eye on image left
    blink_right: Tensor
    gaze_x: Tensor  # degrees relative to the head
    gaze_y: Tensor
    yaw: Tensor  # degrees
    pitch: Tensor
    roll: Tensor
    shift_x: Tensor  # fraction of the frame, > 0 right
    shift_y: Tensor  # fraction of the frame, > 0 down
    scale: Tensor  # 1 nominal
    brow: Tensor  # -1 frown .. 1 raised
    breath: Tensor  # -1..1
    fps: float = 25.0

    def __post_init__(self) -> None:
        frames = self.mouth_open.shape[0] if self.mouth_open.ndim == 1 else -1
        for name in CHANNELS:
            shape = tuple(getattr(self, name).shape)
            if shape != (frames,):
                raise ValueError(f"Motion.{name}: shape {shape}; every curve must be [F] with one F (here {frames})")
        if not self.fps > 0:
            raise ValueError(f"Motion.fps: {self.fps}; need more than 0")

    def __len__(self) -> int:
        return self.mouth_open.shape[0]

    def __getitem__(self, frames: slice) -> Motion:
        """A part of the clip, e.g. `motion[8:41]`; a step > 1 lowers fps to match."""
        if not isinstance(frames, slice) or (frames.step or 1) < 1:
            raise TypeError("Motion takes slices with a positive step, e.g. motion[8:41]")
        curves = {name: getattr(self, name)[frames] for name in CHANNELS}
        return Motion(**curves, fps=self.fps / (frames.step or 1))

    def curves(self) -> dict[str, list[float]]:
        """Channel name -> F plain floats."""
        return {name: getattr(self, name).tolist() for name in CHANNELS}

    def to_dict(self) -> dict[str, Any]:
        """Curves and fps as JSON values."""
        return {"fps": self.fps, "curves": self.curves()}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Motion:
        """The inverse of `to_dict`. Raises ValueError naming missing or unknown channels."""
        found = set(data["curves"])
        if found != set(CHANNELS):
            raise ValueError(f"Motion: channels differ from the expected ones by {sorted(found ^ set(CHANNELS))}")
        curves = {name: torch.tensor(data["curves"][name], dtype=torch.float32) for name in CHANNELS}
        return cls(**curves, fps=float(data["fps"]))

    @classmethod
    def still(cls, frames: int, fps: float = 25.0, **channels: float) -> Motion:
        """A neutral, frontal clip with some channels held at a constant, e.g. `Motion.still(1, yaw=20.0)`."""
        values = {**dict.fromkeys(CHANNELS, 0.0), "scale": 1.0, **channels}
        curves = {name: torch.full((frames,), float(values[name])) for name in CHANNELS}
        return cls(**curves, fps=fps)


def _ease(x: float) -> float:
    x = max(0.0, min(1.0, x))
    return x * x * (3.0 - 2.0 * x)


def _wander(rng: random.Random, times: list[float], amplitude: float, periods: tuple[float, float]) -> list[float]:
    """A smooth curve within +-amplitude: eased moves between random targets, each lasting `periods` seconds."""
    keys = [(-rng.uniform(0, periods[1]), rng.uniform(-1, 1))]
    while keys[-1][0] <= times[-1] + periods[1]:
        # Alternating sides keeps a short clip moving instead of resting near one value.
        side = -math.copysign(1.0, keys[-1][1])
        value = side * rng.uniform(0.15, 1.0) if rng.random() < 0.75 else rng.uniform(-1, 1)
        keys.append((keys[-1][0] + rng.uniform(*periods), value))
    out, k = [], 0
    for t in times:
        while keys[k + 1][0] < t:
            k += 1
        (t0, a), (t1, b) = keys[k], keys[k + 1]
        out.append(amplitude * (a + (b - a) * _ease((t - t0) / (t1 - t0))))
    return out


def _speech(rng: random.Random, times: list[float]) -> tuple[list[float], list[float], list[float]]:
    """Mouth opening, width and syllable emphasis: syllables at 3-6 Hz in phrases with pauses between them."""
    end = times[-1]
    syllables: list[tuple[float, float, float, float]] = []  # onset, duration, opening, width
    t = -rng.uniform(0.0, 0.8)
    while t < end:
        rate = rng.uniform(3.2, 5.8)
        for _ in range(rng.randint(4, 11)):
            duration = rng.uniform(0.8, 1.25) / rate
            stress = rng.random() < 0.3
            opening = rng.uniform(0.65, 1.0) if stress else rng.uniform(0.2, 0.65)
            duration *= 1.2 if stress else 1.0
            syllables.append((t, duration, opening, rng.uniform(-1.0, 0.9)))
            t += duration
        t += rng.uniform(0.15, 0.6)
    opening, width, emphasis = [], [], []
    for now in times:
        o = w = e = 0.0
        for onset, duration, amount, shape in syllables:
            x = (now - onset) / duration
            if -0.25 < x < 1.25:
                # Neighbours overlap a little: mouths do not close fully between syllables (coarticulation).
                bell = math.cos(math.pi * (x - 0.5) / 1.5) ** 2
                o = max(o, amount * bell)
                w += shape * bell
                e = max(e, (amount - 0.5) * bell)
        opening.append(o)
        width.append(max(-1.0, min(1.0, w)))
        emphasis.append(max(0.0, e))
    return opening, width, emphasis


def _blinks(rng: random.Random, times: list[float]) -> list[float]:
    """Lid closure 0..1: blinks of 0.12-0.24 s, closing faster than opening, 0.2-0.6 a second."""
    end = times[-1]
    rate = rng.uniform(0.35, 0.6)
    # A first blink inside the first 1.2 s for most clips; without it most short clips would have none.
    t = rng.uniform(0.1, 1.15) if rng.random() < 0.85 else rng.uniform(1.0, 2.5)
    events = []
    while t < end:
        events.append((t, rng.uniform(0.14, 0.25)))
        t += max(0.6, rng.expovariate(rate))
    out = []
    for now in times:
        closure = 0.0
        for onset, duration in events:
            x = (now - onset) / duration
            if 0.0 < x < 1.0:
                closure = max(closure, _ease(x / 0.32) if x < 0.32 else 1.0 if x < 0.5 else _ease((1.0 - x) / 0.5))
        out.append(closure)
    return out


def _gaze(rng: random.Random, times: list[float]) -> tuple[list[float], list[float]]:
    """Fixations of 0.25-1.2 s joined by saccades of about 40 ms, in degrees."""
    keys = [(-1.0, rng.uniform(-14, 14), rng.uniform(-8, 8))]
    t = rng.uniform(0.0, 0.4)
    while t < times[-1] + 1.0:
        home = rng.random() < 0.3
        keys.append((t, 0.0 if home else rng.uniform(-20, 20), 0.0 if home else rng.uniform(-10, 9)))
        t += rng.uniform(0.25, 1.2)
    xs, ys, k = [], [], 0
    for now in times:
        while k + 1 < len(keys) and keys[k + 1][0] <= now:
            k += 1
        _, x0, y0 = keys[max(0, k - 1)]
        onset, x1, y1 = keys[k]
        a = _ease((now - onset) / 0.045)
        xs.append(x0 + (x1 - x0) * a)
        ys.append(y0 + (y1 - y0) * a)
    return xs, ys


def sample_motion(seed: int, frames: int, fps: float = 25.0) -> Motion:
    """Draw a talking motion of `frames` frames; the same arguments give the same motion.

    Seeds >= TEST_SEED_START are held out for tests. Raises ValueError for frames < 1, fps <= 0 or a negative seed.
    """
    if frames < 1 or not fps > 0 or seed < 0:
        raise ValueError(
            f"sample_motion: seed {seed}, frames {frames}, fps {fps}; need seed >= 0, frames >= 1, fps > 0"
        )
    rng = random.Random(f"motion-{seed}")
    times = [i / fps for i in range(frames)]
    parts = [random.Random(rng.getrandbits(64)) for _ in range(12)]  # a longer clip must not change another curve
    opening, width, emphasis = _speech(parts[0], times)
    blink = _blinks(parts[1], times)
    gaze_x, gaze_y = _gaze(parts[2], times)
    yaw = _wander(parts[3], times, rng.uniform(16, 32), (0.7, 1.6))
    pitch = [
        p - 3.0 * e for p, e in zip(_wander(parts[4], times, rng.uniform(5, 14), (0.6, 1.4)), emphasis, strict=True)
    ]
    roll = _wander(parts[5], times, rng.uniform(3, 11), (0.8, 1.8))
    smile = [max(0.0, s) for s in _wander(parts[8], times, rng.uniform(0.3, 1.0), (0.7, 1.6))]
    brow = [
        max(-1.0, min(1.0, b + 0.8 * e))
        for b, e in zip(_wander(parts[9], times, rng.uniform(0.3, 0.8), (0.5, 1.3)), emphasis, strict=True)
    ]
    breath_rate, breath_phase = rng.uniform(0.22, 0.4), rng.uniform(0, 2 * math.pi)
    # The two lids differ by a breath of asymmetry, never by a frame.
    uneven = rng.uniform(0.94, 1.0)
    curves = {
        "mouth_open": opening, "mouth_width": width, "smile": smile, "blink_left": blink,
        "blink_right": [uneven * b for b in blink], "gaze_x": gaze_x, "gaze_y": gaze_y, "yaw": yaw, "pitch": pitch,
        "roll": roll, "shift_x": _wander(parts[6], times, 0.035, (0.8, 2.0)),
        "shift_y": _wander(parts[7], times, 0.02, (0.8, 2.0)),
        "scale": [1.0 + s for s in _wander(parts[10], times, 0.035, (1.0, 2.5))], "brow": brow,
        "breath": [math.sin(2 * math.pi * breath_rate * t + breath_phase) for t in times],
    }  # fmt: skip
    return Motion(**{k: torch.tensor(v, dtype=torch.float32) for k, v in curves.items()}, fps=float(fps))


def concatenate(parts: list[Motion]) -> Motion:
    """Join motions in time. Raises ValueError if they are none or their frame rates differ."""
    if not parts or len({m.fps for m in parts}) != 1:
        raise ValueError(f"concatenate: need motions of one frame rate, got {[m.fps for m in parts]}")
    return dataclasses.replace(parts[0], **{n: torch.cat([getattr(m, n) for m in parts]) for n in CHANNELS})
