"""The tracker on rendered portraits, and on real footage where it is at hand."""

from __future__ import annotations

import os
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from synclora import portraits
from synclora.clip import Clip, read_clip
from synclora.errors import SyncloraError
from synclora.faces import count_faces, measure, signals_from_landmarks, track
from synclora.faces.graphs import Box
from synclora.faces.tracker import follow
from synclora.sync import compare

FOOTAGE = Path(os.environ.get("SYNCLORA_FOOTAGE", Path(__file__).resolve().parents[3] / "shared" / "footage"))
needs_footage = pytest.mark.skipif(
    not any(FOOTAGE.glob("*.mp4")), reason="real footage is not part of the repository; set SYNCLORA_FOOTAGE"
)


@pytest.fixture(scope="module")
def portrait() -> Tensor:
    """One rendered person, 5 frames of 128 px."""
    return portraits.render(portraits.sample_person(1003), portraits.sample_motion(1003, 5, 25.0), 128, "cpu")


def test_frames_do_not_depend_on_each_other(portrait: Tensor) -> None:
    """Forwards and backwards, alone or in a clip: bit for bit the same landmarks, hence no lag."""
    forwards = track(portrait)
    assert np.isfinite(forwards).all()
    assert np.array_equal(track(portrait.flip(0))[::-1], forwards)
    assert np.array_equal(track(portrait[3:4])[0], forwards[3])


def test_landmarks_are_pixels_of_the_frame_given(portrait: Tensor) -> None:
    """A small frame is enlarged inside only; padding a frame to 128x200 moves landmarks by the padding, to a pixel."""
    plain = track(portrait[:2])
    padded = torch.zeros(2, 128, 200, 3, dtype=torch.uint8)
    padded[:, :, 60:188] = portrait[:2]
    np.testing.assert_allclose(track(padded)[..., :2], plain[..., :2] + [60, 0], atol=2.5)
    assert np.abs(track(padded)[..., :2] - plain[..., :2] - [60, 0]).mean() < 0.6
    assert plain[..., :2].min() > 0 and plain[..., :2].max() < 128


def test_no_face_is_nan_and_counted_as_none(portrait: Tensor) -> None:
    frames = portrait[:3].clone()
    frames[1] = 90
    landmarks = track(frames)
    assert np.isnan(landmarks[1]).all() and np.isfinite(landmarks[[0, 2]]).all()
    assert count_faces(frames[1]) == 0 and count_faces(frames[0]) == 1


def test_the_largest_of_several_faces(portrait: Tensor) -> None:
    """Two faces side by side, the right one at 60 %: two are counted, the larger is tracked, on either side."""
    face = portrait[0]
    small = torch.nn.functional.interpolate(face.permute(2, 0, 1)[None].float(), size=77, mode="area")[0]
    both = torch.full((128, 256, 3), 128, dtype=torch.uint8)
    both[:, :128] = face
    both[30:107, 150:227] = small.permute(1, 2, 0).byte()
    assert count_faces(both) == 2
    assert track(both[None])[0, :, 0].max() < 128
    assert track(both[None], face=1)[0, :, 0].min() > 128
    assert np.isnan(track(both[None], face=2)).all()
    assert track(both.flip(1)[None])[0, :, 0].min() > 128


def boxes(*faces: tuple[float, float] | None) -> list[list[Box]]:
    """One frame a face: (x, side), or none."""
    return [[Box(face[0], 0.5, face[1], 0.0)] if face else [] for face in faces]


def beside(one: list[list[Box]], other: list[list[Box]]) -> list[list[Box]]:
    return [b + a for a, b in zip(one, other, strict=True)]


def test_a_passer_by_does_not_take_over() -> None:
    """The face with the most size over all frames is followed, also where another is larger for a moment."""
    talker = boxes(*[(0.3 + 0.01 * k, 0.4) for k in range(10)])
    passer = boxes(*[None] * 4, (0.8, 0.6), (0.85, 0.6), *[None] * 4)
    both = beside(talker, passer)
    assert follow(both) == [frame[0] for frame in talker]
    assert follow(both, 1) == [frame[0] if frame else None for frame in passer]


def test_a_face_lost_is_not_replaced() -> None:
    """In a gap another face is not taken; after a cut (all later frames elsewhere) the face goes on."""
    talker = boxes((0.3, 0.4), (0.3, 0.4), None, (0.31, 0.4), (0.8, 0.5), (0.8, 0.5))
    other = boxes(None, None, (0.05, 0.5), None, None, None)
    expected = [frame[0] if frame else None for frame in talker]
    assert follow(beside(talker, other)) == expected


def test_negative_face_is_named(portrait: Tensor) -> None:
    with pytest.raises(SyncloraError, match="face: found -1"):
        track(portrait[:1], face=-1)


def covered(frames: Tensor, landmarks: np.ndarray, points: list[int], color: int, margin: int = 3) -> Tensor:
    """A bar of one colour over the box of some landmarks, in every frame."""
    bars = frames.clone()
    for frame, places in zip(bars, landmarks[:, points, :2], strict=True):
        x0, y0, x1, y1 = *(places.min(0) - margin), *(places.max(0) + margin)
        frame[int(y0) : int(y1), int(x0) : int(x1)] = color
    return bars


