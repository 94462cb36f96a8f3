"""Norms that train with statistics of earlier batches or samples, and in the backward pass too.

The backward pass is not the derivative of the forward pass: both keep state. In each formula x has
shape (n, c, h, w); gamma and beta of shape (c,) are learned.
"""

from __future__ import annotations

from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from normbench.norms.arithmetic import (
    PIXELS,
    ScaleAndShift,
    mean_square,
    of_channels,
)
from normbench.norms.closed_form import by_parts, of_parts, sum_over_pixels
from normbench.norms.map_functions import scaled
from normbench.norms.online import OnlineNorm
from normbench.norms.registry import norms
from normbench.norms.spec import Eps, Momentum, NormSpec
from normbench.norms.weight import of_convolutions, without_tokens

Decay = Annotated[float, Field(ge=0, lt=1)]


@norms.register("mabn", title="Moving Average BatchNorm")
def mabn(
    *,
    window: Annotated[int, Field(ge=1)] = 16,
    warmup_steps: Annotated[int, Field(ge=0)] = 100,
    r_max: Annotated[float, Field(ge=1)] = 5.0,
    eps: Eps = 1e-5,
    momentum: Momentum = 0.02,
) -> NormSpec:
    """Moving average batch normalization, of mean squares, in both passes (arXiv:2001.06838).

    y = x / sqrt(q + eps) * r * gamma + beta, q of shape (c,) the mean over the last `window`
    batches of mean(x^2) over the axes (n, h, w). Without gradient: r = sqrt((q + eps) / (running +
    eps)) within 1 / r_max and r_max. The backward pass is dx = (g - z * p) / sqrt(q + eps), z =
    x / sqrt(q + eps), g the gradient of z and p the mean of mean(g * z) over as many batches. For
    `warmup_steps` q and p are those of the batch and r = 1. Evaluation takes the running average of
    mean(x^2); a momentum of 0.02 is 0.98 in the paper. No mean is removed: every convolution's
    filters are centred instead, W - mean(W) over the axes (in, h, w). The authors' code begins r
    later, at step 1000.
    """
    spec = NormSpec(
        "batch",
        lambda num_features: MovingAverageBatchNorm(
            num_features, window, warmup_steps, r_max, eps, momentum
        ),
        reparametrize=of_convolutions(lambda conv: CentredWeight()),
    )
    return without_tokens(spec)


@norms.register("online", title="Online Norm")
def online(*, alpha_f: Decay = 0.999, alpha_b: Decay = 0.99, eps: Eps = 1e-5) -> NormSpec:
    """Online normalization: statistics of the samples before, one by one (arXiv:1905.05894).

    z_t = (x_t - mean_{t-1}) / sqrt(var_{t-1} + eps), mean and var of shape (c,), with m_t and v_t
    of sample t over the axes (h, w): mean_t = mean_{t-1} + (1 - alpha_f) (m_t - mean_{t-1}) and
    var_t = alpha_f var_{t-1} + (1 - alpha_f) v_t + alpha_f (1 - alpha_f) (m_t - mean_{t-1})^2.
    y = u / sqrt(mean(u^2) + eps), u = z * gamma + beta, the mean of a sample (c, h, w). The
    backward pass from dz keeps two controls of shape (c,): d_t = dz_t - (1 - alpha_b) e_{t-1} z_t,
    e_t = e_{t-1} + mean(d_t z_t); dx_t = d_t / sqrt(var_{t-1} + eps) - (1 - alpha_b) f_{t-1}, f_t =
    f_{t-1} + mean(dx_t). Made for batch 1: of a larger batch, samples go one after another.
    Evaluation takes the last mean and var. The authors' later code clamps u to -5 and 5 by default,
    in place of the paper's division.
    """
    return NormSpec(
        "batch",
        lambda num_features: OnlineNorm(num_features, alpha_f, alpha_b, eps),
        has_own_gradient=True,
    )


class CentredWeight(nn.Module):
    """Subtracts each filter's mean over the axes (in, h, w)."""

    def forward(self, weight: Tensor) -> Tensor:
        return weight - weight.mean((1, 2, 3), keepdim=True)


