"""The command line: one function a command, and no logic; `synclora COMMAND --help` tells the settings.

    synclora first-frame talk.mp4 -o frame.png
    synclora edit talk.mp4 --first-frame frame-edited.png -o edited.mp4
    synclora demo --out demo

Imports are inside the functions, so that help and usage errors come at once.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from synclora.adapters.commands import lora_app
from synclora.console import Commands, progress_bars, say

# Where torchao is installed, or torchvision is not, these warn at every start of things that are no one's concern here.
TALKATIVE = (
    "torchao",
    "torch.utils._pytree",
    "diffusers.quantizers.torchao.torchao_quantizer",
    "transformers.utils.import_utils",
)

app = typer.Typer(
    cls=Commands,
    name="synclora",
    help="Edit a portrait video from one edited frame, every blink, glance and word on the source's own frame.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
pairs_app = typer.Typer(help="Make and check stores of paired clips.", no_args_is_help=True)
app.add_typer(pairs_app, name="pairs")
app.add_typer(lora_app, name="lora")


class Suite(str, Enum):
    """What `synclora bench` runs on."""

    procedural = "procedural"
    footage = "footage"


class PairsExecutor(str, Enum):
    """What `synclora pairs curate` measures with."""

    processes = "processes"
    local = "local"
    ray = "ray"


Backbone = Annotated[str, typer.Option(help="Model: nano, a diffusers folder, or a hub id.")]
Lora = Annotated[str, typer.Option(help="Sync-LoRA file, folder or hub id; default: the one beside the model.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, or cuda:1 and so on.")]
Steps = Annotated[int | None, typer.Option(help="Denoising steps.", show_default="2 for nano, else 30")]
Seed = Annotated[int, typer.Option(help="Seed of the noise; the same seed gives the same edit.")]


@app.command("first-frame")
def first_frame(
    source: Annotated[Path, typer.Argument(help="The portrait video.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="PNG to write.")],
    backbone: Backbone = "nano",
    crop: Annotated[str, typer.Option(help="As in edit: face or center.")] = "face",
    upscale: Annotated[bool, typer.Option("--upscale", help="Twice the size, for edit --upscale.")] = False,
) -> None:
    """Write the frame to edit, at the exact crop the model will see."""
    from synclora.editing.first_frame import write_first_frame

    width, height = write_first_frame(source, output, backbone, crop, upscale=upscale)
    say(f"{output}  ({width}x{height})")


@app.command("edit")
def edit_video(
    source: Annotated[Path, typer.Argument(help="The portrait video.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Video to write (.mp4 or .mov).")],
    first_frame: Annotated[
        Path | None, typer.Option(help="Its first frame with the edit applied (PNG, JPEG, WebP).")
    ] = None,
    instruction: Annotated[str | None, typer.Option(help="Make that frame by words: what to change.")] = None,
    editor: Annotated[
        str,
        typer.Option(
            help="For --instruction: flux2-klein, qwen-image-edit, flux-kontext, flux2, a folder or a hub id."
        ),
    ] = "flux2-klein",
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask whether the frame made by words is good.")] = False,
    prompt: Annotated[str, typer.Option(help="What the edited video shows, in words.")] = "",
    backbone: Backbone = "nano",
    lora: Lora = "default",
    no_lora: Annotated[bool, typer.Option("--no-lora", help="Base model alone: does not see the source.")] = False,
    steps: Steps = None,
    seed: Seed = 0,
    frames: Annotated[int | None, typer.Option(help="Edit the first so many frames.", show_default="all")] = None,
    fit: Annotated[str, typer.Option(help="Length that does not suit the model: pad, trim or error.")] = "pad",
    keyframe: Annotated[
        list[str] | None, typer.Option(help="Further edited frame, as 60=frame-60.png; may be given often.")
    ] = None,
    strength: Annotated[float, typer.Option(help="How much of the edit shows: 0 (the source) to 1.")] = 1.0,
    mask: Annotated[Path | None, typer.Option(help="Picture or video, white where the edit may show.")] = None,
    keep_background: Annotated[bool, typer.Option("--keep-background", help="Edit the person alone.")] = False,
    crop: Annotated[str, typer.Option(help="Large pictures: face, pasted back, or center, alone.")] = "face",
    upscale: Annotated[
        str | None,
        typer.Option(
            help="Twice the model's size, in two stages: latent upsampler's file, folder, hub id, or default."
        ),
    ] = None,
    sampling: Annotated[
        str | None, typer.Option(help="Kind of base: distilled or dev.", show_default="as the weights tell")
    ] = None,
    detail: Annotated[
        str | None,
        typer.Option(
            help="What the edit leaves alone: the source's own pixels (source; a second run) or the model's (model).",
            show_default="source with a LoRA for few steps, as nano's; else model",
        ),
    ] = None,
    device: Device = "auto",
) -> None:
    """Edit a video from its edited first frame; length, frame rate and sound stay the source's."""
    from synclora.editing.editor import check_settings, edit
    from synclora.editing.instruction import chosen_first_frame
    from synclora.editing.keyframes import parse_keyframes

    check_settings(steps, seed, strength, fit, crop, detail)
    keyframes = parse_keyframes(keyframe or [])
    frame = chosen_first_frame(
        source, output, first_frame, instruction, yes=yes, further=[*keyframes.values(), *([mask] if mask else [])],
        editor=editor, backbone=backbone, lora=None if no_lora else lora, crop=crop, seed=seed, device=device,
        bars=progress_bars, tell=say,
    )  # fmt: skip
    if frame is None:
        return  # the answer was no; how to go on was told
    with progress_bars() as progress:
        result = edit(
            source,
            frame,
            output,
            prompt=prompt,
            backbone=backbone,
            lora=None if no_lora else lora,
            steps=steps,
            seed=seed,
            frames=frames,
            fit=fit,
            keyframes=keyframes,
            strength=strength,
            mask=mask,
            keep_background=keep_background,
            crop=crop,
            upscale=upscale,
            sampling=sampling,
            detail=detail,
            device=device,
            progress=progress,
        )
    say(*result.summary())


