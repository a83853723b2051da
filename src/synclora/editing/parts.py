"""The source's frames on their way through an edit: to the model at its size, and to the output at theirs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from synclora.clip import Clip, iter_windows
from synclora.editing.facecrop import Placement
from synclora.editing.region import Region
from synclora.editing.stages import Stages
from synclora.errors import SyncloraError

AT_ONCE = 4  # frames of the output in memory; they may be large


class Parts:
    """A file's windows as the model sees them, and the output's frames once they are edited.

    What the model sees of a window is kept until its edit comes. The source's full pictures are not: where the edit is
    pasted into them the file is read a second time, a few frames behind the encoder, which costs a fraction of an edit
    and holds a 4K clip in as little memory as a small one.
    """

    def __init__(
        self,
        windows: Iterable[Clip],
        overlap: int,
        source: Path | str,
        placement: Placement,
        stages: Stages,
        frames: int | None,
    ) -> None:
        self.count = 0  # frames of the output so far
        self._windows, self._overlap, self._stages, self._frames = windows, overlap, stages, frames
        self._seen = torch.empty(0)  # frames the model saw whose edit is still to come
        self._source: Iterator[Clip] | None = None
        if placement.pasted:
            self._source = iter_windows(source, AT_ONCE, frames=frames, crop=placement.read_crop)
        self._full = torch.empty(0)  # frames of the source read and not yet used

    def __iter__(self) -> Iterator[Tensor]:
        """The windows, uint8 [n, H, W, 3] at the model's size."""
        for number, clip in enumerate(self._windows):
            new = clip.frames[self._overlap if number else 0 :]
            self._seen = torch.cat([self._seen, new]) if len(self._seen) else new
            yield clip.frames
            self._stages.begin("Reading the source")

    def output(self, edited: Iterable[Tensor], region: Region) -> Iterator[Tensor]:
        """The output's frames, a few at a time, for batches of edited ones; writing them counts as a stage.

        Raises:
            SyncloraError: the file held fewer frames than it was said to.
        """
        for batch in edited:
            for piece in batch.split(AT_ONCE):
                self._stages.begin("Blending")
                seen, self._seen = self._seen[: len(piece)], self._seen[len(piece) :]
                shown = region.show(self._full_size(seen), seen, piece, self.count)
                self.count += len(piece)
                self._stages.begin("Writing the video")
                yield shown
        if self._frames is not None and self.count < self._frames:
            raise SyncloraError(
                f"the source ended after {self.count} frames of {self._frames}. Pass --frames {self.count} or fewer."
            )

    def _full_size(self, seen: Tensor) -> Tensor:
        """The source's next frames in the output's size, as many as `seen`."""
        if self._source is None:
            return seen
        while len(self._full) < len(seen):
            more = next(self._source).frames
            self._full = torch.cat([self._full, more]) if len(self._full) else more
        taken, self._full = self._full[: len(seen)], self._full[len(seen) :]
        return taken
