"""The demonstration: a sample that comes with the package, edited, shown and measured.

    synclora demo --out demo

The sample is `samples/source.mp4` with sound, `samples/edited.png` and, if there is one, `samples/prompt.txt`.
"""

from __future__ import annotations

import platform
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from synclora.atomic import write_json
from synclora.clip import Clip
from synclora.editing.editor import Editor, edit
from synclora.editing.pictures import Notice
from synclora.editing.result import EditResult
from synclora.editing.showcase import telling_frames, write_comparison, write_strip
from synclora.editing.stages import Progress, Stages
from synclora.errors import SyncloraError

if TYPE_CHECKING:
    from synclora.faces.signals import MotionSignals
    from synclora.sync.score import SyncReport

SAMPLES = Path(__file__).parent.parent / "samples"
PACKAGES = ("synclora", "torch", "diffusers", "transformers", "peft", "av", "mediapipe", "numpy")


@dataclass(frozen=True)
class DemoResult:
    """The files of a demonstration, and what was measured."""

    edited: Path
    comparison: Path
    strip: Path
    report: Path
    edit: EditResult
    sync: SyncReport | None  # of the edit against the source; None where no face could be tracked
    seconds: dict[str, float]

    def print_summary(self) -> None:
        """Show the files, the notices and the synchrony on the terminal."""
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        console = Console()
        table = Table(title="synclora demo", title_justify="left", show_header=False, box=None, pad_edge=False)
        table.add_column(style="dim", no_wrap=True)
        table.add_column(overflow="fold")
        for label, path in (
            ("edited video", self.edited),
            ("source | edited", self.comparison),
            ("frames", self.strip),
            ("report", self.report),
        ):
            table.add_row(label, Text(str(path)))
        if self.sync is not None:
            table.add_row("synchrony", Text(_sync_line(self.sync)))
        took = ", ".join(f"{stage.lower()} {value:.1f} s" for stage, value in self.seconds.items())
        table.add_row("time", Text(took))
        for notice in self.edit.notices:
            table.add_row("note", Text(str(notice)))
        console.print(table)


def run_demo(
    out: Path | str,
    *,
    steps: int | None = None,
    seed: int = 0,
    device: str = "auto",
    samples: Path | str = SAMPLES,
    editor: Editor | None = None,
    progress: Progress | None = None,
) -> DemoResult:
    """Edit the sample in `samples` (source.mp4, edited.png, prompt.txt if any) and write four files to `out`.

    edited.mp4; comparison.mp4 (source | edited, with the sound); frames.png (telling frames, source over edited);
    report.json (versions, settings, seconds a stage, notices, synchrony).

    Raises:
        SyncloraError: the samples are missing, or anything that `edit` raises.
    """
    out, samples = Path(out), Path(samples)
    for name in ("source.mp4", "edited.png"):
        if not (samples / name).is_file():
            raise SyncloraError(
                f"{samples / name}: the sample is missing from this installation. Reinstall the package, or make the "
                "sample from a source checkout: python recipes/nano/sample.py"
            )
    prompt = samples / "prompt.txt"
    result = edit(
        samples / "source.mp4",
        samples / "edited.png",
        out / "edited.mp4",
        prompt=prompt.read_text(encoding="utf-8").strip() if prompt.is_file() else "",
        steps=steps,
        seed=seed,
        device=device,
        editor=editor,
        progress=progress,
    )
    stages = Stages(progress)
    stages.begin("Measuring synchrony", 2)
    source, edited = result.clips()
    signals, report, notices = _measure(source, edited, stages)
    stages.begin("Writing the comparison", 2)
    write_comparison(out / "comparison.mp4", source, edited)
    stages.step(1, 2)
    write_strip(out / "frames.png", source, edited, telling_frames(signals, source.num_frames))
    stages.end()
    seconds = {**result.seconds, **stages.seconds}
    write_json(out / "report.json", _report(result, report, notices, seconds))
    return DemoResult(
        result.output, out / "comparison.mp4", out / "frames.png", out / "report.json", result, report, seconds
    )


def _measure(
    source: Clip, edited: Clip, stages: Stages
) -> tuple[MotionSignals | None, SyncReport | None, list[Notice]]:
    try:
        from synclora.faces import measure
        from synclora.sync.score import compare

        signals = measure(source)
        stages.step(1, 2)
        return signals, compare(signals, measure(edited)), []
    except ImportError as error:
        text = f"synchrony was not measured: the face tracker cannot be imported ({error})."
        return None, None, [Notice("unmeasured", text)]


def _report(
    result: EditResult, sync: SyncReport | None, notices: list[Notice], seconds: dict[str, float]
) -> dict[str, Any]:
    return {
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
        "settings": result.settings,
        "seconds": {stage: round(value, 3) for stage, value in seconds.items()},
        "notices": [notice.to_json() for notice in [*result.notices, *notices]],
        "sync": sync.to_json() if sync is not None else None,
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _sync_line(sync: SyncReport) -> str:
    if sync.overall is None:
        return f"not judged: {sync.why}"
    scores = [(name, score.r) for name, score in sync.channels.items() if score.judged and score.r is not None]
    judged = ", ".join(f"{name} {r:.2f}" for name, r in scores)
    blinks = f"; blinks {sync.blinks.matched} of {sync.blinks.source}" if sync.blinks.source else ""
    return f"{sync.overall:.2f} of 1 (correlation with the source: {judged}{blinks})"
