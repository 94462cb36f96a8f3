"""Whitening over the batch: channels of a group get the identity as their covariance."""

from __future__ import annotations

from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import conv2d
from torch.nn.grad import conv2d_weight

from normbench.norms.arithmetic import ScaleAndShift, of_channels
from normbench.norms.closed_form import by_parts, of_parts, sum_over_pixels
from normbench.norms.refusals import first_of, one_value_per_channel
from normbench.norms.registry import norms
from normbench.norms.spec import Eps, Momentum, NormSpec, Refusal, Shape

Count = Annotated[int, Field(ge=1)]


@norms.register("iternorm", title="IterNorm")
def iternorm(
    *, iterations: Count = 5, group_size: Count = 64, eps: Eps = 1e-5, momentum: Momentum = 0.1
) -> NormSpec:
    """Iterative normalization: whitening by Newton's iteration (arXiv:1904.03441, algorithm 1).

    y = W (x - mean) * gamma + beta for each pixel's channels of a group; mean of shape (c,) over
    the axes (n, h, w). W is near S^(-1/2), S = cov + eps * I of shape (groups, d, d), d =
    min(group_size, c): P_0 = I, P_k = (3 P_{k-1} - P_{k-1}^3 S / tr S) / 2 and W = P_T / sqrt(tr S)
    with T = `iterations`. Directions whose share of tr S is small are whitened in part: more
    iterations whiten them, too. Evaluation takes running averages of mean and W.
    """

    def divides(shape: Shape) -> Refusal | None:
        if shape[1] % min(group_size, shape[1]) == 0:
            return None
        return Refusal(f"group_size={group_size} does not divide {shape[1]} channels")

    return NormSpec(
        "batch",
        lambda num_features: IterNorm(num_features, iterations, group_size, eps, momentum),
        refuse=first_of(divides, one_value_per_channel),
    )


class IterNorm(ScaleAndShift):
    """Whitening of groups of channels, with a scale and a shift per channel."""

    running_mean: Tensor
    running_whitening: Tensor

    def __init__(
        self, num_features: int, iterations: int, group_size: int, eps: float, momentum: float
    ) -> None:
        super().__init__(num_features)
        self.iterations, self.eps, self.momentum = iterations, eps, momentum
        size = min(group_size, num_features)
        identity = torch.eye(size).repeat(num_features // size, 1, 1)
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_whitening", identity)

    def forward(self, x: Tensor) -> Tensor:
        with without_autocast(x):
            mean, whitening = self.running_mean, self.running_whitening
            if self.training:
                mean, covariance = MeanAndCovariance.apply(x, whitening.shape[-1])
                whitening = self.whitening_of(covariance)
                with torch.no_grad():
                    self.running_mean.lerp_(mean, self.momentum)
                    self.running_whitening.lerp_(whitening, self.momentum)
            matrices = whitening * self.weight.view(*whitening.shape[:2], 1)
            y: Tensor = MixedMap.apply(x, mean, matrices, self.bias)
            return y

    def rows_of(self, x: Tensor) -> Tensor:
        """x (n, c, h, w) as rows of channels by group, (groups, d, n * h * w)."""
        return x.transpose(0, 1).reshape(len(self.running_whitening), -1, x[:, 0].numel())

    def whitening_of(self, covariance: Tensor) -> Tensor:
        """W of the groups' covariances (groups, d, d)."""
        identity = torch.eye(covariance.shape[-1], dtype=covariance.dtype, device=covariance.device)
        return inverse_root(covariance + self.eps * identity, self.iterations)


def inverse_root(matrices: Tensor, iterations: int) -> Tensor:
    """Newton's approximation of S^(-1/2), of symmetric positive matrices S (groups, d, d)."""
    trace = matrices.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None]
    normalized = matrices / trace
    identity = torch.eye(matrices.shape[-1], dtype=matrices.dtype, device=matrices.device)
    # The paper's P_k, with P_k S kept beside it: iterating P_k alone amplifies rounding without
    # bound once small directions have converged.
    product, root = normalized, identity
    for _ in range(iterations):
        step = 1.5 * identity - 0.5 * (root @ product)
        product, root = product @ step, step @ root
    return root * trace.rsqrt()


