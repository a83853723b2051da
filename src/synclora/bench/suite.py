"""Compare methods on held-out procedural pairs, whose true edited clip is known.

    synclora bench --count 32 --out out/bench

Every pair is a person and a motion that training never draws (seeds from `TEST_SEED_START` on), with one edit; the
kinds of edit take turns. Synchrony is measured on pixels, edited against source, by the same tracker for every method.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from statistics import fmean, median
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from synclora.atomic import write_json, write_text
from synclora.bench.baselines import METHODS, PIXEL_METHODS, BenchPair, Method
from synclora.bench.metrics import bootstrap_interval, gradient_error, psnr, ssim
from synclora.bench.report import save_strip, to_markdown
from synclora.clip import Clip
from synclora.errors import SyncloraError
from synclora.faces import MotionSignals, measure
from synclora.sync import CHANNELS, SyncReport, compare
from synclora.sync.lag import MIN_R

if TYPE_CHECKING:
    from synclora.editing.editor import Editor

Progress = Callable[[str, int, int], None]  # what is being done, done, total

DEFAULT_SIZE, DEFAULT_FRAMES, DEFAULT_FPS = 128, 25, Fraction(25)  # where no backbone says otherwise
STRIP_PAIRS = 4


@dataclass(frozen=True)
class _Result:
    psnr: float
    ssim: float
    gradient_error: float
    seconds: float
    report: SyncReport


def held_out_pairs(
    count: int,
    *,
    seed: int = 1_000_000,
    size: int = DEFAULT_SIZE,
    frames: int = DEFAULT_FRAMES,
    fps: Fraction = DEFAULT_FPS,
) -> Iterator[BenchPair]:
    """Render `count` test pairs of seeds seed, seed + 1, ...; the kinds of edit take turns.

    Raises:
        SyncloraError: a seed that training may draw.
    """
    from synclora import portraits

    if seed < portraits.TEST_SEED_START:
        raise SyncloraError(
            f"bench seed {seed}: pairs below {portraits.TEST_SEED_START} may have been trained on. "
            f"Pass --seed {portraits.TEST_SEED_START} or more."
        )
    for index in range(count):
        person = portraits.sample_person(seed + index)
        motion = portraits.sample_motion(seed + index, frames, float(fps))
        kind = portraits.EDIT_KINDS[index % len(portraits.EDIT_KINDS)]
        edited = portraits.apply_edit(person, kind, seed + index)
        source = Clip(portraits.render(person, motion, size, "cpu"), fps)
        yield BenchPair(source, portraits.render(edited, motion, size, "cpu"), seed + index, kind)


def run_procedural(
    count: int,
    out: Path | str,
    *,
    backbone: str = "nano",
    lora: str | None = "default",
    seed: int = 1_000_000,
    size: int | None = None,
    frames: int | None = None,
    steps: int | None = None,
    device: str = "auto",
    methods: Sequence[str] | Mapping[str, Method] | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Run the benchmark and write bench.json, bench.md and frames.png into the folder `out`.

    Args:
        count: pairs. A dozen shows a trend; an interval worth quoting takes some 50.
        backbone, lora, steps, device: of the editor, as `synclora.editing.editor.Editor` takes them.
        seed: the first pair's; at least 1,000,000.
        size: pixels, square; None for the backbone's (128 where no backbone is run).
        frames: 8k + 1; None for the backbone's (25 where no backbone is run).
        methods: names out of `METHODS` (None: all), or callables by name, from a BenchPair to uint8 [F, H, W, 3].
        progress: called as progress(stage, done, total).

    Returns:
        What bench.json holds. For each method: psnr (dB), ssim and gradient_error against the true clip without frame
        0; sync, means over clips of the overall score and of Pearson's r at lag 0 per channel, over the clips whose
        SOURCE moves in that channel (a method that loses the motion scores 0; it is never left out); blink_f1 over the
        blinks of all clips together; lag0_share, the part of the channels that can tell a lag which fit best within
        half a frame of lag 0; seconds_per_clip, the median; 95 % bootstrap intervals in psnr_ci and sync_ci. null where
        nothing was judged.

    Raises:
        SyncloraError: an unknown method, a count below 1, or what the editor raises.
    """
    if count < 1:
        raise SyncloraError(f"bench count {count}: at least 1 pair is needed.")
    chosen = _choose(methods)
    tell = progress or (lambda stage, done, total: None)
    editors = _Editors(backbone, lora, device, steps)
    fps, first = DEFAULT_FPS, next((name for name, method in chosen.items() if method is None), None)
    if first is not None:
        own = editors.load(first).backbone.geometry
        if size is None and own.width != own.height:
            raise SyncloraError(
                f"bench backbone {backbone}: makes {own.width}x{own.height} px; the test portraits are square. "
                "Choose a backbone set to a square size."
            )
        size, frames = size or own.width, frames or own.frames
        fps = Fraction(own.fps).limit_denominator(1001)
    size, frames = size or DEFAULT_SIZE, frames or DEFAULT_FRAMES
    pairs, sources = [], []
    for pair in held_out_pairs(count, seed=seed, size=size, frames=frames, fps=fps):
        pairs.append(pair)
        sources.append(measure(pair.source))
        tell("Rendering the pairs", len(pairs), count)
    results: dict[str, list[_Result]] = {}
    strips: dict[str, list[Tensor]] = {}
    for name, method in chosen.items():
        if method is None:
            editors.load(name)  # loading is no part of the time per clip
        results[name], strips[name] = _run(name, method or editors.method(name), pairs, sources, tell)
    table: dict[str, Any] = {
        "suite": "procedural",
        "count": count,
        "seed": seed,
        "size": size,
        "frames": frames,
        "fps": str(fps),
        "settings": {"backbone": backbone, "lora": lora, "steps": steps, "device": device, "prompt": ""},
        "machine": _machine(),
        "methods": {name: _summary(rows) for name, rows in results.items()},
        "clips": [
            {
                "seed": pair.seed,
                "kind": pair.kind,
                "methods": {name: _row(rows[index]) for name, rows in results.items()},
            }
            for index, pair in enumerate(pairs)
        ],
    }
    out = Path(out)
    write_json(out / "bench.json", table)
    write_text(out / "bench.md", to_markdown(table))
    save_strip(out / "frames.png", pairs[:STRIP_PAIRS], strips)
    return table


