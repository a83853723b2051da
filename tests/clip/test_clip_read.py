"""Reading: frames, rates, rotation, colour, windows."""

from __future__ import annotations

import weakref
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from synclora.clip import (
    Clip,
    Crop,
    apply_crop,
    centered_crop,
    count_frames,
    from_model,
    iter_windows,
    probe,
    read_clip,
    to_model,
)
from synclora.errors import SyncloraError
from synclora.media import reader
from synclora.media.picture import to_rgb
from synclora.media.rate import at_constant_rate, nominal_rate, to_rate
from tests.media import Track, make_video, number_of, numbered, set_display_matrix, solid

RATES = [Fraction(24), Fraction(25), Fraction(30000, 1001), Fraction(30), Fraction(60)]


def numbers(clip: Clip) -> list[int]:
    return [number_of(frame) for frame in clip.frames]


@pytest.mark.parametrize("fps", RATES, ids=str)
@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_constant_rate_reads_every_frame_once(tmp_path: Path, fps: Fraction, suffix: str) -> None:
    """Frame k of the clip is frame k of the file, at its exact rate; also where stamps are whole milliseconds."""
    path = make_video(tmp_path / f"a{suffix}", frames=41, fps=fps)
    info = probe(path)
    assert (info.fps, info.frames, info.variable, info.width, info.height) == (fps, 41, False, 64, 48)
    assert info.duration == pytest.approx(41 / fps, abs=0.02)
    clip = read_clip(path)
    assert clip.fps == fps
    assert numbers(clip) == list(range(41))
    assert clip.frames.dtype == torch.uint8
    assert clip.origin is None


def test_start_and_frames_select_a_run(tmp_path: Path) -> None:
    """read_clip(start=s, frames=n) is read_clip()[s:s+n], its sound starting s / fps later."""
    path = make_video(tmp_path / "a.mp4", tracks=[Track()])
    whole = read_clip(path)
    part = read_clip(path, start=7, frames=9)
    assert torch.equal(part.frames, whole.frames[7:16])
    assert part.origin == whole[7:16].origin
    assert part.origin is not None and part.origin.start == Fraction(7, 25)
    assert read_clip(path, start=25, frames=100).num_frames == 5


@pytest.mark.parametrize("source, output", [(60, 25), (25, 30), (30, 24), (24, 60), (30, Fraction(30000, 1001))])
def test_resampling_takes_the_nearest_frame(tmp_path: Path, source: int, output: Fraction) -> None:
    """Output k shows the source frame nearest to k / fps, and as many as fit: round(duration * fps)."""
    path = make_video(tmp_path / "a.mp4", frames=40, fps=source)
    clip = read_clip(path, fps=output)
    assert clip.num_frames == round(Fraction(40, source) * output)
    for k, number in enumerate(numbers(clip)):
        distance = abs(Fraction(number, source) - Fraction(k) / output)
        assert distance <= Fraction(1, 2 * source) or number == 39


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_variable_rate_is_resampled_by_time(tmp_path: Path, suffix: str) -> None:
    """A phone's 30 fps, jittered and with frames left out: rate 30, each instant k / 30 shows the nearest frame."""
    rng = np.random.default_rng(0)
    times = [Fraction(round(i * 1000 / 30 + rng.integers(-4, 5)), 1000) for i in range(60) if i % 7 not in (3, 4)]
    times = [t - times[0] for t in times]
    path = make_video(tmp_path / f"a{suffix}", fps=30, times=times)
    info = probe(path)
    assert info.variable and info.fps == 30
    clip = read_clip(path)
    assert abs(clip.num_frames - (times[-1] + Fraction(1, 30)) * 30) <= 1
    # Counting frames instead would end 17 frames, over half a second, late.
    for k, number in enumerate(numbers(clip)):
        best = min(abs(t - Fraction(k, 30)) for t in times)
        assert abs(times[number] - Fraction(k, 30)) <= best + Fraction(1, 1000)


