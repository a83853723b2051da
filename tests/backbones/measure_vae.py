"""What the autoencoder alone costs: PSNR of the round trip, on held-out rendered clips and on film.

    python tests/backbones/measure_vae.py --count 16 --footage CLIPS

Rendered: people and motions with seeds that training never uses. Film: a window of the model's length about every two
seconds of each video of CLIPS, at the crop that `synclora edit` takes, reduced to the model's size. In the precision in
which edits are made; frame 0, which the VAE codes apart, counts as the others do.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean

import torch
from torch import Tensor

from synclora import portraits
from synclora.backbones.base import Backbone
from synclora.backbones.presets import load_backbone
from synclora.bench.footage import SUFFIXES
from synclora.clip import from_model, iter_windows, to_model
from synclora.editing.facecrop import place

EVERY = 2.0  # seconds


def rendered(backbone: Backbone, count: int) -> Iterator[tuple[str, Tensor]]:
    geometry = backbone.geometry
    for seed in range(portraits.TEST_SEED_START, portraits.TEST_SEED_START + count):
        motion = portraits.sample_motion(seed, geometry.frames, geometry.fps)
        yield f"seed {seed}", portraits.render(portraits.sample_person(seed), motion, geometry.width, "cpu")


def film(backbone: Backbone, folder: Path) -> Iterator[tuple[str, Tensor]]:
    geometry = backbone.geometry
    for path in sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES):
        crop = place(path, geometry.width, geometry.height).crop
        end = 0
        for window in iter_windows(path, geometry.frames, 0, crop=crop):
            start, end = end, end + window.num_frames
            due = start == 0 or start // (EVERY * window.fps) > (start - geometry.frames) // (EVERY * window.fps)
            if due and window.num_frames == geometry.frames:
                yield f"{path.name} at {float(start / window.fps):.1f} s", window.frames


@torch.inference_mode()
def round_trip(backbone: Backbone, frames: Tensor) -> float:
    back = from_model(backbone.decode(backbone.encode(to_model(frames))))
    return float(-10 * torch.log10(((back.float() - frames.float()) / 255).square().mean()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="nano")
    parser.add_argument("--count", type=int, default=16, help="rendered clips")
    parser.add_argument("--footage", type=Path, help="folder of videos")
    arguments = parser.parse_args()
    backbone = load_backbone(arguments.backbone)
    suites = {"rendered": rendered(backbone, arguments.count)}
    if arguments.footage:
        suites["film"] = film(backbone, arguments.footage)
    for name, clips in suites.items():
        values = {label: round_trip(backbone, frames) for label, frames in clips}
        print(*(f"{label}: {value:.1f} dB" for label, value in values.items()), sep="\n")
        print(f"{name}, {len(values)} clips: mean {fmean(values.values()):.2f} dB, least {min(values.values()):.2f} dB")


if __name__ == "__main__":
    main()
