"""How well the score and the default gate tell clean pairs from defective ones, on a pool of known defects.

    python tests/pairs/measure_gate.py out/calibration --count 168 --seed 810000 --derive
    python tests/pairs/measure_gate.py out/fresh --count 400 --seed 820000

The pool is made where it is missing (256 px, 33 frames, every second pair with a defect) and measured as `pairs curate`
does; both go on where they stopped. With --derive the figures that each limit of the gate is to separate are shown.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from synclora.pairs import PairStore, generate_store
from synclora.pairs.curate import curate, judge_row
from synclora.pairs.jobs import executor
from synclora.sync.appearance import Appearance
from synclora.sync.gate import Thresholds, Verdict, common_lag, gaze_followed, head_motion, load_thresholds
from synclora.sync.score import SyncReport

SIZE, FRAMES = 256, 33
LEAST_LAG = 2.0  # frames; a smaller shift does not count as a defect of motion


@dataclass(frozen=True)
class Judged:
    """A pair of the pool: what is wrong with it, and what was found."""

    kind: str
    strength: float
    affects: str
    report: SyncReport
    look: Appearance
    verdict: Verdict

    @property
    def motion_defect(self) -> bool:
        return self.affects == "motion" and not (self.kind == "shift" and abs(self.strength) < LEAST_LAG)

    @property
    def overall(self) -> float:
        return self.report.overall or 0.0


def auc(better: Sequence[float], worse: Sequence[float]) -> float:
    """Area under the ROC curve: the chance that one of `better` exceeds one of `worse`, ties counting half."""
    a, b = np.array(better)[:, None], np.array(worse)[None]
    return float(((a > b) + 0.5 * (a == b)).mean())


def read(store: PairStore, thresholds: Thresholds) -> list[Judged]:
    """The measured pairs of a pool with their truth."""
    found = []
    for row in store.iter_rows():
        assert row.defect and row.sync and row.appearance, f"{row.id}: {row.reason}"
        truth = json.loads(row.defect)
        report = SyncReport.from_json(json.loads(row.sync))
        look = Appearance.from_json(json.loads(row.appearance))
        place = truth["kind"], truth["strength"], truth.get("affects", "")
        found.append(Judged(*place, report, look, judge_row(row, thresholds)))
    return found


def table(pairs: list[Judged]) -> list[str]:
    """Markdown: by kind of defect, how many, how they score and how many the gate keeps."""
    clean = [pair for pair in pairs if pair.kind == "none"]
    lines = [
        "| kind | pairs | overall, median | AUC of overall | AUC of rank score | kept |",
        "|---|---|---|---|---|---|",
    ]
    for kind in sorted({pair.kind for pair in pairs}, key=lambda kind: (kind != "none", kind)):
        some = [pair for pair in pairs if pair.kind == kind]
        areas = ["-", "-"]
        if kind != "none":
            areas = [f"{_area(clean, some, score):.3f}" for score in (_overall, _rank)]
        kept = sum(pair.verdict.keep for pair in some)
        middle = float(np.median([pair.overall for pair in some]))
        share = f"{kept} ({100 * kept / len(some):.0f} %)"
        lines.append(f"| {kind} | {len(some)} | {middle:.2f} | {' | '.join(areas)} | {share} |")
    return lines


def totals(pairs: list[Judged]) -> list[str]:
    """The figures that have a bar."""
    clean = [pair for pair in pairs if pair.kind == "none"]
    bad = [pair for pair in pairs if pair.kind != "none"]
    motion = [pair for pair in bad if pair.motion_defect]
    small = [pair for pair in bad if pair.kind == "shift" and not pair.motion_defect]
    kept = [100 * sum(pair.verdict.keep for pair in some) / max(1, len(some)) for some in (clean, bad)]
    return [
        f"AUC of the overall score, clean vs {len(motion)} motion-defective: {_area(clean, motion, _overall):.4f}",
        f"AUC of the rank score, clean vs motion-defective: {_area(clean, motion, _rank):.4f}",
        f"AUC of the rank score, clean vs all {len(bad)} defective: {_area(clean, bad, _rank):.4f}",
        f"the gate keeps {kept[0]:.1f} % of {len(clean)} clean and {kept[1]:.1f} % of {len(bad)} defective pairs "
        f"({len(small)} of them are 1 frame off)",
    ]


def derivation(pairs: list[Judged]) -> list[str]:
    """For each limit: the clean pairs' worst hundredth and the twentieth least of the defects it is there for."""
    clean = [pair for pair in pairs if pair.kind == "none"]
    lines = [
        "| figure | of | clean: median | clean: 98 % | clean: 99 % | defective: 5 % | 10 % | median |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, (kinds, figure) in FIGURES.items():
        good = [value for pair in clean if (value := figure(pair)) is not None]
        bad = [
            value
            for p in pairs
            if p.kind in kinds and (p.motion_defect or p.affects == "appearance") and (value := figure(p)) is not None
        ]
        cells = [
            *np.quantile(good, [0.5, 0.98, 0.99]),
            *(np.quantile(bad, [0.05, 0.1, 0.5]) if bad else [math.nan] * 3),
        ]
        lines.append(f"| {name} | {', '.join(kinds)} | " + " | ".join(f"{cell:.3f}" for cell in cells) + " |")
    return lines


def _channel(name: str, what: str) -> Callable[[Judged], float | None]:
    def figure(pair: Judged) -> float | None:
        score = pair.report.channels[name]
        value = getattr(score, what) if score.judged else None
        if value is None:
            return None
        return 1 - value if what == "r" else abs(value) if what == "lag" else _factor(value)

    return figure


def _factor(times: float | None) -> float | None:
    return None if times is None else abs(math.log(max(times, 0.01)))


def _unmatched(pair: Judged) -> float:
    blinks = pair.report.blinks
    return blinks.source + blinks.edited - 2 * blinks.matched


# Every figure grows with the fault: |log of a factor|, 1 - r, frames, shares.
FIGURES: dict[str, tuple[tuple[str, ...], Callable[[Judged], float | None]]] = {
    "1 - overall": (("wrong_visemes", "shift", "damped"), lambda pair: 1 - pair.overall),
    "common lag": (
        ("shift", "speed", "drift"),
        lambda pair: None if (v := common_lag(pair.report)) is None else abs(v),
    ),
    "head, log factor": (("damped", "exaggerated"), lambda pair: _factor(head_motion(pair.report))),
    "mouth, 1 - r": (("wrong_visemes", "shift"), _channel("mouth", "r")),
    "mouth, log factor": (("damped",), _channel("mouth", "amplitude")),
    "1 - gaze followed": (("gaze_frozen",), lambda pair: None if (v := gaze_followed(pair.report)) is None else 1 - v),
    "yaw, 1 - r": (("head_drift",), _channel("yaw", "r")),
    "yaw, log factor": (("head_drift",), _channel("yaw", "amplitude")),
    "pitch, 1 - r": (("head_drift",), _channel("pitch", "r")),
    "pitch, log factor": (("head_drift",), _channel("pitch", "amplitude")),
    "blinks unmatched": (("blink_drop", "blink_extra"), _unmatched),
    "flicker": (("flicker",), lambda pair: pair.look.flicker),
    "change": (("identity_change",), lambda pair: pair.look.change),
}


def _overall(pair: Judged) -> float:
    return pair.overall


def _rank(pair: Judged) -> float:
    return pair.verdict.score


def _area(clean: list[Judged], bad: list[Judged], score: Callable[[Judged], float]) -> float:
    return auc([score(pair) for pair in clean], [score(pair) for pair in bad]) if bad else math.nan


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pool", type=Path)
    parser.add_argument("--count", type=int, default=400)
    parser.add_argument("--seed", type=int, default=820_000)
    parser.add_argument("--config", type=Path, help="thresholds; default: the package's")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--derive", action="store_true", help="show the figures that the limits separate")
    options = parser.parse_args()
    store, thresholds = PairStore(options.pool), load_thresholds(options.config)
    made = store.ids() if store.exists() else set()
    if len(made) < options.count:
        settings = {"size": SIZE, "frames": FRAMES, "workers": options.workers, "defects": True}
        generate_store(options.pool, options.count, options.seed, **settings)
    print("\n".join(curate(store, thresholds, executor("processes", options.workers), options.workers).summary()), "\n")
    pairs = read(store, thresholds)
    print("\n".join([*table(pairs), "", *totals(pairs)]))
    if options.derive:
        print("\n".join(["", *derivation(pairs)]))


if __name__ == "__main__":
    main()
