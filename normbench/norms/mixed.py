"""Mixtures of norms: of the statistics of several norms, or of norms on parts of the channels.

In each formula x has shape (n, c, h, w); gamma and beta of shape (c,) are learned; a variance is
biased, divided by the number of its values.
"""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor, nn

from normbench.norms.arithmetic import (
    PIXELS,
    SAMPLE,
    normalized,
    scale_and_shift,
    unbiased_factor,
    widened,
)
from normbench.norms.batch import bn
from normbench.norms.batch_layers import WrittenOutBatchNorm
from normbench.norms.refusals import one_pixel, single
from normbench.norms.registry import norms
from normbench.norms.spec import Eps, Momentum, NormSpec, Refusal, Shape

PARTS = ("in", "ln", "bn")  # in the order of the logits of SwitchableNorm


@norms.register("switchable", title="Switchable Norm")
def switchable(*, eps: Eps = 1e-5, momentum: Momentum = 0.1) -> NormSpec:
    """Switchable normalization: learned mixes of in, ln and bn statistics (arXiv:1806.10779).

    y = (x - mean) / sqrt(var + eps) * gamma + beta, mean = sum_k softmax(m)_k * mean_k and
    var = sum_k softmax(v)_k * var_k over k = in (axes h, w), ln (axes c, h, w), bn (axes n, h, w).
    m and v of shape (3,) are learned, too, and start at equal shares. In evaluation bn's part is a
    running average. The paper averages some batches under the final weights instead:
    train.bn_evaluations does so over all images. metrics.csv has the means of both softmaxes over
    the layers after each epoch.
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


class SwitchableNorm(WrittenOutBatchNorm):
    """Normalization by learned mixes of the means and variances of in, ln and bn.

    `running_var` averages unbiased variances.
    """

    def __init__(self, num_features: int, eps: float, momentum: float) -> None:
        super().__init__(num_features, eps, momentum)
        self.mean_logits = nn.Parameter(torch.zeros(3))
        self.var_logits = nn.Parameter(torch.zeros(3))

    def forward(self, x: Tensor) -> Tensor:
        dtype, x = x.dtype, widened(x)
        var_in, mean_in = torch.var_mean(x, PIXELS, correction=0)  # (n, c)
        var_ln, mean_ln = torch.var_mean(x, SAMPLE, correction=0)  # (n,)
        mean_bn, var_bn = self._moments(x, unbiased_factor(x))  # (c,)
        mean = _mix(self.mean_logits, mean_in, mean_ln[:, None], mean_bn[None])
        var = _mix(self.var_logits, var_in, var_ln[:, None], var_bn[None])
        y = normalized(x, mean, var, self.eps)
        return scale_and_shift(y, self.weight, self.bias).to(dtype)

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
    """IBN-a: InstanceNorm with affine on the first half of the channels, BatchNorm on the rest."""

    def __init__(self, num_features: int, eps: float, momentum: float) -> None:
        super().__init__()
        self.num_instance = num_features // 2
        self.instance = nn.InstanceNorm2d(self.num_instance, eps, affine=True)
        self.batch = nn.BatchNorm2d(num_features - self.num_instance, eps, momentum)

    def forward(self, x: Tensor) -> Tensor:
        first, rest = x[:, : self.num_instance], x[:, self.num_instance :]
        return torch.cat([self.instance(first), self.batch(rest)], dim=1)
