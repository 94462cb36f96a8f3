"""Norms whose statistics run over the batch: a sample's output depends on its batch mates in training."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from torch import nn

from normbench.norms.batch_layers import (
    BatchRenorm,
    GhostBatchNorm,
    SyncBatchNorm,
    WrittenOutBatchNorm,
)
from normbench.norms.refusals import one_value_per_channel
from normbench.norms.registry import norms
from normbench.norms.spec import Eps, Momentum, NormSpec, Shape


@norms.register("bn", title="BatchNorm")
def bn(
    *,
    eps: Eps = 1e-5,
    momentum: Momentum | None = 0.1,
    affine: bool = True,
    track_running_stats: bool = True,
) -> NormSpec:
    """Batch normalization: one mean and variance per channel, over batch and pixels (arXiv:1502.03167, algorithm 1).

    y = (x - mean) / sqrt(var + eps) * gamma + beta, x of shape (n, c, h, w), mean and var of shape (c,) over the axes
    (n, h, w), var biased; gamma and beta of shape (c,) are learned when `affine`. Evaluation uses running averages:
    running = (1 - momentum) * running + momentum * batch, the variance in its unbiased form, or a plain average over
    all batches when momentum is None; without `track_running_stats` it uses the test batch's own statistics, over 250
    images at a time in the order of the data set.
    """
    return NormSpec(
        scope="batch",
        norm=lambda num_features: nn.BatchNorm2d(
            num_features, eps, momentum, affine, track_running_stats
        ),
        refuse=one_value_per_channel,
    )


@norms.register("bn_custom", title="BatchNorm by hand")
def bn_custom(*, eps: Eps = 1e-5, momentum: Momentum = 0.1) -> NormSpec:
    """Batch normalization written out: bn's training output and gradient, another running variance (arXiv:1502.03167).

    y as for bn, x of shape (n, c, h, w), statistics of shape (c,) over the axes (n, h, w), gamma and beta of shape (c,)
    learned. The running variance averages the batches' biased variances, torch's the unbiased ones: at n * h * w values
    per channel evaluation differs from bn's by a factor of nearly 1 - 1 / (n * h * w) in the variance.
    """
    return NormSpec(
        scope="batch",
        norm=lambda num_features: WrittenOutBatchNorm(num_features, eps, momentum),
        refuse=one_value_per_channel,
    )


@norms.register("lazy_bn", title="LazyBatchNorm")
def lazy_bn(*, eps: Eps = 1e-5, momentum: Momentum = 0.1, affine: bool = True) -> NormSpec:
    """Batch normalization that takes its number of channels from its first input, and is bn from then on.

    Formula, axes and evaluation as for bn (arXiv:1502.03167): only the number of channels is taken from that input, not
    its statistics.
    """
    return NormSpec(
        scope="batch",
        norm=lambda num_features: nn.LazyBatchNorm2d(eps, momentum, affine),
        refuse=one_value_per_channel,
    )


@norms.register("ghost_bn", title="Ghost BatchNorm")
def ghost_bn(
    *,
    size: Annotated[int, Field(ge=1)] = 16,
    eps: Eps = 1e-5,
    momentum: Momentum = 0.1,
    affine: bool = True,
) -> NormSpec:
    """Batch normalization over chunks of a batch, each with its own statistics (arXiv:1705.08741).

    A batch of n samples is split into chunks of `size`, the last one smaller where n does not divide; y within a chunk
    as for bn. gamma and beta of shape (c,) are shared. The running averages take the chunks one after the other, and
    evaluation uses them as bn does. Gradient accumulation over k batches of b under bn is this with size b.
    """

    def refuse(shape: Shape) -> str | None:
        samples, _, height, width = shape
        smallest = samples % size or min(samples, size)
        if smallest * height * width > 1:
            return None
        return f"size={size} leaves a chunk of one sample, whose 1x1 map has no variance, in a batch of {samples}"

    return NormSpec(
        scope="batch",
        norm=lambda num_features: GhostBatchNorm(num_features, size, eps, momentum, affine),
        refuse=refuse,
    )


@norms.register("batch_renorm", title="Batch Renorm")
def batch_renorm(
    *,
    r_max: Annotated[float, Field(ge=1)] = 3.0,
    d_max: Annotated[float, Field(ge=0)] = 5.0,
    warmup_steps: Annotated[int, Field(ge=0)] = 200,
    ramp_steps: Annotated[int, Field(ge=0)] = 1000,
    eps: Eps = 1e-5,
    momentum: Momentum = 0.1,
) -> NormSpec:
    """Batch renormalization: batch statistics corrected towards the running ones (arXiv:1702.03275).

    y = ((x - mean) / std * r + d) * gamma + beta, mean and std of shape (c,) over the axes (n, h, w) of x (n, c, h, w),
    std = sqrt(var + eps), var biased; r = clip(std / running_std, 1 / r_max, r_max), d = clip((mean - running_mean) /
    running_std, -d_max, d_max), without gradient. Until `warmup_steps` r = 1 and d = 0, which is bn; then the bounds
    grow to r_max and d_max over `ramp_steps`: scale both to the length of the run. Evaluation as bn; gamma and beta of
    shape (c,) are learned. The paper averages the deviation, here it is the variance, as in bn; and its two bounds grow
    each at a time of its own.
    """
    return NormSpec(
        scope="batch",
        norm=lambda num_features: BatchRenorm(
            num_features, eps, momentum, r_max, d_max, warmup_steps, ramp_steps
        ),
        refuse=one_value_per_channel,
    )


@norms.register("sync_bn", title="SyncBatchNorm")
def sync_bn(*, eps: Eps = 1e-5, momentum: Momentum = 0.1, affine: bool = True) -> NormSpec:
    """Batch normalization over the samples of all processes of a process group; bn in one process.

    y as for bn (arXiv:1502.03167), the statistics over the axes (n, h, w) of all processes' x together. On a GPU this
    is torch's own layer; elsewhere, where that one refuses to work, two all-reduces over the default process group.
    Evaluation as bn; gamma and beta of shape (c,) are learned.
    """
    return NormSpec(
        scope="batch",
        norm=lambda num_features: SyncBatchNorm(num_features, eps, momentum, affine),
        refuse=one_value_per_channel,
    )
