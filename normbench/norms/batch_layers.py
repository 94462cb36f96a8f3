"""Layers of batch normalization's variants that torch lacks, written out from their papers.

Each takes x of shape (n, c, h, w) and gives y of this shape.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from normbench.norms.arithmetic import (
    BATCH,
    ScaleAndShift,
    normalized,
    of_channels,
    scale_and_shift,
    unbiased_factor,
    widened,
)
from normbench.norms.map_functions import moments_of_batch, moments_of_maps, scaled


class WrittenOutBatchNorm(ScaleAndShift):
    """Batch normalization: y = (x - mean) / sqrt(var + eps) * weight + bias.

    `running_var` averages biased variances.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, num_features: int, eps: float, momentum: float) -> None:
        super().__init__(num_features)
        self.eps, self.momentum = eps, momentum
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.ones(num_features))

    def forward(self, x: Tensor) -> Tensor:
        mean, var = self._moments(x)
        return scaled(x, mean, (var + self.eps).rsqrt() * self.weight, self.bias)

    def _moments(
        self, x: Tensor, correction: float = 1.0, of_maps: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        """The batch's mean and variance; `running_var` averages the variances * correction.

        of_maps: mean and variance of every map (n, c), where they are known.
        """
        if not self.training:
            return self.running_mean, self.running_var
        mean, var = moments_of_batch(*(of_maps or moments_of_maps(x)))
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(var * correction, self.momentum)
        return mean, var


class ExtendedBatchNorm(ScaleAndShift):
    """Batch normalization with one variance, of shape (1,), for all channels.

    `running_var` averages unbiased variances.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, num_features: int, eps: float, momentum: float) -> None:
        super().__init__(num_features)
        self.eps, self.momentum = eps, momentum
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        mean, var = self.running_mean, self.running_var
        if self.training:
            mean, by_channel = moments_of_batch(*moments_of_maps(x))
            var = by_channel.mean(0, keepdim=True)
            with torch.no_grad():
                self.running_mean.lerp_(mean, self.momentum)
                self.running_var.lerp_(var * unbiased_factor(x), self.momentum)
        return scaled(x, mean, (var + self.eps).rsqrt() * self.weight, self.bias)


class GhostBatchNorm(nn.BatchNorm2d):
    """BatchNorm2d over chunks of `size` samples in training; the last chunk may be smaller."""

    def __init__(
        self, num_features: int, size: int, eps: float, momentum: float, affine: bool
    ) -> None:
        super().__init__(num_features, eps, momentum, affine)
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        normalize = super().forward
        if not self.training:
            return normalize(x)
        return torch.cat([normalize(chunk) for chunk in x.split(self.size)])


class BatchRenorm(nn.BatchNorm2d):
    """Batch normalization corrected towards the running statistics in training.

    y = ((x - mean) / std * r + d) * weight + bias. The bounds r_max and d_max of the correction
    grow from 1 and 0, linearly over `ramp` batches after the first `warmup` batches.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor
    momentum: float

    def __init__(
        self,
        num_features: int,
        eps: float,
        momentum: float,
        r_max: float,
        d_max: float,
        warmup: int,
        ramp: int,
    ) -> None:
        super().__init__(num_features, eps, momentum)
        self.r_max, self.d_max, self.warmup, self.ramp = r_max, d_max, warmup, ramp

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        mean, var = moments_of_batch(*moments_of_maps(x))
        std = (var + self.eps).sqrt()
        with torch.no_grad():
            r, d = self._correction(mean, std)
            # New tensors, not in place: compiled code recomputes r and d in the backward pass, from
            # the values that these had in the forward pass.
            self.running_mean = self.running_mean.lerp(mean, self.momentum)
            unbiased = var * unbiased_factor(x)
            self.running_var = self.running_var.lerp(unbiased, self.momentum)
            self.num_batches_tracked = self.num_batches_tracked + 1
        return scaled(x, mean, r / std * self.weight, d * self.weight + self.bias)

    def _correction(self, mean: Tensor, std: Tensor) -> tuple[Tensor, Tensor]:
        """r and d of shape (c,), clipped to the bounds of this step."""
        running_std = (self.running_var + self.eps).sqrt()
        steps = self.num_batches_tracked - self.warmup
        progress = (steps.to(std.dtype) / max(self.ramp, 1)).clamp(0, 1)
        r_max, d_max = 1 + progress * (self.r_max - 1), progress * self.d_max
        r = (std / running_std).clamp(1 / r_max, r_max)
        d = ((mean - self.running_mean) / running_std).clamp(-d_max, d_max)
        return r, d


class SumOverProcesses(torch.autograd.Function):
    """The sum of every process's values, and in the backward pass of every process's gradients."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        summed = values.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(summed)
        return summed

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return SumOverProcesses.apply(gradients[0])


class SyncBatchNorm(nn.SyncBatchNorm):
    """Batch normalization over the samples of all processes; BatchNorm2d without a process group.

    On a GPU the layer is torch's. On the CPU, where torch has none, the mean is summed over the
    processes first, then the squared distances from the mean: E[x^2] - E[x]^2 would round away
    the variance of channels with a large mean.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor
    momentum: float

    def forward(self, x: Tensor) -> Tensor:
        is_distributed = dist.is_available() and dist.is_initialized()
        if x.is_cuda or not self.training or not is_distributed:
            return super().forward(x)
        dtype, x = x.dtype, widened(x)
        count = SumOverProcesses.apply(x.new_tensor([x.numel() // x.shape[1]]))
        mean = SumOverProcesses.apply(x.sum(BATCH)) / count
        var = SumOverProcesses.apply((x - of_channels(mean)).square().sum(BATCH)) / count
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(var * (count / (count - 1).clamp(min=1)), self.momentum)
        y = normalized(x, mean, var, self.eps)
        return scale_and_shift(y, self.weight, self.bias).to(dtype)