def test_nominal_rate_rules() -> None:
    """Average within 0.25 % of a whole or NTSC rate is that rate; a second's gap in an even 30 does not lower it."""
    even = [Fraction(k) / 30 for k in range(20)]
    tick = Fraction(1, 90000)
    assert nominal_rate(even, tick, Fraction(19001, 634)) == (Fraction(30000, 1001), False)
    assert nominal_rate(even, tick, Fraction(0)) == (Fraction(30), False)
    assert nominal_rate([Fraction(k * 2, 25) for k in range(9)], tick, Fraction(25, 2)) == (Fraction(25, 2), False)
    assert nominal_rate([*even, even[-1] + 1], tick, Fraction(12)) == (Fraction(30), True)
    assert nominal_rate([Fraction(0)], tick, Fraction(25)) == (Fraction(25), False)


@pytest.mark.parametrize("fps", [0, -1, 0.5, 1000, float("nan"), float("inf")])
def test_absurd_rates_are_refused(fps: float) -> None:
    """Rates lie in [1, 240]."""
    with pytest.raises(SyncloraError, match="frame rate"):
        to_rate(fps)


def test_rates_as_decimals() -> None:
    """29.97 means 30000/1001, 23.976 means 24000/1001; 12.5 stays."""
    assert to_rate(29.97) == Fraction(30000, 1001)
    assert to_rate(23.976) == Fraction(24000, 1001)
    assert to_rate(12.5) == Fraction(25, 2)


def test_constant_rate_stops_without_the_next_frame() -> None:
    """Frames 0..n-1 of a constant-rate source are given before frame n is asked for."""
    asked = []

    def timed():
        for i in range(100):
            asked.append(i)
            yield Fraction(i, 30), Fraction(1, 30), i

    assert [item for _, item in at_constant_rate(timed(), Fraction(30), Fraction(1, 30), 2, 6)] == [2, 3, 4, 5]
    assert asked == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("kind, turns", [("0", 0), ("90", 1), ("180", 2), ("270", 3), ("mirror", None)])
def test_display_matrix_is_applied(tmp_path: Path, kind: str, turns: int | None) -> None:
    """Shown = stored turned counter-clockwise by the matrix (numpy.rot90), or mirrored; sizes follow."""
    stored = np.zeros((48, 64, 3), np.uint8)
    stored[:24, :32], stored[:24, 32:], stored[24:, :32], stored[24:, 32:] = 30, 90, 160, 225
    shown = stored[:, ::-1] if turns is None else np.rot90(stored, turns)
    path = make_video(tmp_path / "a.mp4", frames=3, picture=lambda _: stored)
    set_display_matrix(path, kind)
    info = probe(path)
    assert info.rotation == 90 * (turns or 0)
    assert (info.height, info.width) == shown.shape[:2]
    clip = read_clip(path)
    assert clip.frames.shape == (3, *shown.shape)
    assert (clip.frames[1].float() - torch.from_numpy(shown.copy()).float()).abs().mean() < 4


@pytest.mark.parametrize(
    "options",
    [
        {"pix_fmt": "yuv420p10le"},
        {"pix_fmt": "yuv422p10le"},
        {"size": (65, 47), "pix_fmt": "yuv444p"},
        {"size": (63, 49), "codec": "ffv1", "pix_fmt": "yuv420p"},
        {"full_range": True},
        {"matrix": 5},
        {"matrix": 5, "tagged": False},
        {"matrix": 5, "full_range": True},
    ],
    ids=str,
)
def test_formats_give_the_right_colours(tmp_path: Path, options: dict) -> None:
    """Solid colours come back within 3 of 255 levels: 10 bits, odd sizes, both matrices, both ranges, untagged SD."""
    width, height = options.get("size", (64, 48))
    colors = [(200, 40, 60), (30, 190, 70), (40, 60, 210), (245, 245, 245), (10, 10, 10), (205, 160, 135)]
    path = tmp_path / "a.mkv"
    make_video(path, frames=len(colors), picture=lambda i: solid(colors[i], width, height), **options)
    clip = read_clip(path)
    assert clip.frames.shape == (len(colors), height, width, 3)
    for frame, color in zip(clip.frames, colors, strict=True):
        assert (frame.int() - torch.tensor(color)).abs().max() <= 3


