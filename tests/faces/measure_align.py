"""How exactly known moves of edited portraits are found; run by hand, it prints the figures of docs/editing.md.

python tests/faces/measure_align.py              # a quarter of a minute on a core
"""

from __future__ import annotations

import argparse
import math
import random

import cv2
import numpy as np
import torch

from synclora.faces import align as a
from synclora.faces.tracker import track
from synclora.portraits import EDIT_KINDS, TEST_SEED_START, apply_edit, render, sample_motion, sample_person


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=42)
    parser.add_argument("--size", type=int, default=256)
    options = parser.parse_args()
    rng, size = random.Random(5), options.size
    errors = []
    for k in range(options.count):
        seed, kind = TEST_SEED_START + 50 + k, EDIT_KINDS[k % len(EDIT_KINDS)]
        person, motion = sample_person(seed), sample_motion(seed, frames=9)[:1]
        onto = render(person, motion, size=size)[0]
        edited = render(apply_edit(person, kind, seed), motion, size=size)[0]
        x, y = (rng.uniform(-0.04, 0.04) * size for _ in "xy")
        scale, degrees = rng.uniform(0.94, 1.06), rng.uniform(-4, 4)
        if k % 4 == 3:  # a quarter is not moved at all
            x, y, scale, degrees = 0.0, 0.0, 1.0, 0.0
        turn = math.radians(degrees)
        linear = scale * np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
        middle = np.array([size, size]) / 2
        matrix = np.column_stack([linear, middle + np.array([x, y]) - linear @ middle])
        shifted = matrix.copy()
        shifted[:, 2] += linear @ [0.5, 0.5] - 0.5
        picture = torch.from_numpy(
            cv2.warpAffine(
                edited.numpy(), shifted, (size, size), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT_101
            )
        )
        images = np.stack([picture.numpy(), onto.numpy()])
        coarse, found = a._by_both(images, np.concatenate([track(image[None]) for image in images]))
        places = np.linspace(0.25, 0.75, 6) * size, np.linspace(0.2, 0.8, 6) * size
        points = np.stack(np.meshgrid(*places), -1).reshape(-1, 2)
        true = points @ matrix[:, :2].T + matrix[:, 2]
        errors.append([np.linalg.norm(by.places(points) - true, axis=1).max() for by in (coarse, found)])
        print(f"{seed} {kind:<10} landmarks {errors[-1][0]:.2f} px, both {errors[-1][1]:.2f} px", flush=True)
    for name, column in zip(("landmarks", "both"), np.array(errors).T, strict=True):
        print(f"{name}: mean {column.mean():.2f} px, at most {column.max():.2f}, {(column < 0.2).sum()} below 0.2")


if __name__ == "__main__":
    main()
