"""The page of a sync report: what it holds, that it needs nothing else, and that its video shows both clips."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
import subprocess
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from synclora.clip import Clip, write_clip
from synclora.faces import MotionSignals
from synclora.sync import compare
from synclora.sync.findings import findings
from synclora.sync.page import page_data, write_page
from synclora.sync.preview import MAX_BYTES, Preview, _options, side_by_side
from tests.media import Track, make_video
from tests.sync.test_score import FRAMES, face, replaced

SCRIPT = Path(__file__).parents[2] / "src" / "synclora" / "sync" / "page.js"
BLANK = Preview(b"mp4 bytes", b"jpeg bytes", 512, 256, 256, False, ())


def page(tmp_path: Path, source: MotionSignals, edited: MotionSignals, name: str = "edited.mp4") -> str:
    report = compare(source, edited)
    path = tmp_path / "page.html"
    write_page(path, ("source.mp4", name), report, findings(report, source, edited), source, edited, BLANK)
    return path.read_text(encoding="utf-8")


def embedded(text: str, name: str) -> str:
    [content] = re.findall(rf'<script id="{name}"[^>]*>(.*?)</script>', text, re.DOTALL)
    return content


def test_data_round_trips(tmp_path: Path) -> None:
    """The page's data is JSON, equal to `page_data`, with null for what is unknown and both curves to 4 places."""
    source, edited = face(), face(start=-3)
    mouth = edited.mouth.copy()
    mouth[5:8] = np.nan
    edited = replaced(edited, mouth=mouth)
    data = json.loads(embedded(page(tmp_path, source, edited), "data"))
    assert data == json.loads(json.dumps(page_data(compare(source, edited), source, edited)))
    assert (data["frames"], data["fps"]) == (FRAMES, 25.0)
    channel = data["channels"]["mouth"]
    assert channel["edited"][5:8] == [None] * 3 and channel["shift"] == 3
    assert np.allclose(channel["source"], source.mouth, atol=6e-5)
    assert [blink["state"] for blink in data["blinks"]["edited"]] == ["moved +3"] * len(data["blinks"]["edited"])


def test_page_stands_alone(tmp_path: Path) -> None:
    """One file: no address, no import, no link to anything; one video, which holds both clips, and its bytes."""
    text = page(tmp_path, face(), face(start=-3))
    assert not re.search(r"https?://|//cdn|@import|\bimport\s|<link|url\(|fetch\(|XMLHttpRequest", text)
    assert not re.findall(r'\bsrc="(?!data:)', text)
    assert text.count("<video") == 1 and base64.b64decode(embedded(text, "mp4")) == BLANK.mp4
    assert "${" not in text.split("<script>")[0] and "--split: 50.000%" in text


def test_words_are_in_the_html(tmp_path: Path) -> None:
    """Score, findings with the frames to jump to, lags and reasons can be read without running the script."""
    source = replaced(face(), brows=np.full(FRAMES, 0.2))
    text = page(tmp_path, source, face(start=-3))
    report = compare(source, face(start=-3))
    assert f"<b>{report.overall or 0:.2f}</b>" in text and "The whole clip is 3 frames late (0.12 s)." in text
    assert re.search(r'<button type="button" data-first="\d+" data-last="\d+" data-channel="all"', text)
    [brows] = re.findall(r'<article class="panel not" data-channel="brows">.*?</article>', text)
    assert "not judged" in brows and "too flat" in brows
    assert text.count("3 frames late</p>") == 8


def test_names_cannot_break_the_page(tmp_path: Path) -> None:
    """File names are text, not markup, and cannot end the data's script element."""
    text = page(tmp_path, face(), face(), name="</script><b>&$x.mp4")
    assert "&lt;/script&gt;&lt;b&gt;&amp;$x.mp4" in text and "<b>&" not in text


def test_nothing_judged(tmp_path: Path) -> None:
    """Two still clips: no score, the reason instead, every panel greyed."""
    still = replaced(face(), **{name: np.full(FRAMES, 0.3) for name in MotionSignals.names()})
    text = page(tmp_path, still, still)
    assert "hardly moves" in text and text.count('class="panel not"') + text.count('class="panel eyes not"') == 9


def test_blinks_by_fate_reach_the_page() -> None:
    source = face()
    lids = source.eye_left.copy()
    lids[40:43] = 0.3
    edited = replaced(source, eye_left=lids, eye_right=lids)
    data = page_data(compare(source, edited), source, edited)
    assert [blink["state"] for blink in data["blinks"]["source"]] == ["", "missing", ""]


@pytest.mark.parametrize("frames", [1, 2])
def test_shortest_clips(tmp_path: Path, frames: int) -> None:
    """A frame or two: a page without a score, but a page."""
    still = face(frames=frames)
    data = json.loads(embedded(page(tmp_path, still, still), "data"))
    assert data["frames"] == frames and len(data["off"]) == frames and data["lost"] == []


def decoded(mp4: bytes) -> list[np.ndarray]:
    with av.open(io.BytesIO(mp4)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def test_video_holds_both_clips_frame_by_frame(tmp_path: Path) -> None:
    """Left half: frame t of the source; right half: frame t of the edited clip; sizes brought to one height."""
    grey = torch.arange(12, dtype=torch.uint8) * 16 + 20
    source, edited = tmp_path / "source.mp4", tmp_path / "edited.mp4"
    write_clip(source, Clip(grey[:, None, None, None].expand(-1, 64, 96, 3).contiguous(), Fraction(25)), crf=8)
    write_clip(edited, Clip(grey.flip(0)[:, None, None, None].expand(-1, 128, 64, 3).contiguous(), Fraction(25)), crf=8)
    seen: list[tuple[int, int]] = []
    preview = side_by_side(source, edited, 10, lambda done, total: seen.append((done, total)))
    assert (preview.width, preview.height, preview.split, preview.sound) == (192 + 64, 128, 192, False)
    frames = decoded(preview.mp4)
    assert len(frames) == 10 and seen[-1] == (10, 10) and preview.poster[:2] == b"\xff\xd8"
    for t, frame in enumerate(frames):
        assert abs(float(frame[:, :180].mean()) - float(grey[t])) < 4
        assert abs(float(frame[:, 204:].mean()) - float(grey[11 - t])) < 4


def test_video_keeps_the_sound_and_starts_at_zero(tmp_path: Path) -> None:
    """The source's AAC track is in the page's video; frames begin at 0 and are decoded in the order shown."""
    source = make_video(tmp_path / "sound.mp4", frames=12, tracks=[Track("aac")])
    preview = side_by_side(source, source, 12)
    assert preview.sound
    with av.open(io.BytesIO(preview.mp4)) as container:
        assert [stream.codec_context.name for stream in container.streams.audio] == ["aac"]
        packets = [p for p in container.demux(video=0) if p.pts is not None]
        assert [p.pts for p in packets] == [p.dts for p in packets] and packets[0].pts == 0


def test_a_long_clip_gets_fewer_bits() -> None:
    """The cap on the rate keeps the picture under MAX_BYTES whatever the length."""
    for seconds in (10, 600):
        rate = int(_options(25 * seconds, Fraction(25))["maxrate"])
        assert rate * seconds / 8 <= MAX_BYTES < (rate + 8) * seconds / 8 + 8 * seconds


@pytest.mark.skipif(shutil.which("node") is None, reason="needs node")
def test_script_parses() -> None:
    subprocess.run(["node", "--check", str(SCRIPT)], check=True, capture_output=True)
