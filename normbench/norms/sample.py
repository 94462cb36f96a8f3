"""Norms whose statistics stay within a sample, whatever the size of the batch.

In each formula x has shape (n, c, h, w); gamma and beta of shape (c,) are learned; a variance is
biased, divided by the number of its values. Training and evaluation are the same, except where a
docstring describes evaluation.
"""

from __future__ import annotations

from dataclasses import replace
from math import prod

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.parameter import UninitializedParameter, is_lazy

from normbench.norms.closed_form import InstanceNormalization, OverChannels
from normbench.norms.refusals import groups, one_channel, one_pixel, single
from normbench.norms.registry import norms
from normbench.norms.spec import Eps, Momentum, NormSpec, NumGroups


@norms.register("gn", title="GroupNorm")
def gn(*, num_groups: NumGroups = 4, eps: Eps = 1e-5, affine: bool = True) -> NormSpec:
    """Group normalization: a mean and variance per sample and group of channels (arXiv:1803.08494).

    y = (x - mean) / sqrt(var + eps) * gamma + beta (equation 7), mean and var of shape
    (n, num_groups) over the axes (c / num_groups, h, w); gamma and beta only when `affine`. The
    paper has 32 groups; the default is 4, as in the comparison that this project began with.
    """
    return NormSpec(
        "sample",
        lambda num_features: GroupNorm(num_groups, num_features, eps, affine),
        refuse=groups(num_groups),
    )


@norms.register("ln", title="LayerNorm")
def ln(*, eps: Eps = 1e-5, affine: bool = True) -> NormSpec:
    """Layer normalization of a feature map: a mean and variance per sample (arXiv:1803.08494).

    y as for gn with a single group: mean and var of shape (n,) over the axes (c, h, w), gamma and
    beta per channel, as the Group Norm paper defines LN (section 3.1). Two more layers have this
    name: nn.LayerNorm([c, h, w]) with an affine per element (ln_chw), and ConvNeXt's, with
    statistics over c alone (ln_c). Of tokens each has its own mean and variance, over c alone, as
    in transformers (arXiv:1607.06450).
    """
    spec = gn(num_groups=1, eps=eps, affine=affine)
    return replace(spec, tokens=_over_channels(eps, affine))


@norms.register("in", title="InstanceNorm")
def instance_norm(
    *,
    eps: Eps = 1e-5,
    momentum: Momentum = 0.1,
    affine: bool = False,
    track_running_stats: bool = False,
) -> NormSpec:
    """Instance normalization: a mean and variance per sample and channel (arXiv:1607.08022).

    y = (x - mean) / sqrt(var + eps) (equation 2), mean and var of shape (n, c) over the axes
    (h, w); times gamma plus beta when `affine`. The default has no affine, as in torch; compare
    with affine=true before blaming the statistics. With `track_running_stats` evaluation uses
    running averages, `momentum` in torch's sense.
    """
    return NormSpec(
        scope="sample",
        norm=lambda num_features: InstanceNorm(
            num_features, eps, momentum, affine, track_running_stats
        ),
        refuse=one_pixel,
    )


@norms.register("in_affine", title="InstanceNorm with affine")
def in_affine(*, eps: Eps = 1e-5) -> NormSpec:
    """Instance normalization with gamma and beta, as most norms have (arXiv:1607.08022).

    y as for in, times gamma plus beta.
    """
    return instance_norm(eps=eps, affine=True)


@norms.register("ln_chw", title="LayerNorm per element")
def ln_chw(*, eps: Eps = 1e-5) -> NormSpec:
    """Layer normalization with a scale and shift per element: nn.LayerNorm([c, h, w]).

    y = (x - mean) / sqrt(var + eps) * gamma + beta, mean and var of shape (n,) over the axes
    (c, h, w) (arXiv:1607.06450). gamma and beta have shape (c, h, w), taken from the first input:
    a network works on a single size of image.
    """
    return NormSpec(
        "sample",
        lambda num_features: ElementwiseLayerNorm(eps),
        refuse=single(lambda shape: prod(shape[1:]), "one value per sample has no variance"),
    )


@norms.register("ln_c", title="LayerNorm over channels")
def ln_c(*, eps: Eps = 1e-6) -> NormSpec:
    """Layer normalization over the channels of each pixel, as ConvNeXt has (arXiv:2201.03545).

    y = (x - mean) / sqrt(var + eps) * gamma + beta, mean and var of shape (n, h, w) over c.
    """
    return _over_channels(eps, affine=True)


