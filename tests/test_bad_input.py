"""Bad inputs, through the command line: each ends in one paragraph and exit code 2, or is handled as stated here; none
leaves a half-written file."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from synclora.backbones.ltx_video import LTXVideoBackbone
from synclora.backbones.presets import LORA_NAME
from synclora.cli import app
from synclora.clip import Clip, read_clip, write_clip

runner = CliRunner()


@dataclass
class Bench:
    """Good inputs that the cases below spoil, and an empty folder to write to."""

    folder: Path
    out: Path
    source: Path
    frame: Path
    backbone: Path
    other_backbone: Path
    make_video: Callable[..., Path]
    sample_recipe: object

    def edit(self, *flags: object, source: Path | None = None, frame: Path | None = None, out: Path | None = None):
        """`synclora edit` on good inputs, but for what is given."""
        arguments = [
            "edit",
            source or self.source,
            "--first-frame",
            frame or self.frame,
            "-o",
            out or self.out / "o.mp4",
        ]
        if "--backbone" not in flags:
            flags = ("--backbone", self.backbone, *flags)
        if "--steps" not in flags:
            flags = ("--steps", 1, *flags)
        return [str(argument) for argument in (*arguments, *flags)]

    def frame_of(self, source: Path, out: Path) -> list[str]:
        """`synclora first-frame`."""
        return ["first-frame", str(source), "-o", str(out), "--backbone", str(self.backbone)]

    def file(self, name: str, content: bytes | str = b"") -> Path:
        path = self.folder / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    def picture(self, name: str, image: Image.Image, **options) -> Path:
        image.save(self.folder / name, **options)
        return self.folder / name

    @property
    def image(self) -> Image.Image:
        return Image.open(self.frame)

    def changed_backbone(self) -> Path:
        folder = self.folder / "changed"
        shutil.copytree(self.backbone, folder)
        return folder

    def changed_lora(self, change: Callable[[dict[str, torch.Tensor]], object], **header: str) -> Path:
        tensors = load_file(self.backbone / LORA_NAME)
        change(tensors)
        path = self.folder / "changed.safetensors"
        save_file(tensors, path, metadata={"reference_attention": "self", **header})
        return path


@pytest.fixture
def bench(
    tmp_path: Path,
    samples: Path,
    tiny_backbone: Path,
    other_backbone: Path,
    make_video: Callable[..., Path],
    sample_recipe: object,
) -> Bench:
    out = tmp_path / "out"
    out.mkdir()
    source, frame = samples / "source.mp4", samples / "edited.png"
    return Bench(tmp_path, out, source, frame, tiny_backbone, other_backbone, make_video, sample_recipe)


def half(path: Path) -> bytes:
    data = path.read_bytes()
    return data[: len(data) // 2]


def audio_only(b: Bench) -> Path:
    path = b.folder / "voice.mp4"
    b.sample_recipe.write_aac(path, np.zeros(48_000, np.float32))  # type: ignore[attr-defined]
    return path


def slow_y4m(b: Bench, rate: str) -> Path:
    """Uncompressed video whose header tells the frame rate as it likes."""
    picture = b"FRAME\n" + bytes(64 * 64 * 3 // 2)
    return b.file("odd.y4m", f"YUV4MPEG2 W64 H64 F{rate} Ip A1:1 C420\n".encode() + 3 * picture)


def nan_lora(b: Bench) -> Path:
    return b.changed_lora(lambda tensors: next(iter(tensors.values())).view(-1)[:1].fill_(float("nan")))


def wide_lora(b: Bench) -> Path:
    def widen(tensors: dict[str, torch.Tensor]) -> None:
        for name, tensor in tensors.items():
            if "lora_A" in name:
                tensors[name] = torch.cat([tensor, tensor], 1)

    return b.changed_lora(widen)


def nan_backbone(b: Bench) -> Path:
    folder = b.changed_backbone()
    path = next((folder / "transformer").glob("*.safetensors"))
    tensors = load_file(path)
    tensors["proj_in.weight"][0, 0] = float("nan")
    save_file(tensors, path, metadata={"format": "pt"})
    return folder


def without(b: Bench, part: str) -> Path:
    folder = b.changed_backbone()
    path = folder / part
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    return folder


def bad_settings(b: Bench) -> Path:
    folder = b.changed_backbone()
    (folder / "synclora.json").write_text(json.dumps({"width": 128, "wdth": 1}))
    return folder


def in_a_file(b: Bench) -> Path:
    return b.file("not-a-folder") / "o.mp4"


REFUSED: dict[str, tuple[Callable[[Bench], list[str]], str]] = {
    # the source
    "source missing": (lambda b: b.edit(source=b.folder / "no.mp4"), r"no\.mp4: cannot be read \(No such file"),
    "source is a folder": (lambda b: b.edit(source=b.folder), "is a folder; a video file is needed"),
    "source empty": (lambda b: b.edit(source=b.file("a.mp4")), r"a\.mp4: is empty \(0 bytes\)"),
    "source is text": (lambda b: b.edit(source=b.file("a.mp4", "hello " * 99)), r"a\.mp4: .*not a video"),
    "source is a picture": (lambda b: b.edit(source=b.frame), "is a picture"),
    "source cut in half": (lambda b: b.edit(source=b.file("a.mp4", half(b.source))), r"a\.mp4: .*(damaged|broken off)"),
    "source cut at its head": (lambda b: b.edit(source=b.file("a.mp4", b.source.read_bytes()[:64])), r"a\.mp4: "),
    "source is sound only": (lambda b: b.edit(source=audio_only(b)), "holds only sound; a video track is needed"),
    "source almost at a standstill": (lambda b: b.edit(source=slow_y4m(b, "1:1000")), r"frame rate 0\.001; between 1"),
    "source too fast": (lambda b: b.edit(source=slow_y4m(b, "9000:1")), "frame rate 9000; between 1 and 240"),
    "source too wide": (lambda b: b.edit(source=b.make_video(width=8320, height=32, frames=2)), "8320x32 px"),
    "source longer than the window": (
        lambda b: b.edit("--fit", "error", source=b.make_video(frames=18)),
        r"18 frames; with --fit error 8k\+1 are needed. Pass --frames 17",
    ),
    "source not 8k+1 with --fit error": (
        lambda b: b.edit("--fit", "error", source=b.make_video(frames=10)),
        r"10 frames; with --fit error 8k\+1 are needed. Pass --frames 9",
    ),
    # the edited frame
    "frame missing": (lambda b: b.edit(frame=b.folder / "no.png"), r"no\.png: no such file.*synclora first-frame"),
    "frame is text": (lambda b: b.edit(frame=b.file("f.png", "hello")), r"f\.png: not an image.*\(5 bytes"),
    "frame empty": (lambda b: b.edit(frame=b.file("f.png")), r"f\.png: not an image.*\(0 bytes"),
    "frame cut in half": (lambda b: b.edit(frame=b.file("f.png", half(b.frame))), r"f\.png: a damaged image"),
    "frame is a folder": (lambda b: b.edit(frame=b.folder), "a folder; an image file is needed"),
    "frame is a video": (lambda b: b.edit(frame=b.source), r"source\.mp4: not an image"),
    "frame of another aspect": (
        lambda b: b.edit(frame=b.picture("f.png", b.image.crop((0, 0, 128, 72)))),
        r"128x72 px, an aspect of 1\.778; the model needs 1:1 \(e\.g\. 128x128\).*first-frame SOURCE",
    ),
    # the LoRA
    "lora missing": (lambda b: b.edit("--lora", b.folder / "no.safetensors"), r"no\.safetensors: no such LoRA"),
    "lora is text": (lambda b: b.edit("--lora", b.file("l.safetensors", "hello")), r"not a .*safetensors"),
    "lora cut in half": (
        lambda b: b.edit("--lora", b.file("l.safetensors", half(b.backbone / LORA_NAME))),
        r"not a .*safetensors",
    ),
    "lora of another base": (
        lambda b: b.edit("--lora", b.other_backbone / LORA_NAME),
        "trained on another base model.*Use it with the base it was trained on",
    ),
    "lora of another width": (lambda b: b.edit("--lora", wide_lora(b)), "this base model needs"),
    "lora with NaN": (lambda b: b.edit("--lora", nan_lora(b)), "holds NaN or infinite values"),
    "lora with a senseless header": (
        lambda b: b.edit("--lora", b.changed_lora(lambda tensors: None, reference_downscale_factor="half")),
        "reference_downscale_factor is 'half'",
    ),
    "model without a lora": (
        lambda b: b.edit("--backbone", without(b, LORA_NAME)),
        "comes without a Sync-LoRA.*--lora FILE.*--no-lora",
    ),
    # the backbone
    "backbone missing": (lambda b: b.edit("--backbone", b.folder / "no" / "model", "--no-lora"), "no such model"),
    "backbone missing, and with it the LoRA": (
        lambda b: b.edit("--backbone", b.folder / "no" / "model"),
        "no such model",
    ),
    "backbone that is an empty folder": (
        lambda b: b.edit("--backbone", (b.folder / "empty").mkdir() or b.folder / "empty"),
        "empty: has no transformer folder.*preset .nano, ltxv-2b",
    ),
    "backbone without its transformer": (
        lambda b: b.edit("--backbone", without(b, "transformer")),
        "changed: has no transformer folder",
    ),
    "backbone with NaN": (lambda b: b.edit("--backbone", nan_backbone(b)), "proj_in.weight holds NaN or infinite"),
    "backbone with unknown settings": (lambda b: b.edit("--backbone", bad_settings(b)), r"synclora\.json: wdth is 1"),
    # settings
    "no steps": (lambda b: b.edit("--steps", 0), "--steps 0: between 1 and 1000"),
    "too many steps": (lambda b: b.edit("--steps", 1001), "--steps 1001: between 1 and 1000"),
    "no frames": (lambda b: b.edit("--frames", 0), "--frames 0; at least 1 is needed"),
    "negative frames": (lambda b: b.edit("--frames", -3), "--frames -3; at least 1 is needed"),
    "frames beyond the window": (lambda b: b.edit("--frames", 99), "ends after 17 frames, but --frames 99 was"),
    "frames beyond the clip": (
        lambda b: b.edit("--frames", 12, source=b.make_video(frames=9)),
        "ends after 9 frames, but --frames 12 was asked for. Pass --frames 9 or fewer",
    ),
    "keyframe beyond the clip": (
        lambda b: b.edit("--keyframe", f"17={b.frame}"),
        "keyframe 17: the clip has 17 frames; its last one is frame 16",
    ),
    "keyframe beyond --frames": (
        lambda b: b.edit("--keyframe", f"12={b.frame}", "--frames", 12),
        "keyframe 12: the clip has 12 frames",
    ),
    "keyframe at frame 0": (lambda b: b.edit("--keyframe", f"0={b.frame}"), "keyframe 0: that is the first frame"),
    "keyframe without a number": (lambda b: b.edit("--keyframe", b.frame), r"a frame number and a picture are needed"),
    "keyframe missing": (lambda b: b.edit("--keyframe", "5=no.png"), r"no\.png: no such file.*--keyframe 5="),
    "strength out of range": (lambda b: b.edit("--strength", 1.5), r"--strength 1\.5: 0 \(the source\) to 1"),
    "mask of another aspect": (
        lambda b: b.edit("--mask", b.picture("m.png", Image.new("L", (128, 72), 255))),
        r"m\.png: 128x72 px, an aspect of 1\.778; the mask needs",
    ),
    "mask without white": (
        lambda b: b.edit("--mask", b.picture("m.png", Image.new("L", (128, 128), 0))),
        r"m\.png: the mask is black all over",
    ),
    "mask missing": (lambda b: b.edit("--mask", "no.png"), r"no\.png: no such file. Pass the mask"),
    "unknown crop": (lambda b: b.edit("--crop", "nose"), "--crop 'nose' is not known; choose one of: face, center"),
    "negative seed": (lambda b: b.edit("--seed", -1), "--seed -1: a whole number from 0"),
    "huge seed": (lambda b: b.edit("--seed", 2**63), "a whole number from 0 to 2\\^63 - 1"),
    "unknown fit": (lambda b: b.edit("--fit", "squeeze"), "--fit 'squeeze' is not known; choose"),
    "unknown device": (lambda b: b.edit("--device", "abacus"), "'abacus' is not usable here.*--device cpu"),
    # the output
    "output is a folder": (lambda b: b.edit(out=b.out), "is a folder|an extension|extension"),
    "output folder named like a video": (
        lambda b: b.edit(out=(b.folder / "d.mp4").mkdir() or b.folder / "d.mp4"),  # type: ignore[func-returns-value]
        r"d\.mp4: is a folder; an output file is needed",
    ),
    "output of another kind": (lambda b: b.edit(out=b.out / "o.avi"), r"extension \.avi; \.mp4 or \.mov is needed"),
    "output in a file": (lambda b: b.edit(out=in_a_file(b)), "not-a-folder is a file, not a folder"),
    "output over the source": (lambda b: b.edit(out=b.source), r"\.mp4: .*same file"),
    "output by a link over the source": (
        lambda b: b.edit(out=(b.folder / "link.mp4").symlink_to(b.source) or b.folder / "link.mp4"),  # type: ignore[func-returns-value]
        r"\.mp4: .*same file",
    ),
    "first-frame to a JPEG": (
        lambda b: b.frame_of(b.source, b.out / "f.jpg"),
        r"written without loss, as PNG. Name it f\.png",
    ),
    "first-frame of text": (
        lambda b: b.frame_of(b.file("a.mp4", "x" * 99), b.out / "f.png"),
        r"a\.mp4: .*not a video",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refused_in_one_paragraph(bench: Bench, name: str) -> None:
    make, said = REFUSED[name]
    arguments = make(bench)
    before = {path: path.stat().st_mtime_ns for path in bench.folder.rglob("*")}
    source = bench.source.read_bytes()
    done = runner.invoke(app, arguments)
    assert done.exit_code == 2, (done.output, done.exception)
    told = [line for line in done.stderr.splitlines() if not line.startswith("  ")]  # less commands to copy
    assert told[0].startswith("synclora: ") and len(told) == 1
    assert re.search(said, done.stderr), done.stderr
    assert done.stdout == ""
    assert {path: path.stat().st_mtime_ns for path in bench.folder.rglob("*")} == before
    assert bench.source.read_bytes() == source


def edge(frame: Image.Image) -> Image.Image:
    """The picture with a transparent left half."""
    alpha = Image.new("L", frame.size, 255)
    alpha.paste(0, (0, 0, 64, 128))
    frame = frame.convert("RGB")
    frame.putalpha(alpha)
    return frame


def turned(b: Bench) -> Path:
    exif = Image.Exif()
    exif[0x0112] = 6
    return b.picture("f.jpg", b.image.transpose(Image.Transpose.ROTATE_90), exif=exif, quality=95)


def deep(b: Bench) -> Path:
    values = np.asarray(b.image.convert("L")).astype(np.uint16) * 257
    return b.picture("f.png", Image.fromarray(values))


def two_faces(b: Bench) -> Path:
    faces = read_clip(b.source).frames
    small = torch.nn.functional.interpolate(faces.permute(0, 3, 1, 2).float(), (256, 256), mode="bicubic")
    small = small.clamp(0, 255).byte().permute(0, 2, 3, 1)
    wide = torch.cat([small, small], 2)
    canvas = torch.full((len(wide), 512, 512, 3), 128, dtype=torch.uint8)
    canvas[:, 128:384] = wide
    write_clip(b.folder / "two.mp4", Clip(canvas, Fraction(25)))
    return b.folder / "two.mp4"


HANDLED: dict[str, tuple[Callable[[Bench], list[str]], str, int]] = {
    "transparent frame": (
        lambda b: b.edit(frame=b.picture("f.png", edge(b.image))),
        r"note: f\.png is transparent in 50% of its area; the source's first frame shows there",
        17,
    ),
    "16-bit frame": (lambda b: b.edit(frame=deep(b)), r"note: f\.png holds more than 8 bits a channel", 17),
    "grey frame": (lambda b: b.edit(frame=b.picture("f.png", b.image.convert("L"))), r"f\.png is a grey", 17),
    "palette frame": (lambda b: b.edit(frame=b.picture("f.png", b.image.convert("P"))), "o.mp4", 17),
    "frame turned by EXIF": (lambda b: b.edit(frame=turned(b)), r"note: f\.jpg was turned as its EXIF", 17),
    "large frame": (
        lambda b: b.edit(frame=b.picture("f.png", b.image.resize((1024, 1024)))),
        r"note: f\.png is 1024x1024 px; it was resized to 128x128",
        17,
    ),
    "no face": (
        lambda b: b.edit(source=b.make_video(frames=9)),
        "note: no face was found in the source's first frame; the edit was made all the same",
        9,
    ),
    "two faces": (lambda b: b.edit(source=two_faces(b)), "note: 2 faces were found in the source's first frame", 17),
    "one frame": (lambda b: b.edit(source=b.make_video(frames=1)), "one frame was edited, so there is no motion", 1),
    "--frames 1": (lambda b: b.edit("--frames", 1), "one frame was edited, so there is no motion", 1),
    "8k source": (lambda b: b.edit(source=b.make_video(width=7680, height=4320, frames=2)), "o.mp4", 2),
    "tiny source": (lambda b: b.edit(source=b.make_video(width=32, height=32)), "32x32 px, smaller", 9),
    "length not 8k+1": (lambda b: b.edit(source=b.make_video(frames=11)), r"o\.mp4  \(11 frames", 11),
    "--fit trim": (
        lambda b: b.edit("--fit", "trim", source=b.make_video(frames=16)),
        "note: the first 9 of about 16 frames",
        9,
    ),
    "--fit trim of a long clip": (
        lambda b: b.edit("--fit", "trim", source=b.make_video(frames=40)),
        "note: the first 33 of about 40 frames",
        33,
    ),
    "source of several windows": (lambda b: b.edit(source=b.make_video(frames=40)), r"o\.mp4  \(40 frames", 40),
    "--no-lora": (lambda b: b.edit("--no-lora"), "o.mp4", 17),
    "prompt longer than the model reads": (lambda b: b.edit("--prompt", "é" * 4000), "o.mp4", 17),
}  # fmt: skip


@pytest.mark.parametrize("name", HANDLED)
def test_handled_as_stated(bench: Bench, name: str) -> None:
    make, said, frames = HANDLED[name]
    done = runner.invoke(app, make(bench))
    assert done.exit_code == 0, (done.output, done.exception)
    assert re.search(said, done.stdout), done.stdout
    assert [path.name for path in bench.out.iterdir()] == ["o.mp4"]
    assert read_clip(bench.out / "o.mp4").num_frames == frames


def test_full_disk(bench: Bench) -> None:
    """The system refuses to let a file grow beyond 2 kB: told as such, and nothing is left."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2048, hard))
    try:
        done = runner.invoke(app, bench.edit())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert done.exit_code == 2, (done.output, done.exception)
    assert re.search(r"o\.mp4: cannot be written \(File too large\).*nothing was left behind", done.stderr), done.stderr
    assert list(bench.out.iterdir()) == []


