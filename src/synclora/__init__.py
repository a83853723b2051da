"""Edit a portrait video from one edited frame, every blink, glance and word on the source's own frame.

    from synclora import edit
    result = edit("source.mp4", "edited.png", "edited.mp4")

The names below are imported when they are first used, so that `import synclora` stays instant.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from synclora.clip import Clip, read_clip, write_clip
    from synclora.editing.editor import Editor, EditResult, edit
    from synclora.errors import SyncloraError

__all__ = ["Clip", "EditResult", "Editor", "SyncloraError", "edit", "read_clip", "write_clip"]
__version__ = "0.1.0"

_HOMES = {
    "Clip": "synclora.clip",
    "EditResult": "synclora.editing.editor",
    "Editor": "synclora.editing.editor",
    "SyncloraError": "synclora.errors",
    "edit": "synclora.editing.editor",
    "read_clip": "synclora.clip",
    "write_clip": "synclora.clip",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'synclora' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
