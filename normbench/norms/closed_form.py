"""Norms as single steps of autograd, with gradients in closed form.

Each keeps its input, statistics, and at most its output for the backward pass, and recomputes the
rest: autograd would keep every intermediate map. x has shape (n, c, h, w), parameters (c,). In
comments dy is the gradient of y, and mean and sum run over the axes of the statistics. Statistics
are at least float32; sums of gradients are added up in float32 and rounded to x's type, as
autograd's are.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from normbench.norms.arithmetic import BATCH, PIXELS, mean_square, of_channels, widened

CHANNELS = (1,)


class FilterResponse(torch.autograd.Function):
    """y = max(x * r * weight + bias, tau), r = 1 / sqrt(mean(x^2) + eps) over (h, w).

    Without tau there is no maximum.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, tau: Tensor | None, eps: float
    ) -> Tensor:
        r = (mean_square(x, PIXELS) + eps).rsqrt()
        y = x * (r * of_channels(weight)).to(x.dtype)
        y += of_channels(bias).to(x.dtype)
        if tau is None:
            ctx.save_for_backward(x, weight, r)
            return y
        y.clamp_min_(of_channels(tau).to(x.dtype))
        ctx.save_for_backward(x, weight, r, tau, y)
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        dy, dtau = gradients[0], None
        x, weight, r, *thresholded = ctx.saved_tensors
        if thresholded:
            tau, y = thresholded
            above = y - of_channels(tau).to(y.dtype)
            total = dy.sum(PIXELS, keepdim=True)
            dy = torch.ops.aten.threshold_backward(dy, above, 0)
        of_bias = widened(dy.sum(PIXELS, keepdim=True))
        along_x = widened((dy * x).sum(PIXELS, keepdim=True))
        if thresholded:
            dtau = _per_channel(widened(total) - of_bias, tau)
        # dx = weight * r * (dy - x * r^2 * mean(dy * x))
        scale = r * of_channels(weight)
        dx = dy * scale.to(x.dtype)
        dx -= x * (scale * r.square() * along_x / x[0, 0].numel()).to(x.dtype)
        return dx, _per_channel(along_x * r, weight), _per_channel(of_bias, weight), dtau, None


class OverChannels(torch.autograd.Function):
    """y = x * r * weight, r (n, 1, h, w): 1 / sqrt(mean(x^2) + eps) over c.

    With `centred`, the square root is of the unbiased variance + eps.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float, centred: bool) -> Tensor:
        if centred:
            mean = widened(x).mean(CHANNELS, keepdim=True)
            squares = mean_square(x - mean, CHANNELS) * _correction(x)
        else:
            mean, squares = None, mean_square(x, CHANNELS)
        r = (squares + eps).rsqrt()
        ctx.save_for_backward(x, weight, r, mean)
        y = x * r.to(x.dtype)
        y *= of_channels(weight).to(x.dtype)
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        dy = gradients[0]
        x, weight, r, mean = ctx.saved_tensors
        scale = of_channels(weight).to(x.dtype)
        # dx = r * (dy * weight - deviation * r^2 * mean(dy * weight * x)), where the deviation is x
        # itself unless centred.
        of_weight = dy * x
        along_x = widened((of_weight * scale).sum(CHANNELS, keepdim=True))
        slope = r.square() * along_x / x.shape[1]
        deviation = x
        if mean is not None:
            slope, deviation = slope * _correction(x), x - mean.to(x.dtype)
        dx = dy * scale
        dx -= deviation * slope.to(x.dtype)
        dx *= r.to(x.dtype)
        of_weight *= r.to(x.dtype)
        return dx, of_weight.sum(BATCH).to(weight.dtype), None, None


def _per_channel(values: Tensor, parameter: Tensor) -> Tensor:
    """Sums values (n, c, 1, 1) over n, for the gradient of a parameter (c,)."""
    return values.sum(0).flatten().to(parameter.dtype)


def _correction(x: Tensor) -> float:
    """c / (c - 1): from a biased to an unbiased variance over c; raises where c is 1."""
    return x.shape[1] / (x.shape[1] - 1)
