"""Methods that act on the weights of layers, alone or together with a norm of activations.

W is a convolution's weight of shape (out, in, h, w): `out` filters, each of fan-in in * h * w. A
variance is biased, divided by the number of its values.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import layer_norm
from torch.nn.utils import parametrizations, parametrize

from normbench.norms.batch import bn
from normbench.norms.refusals import always
from normbench.norms.registry import norms
from normbench.norms.sample import gn
from normbench.norms.spec import Eps, Momentum, NormSpec, NumGroups

# 1 / deviation of ReLU(N(0, 1)), as sampled by timm; exactly sqrt(2 / (1 - 1 / pi)) = 1.71286.
RELU_GAIN = 1.7139588594436646


class WeightStandardization(nn.Module):
    """Standardizes each filter: (W - mean) / sqrt(var + eps) over the axes (in, h, w)."""

    def __init__(self, eps: float) -> None:
        super().__init__()
        self.eps = eps

    def forward(self, weight: Tensor) -> Tensor:
        # The formula of layer normalization, of which torch has a kernel.
        return layer_norm(weight, weight.shape[1:], eps=self.eps)


class ScaledWeightStandardization(WeightStandardization):
    """gain * RELU_GAIN / sqrt(fan_in) * the standardized weight; a learned gain per filter."""

    def __init__(self, weight: Tensor, eps: float) -> None:
        super().__init__(eps)
        self.scale = RELU_GAIN * weight[0].numel() ** -0.5
        self.gain = nn.Parameter(torch.ones(len(weight), 1, 1, 1))

    def forward(self, weight: Tensor) -> Tensor:
        scaled: Tensor = super().forward(weight) * (self.gain * self.scale)
        return scaled


@norms.register("ws_gn", title="Weight Standardization + GroupNorm")
def ws_gn(*, num_groups: NumGroups = 4, eps: Eps = 1e-5, weight_eps: Eps = 1e-5) -> NormSpec:
    """Weight standardization of every convolution, then gn (arXiv:1903.10520).

    W becomes (W - mean) / sqrt(var + weight_eps) over the axes (in, h, w); y as for gn. The linear
    head keeps its weight. At a fan-in of 2,304 and torch's initial weights the default weight_eps
    is 7 % of the variance below the root; gn cancels the effect on the scale.
    """
    return _standardized(gn(num_groups=num_groups, eps=eps), weight_eps)


@norms.register("ws_bn", title="Weight Standardization + BatchNorm")
def ws_bn(*, eps: Eps = 1e-5, momentum: Momentum = 0.1, weight_eps: Eps = 1e-5) -> NormSpec:
    """Weight standardization of every convolution, then bn (arXiv:1903.10520).

    W as for ws_gn; y and evaluation as for bn.
    """
    return _standardized(bn(eps=eps, momentum=momentum), weight_eps)


def _standardized(spec: NormSpec, weight_eps: float) -> NormSpec:
    make = of_convolutions(lambda conv: WeightStandardization(weight_eps))
    return without_tokens(replace(spec, reparametrize=make))


def without_tokens(spec: NormSpec) -> NormSpec:
    """The method, refused at sites of tokens, which come from linear layers."""
    refused = always("it acts on convolutions, and tokens come from linear layers")
    return replace(spec, tokens=replace(spec, refuse=refused))


def of_convolutions(make: Callable[[nn.Conv2d], nn.Module]) -> Callable[[nn.Module], nn.Module]:
    """Registers the parametrization made by `make` on convolutions, none on linear layers."""

    def reparametrize(module: nn.Module) -> nn.Module:
        if isinstance(module, nn.Conv2d):
            parametrize.register_parametrization(module, "weight", make(module))
        return module

    return reparametrize


@norms.register("scaled_ws", title="Scaled Weight Standardization")
def scaled_ws(*, weight_eps: Eps = 1e-6) -> NormSpec:
    """Weight standardization that keeps the signal's variance, without a norm (arXiv:2101.08692).

    W becomes gain * g * (W - mean) / sqrt(fan_in * (var + weight_eps)) over the axes (in, h, w),
    g = 1.714, about sqrt(2 / (1 - 1 / pi)), for the ReLU that follows. Learned: the gain of shape
    (out,) and the convolutions' biases. Evaluation as in training. Without g and fan-in the signal
    would grow by about sqrt(fan_in) a layer.
    """
    make = of_convolutions(lambda conv: ScaledWeightStandardization(conv.weight, weight_eps))
    return without_tokens(_of_weights_alone(make))


@norms.register("weight_norm", title="Weight Norm")
def weight_norm() -> NormSpec:
    """Weight normalization: the length of each filter is a parameter of its own (arXiv:1602.07868).

    W = g * v / |v| for each output of every convolution and of the linear head. Learned: g of shape
    (out,), starting at |v|, and v of the shape of W. Activations are not normalized. The paper's
    initialization from a first batch is left out. Evaluation as in training.
    """

    def reparametrize(module: nn.Module) -> nn.Module:
        # A transposed convolution's weight has the shape (in, out, h, w).
        outputs = 1 if isinstance(module, nn.ConvTranspose2d) else 0
        weighted: nn.Module = parametrizations.weight_norm(module, dim=outputs)
        return weighted

    return _of_weights_alone(reparametrize)


@norms.register("spectral_norm", title="Spectral Norm")
def spectral_norm(
    *, num_power_iterations: Annotated[int, Field(ge=1)] = 1, eps: Eps = 1e-12
) -> NormSpec:
    """Spectral normalization: every weight over its largest singular value (arXiv:1802.05957).

    W / sigma(W), W as a matrix (out, in * h * w), for every convolution and the linear head. sigma
    comes from power iteration: `num_power_iterations` a step in training, none in evaluation; the
    two vectors are state. Activations are not normalized.
    """

    def reparametrize(module: nn.Module) -> nn.Module:
        # The first vectors are random: a seed of their own makes them the same in every run,
        # whatever was drawn before.
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)
            return parametrizations.spectral_norm(
                module, n_power_iterations=num_power_iterations, eps=eps
            )

    return _of_weights_alone(reparametrize)


def _of_weights_alone(reparametrize: Callable[[nn.Module], nn.Module]) -> NormSpec:
    """A method without a norm of activations; convolutions keep their bias."""
    return NormSpec(
        scope="weight",
        norm=lambda num_features: nn.Identity(),
        reparametrize=reparametrize,
        conv_bias=True,
    )
