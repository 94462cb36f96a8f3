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

from normbench.norms.arithmetic import (
    BATCH,
    PIXELS,
    group_moments,
    mean_square,
    of_channels,
    var_and_mean,
    widened,
)

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
            total = dy.sum(PIXELS, keepdim=True)
            above = (y - of_channels(tau).to(y.dtype)).sign_()  # 0 or 1
            dy = above.mul_(dy)
        of_bias = widened(dy.sum(PIXELS, keepdim=True))
        dx = dy * x
        along_x = widened(dx.sum(PIXELS, keepdim=True))
        if thresholded:
            dtau = _per_channel(widened(total) - of_bias, tau)
        # dx = weight * r * (dy - x * r^2 * mean(dy * x))
        scale = r * of_channels(weight)
        slope = scale * r.square() * along_x / x[0, 0].numel()
        torch.mul(dy, scale.to(x.dtype), out=dx)
        dx.addcmul_(x, slope.to(x.dtype), value=-1)
        return dx, _per_channel(along_x * r, weight), _per_channel(of_bias, weight), dtau, None


class OverChannels(torch.autograd.Function):
    """y = x * r * weight, r (n, 1, h, w): 1 / sqrt(mean(x^2) + eps) over c.

    With `centred`, the square root is of the unbiased variance + eps.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float, centred: bool) -> Tensor:
        if centred:
            var, mean = var_and_mean(x, CHANNELS)
            squares = var * _correction(x)
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
        # dx = r * (dy * weight - deviation * r^2 * mean(dy * weight * x)), where the deviation is x
        # itself unless centred.
        dx = dy * of_channels(weight).to(x.dtype)
        product = dx * x
        slope = r.square() * widened(product.sum(CHANNELS, keepdim=True)) / x.shape[1]
        if mean is not None:
            slope = slope * _correction(x)
            dx += (slope * mean).to(x.dtype)
        dx.addcmul_(x, slope.to(x.dtype), value=-1)
        dx *= r.to(x.dtype)
        torch.mul(dy, x, out=product)
        product *= r.to(x.dtype)
        return dx, product.sum(BATCH).to(weight.dtype), None, None


class GatedOverRoot(torch.autograd.Function):
    """y = x * sigmoid(v * x) * r * weight + bias, r: 1 / sqrt(mean(x^2) + eps) of a group.

    Groups are of channels of a sample. Without v it is 1. With `centred`, the square root is of
    the variance + eps.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        v: Tensor | None,
        weight: Tensor,
        bias: Tensor,
        num_groups: int,
        eps: float,
        centred: bool,
    ) -> Tensor:
        if centred:
            mean, r = group_moments(x, weight, num_groups, eps)
        else:
            squares = _of_groups(mean_square(x, PIXELS), num_groups)
            mean, r = None, (squares + eps).rsqrt()
        y = _gate(x, v)
        y *= x
        y *= (r * of_channels(weight)).to(x.dtype)
        y += of_channels(bias).to(x.dtype)
        ctx.save_for_backward(x, v, weight, mean, r)
        ctx.num_groups = num_groups
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        dy, dv = gradients[0], None
        x, v, weight, mean, r = ctx.saved_tensors
        scale = r * of_channels(weight)
        gate = _gate(x, v)
        dx = dy * gate
        product = dx * x
        of_scale = widened(product.sum(PIXELS, keepdim=True))
        # The derivative of x * gate by x is gate + v * x * gate * (1 - gate).
        product.addcmul_(product, gate, value=-1)
        if v is None:
            dx += product
        else:
            dx.addcmul_(product, of_channels(v).to(x.dtype))
            product *= x
            dv = _per_channel(widened(product.sum(PIXELS, keepdim=True)) * scale, v)
        # dx = dy * scale * (gate + v * x * gate * (1 - gate)) - deviation * slope, where
        # slope = r^2 * mean(dy * scale * x * gate), the mean of a group, and the deviation is x
        # itself unless centred.
        dx *= scale.to(x.dtype)
        slope = r.square() * _of_groups(of_scale * scale, ctx.num_groups) / x[0, 0].numel()
        dx.addcmul_(x, slope.to(x.dtype), value=-1)
        if mean is not None:
            dx += (slope * mean).to(x.dtype)
        dbias = _per_channel(widened(dy.sum(PIXELS, keepdim=True)), weight)
        return dx, dv, _per_channel(of_scale * r, weight), dbias, None, None, None


def _gate(x: Tensor, v: Tensor | None) -> Tensor:
    """sigmoid(v * x), a new map."""
    if v is None:
        return x.sigmoid()
    return (x * of_channels(v).to(x.dtype)).sigmoid_()


def _of_groups(values: Tensor, num_groups: int) -> Tensor:
    """The mean of every channel's group, values (n, c, 1, 1)."""
    groups: Tensor = values.unflatten(1, (num_groups, -1))
    return groups.mean(2, keepdim=True).expand_as(groups).flatten(1, 2)


def _per_channel(values: Tensor, parameter: Tensor) -> Tensor:
    """Sums values (n, c, 1, 1) over n, for the gradient of a parameter (c,)."""
    return values.sum(0).flatten().to(parameter.dtype)


def _correction(x: Tensor) -> float:
    """c / (c - 1): from a biased to an unbiased variance over c; raises where c is 1."""
    return x.shape[1] / (x.shape[1] - 1)
