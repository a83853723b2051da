"""How near the measured motion comes to the true one: rendered people whose curves are known.

    python tests/faces/measure_accuracy.py --people 100 --size 512 [--cache DIR]

Per clip and channel Pearson's r of measured and true, over the frames in which the channel is measured; then the mean
over the clips in which the true curve moves enough to be told (deviation at least `LEAST`; a curve that hardly moves
has no r worth the name). Blinks: matched to within one frame, over all clips together. People and motions come from
held-out seeds; --cache keeps the rendered frames.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from synclora import portraits
from synclora.clip import Clip
from synclora.faces import MotionSignals, find_blinks, measure
from synclora.sync.score import match_blinks

Array = NDArray[np.float64]

# Channel -> least deviation of the true curve: opening 0..1, lid closure 0..1, degrees.
LEAST = {"mouth": 0.05, "eyes": 0.1, "gaze_x": 3.0, "gaze_y": 3.0, "yaw": 2.0, "pitch": 2.0, "roll": 1.0, "brows": 0.1}


@dataclass(frozen=True)
class Accuracy:
    """r: per channel, one value per judged clip. f1: of the blinks of all clips."""

    r: dict[str, list[float]]
    f1: float | None


def true_curves(motion: portraits.Motion) -> dict[str, Array]:
    """The renderer's curves by the names of the measured ones."""
    names = {"mouth": "mouth_open", "brows": "brow", **{n: n for n in ("gaze_x", "gaze_y", "yaw", "pitch", "roll")}}
    curves = {name: getattr(motion, own).numpy().astype(np.float64) for name, own in names.items()}
    return {**curves, "eyes": 1 - (motion.blink_left + motion.blink_right).numpy().astype(np.float64) / 2}


def rendered(
    people: int, size: int, frames: int, cache: Path | None, first: int
) -> Iterator[tuple[portraits.Motion, Clip]]:
    """Clips of as many people, and their motions."""
    for seed in range(first, first + people):
        motion = portraits.sample_motion(seed, frames, 25.0)
        path = cache / f"{seed}_{size}_{frames}.npy" if cache else None
        if path and path.exists():
            pictures = torch.from_numpy(np.load(path))
        else:
            pictures = portraits.render(portraits.sample_person(seed), motion, size)
            if path:
                path.parent.mkdir(parents=True, exist_ok=True)
                np.save(path, pictures.numpy())
        yield motion, Clip(pictures, Fraction(25))


def measure_accuracy(
    people: int, size: int = 512, frames: int = 33, cache: Path | None = None, first: int = portraits.TEST_SEED_START
) -> Accuracy:
    """Render, measure and compare with the truth."""
    r: dict[str, list[float]] = {name: [] for name in LEAST}
    matched = total = 0
    for motion, clip in rendered(people, size, frames, cache, first):
        signals, truth = measure(clip), true_curves(motion)
        for name, least in LEAST.items():
            value = correlation(signals, name, truth[name], least)
            if value is not None:
                r[name].append(value)
        blinks = match_blinks(find_blinks(truth["eyes"]), signals.blinks())
        matched, total = matched + blinks.matched, total + blinks.source + blinks.edited
    return Accuracy(r, 2 * matched / total if total else None)


def correlation(signals: MotionSignals, name: str, true: Array, least: float) -> float | None:
    """r over the frames in which the channel is measured; None where the true curve hardly moves in them."""
    measured = getattr(signals, name)
    known = np.isfinite(measured)
    if known.sum() < 5 or true[known].std() < least:
        return None
    still = measured[known].std() < 1e-12
    return 0.0 if still else float(np.corrcoef(measured[known], true[known])[0, 1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--people", type=int, default=100)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--frames", type=int, default=33)
    parser.add_argument("--cache", type=Path)
    parser.add_argument("--seed", type=int, default=portraits.TEST_SEED_START, help="of the first person and motion")
    options = parser.parse_args()
    accuracy = measure_accuracy(options.people, options.size, options.frames, options.cache, options.seed)
    print(f"{'channel':12} {'mean r':>7} {'median':>7} {'lowest':>7} {'clips':>6}")
    for name, values in accuracy.r.items():
        if values:
            mean, middle, lowest = np.mean(values), np.median(values), np.min(values)
            print(f"{name:12} {mean:7.3f} {middle:7.3f} {lowest:7.3f} {len(values):6d}")
    print(f"{'blinks':12} {'-' if accuracy.f1 is None else f'{accuracy.f1:.3f}':>7} (F1)")


if __name__ == "__main__":
    main()
