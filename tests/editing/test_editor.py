"""The editor: the sequence it builds, the loop it runs, and the clip that comes out."""

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from synclora import Editor, edit
from synclora.backbones.base import Attention, Geometry, Text
from synclora.clip import AudioOrigin, Clip, from_model, probe, read_clip, write_clip
from synclora.diffusion.attention import KeyValueCache
from synclora.diffusion.flow import sigma_schedule
from synclora.diffusion.sequence import Sequence
from synclora.editing.adapter import Adapter, read_adapter
from synclora.editing.frames import frames_to_read, frames_to_use, pad_frames
from synclora.errors import SyncloraError
from tests.media import Track, audio_packets, click_times
from tests.media import make_video as make_media

GEOMETRY = Geometry(width=64, height=64, frames=17, fps=25.0, spatial=32, temporal=8, channels=3)


class Oracle:
    """A backbone that knows the answer: its velocity is noise - x0 for an x0 of its own, so sampling must end there.

    Latents are the mean colour of each 32 x 32 x 8 block; decoding repeats them.
    """

    def __init__(self) -> None:
        self.name, self.geometry = "oracle", GEOMETRY
        self.rescale_on: Any = "velocity"
        self.device, self.dtype = torch.device("cpu"), torch.float32
        self.transformer: torch.nn.Module = torch.nn.Identity()
        self.x0 = torch.rand(1, 3 * 2 * 2, 3, generator=torch.Generator().manual_seed(9)) * 1.8 - 0.9
        self.encoded: list[Tensor] = []
        self.prompts: list[str] = []
        self.calls: list[tuple[Sequence, float, str, KeyValueCache | None]] = []
        self.caches: list[KeyValueCache] = []

    def encode(self, video_B3FHW: Tensor) -> Tensor:
        video = video_B3FHW
        self.encoded.append(video)
        first, rest = video[:, :, :1], video[:, :, 1:]
        h, w = video.shape[3] // 32, video.shape[4] // 32
        parts = [first.unflatten(3, (h, 32)).unflatten(5, (w, 32)).mean((4, 6))]
        if rest.shape[2]:
            blocks = rest.unflatten(2, (-1, 8)).unflatten(4, (h, 32)).unflatten(6, (w, 32))
            parts.append(blocks.mean((3, 5, 7)))
        return torch.cat(parts, dim=2)

    def decode(self, latents_BCfhw: Tensor) -> Tensor:
        big = latents_BCfhw.repeat_interleave(32, 3).repeat_interleave(32, 4)
        return torch.cat([big[:, :, :1], big[:, :, 1:].repeat_interleave(8, 2)], dim=2)

    def embed(self, prompts: list[str]) -> Text:
        self.prompts += prompts
        return Text(torch.zeros(1, 16, 4), torch.ones(1, 16, dtype=torch.bool))

    def velocity(
        self, sequence: Sequence, sigma: Any, text: Text, *, attention: Any = "self", cache: Any = None, **_: Any
    ) -> Tensor:
        if not self.calls:
            self.noise = sequence.tokens[:, : sequence.num_target].clone()
        self.calls.append((sequence, sigma, attention, cache))
        return self.noise - self.x0[:, : sequence.num_target]

    def reference_cache(self, sequence: Sequence, text: Text, **_: Any) -> KeyValueCache:
        self.caches.append(KeyValueCache(()))
        return self.caches[-1]

    def fingerprint(self) -> str:
        return "oracle"


def clip_of(frames: int = 17, size: int = 64, fps: Fraction = Fraction(25)) -> Clip:
    generator = torch.Generator().manual_seed(1)
    pictures = torch.randint(0, 256, (frames, size, size, 3), dtype=torch.uint8, generator=generator)
    return Clip(pictures, fps, AudioOrigin(Path("talk.mp4"), Fraction(1, 5)))


FRAME = torch.full((64, 64, 3), 200, dtype=torch.uint8)


