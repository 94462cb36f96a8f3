"""Norms of samples as single steps of autograd, with gradients in closed form.

Each keeps its input and its statistics for the backward pass and recomputes the rest: autograd
would keep every intermediate map. All arithmetic is at least float32, a few samples at a time: a
part fits the processor's cache, and there is no float32 copy of a whole map. x has shape
(n, c, h, w), parameters (c,), statistics (n, c, 1, 1) or (n, 1, h, w). In comments dy is the
gradient of y, and the mean runs over the axes of the statistics.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from normbench.norms.arithmetic import PIXELS, mean_square, of_channels, widened

CHANNELS = (1,)
PART = 2**18  # values; a float32 map of them takes 1 MiB


# Of tensors whose first axis is the samples.
Function = Callable[..., tuple[Tensor, ...]]


def by_parts(function: Function, *inputs: Tensor) -> tuple[Tensor, ...]:
    """function(*inputs), a few samples at a time on a CPU, in at least float32.

    The first result is a map; it gets the type and the layout of the first input.
    """
    x = inputs[0]
    first = torch.empty_like(x)

    def fill(to: Tensor, *part: Tensor) -> tuple[Tensor, ...]:
        values, *rest = function(*map(widened, part))
        to.copy_(values)
        return tuple(rest)

    return first, *_joined(fill, first, *inputs)


def of_parts(function: Function, *inputs: Tensor) -> tuple[Tensor, ...]:
    """As by_parts, without a map among the results."""
    return _joined(lambda *part: function(*map(widened, part)), *inputs)


def _joined(function: Function, *inputs: Tensor) -> tuple[Tensor, ...]:
    """function(*inputs), a few samples at a time on a CPU."""
    x = inputs[0]
    if not x.is_cpu or not len(x) or torch.compiler.is_compiling():
        return function(*inputs)
    size = max(PART // max(x[0].numel(), 1), 1)
    results = []
    for start in range(0, len(x), size):
        # A view each: of several views at once a recorded step could not write into one.
        part = [values[start : start + size] for values in inputs]
        results.append(function(*part))
    return tuple(map(torch.cat, zip(*results, strict=True)))


class FilterResponse(torch.autograd.Function):
    """y = max(x * r * weight + bias, tau), r = 1 / sqrt(mean(x^2) + eps) over (h, w).

    Without tau there is no maximum.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, tau: Tensor | None, eps: float
    ) -> Tensor:
        def response(x: Tensor) -> tuple[Tensor, ...]:
            r = (mean_square(x, PIXELS) + eps).rsqrt()
            y = (x * (r * of_channels(weight))).add_(of_channels(bias))
            return y if tau is None else y.clamp_min_(of_channels(tau)), r

        y, r = by_parts(response, x)
        ctx.save_for_backward(x, weight, bias, tau, r)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        x, weight, bias, tau, r = ctx.saved_tensors

        def derivatives(dy: Tensor, x: Tensor, r: Tensor) -> tuple[Tensor, ...]:
            scale = r * of_channels(weight)
            total = sum_over_pixels(dy)
            if tau is not None:
                above = (x * scale).add_(of_channels(bias - tau))
                dy = torch.ops.aten.threshold_backward(dy, above, 0)
            dbias, along_x = sum_over_pixels(dy), sum_over_pixels(dy * x)
            # dx = weight * r * (dy - x * r^2 * mean(dy * x))
            dx = (dy * scale).sub_(x * (scale * r.square() * along_x / x.shape[2:].numel()))
            return dx, along_x * r, dbias, total - dbias

        dx, dweight, dbias, dtau = by_parts(derivatives, gradients[0], x, r)
        of_tau = None if tau is None else _of_samples(dtau, tau)
        return dx, _of_samples(dweight, weight), _of_samples(dbias, bias), of_tau, None


