"""No statistics at all: nothing, the control every comparison needs, and a function in a norm's place."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from normbench.norms.registry import norms
from normbench.norms.spec import NormSpec


@norms.register("none", title="no norm")
def none() -> NormSpec:
    """No normalization: y = x; the convolutions keep a bias, since nothing after them adds an offset."""
    return NormSpec(scope="none", norm=lambda num_features: nn.Identity(), conv_bias=True)


@norms.register("dyt", title="Dynamic Tanh")
def dyt(*, alpha: Annotated[float, Field(gt=0)] = 0.5) -> NormSpec:
    """Dynamic tanh: no statistics, a bounded function in a norm's place (arXiv:2503.10622).

    y = tanh(a * x) * gamma + beta, x of shape (n, c, h, w); a of shape (1,), starting at `alpha`, and gamma and beta of
    shape (c,) are learned. Training and evaluation are the same. Made for transformers; here it stands before ReLU.
    """
    return NormSpec(scope="none", norm=lambda num_features: DynamicTanh(num_features, alpha))


class DynamicTanh(nn.Module):
    """tanh(alpha * x) * weight + bias of x (n, c, h, w)."""

    def __init__(self, num_features: int, alpha: float) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.tensor([alpha]))
        self.weight = nn.Parameter(torch.ones(num_features))
        self.bias = nn.Parameter(torch.zeros(num_features))

    def forward(self, x: Tensor) -> Tensor:
        """The output, of the shape of x."""
        return torch.tanh(self.alpha * x) * self.weight[:, None, None] + self.bias[:, None, None]
