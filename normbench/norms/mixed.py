"""Norms that are mixtures of others: of their statistics, or of their channels."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from normbench.norms.batch_layers import (
    AXES,
    WrittenOutBatchNorm,
    normalized,
    scale_and_shift,
    widened,
)
from normbench.norms.registry import norms
from normbench.norms.spec import Eps, Momentum, NormSpec, Shape


@norms.register("switchable", title="Switchable Norm")
def switchable(*, eps: Eps = 1e-5, momentum: Momentum = 0.1) -> NormSpec:
    """Switchable normalization: learned mixes of the statistics of in, ln and bn (arXiv:1806.10779).

    y = (x - mean) / sqrt(var + eps) * gamma + beta, x of shape (n, c, h, w), mean = sum_k softmax(m)_k mean_k and var =
    sum_k softmax(v)_k var_k over k = in (axes h, w), ln (c, h, w), bn (n, h, w), all biased. Learned: gamma and beta of
    shape (c,), m and v of shape (3,), which start equal. Evaluation takes bn's part from running averages,
    the paper from some batches under the final weights (train.bn_evaluations does, over all images).
    """

    def refuse(shape: Shape) -> str | None:
        samples, channels, height, width = shape
        return None if samples * height * width > 1 or channels > 1 else "one value has no variance"

    return NormSpec(
        scope="batch",
        norm=lambda num_features: SwitchableNorm(num_features, eps, momentum),
        refuse=refuse,
    )


@norms.register("ibn", title="IBN-a")
def ibn(*, eps: Eps = 1e-5, momentum: Momentum = 0.1) -> NormSpec:
    """IBN-a: instance normalization on half of the channels, batch normalization on the rest (arXiv:1807.09441).

    y of each half as for in_affine and bn, gamma and beta of shape (c,) in all. Of an odd number of
    channels the batch half has one more. The paper puts it after the first convolution of a residual block, and not in
    the last stage; a network without blocks has it everywhere.
    """

    def refuse(shape: Shape) -> str | None:
        _, channels, height, width = shape
        if channels < 2:
            return "one channel has no half"
        return (
            None
            if height * width > 1
            else "one value per sample and channel has no variance: a 1x1 map"
        )

    return NormSpec(
        scope="batch",
        norm=lambda num_features: HalfInstanceNorm(num_features, eps, momentum),
        refuse=refuse,
    )


class SwitchableNorm(WrittenOutBatchNorm):
    """Mean and variance as mixes of those over pixels, over the sample, and over the batch; the mix is learned."""

    def __init__(self, num_features: int, eps: float, momentum: float) -> None:
        super().__init__(num_features, eps, momentum)
        self.mean_logits = nn.Parameter(torch.zeros(3))
        self.var_logits = nn.Parameter(torch.zeros(3))

    def forward(self, x: Tensor) -> Tensor:
        """y = (x - mean) / sqrt(var + eps) * weight + bias, of the shape of x."""
        dtype, x = x.dtype, widened(x)
        var_in, mean_in = torch.var_mean(x, (2, 3), correction=0)  # (n, c)
        var_ln, mean_ln = torch.var_mean(x, (1, 2, 3), correction=0)  # (n,)
        var_bn, mean_bn = self.running_var, self.running_mean  # (c,)
        if self.training:
            var_bn, mean_bn = torch.var_mean(x, AXES, correction=0)
            with torch.no_grad():
                count = x.numel() // x.shape[1]
                self.running_mean.lerp_(mean_bn, self.momentum)
                self.running_var.lerp_(var_bn * (count / max(count - 1, 1)), self.momentum)
        mean = _mix(self.mean_logits, mean_in, mean_ln[:, None], mean_bn[None])
        var = _mix(self.var_logits, var_in, var_ln[:, None], var_bn[None])
        return scale_and_shift(normalized(x, mean, var, self.eps), self.weight, self.bias).to(dtype)


class HalfInstanceNorm(nn.Module):
    """IBN-a: InstanceNorm with affine on the first half of the channels, BatchNorm on the rest."""

    def __init__(self, num_features: int, eps: float, momentum: float) -> None:
        super().__init__()
        self.num_instance = num_features // 2
        self.instance = nn.InstanceNorm2d(self.num_instance, eps, affine=True)
        self.batch = nn.BatchNorm2d(num_features - self.num_instance, eps, momentum)

    def forward(self, x: Tensor) -> Tensor:
        """Both halves side by side again, of the shape of x."""
        halves = x[:, : self.num_instance], x[:, self.num_instance :]
        return torch.cat([self.instance(halves[0]), self.batch(halves[1])], dim=1)


def _mix(logits: Tensor, *values: Tensor) -> Tensor:
    return torch.stack(
        [
            weight * value
            for weight, value in zip(
                logits.softmax(0), torch.broadcast_tensors(*values), strict=True
            )
        ]
    ).sum(0)