def editor_of(adapter: Adapter | None = None) -> tuple[Editor, Oracle]:
    oracle = Oracle()
    editor = Editor(oracle, lora=None)
    editor.adapter = adapter
    return editor, oracle


SELF = Adapter(Path("x.safetensors"), "self", 1)


def test_true_velocity_leads_to_the_true_video() -> None:
    """With v = noise - x0 every Euler step stays on the line to x0, where the last one ends; frame 0 is the edit's."""
    editor, oracle = editor_of(SELF)
    edited = editor.edit(clip_of(), FRAME, steps=5)
    expected = oracle.x0.clone()
    expected[:, :4] = 200 / 127.5 - 1
    latents = expected.transpose(1, 2).unflatten(2, (3, 2, 2))
    difference = edited.frames.int() - from_model(oracle.decode(latents)).int()
    assert difference.abs().max() <= 1 and edited.frames.shape == (17, 64, 64, 3)


def test_sequence_is_first_frame_noise_and_source() -> None:
    """Tokens: edited frame (clean), noise, then the source (clean) at the target's own positions; time in seconds."""
    editor, oracle = editor_of(SELF)
    clip = clip_of(fps=Fraction(30))
    editor.edit(clip, FRAME, steps=2, seed=5)
    sequence = oracle.calls[0][0]
    n = sequence.num_target
    assert n == 12 and sequence.tokens.shape[1] == 24
    assert sequence.clean[0].tolist() == [True] * 4 + [False] * 8 + [True] * 12
    assert sequence.reference[0].tolist() == [False] * 12 + [True] * 12
    assert (sequence.positions[..., :n] == sequence.positions[..., n:]).all()
    assert sequence.positions[0, 0, ::4][:3].tolist() == pytest.approx([0, 1 / 30, 9 / 30])
    assert torch.allclose(sequence.tokens[0, :4], torch.tensor(200 / 127.5 - 1))
    source = oracle.encode(torch.stack([f.permute(2, 0, 1) for f in clip.frames], 1)[None].float() / 127.5 - 1)
    assert torch.allclose(sequence.tokens[0, n:], source.flatten(2)[0].T, atol=1e-5)
    noise = torch.randn(1, 3, 3, 2, 2, generator=torch.Generator().manual_seed(5)).flatten(2)[0].T
    assert torch.equal(sequence.tokens[0, 4:n], noise[4:])


def test_loop_follows_the_schedule_and_makes_the_cache_once() -> None:
    editor, oracle = editor_of(SELF)
    editor.edit(clip_of(), FRAME, "a man", steps=4)
    assert [call[1] for call in oracle.calls] == pytest.approx(sigma_schedule(4, 12)[:-1].tolist())
    assert len(oracle.caches) == 1 and all(call[3] is oracle.caches[0] for call in oracle.calls)
    assert {call[2] for call in oracle.calls} == {"self"} and oracle.prompts == ["a man"]


def test_joint_attention_uses_no_cache() -> None:
    """Joint tokens change at every step, so nothing may be kept; the LoRA's header decides, an argument overrides."""
    cases: list[tuple[Adapter, Attention | None]] = [(Adapter(Path("x"), "joint", 1), None), (SELF, "joint")]
    for adapter, attention in cases:
        editor, oracle = editor_of(adapter)
        editor.edit(clip_of(), FRAME, steps=1, attention=attention)
        assert oracle.caches == [] and oracle.calls[0][2:] == ("joint", None)


def test_without_lora_the_source_is_not_shown() -> None:
    editor, oracle = editor_of(None)
    editor.edit(clip_of(), FRAME, steps=1)
    assert oracle.calls[0][0].num_reference == 0 and oracle.caches == [] and len(oracle.encoded) == 1


