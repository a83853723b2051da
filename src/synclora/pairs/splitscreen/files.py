"""What a run keeps of each pair, in the store's `stages/<id>/`: every picture and video on the way, and why one failed.

A file is put in place whole, last what says that a stage is done; so whatever is there can be built upon.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from synclora.errors import SyncloraError
from synclora.pairs.splitscreen.layout import Picture
from synclora.pairs.splitscreen.prompts import PortraitPrompt
from synclora.pairs.store import PairStore

STAGES = "stages"
FAILED = "failed.json"


@dataclass(frozen=True)
class Item:
    """A pair to be made."""

    id: str
    seed: int
    prompt: PortraitPrompt


@dataclass(frozen=True)
class Failure:
    """Why an item went no further.

    Attributes:
        stage: where.
        reason: in words.
        final: whether it lies in what was made, and making it again would end the same; errors are tried anew.
    """

    id: str
    stage: str
    reason: str
    final: bool

    def __str__(self) -> str:
        return f"{self.id}: {self.stage}: {self.reason}"


class ItemFiles:
    """The files of one item."""

    def __init__(self, store: PairStore, id: str) -> None:
        self._store, self._folder, self._id = store, f"{STAGES}/{id}", id

    def path(self, name: str) -> str:
        """The path of a file relative to the store."""
        return f"{self._folder}/{name}"

    def has(self, name: str) -> bool:
        """Whether a file is there."""
        return self._store.has(self.path(name))

    def remove(self, name: str) -> None:
        """Delete a file, if it is there."""
        self._store.remove(self.path(name))

    def write_json(self, name: str, value: Any) -> None:
        """Put a JSON file in place."""
        text = json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False) + "\n"
        self._store.write_bytes(self.path(name), text.encode())

    def read_json(self, name: str) -> Any:
        """A JSON file's content. SyncloraError where it is damaged."""
        try:
            return json.loads(self._store.read_bytes(self.path(name)))
        except ValueError as error:
            raise self._damaged(name) from error

    def write_picture(self, name: str, picture: Picture) -> None:
        """Put a PNG in place."""
        with self._store.writing(self.path(name)) as path:
            Image.fromarray(picture).save(path, format="PNG")

    def read_picture(self, name: str) -> Picture:
        """A PNG's pixels, uint8 [H, W, 3]. SyncloraError where it is damaged."""
        try:
            with self._store.local(self.path(name)) as path, Image.open(path) as image:
                return np.asarray(image.convert("RGB"))
        except (OSError, ValueError, SyntaxError) as error:  # what Pillow raises on damaged files
            raise self._damaged(name) from error

    def write_failure(self, failure: Failure) -> None:
        """Record why the item went no further."""
        told = {"stage": failure.stage, "reason": failure.reason, "final": failure.final}
        self.write_json(FAILED, told)

    def read_failure(self) -> Failure | None:
        """What `write_failure` recorded, or None."""
        if not self.has(FAILED):
            return None
        told = self.read_json(FAILED)
        try:
            return Failure(self._id, str(told["stage"]), str(told["reason"]), bool(told["final"]))
        except (KeyError, TypeError) as error:
            raise self._damaged(FAILED) from error

    def _damaged(self, name: str) -> SyncloraError:
        where = f"{self._store.url}/{self.path(name)}"
        return SyncloraError(f"{where}: is damaged. Delete it and run again: it is made anew.")
