"""How many frames a second the tracker and the whole measure take, on one core.

    OMP_NUM_THREADS=1 taskset -c 0 python tests/faces/measure_speed.py [--clip talk.mp4] [--size 512]

Decoded frames in, motion signals out; the median of several runs, by processor time (the core's own) and by the clock.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from statistics import median

from synclora import portraits
from synclora.clip import Clip, read_clip
from synclora.faces import measure, track


def main() -> None:
    parser = argparse.ArgumentParser(description="Frames a second of tracking and measuring.")
    parser.add_argument("--clip", type=Path, help="a video; a rendered person where none is given")
    parser.add_argument("--size", type=int, default=512, help="of the rendered person, px")
    parser.add_argument("--frames", type=int, default=99)
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    seed = portraits.TEST_SEED_START
    if options.clip:
        clip = read_clip(options.clip, frames=options.frames)
    else:
        motion = portraits.sample_motion(seed, options.frames, 25.0)
        clip = Clip(portraits.render(portraits.sample_person(seed), motion, options.size), Fraction(25))
    frames = clip.frames.numpy()
    work: dict[str, Callable[[], object]] = {"track": lambda: track(frames), "measure": lambda: measure(clip)}
    measure(clip)  # opens the graphs
    for name, run in work.items():
        cpu, wall = [], []
        for _ in range(options.runs):
            clock, processor = time.perf_counter(), time.process_time()
            run()
            cpu.append(len(frames) / (time.process_time() - processor))
            wall.append(len(frames) / (time.perf_counter() - clock))
        print(f"{name:8} {median(cpu):6.1f} frames/s of processor time, {median(wall):6.1f} by the clock")


if __name__ == "__main__":
    main()
