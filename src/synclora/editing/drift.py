"""Colours that an image model shifted everywhere alike, put back: its autoencoder and its taste, not the edit.

    edited ~ gain source + offset      for each channel, over the places that the edit left as they were

The fit is undone only where it is clearly of the whole picture: it holds in most parts of a grid, and is small. An edit
that colours one thing, or light from a side, does not look like this.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from synclora.editing.facecrop import kept_structure

Array = NDArray[np.float64]

GRID = 4  # parts each way
KEPT = 0.9  # of the structure, for a place to count as left as it was
LEAST_KEPT = 0.15  # of a part's places, for it to be judged
LEAST_PARTS = 6  # that can be judged
AGREEING = 0.8  # of those must come closer to the source
LEAST_DRIFT, MOST_DRIFT = 1.5, 12.0  # grey levels, the mean over places and channels
GAINS = (0.85, 1.18)
ROUNDS = 5  # of fitting, outliers left out ever more
SPREAD = 4.0  # grey levels: places farther off the fit than this count little


def steady_colours(edited: Tensor, source: Tensor) -> tuple[Tensor, float]:
    """The edited picture without a global drift of colour, and how large that was in grey levels (0: none undone).

    Args:
        edited, source: uint8 [H, W, 3], of one size and aligned.
    """
    kept = kept_structure(_planes(source), _planes(edited))[0, 0].numpy() > KEPT
    before, after = source.numpy().astype(np.float64), edited.numpy().astype(np.float64)
    fits = [_fit(before[kept, channel], after[kept, channel]) for channel in range(3)] if kept.sum() > 64 else []
    if not fits or any(not GAINS[0] <= gain <= GAINS[1] for gain, _ in fits):
        return edited, 0.0
    gains, offsets = np.array(fits).T
    undone = (after - offsets) / gains
    drift, judged, better = [], 0, 0
    for part in _parts(kept):
        if kept[part].mean() < LEAST_KEPT:
            continue
        judged += 1
        was, now = (np.median(np.abs((x - before)[part][kept[part]]).mean(-1)) for x in (after, undone))
        drift.append(was)
        better += bool(now <= 0.5 * was + 0.5)
    size = float(np.mean(drift)) if drift else 0.0
    if judged < LEAST_PARTS or better < AGREEING * judged or not LEAST_DRIFT <= size <= MOST_DRIFT:
        return edited, 0.0
    return torch.from_numpy(undone.round().clip(0, 255).astype(np.uint8)), size


def _fit(source: Array, edited: Array) -> tuple[float, float]:
    """Gain and offset of edited ~ gain source + offset, outliers left out (Geman and McClure's weights)."""
    gain, offset = 1.0, float(np.median(edited - source))
    for _ in range(ROUNDS):
        weights = 1 / (1 + ((edited - gain * source - offset) / SPREAD) ** 2) ** 2
        total = weights.sum()
        mean_s, mean_e = (weights * source).sum() / total, (weights * edited).sum() / total
        variance = (weights * (source - mean_s) ** 2).sum() / total
        gain = float((weights * (source - mean_s) * (edited - mean_e)).sum() / total / (variance + 1))
        offset = float(mean_e - gain * mean_s)
    return gain, offset


def _parts(picture: NDArray[np.bool_]) -> list[tuple[slice, slice]]:
    height, width = picture.shape
    rows, columns = (np.linspace(0, side, GRID + 1).round().astype(int) for side in (height, width))
    return [(slice(rows[i], rows[i + 1]), slice(columns[j], columns[j + 1])) for i in range(GRID) for j in range(GRID)]


def _planes(picture: Tensor) -> Tensor:
    return picture.permute(2, 0, 1)[None].float()
