"""Writing: H.264 as players want it, the source's own sound, whole files or none."""

from __future__ import annotations

import os
import resource
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from synclora.clip import AudioOrigin, Clip, check_output, probe, read_clip, write_clip, write_frames
from synclora.errors import SyncloraError
from synclora.media import writer
from tests.media import Track, audio_packets, click_times, make_video, number_of, numbered, solid

RATES = [Fraction(24), Fraction(25), Fraction(30000, 1001), Fraction(30), Fraction(60)]


def clip_of(count: int, fps: Fraction | int = 25, origin: AudioOrigin | None = None) -> Clip:
    return Clip(torch.from_numpy(np.stack([numbered(i) for i in range(count)])), Fraction(fps), origin)


@pytest.mark.parametrize("fps", RATES, ids=str)
def test_count_and_rate_are_the_sources(tmp_path: Path, fps: Fraction) -> None:
    """F frames at fps go in, F frames at exactly fps come out, each in its place."""
    clip = read_clip(make_video(tmp_path / "a.mp4", frames=33, fps=fps))
    assert write_clip(tmp_path / "b.mp4", clip) == []
    info = probe(tmp_path / "b.mp4")
    assert (info.frames, info.fps, info.variable, info.audio) == (33, fps, False, ())
    again = read_clip(tmp_path / "b.mp4")
    assert again.fps == fps
    assert [number_of(frame) for frame in again.frames] == list(range(33))


