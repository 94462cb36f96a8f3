"""Methods that act on weights: alone, or together with a norm of activations."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

from normbench.norms.batch import bn
from normbench.norms.registry import norms
from normbench.norms.sample import gn
from normbench.norms.spec import Eps, Momentum, NormSpec, NumGroups

# 1 over the deviation of ReLU(N(0, 1)), as timm sampled it; exactly sqrt(2 / (1 - 1 / pi)) = 1.71286.
RELU_GAIN = 1.7139588594436646


class WeightStandardization(nn.Module):
    """A convolution's weight with mean 0 and variance 1 in every output filter."""

    def __init__(self, eps: float) -> None:
        super().__init__()
        self.eps = eps

    def forward(self, weight: Tensor) -> Tensor:
        """(W - mean) / sqrt(var + eps) over the axes (in, h, w) of W (out, in, h, w), var biased."""
        axes = tuple(range(1, weight.dim()))
        var, mean = torch.var_mean(weight, axes, correction=0, keepdim=True)
        standardized: Tensor = (weight - mean) * (var + self.eps).rsqrt()
        return standardized


class ScaledWeightStandardization(WeightStandardization):
    """The same scaled to keep the variance of the signal, with a learned gain per filter."""

    def __init__(self, num_filters: int, fan_in: int, eps: float) -> None:
        super().__init__(eps)
        self.scale = RELU_GAIN * fan_in**-0.5
        self.gain = nn.Parameter(torch.ones(num_filters, 1, 1, 1))

    def forward(self, weight: Tensor) -> Tensor:
        """gain * RELU_GAIN / sqrt(fan-in) * the standardized weight."""
        scaled: Tensor = super().forward(weight) * (self.gain * self.scale)
        return scaled


@norms.register("ws_gn", title="Weight Standardization + GroupNorm")
def ws_gn(*, num_groups: NumGroups = 4, eps: Eps = 1e-5, weight_eps: Eps = 1e-5) -> NormSpec:
    """Weight standardization of every convolution, then gn (arXiv:1903.10520).

    W = (W - mean) / sqrt(var + weight_eps) over the axes (in, h, w) of W (out, in, h, w), var biased; y as for gn. The
    linear head keeps its weight. weight_eps stands within the root, where at a fan-in of 2,304 and torch's initial
    weights the default is 7 % of the variance; the norm that follows takes out what that changes in the scale.
    """
    return _standardized(gn(num_groups=num_groups, eps=eps), weight_eps)


@norms.register("ws_bn", title="Weight Standardization + BatchNorm")
def ws_bn(*, eps: Eps = 1e-5, momentum: Momentum = 0.1, weight_eps: Eps = 1e-5) -> NormSpec:
    """Weight standardization of every convolution, then bn (arXiv:1903.10520).

    W as for ws_gn, y as for bn, evaluation included.
    """
    return _standardized(bn(eps=eps, momentum=momentum), weight_eps)


@norms.register("scaled_ws", title="Scaled Weight Standardization")
def scaled_ws(*, weight_eps: Eps = 1e-6) -> NormSpec:
    """Weight standardization that keeps the signal's variance, and no norm of activations (arXiv:2101.08692).

    W = gain * g * (W - mean) / sqrt(fan_in * (var + weight_eps)) over the axes (in, h, w) of W (out, in, h, w), var
    biased, g = 1.714, about sqrt(2 / (1 - 1 / pi)), for the ReLU that follows; the gain of shape (out,) and the
    convolutions' biases are learned. Training and evaluation are the same. Plain weight standardization without a norm
    would let the signal grow by sqrt(fan_in) a layer.
    """

    def reparametrize(module: nn.Module) -> nn.Module:
        if isinstance(module, nn.Conv2d):
            fan_in = module.weight[0].numel()
            scaled = ScaledWeightStandardization(module.out_channels, fan_in, weight_eps)
            parametrize.register_parametrization(module, "weight", scaled)
        return module

    return NormSpec(
        scope="weight",
        norm=lambda num_features: nn.Identity(),
        reparametrize=reparametrize,
        conv_bias=True,
    )


@norms.register("weight_norm", title="Weight Norm")
def weight_norm() -> NormSpec:
    """Weight normalization: the length of each filter's weight is a parameter of its own (arXiv:1602.07868).

    w = g * v / |v| per output of every convolution and of the head, g of shape (out,) and v of W's shape learned, g
    starting at |v|. Activations are not normalized; the paper's initialisation from a first batch is left out. Training
    and evaluation are the same.
    """
    return NormSpec(
        scope="weight",
        norm=lambda num_features: nn.Identity(),
        reparametrize=lambda module: parametrizations.weight_norm(module),
        conv_bias=True,
    )


@norms.register("spectral_norm", title="Spectral Norm")
def spectral_norm(
    *, num_power_iterations: Annotated[int, Field(ge=1)] = 1, eps: Eps = 1e-12
) -> NormSpec:
    """Spectral normalization: every weight over its largest singular value (arXiv:1802.05957).

    W / sigma(W), W of shape (out, in * h * w), for every convolution and the head; sigma by power iteration, whose
    vectors are state: `num_power_iterations` a step in training, none in evaluation. They start from the same random
    numbers in every run. Activations are not normalized.
    """

    def reparametrize(module: nn.Module) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(
                0
            )  # the iteration's first vectors, which must not depend on what was drawn before
            return parametrizations.spectral_norm(
                module, n_power_iterations=num_power_iterations, eps=eps
            )

    return NormSpec(
        scope="weight",
        norm=lambda num_features: nn.Identity(),
        reparametrize=reparametrize,
        conv_bias=True,
    )


def _standardized(spec: NormSpec, weight_eps: float) -> NormSpec:
    """The norm, after convolutions whose weights are standardized."""

    def reparametrize(module: nn.Module) -> nn.Module:
        if isinstance(module, nn.Conv2d):
            parametrize.register_parametrization(
                module, "weight", WeightStandardization(weight_eps)
            )
        return module

    return replace(spec, reparametrize=reparametrize)
