"""Methods that own the activation after them: no ReLU follows."""

from __future__ import annotations

from torch import nn

from normbench.norms.refusals import groups, one_value_per_channel
from normbench.norms.registry import norms
from normbench.norms.spec import Eps, Momentum, NormSpec, NumGroups


@norms.register("evonorm_s0", title="EvoNorm-S0")
def evonorm_s0(*, num_groups: NumGroups = 8, eps: Eps = 1e-5) -> NormSpec:
    """EvoNorm-S0: x * sigmoid(v * x) over the standard deviation of a group of channels (arXiv:2004.02967).

    y = x * sigmoid(v * x) / sqrt(var + eps) * gamma + beta, x of shape (n, c, h, w), var of shape (n, num_groups) over
    the axes (c / num_groups, h, w), biased; v, gamma and beta of shape (c,) are learned. It contains the activation:
    where none follows it is gamma and beta alone. Training and evaluation are the same. timm has 32 groups; 8 here, so
    that narrow networks have a multiple of them.
    """

    def layer(num_features: int, *, apply_act: bool) -> nn.Module:
        from timm.layers.evo_norm import EvoNorm2dS0

        return EvoNorm2dS0(num_features, groups=num_groups, apply_act=apply_act, eps=eps)

    return NormSpec(
        scope="sample",
        norm=lambda num_features: layer(num_features, apply_act=False),
        norm_act=lambda num_features: layer(num_features, apply_act=True),
        refuse=groups(num_groups),
    )


@norms.register("evonorm_b0", title="EvoNorm-B0")
def evonorm_b0(*, eps: Eps = 1e-5, momentum: Momentum = 0.1) -> NormSpec:
    """EvoNorm-B0: x over the larger of the batch's deviation and a line in x plus its own (arXiv:2004.02967).

    y = x / max(sqrt(var_batch + eps), v * x + sqrt(var_instance + eps)) * gamma + beta, x of shape (n, c, h, w),
    var_batch over the axes (n, h, w), var_instance over (h, w), both biased; v, gamma and beta of shape (c,) are
    learned. It contains the activation: where none follows it is gamma and beta alone. Evaluation takes var_batch from
    a running average, in its unbiased form. timm's default eps is 1e-3.
    """

    def layer(num_features: int, *, apply_act: bool) -> nn.Module:
        from timm.layers.evo_norm import EvoNorm2dB0

        return EvoNorm2dB0(num_features, apply_act=apply_act, momentum=momentum, eps=eps)

    return NormSpec(
        scope="batch",
        norm=lambda num_features: layer(num_features, apply_act=False),
        norm_act=lambda num_features: layer(num_features, apply_act=True),
        refuse=one_value_per_channel,
    )


@norms.register("frn", title="Filter Response Norm")
def frn(*, eps: Eps = 1e-6) -> NormSpec:
    """Filter response normalization with a thresholded linear unit (arXiv:1911.09737).

    z = max(y, tau), y = gamma * x / sqrt(mean(x^2) + eps) + beta, x of shape (n, c, h, w), the mean over the axes
    (h, w); gamma, beta and tau of shape (c,) are learned. It contains the activation: where none follows, z = y. The
    mean is not removed. Of a 1x1 map only the sign is left, for
    which the paper learns eps, and this does not. Training and evaluation are the same. The paper
    ramps the learning rate up (optim.warmup_fraction).
    """

    def layer(num_features: int, *, apply_act: bool) -> nn.Module:
        from timm.layers.filter_response_norm import FilterResponseNormTlu2d

        return FilterResponseNormTlu2d(num_features, apply_act=apply_act, eps=eps)

    return NormSpec(
        scope="sample",
        norm=lambda num_features: layer(num_features, apply_act=False),
        norm_act=lambda num_features: layer(num_features, apply_act=True),
    )