def test_reference_is_shrunk_as_the_lora_asks() -> None:
    """reference_downscale_factor 2: half the rows and columns, spread over the same picture."""
    editor, oracle = editor_of(Adapter(Path("x"), "self", 2))
    editor.edit(clip_of(), FRAME, steps=1)
    assert oracle.encoded[0].shape == (1, 3, 17, 32, 32)
    sequence = oracle.calls[0][0]
    assert sequence.num_reference == 3 and sequence.positions[0, 1:, -1].tolist() == [0, 0]


@pytest.mark.parametrize("frames", [1, 2, 8, 9, 10, 16, 17])
def test_any_length_comes_back_as_it_went_in(frames: int) -> None:
    """Padded to 8k + 1 with the last frame for the model, cut back to what was asked for; rate and sound untouched."""
    editor, oracle = editor_of(SELF)
    clip = clip_of(frames, fps=Fraction(30000, 1001))
    edited = editor.edit(clip, FRAME, steps=1)
    padded = oracle.encoded[0]
    assert padded.shape[2] == -(-(frames - 1) // 8) * 8 + 1
    assert (padded[:, :, frames - 1 :] == padded[:, :, frames - 1 : frames]).all()
    assert (edited.num_frames, edited.fps, edited.origin) == (frames, clip.fps, clip.origin)


def test_other_sizes_are_cropped_in_the_middle() -> None:
    editor, oracle = editor_of(SELF)
    pictures = torch.zeros(9, 64, 192, 3, dtype=torch.uint8)
    pictures[:, :, 64:128] = 255
    editor.edit(Clip(pictures, Fraction(25)), FRAME, steps=1)
    assert (oracle.encoded[0] == 1).all()


@pytest.mark.parametrize(
    ("clip", "frame", "settings", "said"),
    [
        (
            clip_of(18),
            FRAME,
            {"keyframes": {18: FRAME}},
            "keyframe 18: the clip has 18 frames; its last one is frame 17",
        ),
        (clip_of(), FRAME, {"strength": 2.0}, "--strength 2: 0"),
        (clip_of(), FRAME, {"mask": torch.zeros(64, 64)}, "mask: empty"),
        (clip_of(), FRAME[:32], {}, r"first frame: torch.uint8 \[32, 64, 3\]"),
        (clip_of(), FRAME.float(), {}, "first frame: torch.float32"),
        (clip_of(), FRAME, {"steps": 0}, "--steps 0"),
        (clip_of(), FRAME, {"seed": -1}, "--seed -1"),
    ],
)
def test_what_does_not_fit_is_refused(clip: Clip, frame: Tensor, settings: dict, said: str) -> None:
    editor, oracle = editor_of(SELF)
    with pytest.raises(SyncloraError, match=said):
        editor.edit(clip, frame, **settings)
    assert oracle.encoded == []


@pytest.mark.parametrize(
    ("method", "doing"), [("encode", "encoding"), ("velocity", "denoising"), ("decode", "decoding")]
)
def test_numbers_that_are_not_finite_are_refused(monkeypatch: pytest.MonkeyPatch, method: str, doing: str) -> None:
    editor, oracle = editor_of(SELF)
    real = getattr(oracle, method)
    monkeypatch.setattr(oracle, method, lambda *a, **k: real(*a, **k) * float("nan"))
    with pytest.raises(SyncloraError, match=f"oracle: {doing}.* not finite"):
        editor.edit(clip_of(), FRAME, steps=2)


def test_progress_tells_every_step() -> None:
    editor, _ = editor_of(SELF)
    told: list[tuple[str, int, int]] = []
    editor.edit(clip_of(), FRAME, steps=3, progress=lambda *step: told.append(step))
    assert [step for step in told if step[0] == "Denoising"][:4] == [("Denoising", n, 3) for n in range(4)]
    assert told[-1] == ("Decoding", 1, 1)


@pytest.mark.parametrize(
    ("frames", "fit", "available", "used"),
    [
        (None, "pad", 12, 12),
        (None, "pad", 17, 17),
        (None, "trim", 12, 9),
        (None, "trim", 18, 17),
        (None, "trim", 40, 33),
        (None, "pad", 18, 18),
        (None, "error", 33, 33),
        (None, "trim", 5, 1),
        (None, "error", 9, 9),
        (5, "pad", 5, 5),
        (40, "error", 50, 40),
    ],
)
def test_length_is_chosen(frames: int | None, fit: str, available: int, used: int) -> None:
    """pad: all of the clip; trim: the largest 8k + 1 within it; --frames: that many, whatever the fit."""
    assert frames_to_use("a.mp4", available, GEOMETRY, frames, fit) == used


@pytest.mark.parametrize(
    ("frames", "fit", "available", "said"),
    [
        (None, "error", 18, r"18 frames; with --fit error 8k\+1 are needed. Pass --frames 17"),
        (None, "error", 12, r"12 frames; with --fit error 8k\+1 are needed. Pass --frames 9"),
        (12, "pad", 10, "ends after 10 frames, but --frames 12"),
    ],
)
def test_length_that_cannot_be_is_refused(frames: int | None, fit: str, available: int, said: str) -> None:
    with pytest.raises(SyncloraError, match=said):
        frames_to_use("a.mp4", available, GEOMETRY, frames, fit)


def test_no_more_is_read_than_needed(make_video: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is gone through to count its frames only where the container's word will not do."""
    video = make_video(frames=20)
    info, counted = probe(video), []
    monkeypatch.setattr("synclora.editing.frames.count_frames", lambda path: counted.append(path) or 20)
    assert frames_to_read(video, info, GEOMETRY, None, "pad") is None and counted == []
    assert frames_to_read(video, info, GEOMETRY, 12, "pad") == 12 and counted == []
    assert frames_to_read(video, info, GEOMETRY, 20, "pad") == 20 and len(counted) == 1
    assert frames_to_read(video, info, GEOMETRY, None, "trim") == 17 and len(counted) == 2
    with pytest.raises(SyncloraError, match="ends after 20 frames, but --frames 21"):
        frames_to_read(video, info, GEOMETRY, 21, "pad")
    for frames in (0, -1):
        with pytest.raises(SyncloraError, match=f"--frames {frames}; at least 1 is needed"):
            frames_to_read(video, info, GEOMETRY, frames, "pad")


def test_padding_repeats_the_last_frame() -> None:
    frames = torch.arange(3, dtype=torch.uint8).reshape(3, 1, 1, 1)
    assert pad_frames(frames, 5).flatten().tolist() == [0, 1, 2, 2, 2]


@pytest.mark.parametrize(
    ("header", "adapter"),
    [
        ({}, ("joint", 1)),
        ({"reference_attention": "self", "reference_downscale_factor": "2"}, ("self", 2)),
    ],
)
def test_lora_header_is_obeyed(header: dict[str, str], adapter: tuple[str, int]) -> None:
    """Published LoRAs name no attention: they were trained with all tokens joint."""
    found = read_adapter(Path("x"), header)
    assert (found.attention, found.downscale) == adapter


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ({"reference_attention": "sideways"}, "'self' or 'joint'"),
        ({"reference_downscale_factor": "0"}, "reference_downscale_factor is '0'"),
        ({"reference_downscale_factor": "1.5"}, "a whole number"),
        ({"reference_temporal_scale_factor": "2"}, "only 1"),
    ],
)
def test_lora_header_that_makes_no_sense_is_refused(header: dict[str, str], said: str) -> None:
    with pytest.raises(SyncloraError, match=said):
        read_adapter(Path("x"), header)


