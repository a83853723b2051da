"""Whether the score falls as a defect grows: Spearman's correlation of strength and score, by kind of defect.

    python tests/pairs/measure_strength.py --clips 6 --levels 6 --seed 830000

For each kind the same clips are drawn at rising strengths, 0 to the greatest of the pool, and the score is averaged
over the clips. Defects of appearance leave motion alone; for them it is the figure of appearance that must rise.
"""

from __future__ import annotations

import argparse
from fractions import Fraction

import numpy as np

from synclora.clip import Clip
from synclora.faces import measure, track
from synclora.pairs.defects import DEFECTS, defective_pair
from synclora.sync import compare
from synclora.sync.appearance import appearance

SIZE, FRAMES = 256, 33


def rank_correlation(x: np.ndarray, y: np.ndarray) -> float:
    """Spearman's rho; ties share their ranks."""

    def ranks(values: np.ndarray) -> np.ndarray:
        return np.array([(values < v).sum() + ((values == v).sum() - 1) / 2 for v in values])

    return float(np.corrcoef(ranks(x), ranks(y))[0, 1])


def scores(kind: str, strengths: np.ndarray, seed: int) -> list[float]:
    """What a clip scores at each strength: the overall score, or for appearance minus its figure."""
    source, found = None, []
    for strength in strengths:
        pair = defective_pair(seed, kind, float(strength), size=SIZE, frames=FRAMES)
        if DEFECTS[kind].edit is None:
            images = pair.source.numpy(), pair.target.numpy()
            look = appearance(*images, track(images[0]), track(images[1]))
            found.append(-float((look.flicker if kind == "flicker" else look.change) or 0.0))
        else:
            source = source or measure(Clip(pair.source, Fraction(25)))
            found.append(compare(source, measure(Clip(pair.target, Fraction(25)))).overall or 0.0)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description="Spearman's correlation of defect strength and score.")
    parser.add_argument("--clips", type=int, default=6)
    parser.add_argument("--levels", type=int, default=6, help="strengths, the clean clip included")
    parser.add_argument("--seed", type=int, default=830_000)
    parser.add_argument("--kinds", nargs="*", default=list(DEFECTS))
    arguments = parser.parse_args()
    print("| kind | greatest strength | mean score by rising strength | Spearman |\n|---|---|---|---|")
    for kind in arguments.kinds:
        strengths = np.linspace(0, DEFECTS[kind].high, arguments.levels)
        mean = np.mean([scores(kind, strengths, arguments.seed + n) for n in range(arguments.clips)], axis=0)
        rho = -rank_correlation(strengths, mean)
        shown = ", ".join(f"{abs(value):.2f}" for value in mean)
        print(f"| {kind} | {DEFECTS[kind].high:g} | {shown} | {rho:.2f} |", flush=True)


if __name__ == "__main__":
    main()
