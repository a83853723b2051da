"""Files that cannot be read: one paragraph each that names the file, what was found, what is needed and the way out."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from synclora import clip as clip_module
from synclora.clip import iter_windows, probe, read_clip
from synclora.errors import SyncloraError
from tests.media import Track, make_video, number_of


def refusal(path: Path, **options) -> str:
    with pytest.raises(SyncloraError) as caught:
        read_clip(path, **options)
    message = str(caught.value)
    assert str(path) in message and "\n" not in message
    return message


def test_missing_folder_and_empty(tmp_path: Path) -> None:
    """No file, a folder, no bytes."""
    assert "No such file" in refusal(tmp_path / "none.mp4")
    assert "is a folder" in refusal(tmp_path)
    (tmp_path / "empty.mp4").touch()
    assert "0 bytes" in refusal(tmp_path / "empty.mp4")


@pytest.mark.parametrize("text", ["hello", "a longer text, " * 500])
def test_text_named_mp4(tmp_path: Path, text: str) -> None:
    """The name does not make a video."""
    (tmp_path / "a.mp4").write_text(text)
    assert "is not a video" in refusal(tmp_path / "a.mp4")
    with pytest.raises(SyncloraError, match="is not a video"):
        probe(tmp_path / "a.mp4")


def test_picture_instead_of_video(tmp_path: Path) -> None:
    """A PNG opens as a one-frame video in FFmpeg; it is told as a picture."""
    from PIL import Image

    Image.new("RGB", (64, 48)).save(tmp_path / "a.png")
    assert "is a picture (png)" in refusal(tmp_path / "a.png")


def test_index_missing(tmp_path: Path) -> None:
    """An mp4 whose end with the index (moov) is lost."""
    path = make_video(tmp_path / "a.mp4")
    data = path.read_bytes()
    path.write_bytes(data[: data.index(b"moov") - 4])
    assert "moov" in refusal(path)


def test_data_cut_short(tmp_path: Path) -> None:
    """An mp4 with its index in front and half its data: the first frames can be read, and asking for all says so."""
    path = make_video(tmp_path / "a.mp4", frames=60, faststart=True)
    data = path.read_bytes()
    middle = (data.index(b"mdat") + len(data)) // 2
    path.write_bytes(data[:middle])
    message = refusal(path)
    assert "damaged after" in message and "ends before its own index" in message
    held = int(message.split("damaged after ")[1].split()[0])
    assert 5 < held < 60
    assert [number_of(frame) for frame in read_clip(path, frames=held).frames] == list(range(held))
    refusal(path, frames=held + 1)
    with pytest.raises(SyncloraError, match="damaged after"):
        list(iter_windows(path, 8))


def test_cut_after_the_last_frame(tmp_path: Path) -> None:
    """A file that lacks only sound after its last frame is read in full."""
    path = make_video(tmp_path / "a.mp4", faststart=True, tracks=[Track(length=6.0)])
    data = path.read_bytes()
    path.write_bytes(data[:-400])
    assert read_clip(path).num_frames == 30


def test_sound_only(tmp_path: Path) -> None:
    """Sound without a picture."""
    with av.open(str(tmp_path / "a.m4a"), "w", format="mp4") as output:
        stream = output.add_stream("aac", rate=44100, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 44100, 0
        output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    assert "only sound" in refusal(tmp_path / "a.m4a")


def test_no_frames(tmp_path: Path) -> None:
    """A video track is declared, and holds none."""
    with av.open(str(tmp_path / "a.mkv"), "w") as output:
        video = output.add_stream("libx264", rate=25)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        audio = output.add_stream("aac", rate=44100, layout="mono")
        for index in range(4):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 44100, 1024 * index
            output.mux(audio.encode(frame))
        output.mux(audio.encode(None))
    assert "0 frames" in refusal(tmp_path / "a.mkv")


def test_absurd_rate_in_the_file(tmp_path: Path) -> None:
    """1000 and 0.5 frames a second are refused; the first can still be read at a rate that is given."""
    path = make_video(tmp_path / "a.mp4", frames=50, fps=1000)
    assert "frame rate 1000" in refusal(path)
    with pytest.raises(SyncloraError, match="between 1 and 240"):
        probe(path)
    assert read_clip(path, fps=100).num_frames == 5
    assert "frame rate 0.5" in refusal(make_video(tmp_path / "b.mp4", frames=4, fps=Fraction(1, 2)))


def test_too_large(tmp_path: Path) -> None:
    """More than 8192 px a side."""
    path = make_video(tmp_path / "a.mkv", frames=1, size=(8200, 16), codec="ffv1")
    message = refusal(path)
    assert "8200x16" in message and "8192" in message


def test_too_much_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """F * H * W * 3 bytes beyond the limit are refused before they are read; the first frames are not."""
    monkeypatch.setattr(clip_module, "MAX_CLIP_BYTES", 20 * 64 * 48 * 3)
    path = make_video(tmp_path / "a.mp4")
    assert "iter_windows" in refusal(path)
    assert read_clip(path, frames=20).num_frames == 20


def test_wrong_ranges(tmp_path: Path) -> None:
    """start >= 0, frames >= 1, start before the end; windows of at least one frame, overlapping by less."""
    path = make_video(tmp_path / "a.mp4")
    refusal(path, start=-1)
    refusal(path, frames=0)
    assert "from frame 30 on" in refusal(path, start=30)
    assert read_clip(path, start=29).num_frames == 1
    for length, overlap in ((0, 0), (4, 4), (4, -1)):
        with pytest.raises(SyncloraError, match="window length"):
            next(iter_windows(path, length, overlap))


def test_garbage_in_the_middle(tmp_path: Path) -> None:
    """Overwritten data either decodes to nearly the full length or is told as damage; it never just ends early."""
    path = make_video(tmp_path / "a.mkv", frames=60)
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 300] = bytes(300)
    path.write_bytes(data)
    try:
        count = read_clip(path).num_frames
    except SyncloraError as error:
        assert "damaged after" in str(error)
    else:
        assert count >= 54
