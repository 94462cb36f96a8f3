"""Norms whose statistics stay within one sample: the batch size cannot matter to them."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from torch import nn

from normbench.norms.spec import NormSpec, Shape, norms

Eps = Annotated[float, Field(gt=0)]


@norms.register("gn", title="GroupNorm")
def gn(*, num_groups: Annotated[int, Field(ge=1)] = 4, eps: Eps = 1e-5, affine: bool = True) -> NormSpec:
    """Group normalization: one mean and variance per sample and group of channels (arXiv:1803.08494, equation 7).

    y = (x - mean) / sqrt(var + eps) * gamma + beta, x of shape (n, c, h, w), mean and var of shape (n, num_groups)
    over the axes (c / num_groups, h, w), var biased; gamma and beta of shape (c,) are learned when `affine`. Training
    and evaluation are the same. The paper uses 32 groups; 4 is the default here because the source protocol has it.
    """

    def refuse(shape: Shape) -> str | None:
        _, channels, height, width = shape
        if channels % num_groups:
            return f"num_groups={num_groups} does not divide {channels} channels"
        if channels // num_groups * height * width == 1:
            return f"num_groups={num_groups} leaves one value per group: {channels} channels on a 1x1 map"
        return None

    return NormSpec(
        scope="sample",
        norm=lambda num_features: nn.GroupNorm(num_groups, num_features, eps, affine),
        refuse=refuse,
    )


@norms.register("ln", title="LayerNorm")
def ln(*, eps: Eps = 1e-5, affine: bool = True) -> NormSpec:
    """Layer normalization of a feature map: one mean and variance per sample, over channels and pixels.

    The Group Norm paper's LN (arXiv:1803.08494, section 3.1), which is group normalization with one group: y as there,
    mean and var of shape (n,), gamma and beta of shape (c,). Two other layers go by this name elsewhere:
    nn.LayerNorm([c, h, w]) has an affine per element, ConvNeXt's has statistics per pixel over c only.
    """
    return gn(num_groups=1, eps=eps, affine=affine)


@norms.register("in", title="InstanceNorm")
def instance_norm(
    *,
    eps: Eps = 1e-5,
    momentum: Annotated[float, Field(ge=0, le=1)] = 0.1,
    affine: bool = False,
    track_running_stats: bool = False,
) -> NormSpec:
    """Instance normalization: one mean and variance per sample and channel, over pixels (arXiv:1607.08022, equation 2).

    y = (x - mean) / sqrt(var + eps), x of shape (n, c, h, w), mean and var of shape (n, c) over the axes (h, w), var
    biased; times gamma plus beta of shape (c,) when `affine`. The default has no affine, as in torch and in the source
    protocol: compare against affine=true before blaming the statistics. Training and evaluation are the same unless
    `track_running_stats`, which evaluates with running averages (`momentum` in torch's sense).
    """

    def refuse(shape: Shape) -> str | None:
        _, _, height, width = shape
        return None if height * width > 1 else "one value per sample and channel has no variance: a 1x1 map"

    return NormSpec(
        scope="sample",
        norm=lambda num_features: nn.InstanceNorm2d(num_features, eps, momentum, affine, track_running_stats),
        refuse=refuse,
    )
