"""How fast an edit is: a cold command, a warm editor from decoded pixels to the file, and a step of either attention.

    python tests/editing/measure_speed.py [--size 256] [--threads 2] [--repeat 5] [--edit hat]

A drawn clip of the model's length is edited. Cold: `synclora edit` in a new process, file to file. Warm: the editor is
loaded and has edited once; decoding the source is taken off, all else (crop, encode, denoise, decode, paste back,
write) counts. Step: one network call on the tokens of such a window, `joint` and cached `self` by turns. Medians;
the process's peak memory at the end.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from time import perf_counter

import torch

from synclora import Editor, edit, portraits
from synclora.clip import Clip, read_clip, write_clip
from synclora.diffusion.sequence import FirstFrame, Reference, build
from synclora.editing.pictures import to_image

FPS = Fraction(25)
SEED = portraits.TEST_SEED_START + 105


def seconds(work: Callable[[], object]) -> float:
    began = perf_counter()
    work()
    return perf_counter() - began


def draw(folder: Path, size: int, frames: int, kind: str) -> None:
    person, motion = portraits.sample_person(SEED), portraits.sample_motion(SEED, frames, float(FPS))
    write_clip(folder / "source.mp4", Clip(portraits.render(person, motion, size, "cpu"), FPS), crf=12)
    edited = portraits.apply_edit(person, kind, SEED)
    first = portraits.render(edited, motion[:1], size, "cpu")[0]
    to_image(first).save(folder / "first.png")


def step_seconds(editor: Editor, repeat: int) -> tuple[float, float]:
    """Median time of a step of joint attention, and of self attention with the reference's keys and values cached."""
    backbone, geometry = editor.backbone, editor.backbone.geometry
    latents = torch.randn(1, geometry.channels, *geometry.latent_grid())
    conditions = [Reference(latents), FirstFrame(latents[:, :, :1])]
    sequence = build(latents, float(FPS), conditions, spatial=geometry.spatial, temporal=geometry.temporal)
    text = backbone.embed([""])
    with torch.inference_mode():
        cache = backbone.reference_cache(sequence, text)
        times: dict[str, list[float]] = {"joint": [], "self": []}
        for _ in range(3 * repeat + 1):
            times["joint"].append(seconds(lambda: backbone.velocity(sequence, 0.7, text, attention="joint")))
            times["self"].append(seconds(lambda: backbone.velocity(sequence, 0.7, text, attention="self", cache=cache)))
    joint, alone = (statistics.median(values[1:]) for values in times.values())  # the first warms up
    return joint, alone


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--edit", default="hair_color", help="kind of edit: hair_color, hat, ...")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        editor = Editor("nano")
        frames = editor.backbone.geometry.frames
        draw(folder, arguments.size, frames, arguments.edit)
        paths = (folder / "source.mp4", folder / "first.png", folder / "out.mp4")
        command = [sys.executable, "-m", "synclora", "edit", str(paths[0]), "--first-frame", str(paths[1])]
        command += ["-o", str(paths[2])]
        environment = {**os.environ, "OMP_NUM_THREADS": str(arguments.threads)}
        cold = statistics.median(
            seconds(lambda: subprocess.run(command, check=True, capture_output=True, env=environment)) for _ in range(3)
        )
        edit(*paths, editor=editor)
        whole = statistics.median(seconds(lambda: edit(*paths, editor=editor)) for _ in range(arguments.repeat))
        decoding = statistics.median(seconds(lambda: read_clip(paths[0])) for _ in range(arguments.repeat))
        joint, alone = step_seconds(editor, arguments.repeat)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    child = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    print(
        f"{arguments.size}x{arguments.size}, {frames} frames, {editor.default_steps} steps, {arguments.threads} threads"
    )
    print(f"cold command: {cold:.1f} s, peak {child:.0f} MB")
    print(f"warm: {whole:.2f} s, {frames / (whole - decoding):.1f} frames/s without decoding ({decoding:.2f} s)")
    print(f"a step: joint {1000 * joint:.0f} ms, self {1000 * alone:.0f} ms, {joint / alone:.2f} times as fast")
    print(f"peak of this process: {peak:.0f} MB")


if __name__ == "__main__":
    main()