def test_folder_that_may_not_be_written(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Found out before the work begins (asked of the system, as tests may run as root, who may write anywhere)."""
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != bench.out)
    monkeypatch.setattr(LTXVideoBackbone, "load", lambda *_, **__: pytest.fail("the model was loaded"))
    done = runner.invoke(app, bench.edit())
    assert done.exit_code == 2 and f"{bench.out} may not be written to" in done.stderr


def test_old_output_survives_a_failed_run(bench: Bench) -> None:
    """An output that is there is replaced by a whole new one or not at all."""
    old = bench.out / "o.mp4"
    old.write_bytes(b"precious")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2048, hard))
    try:
        assert runner.invoke(app, bench.edit()).exit_code == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert old.read_bytes() == b"precious" and list(bench.out.iterdir()) == [old]


def test_ctrl_c_while_denoising(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line and exit code 130; nothing is left."""
    steps = iter(range(2))
    real = LTXVideoBackbone.velocity

    def velocity(self, *arguments, **settings):
        if next(steps, None) is None:
            raise KeyboardInterrupt
        return real(self, *arguments, **settings)

    monkeypatch.setattr(LTXVideoBackbone, "velocity", velocity)
    done = runner.invoke(app, bench.edit("--steps", 8))
    assert done.exit_code == 130
    assert done.stderr == "synclora: interrupted; nothing half-written was left.\n" and done.stdout == ""
    assert list(bench.out.iterdir()) == []


@pytest.mark.parametrize(("stop", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signal_to_a_running_edit(bench: Bench, stop: signal.Signals, code: int) -> None:
    """The real program, stopped from outside when its output is encoded and not yet renamed into place."""
    script = (
        "import time, synclora.atomic as atomic, synclora.cli as cli\n"
        "def flush(path): print(path.name, flush=True); time.sleep(60)\n"
        "atomic._flush = flush\n"
        "cli.main()\n"
    )
    command = [sys.executable, "-c", script, *bench.edit("--no-lora")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None and process.stderr is not None
    written = process.stdout.readline().strip()
    assert [path.name for path in bench.out.iterdir()] == [written] and written.endswith(".mp4")
    process.send_signal(stop)
    assert process.wait(30) == code
    assert "Traceback" not in process.stderr.read()
    process.stdout.close()
    process.stderr.close()
    assert list(bench.out.iterdir()) == []
