"""The model card of a trained adapter, and its way to the Hugging Face hub.

    push_to_hub: me/my-sync-lora          in the configuration; the first process pushes when training is done

A card says what is known and nothing else: where training came from, its settings, and held-out figures that
`metrics.jsonl` holds. What was not measured is said to be so.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import HfApi, get_token
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from synclora.adapters.rules import Rules, rules_of
from synclora.backbones.presets import PUBLISHED
from synclora.diffusion.lora_file import read_header
from synclora.errors import SyncloraError
from synclora.training.config import TrainConfig
from synclora.training.log import METRICS

FIGURES = {  # of metrics.jsonl, and what they are
    "validation/loss": "velocity loss on held-out pairs (four fixed noise levels, fixed noise)",
    "samples/psnr": "PSNR of sample edits against the true clip, dB, first frame left out",
    "samples/psnr_repeat": "the same, of repeating the given first frame",
    "samples/sync": "sync score of sample edits against their sources, 0 to 1",
}
_PIPELINES = {"ltx-video": "LTXConditionPipeline", "ltx-2": "LTX2InContextPipeline"}


def model_card(adapter: Path, config: TrainConfig) -> str:
    """A README.md for the hub: YAML front matter and text.

    Args:
        adapter: the trained LoRA file; `metrics.jsonl` is looked for beside it.
        config: of its training.

    Raises:
        SyncloraError: no such LoRA file.
    """
    header = read_header(adapter)
    rules = rules_of(adapter, header)
    name = config.push_to_hub.split("/")[-1] if config.push_to_hub else adapter.parent.name
    parts = [
        f"---\n{yaml.safe_dump(_front(config, rules), sort_keys=False)}---",
        f"# {name}\n\nA LoRA for {_base(config)} that edits portrait videos from one edited frame: given a source video"
        " and its first frame with an edit applied, it makes the edited video, each frame in step with the source's. "
        "Trained with [synclora](https://pypi.org/project/synclora/) on the method of In-Context Sync-LoRA "
        "(arXiv 2512.03013); this is not the authors' adapter.",
        f"## Use\n\n{_use(adapter, config, rules)}",
        f"## Training data\n\n{_data(config, header)}",
        f"## Settings\n\n{_settings(config, header)}",
        f"## Figures\n\n{_figures(adapter.parent / METRICS)}",
        f"## Licence and use\n\n{_licence(config)}",
    ]
    return "\n\n".join(parts) + "\n"


def require_hub(config: TrainConfig) -> None:
    """Refuse a run whose adapter could not be pushed in the end, while nothing is lost; the hub itself is not asked.

    Raises:
        SyncloraError: a name that the hub does not allow, or nobody is logged in.
    """
    if config.push_to_hub is None:
        return
    try:
        validate_repo_id(config.push_to_hub)
    except HFValidationError as error:
        raise SyncloraError(
            f"push_to_hub is {config.push_to_hub!r}, which is no hub id: {error} Give one such as me/my-lora."
        ) from error
    if get_token() is None:
        raise SyncloraError(
            f"push_to_hub is {config.push_to_hub}, and nobody is logged in to the Hugging Face hub here. Log in with "
            "`hf auth login` or set HF_TOKEN, or leave push_to_hub out and run the finished training again with it: "
            "then it only pushes."
        )


def push(adapter: Path, config: TrainConfig, repo: str) -> str:
    """Put an adapter, its card and its configuration into a repository of the hub; returns its address.

    One commit; the repository is made, private, where there is none.

    Raises:
        SyncloraError: the hub refuses or cannot be reached. The adapter stays where it is.
    """
    from huggingface_hub import CommitOperationAdd

    files: dict[str, Path | bytes] = {
        adapter.name: adapter,
        "README.md": model_card(adapter, config).encode(),
        "config.yaml": yaml.safe_dump(_public(config), sort_keys=False).encode(),
    }
    operations = [
        CommitOperationAdd(name, content if isinstance(content, bytes) else str(content))
        for name, content in files.items()
    ]
    try:
        api = HfApi()
        address = str(api.create_repo(repo, private=True, exist_ok=True))
        api.create_commit(repo, operations, commit_message=f"{adapter.name}, {config.steps} steps")
    except Exception as error:  # no network, no login, no right, a name the hub refuses: dozens of classes
        raise SyncloraError(
            f"{repo}: not pushed to the hub ({type(error).__name__}: {' '.join(str(error).split())[:200]}). The adapter"
            f" is whole at {adapter}. See that the hub can be reached and that you are logged in with the right to"
            " write there (`hf auth whoami`, `hf auth login`), and run the same training again: it only pushes."
        ) from error
    return address


def _front(config: TrainConfig, rules: Rules) -> dict[str, Any]:
    published = PUBLISHED.get(config.backbone)
    base = published.repo if published else config.backbone
    front: dict[str, Any] = {"base_model": base} if published or _is_hub_id(config.backbone) else {}
    front["base_model_relation"] = "adapter"
    if published:
        front |= {"license": "other", "license_name": published.licence}
    front |= {"library_name": "diffusers", "pipeline_tag": "video-to-video"}
    front["tags"] = ["lora", "video-editing", "portrait", "in-context-lora", "synclora"]
    if rules.prompt:
        front["instance_prompt"] = rules.prompt
    return front


def _use(adapter: Path, config: TrainConfig, rules: Rules) -> str:
    backbone = config.backbone if config.backbone in (*PUBLISHED, "nano") or _is_hub_id(config.backbone) else "BASE"
    where = config.push_to_hub or adapter.name
    prompt = f' --prompt "{rules.prompt}"' if rules.prompt else ""
    text = (
        "```\nsynclora first-frame talk.mp4 -o frame.png        # edit this picture in any editor\n"
        f"synclora edit talk.mp4 --first-frame frame-edited.png --backbone {backbone} --lora {where}{prompt}"
        " -o out.mp4\n"
        f"```\n\nTrained on windows of {rules.window or 'the size of the base'}, reference attention "
        f"`{config.attention}`"
    )
    text += f", prompt exactly `{rules.prompt}`." if rules.prompt else ". Prompts describe the edited video."
    family = "ltx-2" if backbone.startswith("ltx-2") else "ltx-video"
    text += (
        f"\n\nThe file's keys (`diffusion_model.`, alpha folded) load in diffusers and ComfyUI:\n\n```python\n"
        f'pipeline.load_lora_weights("{where}", weight_name="{adapter.name}")        # {_PIPELINES[family]}\n```\n\n'
    )
    if config.attention == "self":
        text += (
            "diffusers' pipelines read the reference with joint attention; this adapter was trained with `self`, so "
            "only synclora samples it as trained."
        )
    elif family == "ltx-video":
        text += "diffusers' LTX-Video pipelines take no reference video; use synclora for editing."
    else:
        text += "Give the source as the reference, at full size, and the edited image as frame 0."
    return text


def _data(config: TrainConfig, header: Mapping[str, str]) -> str:
    count, digest = header.get("pairs", "an unknown number of"), header.get("data_sha256", "unknown")
    if drawn := config.data.procedural:
        text = f"{count} pairs of drawn portraits: {drawn.motions} motions in {drawn.looks} looks each; no footage."
    else:
        text = f"{count} pairs of clips with the same motion in two looks, from a pair store. Their origin, and the "
        text += "consent of the people in them, are not recorded here: say them before you publish."
    return f"{text} Digest of the data: `{digest[:16]}`. Held out, never trained on: {config.data.validation} or more."


def _settings(config: TrainConfig, header: Mapping[str, str]) -> str:
    rows = {
        "steps": header.get("steps", config.steps),
        "rank, alpha": f"{config.rank}, {config.lora_alpha:g}",
        "pairs a pass x accumulation, a process": f"{config.batch} x {config.accumulation}",
        "learning rate": f"{config.lr:g}, warmup {config.warmup} steps, then half a cosine",
        "optimizer": config.optimizer + (f", weight decay {config.weight_decay:g}" if config.weight_decay else ""),
        "precision of the frozen base": config.precision if config.quantize == "none" else config.quantize,
        "caption dropout": config.caption_dropout,
        "moving average": config.ema or "none",
        "seed": config.seed,
        "synclora": header.get("synclora_version", "unknown"),
        "fingerprint of the base": f"`{header.get('base_fingerprint', 'unknown')[:16]}`",
    }
    table = "\n".join(f"| {name} | {value} |" for name, value in rows.items())
    return f"| | |\n|---|---|\n{table}\n\nThe whole configuration is `config.yaml`, without this machine's paths."


def _figures(metrics: Path) -> str:
    last = _last_figures(metrics)
    shown = {name: what for name, what in FIGURES.items() if name in last}
    if not shown:
        return "Nothing was measured: no held-out figures were found beside the adapter."
    table = "\n".join(f"| {what} | {last[name][1]:.4g} | {last[name][0]} |" for name, what in shown.items())
    missing = [] if "samples/sync" in shown else ["Synchrony of the edits with their sources was not measured."]
    note = " ".join(["Measured while training, on few held-out pairs.", *missing, "`synclora bench` measures more."])
    return f"| what | value | at step |\n|---|---|---|\n{table}\n\n{note}"


def _last_figures(metrics: Path) -> dict[str, tuple[int, float]]:
    """The last value of each figure and its step; lines that a kill cut short are passed over."""
    last: dict[str, tuple[int, float]] = {}
    if not metrics.is_file():
        return last
    for line in metrics.read_text(encoding="utf-8").splitlines():
        try:
            values = json.loads(line)
            last |= {name: (int(values["step"]), float(values[name])) for name in FIGURES if name in values}
        except (ValueError, KeyError, TypeError):
            continue
    return last


def _licence(config: TrainConfig) -> str:
    published = PUBLISHED.get(config.backbone)
    of_base = f": {published.licence}" if published else ", which synclora does not know"
    return (
        f"The adapter is a derivative of its base and under the base's licence{of_base}. Edit videos of people only "
        "with their consent, and mark edited videos as such."
    )


def _base(config: TrainConfig) -> str:
    published = PUBLISHED.get(config.backbone)
    if published:
        return f"[{published.repo}](https://huggingface.co/{published.repo})"
    return f"`{config.backbone}`" if config.backbone == "nano" or _is_hub_id(config.backbone) else "a local base model"


def _is_hub_id(backbone: str) -> bool:
    parts = backbone.split("/")
    return len(parts) == 2 and all(parts) and not Path(backbone).exists() and parts[0] not in (".", "..", "~")


def _public(config: TrainConfig) -> dict[str, Any]:
    """The configuration without paths of this machine."""
    values = config.resolved()
    values["output"] = "runs/sync_lora"
    for name in ("pairs", "cache"):
        if values["data"].get(name):
            values["data"][name] = None
    if values["data"].get("procedural"):
        values["data"]["procedural"]["pool"] = None
    values["start"] = Path(values["start"]).name if values.get("start") else None
    if values["backbone"] != "nano" and values["backbone"] not in PUBLISHED and not _is_hub_id(values["backbone"]):
        values["backbone"] = Path(values["backbone"]).name
    return values