def test_wide_pixels_are_stretched(tmp_path: Path) -> None:
    """A stored 64x48 picture with pixels 3:2 is shown 96x48."""
    path = make_video(tmp_path / "a.mp4", frames=2, aspect=Fraction(3, 2))
    assert (probe(path).width, probe(path).height) == (96, 48)
    assert read_clip(path).frames.shape == (2, 48, 96, 3)


def test_hdr_white_becomes_white() -> None:
    """BT.2100 HLG: signal 0.75 is reference white (203 cd/m2, BT.2408); read plainly it would be grey 189."""
    import av
    from av.video.reformatter import VideoReformatter

    from synclora.media.picture import Shape

    if int(av.__version__.split(".")[0]) < 18:
        pytest.skip("PyAV converts transfer curves from 18 on")
    frame = av.VideoFrame(64, 48, "yuv420p10le")
    for plane, value in zip(frame.planes, (64 + round(876 * 0.75), 512, 512), strict=True):
        plane.update(np.full(plane.buffer_size // 2, value, np.uint16).tobytes())
    frame.colorspace, frame.color_range, frame.color_trc, frame.color_primaries = 9, 1, 18, 9
    assert to_rgb(frame, Shape(64, 48), VideoReformatter()).min() >= 250


def test_video_that_begins_late(tmp_path: Path) -> None:
    """The sound's origin is the presentation time of frame 0, here 0.5 s."""
    path = make_video(tmp_path / "a.mp4", begin=Fraction(1, 2), tracks=[Track(length=1.5)])
    clip = read_clip(path)
    assert numbers(clip) == list(range(30))
    assert clip.origin is not None and clip.origin.start == Fraction(1, 2)


def test_probe_lists_audio(tmp_path: Path) -> None:
    """Tracks come in the file's order with codec, rate and channels."""
    path = make_video(tmp_path / "a.mkv", tracks=[Track(channels=1), Track(codec="libopus", rate=48000)])
    assert [(a.codec, a.rate, a.channels) for a in probe(path).audio] == [("aac", 44100, 1), ("opus", 48000, 2)]
    assert probe(make_video(tmp_path / "b.mp4", frames=2)).audio == ()


@pytest.mark.parametrize("length, overlap", [(8, 0), (9, 1), (30, 3), (50, 0), (1, 0)])
def test_windows_cover_the_clip(tmp_path: Path, length: int, overlap: int) -> None:
    """Window w begins at w * (length - overlap); together they hold each frame, and only the last may be shorter."""
    path = make_video(tmp_path / "a.mp4", tracks=[Track()])
    whole = read_clip(path)
    windows = list(iter_windows(path, length, overlap))
    assert [w.num_frames for w in windows[:-1]] == [length] * (len(windows) - 1)
    for index, window in enumerate(windows):
        first = index * (length - overlap)
        assert torch.equal(window.frames, whole.frames[first : first + length])
        assert window.origin == whole[first:].origin
    assert (len(windows) - 1) * (length - overlap) + windows[-1].num_frames == 30


@pytest.mark.parametrize("frames", [1, 7, 90])
def test_frames_are_counted_without_being_converted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, frames: int
) -> None:
    """As many as `read_clip` gives, at a variable rate too; no picture is turned into RGB."""
    path = make_video(tmp_path / "a.mp4", frames=frames)
    uneven = make_video(tmp_path / "b.mp4", times=[i * 0.04 + (i % 3) * 0.012 for i in range(40)])
    expected = read_clip(uneven).num_frames
    monkeypatch.setattr(reader, "to_rgb", lambda *_: pytest.fail("a frame was converted"))
    assert count_frames(path) == frames and count_frames(uneven) == expected


@pytest.mark.parametrize("frames", [40, 200])
def test_windows_keep_memory_flat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, frames: int) -> None:
    """However long the file, no more than two windows of decoded pictures are alive at once (and two in hand)."""
    alive = most = 0

    def counted(*arguments) -> np.ndarray:
        nonlocal alive, most
        picture = to_rgb(*arguments)
        alive += 1
        most = max(most, alive)
        weakref.finalize(picture, lost)
        return picture

    def lost() -> None:
        nonlocal alive
        alive -= 1

    monkeypatch.setattr(reader, "to_rgb", counted)
    path = make_video(tmp_path / "a.mp4", frames=frames)
    assert sum(window.num_frames for window in iter_windows(path, 8)) == frames
    assert 8 <= most <= 18


