"""`synclora doctor`: what is here, what works, which presets fit and how, and the way out of each problem.

    synclora doctor
    synclora doctor --json doctor.json

The exit code is 0 where nano can edit here (its weights are whole, video encoding works, every needed package is
there), else 1. Face tracking is not needed for that: without it edits are made, and not checked or aligned.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from synclora.atomic import write_json
from synclora.backbones.presence import INDEX, cached_folder, missing_files
from synclora.doctor import machine
from synclora.doctor.machine import Card, Check, Disk
from synclora.doctor.memory import SIZES, Fitting, fitting

Presence = Literal["in the package", "whole", "partial", "absent"]
HEADROOM = 1.05  # of a download that the disk must have free
FITS = {
    "whole": "as is",
    "turns": "parts take turns (offload)",
    "layers": "layers take turns (offload, slow)",
    "cpu": "on the CPU",
    "no": "no",
}


@dataclass(frozen=True)
class Preset:
    """A model by name: where its weights are and how it fits here.

    Attributes:
        kind: "video" or "picture" (for `edit --instruction`).
        gigabytes: of the download; 0: in the package.
        missing: of a partial download, the first files that lack.
        fits: how, in words.
        fitting: the same in numbers; None for picture models.
    """

    name: str
    kind: Literal["video", "picture"]
    presence: Presence
    gigabytes: int
    command: str
    missing: tuple[str, ...]
    fits: str
    fitting: Fitting | None


@dataclass(frozen=True)
class Problem:
    """What does not work, and what to do."""

    text: str
    way_out: str
    fatal: bool  # whether nano cannot edit


@dataclass(frozen=True)
class Diagnosis:
    """All of it."""

    cards: list[Card]
    memory_available: int
    memory_total: int
    disks: list[Disk]
    versions: dict[str, str | None]
    checks: list[Check]
    presets: list[Preset]
    problems: list[Problem]

    @property
    def exit_code(self) -> int:
        """0 where nano can edit here, else 1."""
        return int(any(problem.fatal for problem in self.problems))

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        plain = asdict(self)
        for disk in plain["disks"]:
            disk["path"] = str(disk["path"])
        return {"nano_works": self.exit_code == 0, **plain}

    def write(self, path: Path | str) -> None:
        """Write it as a JSON file, atomically."""
        write_json(path, self.to_json())

    def print(self) -> None:
        """Tables on the terminal, problems last."""
        from synclora.doctor.table import print_diagnosis

        print_diagnosis(self)


def diagnose() -> Diagnosis:
    """Look at this machine; some seconds, nothing is loaded onto a card and nothing is fetched."""
    found: list[Card] = []
    disks, versions = machine.disks(), machine.versions()
    available, total = machine.host_memory()
    checks, presets = [machine.check_torch()], []
    if checks[0].works:  # nothing else does without it
        checks += [machine.check_cards(found), machine.check_nano(), machine.check_video(), machine.check_tracking()]
        best = max(found, key=lambda card: card.free, default=None)
        presets = [*_video_presets(best, available), *_picture_presets(best, available)]
    checks += machine.check_writable()
    problems = _problems(checks, versions, presets, disks, found)
    return Diagnosis(found, available, total, disks, versions, checks, presets, problems)


def _video_presets(card: Card | None, host: int) -> list[Preset]:
    from synclora.backbones.presets import PARTS, PUBLISHED, default_dtype

    each = default_dtype("cpu").itemsize
    presets = []
    for name, sizes in SIZES.items():
        fits = fitting(sizes, card.free if card else None, card.total if card else None, host, each=each)
        if name == "nano":
            whole = machine.check_nano().works
            presence = "in the package" if whole else "absent"
            presets.append(Preset(name, "video", presence, 0, "", (), FITS[fits.fit], fits))
            continue
        published = PUBLISHED[name]
        presence, missing = _presence(published.repo, PARTS)
        size, command = published.gigabytes, published.command
        presets.append(Preset(name, "video", presence, size, command, missing, FITS[fits.fit], fits))
    return presets


def _picture_presets(card: Card | None, host: int) -> list[Preset]:
    from synclora.backbones.presets import default_dtype
    from synclora.editing.image_editors import EDITORS, how_it_fits

    each = default_dtype("cpu").itemsize
    presets = []
    for name, preset in EDITORS.items():
        presence, missing = _presence(preset.repo, None)
        parts = [round(billions * 1e9) * (2 if card else each) for billions in preset.billions.values()]
        on_card = how_it_fits(parts, card.free, card.total) if card else "cpu"
        fits = FITS[on_card] if sum(parts) <= host else f"no: {sum(parts) / 1e9:.0f} GB of memory are needed"
        presets.append(Preset(name, "picture", presence, preset.gigabytes, preset.command, missing, fits, None))
    return presets


def _presence(repo: str, parts: tuple[str, ...] | None) -> tuple[Presence, tuple[str, ...]]:
    """Whether the hub's cache holds a repository's parts, and what lacks."""
    folder = cached_folder(repo)
    if folder is None:
        return "absent", ()
    missing = missing_files(folder, parts)
    if missing == [INDEX]:
        return "absent", ()
    return ("partial", tuple(missing[:4])) if missing else ("whole", ())


def _problems(
    checks: list[Check],
    versions: dict[str, str | None],
    presets: list[Preset],
    disks: list[Disk],
    found: list[Card],
) -> list[Problem]:
    problems = []
    for name in machine.NEEDED:
        if versions.get(name) is None:
            fatal = name != "mediapipe"
            problems.append(Problem(f"{name} is not installed", "pip install --upgrade synclora", fatal))
    for check in checks:
        if not check.works:
            fatal = check.name in ("torch", "nano's weights", "video encoding")
            problems.append(Problem(f"{check.name}: {check.seen}", check.way_out, fatal))
    if not found and all(check.works for check in checks if check.name in ("torch", "GPU")):
        text = "torch sees no CUDA device: everything runs on the CPU, which suits nano alone"
        way_out = "nvidia-smi; then a torch built for your driver: https://pytorch.org/get-started/locally"
        problems.append(Problem(text, way_out, fatal=False))
    room = disks[0]
    for preset in presets:
        if preset.presence == "partial":
            text = f"{preset.name}: the download is incomplete; missing are {', '.join(preset.missing)}"
            problems.append(Problem(text, preset.command, fatal=False))
    downloads = [p for p in presets if p.presence in ("absent", "partial")]
    too_large = [p for p in downloads if p.gigabytes * 1e9 * HEADROOM > room.free]
    if too_large:
        names = ", ".join(f"{p.name} ({p.gigabytes} GB)" for p in too_large)
        text = f"the hub cache ({room.path}) has {room.free / 1e9:.0f} GB free, too little to download {names}"
        problems.append(Problem(text, "export HF_HOME=/a/larger/disk", fatal=False))
    if (nano := next((p for p in presets if p.name == "nano"), None)) and nano.fitting and nano.fitting.fit == "no":
        problems.append(Problem(f"nano: {nano.fitting.why}", "close other programs", fatal=True))
    return problems
