"""The same weights in, the same numbers out: norms against an implementation that another library has of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from probes import (
    CHANNELS,
    Options,
    layer_of,
    normal,
    randomize,
    results,
    share_parameters,
    spec_of,
    statistics,
    with_statistics,
)
from timm.layers.evo_norm import EvoNorm2dB0, EvoNorm2dS0
from timm.layers.filter_response_norm import FilterResponseNormTlu2d
from timm.layers.norm import GroupNorm, GroupNorm1, LayerNorm2d
from timm.layers.std_conv import ScaledStdConv2d, StdConv2d
from timm.models.nfnet import _nonlin_gamma
from torch import Tensor, nn
from torch.nn.utils import spectral_norm
from torchvision.models.convnext import LayerNorm2d as ConvNeXtLayerNorm
from torchvision.ops import FrozenBatchNorm2d

from normbench.norms.weight import RELU_GAIN

SHAPE = (5, CHANNELS, 4, 3)


def test_timm_s_sampled_gain_is_the_formula_s_to_a_thousandth() -> None:
    assert pytest.approx(math.sqrt(2 / (1 - 1 / math.pi)), rel=1e-3) == RELU_GAIN
    assert _nonlin_gamma["relu"] == RELU_GAIN


class ChannelsLast(nn.RMSNorm):
    """torch's RMSNorm, which runs over the last axis, for the channels of a map."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


LIBRARY: list[tuple[str, Options, Callable[[], nn.Module]]] = [
    ("bn", {"eps": 0.01}, lambda: nn.SyncBatchNorm(CHANNELS, 0.01)),  # in one process
    ("bn_custom", {"eps": 0.01}, lambda: nn.BatchNorm2d(CHANNELS, 0.01)),
    ("lazy_bn", {"eps": 0.01, "momentum": 0.3}, lambda: nn.BatchNorm2d(CHANNELS, 0.01, 0.3)),
    ("lazy_bn", {"eps": 0.01}, lambda: nn.LazyBatchNorm2d(0.01)),
    (
        "ghost_bn",
        {"eps": 0.01, "momentum": 0.3, "size": 5},
        lambda: nn.BatchNorm2d(CHANNELS, 0.01, 0.3),
    ),
    ("sync_bn", {"eps": 0.01, "momentum": 0.3}, lambda: nn.BatchNorm2d(CHANNELS, 0.01, 0.3)),
    (
        "batch_renorm",
        {"eps": 0.01, "momentum": 0.3},
        lambda: nn.BatchNorm2d(CHANNELS, 0.01, 0.3),
    ),  # in its warm-up
    ("ws_bn", {"eps": 0.01, "momentum": 0.3}, lambda: nn.BatchNorm2d(CHANNELS, 0.01, 0.3)),
    ("gn", {"num_groups": 2, "eps": 0.01}, lambda: GroupNorm(CHANNELS, num_groups=2, eps=0.01)),
    ("ws_gn", {"num_groups": 2, "eps": 0.01}, lambda: nn.GroupNorm(2, CHANNELS, 0.01)),
    ("ln", {"eps": 0.01}, lambda: GroupNorm1(CHANNELS, eps=0.01)),
    ("in_affine", {"eps": 0.01}, lambda: nn.InstanceNorm2d(CHANNELS, 0.01, affine=True)),
    ("ln_chw", {"eps": 0.01}, lambda: nn.LayerNorm(SHAPE[1:], 0.01)),
    ("ln_c", {}, lambda: ConvNeXtLayerNorm(CHANNELS, eps=1e-6)),
    ("ln_c", {"eps": 0.01}, lambda: LayerNorm2d(CHANNELS, eps=0.01)),
    ("rms", {}, lambda: ChannelsLast(CHANNELS, eps=1e-6)),
    ("rms", {"eps": 0.01}, lambda: ChannelsLast(CHANNELS, eps=0.01)),
    ("frn", {}, lambda: FilterResponseNormTlu2d(CHANNELS, eps=1e-6)),
    ("evonorm_s0", {}, lambda: EvoNorm2dS0(CHANNELS, groups=8, eps=1e-5)),
    (
        "evonorm_s0",
        {"num_groups": 2, "eps": 0.01},
        lambda: EvoNorm2dS0(CHANNELS, groups=2, eps=0.01),
    ),
    ("evonorm_b0", {}, lambda: EvoNorm2dB0(CHANNELS, eps=1e-5)),
    (
        "evonorm_b0",
        {"eps": 0.01, "momentum": 0.3},
        lambda: EvoNorm2dB0(CHANNELS, eps=0.01, momentum=0.3),
    ),
]


@pytest.mark.parametrize(
    ("name", "options", "make"), LIBRARY, ids=lambda value: "" if callable(value) else str(value)
)
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
def test_a_norm_agrees_with_the_library_s_in_output_gradients_and_statistics(
    name: str, options: Options, make: Callable[[], nn.Module], training: bool
) -> None:
    x, gradient = normal(*SHAPE), normal(*SHAPE, seed=2)
    ours, theirs = layer_of(name, x, **options), make().double()
    if isinstance(theirs, nn.LazyBatchNorm2d):
        theirs.eval()(x)
    share_parameters(ours, theirs)
    with_statistics(theirs)
    if name != "batch_renorm" or not training:  # there it would correct towards them
        with_statistics(ours)
    found, wanted = (results(layer.train(training), x, gradient) for layer in (ours, theirs))
    assert found.keys() == wanted.keys()
    for key, value in wanted.items():
        torch.testing.assert_close(found[key], value, msg=lambda text, key=key: f"{key}: {text}")
    if name not in (
        "bn_custom",
        "batch_renorm",
    ):  # the one's are biased, the other's began elsewhere
        kept = statistics(ours)
        assert all(torch.allclose(kept[key], value) for key, value in statistics(theirs).items())