class OverChannels(torch.autograd.Function):
    """y = x * r * weight, r (n, 1, h, w): 1 / sqrt(mean(x^2) + eps) over c.

    With `centred`, the square root is of the unbiased variance + eps.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float, centred: bool) -> Tensor:
        # One channel has no unbiased variance: 1 / 0 raises.
        count = x.shape[1] - 1 if centred else x.shape[1]
        correction = x.shape[1] / count

        def divided(x: Tensor) -> tuple[Tensor, ...]:
            r = (mean_square(_deviations(x, centred), CHANNELS) * correction + eps).rsqrt()
            return (x * r).mul_(of_channels(weight)), r

        y, r = by_parts(divided, x)
        ctx.save_for_backward(x, weight, r)
        ctx.centred, ctx.count = centred, count
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        x, weight, r = ctx.saved_tensors

        def derivatives(dy: Tensor, x: Tensor, r: Tensor) -> tuple[Tensor, ...]:
            dz, product = dy * of_channels(weight), dy * x
            along_x = (product * of_channels(weight)).sum(CHANNELS, keepdim=True)
            # dx = r * (dz - d * r^2 * sum(dz * x) / count), where dz = dy * weight, and d is x
            # minus its mean if centred, else x.
            slope = r.square() * along_x / ctx.count
            dx = dz.sub_(_deviations(x, ctx.centred) * slope).mul_(r)
            return dx, sum_over_pixels(product.mul_(r))

        dx, dweight = by_parts(derivatives, gradients[0], x, r)
        return dx, _of_samples(dweight, weight), None, None


def _deviations(x: Tensor, centred: bool) -> Tensor:
    return x - x.mean(CHANNELS, keepdim=True) if centred else x


class InstanceNormalization(torch.autograd.Function):
    """y = (x - mean) * r * weight + bias, r = 1 / sqrt(var + eps) over (h, w).

    Weight and bias may both be None.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
    ) -> Tensor:
        def normalized(x: Tensor) -> tuple[Tensor, ...]:
            mean = x.mean(PIXELS, keepdim=True)
            deviations = x - mean
            r = (mean_square(deviations, PIXELS) + eps).rsqrt()
            y = deviations.mul_(r if weight is None else r * of_channels(weight))
            return y if bias is None else y.add_(of_channels(bias)), mean, r

        y, mean, r = by_parts(normalized, x)
        ctx.save_for_backward(x, weight, mean, r)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        x, weight, mean, r = ctx.saved_tensors

        def derivatives(dy: Tensor, x: Tensor, mean: Tensor, r: Tensor) -> tuple[Tensor, ...]:
            z = (x - mean).mul_(r)
            dbias, dweight = sum_over_pixels(dy), sum_over_pixels(dy * z)
            # dx = weight * r * (dy - mean(dy) - z * mean(dy * z)), where z = (x - mean) * r
            pixels = x.shape[2:].numel()
            dx = z.mul_(dweight / -pixels).add_(dy).sub_(dbias / pixels)
            return dx.mul_(r if weight is None else r * of_channels(weight)), dweight, dbias

        dx, dweight, dbias = by_parts(derivatives, gradients[0], x, mean, r)
        if weight is None:
            return dx, None, None, None
        return dx, _of_samples(dweight, weight), _of_samples(dbias, weight), None


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
        def gated(x: Tensor) -> tuple[Tensor, ...]:
            mean = _of_groups(x.mean(PIXELS, keepdim=True), num_groups) * centred
            squares = mean_square(x - mean if centred else x, PIXELS)
            r = (_of_groups(squares, num_groups) + eps).rsqrt()
            y = _gate(x, v).mul_(x).mul_(r * of_channels(weight)).add_(of_channels(bias))
            return y, mean, r

        y, mean, r = by_parts(gated, x)
        ctx.save_for_backward(x, v, weight, mean, r)
        ctx.num_groups = num_groups
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        x, v, weight, mean, r = ctx.saved_tensors

        def derivatives(dy: Tensor, x: Tensor, mean: Tensor, r: Tensor) -> tuple[Tensor, ...]:
            scale, gate = r * of_channels(weight), _gate(x, v)
            dx = dy * gate
            product = dx * x
            of_scale = sum_over_pixels(product)
            # The derivative of x * gate by x is gate + v * x * gate * (1 - gate), by v it is
            # x^2 * gate * (1 - gate).
            product.addcmul_(product, gate, value=-1)
            if v is None:
                dx.add_(product)
            else:
                dx.addcmul_(product, of_channels(v))
            dv = scale * sum_over_pixels(product.mul_(x))
            # dx = dy * scale * (gate + v * x * gate * (1 - gate))
            #      - (x - mean) * r^2 * mean(dy * scale * x * gate), the means of a group
            slope = r.square() * _of_groups(of_scale * scale, ctx.num_groups) / x.shape[2:].numel()
            dx.mul_(scale).sub_((x - mean).mul_(slope))
            return dx, dv, of_scale * r, sum_over_pixels(dy)

        dx, dv, dweight, dbias = by_parts(derivatives, gradients[0], x, mean, r)
        of_v = None if v is None else _of_samples(dv, v)
        parameters = _of_samples(dweight, weight), _of_samples(dbias, weight)
        return dx, of_v, *parameters, None, None, None


def _gate(x: Tensor, v: Tensor | None) -> Tensor:
    """sigmoid(v * x), a new map."""
    return x.sigmoid() if v is None else (x * of_channels(v)).sigmoid_()


def _of_groups(values: Tensor, num_groups: int) -> Tensor:
    """The mean of every channel's group, values (n, c, 1, 1)."""
    groups: Tensor = values.unflatten(1, (num_groups, -1))
    return groups.mean(2, keepdim=True).expand_as(groups).flatten(1, 2)


def sum_over_pixels(values: Tensor) -> Tensor:
    """Sums values (n, c, h, w) over (h, w)."""
    return values.sum(PIXELS, keepdim=True)


def _of_samples(values: Tensor, parameter: Tensor) -> Tensor:
    """Sums values (n, c, 1, 1) over n, for the gradient of a parameter (c,)."""
    return values.sum(0).flatten().to(parameter.dtype)