def test_crop_while_reading(tmp_path: Path) -> None:
    """Cropping while reading equals cropping afterwards."""
    path = make_video(tmp_path / "a.mp4", frames=5)
    crop = centered_crop(64, 48, 32, 32)
    assert crop == Crop(8, 0, 48, 48, 32, 32)
    assert torch.equal(read_clip(path, crop=crop).frames, apply_crop(read_clip(path).frames, crop))


@pytest.mark.parametrize("size", [(64, 48), (48, 64), (101, 37), (4000, 3000), (5, 900)])
@pytest.mark.parametrize("out", [(32, 32), (160, 96), (97, 3)])
def test_centered_crop_is_the_largest(size: tuple[int, int], out: tuple[int, int]) -> None:
    """The crop fills one side, lies inside, is centred to a pixel, and has the output's aspect to half a pixel."""
    crop = centered_crop(*size, *out)
    assert crop.width == size[0] or crop.height == size[1]
    assert abs(2 * crop.left + crop.width - size[0]) <= 1 and abs(2 * crop.top + crop.height - size[1]) <= 1
    error = min(abs(crop.width - crop.height * out[0] / out[1]), abs(crop.height - crop.width * out[1] / out[0]))
    assert error <= 0.5 or 1 in (crop.width, crop.height)


def test_downscaling_is_antialiased() -> None:
    """A one-pixel checkerboard has mean 127.5; shrunk 8 times it is that grey, not black and white."""
    board = (np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)
    frames = torch.from_numpy(np.repeat(board[None, :, :, None], 3, axis=3))
    small = apply_crop(frames, Crop(0, 0, 64, 64, 8, 8))
    assert (small.float() - 127.5).abs().max() < 4


def test_crop_outside_is_refused() -> None:
    """The rectangle must lie in the frame; sizes are at least 1."""
    with pytest.raises(SyncloraError, match="reaches outside the 64x48"):
        apply_crop(torch.zeros(1, 48, 64, 3, dtype=torch.uint8), Crop(40, 0, 30, 30, 8, 8))
    with pytest.raises(SyncloraError, match="at least 1"):
        Crop(0, 0, 0, 4, 8, 8)


def test_model_range_round_trip() -> None:
    """v = u / 127.5 - 1 and back is exact for all 256 levels; 0 -> -1, 255 -> 1, beyond is clamped."""
    levels = torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16, 1).expand(2, 16, 16, 3)
    video = to_model(levels)
    assert video.shape == (1, 3, 2, 16, 16) and video.dtype == torch.float32
    assert (video.min(), video.max()) == (-1, 1)
    assert torch.equal(from_model(video), levels)
    assert torch.equal(from_model(video.bfloat16() * 300).unique(), torch.tensor([0, 255], dtype=torch.uint8))


def test_clip_checks_its_frames() -> None:
    """A clip is uint8 [F, H, W, 3] with F >= 1; slices keep step 1."""
    with pytest.raises(ValueError, match="uint8"):
        Clip(torch.zeros(2, 4, 4, 3), Fraction(25))
    clip = Clip(torch.from_numpy(np.stack([numbered(i) for i in range(4)])), Fraction(25))
    assert (clip.num_frames, clip.height, clip.width, clip.duration) == (4, 48, 64, 0.16)
    assert numbers(clip[-2:]) == [2, 3]
    with pytest.raises(ValueError, match="step 1"):
        clip[::2]
    with pytest.raises(ValueError, match="at least one frame"):
        clip[4:]
