"""Functions of a map by a few numbers per sample and channel, with gradients in closed form.

As in closed_form.py, x has shape (n, c, h, w), and all that is kept for the backward pass is x and
what is as small as its moments. Formulas of moments between these functions are left to autograd.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from normbench.norms.arithmetic import PIXELS, of_channels
from normbench.norms.closed_form import by_parts, of_parts, sum_over_pixels


def moments_of_maps(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance over (h, w), of shape (n, c), at least in float32."""
    mean, var = InstanceMoments.apply(x)
    return mean.flatten(1), var.flatten(1)


def moments_of_batch(mean: Tensor, var: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of shape (c,) over (n, h, w), from those of the maps (n, c)."""
    return mean.mean(0), var.mean(0) + mean.var(0, correction=0)


def scaled(x: Tensor, centre: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """(x - centre) * scale + shift in x's type; the numbers have shape (c,) or (n, c)."""
    y: Tensor = ScaledMap.apply(x, *_of_maps(x, centre, scale, shift))
    return y


def tanh_of(x: Tensor, slope: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """tanh(slope * x) * weight + bias in x's type; the numbers have shape (1,) or (c,)."""
    # tanh(u) is 2 * sigmoid(2 * u) - 1, and torch's sigmoid takes a fifth of its tanh's time.
    numbers = _of_maps(x, 2 * slope, torch.zeros_like(slope), 2 * weight, bias - weight)
    y: Tensor = BoundedMap.apply(x, *numbers, False)
    return y


def erf_of(x: Tensor, slope: Tensor, shift: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """erf(slope * x + shift) * weight + bias in x's type; the numbers have shape (1,) or (c,)."""
    y: Tensor = BoundedMap.apply(x, *_of_maps(x, slope, shift, weight, bias), True)
    return y


def _of_maps(x: Tensor, *numbers: Tensor) -> list[Tensor]:
    """Numbers of shape (1,), (c,) or (n, c) as (n, c, 1, 1)."""
    return [of_channels(values.expand(x.shape[:2])) for values in numbers]


class InstanceMoments(torch.autograd.Function):
    """Mean and biased variance over (h, w), at least in float32."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, ...]:
        def moments(x: Tensor) -> tuple[Tensor, ...]:
            mean = x.mean(PIXELS, keepdim=True)
            return mean, (x - mean).square_().mean(PIXELS, keepdim=True)

        mean, var = of_parts(moments, x)
        ctx.save_for_backward(x, mean)
        return mean, var

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        def derivative(x: Tensor, mean: Tensor, dmean: Tensor, dvar: Tensor) -> tuple[Tensor, ...]:
            # dx = (dmean + 2 * (x - mean) * dvar) / (h * w)
            pixels = x.shape[2:].numel()
            return ((x - mean).mul_(dvar * (2 / pixels)).add_(dmean / pixels),)

        (dx,) = by_parts(derivative, *ctx.saved_tensors, *gradients)
        return dx


class ScaledMap(torch.autograd.Function):
    """y = (x - centre) * scale + shift, the numbers of shape (n, c, 1, 1)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, centre: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        def mapped(x: Tensor, centre: Tensor, scale: Tensor, shift: Tensor) -> tuple[Tensor, ...]:
            return ((x - centre).mul_(scale).add_(shift),)

        (y,) = by_parts(mapped, x, centre, scale, shift)
        ctx.save_for_backward(x, centre, scale)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        def derivatives(dy: Tensor, x: Tensor, centre: Tensor, scale: Tensor) -> tuple[Tensor, ...]:
            dscale, dshift = sum_over_pixels((x - centre).mul_(dy)), sum_over_pixels(dy)
            return dy * scale, -scale * dshift, dscale, dshift

        return by_parts(derivatives, gradients[0], *ctx.saved_tensors)


class BoundedMap(torch.autograd.Function):
    """y = f(slope * x + shift) * weight + bias, the numbers of shape (n, c, 1, 1).

    f: erf if is_erf, else the sigmoid.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        slope: Tensor,
        shift: Tensor,
        weight: Tensor,
        bias: Tensor,
        is_erf: bool,
    ) -> Tensor:
        def bounded(
            x: Tensor, slope: Tensor, shift: Tensor, weight: Tensor, bias: Tensor
        ) -> tuple[Tensor, ...]:
            u = (x * slope).add_(shift)
            values = u.erf_() if is_erf else u.sigmoid_()
            return (values.mul_(weight).add_(bias),)

        (y,) = by_parts(bounded, x, slope, shift, weight, bias)
        ctx.save_for_backward(x, slope, shift, weight)
        ctx.is_erf = is_erf
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        is_erf = ctx.is_erf

        def derivatives(
            dy: Tensor, x: Tensor, slope: Tensor, shift: Tensor, weight: Tensor
        ) -> tuple[Tensor, ...]:
            u = (x * slope).add_(shift)
            if is_erf:
                product = u.square().neg_().exp_().mul_(2 / math.sqrt(math.pi)).mul_(dy)
                values = u.erf_()
            else:
                values = u.sigmoid_()
                product = torch.ops.aten.sigmoid_backward(dy, values)
            # du = dy * f'(u) * weight, where the product is dy * f'(u)
            dslope = sum_over_pixels(product * x).mul_(weight)
            dshift = sum_over_pixels(product).mul_(weight)
            dweight, dbias = sum_over_pixels(values.mul_(dy)), sum_over_pixels(dy)
            return product.mul_(slope * weight), dslope, dshift, dweight, dbias

        return *by_parts(derivatives, gradients[0], *ctx.saved_tensors), None


class OverLarger(torch.autograd.Function):
    """y = x / max(root, slope * x + size) * weight + bias, the numbers of shape (n, c, 1, 1)."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, root: Tensor, slope: Tensor, size: Tensor, weight: Tensor, bias: Tensor
    ) -> Tensor:
        def divided(
            x: Tensor, root: Tensor, slope: Tensor, size: Tensor, weight: Tensor, bias: Tensor
        ) -> tuple[Tensor, ...]:
            larger = (x * slope).add_(size).clamp_min_(root)
            return (larger.reciprocal_().mul_(x).mul_(weight).add_(bias),)

        (y,) = by_parts(divided, x, root, slope, size, weight, bias)
        ctx.save_for_backward(x, root, slope, size, weight)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        def derivatives(
            dy: Tensor, x: Tensor, root: Tensor, slope: Tensor, size: Tensor, weight: Tensor
        ) -> tuple[Tensor, ...]:
            larger = (x * slope).add_(size).clamp_min_(root)
            above = larger - root
            inverse = larger.reciprocal_()
            dx = dy * inverse
            product = dx * x
            dweight, dbias = sum_over_pixels(product), sum_over_pixels(dy)
            # The gradient of larger is -dy * weight * x / larger^2. It goes to the line where that
            # is larger, else to root.
            of_larger = product.mul_(inverse)
            of_line = torch.ops.aten.threshold_backward(of_larger, above, 0)
            total, dsize = sum_over_pixels(of_larger), sum_over_pixels(of_line)
            # dx = dy * weight / larger + the line's gradient * slope
            dx.addcmul_(of_line, slope, value=-1).mul_(weight)
            dslope = sum_over_pixels(of_line.mul_(x))
            return dx, (dsize - total) * weight, -dslope * weight, -dsize * weight, dweight, dbias

        return by_parts(derivatives, gradients[0], *ctx.saved_tensors)
