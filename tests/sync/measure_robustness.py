"""Whether the report tells a clip's own motion again: shifted in time, and after what happens to videos on their way.

    python tests/sync/measure_robustness.py --footage ../shared/footage --people 24 --size 512 [--cache DIR]

Shift: windows of 33 frames against the same clip k = -6..6 frames later or earlier. Printed are the share of windows
(those in which any channel is judged, once for each k) in which EVERY judged channel names a lag that rounds to k; the
share of the named lags that do; and the share of the judged channels that name one. "plain" compares a clip with
itself, "harmed" with its version of CRF 30 and grain. Strangers: windows of two different clips; every lag named there
is false. Harm: overall score and lags of re-encoded, darkened, brightened, turned in hue, halved and grainy versions
against the clip. Noise: half the variance of the difference, per channel, of what `sync.score.CHANNELS` takes for the
tracker's noise.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import astuple, dataclass, field, replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from synclora import portraits
from synclora.clip import Clip, read_clip, write_clip
from synclora.faces import MotionSignals, measure
from synclora.sync import compare

WINDOW, STEP, REACH = 33, 11, 6
REAL_FRAMES = 165  # of each clip, at most


def reencoded(clip: Clip, crf: int = 30) -> Clip:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        write_clip(path, clip, crf=crf, audio=False)
        return Clip(read_clip(path).frames, clip.fps)


def gamma(power: float) -> Callable[[Clip], Clip]:
    table = torch.from_numpy((255 * (np.arange(256) / 255) ** power).round().astype(np.uint8))
    return lambda clip: Clip(table[clip.frames.long()], clip.fps)


def hue_turned(clip: Clip, degrees: float = 20) -> Clip:
    turned = []
    for frame in clip.frames.numpy():
        bands = np.array(Image.fromarray(frame).convert("HSV"))
        bands[..., 0] += round(degrees / 360 * 256)
        turned.append(np.asarray(Image.fromarray(bands, "HSV").convert("RGB")))
    return Clip(torch.from_numpy(np.stack(turned)), clip.fps)


def halved(clip: Clip) -> Clip:
    size = (clip.width // 2, clip.height // 2)
    smaller = [np.asarray(Image.fromarray(f).resize(size, Image.Resampling.BOX)) for f in clip.frames.numpy()]
    return Clip(torch.from_numpy(np.stack(smaller)), clip.fps)


def grainy(clip: Clip, deviation: float = 8) -> Clip:
    noise = torch.randn(clip.frames.shape, generator=torch.Generator().manual_seed(0)) * deviation
    return Clip((clip.frames + noise).round().clamp(0, 255).to(torch.uint8), clip.fps)


HARMS: dict[str, Callable[[Clip], Clip]] = {
    "CRF 30": reencoded,
    "gamma 0.8": gamma(0.8),
    "gamma 1.2": gamma(1.2),
    "hue 20 deg": hue_turned,
    "half size": halved,
    "grain 8": grainy,
}


@dataclass(frozen=True)
class Shares:
    """Counts: windows with a judged channel; those of which every judged channel's lag rounds to the shift; channels
    judged; lags named; those that round to the shift."""

    windows: int = 0
    told: int = 0
    judged: int = 0
    named: int = 0
    right: int = 0

    def __add__(self, other: Shares) -> Shares:
        return Shares(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))


def count_lags(source: MotionSignals, edited: MotionSignals, shift: int) -> Shares:
    """The counts of one window that is late by `shift`."""
    lags = [score.lag for score in compare(source, edited).channels.values() if score.judged]
    named = [lag for lag in lags if lag is not None]
    right = sum(round(lag) == shift for lag in named)
    return Shares(bool(lags), bool(lags) and right == len(lags), len(lags), len(named), right)


def shares_of_lags(source: MotionSignals, edited: MotionSignals) -> Shares:
    """The counts over all windows and shifts of a clip."""
    shares = Shares()
    for start in range(0, source.num_frames - WINDOW + 1, STEP):
        window = source[start : start + WINDOW]
        for shift in range(-REACH, REACH + 1):
            first = start - shift  # edited[t] shows source[t - shift]: late by `shift`
            if 0 <= first <= source.num_frames - WINDOW:
                shares += count_lags(window, edited[first : first + WINDOW], shift)
    return shares


def shares_of_strangers(one: MotionSignals, other: MotionSignals) -> Shares:
    """The counts over the windows of two clips of different people, at the same places."""
    shares, length = Shares(), min(one.num_frames, other.num_frames)
    other = replace(other, fps=one.fps).including(other.hidden, {})
    for start in range(0, length - WINDOW + 1, STEP):
        window = slice(start, start + WINDOW)
        shares += count_lags(one[window], other[window], 0) + count_lags(other[window], one[window], 0)
    return shares


@dataclass
class Robustness:
    """shift: kind -> counts, "strangers" among them. overall, lags: harm -> one value per clip, per judged channel.
    noise: channel -> variances. worst: "harm channel" -> r of the judged ones."""

    shift: dict[str, Shares] = field(default_factory=dict)
    overall: dict[str, list[float]] = field(default_factory=dict)
    lags: dict[str, list[float]] = field(default_factory=dict)
    noise: dict[str, list[float]] = field(default_factory=dict)
    worst: dict[str, list[float]] = field(default_factory=dict)

    def add_shares(self, kind: str, shares: Shares) -> None:
        self.shift[kind] = self.shift.get(kind, Shares()) + shares


def measure_robustness(clips: Iterator[Clip], harms: dict[str, Callable[[Clip], Clip]]) -> Robustness:
    found, sources = Robustness(), []
    for clip in clips:
        source = measure(clip)
        found.add_shares("plain", shares_of_lags(source, source))
        for earlier in sources:
            found.add_shares("strangers", shares_of_strangers(source, earlier))
        sources.append(source)
        if "CRF 30" in harms and "grain 8" in harms:
            harmed = measure(reencoded(grainy(clip)))
            found.add_shares("harmed", shares_of_lags(source, harmed))
        for name, harm in harms.items():
            edited = measure(harm(clip))
            report = compare(source, edited)
            if report.overall is not None:
                found.overall.setdefault(name, []).append(report.overall)
            found.lags.setdefault(name, []).extend(
                score.lag for score in report.channels.values() if score.judged and score.lag is not None
            )
            for channel, score in report.channels.items():
                if score.judged and score.r is not None:
                    found.worst.setdefault(f"{name} {channel}", []).append(score.r)
                apart = getattr(edited, channel) - getattr(source, channel)
                if np.isfinite(apart).sum() > 5:
                    found.noise.setdefault(channel, []).append(float(np.nanvar(apart)) / 2)
    return found


def real_clips(folder: Path, frames: int | None = None) -> Iterator[Clip]:
    for path in sorted(folder.glob("*.mp4")):
        clip = read_clip(path, frames=frames)
        even = clip.frames[:, : clip.height // 2 * 2, : clip.width // 2 * 2]
        yield Clip(even, clip.fps)


def rendered_clips(people: int, size: int, frames: int, cache: Path | None = None) -> Iterator[Clip]:
    for seed in range(portraits.TEST_SEED_START, portraits.TEST_SEED_START + people):
        path = cache / f"{seed}_{size}_{frames}.npy" if cache else None
        if path and path.exists():
            pictures = torch.from_numpy(np.load(path))
        else:
            motion = portraits.sample_motion(seed, frames, 25.0)
            pictures = portraits.render(portraits.sample_person(seed), motion, size)
            if path:
                path.parent.mkdir(parents=True, exist_ok=True)
                np.save(path, pictures.numpy())
        yield Clip(pictures, Fraction(25))


def show(title: str, found: Robustness) -> None:
    print(title)
    for kind, of in found.shift.items():
        named = f"named {of.named / max(1, of.judged):.4f} of {of.judged} channels"
        if kind == "strangers":
            print(f"  {kind:9} {named}")
        else:
            told = f"all told in {of.told / max(1, of.windows):.4f} of {of.windows} windows"
            right = f"right {of.right / max(1, of.named):.4f} of {of.named} lags"
            print(f"  shift {kind:8} {told}; {right}; {named}")
    for name, values in found.overall.items():
        lags = np.array(found.lags[name])
        zero = float((lags.round() == 0).mean()) if lags.size else float("nan")
        mean, least = np.mean(values), np.min(values)
        share = np.mean(np.array(values) >= 0.95)
        print(f"  {name:12} overall {mean:.3f}, least {least:.3f}, >= 0.95 in {share:.2f}; lag 0 in {zero:.3f}")
    for name, values in found.worst.items():
        print(f"  r of {name:22} {np.mean(values):.3f}, least {min(values):.3f}, {len(values)} clips")
    for channel, values in found.noise.items():
        print(f"  noise {channel:12} {np.sqrt(np.mean(values)):.5f} (median clip {np.sqrt(np.median(values)):.5f})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--footage", type=Path)
    parser.add_argument("--people", type=int, default=24)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--frames", type=int, default=57)
    parser.add_argument("--cache", type=Path)
    options = parser.parse_args()
    if options.footage:
        show("real footage", measure_robustness(real_clips(options.footage, REAL_FRAMES), HARMS))
    people = rendered_clips(options.people, options.size, options.frames, options.cache)
    show("rendered", measure_robustness(people, HARMS))


if __name__ == "__main__":
    main()
