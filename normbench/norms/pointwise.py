"""Methods without statistics, value by value: no norm (the control), dynamic tanh and erf."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from normbench.norms.arithmetic import ScaleAndShift
from normbench.norms.map_functions import erf_of, tanh_of
from normbench.norms.registry import norms
from normbench.norms.spec import NormSpec


@norms.register("none", title="no norm")
def none() -> NormSpec:
    """No normalization: y = x; convolutions keep their bias, since no norm adds an offset."""
    return NormSpec(scope="none", norm=lambda num_features: nn.Identity(), conv_bias=True)


@norms.register("dyt", title="Dynamic Tanh")
def dyt(*, alpha: Annotated[float, Field(gt=0)] = 0.5) -> NormSpec:
    """Dynamic tanh: no statistics, a bounded function in a norm's place (arXiv:2503.10622).

    y = tanh(a * x) * gamma + beta, x of shape (n, c, h, w). Learned: a of shape (1,), starting at
    `alpha`, gamma and beta of shape (c,). Evaluation as in training. Made to replace LN in
    transformers, not bn; in a convolutional network ReLU follows.
    """
    return NormSpec(scope="none", norm=lambda num_features: DynamicTanh(num_features, alpha))


@norms.register("derf", title="Dynamic erf")
def derf(*, alpha: Annotated[float, Field(gt=0)] = 0.5, shift: float = 0.0) -> NormSpec:
    """Dynamic erf: the error function in a norm's place, without statistics (arXiv:2512.10938).

    y = erf(a * x + s) * gamma + beta, x of shape (n, c, h, w). Learned: a and s of shape (1,),
    starting at `alpha` and `shift`, gamma and beta of shape (c,). Evaluation as in training. Made
    to replace LN in transformers, not bn; in a convolutional network ReLU follows.
    """
    return NormSpec("none", lambda num_features: DynamicErf(num_features, alpha, shift))


class DynamicTanh(nn.Module):
    """Bounded function per channel: y = tanh(alpha * x) * weight + bias."""

    def __init__(self, num_features: int, alpha: float) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.tensor([alpha]))
        self.weight = nn.Parameter(torch.ones(num_features))
        self.bias = nn.Parameter(torch.zeros(num_features))

    def forward(self, x: Tensor) -> Tensor:
        return tanh_of(x, self.alpha, self.weight, self.bias)


class DynamicErf(ScaleAndShift):
    """Bounded function per channel: y = erf(alpha * x + shift) * weight + bias."""

    def __init__(self, num_features: int, alpha: float, shift: float) -> None:
        super().__init__(num_features)
        self.alpha = nn.Parameter(torch.tensor([alpha]))
        self.shift = nn.Parameter(torch.tensor([shift]))

    def forward(self, x: Tensor) -> Tensor:
        return erf_of(x, self.alpha, self.shift, self.weight, self.bias)