@pytest.mark.parametrize(
    "name", ["bn", "bn_custom", "lazy_bn", "ghost_bn", "sync_bn", "batch_renorm", "ws_bn"], ids=str
)
def test_in_evaluation_batch_norm_and_its_kin_agree_with_torchvision_s_frozen_one(
    name: str,
) -> None:
    x = normal(*SHAPE)
    ours = with_statistics(layer_of(name, x, eps=0.01)).eval()
    theirs = FrozenBatchNorm2d(CHANNELS, eps=0.01).double()
    theirs.load_state_dict(
        {key: value for key, value in ours.state_dict().items() if key != "num_batches_tracked"}
    )
    torch.testing.assert_close(ours(x), theirs(x))


# Weights


def reparametrized(name: str, **options: Any) -> tuple[nn.Module, dict[str, Tensor]]:
    """A convolution 3 -> 4 under the norm, and its parameters, named as an ordinary convolution would."""
    module = randomize(
        spec_of(name, **options).reparametrize(nn.Conv2d(3, 4, 3, padding=1)).double()
    )
    names = {
        "original": "weight",
        "original0": "weight_g",
        "original1": "weight_v",
        "gain": "gain",
        "bias": "bias",
    }
    return module, {
        names[key.rpartition(".")[2]]: parameter for key, parameter in module.named_parameters()
    }


def assert_same_convolution(
    ours: nn.Module, parameters: dict[str, Tensor], theirs: nn.Module
) -> None:
    """Output and gradients for x and all parameters, theirs having been given ours."""
    x, gradient = normal(2, 3, 5, 4), normal(2, 4, 5, 4, seed=2)
    with torch.no_grad():
        for key, parameter in theirs.named_parameters():
            parameter.copy_(parameters[key])
    wanted = results(theirs, x, gradient)
    found = results(ours, x, gradient)
    torch.testing.assert_close(found["y"], wanted["y"])
    torch.testing.assert_close(found["x"], wanted["x"])
    assert parameters.keys() == dict(theirs.named_parameters()).keys()
    for key, parameter in parameters.items():
        torch.testing.assert_close(
            parameter.grad, wanted[key], msg=lambda text, key=key: f"{key}: {text}"
        )


@pytest.mark.parametrize("name", ["ws_gn", "ws_bn"])
@pytest.mark.parametrize("options", [{}, {"weight_eps": 0.01}], ids=str)
def test_weight_standardization_agrees_with_timm_s(name: str, options: Options) -> None:
    eps = options.get("weight_eps", 1e-5)
    assert_same_convolution(
        *reparametrized(name, **options), StdConv2d(3, 4, 3, bias=True, eps=eps).double()
    )


@pytest.mark.parametrize("options", [{}, {"weight_eps": 0.01}], ids=str)
def test_scaled_weight_standardization_agrees_with_timm_s(options: Options) -> None:
    eps = options.get("weight_eps", 1e-6)
    theirs = ScaledStdConv2d(3, 4, 3, gamma=RELU_GAIN, eps=eps).double()
    assert_same_convolution(*reparametrized("scaled_ws", **options), theirs)


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
def test_weight_norm_agrees_with_torch_s_older_one() -> None:
    theirs = torch.nn.utils.weight_norm(nn.Conv2d(3, 4, 3, padding=1).double())
    assert_same_convolution(*reparametrized("weight_norm"), theirs)


@pytest.mark.parametrize("num_power_iterations", [1, 3])
@pytest.mark.parametrize("training", [True, False])
def test_spectral_norm_agrees_with_torch_s_older_one(
    num_power_iterations: int, training: bool
) -> None:
    ours, parameters = reparametrized("spectral_norm", num_power_iterations=num_power_iterations)
    theirs = spectral_norm(
        nn.Conv2d(3, 4, 3, padding=1).double(), n_power_iterations=num_power_iterations
    )
    vectors = ours.parametrizations.weight[0]
    x = normal(2, 3, 5, 4)
    with torch.no_grad():
        theirs.weight_orig.copy_(parameters["weight"])
        theirs.bias.copy_(parameters["bias"])
        theirs.weight_u.copy_(vectors._u)
        theirs.weight_v.copy_(vectors._v)
        if training:  # the older one begins a step with v, the newer one with u
            rows = parameters["weight"].flatten(1)
            for _ in range(num_power_iterations):
                theirs.weight_u.copy_(nn.functional.normalize(rows @ theirs.weight_v, dim=0))
                theirs.weight_v.copy_(nn.functional.normalize(rows.T @ theirs.weight_u, dim=0))
    theirs.eval()
    gradient = normal(2, 4, 5, 4, seed=2)
    found, wanted = results(ours.train(training), x, gradient), results(theirs, x, gradient)
    torch.testing.assert_close(found["y"], wanted["y"])
    torch.testing.assert_close(found["x"], wanted["x"])
    torch.testing.assert_close(parameters["weight"].grad, wanted["weight_orig"])
