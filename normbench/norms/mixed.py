"""Mixtures of norms: of the statistics of several norms, or of norms on parts of the channels.

In each formula x has shape (n, c, h, w); gamma and beta of shape (c,) are learned; a variance is
biased, divided by the number of its values.
"""

from __future__ import annotations

from math import prod
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import group_norm

from normbench.norms.arithmetic import unbiased_factor
from normbench.norms.batch import bn
from normbench.norms.batch_layers import WrittenOutBatchNorm
from normbench.norms.map_functions import moments_of_maps, scaled
from normbench.norms.refusals import (
    first_of,
    groups,
    one_pixel,
    one_value_per_channel,
    single,
)
from normbench.norms.registry import norms
from normbench.norms.sample import InstanceNorm
from normbench.norms.spec import (
    Eps,
    Momentum,
    NormSpec,
    NumGroups,
    ParameterRule,
    Refusal,
    Shape,
)

PARTS = ("in", "ln", "bn")  # in the order of the logits of SwitchableNorm


@norms.register("switchable", title="Switchable Norm")
def switchable(*, eps: Eps = 1e-5, momentum: Momentum = 0.1) -> NormSpec:
    """Switchable normalization: learned mixes of in, ln and bn statistics (arXiv:1806.10779).

    y = (x - mean) / sqrt(var + eps) * gamma + beta, mean = sum_k softmax(m)_k * mean_k and
    var = sum_k softmax(v)_k * var_k over k = in (axes h, w), ln (axes c, h, w), bn (axes n, h, w).
    m and v of shape (3,) are learned, too, and start at equal shares. In evaluation bn's part is a
    running average. The paper averages some batches under the final weights instead:
    train.bn_evaluations does so over all images. metrics.csv has the means of both softmaxes over
    the layers after each epoch. The authors' code is under CC BY-NC, and not what this is made of:
    it is written from the paper.
    """
    return NormSpec(
        "batch",
        lambda num_features: SwitchableNorm(num_features, eps, momentum),
        refuse=single(prod, "one value has no variance"),
    )


@norms.register("ibn", title="IBN-a")
def ibn(*, eps: Eps = 1e-5, momentum: Momentum = 0.1) -> NormSpec:
    """IBN-a: instance normalization on half of the channels, bn on the rest (arXiv:1807.09441).

    y of each half as for in_affine and bn. Of an odd number of channels bn has one more. In a
    residual network it stands where the paper has it, after the first convolution of a block except
    in the last stage, and bn elsewhere; in a network without blocks it is every norm.
    """

    def refuse(shape: Shape) -> Refusal | None:
        if shape[1] < 2:
            return Refusal("one channel has no half")
        return one_pixel(shape)

    return NormSpec(
        "batch",
        lambda num_features: HalfInstanceNorm(num_features, eps, momentum),
        refuse=refuse,
        elsewhere=bn(eps=eps, momentum=momentum),
    )


@norms.register("bcn", title="Batch-Channel Norm")
def bcn(*, num_groups: NumGroups = 4, eps: Eps = 1e-5, momentum: Momentum = 0.1) -> NormSpec:
    """Batch-channel normalization: bn, then gn with an affine per group (arXiv:1911.09738).

    y = (z - mean) / sqrt(var + eps) * gamma_g + beta_g, z of bn with its own gamma and beta per
    channel, mean and var of shape (n, num_groups) over the axes (c / num_groups, h, w); gamma_g and
    beta_g of shape (num_groups,) are learned. Evaluation as for bn. arXiv:1903.10520 has it with
    weight standardization. Both papers have 32 groups; the default is 4, as for gn.
    """
    return NormSpec(
        "batch",
        lambda num_features: BatchChannelNorm(num_features, num_groups, eps, momentum),
        refuse=first_of(one_value_per_channel, groups(num_groups)),
    )


@norms.register("bin", title="Batch-Instance Norm")
def batch_instance_norm(*, eps: Eps = 1e-5, momentum: Momentum = 0.1) -> NormSpec:
    """Batch-instance normalization: a learned mix of bn and in per channel (arXiv:1805.07925).

    y = (rho * bn(x) + (1 - rho) * in(x)) * gamma + beta, bn and in without an affine of their own,
    as for bn and in. rho of shape (c,) is learned in [0, 1], from 1: it is clamped after every
    step, has ten times the learning rate, and never decays. On 1x1 maps in(x) is 0. Evaluation as
    for bn.
    """
    return NormSpec(
        "batch",
        lambda num_features: BatchInstanceNorm(num_features, eps, momentum),
        refuse=one_value_per_channel,
    )