@pytest.fixture(scope="module")
def editor(tiny_backbone: Path) -> Editor:
    return Editor(tiny_backbone)


def test_file_to_file(samples: Path, editor: Editor, tmp_path: Path) -> None:
    """The output has the frames asked for, the source's rate and sound, and says all of its settings."""
    out = tmp_path / "deep" / "out.mp4"
    result = edit(samples / "source.mp4", samples / "edited.png", out, editor=editor, steps=2, frames=12)
    info, source = probe(out), probe(samples / "source.mp4")
    assert read_clip(out).num_frames == 12 and info.fps == source.fps == 25
    assert [track.codec for track in info.audio] == ["aac"] and (info.width, info.height) == (128, 128)
    assert abs(info.duration - 12 / 25) < 0.03
    settings = result.settings
    assert (settings["frames"], settings["padded_frames"], settings["steps"]) == (12, 17, 2)
    assert settings["lora"].endswith("sync_lora.safetensors") and settings["attention"] == "self"
    assert [notice.kind for notice in result.notices] == ["cut"]
    assert list(tmp_path.rglob("*")) == [out.parent, out]


def test_long_file_to_file(samples: Path, editor: Editor, tmp_path: Path) -> None:
    """60 frames through a window of 17: all frames, the same pictures as in memory, all of the sound."""
    short = read_clip(samples / "source.mp4")
    there_and_back = torch.cat([short.frames, short.frames.flip(0)[1:]] * 2)[:60]
    sound = read_clip(make_voice(tmp_path / "voice.mp4", 60)).origin
    write_clip(tmp_path / "long.mp4", Clip(there_and_back, short.fps, sound), crf=4, preset="veryfast")
    out = tmp_path / "out.mp4"
    result = edit(tmp_path / "long.mp4", samples / "edited.png", out, editor=editor, steps=1)
    info = probe(out)
    assert (result.frames, info.frames, result.settings["padded_frames"]) == (60, 60, 65)
    assert [notice.kind for notice in result.notices] == []
    assert abs(audio_packets(out)[-1].time - 60 / 25) < 0.1 and click_times(out) == pytest.approx([0.4, 2.1], abs=0.02)
    clip = read_clip(tmp_path / "long.mp4")
    whole = editor.edit(clip, result.first_frame, steps=1)
    assert (coarse(whole.frames) - coarse(read_clip(out).frames)).abs().mean() < 2  # but for the encoder
    assert len(list(tmp_path.iterdir())) == 3


