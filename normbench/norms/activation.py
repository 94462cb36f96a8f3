"""Norms that contain the activation after them: a network adds no ReLU.

In each formula x has shape (n, c, h, w); gamma, beta, v and tau of shape (c,) are learned; a
variance is biased, divided by the number of its values.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from normbench.norms.arithmetic import (
    BATCH,
    PIXELS,
    ScaleAndShift,
    deviation,
    of_channels,
    over_root_mean_square,
    widened,
)
from normbench.norms.refusals import groups, one_value_per_channel
from normbench.norms.registry import norms
from normbench.norms.spec import Eps, Momentum, NormSpec, NumGroups


@norms.register("evonorm_s0", title="EvoNorm-S0")
def evonorm_s0(*, num_groups: NumGroups = 8, eps: Eps = 1e-5) -> NormSpec:
    """EvoNorm-S0: x * sigmoid(v * x) over the deviation of a group of channels (arXiv:2004.02967).

    y = x * sigmoid(v * x) / sqrt(var + eps) * gamma + beta, var of shape (n, num_groups) over the
    axes (c / num_groups, h, w). Without an activation to replace, y = x * gamma + beta. Evaluation
    as in training. timm has 32 groups; the default is 8, so that narrow networks can have it.
    """
    return NormSpec(
        scope="sample",
        norm=ScaleAndShift,
        norm_act=lambda num_features: EvoNormS0(num_features, num_groups, eps),
        refuse=groups(num_groups),
    )


@norms.register("evonorm_b0", title="EvoNorm-B0")
def evonorm_b0(*, eps: Eps = 1e-5, momentum: Momentum = 0.1) -> NormSpec:
    """EvoNorm-B0: x over the larger of the batch's deviation and a line in x (arXiv:2004.02967).

    y = x / max(sqrt(var_batch + eps), v * x + sqrt(var_instance + eps)) * gamma + beta, var_batch
    of shape (c,) over the axes (n, h, w), var_instance of shape (n, c) over (h, w). Without an
    activation to replace, y = x * gamma + beta. Evaluation takes a running average of the unbiased
    var_batch.
    """
    return NormSpec(
        scope="batch",
        norm=ScaleAndShift,
        norm_act=lambda num_features: EvoNormB0(num_features, eps, momentum),
        refuse=one_value_per_channel,
    )


@norms.register("frn", title="Filter Response Norm")
def frn(*, eps: Eps = 1e-6) -> NormSpec:
    """Filter response normalization with a thresholded linear unit (arXiv:1911.09737).

    z = max(y, tau), y = x / sqrt(mean(x^2) + eps) * gamma + beta, the mean of shape (n, c) over the
    axes (h, w). Without an activation to replace, z = y. Evaluation as in training. No mean is
    removed. On a 1x1 map only the sign of x is left; the paper learns eps for 1x1 maps, here eps is
    fixed. The paper also ramps the learning rate up (optim.warmup_fraction).
    """
    return NormSpec(
        scope="sample",
        norm=lambda num_features: FilterResponseNorm(num_features, eps),
        norm_act=lambda num_features: ThresholdedFilterResponseNorm(num_features, eps),
    )


# The layers below keep half precision between their statistics, which are taken in float32: all
# of them in float32 would double the memory that autograd keeps.


class EvoNormS0(ScaleAndShift):
    """EvoNorm-S0 with its activation: y = x * sigmoid(v * x) / sqrt(var + eps) * weight + bias."""

    def __init__(self, num_features: int, num_groups: int, eps: float) -> None:
        super().__init__(num_features)
        self.num_groups, self.eps = num_groups, eps
        self.v = nn.Parameter(torch.ones(num_features))

    def forward(self, x: Tensor) -> Tensor:
        gate = (x * of_channels(self.v).to(x.dtype)).sigmoid()
        groups: Tensor = x.unflatten(1, (self.num_groups, -1))
        std = deviation(groups, (2, 3, 4), self.eps).expand(groups.shape).flatten(1, 2)
        return super().forward(x * gate / std)


class EvoNormB0(ScaleAndShift):
    """EvoNorm-B0 with its activation; `running_var` averages the batches' unbiased variances."""

    running_var: Tensor

    def __init__(self, num_features: int, eps: float, momentum: float) -> None:
        super().__init__(num_features)
        self.eps, self.momentum = eps, momentum
        self.v = nn.Parameter(torch.ones(num_features))
        self.register_buffer("running_var", torch.ones(num_features))

    def forward(self, x: Tensor) -> Tensor:
        var = self.running_var
        if self.training:
            var = widened(x).var(BATCH, correction=0)
            count = x.numel() / x.shape[1]
            # A single value has no unbiased variance: 1 / 0 raises, where `unbiased_factor` is 1.
            update = var.detach() * self.momentum * (count / (count - 1))
            self.running_var.copy_(self.running_var * (1 - self.momentum) + update)
        batch_std = of_channels((var + self.eps).sqrt()).to(x.dtype)
        line = x * of_channels(self.v).to(x.dtype) + deviation(x, PIXELS, self.eps)
        return super().forward(x / torch.maximum(batch_std, line))


class FilterResponseNorm(ScaleAndShift):
    """Filter response normalization: y = x / sqrt(mean(x^2) + eps) * weight + bias."""

    def __init__(self, num_features: int, eps: float) -> None:
        super().__init__(num_features)
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(over_root_mean_square(x, PIXELS, self.eps))


class ThresholdedFilterResponseNorm(FilterResponseNorm):
    """Filter response normalization and its thresholded linear unit: z = max(y, tau)."""

    def __init__(self, num_features: int, eps: float) -> None:
        super().__init__(num_features, eps)
        self.tau = nn.Parameter(torch.zeros(num_features))

    def forward(self, x: Tensor) -> Tensor:
        return torch.maximum(super().forward(x), of_channels(self.tau).to(x.dtype))