def _over_channels(eps: float, affine: bool) -> NormSpec:
    return NormSpec(
        "sample",
        lambda num_features: ChannelLayerNorm(num_features, eps, affine),
        refuse=one_channel,
    )


@norms.register("simple", title="SimpleNorm")
def simple(*, eps: Eps = 1e-6) -> NormSpec:
    """Division by the deviation over the channels of each pixel, as timm's SimpleNorm2d.

    y = x / sqrt(var + eps) * gamma, var of shape (n, h, w) over the axis c, unbiased: divided by
    c - 1. No mean is removed and no shift added, so the convolution keeps its bias. Evaluation as
    in training. There is no paper.
    """
    return NormSpec(
        scope="sample",
        norm=lambda num_features: ChannelSimpleNorm(num_features, eps),
        conv_bias=True,
        refuse=one_channel,
    )


@norms.register("rms", title="RMSNorm")
def rms(*, eps: Eps = 1e-6) -> NormSpec:
    """Root-mean-square normalization over the channels of each pixel (arXiv:1910.07467).

    y = x / sqrt(mean(x^2) + eps) * gamma, the mean of shape (n, h, w) over the axis c. No mean is
    removed and no shift added, so the convolution keeps its bias. With a single channel only
    the sign of x is left. A root mean square over (c, h, w) would be another layer of this name.
    """
    return NormSpec(
        scope="sample",
        norm=lambda num_features: ChannelRMSNorm(num_features, eps),
        conv_bias=True,
    )


# On a GPU, autocast computes torch's group_norm and layer_norm in float32 and returns float32; the
# casts below give x's type, as every norm does. Without autocast they do nothing.


class GroupNorm(nn.GroupNorm):
    """torch's group normalization, in x's type."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).to(x.dtype)


class InstanceNorm(nn.InstanceNorm2d):
    """Instance normalization in the layout of x; torch's own with running statistics."""

    def forward(self, x: Tensor) -> Tensor:
        if self.track_running_stats or x.shape[2:].numel() == 1:  # torch raises for a single pixel
            return super().forward(x)
        y: Tensor = InstanceNormalization.apply(x, self.weight, self.bias, self.eps)
        return y


class ElementwiseLayerNorm(LazyModuleMixin, nn.Module):
    """Layer normalization over (c, h, w), the shape of weight and bias, taken from the first x."""

    cls_to_become = None  # LazyModuleMixin: keep the class once the shape is known
    weight: UninitializedParameter
    bias: UninitializedParameter

    def __init__(self, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight, self.bias = UninitializedParameter(), UninitializedParameter()

    @torch.no_grad()
    def initialize_parameters(self, x: Tensor) -> None:
        """Gives weight 1 and bias 0 the shape of a sample of x (called by LazyModuleMixin)."""
        for parameter, value in ((self.weight, 1), (self.bias, 0)):
            if is_lazy(parameter):
                parameter.materialize(tuple(x.shape[1:]))
                parameter.fill_(value)

    def forward(self, x: Tensor) -> Tensor:
        if x.is_contiguous(memory_format=torch.channels_last):
            # torch's kernel takes values that lie one after another: here in the order (h, w, c).
            of_pixels = (values.movedim(-3, -1) for values in (x, self.weight, self.bias))
            return self._normalized(*of_pixels).movedim(-1, -3)
        return self._normalized(x, self.weight, self.bias)

    def _normalized(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return layer_norm(x, x.shape[1:], weight, bias, self.eps).to(x.dtype)


class ChannelLayerNorm(nn.LayerNorm):
    """Layer normalization of x (n, c, *places) over c: torch's, with the channels moved last."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.movedim(1, -1)).movedim(-1, 1).to(x.dtype)


class ChannelRMSNorm(nn.Module):
    """Root-mean-square normalization of x (n, c, h, w) over c."""

    def __init__(self, num_features: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(num_features))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = OverChannels.apply(x, self.weight, self.eps, False)
        return y


class ChannelSimpleNorm(nn.Module):
    """Division of x (n, c, h, w) by its unbiased deviation over c, with a scale per channel."""

    def __init__(self, num_features: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(num_features))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = OverChannels.apply(x, self.weight, self.eps, True)
        return y