def _choose(methods: Sequence[str] | Mapping[str, Method] | None) -> dict[str, Method | None]:
    """Method by name; None for those that need an editor."""
    if isinstance(methods, Mapping):
        return dict(methods)
    chosen = METHODS if methods is None else tuple(methods)
    unknown = [name for name in chosen if name not in METHODS]
    if unknown or not chosen:
        raise SyncloraError(f"bench methods: found {', '.join(unknown) or 'none'}; known are {', '.join(METHODS)}.")
    return {name: PIXEL_METHODS.get(name) for name in chosen}


class _Editors:
    """The editor that a method needs, loaded when asked for; one at a time is in memory."""

    def __init__(self, backbone: str, lora: str | None, device: str, steps: int | None) -> None:
        self._backbone, self._lora, self._device, self._steps = backbone, lora, device, steps
        self._loaded: tuple[str, Editor] | None = None

    def load(self, method: str) -> Editor:
        """The editor of "synclora" or of "base"."""
        if self._loaded is None or self._loaded[0] != method:
            self._loaded = None  # freed before the next is loaded
            lora = self._lora if method == "synclora" else None
            self._loaded = (method, self._load(lora))
        return self._loaded[1]

    def _load(self, lora: str | None) -> Editor:
        from synclora.editing.editor import Editor

        return Editor(self._backbone, lora, device=self._device)

    def method(self, name: str) -> Method:
        """An editor's method as a callable."""

        def make(pair: BenchPair) -> Tensor:
            return self.load(name).edit(pair.source, pair.truth[0], prompt="", steps=self._steps).frames

        return make


def _run(
    name: str, make: Method, pairs: list[BenchPair], sources: list[MotionSignals], tell: Progress
) -> tuple[list[_Result], list[Tensor]]:
    """All pairs through one method: the results, and the first few clips for the picture."""
    results, kept = [], []
    for pair, source in zip(pairs, sources, strict=True):
        began = time.perf_counter()
        edited = make(pair).cpu()
        seconds = time.perf_counter() - began
        results.append(
            _Result(
                psnr(edited, pair.truth),
                ssim(edited, pair.truth),
                gradient_error(edited, pair.truth),
                seconds,
                compare(source, measure(Clip(edited, pair.source.fps))),
            )
        )
        if len(kept) < STRIP_PAIRS:
            kept.append(edited)
        tell(f"Method {name}", len(results), len(pairs))
    return results, kept


def _summary(rows: list[_Result]) -> dict[str, Any]:
    reports = [row.report for row in rows]
    values = {"overall": [report.overall for report in reports if report.overall is not None]}
    judged = [(name, score) for report in reports for name, score in report.channels.items() if score.judged]
    for name in CHANNELS:
        values[name] = [score.r or 0.0 for channel, score in judged if channel == name]
    blinks = [report.blinks for report in reports]
    blink_total = sum(blink.source + blink.edited for blink in blinks)
    exact = all(row.psnr == float("inf") for row in rows)
    ratios = [min(row.psnr, 100.0) for row in rows]  # a still stretch may be met exactly in one clip
    # A channel too slow to tell a lag says nothing here; one that the edit lost counts against it.
    told = [score for _, score in judged if score.lag is not None or (score.r_best or 0.0) < MIN_R]
    at_zero = [score.lag is not None and abs(score.lag) <= 0.5 for score in told]
    return {
        "psnr": None if exact else _tidy(fmean(ratios)),
        "psnr_ci": None if exact else _interval(ratios),
        "ssim": _tidy(fmean(row.ssim for row in rows)),
        "gradient_error": _tidy(fmean(row.gradient_error for row in rows)),
        "sync": {name: _tidy(fmean(v)) if v else None for name, v in values.items()},
        "sync_ci": {name: _interval(v) for name, v in values.items()},
        "sync_clips": {name: len(v) for name, v in values.items()},
        "blink_f1": _tidy(2 * sum(b.matched for b in blinks) / blink_total) if blink_total else None,
        "blinks": {"source": sum(b.source for b in blinks), "edited": sum(b.edited for b in blinks)},
        "lag0_share": _tidy(fmean(at_zero)) if at_zero else None,
        "seconds_per_clip": _tidy(median(row.seconds for row in rows)),
    }


def _row(result: _Result) -> dict[str, Any]:
    ratio = None if result.psnr == float("inf") else _tidy(result.psnr)
    return {"psnr": ratio, "ssim": _tidy(result.ssim), "sync": result.report.to_json()}


def _interval(values: Sequence[float]) -> list[float] | None:
    interval = bootstrap_interval(values)
    return None if interval is None else [_tidy(bound) for bound in interval]


def _tidy(value: float) -> float:
    return round(float(value), 4)


def _machine() -> dict[str, Any]:
    cuda = torch.cuda.is_available()
    return {
        "system": platform.system(),
        "processor": platform.machine(),
        "threads": torch.get_num_threads(),
        "accelerator": torch.cuda.get_device_name() if cuda else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