def test_covered_parts_are_hidden(portrait: Tensor) -> None:
    """Opaque bars over the eyes hide the eyes, over the mouth the mouth; a face as it is hides nothing."""
    landmarks = track(portrait)
    hidden = [
        measure(Clip(frames, Fraction(25))).hidden
        for frames in (
            portrait,
            covered(portrait, landmarks, [70, 300, 130, 359, 119, 348], 25),
            covered(portrait, landmarks, [1, 123, 352, 152], 210),
        )
    ]
    assert hidden == [set(), {"eyes"}, {"mouth"}]


def test_rendered_sunglasses_hide_the_eyes(portrait: Tensor) -> None:
    """Dark glasses hide the eyes of a pale and of a dark person, clear glasses do not; blinks are not counted."""
    for seed in (1003, 1_000_006):
        motion = portraits.sample_motion(1003, 4, 25.0)
        dark, clear = (
            measure(
                Clip(portraits.render(portraits.sample_person(seed).replace(glasses=kind), motion, 192), Fraction(25))
            )
            for kind in ("sun", "square")
        )
        assert dark.hidden == {"eyes"} and dark.blinks() == [] and clear.hidden == set(), seed


def test_measured_motion_is_the_true_one() -> None:
    """Three held-out people at 192 px: r with the renderer's curves near the 0.95 that 512 px gives."""
    from measure_accuracy import measure_accuracy

    accuracy = measure_accuracy(people=3, size=192, frames=13)
    least = {"mouth": 0.9, "eyes": 0.9, "gaze_x": 0.8, "yaw": 0.95, "pitch": 0.85, "roll": 0.9}
    for name, value in least.items():
        assert not accuracy.r[name] or np.mean(accuracy.r[name]) > value, name
    assert accuracy.f1 is None or accuracy.f1 >= 0.8  # so short a clip may begin or end in a blink


@needs_footage
def test_shoulders_are_tracked_when_asked_for() -> None:
    """Shoulders lie left and right of the middle, wrists out of the picture are NaN."""
    clip = read_clip(FOOTAGE / "d10.mp4", frames=2)
    body = measure(clip, body=True).body
    assert set(body) == {"shoulder_left", "shoulder_right", "wrist_left", "wrist_right"}
    assert body["shoulder_left"].shape == (2, 2)


def test_native_logs_stay_off_the_screen(portrait: Tensor, capfd: pytest.CaptureFixture[str]) -> None:
    """MediaPipe's start-up lines go to file descriptor 2 from native code; none of them gets through."""
    track(portrait[:1])
    assert capfd.readouterr().err == ""


def test_wrong_frames_are_named() -> None:
    with pytest.raises(SyncloraError, match=r"float32 \[2, 8, 8, 3\].*uint8"):
        track(torch.zeros(2, 8, 8, 3))


def test_true_yaw_and_mouth_are_read_from_a_rendered_face() -> None:
    """A face rendered with a known sweep of yaw and of the jaw: r > 0.9 against the true curves."""
    import dataclasses

    motion = portraits.sample_motion(1000, 9, 25.0)
    still = {name: torch.zeros(9) for name in motion.curves()} | {"scale": torch.ones(9)}
    t = torch.linspace(0, 2 * torch.pi, 9)
    still |= {"yaw": 12 * torch.sin(t), "mouth_open": 0.4 - 0.4 * torch.cos(2 * t), "roll": 6 * torch.cos(t)}
    motion = dataclasses.replace(motion, **still)
    signals = signals_from_landmarks(track(portraits.render(portraits.sample_person(1003), motion, 128, "cpu")), 25)
    for measured, true in (("yaw", "yaw"), ("mouth", "mouth_open"), ("roll", "roll")):
        assert np.corrcoef(getattr(signals, measured), still[true].numpy())[0, 1] > 0.9, measured


@needs_footage
@pytest.mark.parametrize("name", ["d10.mp4", "d12.mp4"])
def test_real_footage_against_itself_two_frames_late(name: str) -> None:
    """A clip's pixels two frames late: every judged channel fits best at lag 2, with r there near 1."""
    clip = read_clip(FOOTAGE / name, frames=48)
    signals = measure(clip)
    late = measure(clip[2:])
    report = compare(late, signals[:-2])
    judged = {channel: score for channel, score in report.channels.items() if score.judged}
    assert len(judged) >= 6
    for channel, score in judged.items():
        assert score.lag == pytest.approx(2, abs=0.25), channel
        assert score.r_best is not None and score.r_best > 0.98, channel
    assert compare(signals, signals).overall == 1


@needs_footage
def test_turning_a_real_picture_is_not_talking() -> None:
    """Each frame turned in the picture by a known angle: roll follows it, the lips' gap stays with the clip's own."""
    from PIL import Image

    clip = read_clip(FOOTAGE / "d10.mp4", frames=40)
    angles = 15 * np.sin(np.arange(40) / 40 * 4 * np.pi)
    turned = [
        np.asarray(Image.fromarray(frame).rotate(-angle, Image.Resampling.BICUBIC))  # PIL turns anticlockwise
        for frame, angle in zip(clip.frames.numpy(), angles, strict=True)
    ]
    before, after = measure(clip), signals_from_landmarks(track(np.stack(turned)), clip.fps)
    assert np.corrcoef(after.roll - before.roll, angles)[0, 1] > 0.995
    assert np.corrcoef(after.mouth, before.mouth)[0, 1] > 0.98
    assert abs(np.corrcoef(after.mouth - before.mouth, angles)[0, 1]) < 0.5
