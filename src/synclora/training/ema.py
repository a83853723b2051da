"""A moving average of the weights in training: smoother than the last step's, at the cost of one more copy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor


class MovingAverage:
    """average = d * average + (1 - d) * weights after every step; with d = min(decay, (1 + step) / (10 + step)), so
    that the first weights, which are no good, do not linger (as in TensorFlow's ExponentialMovingAverage).

    Attributes:
        average: name -> tensor, to be stored with the training's state.
    """

    def __init__(self, weights: Mapping[str, Tensor], decay: float) -> None:
        self.weights, self.decay = weights, decay
        self.average = {name: tensor.detach().clone() for name, tensor in weights.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after `step` steps, counted from 1."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, tensor in self.average.items():
            tensor.lerp_(self.weights[name].detach(), 1 - decay)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The average in the weights' place; they come back at the end."""
        kept = {name: tensor.detach().clone() for name, tensor in self.weights.items()}
        _copy(self.average, self.weights)
        try:
            yield
        finally:
            _copy(kept, self.weights)


@torch.no_grad()
def _copy(values: Mapping[str, Tensor], into: Mapping[str, Tensor]) -> None:
    for name, tensor in into.items():
        tensor.copy_(values[name])
