"""Muon: momentum whose every matrix is made orthogonal before it is applied (Jordan et al., 2024, "Muon: An optimizer
for hidden layers in neural networks"). In one trial on an earlier VAE of
nano's size it stood at 18.0 dB after 60 steps (lr 1e-3), AdamW at 17.1 after 100 (lr 2e-4).

torch.optim.Muon takes matrices only; here convolutions are matrices of [out, in * kernel], and biases get Adam.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

MOMENTUM = 0.95
ADAM_BETAS = (0.9, 0.98)
RMS = 0.2  # size of an update relative to lr, as AdamW's typically is, so that learning rates carry over


class Muon(torch.optim.Optimizer):
    """Muon for tensors of two or more dimensions, Adam for the rest; one learning rate, decoupled weight decay."""

    def __init__(self, parameters: Iterable[Tensor], lr: float, weight_decay: float = 0.0) -> None:
        super().__init__(parameters, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state, make = self.state[parameter], self._matrix if parameter.ndim >= 2 else self._adam
                update = make(parameter.grad, state)
                parameter.mul_(1 - group["lr"] * group["weight_decay"]).add_(update, alpha=-group["lr"])

    def _matrix(self, gradient: Tensor, state: dict[str, Tensor]) -> Tensor:
        if not state:
            state["momentum"] = torch.zeros_like(gradient)
        momentum = state["momentum"].lerp_(gradient, 1 - MOMENTUM)
        nesterov = gradient.lerp(momentum, MOMENTUM).flatten(1)
        return (orthogonal(nesterov) * (RMS * max(nesterov.shape) ** 0.5)).view_as(gradient)

    def _adam(self, gradient: Tensor, state: dict[str, Tensor]) -> Tensor:
        if not state:
            state.update(first=torch.zeros_like(gradient), second=torch.zeros_like(gradient), step=torch.zeros(()))
        state["step"] += 1
        first, second = ADAM_BETAS
        state["first"].lerp_(gradient, 1 - first)
        state["second"].lerp_(gradient.square(), 1 - second)
        steps = state["step"].item()
        return state["first"] / (1 - first**steps) / ((state["second"] / (1 - second**steps)).sqrt() + 1e-8)


def orthogonal(matrix: Tensor, iterations: int = 5) -> Tensor:
    """The nearest semi-orthogonal matrix, roughly: singular values of about 0.7 to 1.2, by Newton-Schulz in bf16."""
    x = matrix.bfloat16()
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    x = x / (x.norm() + 1e-7)
    for _ in range(iterations):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return (x.T if tall else x).to(matrix.dtype)
