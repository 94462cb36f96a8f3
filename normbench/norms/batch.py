"""Norms whose statistics run over the batch: a sample's output depends on its batch mates in training."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from torch import nn

from normbench.norms.spec import NormSpec, Shape, norms


@norms.register("bn", title="BatchNorm")
def bn(
    *,
    eps: Annotated[float, Field(gt=0)] = 1e-5,
    momentum: Annotated[float, Field(ge=0, le=1)] | None = 0.1,
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

    def refuse(shape: Shape) -> str | None:
        samples, _, height, width = shape
        if samples * height * width > 1:
            return None
        return "one value per channel has no variance: a batch of 1 on a 1x1 map"

    return NormSpec(
        scope="batch",
        norm=lambda num_features: nn.BatchNorm2d(num_features, eps, momentum, affine, track_running_stats),
        refuse=refuse,
    )
