"""Compare methods on pairs whose true edited clip is known.

    synclora bench --count 32 --out out/bench
    synclora bench --suite footage --footage CLIPS --count 28 --out out/bench

Suite `procedural`: every pair is a rendered person and motion that training never draws (`synclora.bench.procedural`).
Suite `footage`: stretches of filmed clips, edited by composition (`synclora.bench.footage`). The kinds of edit take
turns in both. Synchrony is measured on pixels, edited against source, by the same tracker for every method.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from synclora.atomic import write_json, write_text
from synclora.bench.baselines import METHODS, PIXEL_METHODS, BenchPair, Method
from synclora.bench.footage import footage_pairs
from synclora.bench.page import write_page
from synclora.bench.procedural import DEFAULT_FPS, DEFAULT_FRAMES, DEFAULT_SIZE, held_out_pairs
from synclora.bench.report import save_strip, to_markdown
from synclora.bench.summary import Result, clip_row, judge, summary
from synclora.errors import SyncloraError
from synclora.faces import MotionSignals, measure

if TYPE_CHECKING:
    from synclora.editing.editor import Editor

__all__ = ["SUITES", "Progress", "held_out_pairs", "run_footage", "run_procedural", "run_suite"]

SUITES = ("procedural", "footage")
Progress = Callable[[str, int, int], None]  # what is being done, done, total
Methods = Sequence[str] | Mapping[str, Method]

SHOWN_PAIRS = 8  # whose clips are kept for the page
STRIP_PAIRS = 4


def run_suite(
    suite: str,
    count: int,
    out: Path | str,
    *,
    footage: Path | str | None = None,
    methods: str | None = None,
    backbone: str = "nano",
    lora: str | None = "default",
    steps: int | None = None,
    device: str = "auto",
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Run one of SUITES as `synclora bench` does; `methods` are names with commas between them, None for all.

    Args and returns as `run_procedural` and `run_footage`, whose folder is `footage`.

    Raises:
        SyncloraError: an unknown suite, a folder missing where one is needed or given where none is used, and as those.
    """
    names = None if methods is None else [name.strip() for name in methods.split(",") if name.strip()]
    if suite == "footage":
        if footage is None:
            raise SyncloraError("bench suite footage: no clips to test on. Pass a folder of videos with --footage DIR.")
        return run_footage(
            footage, count, out, backbone=backbone, lora=lora, steps=steps, device=device, methods=names,
            progress=progress,
        )  # fmt: skip
    if suite != "procedural":
        raise SyncloraError(f"bench suite: found {suite}; known are {', '.join(SUITES)}.")
    if footage is not None:
        raise SyncloraError(f"bench suite procedural: does not use {footage}. Pass --suite footage as well.")
    return run_procedural(
        count, out, backbone=backbone, lora=lora, steps=steps, device=device, methods=names, progress=progress
    )


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
    methods: Methods | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Run the procedural suite and write bench.json, bench.md, bench.html and frames.png into the folder `out`.

    Args:
        count: pairs. A dozen shows a trend; an interval worth quoting takes some 50.
        backbone, lora, steps, device: of the editor, as `synclora.editing.editor.Editor` takes them.
        seed: the first pair's; at least 1,000,000.
        size: pixels, square; None for the backbone's (128 where no backbone is run).
        frames: 8k + 1; None for the backbone's (25 where no backbone is run).
        methods: names out of `METHODS` (None: all), or callables by name, from a BenchPair to uint8 [F, H, W, 3].
        progress: called as progress(stage, done, total).

    Returns:
        What bench.json holds. For each method, over clips, without frame 0:
        psnr (dB; a clip counts at most 48.1, an error of one grey level; null where every clip equals the truth), ssim,
        gradient_error, flicker (grey levels) against the true clip; retention, the last frame's
        error over the first second's, and end_to_start, the last second's (quarter's) over the first's, both geometric
        means; identity, cosine of face embeddings, where a model is installed;
        sync, means of the overall score and of Pearson's r at lag 0 per channel, over the clips whose SOURCE moves in
        that channel (a method that loses the motion scores 0; it is never left out); blink_f1 over the blinks of all
        clips together; lag, the mean size of the clips' lags in frames, and lag0_clips, the part of the clips within
        half a frame of 0; lag0_share, the same of the channels that can tell one; seconds_per_clip, the median;
        by_kind, psnr, ssim and overall for each kind of edit. *_ci: 95 % bootstrap intervals over clips. null where
        nothing was judged.

    Raises:
        SyncloraError: an unknown method, a count below 1, or what the editor raises.
    """
    run = _Run(count, methods, backbone, lora, device, steps, progress)
    wide, high, frames, fps = run.shape(size, frames)
    if wide != high:
        raise SyncloraError(
            f"bench backbone {backbone}: makes {wide}x{high} px; the test portraits are square. "
            "Choose a backbone set to a square size."
        )
    pairs = held_out_pairs(count, seed=seed, size=wide, frames=frames, fps=fps)
    head = {"suite": "procedural", "seed": seed, "size": wide, "frames": frames, "fps": str(fps)}
    return run.write(Path(out), pairs, head)


def run_footage(
    folder: Path | str,
    count: int,
    out: Path | str,
    *,
    backbone: str = "nano",
    lora: str | None = "default",
    seed: int = 0,
    size: int | None = None,
    frames: int | None = None,
    steps: int | None = None,
    device: str = "auto",
    methods: Methods | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Run the footage suite on the videos in `folder` and write what `run_procedural` writes into the folder `out`.

    Args:
        folder: of videos of people who face the camera; see `synclora.bench.footage`.
        count: pairs; a multiple of the seven kinds of edit weighs them alike.
        seed: of the windows and of the edits' looks.
        size: pixels, square; None for the backbone's own width and height (128 where no backbone is run).
        others: as `run_procedural`. Frame rates are the clips' own.

    Returns:
        As `run_procedural`, with `left_out`: what of the folder could not be used, and why.

    Raises:
        SyncloraError: no usable video in the folder, and as `run_procedural`.
    """
    run = _Run(count, methods, backbone, lora, device, steps, progress)
    wide, high, frames, _ = run.shape(size, frames)
    left_out: list[str] = []
    pairs = footage_pairs(folder, count, seed=seed, width=wide, height=high, frames=frames, left_out=left_out)
    size_told = wide if wide == high else [wide, high]
    head = {"suite": "footage", "folder": Path(folder).name, "seed": seed, "size": size_told, "frames": frames}
    return run.write(Path(out), pairs, {**head, "fps": "the clips' own", "left_out": left_out})


@dataclass
class _Run:
    """What both suites do alike: load editors, put every pair through every method, sum up and write."""

    count: int
    methods: Methods | None
    backbone: str
    lora: str | None
    device: str
    steps: int | None
    progress: Progress | None
    chosen: dict[str, Method | None] = field(init=False)
    _loaded: tuple[str, Editor] | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        if self.count < 1:
            raise SyncloraError(f"bench count {self.count}: at least 1 pair is needed.")
        self.chosen = _choose(self.methods)

    def shape(self, size: int | None, frames: int | None) -> tuple[int, int, int, Fraction]:
        """Width, height, frames and frames a second: the backbone's where one is run and nothing else is asked for."""
        first = next((name for name, method in self.chosen.items() if method is None), None)
        if first is None:
            return size or DEFAULT_SIZE, size or DEFAULT_SIZE, frames or DEFAULT_FRAMES, DEFAULT_FPS
        own = self._editor(first).backbone.geometry
        fps = Fraction(own.fps).limit_denominator(1001)
        return size or own.width, size or own.height, frames or own.frames, fps

    def write(self, out: Path, drawn: Iterable[BenchPair], head: dict[str, Any]) -> dict[str, Any]:
        """Run all methods on the pairs and write the files; returns what bench.json holds."""
        pairs: list[BenchPair] = []
        sources: list[MotionSignals] = []
        for pair in drawn:
            pairs.append(pair)
            sources.append(measure(pair.source))
            self._tell("Making the pairs", len(pairs))
        results: dict[str, list[Result]] = {}
        shown: dict[str, list[Tensor]] = {}
        for name, method in self.chosen.items():
            results[name], shown[name] = self._one(name, method, pairs, sources)
        kinds = [pair.kind for pair in pairs]
        settings = {"backbone": self.backbone, "lora": self.lora, "steps": self.steps, "device": self.device}
        table: dict[str, Any] = {
            **head,
            "count": len(pairs),
            "settings": {**settings, "prompt": ""},
            "machine": _machine(),
            "methods": {name: summary(rows, kinds) for name, rows in results.items()},
            "clips": [
                {
                    "seed": pair.seed,
                    "kind": pair.kind,
                    **({"place": pair.place} if pair.place else {}),
                    "methods": {name: clip_row(rows[index]) for name, rows in results.items()},
                }
                for index, pair in enumerate(pairs)
            ],
        }
        write_json(out / "bench.json", table)
        write_text(out / "bench.md", to_markdown(table))
        save_strip(out / "frames.png", pairs[:STRIP_PAIRS], shown)
        write_page(out / "bench.html", table, pairs[:SHOWN_PAIRS], shown)
        return table

    def _one(
        self, name: str, method: Method | None, pairs: list[BenchPair], sources: list[MotionSignals]
    ) -> tuple[list[Result], list[Tensor]]:
        """All pairs through one method: the results, and the first few clips to show."""
        if method is None:
            self._editor(name)  # loading is no part of the time per clip
        results, kept = [], []
        for pair, source in zip(pairs, sources, strict=True):
            began = time.perf_counter()
            edited = (self._edited(name, pair) if method is None else method(pair)).cpu()
            results.append(judge(pair, source, edited, time.perf_counter() - began))
            if len(kept) < SHOWN_PAIRS:
                kept.append(edited)
            self._tell(f"Method {name}", len(results))
        return results, kept

    def _edited(self, name: str, pair: BenchPair) -> Tensor:
        detail = "model" if name == "model" else None
        return self._editor(name).edit(pair.source, pair.truth[0], prompt="", steps=self.steps, detail=detail).frames

    def _editor(self, method: str) -> Editor:
        """The editor of "synclora", "model" or "base", loaded when asked for; one at a time is in memory."""
        if self._loaded is None or self._loaded[0] != method:
            from synclora.editing.editor import Editor

            self._loaded = None  # freed before the next is loaded
            lora = None if method == "base" else self.lora
            self._loaded = (method, Editor(self.backbone, lora, device=self.device))
        return self._loaded[1]

    def _tell(self, stage: str, done: int) -> None:
        if self.progress:
            self.progress(stage, done, self.count)


def _choose(methods: Methods | None) -> dict[str, Method | None]:
    """Method by name; None for those that need an editor."""
    if isinstance(methods, Mapping):
        return dict(methods)
    chosen = METHODS if methods is None else tuple(methods)
    unknown = [name for name in chosen if name not in METHODS]
    if unknown or not chosen:
        raise SyncloraError(f"bench methods: found {', '.join(unknown) or 'none'}; known are {', '.join(METHODS)}.")
    return {name: PIXEL_METHODS.get(name) for name in chosen}


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