@app.command()
def doctor(json: Annotated[Path | None, typer.Option(help="JSON file to write as well.")] = None) -> None:
    """Tell what this machine can do: GPU, memory, disk, versions, which models fit, which weights are here."""
    from synclora.doctor import diagnose

    diagnosis = diagnose()
    diagnosis.print()
    if json:
        diagnosis.write(json)
    raise typer.Exit(diagnosis.exit_code)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder to write to.")],
    steps: Steps = None,
    seed: Seed = 0,
    device: Device = "auto",
) -> None:
    """Edit the sample that comes with the package, and show and measure the result."""
    from synclora.editing.demo import run_demo

    with progress_bars() as progress:
        result = run_demo(out, steps=steps, seed=seed, device=device, progress=progress)
    result.print_summary()


@app.command("train")
def train_lora(
    config: Annotated[Path, typer.Argument(help="YAML configuration; see recipes/.")],
    resume: Annotated[bool, typer.Option(help="Go on from the newest checkpoint in the output folder.")] = True,
    plan: Annotated[
        bool, typer.Option("--plan", help="Tell memory, time and faults of the data; load nothing.")
    ] = False,
) -> None:
    """Train a Sync-LoRA; run it again to go on after a stop."""
    if plan:
        from synclora.training.plan import plan as plan_training

        planned = plan_training(config)
        say(*planned.lines())
        raise typer.Exit(2 if planned.problems else 0)
    from synclora.training.trainer import train

    path = train(config, resume)
    if os.environ.get("RANK", "0") == "0":  # of several processes the first speaks
        say(str(path))