def test_stream_is_what_players_want(tmp_path: Path) -> None:
    """H.264, yuv420p, tagged BT.709 limited (H.273: matrix, primaries, transfer 1; range 1), index before the data."""
    import av

    write_clip(tmp_path / "a.mp4", clip_of(5))
    with av.open(str(tmp_path / "a.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.pix_fmt, stream.start_time) == ("h264", "yuv420p", 0)
        assert (stream.colorspace, stream.color_primaries, stream.color_trc, stream.color_range) == (1, 1, 1, 1)
    data = (tmp_path / "a.mp4").read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")


def test_solid_colours_survive(tmp_path: Path) -> None:
    """Written and read, each colour stays within 3 of 255 levels."""
    grid = [(r, g, b) for r in (0, 90, 255) for g in (0, 140, 255) for b in (0, 60, 255)]
    clip = Clip(torch.from_numpy(np.stack([solid(color) for color in grid])), Fraction(25))
    write_clip(tmp_path / "a.mp4", clip)
    assert (read_clip(tmp_path / "a.mp4").frames.int() - clip.frames.int()).abs().max() <= 3


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
@pytest.mark.parametrize("channels", [1, 2])
def test_aac_is_copied_bit_for_bit(tmp_path: Path, suffix: str, channels: int) -> None:
    """The packets' hashes are the source's, from the first on, and so are their times; no notice."""
    source = make_video(tmp_path / f"a{suffix}", fps=30, tracks=[Track(channels=channels, clicks=(0.2, 0.7))])
    assert write_clip(tmp_path / "b.mp4", read_clip(source)) == []
    before, after = audio_packets(source), audio_packets(tmp_path / "b.mp4")
    assert len(before) - len(after) <= 1  # at most the one that lies beyond the picture's end
    for old, new in zip(before, after, strict=False):
        assert new.sha256 == old.sha256
        assert new.time == pytest.approx(old.time, abs=0.001)
    assert click_times(tmp_path / "b.mp4") == pytest.approx([0.2, 0.7], abs=0.005)


def test_sound_is_trimmed_with_the_frames(tmp_path: Path) -> None:
    """Frames [10, 40) at 25 fps: sound of [0.4, 1.6) s, moved by 0.4 s, no packet beginning after the last frame."""
    source = make_video(tmp_path / "a.mp4", frames=75, tracks=[Track(clicks=(0.5, 1.5, 2.5))])
    write_clip(tmp_path / "b.mp4", read_clip(source, start=10, frames=30))
    packets = audio_packets(tmp_path / "b.mp4")
    hashes = {round(p.time, 3): p.sha256 for p in audio_packets(source)}
    assert [hashes[round(p.time + 0.4, 3)] for p in packets] == [p.sha256 for p in packets]
    assert max(p.time for p in packets) < 30 / 25 <= max(p.time + p.length for p in packets) + 1e-6
    assert min(p.time for p in packets) <= 0
    assert click_times(tmp_path / "b.mp4") == pytest.approx([0.1, 1.1], abs=0.005)
    assert probe(tmp_path / "b.mp4").frames == 30


@pytest.mark.parametrize("begin, fps", [(0, 25), (Fraction(1, 2), 30), (Fraction(1, 3), Fraction(30000, 1001))])
def test_picture_and_sound_keep_their_offset(tmp_path: Path, begin: Fraction, fps: Fraction) -> None:
    """A flash on frame 12 with a click at its time stays so within 5 ms, though the picture begins late in the file."""
    at = float(begin + 12 / Fraction(fps))
    source = make_video(
        tmp_path / "a.mp4",
        fps=fps,
        begin=begin,
        picture=lambda i: solid((250, 250, 250) if i == 12 else (9, 9, 9)),
        tracks=[Track(clicks=(at,))],
    )
    clip = read_clip(source)[3:]
    write_clip(tmp_path / "b.mp4", clip)
    flash = int(read_clip(tmp_path / "b.mp4").frames.float().mean(dim=(1, 2, 3)).argmax())
    assert flash == 9
    assert click_times(tmp_path / "b.mp4") == pytest.approx([float(9 / Fraction(fps))], abs=0.005)


@pytest.mark.parametrize("suffix, codec, rate", [(".mkv", "pcm_s16le", 44100), (".webm", "libopus", 48000)])
def test_sound_that_begins_late(tmp_path: Path, suffix: str, codec: str, rate: int) -> None:
    """Sound from 0.6 s on is still from 0.6 s on, copied or re-encoded."""
    video = "libvpx-vp9" if suffix == ".webm" else "libx264"
    for name, track in (("aac", Track(begin=0.6, clicks=(0.8,))), (codec, Track(codec, rate, 2, (0.8,), begin=0.6))):
        source = make_video(tmp_path / f"{name}{'.mkv' if name == 'aac' else suffix}", tracks=[track], codec=video)
        write_clip(tmp_path / "b.mp4", read_clip(source))
        assert click_times(tmp_path / "b.mp4") == pytest.approx([0.8], abs=0.005)


@pytest.mark.parametrize(
    "suffix, video, codec, rate",
    [
        (".webm", "libvpx-vp9", "libopus", 48000),
        (".webm", "libvpx-vp9", "vorbis", 44100),
        (".mkv", "libx264", "pcm_s16le", 22050),
        (".mkv", "libx264", "flac", 48000),
    ],
)
@pytest.mark.parametrize("channels", [1, 2])
def test_other_codecs_become_aac(tmp_path: Path, suffix: str, video: str, codec: str, rate: int, channels: int) -> None:
    """What mp4 players do not take is re-encoded with a notice; clicks stay in place, also after cutting 0.2 s off."""
    import av

    if codec == "vorbis":
        channels = 2  # all that its encoder takes
    make_video(tmp_path / f"a{suffix}", codec=video, tracks=[Track(codec, rate, channels, (0.4, 1.0), length=3.0)])
    clip = read_clip(tmp_path / f"a{suffix}")
    for part, clicks in ((clip, [0.4, 1.0]), (clip[5:], [0.2, 0.8])):
        notices = write_clip(tmp_path / "b.mp4", part)
        assert len(notices) == 1 and "re-encoded to AAC" in notices[0]
        assert click_times(tmp_path / "b.mp4") == pytest.approx(clicks, abs=0.005)
        packets = audio_packets(tmp_path / "b.mp4")
        assert packets[-1].time < part.duration <= packets[-1].time + packets[-1].length + 1e-3
        with av.open(str(tmp_path / "b.mp4")) as container:
            context = container.streams.audio[0].codec_context
            assert (context.name, context.sample_rate, context.channels) == ("aac", rate, channels)


def test_pcm_is_copied_to_mov(tmp_path: Path) -> None:
    """QuickTime holds PCM: the same file gives a copy as .mov and AAC as .mp4."""
    source = make_video(tmp_path / "a.mov", tracks=[Track("pcm_s16le")])
    assert write_clip(tmp_path / "b.mov", read_clip(source)) == []
    assert probe(tmp_path / "b.mov").audio[0].codec == "pcm_s16le"
    assert click_times(tmp_path / "b.mov") == pytest.approx([0.4], abs=0.005)
    assert len(write_clip(tmp_path / "b.mp4", read_clip(source))) == 1


@pytest.mark.parametrize("length", [0.5, 4.0])
def test_sound_shorter_or_longer_than_the_picture(tmp_path: Path, length: float) -> None:
    """30 frames at 25 fps stay 1.2 s of picture; the sound ends with the shorter of both, to a packet."""
    source = make_video(tmp_path / "a.mp4", tracks=[Track(length=length)])
    write_clip(tmp_path / "b.mp4", read_clip(source))
    assert probe(tmp_path / "b.mp4").frames == 30
    last = audio_packets(tmp_path / "b.mp4")[-1]
    assert last.time + last.length == pytest.approx(min(length, 1.2), abs=2 * 1024 / 44100)


def test_all_tracks_are_kept(tmp_path: Path) -> None:
    """Two tracks, one to copy and one to re-encode, both arrive in order and in time."""
    tracks = [Track(clicks=(0.3,)), Track("pcm_s16le", channels=1, clicks=(0.9,))]
    source = make_video(tmp_path / "a.mkv", tracks=tracks)
    notices = write_clip(tmp_path / "b.mp4", read_clip(source))
    assert len(notices) == 1 and "track 2" in notices[0]
    assert [a.channels for a in probe(tmp_path / "b.mp4").audio] == [2, 1]
    assert click_times(tmp_path / "b.mp4", 0) == pytest.approx([0.3], abs=0.005)
    assert click_times(tmp_path / "b.mp4", 1) == pytest.approx([0.9], abs=0.005)


def test_sound_can_be_left_out(tmp_path: Path) -> None:
    """audio=False, a part beyond the sound's end, and a clip without origin give files without sound."""
    source = make_video(tmp_path / "a.mp4", tracks=[Track(length=0.5)])
    clip = read_clip(source)
    for part, audio in ((clip, False), (clip[25:], True), (Clip(clip.frames, clip.fps), True)):
        assert write_clip(tmp_path / "b.mp4", part, audio=audio) == []
        assert probe(tmp_path / "b.mp4").audio == ()


def test_lost_origin_costs_only_the_sound(tmp_path: Path) -> None:
    """Hours of computing are not thrown away because the source was moved: the picture is written, a notice tells."""
    source = make_video(tmp_path / "a.mp4", tracks=[Track()])
    clip = read_clip(source)
    source.unlink()
    notices = write_clip(tmp_path / "b.mp4", clip)
    assert len(notices) == 1 and "a.mp4" in notices[0] and "sound" in notices[0]
    assert probe(tmp_path / "b.mp4").frames == 30


def test_batches_are_written_as_they_come(tmp_path: Path) -> None:
    """write_frames draws a batch only when the one before is encoded, and joins them."""
    source = make_video(tmp_path / "a.mp4", tracks=[Track()])
    clip = read_clip(source)
    write_frames(tmp_path / "b.mp4", (clip[i : i + 7].frames for i in range(0, 30, 7)), 25, origin=clip.origin)
    assert [number_of(frame) for frame in read_clip(tmp_path / "b.mp4").frames] == list(range(30))
    assert click_times(tmp_path / "b.mp4") == pytest.approx([0.4], abs=0.005)


def test_output_is_deterministic(tmp_path: Path) -> None:
    """The same clip gives the same bytes twice."""
    for name in ("a.mp4", "b.mp4"):
        write_clip(tmp_path / name, clip_of(10))
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()


@pytest.mark.parametrize("name", ["a.avi", "a.webm", "a", "a.mp4.txt"])
def test_other_extensions_are_refused(tmp_path: Path, name: str) -> None:
    """Only .mp4 and .mov, in any case."""
    with pytest.raises(SyncloraError, match=r"\.mp4 or \.mov is needed"):
        write_clip(tmp_path / name, clip_of(2))
    assert list(tmp_path.iterdir()) == []
    check_output(tmp_path / "A.MP4")


def test_odd_sizes_are_refused(tmp_path: Path) -> None:
    """yuv420p halves both sides: 65x47 names 64x46 as the way out, and no file remains."""
    frames = torch.zeros(2, 47, 65, 3, dtype=torch.uint8)
    with pytest.raises(SyncloraError, match=r"65x47.*64x46"):
        write_clip(tmp_path / "a.mp4", Clip(frames, Fraction(25)))
    assert list(tmp_path.iterdir()) == []


def test_output_on_input_is_refused(tmp_path: Path) -> None:
    """Also through a link; the input stays as it was."""
    source = make_video(tmp_path / "a.mp4", tracks=[Track()])
    before = source.read_bytes()
    (tmp_path / "link.mp4").symlink_to(source)
    clip = read_clip(source)
    for name in ("a.mp4", "link.mp4"):
        with pytest.raises(SyncloraError, match="same file"):
            write_clip(tmp_path / name, clip)
    assert source.read_bytes() == before
    with pytest.raises(SyncloraError, match="same file"):
        check_output(tmp_path / "link.mp4", source)


@pytest.mark.parametrize("settings", [{"crf": 52}, {"crf": -1}, {"preset": "turbo"}])
def test_settings_are_checked(tmp_path: Path, settings: dict) -> None:
    """crf lies in 0..51; presets are x264's."""
    with pytest.raises(SyncloraError, match="crf"):
        write_clip(tmp_path / "a.mp4", clip_of(2), **settings)


def test_unwritable_places(tmp_path: Path) -> None:
    """A file where a folder is needed, a folder where a file is needed."""
    (tmp_path / "file").write_text("x")
    with pytest.raises(SyncloraError, match="cannot be written"):
        write_clip(tmp_path / "file" / "a.mp4", clip_of(2))
    (tmp_path / "folder.mp4").mkdir()
    with pytest.raises(SyncloraError, match="is a folder"):
        write_clip(tmp_path / "folder.mp4", clip_of(2))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder.mp4"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_folder_without_permission(tmp_path: Path) -> None:
    """A read-only folder is told as such."""
    tmp_path.chmod(0o500)
    with pytest.raises(SyncloraError, match="Permission denied"):
        write_clip(tmp_path / "a.mp4", clip_of(2))


def test_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ENOSPC becomes a SyncloraError; the old file stays, no half file does."""
    import errno

    (tmp_path / "a.mp4").write_bytes(b"old")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(writer, "_write", full)
    with pytest.raises(SyncloraError, match="No space left on device"):
        write_clip(tmp_path / "a.mp4", clip_of(2))
    assert [p.name for p in tmp_path.iterdir()] == ["a.mp4"]
    assert (tmp_path / "a.mp4").read_bytes() == b"old"


@pytest.mark.parametrize("limit", [100, 20_000])
def test_write_that_really_fails(tmp_path: Path, limit: int) -> None:
    """A limit on file size makes FFmpeg's own writes fail (EFBIG), at the header or midway; nothing is left."""
    noise = torch.randint(0, 256, (20, 96, 96, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        with pytest.raises(SyncloraError, match="cannot be written"):
            write_clip(tmp_path / "a.mp4", Clip(noise, Fraction(25)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, SyncloraError])
def test_interruption_leaves_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    """Whatever stops the frames passes through, and no file remains."""

    def batches():
        yield clip_of(3).frames
        raise error("stop")

    with pytest.raises(error, match="stop"):
        write_frames(tmp_path / "a.mp4", batches(), 25)
    with pytest.raises(SyncloraError, match="no frame"):
        write_frames(tmp_path / "a.mp4", [], 25)
    assert list(tmp_path.iterdir()) == []
