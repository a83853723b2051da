"""Rendered motions on disk: one motion, several looks, so that every ordered pair of looks is an exact training pair.

    python -m synclora.training.pool out/pool --motions 1500 --looks 3

A pool is a folder of safetensors shards. What a shard holds follows from (seed, index) alone; it is rendered when first
asked for and written atomically, so several processes may fill one pool and a kill costs one shard at most.
"""

from __future__ import annotations

import hashlib
import json
import random
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from synclora.tensors import write_tensors
from synclora.training.mix import DRAWN_ONLY, Mix, draw_looks, mix_digest

MOTIONS_PER_SHARD = 8
OTHER_PERSON_SHARE = 0.34  # looks that are somebody else altogether; the rest are edits of the first look
MAX_EDITS = 3


@dataclass(frozen=True)
class Shard:
    """`frames` uint8 [motions, looks, F, H, W, 3]; `captions[m][k]` says what look k of motion m shows."""

    frames: Tensor
    captions: list[list[str]]


@dataclass(frozen=True)
class ClipPool:
    """A pool of `motions` motions in `looks` looks each, `frames` frames (8k + 1) of `size` x `size` px at `fps`.

    Motion m uses the portrait seed `seed + m`; all seeds stay below `TEST_SEED_START`, which is kept for tests.
    """

    folder: Path
    motions: int
    looks: int
    seed: int = 0
    size: int = 128
    frames: int = 33
    fps: float = 25.0
    device: str = "cpu"
    mix: Mix = DRAWN_ONLY

    def __post_init__(self) -> None:
        from synclora.portraits import TEST_SEED_START

        if self.motions < 1 or self.looks < 2 or self.seed < 0 or self.seed + self.motions > TEST_SEED_START:
            raise ValueError(
                f"pool of {self.motions} motions, {self.looks} looks, seed {self.seed}: needs at least one motion in "
                f"two looks, and seeds from 0 below {TEST_SEED_START} (later ones are kept for tests)"
            )

    def __len__(self) -> int:
        """Number of shards."""
        return -(-self.motions // MOTIONS_PER_SHARD)

    def path(self, index: int) -> Path:
        """File of shard `index`; its name holds every setting and what is drawn (a digest), so that pools never mix."""
        first = self.seed + index * MOTIONS_PER_SHARD
        settings = f"{self.size}px-{self.frames}f-{self.fps:g}fps-{self.looks}looks-{self.digest()[:8]}"
        return self.folder / f"{settings}-{first:07d}.safetensors"

    def digest(self) -> str:
        """Changes when anything of the pool's kinds is drawn differently."""
        return mix_digest(self.mix, drawing_digest())

    def shard(self, index: int) -> Shard:
        """Shard `index`, rendered first if it is not on disk whole."""
        path = self.path(index)
        try:
            with safe_open(str(path), framework="pt") as file:
                return Shard(file.get_tensor("frames"), json.loads((file.metadata() or {})["captions"]))
        except (FileNotFoundError, SafetensorError):
            shard = self.render(index)
            write_tensors(path, {"frames": shard.frames}, {"captions": json.dumps(shard.captions)})
            return shard

    def clip(self, motion: int, look: int) -> Tensor:
        """One clip, uint8 [F, H, W, 3], read alone where its shard is on disk."""
        index, row = divmod(motion, MOTIONS_PER_SHARD)
        try:
            with safe_open(str(self.path(index)), framework="pt") as file:
                return file.get_slice("frames")[row, look]
        except (FileNotFoundError, SafetensorError):
            return self.shard(index).frames[row, look]

    def render(self, index: int) -> Shard:
        """Render shard `index` without touching the disk."""
        first = self.seed + index * MOTIONS_PER_SHARD
        seeds = range(first, min(first + MOTIONS_PER_SHARD, self.seed + self.motions))
        frames, captions = [], []
        for seed in seeds:
            kind, people = self.mix.kind(seed), sample_looks(seed, self.looks)
            clips, said = draw_looks(kind, seed, people, self.frames, self.fps, self.size, self.device)
            frames.append(clips)
            captions.append(said)
        return Shard(torch.stack(frames), captions)


def sample_looks(seed: int, count: int) -> list:
    """`count` people for one motion: a person, then edits of that person or, at times, somebody else."""
    from synclora.portraits import TEST_SEED_START, sample_edit, sample_person

    rng = random.Random(f"looks/{seed}")
    people = [sample_person(seed)]
    while len(people) < count:
        if rng.random() < OTHER_PERSON_SHARE:
            people.append(sample_person(rng.randrange(TEST_SEED_START)))
        else:
            people.append(sample_edit(people[0], rng.randrange(TEST_SEED_START), rng.randint(1, MAX_EDITS))[0])
    return people


@lru_cache(maxsize=1)
def drawing_digest() -> str:
    """A digest of small drawings, one for each kind of edit: changes when the renderer draws anything differently."""
    from synclora.portraits import EDIT_KINDS, apply_edit, caption, render, sample_motion, sample_person

    digest = hashlib.sha256()
    for seed, kind in enumerate(sorted(EDIT_KINDS)):
        person = apply_edit(sample_person(seed), kind, seed)
        digest.update(render(person, sample_motion(seed, 9, 5.0)[8:9], 64, "cpu").numpy().tobytes())
        digest.update(caption(person).encode())
    return digest.hexdigest()


def main() -> None:
    """Fill a pool ahead of the training that reads it."""
    import argparse

    from rich.progress import track

    parser = argparse.ArgumentParser(description="Render a pool of clips.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--motions", type=int, default=1500)
    parser.add_argument("--looks", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--frames", type=int, default=33)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    pool = ClipPool(
        arguments.folder,
        arguments.motions,
        arguments.looks,
        arguments.seed,
        arguments.size,
        arguments.frames,
        device=arguments.device,
    )
    for index in track(range(len(pool)), "rendering"):
        pool.shard(index)


if __name__ == "__main__":
    main()
