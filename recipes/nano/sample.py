"""Make the sample that `synclora demo` edits: a drawn portrait that talks, with sound, and its edited first frame.

    python recipes/nano/sample.py                        # writes src/synclora/samples/
    python recipes/nano/sample.py --seed 1000042 --edit hat --out /tmp/samples

Person and motion come from a seed that training never draws. The sound is a buzz shaped by two formants that follow
the drawn mouth (source-filter model of speech, Fant 1960), so that picture and sound visibly belong together.
"""

from __future__ import annotations

import argparse
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from synclora.atomic import atomic_path, write_text
from synclora.clip import AudioOrigin, Clip, write_clip
from synclora.editing.first_frame import to_image
from synclora.portraits import (
    EDIT_KINDS,
    TEST_SEED_START,
    Motion,
    apply_edit,
    caption,
    render,
    sample_motion,
    sample_person,
)

SAMPLES = Path(__file__).parents[2] / "src" / "synclora" / "samples"
FPS = Fraction(25)
RATE = 48_000  # Hz
PITCH = 125.0  # Hz
HARMONICS = 28
BANDWIDTH = 110.0  # Hz, of both formants
LOUDNESS = 0.25


def make_sample(out: Path, *, seed: int, edit: str, frames: int, size: int) -> None:
    """Write source.mp4, edited.png and prompt.txt into `out`."""
    person, motion = sample_person(seed), sample_motion(seed, frames, float(FPS))
    edited = apply_edit(person, edit, seed)
    with TemporaryDirectory() as folder:
        sound = Path(folder) / "speech.m4a"
        write_aac(sound, speech(motion))
        write_clip(out / "source.mp4", Clip(render(person, motion, size), FPS, AudioOrigin(sound, Fraction(0))))
    with atomic_path(out / "edited.png") as temporary:
        to_image(render(edited, motion[:1], size)[0]).save(temporary, format="PNG")
    write_text(out / "prompt.txt", caption(edited) + "\n")


def speech(motion: Motion) -> NDArray[np.float32]:
    """A voice that opens and closes with the mouth: float32 [samples] in [-1, 1] at 48 kHz, as long as the motion.

    Harmonics of a falling pitch, each as loud as two resonances let it through: the first rises with the opening of the
    mouth (300 to 800 Hz), the second with its width (900 to 2100 Hz); the whole is gated by the opening.
    """
    curves = motion.curves()
    count = round(len(motion) / float(FPS) * RATE)
    at_frames = (np.arange(len(motion)) + 0.5) / float(FPS)
    time = np.arange(count) / RATE
    opening = np.interp(time, at_frames, np.clip(curves["mouth_open"], 0, 1))
    width = np.interp(time, at_frames, np.clip(curves["mouth_width"], -1, 1))
    pitch = PITCH * (1 + 0.06 * np.sin(2 * np.pi * 1.7 * time) - 0.05 * time / max(time[-1], 1e-9))
    phase = 2 * np.pi * np.cumsum(pitch) / RATE
    formants = (300 + 500 * opening, 1500 + 600 * width)
    voice = np.zeros(count)
    for harmonic in range(1, HARMONICS + 1):
        through = sum(1 / (1 + ((harmonic * pitch - formant) / BANDWIDTH) ** 2) for formant in formants)
        voice += through * np.sin(harmonic * phase) / harmonic**0.5
    gated = voice * np.sqrt(opening)
    return (LOUDNESS * gated / max(np.abs(gated).max(), 1e-9)).astype(np.float32)


def write_aac(path: Path, samples: NDArray[np.float32]) -> None:
    """Write mono float32 samples at 48 kHz as AAC in an MPEG-4 file."""
    import av

    with av.open(str(path), "w", format="mp4") as output:
        stream = output.add_stream("aac", rate=RATE, layout="mono")
        for start in range(0, len(samples), 1024):
            frame = av.AudioFrame.from_ndarray(samples[None, start : start + 1024], format="fltp", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = RATE, start, Fraction(1, RATE)
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=SAMPLES, help="folder to write to")
    parser.add_argument("--seed", type=int, default=TEST_SEED_START + 7, help="of person and motion")
    parser.add_argument("--edit", choices=EDIT_KINDS, default="hat", help="what is changed in the first frame")
    parser.add_argument("--frames", type=int, default=33, help="length of the clip, 8k+1")
    parser.add_argument("--size", type=int, default=128, help="pixels, square; nano's picture is 128")
    arguments = parser.parse_args()
    make_sample(arguments.out, seed=arguments.seed, edit=arguments.edit, frames=arguments.frames, size=arguments.size)
    print(f"{arguments.out}: source.mp4, edited.png, prompt.txt")


if __name__ == "__main__":
    main()
