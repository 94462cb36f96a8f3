"""Norms whose statistics run over the batch: a training sample's output depends on its batch mates.

In each formula x has shape (n, c, h, w); gamma and beta of shape (c,) are learned; a variance is
biased, divided by the number of its values, unless called unbiased.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import prod
from typing import Annotated

from pydantic import Field
from torch import nn

from normbench.norms.batch_layers import (
    BatchRenorm,
    ExtendedBatchNorm,
    GhostBatchNorm,
    SyncBatchNorm,
    WrittenOutBatchNorm,
)
from normbench.norms.refusals import one_value_per_channel
from normbench.norms.registry import norms
from normbench.norms.spec import Eps, Momentum, NormSpec, Refusal, Shape


def _over_the_batch(norm: Callable[[int], nn.Module]) -> NormSpec:
    return NormSpec("batch", norm, refuse=one_value_per_channel)


@norms.register("bn", title="BatchNorm")
def bn(
    *,
    eps: Eps = 1e-5,
    momentum: Momentum | None = 0.1,
    affine: bool = True,
    track_running_stats: bool = True,
) -> NormSpec:
    """Batch normalization: a mean and variance per channel (arXiv:1502.03167, algorithm 1).

    y = (x - mean) / sqrt(var + eps) * gamma + beta, mean and var of shape (c,) over the axes
    (n, h, w); gamma and beta only when `affine`. Evaluation uses running averages:
    running = (1 - momentum) * running + momentum * batch, of the unbiased variance, or a plain
    average over all batches when momentum is None. Without `track_running_stats` evaluation uses
    the statistics of each test batch: 250 images at a time, in the order of the data set.
    """
    return _over_the_batch(
        lambda num_features: nn.BatchNorm2d(
            num_features, eps, momentum, affine, track_running_stats
        )
    )


@norms.register("bn_custom", title="BatchNorm by hand")
def bn_custom(*, eps: Eps = 1e-5, momentum: Momentum = 0.1) -> NormSpec:
    """Batch normalization written out: bn with a biased running variance (arXiv:1502.03167).

    Output and gradient as for bn. The running variance averages the batches' biased variances,
    torch's the unbiased variances: with N = n * h * w values per channel the variance in evaluation
    is smaller than bn's by a factor of nearly 1 - 1 / N.
    """
    return _over_the_batch(lambda num_features: WrittenOutBatchNorm(num_features, eps, momentum))


@norms.register("lazy_bn", title="LazyBatchNorm")
def lazy_bn(*, eps: Eps = 1e-5, momentum: Momentum = 0.1, affine: bool = True) -> NormSpec:
    """Batch normalization whose number of channels comes from the first input (arXiv:1502.03167).

    Formula and evaluation as for bn. The first input gives no statistics, only the channels.
    """
    return _over_the_batch(lambda num_features: nn.LazyBatchNorm2d(eps, momentum, affine))


@norms.register("ghost_bn", title="Ghost BatchNorm")
def ghost_bn(
    *,
    size: Annotated[int, Field(ge=1)] = 16,
    eps: Eps = 1e-5,
    momentum: Momentum = 0.1,
    affine: bool = True,
) -> NormSpec:
    """Batch normalization over chunks of a batch, each with its own statistics (arXiv:1705.08741).

    A batch of n samples is split into chunks of `size` samples, the last chunk smaller where `size`
    does not divide n. y within a chunk as for bn, gamma and beta shared. The running averages take
    one chunk after another; evaluation uses running averages as bn does. Gradients accumulated over
    parts of a batch are exact where `size` divides each part: bn with gradients accumulated over k
    batches of b samples equals ghost_bn with size=b on a batch of k * b.
    """

    def refuse(shape: Shape) -> Refusal | None:
        samples = shape[0]
        smallest_chunk = samples % size or min(samples, size)
        if smallest_chunk * prod(shape[2:]) > 1:
            return None
        chunk = f"size={size} leaves a chunk of one sample, whose 1x1 map has no variance"
        return Refusal(f"{chunk}, in a batch of {samples}")

    return NormSpec(
        "batch",
        lambda num_features: GhostBatchNorm(num_features, size, eps, momentum, affine),
        refuse=refuse,
    )


@norms.register("ebn", title="Extended BatchNorm")
def ebn(*, eps: Eps = 1e-5, momentum: Momentum = 0.1) -> NormSpec:
    """Extended batch normalization: a mean per channel, one variance for all (arXiv:2003.05569).

    y = (x - mean) / sqrt(var + eps) * gamma + beta, mean of shape (c,) over the axes (n, h, w), var
    of shape (1,) over (n, c, h, w): the mean of (x - mean)^2, from the channels' own means, so that
    the square of (x - mean) / sqrt(var) has mean 1 over the batch. The paper's abstract gives these
    axes and not the mean that the variance is about. Evaluation takes running averages of mean and
    var, the latter unbiased as for bn.
    """
    return _over_the_batch(lambda num_features: ExtendedBatchNorm(num_features, eps, momentum))


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
    """Batch renormalization: statistics corrected towards running averages (arXiv:1702.03275).

    y = ((x - mean) / std * r + d) * gamma + beta, mean and std = sqrt(var + eps) of shape (c,) over
    the axes (n, h, w). Without gradient: r = clip(std / running_std, 1 / r_max, r_max),
    d = clip((mean - running_mean) / running_std, -d_max, d_max). For `warmup_steps` r = 1 and
    d = 0, which is bn; over the next `ramp_steps` the bounds grow to r_max and d_max. Scale both
    numbers to the length of the run. Evaluation as for bn. Departures from the paper: the running
    average is of the variance, as in bn, not of the deviation; both bounds grow at the same time.
    """
    return _over_the_batch(
        lambda num_features: BatchRenorm(
            num_features, eps, momentum, r_max, d_max, warmup_steps, ramp_steps
        )
    )


@norms.register("sync_bn", title="SyncBatchNorm")
def sync_bn(*, eps: Eps = 1e-5, momentum: Momentum = 0.1, affine: bool = True) -> NormSpec:
    """Batch normalization over the samples of all processes of a process group (arXiv:1502.03167).

    y as for bn, mean and var over the axes (n, h, w) of the x of all processes together; bn where
    there is a single process. Evaluation as for bn. On a GPU the layer is torch's own; elsewhere,
    where torch's layer raises an error, two all-reduces over the default process group.
    """
    spec = _over_the_batch(lambda num_features: SyncBatchNorm(num_features, eps, momentum, affine))
    return replace(spec, is_synced=True)
