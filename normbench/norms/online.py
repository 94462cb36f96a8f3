"""Online normalization: a loop over samples of a few numbers per channel, then one scaled map.

Of a map z = (x - mean) / std and of its gradient, the recursions over samples need means over
(h, w) alone. x has shape (n, c, h, w); numbers of maps have shape (n, c).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from normbench.norms.arithmetic import (
    SAMPLE,
    ScaleAndShift,
    normalized,
    of_channels,
    over_root_mean_square,
    widened,
)
from normbench.norms.closed_form import by_parts, of_parts, sum_over_pixels
from normbench.norms.map_functions import moments_of_maps


class OnlineNorm(ScaleAndShift):
    """Normalization by the statistics of the samples before, then layer scaling."""

    running_mean: Tensor
    running_var: Tensor
    scale_control: Tensor
    shift_control: Tensor

    def __init__(self, num_features: int, alpha_f: float, alpha_b: float, eps: float) -> None:
        super().__init__(num_features)
        self.alpha_f, self.alpha_b, self.eps = alpha_f, alpha_b, eps
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.ones(num_features))
        self.register_buffer("scale_control", torch.zeros(num_features))
        self.register_buffer("shift_control", torch.zeros(num_features))

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            z = normalized(widened(x), self.running_mean, self.running_var, self.eps)
            return over_root_mean_square(super().forward(z), SAMPLE, self.eps).to(x.dtype)
        mean_of_map, var_of_map = moments_of_maps(x.detach())
        mean, std = self._of_samples_before(mean_of_map, var_of_map)
        of_z = (mean_of_map - mean) / std, var_of_map / std.square()
        controls = self.scale_control, self.shift_control
        learned = self.weight, self.bias
        y: Tensor = ControlledNormalization.apply(
            x, *learned, mean, std, *of_z, *controls, 1 - self.alpha_b, self.eps
        )
        return y

    def _of_samples_before(self, mean_of_map: Tensor, var_of_map: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and deviation before each sample, of shape (n, c); moves the running ones on."""
        alpha = torch.full_like(mean_of_map, self.alpha_f)
        mean, last_mean = _recursion(self.running_mean, alpha, (1 - alpha) * mean_of_map)
        step = mean_of_map - mean
        var_of_step = var_of_map + self.alpha_f * step.square()
        var, last_var = _recursion(self.running_var, alpha, (1 - alpha) * var_of_step)
        self.running_mean.copy_(last_mean)
        self.running_var.copy_(last_var)
        return mean, (var + self.eps).sqrt()


class ControlledNormalization(torch.autograd.Function):
    """y = u / sqrt(mean(u^2) + eps), u = z * weight + bias, z = (x - mean) / std.

    The mean of u^2 is over a sample; mean_z and var_z are those of z over (h, w). The controls keep
    gradients free of mean and scale on average; rate: 1 - alpha_b.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        mean: Tensor,
        std: Tensor,
        mean_z: Tensor,
        var_z: Tensor,
        scale_control: Tensor,
        shift_control: Tensor,
        rate: float,
        eps: float,
    ) -> Tensor:
        squares = weight.square() * var_z + (weight * mean_z + bias).square()
        root = (squares.mean(1, keepdim=True) + eps).rsqrt()

        def mapped(x: Tensor, mean: Tensor, scale: Tensor, shift: Tensor) -> tuple[Tensor, ...]:
            return ((x - mean).mul_(scale).add_(shift),)

        (y,) = by_parts(mapped, x, *map(of_channels, (mean, weight / std * root, bias * root)))
        ctx.save_for_backward(x, weight, bias, mean, std, mean_z, var_z, root)
        ctx.controls, ctx.rate = (scale_control, shift_control), rate
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        x, weight, bias, mean, std, mean_z, var_z, root = ctx.saved_tensors
        rate, pixels = ctx.rate, x.shape[2:].numel()

        def sums(dy: Tensor, x: Tensor, mean: Tensor) -> tuple[Tensor, ...]:
            return sum_over_pixels(dy), sum_over_pixels((x - mean).mul_(dy))

        of_dy, of_product = of_parts(sums, gradients[0], x, of_channels(mean))
        mean_dy, mean_dy_z = of_dy.flatten(1) / pixels, of_product.flatten(1) / std / pixels
        # du = root * dy - slope * u, where slope = root^3 * mean(dy * u) over a sample
        slope = root.pow(3) * (weight * mean_dy_z + bias * mean_dy).mean(1, keepdim=True)
        square_z = var_z + mean_z.square()
        mean_du = root * mean_dy - slope * (weight * mean_z + bias)
        mean_du_z = root * mean_dy_z - slope * (weight * square_z + bias * mean_z)
        # d = dz - rate * scale * z, and dx = d / std - rate * shift, the controls before the sample
        scale, last_scale = _recursion(ctx.controls[0], 1 - rate * square_z, weight * mean_du_z)
        mean_d = weight * mean_du - rate * scale * mean_z
        kept = torch.full_like(std, 1 - rate)
        shift, last_shift = _recursion(ctx.controls[1], kept, mean_d / std)
        for control, value in zip(ctx.controls, (last_scale, last_shift), strict=True):
            control.copy_(value)

        def derivative(
            dy: Tensor, x: Tensor, mean: Tensor, of_dy: Tensor, of_x: Tensor, rest: Tensor
        ) -> tuple[Tensor, ...]:
            return ((x - mean).mul_(of_x).add_(rest).add_(dy * of_dy),)

        of_x = -(weight.square() * slope + rate * scale) / std.square()
        rest = -weight * bias * slope / std - rate * shift
        numbers = mean, weight * root / std, of_x, rest
        (dx,) = by_parts(derivative, gradients[0], x, *map(of_channels, numbers))
        dweight, dbias = mean_du_z.sum(0) * pixels, mean_du.sum(0) * pixels
        return dx, dweight, dbias, None, None, None, None, None, None, None, None


def _recursion(state: Tensor, factors: Tensor, terms: Tensor) -> tuple[Tensor, Tensor]:
    """The states (c,) before each of n steps state * factor + term, (n, c), and after the last."""
    before = []
    for factor, term in zip(factors, terms, strict=True):
        before.append(state)
        state = torch.addcmul(term, state, factor)
    return torch.stack(before), state