@app.command()
def bench(
    out: Annotated[Path, typer.Option(help="Folder to write to.")],
    suite: Annotated[Suite, typer.Option(help="Rendered people, or videos of your own.")] = Suite.procedural,
    count: Annotated[int, typer.Option(help="Number of pairs.")] = 24,
    footage: Annotated[Path | None, typer.Option(help="Folder of videos of faces, for the suite footage.")] = None,
    methods: Annotated[str | None, typer.Option(help="Methods, as synclora,flow_warp.", show_default="all")] = None,
    backbone: Backbone = "nano",
    lora: Lora = "default",
    steps: Steps = None,
    device: Device = "auto",
) -> None:
    """Measure editing against baselines on pairs whose true edited clip is known."""
    from synclora.bench.suite import run_suite

    with progress_bars() as progress:
        run_suite(
            suite.value,
            count,
            out,
            footage=footage,
            methods=methods,
            backbone=backbone,
            lora=lora,
            steps=steps,
            device=device,
            progress=progress,
        )
    say((out / "bench.md").read_text(encoding="utf-8"), f"{out / 'bench.json'}", f"{out / 'bench.html'}")


@app.command("sync")
def sync_clips(
    source: Annotated[Path, typer.Argument(help="The source video.")],
    edited: Annotated[Path, typer.Argument(help="The edited video, of the source's frame rate and length.")],
    json: Annotated[Path | None, typer.Option(help="JSON file to write.")] = None,
    html: Annotated[Path | None, typer.Option(help="Page to write: one file, to open in a browser.")] = None,
    frames: Annotated[int | None, typer.Option(help="Compare the first so many frames.", show_default="all")] = None,
    face: Annotated[int, typer.Option(help="Which face of several: 0 is the largest and steadiest.")] = 0,
) -> None:
    """Measure whether an edited video blinks, looks, speaks and turns on its source's frames."""
    from synclora.sync.run import sync_files
    from synclora.sync.table import print_report

    with progress_bars() as progress:
        result = sync_files(source, edited, json=json, html=html, frames=frames, face=face, progress=progress)
    print_report(result)
    say(*(str(path) for path in (json, html) if path))


@pairs_app.command("generate")
def pairs_generate(
    count: Annotated[int, typer.Option(help="Number of pairs; for split-screen, of seeds tried.")],
    out: Annotated[str, typer.Option(help="Folder of the store, or its URL; run again to go on after a stop.")],
    generator: Annotated[str, typer.Option(help="What makes the pairs: procedural or split-screen.")] = "procedural",
    defects: Annotated[bool, typer.Option("--defects", help="Drawn pairs: give every second a known defect.")] = False,
    seed: Annotated[int, typer.Option(help="Seed of the first pair; the others follow on.")] = 0,
    size: Annotated[int | None, typer.Option(help="Drawn pairs: px, a multiple of 32.", show_default="128")] = None,
    frames: Annotated[int | None, typer.Option(help="Drawn pairs: frames a clip, 8k+1.", show_default="33")] = None,
    workers: Annotated[int | None, typer.Option(help="Drawn pairs: processes.", show_default="1")] = None,
    config: Annotated[Path | None, typer.Option(help="Split-screen: YAML; see recipes/pairs.")] = None,
    prompts: Annotated[Path | None, typer.Option(help="Split-screen: own prompts, JSONL.")] = None,
    executor: Annotated[str | None, typer.Option(help="Split-screen: local or ray.", show_default="local")] = None,
    ray_address: Annotated[str | None, typer.Option(help="Ray cluster.", show_default="this machine")] = None,
) -> None:
    """Generate paired clips: the same motion in two looks."""
    from synclora.pairs.splitscreen.command import generate_pairs

    with progress_bars() as progress:
        lines, any_pairs = generate_pairs(
            out, count, seed, generator=generator, defects=defects, size=size, frames=frames, workers=workers,
            config=config, prompts=prompts, executor=executor, ray_address=ray_address, progress=progress,
        )  # fmt: skip
    say(*lines)
    raise typer.Exit(0 if any_pairs else 2)


