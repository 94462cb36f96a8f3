"""EvoNorms (arXiv:2004.02967): norm and activation in one, found by search; no ReLU follows.

In each formula x has shape (n, c, h, w); gamma, beta and v of shape (c,) are learned; a variance is
biased, divided by the number of its values. Without an activation to replace, as before a residual
sum, each is y = x * gamma + beta. Those named s have statistics of the sample, over groups of
channels: timm has 32 groups; the default is 8, so that narrow networks can have them.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor, nn

from normbench.norms.arithmetic import ScaleAndShift, of_channels
from normbench.norms.closed_form import GatedOverRoot
from normbench.norms.map_functions import InstanceMoments, OverLarger
from normbench.norms.refusals import divides, groups, one_value_per_channel
from normbench.norms.registry import norms
from normbench.norms.spec import Eps, Momentum, NormSpec, NumGroups


@norms.register("evonorm_s0", title="EvoNorm-S0")
def evonorm_s0(*, num_groups: NumGroups = 8, eps: Eps = 1e-5) -> NormSpec:
    """EvoNorm-S0: x * sigmoid(v * x) over the deviation of a group of channels (arXiv:2004.02967).

    y = x * sigmoid(v * x) / sqrt(var + eps) * gamma + beta, var of shape (n, num_groups) over the
    axes (c / num_groups, h, w). Evaluation as in training.
    """
    return NormSpec(
        scope="sample",
        norm=ScaleAndShift,
        norm_act=lambda num_features: EvoNormS0(num_features, num_groups, eps),
        refuse=groups(num_groups),
    )


@norms.register("evonorm_s1", title="EvoNorm-S1")
def evonorm_s1(*, num_groups: NumGroups = 8, eps: Eps = 1e-5) -> NormSpec:
    """EvoNorm-S1: x * sigmoid(x) over the deviation of a group of channels (arXiv:2004.02967).

    y = x * sigmoid(x) / sqrt(var + eps) * gamma + beta, var of shape (n, num_groups) over the axes
    (c / num_groups, h, w): evonorm_s0 with v fixed at 1. Evaluation as in training.
    """
    return NormSpec(
        scope="sample",
        norm=ScaleAndShift,
        norm_act=lambda num_features: EvoNormS1(num_features, num_groups, eps),
        refuse=groups(num_groups),
    )


@norms.register("evonorm_s2", title="EvoNorm-S2")
def evonorm_s2(*, num_groups: NumGroups = 8, eps: Eps = 1e-5) -> NormSpec:
    """EvoNorm-S2: x * sigmoid(x) over the root mean square of a group (arXiv:2004.02967).

    y = x * sigmoid(x) / sqrt(mean(x^2) + eps) * gamma + beta, the mean of shape (n, num_groups)
    over the axes (c / num_groups, h, w). Evaluation as in training.
    """
    return NormSpec(
        scope="sample",
        norm=ScaleAndShift,
        norm_act=lambda num_features: EvoNormS2(num_features, num_groups, eps),
        refuse=divides(num_groups),
    )


@norms.register("evonorm_b0", title="EvoNorm-B0")
def evonorm_b0(*, eps: Eps = 1e-5, momentum: Momentum = 0.1) -> NormSpec:
    """EvoNorm-B0: x over the larger of the batch's deviation and a line in x (arXiv:2004.02967).

    y = x / max(sqrt(var_batch + eps), v * x + sqrt(var_instance + eps)) * gamma + beta, var_batch
    of shape (c,) over the axes (n, h, w), var_instance of shape (n, c) over (h, w). Evaluation
    takes a running average of the unbiased var_batch.
    """
    return _over_the_batch(lambda num_features: EvoNormB0(num_features, eps, momentum))


@norms.register("evonorm_b1", title="EvoNorm-B1")
def evonorm_b1(*, eps: Eps = 1e-5, momentum: Momentum = 0.1) -> NormSpec:
    """EvoNorm-B1: x over the larger of the batch's deviation and (x + 1) * rms (arXiv:2004.02967).

    y = x / max(sqrt(var_batch + eps), (x + 1) * sqrt(mean(x^2) + eps)) * gamma + beta, var_batch of
    shape (c,) over the axes (n, h, w), the mean of shape (n, c) over (h, w). Evaluation as for
    evonorm_b0.
    """
    return _over_the_batch(lambda num_features: EvoNormB1(num_features, eps, momentum))


@norms.register("evonorm_b2", title="EvoNorm-B2")
def evonorm_b2(*, eps: Eps = 1e-5, momentum: Momentum = 0.1) -> NormSpec:
    """EvoNorm-B2: x over the larger of the batch's deviation and rms - x (arXiv:2004.02967).

    y = x / max(sqrt(var_batch + eps), sqrt(mean(x^2) + eps) - x) * gamma + beta, var_batch of shape
    (c,) over the axes (n, h, w), the mean of shape (n, c) over (h, w). Evaluation as for
    evonorm_b0.
    """
    return _over_the_batch(lambda num_features: EvoNormB2(num_features, eps, momentum))


def _over_the_batch(norm_act: Callable[[int], nn.Module]) -> NormSpec:
    return NormSpec("batch", ScaleAndShift, norm_act, refuse=one_value_per_channel)


class EvoNormS1(ScaleAndShift):
    """EvoNorm-S1 with its activation: y = x * sigmoid(x) / sqrt(var + eps) * weight + bias."""

    centred = True
    v: nn.Parameter | None

    def __init__(self, num_features: int, num_groups: int, eps: float) -> None:
        super().__init__(num_features)
        self.num_groups, self.eps = num_groups, eps
        self.register_parameter("v", None)

    def forward(self, x: Tensor) -> Tensor:
        learned = self.v, self.weight, self.bias
        y: Tensor = GatedOverRoot.apply(x, *learned, self.num_groups, self.eps, self.centred)
        return y


class EvoNormS2(EvoNormS1):
    """EvoNorm-S2 with its activation: as EvoNorm-S1 with mean(x^2) in place of var."""

    centred = False


class EvoNormS0(EvoNormS1):
    """EvoNorm-S0 with its activation: y = x * sigmoid(v * x) / sqrt(var + eps) * weight + bias."""

    def __init__(self, num_features: int, num_groups: int, eps: float) -> None:
        super().__init__(num_features, num_groups, eps)
        self.v = nn.Parameter(torch.ones(num_features))


class EvoNormB(ScaleAndShift):
    """Divides x by the larger of the batch's deviation and `line(x)`, with scale and shift.

    `running_var` averages the batches' unbiased variances.
    """

    running_var: Tensor

    def __init__(self, num_features: int, eps: float, momentum: float) -> None:
        super().__init__(num_features)
        self.eps, self.momentum = eps, momentum
        self.register_buffer("running_var", torch.ones(num_features))

    @abstractmethod
    def line(self, mean: Tensor, var: Tensor) -> tuple[Tensor, Tensor]:
        """The slope and the size of the other denominator, slope * x + size, all (n, c, 1, 1)."""

    def forward(self, x: Tensor) -> Tensor:
        mean, var = InstanceMoments.apply(x)
        of_batch = of_channels(self.running_var)
        if self.training:
            of_batch = var.mean(0) + mean.var(0, correction=0)
            count = x.numel() / x.shape[1]
            # A single value has no unbiased variance: 1 / 0 raises, where `unbiased_factor` is 1.
            update = of_batch.detach().flatten() * self.momentum * (count / (count - 1))
            self.running_var.copy_(self.running_var * (1 - self.momentum) + update)
        root = (of_batch + self.eps).sqrt()
        affine = of_channels(self.weight), of_channels(self.bias)
        of_maps = (root, *self.line(mean, var), *affine)
        y: Tensor = OverLarger.apply(x, *(values.expand_as(mean) for values in of_maps))
        return y


class EvoNormB0(EvoNormB):
    """EvoNorm-B0 with its activation."""

    def __init__(self, num_features: int, eps: float, momentum: float) -> None:
        super().__init__(num_features, eps, momentum)
        self.v = nn.Parameter(torch.ones(num_features))

    def line(self, mean: Tensor, var: Tensor) -> tuple[Tensor, Tensor]:
        """v * x + sqrt(var_instance + eps)."""
        return of_channels(self.v), (var + self.eps).sqrt()


class EvoNormB1(EvoNormB):
    """EvoNorm-B1 with its activation."""

    def line(self, mean: Tensor, var: Tensor) -> tuple[Tensor, Tensor]:
        """(x + 1) * sqrt(mean(x^2) + eps)."""
        size = (var + mean.square() + self.eps).sqrt()
        return size, size


class EvoNormB2(EvoNormB):
    """EvoNorm-B2 with its activation."""

    def line(self, mean: Tensor, var: Tensor) -> tuple[Tensor, Tensor]:
        """sqrt(mean(x^2) + eps) - x."""
        size = (var + mean.square() + self.eps).sqrt()
        return -torch.ones_like(size), size