def coarse(frames: Tensor) -> Tensor:
    """Means of 8 x 8 blocks: what a codec keeps even of the noise that an untrained model makes."""
    return torch.nn.functional.avg_pool2d(frames.permute(0, 3, 1, 2).float(), 8)


def make_voice(path: Path, frames: int) -> Path:
    return make_media(path, frames=frames, tracks=[Track(clicks=(0.4, 2.1))])


def test_edit_depends_on_seed_source_and_lora_alone(samples: Path, tiny_backbone: Path, editor: Editor) -> None:
    """The same seed gives the same frames; another seed, another source or no LoRA gives others."""
    clip = read_clip(samples / "source.mp4", frames=9)
    mirrored = Clip(clip.frames.flip(2), clip.fps)
    frame = clip.frames[0]
    plain = editor.edit(clip, frame, steps=2).frames
    assert torch.equal(plain, editor.edit(clip, frame, steps=2).frames)
    assert not torch.equal(plain, editor.edit(clip, frame, steps=2, seed=1).frames)
    assert not torch.equal(plain, editor.edit(mirrored, frame, steps=2).frames)
    base = Editor(tiny_backbone, None)
    assert torch.equal(base.edit(clip, frame, steps=2).frames, base.edit(mirrored, frame, steps=2).frames)


def test_source_rate_is_kept(make_video: Callable[..., Path], editor: Editor, tmp_path: Path) -> None:
    """48 frames a second in, 48 out, with a notice that the model learnt at 25."""
    video = make_video(fps=48)
    frame = tmp_path / "f.png"
    from synclora.editing.first_frame import write_first_frame

    write_first_frame(video, frame, editor.backbone.name)
    result = edit(video, frame, tmp_path / "o.mp4", editor=editor, steps=1)
    assert probe(tmp_path / "o.mp4").fps == 48
    assert {notice.kind for notice in result.notices} == {"frame_rate", "no_face"}