class MeanAndCovariance(torch.autograd.Function):
    """Mean (c,) and covariance (groups, d, d) of the channels of x, at least in float32."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, size: int) -> tuple[Tensor, ...]:
        def squares(x: Tensor) -> tuple[Tensor, ...]:
            deviations = x - of_channels(mean)
            return (products(deviations, deviations, size)[None],)

        count = x.numel() // x.shape[1]
        (sums,) = of_parts(lambda x: (sum_over_pixels(x),), x)
        mean = sums.sum(0).flatten() / count
        (covariance,) = of_parts(squares, x)
        ctx.save_for_backward(x, mean)
        return mean, covariance.sum(0) / count

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dmean: Tensor, dcovariance: Tensor) -> Any:
        x, mean = ctx.saved_tensors
        count = x.numel() // x.shape[1]
        matrices, shift = (dcovariance + dcovariance.mT) / count, of_channels(dmean / count)

        def derivative(x: Tensor) -> tuple[Tensor, ...]:
            # dx = (dcovariance + dcovariance^T) (x - mean) / count + dmean / count
            return (mixed(matrices, x - of_channels(mean)).add_(shift),)

        with without_autocast(x):
            (dx,) = by_parts(derivative, x)
        return dx, None


class MixedMap(torch.autograd.Function):
    """y = M (x - mean) + shift for each pixel's channels of a group, M of shape (groups, d, d)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, mean: Tensor, matrices: Tensor, shift: Tensor) -> Tensor:
        def mapped(x: Tensor) -> tuple[Tensor, ...]:
            return (mixed(matrices, x - of_channels(mean)).add_(of_channels(shift)),)

        (y,) = by_parts(mapped, x)
        ctx.save_for_backward(x, mean, matrices)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        x, mean, matrices = ctx.saved_tensors
        size = matrices.shape[-1]

        def derivatives(dy: Tensor, x: Tensor) -> tuple[Tensor, ...]:
            dmatrices = products(dy, x - of_channels(mean), size)
            return mixed(matrices.mT, dy), dmatrices[None], sum_over_pixels(dy)

        with without_autocast(x):
            dx, dmatrices, dshift = by_parts(derivatives, gradients[0], x)
            dshift = dshift.sum(0).flatten()
            dmean = -(dshift.view(-1, 1, size) @ matrices).flatten()
        return dx, dmean, dmatrices.sum(0), dshift


def without_autocast(x: Tensor) -> torch.autocast:
    """Switches autocast off: in bf16, matrix products lose the small directions."""
    return torch.autocast(x.device.type, enabled=False)


# On a CPU, convolutions take maps in either layout as they lie. On a GPU they may round to TF32.


def mixed(matrices: Tensor, x: Tensor) -> Tensor:
    """M x for each pixel's channels of a group, M of shape (groups, d, d)."""
    groups, size, _ = matrices.shape
    if x.is_cpu:
        return conv2d(x, matrices.reshape(-1, size, 1, 1), groups=groups)
    columns: Tensor = matrices @ _columns(x, size)
    return columns.reshape(x.shape)


def products(first: Tensor, second: Tensor, size: int) -> Tensor:
    """first second^T of each group's channels, summed over all pixels: (groups, d, d)."""
    if first.is_cpu:
        kernels = (first.shape[1], size, 1, 1)
        groups = first.shape[1] // size
        summed: Tensor = conv2d_weight(second, kernels, first, groups=groups)
        return summed.view(groups, size, size)
    of_samples: Tensor = _columns(first, size) @ _columns(second, size).mT
    return of_samples.sum(0)


def _columns(x: Tensor, size: int) -> Tensor:
    """x (n, c, h, w) as a column per pixel and group, (n, groups, size, h * w)."""
    columns: Tensor = x.flatten(2).unflatten(1, (-1, size))
    return columns
