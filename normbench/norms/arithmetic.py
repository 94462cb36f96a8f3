"""Shared arithmetic of norms of feature maps: axes, statistics, scale and shift."""

from __future__ import annotations

import torch
from torch import Tensor, nn

# Axes of x (n, c, h, w) that statistics run over.
BATCH = (0, 2, 3)
SAMPLE = (1, 2, 3)
PIXELS = (2, 3)


class ScaleAndShift(nn.Module):
    """Learned scale and shift per channel: y = x * weight + bias, x (n, c, h, w), weight (c,)."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(num_features))
        self.bias = nn.Parameter(torch.zeros(num_features))

    def forward(self, x: Tensor) -> Tensor:
        return scale_and_shift(x, self.weight, self.bias)


def of_channels(values: Tensor) -> Tensor:
    """Appends axes for height and width to values (..., c), to broadcast with x (n, c, h, w)."""
    return values[..., None, None]


def widened(x: Tensor) -> Tensor:
    """Casts half precision to float32, the least precision for statistics."""
    return x.float() if x.itemsize == 2 else x


def unbiased_factor(x: Tensor) -> float:
    """N / (N - 1) for the N = n * h * w values of a channel: biased to unbiased variance."""
    count = x.numel() // x.shape[1]
    return count / max(count - 1, 1)


def mean_square(x: Tensor, axes: tuple[int, ...]) -> Tensor:
    """mean(x^2) over the axes, kept with length 1, at least in float32."""
    return widened(x.square()).mean(axes, keepdim=True)


def over_root_mean_square(x: Tensor, axes: tuple[int, ...], eps: float) -> Tensor:
    """x / sqrt(mean(x^2) + eps) over the axes, in x's type."""
    return x * (mean_square(x, axes) + eps).rsqrt().to(x.dtype)


def normalized(x: Tensor, mean: Tensor, var: Tensor, eps: float) -> Tensor:
    """(x - mean) / sqrt(var + eps), mean and var of shape (c,) or (n, c)."""
    return (x - of_channels(mean)) * of_channels((var + eps).rsqrt())


def scale_and_shift(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    """x * weight + bias per channel, in x's type; x itself where no parameters are learned."""
    if weight is None or bias is None:
        return x
    return x * of_channels(weight).to(x.dtype) + of_channels(bias).to(x.dtype)