class MovingAverageBatchNorm(ScaleAndShift):
    """Division by moving averages of root mean squares, with a moving average in the gradient.

    `recent_mean_squares` and `recent_gradients` hold the last batches' statistics, oldest first.
    """

    running_mean_square: Tensor
    num_batches_tracked: Tensor
    recent_mean_squares: Tensor
    recent_gradients: Tensor

    def __init__(
        self,
        num_features: int,
        window: int,
        warmup: int,
        r_max: float,
        eps: float,
        momentum: float,
    ) -> None:
        super().__init__(num_features)
        self.warmup, self.r_max, self.eps, self.momentum = warmup, r_max, eps, momentum
        self.register_buffer("running_mean_square", torch.ones(num_features))
        self.register_buffer("num_batches_tracked", torch.tensor(0))
        self.register_buffer("recent_mean_squares", torch.ones(window, num_features))
        self.register_buffer("recent_gradients", torch.zeros(window, num_features))

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            scale = (self.running_mean_square + self.eps).rsqrt() * self.weight
            return scaled(x, torch.zeros_like(scale), scale, self.bias)
        with torch.no_grad():
            is_warm = self.num_batches_tracked >= self.warmup
            (of_maps,) = of_parts(lambda x: (mean_square(x, PIXELS),), x)
            of_batch = of_maps.mean(0).flatten()
            # New tensors, not in place: compiled code computes std and r again in the backward
            # pass, from the values that these had in the forward pass.
            self.recent_mean_squares = _appended(self.recent_mean_squares, of_batch)
            squares = torch.where(is_warm, self.recent_mean_squares.mean(0), of_batch)
            std = (squares + self.eps).sqrt()
            r = std / (self.running_mean_square + self.eps).sqrt()
            r = torch.where(is_warm, r.clamp(1 / self.r_max, self.r_max), 1.0)
            self.running_mean_square = self.running_mean_square.lerp(of_batch, self.momentum)
            self.num_batches_tracked = self.num_batches_tracked + 1
        state = self.recent_gradients, is_warm
        y: Tensor = MovingDivision.apply(x, self.weight, self.bias, std, r, *state)
        return y


class MovingDivision(torch.autograd.Function):
    """y = z * r * weight + bias, z = x / std.

    The gradient has a moving average in the place of mean(g * z), g the gradient of z.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        std: Tensor,
        r: Tensor,
        recent: Tensor,
        is_warm: Tensor,
    ) -> Tensor:
        scale = of_channels(r / std * weight)

        def divided(x: Tensor) -> tuple[Tensor, ...]:
            return ((x * scale).add_(of_channels(bias)),)

        (y,) = by_parts(divided, x)
        ctx.save_for_backward(x, weight, std, r, is_warm)
        ctx.recent = recent
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        x, weight, std, r, is_warm = ctx.saved_tensors

        def sums(dy: Tensor, x: Tensor) -> tuple[Tensor, ...]:
            return sum_over_pixels(dy * x), sum_over_pixels(dy)

        along_x, total = of_parts(sums, gradients[0], x)
        dweight, dbias = along_x.sum(0).flatten() * r / std, total.sum(0).flatten()
        of_batch = dweight * weight / (x.numel() // x.shape[1])
        recent = _appended(ctx.recent, of_batch)
        mean = torch.where(is_warm, recent.mean(0), of_batch)
        ctx.recent.copy_(recent)
        scale, slope = of_channels(r / std * weight), of_channels(mean / std.square())

        def derivative(dy: Tensor, x: Tensor) -> tuple[Tensor, ...]:
            # dx = (g - z * mean) / std, where g = dy * r * weight
            return ((dy * scale).sub_(x * slope),)

        (dx,) = by_parts(derivative, gradients[0], x)
        return dx, dweight, dbias, None, None, None, None


def _appended(recent: Tensor, values: Tensor) -> Tensor:
    """The recent values (window, c), with `values` at the end instead of the oldest."""
    return torch.cat([recent[1:], values[None]])
