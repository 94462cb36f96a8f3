"""Batch normalization's variants that torch does not have, written out from their papers."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

AXES = (0, 2, 3)  # batch, height, width


class WrittenOutBatchNorm(nn.Module):
    """Batch normalization of x (n, c, h, w), step by step, with the biased variance in its running average too."""

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, num_features: int, eps: float, momentum: float) -> None:
        super().__init__()
        self.eps, self.momentum = eps, momentum
        self.weight = nn.Parameter(torch.ones(num_features))
        self.bias = nn.Parameter(torch.zeros(num_features))
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.ones(num_features))

    def forward(self, x: Tensor) -> Tensor:
        """y = (x - mean) / sqrt(var + eps) * weight + bias, of the shape of x."""
        dtype, x = x.dtype, widened(x)
        mean, var = self.running_mean, self.running_var
        if self.training:
            var, mean = torch.var_mean(x, AXES, correction=0)
            with torch.no_grad():
                self.running_mean.lerp_(mean, self.momentum)
                self.running_var.lerp_(var, self.momentum)
        return scale_and_shift(normalized(x, mean, var, self.eps), self.weight, self.bias).to(dtype)


class GhostBatchNorm(nn.BatchNorm2d):
    """BatchNorm2d over chunks of `size` samples in training, one after the other; the last may be smaller."""

    def __init__(
        self, num_features: int, size: int, eps: float, momentum: float, affine: bool
    ) -> None:
        super().__init__(num_features, eps, momentum, affine)
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        """The chunks' outputs, one after the other again; of the shape of x."""
        chunks = x.split(self.size) if self.training else [x]
        return torch.cat([super(GhostBatchNorm, self).forward(chunk) for chunk in chunks])


class BatchRenorm(nn.BatchNorm2d):
    """Batch normalization whose training output is corrected towards the running statistics.

    The bounds of the correction, r_max and d_max, grow from 1 and 0 over `ramp_steps` after the first `warmup_steps`.
    """

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
        """y = ((x - mean) / std * r + d) * weight + bias, of the shape of x; no gradient flows through r and d."""
        if not self.training:
            return super().forward(x)
        running_mean, running_var, steps = (
            self.running_mean,
            self.running_var,
            self.num_batches_tracked,
        )
        assert running_mean is not None
        assert running_var is not None
        assert steps is not None
        dtype, x = x.dtype, widened(x)
        var, mean = torch.var_mean(x, AXES, correction=0)
        std = (var + self.eps).sqrt()
        with torch.no_grad():
            running_std = (running_var + self.eps).sqrt()
            progress = ((steps - self.warmup) / max(self.ramp, 1)).clamp(0, 1)
            r_max, d_max = 1 + progress * (self.r_max - 1), progress * self.d_max
            r = (std / running_std).clamp(1 / r_max, r_max)
            d = ((mean - running_mean) / running_std).clamp(-d_max, d_max)
            count = x.numel() // x.shape[1]
            # New tensors: compiled, r and d are computed again in the backward pass, from what these were.
            self.running_mean = running_mean.lerp(mean, self.momentum or 0.0)
            self.running_var = running_var.lerp(
                var * (count / max(count - 1, 1)), self.momentum or 0.0
            )
            self.num_batches_tracked = steps + 1
        y = (x - of_channels(mean)) * of_channels(r / std) + of_channels(d)
        return scale_and_shift(y, self.weight, self.bias).to(dtype)


class SumOverProcesses(torch.autograd.Function):
    """The sum over all processes; its gradient is summed in the same way."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        """The sum of every process's values, of their shape."""
        summed = values.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(summed)
        return summed

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        """The sum of every process's gradients."""
        summed = gradients[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(summed)
        return summed


class SyncBatchNorm(nn.SyncBatchNorm):
    """Batch normalization over the samples of all processes: torch's on a GPU, our own sums where torch has none.

    Mean first, then the squared distances from it: two sums over the processes, which is exact where E[x^2] - E[x]^2 is
    not. Without a process group it is BatchNorm2d.
    """

    def forward(self, x: Tensor) -> Tensor:
        """The output for this process's samples, of the shape of x."""
        if x.is_cuda or not (self.training and dist.is_available() and dist.is_initialized()):
            return super().forward(x)
        dtype, x = x.dtype, widened(x)
        count = SumOverProcesses.apply(x.new_tensor([x.numel() // x.shape[1]]))
        mean = SumOverProcesses.apply(x.sum(AXES)) / count
        var = SumOverProcesses.apply((x - of_channels(mean)).square().sum(AXES)) / count
        self._track(mean.detach(), var.detach() * (count / (count - 1).clamp(min=1)))
        return scale_and_shift(normalized(x, mean, var, self.eps), self.weight, self.bias).to(dtype)

    @torch.no_grad()
    def _track(self, mean: Tensor, unbiased_var: Tensor) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked += 1
        weight = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, weight)
        self.running_var.lerp_(unbiased_var, weight)


def of_channels(values: Tensor) -> Tensor:
    """Values of shape (..., c), to go with (n, c, h, w)."""
    return values[..., None, None]


def normalized(x: Tensor, mean: Tensor, var: Tensor, eps: float) -> Tensor:
    """(x - mean) / sqrt(var + eps)."""
    return (x - of_channels(mean)) * of_channels((var + eps).rsqrt())


def widened(x: Tensor) -> Tensor:
    """In float32 what comes in half precision: statistics are never taken in less."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


def scale_and_shift(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    """x * weight + bias by channel; x where they are not learned."""
    return x if weight is None or bias is None else x * of_channels(weight) + of_channels(bias)
