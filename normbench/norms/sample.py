"""Norms whose statistics stay within one sample: the batch size cannot matter to them."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.parameter import UninitializedParameter

from normbench.norms.refusals import groups, one_channel, one_pixel
from normbench.norms.registry import norms
from normbench.norms.spec import Eps, Momentum, NormSpec, NumGroups, Shape


@norms.register("gn", title="GroupNorm")
def gn(*, num_groups: NumGroups = 4, eps: Eps = 1e-5, affine: bool = True) -> NormSpec:
    """Group normalization: one mean and variance per sample and group of channels (arXiv:1803.08494, equation 7).

    y = (x - mean) / sqrt(var + eps) * gamma + beta, x of shape (n, c, h, w), mean and var of shape (n, num_groups)
    over the axes (c / num_groups, h, w), var biased; gamma and beta of shape (c,) are learned when `affine`. Training
    and evaluation are the same. The paper uses 32 groups; 4 is the default here because the source protocol has it.
    """
    return NormSpec(
        scope="sample",
        norm=lambda num_features: nn.GroupNorm(num_groups, num_features, eps, affine),
        refuse=groups(num_groups),
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
    momentum: Momentum = 0.1,
    affine: bool = False,
    track_running_stats: bool = False,
) -> NormSpec:
    """Instance normalization: one mean and variance per sample and channel, over pixels (arXiv:1607.08022, equation 2).

    y = (x - mean) / sqrt(var + eps), x of shape (n, c, h, w), mean and var of shape (n, c) over the axes (h, w), var
    biased; times gamma plus beta of shape (c,) when `affine`. The default has no affine, as in torch and in the source
    protocol: compare against affine=true before blaming the statistics. Training and evaluation are the same unless
    `track_running_stats`, which evaluates with running averages (`momentum` in torch's sense).
    """
    return NormSpec(
        scope="sample",
        norm=lambda num_features: nn.InstanceNorm2d(
            num_features, eps, momentum, affine, track_running_stats
        ),
        refuse=one_pixel,
    )


@norms.register("in_affine", title="InstanceNorm with affine")
def in_affine(*, eps: Eps = 1e-5) -> NormSpec:
    """Instance normalization with a learned scale and shift, as the other norms have (arXiv:1607.08022, equation 2).

    y as for in, times gamma plus beta of shape (c,). Training and evaluation are the same.
    """
    return instance_norm(eps=eps, affine=True)


@norms.register("ln_chw", title="LayerNorm per element")
def ln_chw(*, eps: Eps = 1e-5) -> NormSpec:
    """Layer normalization over channels and pixels with a scale and shift per element: nn.LayerNorm([c, h, w]).

    y = (x - mean) / sqrt(var + eps) * gamma + beta, x of shape (n, c, h, w), mean and var of shape (n,) over the axes
    (c, h, w), var biased (arXiv:1607.06450); gamma and beta of shape (c, h, w) are learned, so that a network takes one
    size of image only: that of its first input. Training and evaluation are the same.
    """

    def refuse(shape: Shape) -> str | None:
        _, channels, height, width = shape
        return None if channels * height * width > 1 else "one value per sample has no variance"

    return NormSpec(
        scope="sample", norm=lambda num_features: ElementwiseLayerNorm(eps), refuse=refuse
    )


@norms.register("ln_c", title="LayerNorm over channels")
def ln_c(*, eps: Eps = 1e-6) -> NormSpec:
    """Layer normalization over the channels of each pixel, as ConvNeXt has it (arXiv:2201.03545).

    y = (x - mean) / sqrt(var + eps) * gamma + beta, x of shape (n, c, h, w), mean and var of shape (n, h, w) over the
    axis c, var biased; gamma and beta of shape (c,) are learned. Training and evaluation are the same.
    """

    def layer(num_features: int) -> nn.Module:
        from timm.layers.norm import LayerNorm2d

        return LayerNorm2d(num_features, eps=eps)

    return NormSpec(scope="sample", norm=layer, refuse=one_channel)


@norms.register("rms", title="RMSNorm")
def rms(*, eps: Eps = 1e-6) -> NormSpec:
    """Root-mean-square normalization over the channels of each pixel: no mean removed, no shift (arXiv:1910.07467).

    y = x / sqrt(mean(x^2) + eps) * gamma, x of shape (n, c, h, w), the mean of shape (n, h, w) over the axis c; gamma
    of shape (c,) is learned, and the convolution keeps its bias, as nothing here adds an offset. Of one channel only
    the sign is left. Training and evaluation are the same. Over (c, h, w) it would be another layer of this name.
    """

    def layer(num_features: int) -> nn.Module:
        from timm.layers.norm import RmsNorm2d

        return RmsNorm2d(num_features, eps=eps)

    return NormSpec(scope="sample", norm=layer, conv_bias=True)


class ElementwiseLayerNorm(LazyModuleMixin, nn.Module):
    """Layer normalization of x (n, c, h, w) over (c, h, w), the shape that its weight and bias take at first sight."""

    cls_to_become = None  # it stays what it is once it knows its shape
    weight: UninitializedParameter
    bias: UninitializedParameter

    def __init__(self, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight, self.bias = UninitializedParameter(), UninitializedParameter()

    def initialize_parameters(self, x: Tensor) -> None:
        """Scale 1 and shift 0 in the shape of one sample."""
        if self.has_uninitialized_params():
            with torch.no_grad():
                for parameter, value in ((self.weight, 1.0), (self.bias, 0.0)):
                    parameter.materialize(tuple(x.shape[1:]))
                    parameter.fill_(value)

    def forward(self, x: Tensor) -> Tensor:
        """The output, of the shape of x."""
        return layer_norm(x, x.shape[1:], self.weight, self.bias, self.eps)
