"""Parts of recurrent networks: an offset, and a norm at a site that every step has."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy


class Offset(nn.Module):
    """Learned offset per feature, from 0: y = x + bias, x of shape (n, num_features)."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(num_features))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.bias.to(x.dtype)


class StepNorm(nn.ModuleList):
    """A norm of values (n, c) at each step of a sequence, which it sees as (n, c, 1, 1).

    A layer with state, such as running statistics, is copied for every step; the copies share
    their parameters (arXiv:1603.09025, section 3). Steps beyond the last copy take its state.
    """

    def __init__(self, layer: nn.Module, num_features: int, num_steps: int) -> None:
        if any(map(is_lazy, layer.parameters())):
            with torch.no_grad():
                layer.eval()(torch.zeros(1, num_features, 1, 1))
        layer.train()
        has_state = any(True for _ in layer.buffers())
        copies = [layer]
        for _ in range(num_steps - 1 if has_state else 0):
            shared = {id(parameter): parameter for parameter in layer.parameters()}
            copies.append(copy.deepcopy(layer, shared))
        super().__init__(copies)

    def forward(self, x: Tensor, step: int) -> Tensor:
        layer = self[min(step, len(self) - 1)]
        y: Tensor = layer(x[..., None, None])
        return y.flatten(1)
