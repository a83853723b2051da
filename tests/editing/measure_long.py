"""How a long edit holds up, on a rendered pair whose true edit is known: per window, at the joins, in time and memory.

    python tests/editing/measure_long.py --seconds 10 --edit hat
    python tests/editing/measure_long.py --seconds 10 --edit hat --leave-out anchor

Person, motion and edit are drawn from a seed that training never uses; the clip goes through files as in
`synclora edit`. `--leave-out anchor` or `continuation` shows what that condition is worth; a clip of more than
10 seconds runs to and fro over the first ten.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import torch
from torch import Tensor

from synclora import Editor, edit, portraits
from synclora.clip import Clip, write_clip
from synclora.diffusion.sequence import Anchor, Condition, Continuation
from synclora.editing.pictures import to_image
from synclora.editing.sampler import Sampler
from synclora.editing.windows import overlap_of, starts
from synclora.faces import measure as track
from synclora.sync import compare

FPS = Fraction(25)
RENDERED = 249  # frames
LEFT_OUT = {"nothing": (), "anchor": (Anchor,), "continuation": (Continuation,), "both": (Anchor, Continuation)}


def pair(seed: int, kind: str, frames: int, size: int) -> tuple[Tensor, Tensor]:
    """Source and true edit, uint8 [frames, size, size, 3] each."""
    person, motion = portraits.sample_person(seed), portraits.sample_motion(seed, min(frames, RENDERED), float(FPS))
    order = list(range(len(motion)))
    there_and_back = order + order[-2:0:-1]
    index = torch.tensor([there_and_back[i % len(there_and_back)] for i in range(frames)])
    looks = (person, portraits.apply_edit(person, kind, seed))
    source, truth = (portraits.render(look, motion, size, "cpu")[index] for look in looks)
    return source, truth


def psnr(a: Tensor, b: Tensor) -> float:
    return float(-10 * torch.log10(((a.float() - b.float()) / 255).square().mean()))


def measure(arguments: argparse.Namespace) -> None:
    editor = Editor("nano")
    geometry = editor.backbone.geometry
    frames = round(arguments.seconds * FPS)
    source, truth = pair(arguments.seed, arguments.edit, frames, geometry.width)
    leave_out(LEFT_OUT[arguments.leave_out])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_clip(folder / "source.mp4", Clip(source, FPS), crf=8)
        to_image(truth[0]).save(folder / "first.png")
        keyframes: dict[int, Path | str] = {index: folder / f"{index}.png" for index in arguments.keyframes}
        for index, path in keyframes.items():
            to_image(truth[index]).save(path)
        wall, cpu = perf_counter(), process_time()
        result = edit(
            folder / "source.mp4",
            folder / "first.png",
            folder / "out.mp4",
            editor=editor,
            steps=arguments.steps,
            keyframes=keyframes,
            detail=arguments.detail,
        )
        wall, cpu = perf_counter() - wall, process_time() - cpu
        edited = result.clips()[1].frames
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    overlap = overlap_of(geometry)
    firsts = starts(frames, geometry.frames, overlap)
    print(f"{arguments.edit}, {frames} frames, {len(firsts)} windows of {geometry.frames}, overlap {overlap}")
    print(f"time: {wall:.1f} s ({cpu:.1f} s of processor, {1000 * cpu / frames:.1f} ms a frame); peak {peak:.0f} MB")
    print("PSNR of each window:", *(f"{psnr(edited[i : i + 28], truth[i : i + 28]):.1f}" for i in firsts))
    print(f"PSNR of the clip: {psnr(edited[1:], truth[1:]):.2f}")
    for index in arguments.report_at or arguments.keyframes:
        print(f"PSNR of frame {index}: {psnr(edited[index], truth[index]):.1f}")
    print_joins(edited, truth, firsts[1:], overlap)
    windows = [slice(first, first + geometry.frames) for first in firsts if first + geometry.frames <= frames]
    ours, true = (print_sync(*of, windows) for of in (("edit", source, edited), ("true edit", source, truth)))
    print(f"  windows further than 0.05 below the true edit's: {int((ours < true - 0.05).sum())} of {len(windows)}")


def print_joins(edited: Tensor, truth: Tensor, firsts: list[int], overlap: int) -> None:
    """The frame-difference curve from the frame before each join to the one after it, against all other frames."""
    change = torch.stack([(b.float() - a.float()).abs().mean() for a, b in pairwise(edited)])
    true = torch.stack([(b.float() - a.float()).abs().mean() for a, b in pairwise(truth)])
    at_join = torch.zeros(len(change), dtype=torch.bool)
    for first in firsts:
        at_join[first - 1 : first + overlap] = True
    curves = {"frame difference": change, "the true edit's": true, "relative to the true edit's": change / (true + 0.3)}
    for name, curve in curves.items():
        joins, others = curve[at_join], curve[~at_join]
        limit = others.quantile(0.95)
        print(
            f"{name}: joins mean {joins.mean():.2f}, others mean {others.mean():.2f}, others' 95th percentile "
            f"{limit:.2f}, joins above it {(joins > limit).float().mean():.1%}"
        )


def print_sync(name: str, source: Tensor, clip: Tensor, windows: list[slice]) -> Tensor:
    """The sync score of each window against the source's, and the means of the first and the last quarter of them."""
    scores = []
    for window in windows:
        overall = compare(track(Clip(source[window], FPS)), track(Clip(clip[window], FPS))).overall
        scores.append(float("nan") if overall is None else overall)
    values = torch.tensor(scores)
    quarter = max(1, len(values) // 4)
    first, last = values[:quarter].nanmean(), values[-quarter:].nanmean()
    print(f"sync of the {name}'s windows:", *(f"{value:.2f}" for value in scores))
    print(f"  mean {values.nanmean():.3f}, first quarter {first:.3f}, last quarter {last:.3f}")
    return values


def leave_out(kinds: tuple[type, ...]) -> None:
    real = Sampler._conditions

    def fewer(self: Sampler, *given: Any) -> list[Condition]:
        return [condition for condition in real(self, *given) if not isinstance(condition, kinds)]

    if kinds:
        Sampler._conditions = fewer  # type: ignore[method-assign]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--edit", choices=portraits.EDIT_KINDS, default="hat")
    parser.add_argument("--seed", type=int, default=portraits.TEST_SEED_START + 102)
    parser.add_argument("--steps", type=int, help="denoising steps; by default the model's")
    parser.add_argument("--detail", choices=("source", "model"), help="as synclora edit's")
    parser.add_argument("--keyframes", type=int, nargs="*", default=[], help="give these frames of the true edit too")
    parser.add_argument("--report-at", type=int, nargs="*", help="tell the PSNR of these frames; default: --keyframes")
    parser.add_argument("--leave-out", choices=LEFT_OUT, default="nothing")
    measure(parser.parse_args())
