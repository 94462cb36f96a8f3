"""Norms against the layers of timm, torch and torchvision, with the same weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import pytest
import torch
from kit.norms import (
    CHANNELS,
    Options,
    assert_equal_results,
    layer_of,
    normal,
    randomize,
    results,
    share_parameters,
    spec_of,
    statistics,
    with_statistics,
)
from torch import Tensor, nn
from torchvision.models.convnext import LayerNorm2d as ConvNeXtLayerNorm

from normbench.norms.weight import RELU_GAIN

SHAPE = (5, CHANNELS, 4, 3)

MakeLayer = Callable[[], nn.Module]


class ChannelsLast(nn.RMSNorm):
    """torch's RMSNorm over the channels of a map instead of the last axis."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def assert_agrees(name: str, options: Options, theirs: nn.Module) -> None:
    """Compares output, gradients and statistics, in training and then in evaluation."""
    x, gradient = normal(*SHAPE), normal(*SHAPE, seed=2)
    ours = with_statistics(layer_of(name, x, **options))
    theirs = with_statistics(theirs.double())
    share_parameters(ours, theirs)
    for training in (True, False):
        found = results(ours.train(training), x, gradient)
        wanted = results(theirs.train(training), x, gradient)
        assert found.keys() == wanted.keys()
        assert_equal_results(found, wanted)
        assert_equal_results(statistics(ours), statistics(theirs))


LIBRARY: list[tuple[str, Options, MakeLayer]] = [
    ("ln_chw", {"eps": 0.01}, lambda: nn.LayerNorm(SHAPE[1:], 0.01)),
    ("ln_c", {}, lambda: ConvNeXtLayerNorm(CHANNELS, eps=1e-6)),
    ("rms", {"eps": 0.01}, lambda: ChannelsLast(CHANNELS, eps=0.01)),
]


@pytest.mark.parametrize(("name", "options", "make"), LIBRARY, ids=lambda value: str(value)[:20])
def test_a_norm_agrees_with_the_library_s(name: str, options: Options, make: MakeLayer) -> None:
    assert_agrees(name, options, make())


def reparametrized(name: str, **options: object) -> tuple[nn.Module, dict[str, Tensor]]:
    """A convolution under the norm, and its parameters, named as in timm."""
    conv = spec_of(name, **options).reparametrize(nn.Conv2d(3, 4, 3, padding=1)).double()
    names = {
        "parametrizations.weight.original": "weight",
        "parametrizations.weight.0.gain": "gain",
    }
    parameters = dict(randomize(conv).named_parameters())
    return conv, {names.get(key, key): value for key, value in parameters.items()}


def assert_same_convolution(
    ours: nn.Module, parameters: dict[str, Tensor], theirs: nn.Module
) -> None:
    """Compares output and gradients for x and all parameters, equal in both."""
    x, gradient = normal(2, 3, 5, 4), normal(2, 4, 5, 4, seed=2)
    with torch.no_grad():
        for key, parameter in theirs.named_parameters():
            parameter.copy_(parameters[key])
    wanted = results(theirs, x, gradient)
    found = results(ours, x, gradient)
    assert parameters.keys() == dict(theirs.named_parameters()).keys()
    found |= {key: parameter.grad for key, parameter in parameters.items()}
    assert_equal_results(found, wanted)


# timm: slow, since importing timm takes seconds.


