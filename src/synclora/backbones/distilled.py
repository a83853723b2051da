"""Whether a base is distilled: made to be sampled at a few fixed noise levels, without guidance.

Sampled as the other kind, either gives poor video, so what the weights say of themselves is asked before any name:

1. a checkpoint of one file: `allowed_inference_steps` in its header's configuration (Lightricks' distilled LTX-Video);
2. a folder of LTX-2: its scheduler, which bends the noise levels by the video's size unless the base is distilled;
   LTX-Video's folders from 0.9.5 on have one scheduler for both kinds, so it tells nothing there;
3. the word "distilled" in the model's name.
"""

from __future__ import annotations

import json
from pathlib import Path

from synclora.backbones import checkpoint
from synclora.backbones.single_file import SingleFile
from synclora.errors import SyncloraError

SCHEDULER = "scheduler/scheduler_config.json"


def is_distilled(where: str | Path, name: str, single_file: SingleFile | None = None) -> bool:
    """Whether the base is distilled.

    Args:
        where: folder or hub id of the model.
        name: what it was asked for by; a path's last part counts.
        single_file: holds the transformer in place of the folder, whose scheduler then tells nothing.
    """
    told = _by_header(single_file) if single_file else _by_scheduler(where)
    if told is not None:
        return told
    return any("distilled" in Path(text).name.lower() for text in (name, str(where) if not single_file else ""))


def _by_header(single_file: SingleFile) -> bool | None:
    try:
        config = json.loads(single_file.header.get("config", ""))
    except ValueError:
        return None
    steps = config.get("allowed_inference_steps") if isinstance(config, dict) else None
    return True if steps else None  # not every distilled checkpoint says so


def _by_scheduler(where: str | Path) -> bool | None:
    index = checkpoint.read_index(where)
    if index.get("transformer", ("", ""))[1] != "LTX2VideoTransformer3DModel" or "scheduler" not in index:
        return None
    try:
        path = checkpoint.find_file(where, SCHEDULER)
    except SyncloraError:  # not in the cache, and no network: nothing that an edit needs
        return None
    config = checkpoint.read_json(path, "Fetch it again.") if path else {}
    shifting = config.get("use_dynamic_shifting") if isinstance(config, dict) else None
    return None if shifting is None else not shifting and config.get("shift_terminal") is None