class SwitchableNorm(WrittenOutBatchNorm):
    """Normalization by learned mixes of the means and variances of in, ln and bn.

    `running_var` averages unbiased variances.
    """

    def __init__(self, num_features: int, eps: float, momentum: float) -> None:
        super().__init__(num_features, eps, momentum)
        self.mean_logits = nn.Parameter(torch.zeros(3))
        self.var_logits = nn.Parameter(torch.zeros(3))

    def forward(self, x: Tensor) -> Tensor:
        mean_in, var_in = moments_of_maps(x)  # (n, c)
        mean_ln = mean_in.mean(1, keepdim=True)  # (n, 1)
        var_ln = var_in.mean(1, keepdim=True) + mean_in.var(1, correction=0, keepdim=True)
        mean_bn, var_bn = self._moments(x, unbiased_factor(x), (mean_in, var_in))  # (c,)
        mean = _mix(self.mean_logits, mean_in, mean_ln, mean_bn[None])
        var = _mix(self.var_logits, var_in, var_ln, var_bn[None])
        return scaled(x, mean, (var + self.eps).rsqrt() * self.weight, self.bias)

    def learned_shares(self) -> dict[str, Tensor]:
        """softmax(m) and softmax(v): the shares of in, ln and bn in the mean and the variance."""
        shares = {}
        for moment, logits in (("mean", self.mean_logits), ("var", self.var_logits)):
            for part, share in zip(PARTS, logits.detach().softmax(0), strict=True):
                shares[f"{moment}_{part}"] = share
        return shares


def _mix(logits: Tensor, *values: Tensor) -> Tensor:
    """The values' sum, weighted by softmax(logits); the values broadcast to shape (n, c)."""
    shares = logits.softmax(0)[:, None, None]
    return (shares * torch.stack(torch.broadcast_tensors(*values))).sum(0)


class HalfInstanceNorm(nn.Module):
    """IBN-a: InstanceNorm with affine on the first half of the channels, BatchNorm on the rest.

    Raises ValueError for one channel.
    """

    def __init__(self, num_features: int, eps: float, momentum: float) -> None:
        super().__init__()
        if num_features < 2:
            raise ValueError("one channel has no half")
        self.num_instance = num_features // 2
        self.instance = InstanceNorm(self.num_instance, eps, affine=True)
        self.batch = nn.BatchNorm2d(num_features - self.num_instance, eps, momentum)

    def forward(self, x: Tensor) -> Tensor:
        halves = x.split([self.num_instance, self.batch.num_features], dim=1)
        # Copies: between channels that they leave out, both norms are slower.
        first, rest = (half.clone() for half in halves)
        y: Tensor = JoinedChannels.apply(self.instance(first), self.batch(rest))
        return y


class JoinedChannels(torch.autograd.Function):
    """Maps one after another along the channels; each gets its gradient as a copy."""

    @staticmethod
    def forward(ctx: Any, *maps: Tensor) -> Tensor:
        ctx.sizes = [values.shape[1] for values in maps]
        return torch.cat(maps, dim=1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return tuple(part.clone() for part in gradients[0].split(ctx.sizes, dim=1))


class BatchInstanceNorm(WrittenOutBatchNorm):
    """Mix of batch and instance normalization: (rho * bn + (1 - rho) * in) * weight + bias.

    `running_var` averages unbiased variances.
    """

    parameter_rules: ClassVar = {"rho": ParameterRule(lr_factor=10.0, bounds=(0.0, 1.0))}

    def __init__(self, num_features: int, eps: float, momentum: float) -> None:
        super().__init__(num_features, eps, momentum)
        self.rho = nn.Parameter(torch.ones(num_features))

    def forward(self, x: Tensor) -> Tensor:
        mean_in, var_in = moments_of_maps(x)
        mean, var = self._moments(x, unbiased_factor(x), (mean_in, var_in))
        of_batch = self.rho * (var + self.eps).rsqrt()
        of_instance = (1 - self.rho) * (var_in + self.eps).rsqrt()
        # (x - mean) * of_batch + (x - mean_in) * of_instance
        shift = (mean_in - mean) * of_batch * self.weight + self.bias
        return scaled(x, mean_in, (of_batch + of_instance) * self.weight, shift)


class BatchChannelNorm(nn.Module):
    """BatchNorm, then GroupNorm with a scale and a shift per group instead of per channel."""

    def __init__(self, num_features: int, num_groups: int, eps: float, momentum: float) -> None:
        super().__init__()
        self.num_groups, self.eps = num_groups, eps
        self.batch = nn.BatchNorm2d(num_features, eps, momentum)
        self.weight = nn.Parameter(torch.ones(num_groups))
        self.bias = nn.Parameter(torch.zeros(num_groups))

    def forward(self, x: Tensor) -> Tensor:
        channels = x.shape[1] // self.num_groups
        weight, bias = (values.repeat_interleave(channels) for values in (self.weight, self.bias))
        return group_norm(self.batch(x), self.num_groups, weight, bias, self.eps).to(x.dtype)
