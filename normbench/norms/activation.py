"""Filter response normalization, which contains the activation after it: no ReLU follows."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from normbench.norms.arithmetic import ScaleAndShift
from normbench.norms.closed_form import FilterResponse
from normbench.norms.registry import norms
from normbench.norms.spec import Eps, NormSpec


@norms.register("frn", title="Filter Response Norm")
def frn(*, eps: Eps = 1e-6) -> NormSpec:
    """Filter response normalization with a thresholded linear unit (arXiv:1911.09737).

    z = max(y, tau), y = x / sqrt(mean(x^2) + eps) * gamma + beta, x of shape (n, c, h, w), the mean
    of shape (n, c) over the axes (h, w); gamma, beta and tau of shape (c,) are learned. Without an
    activation to replace, z = y. Evaluation as in training. No mean is removed. On a 1x1 map only
    the sign of x is left; the paper learns eps for 1x1 maps, here eps is fixed. The paper also
    ramps the learning rate up (optim.warmup_fraction).
    """
    return NormSpec(
        scope="sample",
        norm=lambda num_features: FilterResponseNorm(num_features, eps),
        norm_act=lambda num_features: ThresholdedFilterResponseNorm(num_features, eps),
    )


class FilterResponseNorm(ScaleAndShift):
    """Filter response normalization: y = x / sqrt(mean(x^2) + eps) * weight + bias."""

    def __init__(self, num_features: int, eps: float) -> None:
        super().__init__(num_features)
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = FilterResponse.apply(x, self.weight, self.bias, None, self.eps)
        return y


class ThresholdedFilterResponseNorm(FilterResponseNorm):
    """Filter response normalization and its thresholded linear unit: z = max(y, tau)."""

    def __init__(self, num_features: int, eps: float) -> None:
        super().__init__(num_features, eps)
        self.tau = nn.Parameter(torch.zeros(num_features))

    def forward(self, x: Tensor) -> Tensor:
        z: Tensor = FilterResponse.apply(x, self.weight, self.bias, self.tau, self.eps)
        return z