@pairs_app.command("import")
def pairs_import(
    source: Annotated[Path, typer.Argument(help="JSON, JSONL or CSV file, or the folder that holds one.")],
    out: Annotated[str, typer.Option(help="Folder of the store, or its URL; run again to go on after a stop.")],
) -> None:
    """Bring in paired clips in the layouts of the public trainers (caption, media_path, reference_path, ...)."""
    from synclora.pairs.exchange import REFUSED, import_pairs

    with progress_bars() as progress:
        done = import_pairs(source, out, progress)
    say(*map(str, done.refused))
    refused = f", {len(done.refused)} refused (see {out}/{REFUSED})" if done.refused else ""
    say(f"{out}: {done.made} pairs imported, {done.present} were already there{refused}.")
    raise typer.Exit(0 if done.made + done.present else 2)


@pairs_app.command("export")
def pairs_export(
    folder: Annotated[str, typer.Argument(help="Folder of the store, or its URL.")],
    out: Annotated[Path, typer.Option(help="Folder to write to.")],
    layout: Annotated[str, typer.Option(help="Trainer to write for: ltx, ltx2, ltx2-first or musubi.")] = "ltx",
    everything: Annotated[bool, typer.Option("--all", help="All pairs, not only those that curation kept.")] = False,
) -> None:
    """Write the pairs that curation kept as a folder for the public LTX trainers."""
    from synclora.pairs.exchange import export_store
    from synclora.pairs.layouts import LAYOUTS

    with progress_bars() as progress:
        count = export_store(folder, out, layout, everything=everything, progress=progress)
    say(f"{out / LAYOUTS[layout].file}: {count} pairs exported.")


@pairs_app.command("check")
def pairs_check(
    folder: Annotated[str, typer.Argument(help="Folder of the store, or its URL.")],
    quick: Annotated[bool, typer.Option("--quick", help="Look at the table and the files' presence only.")] = False,
) -> None:
    """Check every pair of a store: readable, unaltered, of equal rate, length and size."""
    from synclora.pairs.store import PairStore

    with progress_bars() as progress:
        store = PairStore(folder)
        problems = store.verify(deep=not quick, progress=progress)
    say(*map(str, problems))
    pairs = len(store)
    say(f"{folder}: {pairs} pairs, {len(problems)} problems." if problems else f"{folder}: {pairs} pairs, all sound.")
    raise typer.Exit(2 if problems else 0)


@pairs_app.command("curate")
def pairs_curate(
    folder: Annotated[str, typer.Argument(help="Folder of the store, or its URL (s3://..., gs://...).")],
    config: Annotated[
        Path | None, typer.Option(help="YAML thresholds.", show_default="those of the package; see docs/curation.md")
    ] = None,
    executor: Annotated[PairsExecutor, typer.Option(help="Where to measure.")] = PairsExecutor.processes,
    workers: Annotated[int, typer.Option(help="Workers, of one thread each.")] = 1,
    ray_address: Annotated[str | None, typer.Option(help="Ray cluster.", show_default="this machine")] = None,
) -> None:
    """Measure every pair and keep those in step; run it again to go on after a stop, or with other thresholds."""
    from synclora.pairs.curate import curate
    from synclora.pairs.jobs import executor as make_executor
    from synclora.pairs.store import PairStore
    from synclora.sync.gate import load_thresholds

    thresholds, runner = load_thresholds(config), make_executor(executor.value, workers, ray_address)
    with progress_bars() as progress:
        result = curate(PairStore(folder), thresholds, runner, workers, progress)
    say(*result.summary())


@pairs_app.command("report")
def pairs_report(
    folder: Annotated[str, typer.Argument(help="Folder of a curated store, or its URL.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="HTML file to write.")] = Path("report.html"),
) -> None:
    """Show what curation kept and dropped, and why, as one HTML file."""
    from synclora.pairs.report import write_report
    from synclora.pairs.store import PairStore

    with progress_bars() as progress:
        write_report(PairStore(folder), output, progress)
    say(str(output))


def main() -> None:
    """Run the command line; a termination request ends it as cleanly as Ctrl-C does."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    for name in TALKATIVE:
        logging.getLogger(name).setLevel(logging.ERROR)
    app()


if __name__ == "__main__":
    main()
