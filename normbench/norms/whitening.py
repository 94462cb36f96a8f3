"""Whitening over the batch: channels of a group get the identity as their covariance."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from normbench.norms.arithmetic import BATCH, ScaleAndShift, of_channels, widened
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
        # Matrix products in bf16, which autocast would choose, lose the small directions.
        with torch.autocast(x.device.type, enabled=False):
            return self._whitened(widened(x)).to(x.dtype)

    def _whitened(self, x: Tensor) -> Tensor:
        mean = self.running_mean
        if self.training:
            mean = x.mean(BATCH)
        rows = self.rows_of(x - of_channels(mean))
        whitening = self.running_whitening
        if self.training:
            whitening = self.whitening_of(rows @ rows.mT / rows.shape[-1])
            with torch.no_grad():
                self.running_mean.lerp_(mean, self.momentum)
                self.running_whitening.lerp_(whitening, self.momentum)
        samples, channels, *places = x.shape
        y = (whitening @ rows).reshape(channels, samples, *places).transpose(0, 1)
        return super().forward(y)

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
