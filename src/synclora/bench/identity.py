"""Is it still the same person? Cosine similarity of face embeddings, where an embedding model is installed.

None comes with the package. With `insightface` installed and its models in their usual place (~/.insightface/models),
the benchmark fills in the column; it downloads nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Embed = Callable[[NDArray[np.uint8]], "NDArray[np.float64] | None"]  # a picture [H, W, 3] RGB -> unit vector, or None

FRAMES = 5  # of each clip, evenly spread
MODELS = ("buffalo_l", "antelopev2", "buffalo_s")


@cache
def embedder() -> Embed | None:
    """The embedding model that is installed; None where there is none."""
    folder = Path.home() / ".insightface" / "models"
    names = [name for name in MODELS if (folder / name).is_dir()]
    if find_spec("insightface") is None or not names:
        return None
    from importlib import import_module

    app = import_module("insightface.app").FaceAnalysis(name=names[0], providers=["CPUExecutionProvider"])
    app.prepare(ctx_id=-1, det_size=(320, 320))

    def embed(picture: NDArray[np.uint8]) -> NDArray[np.float64] | None:
        faces = app.get(np.ascontiguousarray(picture[:, :, ::-1]))
        largest = max(faces, key=lambda face: face.bbox[3] - face.bbox[1], default=None)
        return None if largest is None else np.asarray(largest.normed_embedding, np.float64)

    return embed


def identity_similarity(edited: Tensor, truth: Tensor, embed: Embed | None = None) -> float | None:
    """Mean cosine similarity of the faces in five frames of an edited clip and of the true one, uint8 [F, H, W, 3].

    In [-1, 1]; a frame of the edited clip without a face counts 0. None without an embedding model, or where the true
    clip shows no face.
    """
    embed = embed or embedder()
    if embed is None:
        return None
    values = []
    for index in np.unique(np.linspace(0, len(truth) - 1, FRAMES).round().astype(int)):
        aim, found = embed(truth[int(index)].numpy()), embed(edited[int(index)].numpy())
        if aim is not None:
            values.append(0.0 if found is None else float(aim @ found))
    return float(np.mean(values)) if values else None