def timm_layers(name: str) -> dict[str, MakeLayer]:
    from timm.layers import evo_norm
    from timm.layers.filter_response_norm import FilterResponseNormTlu2d
    from timm.layers.norm import GroupNorm, GroupNorm1, LayerNorm2d, RmsNorm2d, SimpleNorm2d

    return {
        "gn": lambda: GroupNorm(CHANNELS, num_groups=2, eps=0.01),
        "ln": lambda: GroupNorm1(CHANNELS, eps=0.01),
        "ln_c": lambda: LayerNorm2d(CHANNELS, eps=0.01),
        "rms": lambda: RmsNorm2d(CHANNELS, eps=0.01),
        "frn": lambda: FilterResponseNormTlu2d(CHANNELS, eps=0.01),
        "simple": lambda: SimpleNorm2d(CHANNELS, eps=0.01),
        "evonorm_s0": lambda: evo_norm.EvoNorm2dS0(CHANNELS, groups=2, eps=0.01),
        "evonorm_s1": lambda: evo_norm.EvoNorm2dS1(CHANNELS, groups=2, eps=0.01),
        "evonorm_s2": lambda: evo_norm.EvoNorm2dS2(CHANNELS, groups=2, eps=0.01),
        "evonorm_b0": lambda: evo_norm.EvoNorm2dB0(CHANNELS, eps=0.01, momentum=0.3),
        "evonorm_b1": lambda: evo_norm.EvoNorm2dB1(CHANNELS, eps=0.01, momentum=0.3),
        "evonorm_b2": lambda: evo_norm.EvoNorm2dB2(CHANNELS, eps=0.01, momentum=0.3),
    }


@pytest.fixture
def float_keeps_float64() -> Iterator[None]:
    """timm takes statistics in float32, by x.float(): here in float64, to compare all digits."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.Tensor, "float", lambda self: self)
        yield


@pytest.mark.slow
@pytest.mark.usefixtures("float_keeps_float64")
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("gn", {"num_groups": 2}),
        ("ln", {}),
        ("ln_c", {}),
        ("rms", {}),
        ("frn", {}),
        ("simple", {}),
        ("evonorm_s0", {"num_groups": 2}),
        ("evonorm_s1", {"num_groups": 2}),
        ("evonorm_s2", {"num_groups": 2}),
        ("evonorm_b0", {"momentum": 0.3}),
        ("evonorm_b1", {"momentum": 0.3}),
        ("evonorm_b2", {"momentum": 0.3}),
    ],
)
def test_a_norm_agrees_with_timm_s(name: str, options: Options) -> None:
    assert_agrees(name, options | {"eps": 0.01}, timm_layers(name)[name]())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["evonorm_s0", "evonorm_b0", "frn"])
def test_a_norm_has_the_numbers_and_the_state_of_timm_s_in_float32(name: str) -> None:
    """Checkpoints and losses from before the layers were written out stay valid, to rounding."""
    x, gradient = normal(*SHAPE).float(), normal(*SHAPE, seed=2).float()
    options = {"num_groups": 2} if name == "evonorm_s0" else {}
    if name == "evonorm_b0":
        options["momentum"] = 0.3
    ours = layer_of(name, x, eps=0.01, **options).float()
    theirs = timm_layers(name)[name]()
    theirs.load_state_dict(ours.state_dict())
    found, wanted = results(ours, x, gradient), results(theirs, x, gradient)
    for key, value in wanted.items():
        torch.testing.assert_close(found[key], value, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(statistics(ours), statistics(theirs))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ws_gn", "ws_bn", "scaled_ws"])
def test_a_standardized_convolution_agrees_with_timm_s(name: str) -> None:
    from timm.layers.std_conv import ScaledStdConv2d, StdConv2d

    if name == "scaled_ws":
        theirs = ScaledStdConv2d(3, 4, 3, gamma=RELU_GAIN, eps=0.01).double()
    else:
        theirs = StdConv2d(3, 4, 3, bias=True, eps=0.01).double()
    assert_same_convolution(*reparametrized(name, weight_eps=0.01), theirs)


@pytest.mark.slow
def test_the_gain_is_timm_s() -> None:
    from timm.models.nfnet import _nonlin_gamma

    assert _nonlin_gamma["relu"] == RELU_GAIN


def test_the_sampled_gain_is_the_formula_s_to_a_thousandth() -> None:
    assert pytest.approx(math.sqrt(2 / (1 - 1 / math.pi)), rel=1e-3) == RELU_GAIN
