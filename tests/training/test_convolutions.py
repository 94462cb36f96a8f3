"""Weight gradients by matrix products: equal to torch's, and only where they are meant to be."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from normbench.training import convolutions
from normbench.training.convolutions import Convolution, multiply_weight_gradients

GEOMETRIES = [
    ((3, 3), (2, 2), (1, 1)),
    ((3, 2), (1, 2), (0, 1)),
    ((1, 1), (2, 2), (0, 0)),
    ((2, 2), (3, 3), (2, 2)),
]


@pytest.fixture(autouse=True)
def few_channels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convolutions, "LEAST_CHANNELS", 4)


@pytest.mark.parametrize(("kernel", "stride", "padding"), GEOMETRIES)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("has_bias", [True, False])
def test_gradients_are_those_of_numerical_differences(
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    layout: torch.memory_format,
    has_bias: bool,
) -> None:
    def drawn(*shape: int) -> Tensor:
        return torch.randn(shape, dtype=torch.float64)

    x = drawn(2, 3, 5, 6).to(memory_format=layout).requires_grad_()
    weight = drawn(4, 3, *kernel).requires_grad_()
    bias = drawn(4).requires_grad_() if has_bias else None
    assert torch.autograd.gradcheck(
        lambda *tensors: Convolution.apply(*tensors, stride, padding), (x, weight, bias)
    )


def outcome(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """The output in bf16, and the parameters' gradients of its sum under fixed weights, by name."""
    model.zero_grad()
    with torch.autocast("cpu", torch.bfloat16):
        y = model(x)
    weights = torch.linspace(-1, 1, y.numel()).view(y.shape)
    (y.float() * weights).sum().backward()
    found = {name: values.grad for name, values in model.named_parameters()}
    return {"output": y.float(), **{name: grad for name, grad in found.items() if grad is not None}}


def network() -> nn.Sequential:
    """Convolutions of the kinds that are multiplied, each after one that is not."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.Conv2d(8, 16, 3, stride=2, padding=1, bias=False),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3, groups=4),
        parametrizations.weight_norm(nn.Conv2d(16, 8, 1)),
    )


def test_a_network_has_the_same_output_and_gradients_as_before() -> None:
    plain = network()
    model = copy.deepcopy(plain)
    multiply_weight_gradients(model)
    x = torch.randn(6, 3, 12, 12).to(memory_format=torch.channels_last)
    expected = outcome(plain, x)
    found = outcome(model, x)
    assert [*found] == [*expected]
    for name, values in expected.items():
        assert found[name].dtype == torch.float32
        assert (found[name] - values).abs().max() <= 0.01 * values.abs().max(), name
    assert [*model.state_dict()] == [*plain.state_dict()]


@pytest.mark.parametrize("frozen", [["weight"], ["bias"], ["weight", "bias"]], ids=str)
@pytest.mark.parametrize("learns_input", [True, False])
@pytest.mark.parametrize("images", [2, 0])
def test_what_is_frozen_has_no_gradient_and_the_rest_is_as_before(
    frozen: list[str], learns_input: bool, images: int
) -> None:
    plain = nn.Sequential(nn.Conv2d(4, 8, 3), nn.Conv2d(8, 3, 1))
    for name in frozen:
        plain[0].get_parameter(name).requires_grad_(False)
    model = copy.deepcopy(plain)
    multiply_weight_gradients(model)
    x = torch.randn(images, 4, 6, 6).requires_grad_(learns_input)
    expected = outcome(plain, x)
    found = outcome(model, x)
    assert [*found] == [*expected]
    for name, values in expected.items():
        torch.testing.assert_close(found[name], values, rtol=0.02, atol=0.02)


def test_a_single_image_and_float64_are_computed_as_torch_does() -> None:
    layer = nn.Conv2d(8, 8, 3)
    multiply_weight_gradients(layer)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(torch.randn(8, 9, 9)).shape == (8, 7, 7)
        assert layer.double()(torch.randn(1, 8, 9, 9).double()).dtype == torch.float64


@pytest.mark.parametrize(
    ("layer", "channels", "is_multiplied"),
    [
        (nn.Conv2d(4, 8, 3), 4, True),
        (parametrizations.weight_norm(nn.Conv2d(4, 8, 3)), 4, True),
        (nn.Conv2d(3, 8, 3), 3, False),
        (nn.Conv2d(4, 8, 3, groups=2), 4, False),
        (nn.Conv2d(4, 8, 3, dilation=2), 4, False),
        (nn.Conv2d(4, 8, 3, padding="same"), 4, False),
        (nn.Conv2d(4, 8, 3, padding=1, padding_mode="reflect"), 4, False),
        (nn.ConvTranspose2d(4, 8, 3), 4, False),
    ],
    ids=str,
)
def test_plain_convolutions_of_many_channels_are_multiplied(
    layer: nn.Module, channels: int, is_multiplied: bool
) -> None:
    multiply_weight_gradients(layer)
    x = torch.randn(2, channels, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        assert (type(layer(x).grad_fn).__name__ == "ConvolutionBackward") == is_multiplied
        with torch.no_grad():
            assert layer(x).grad_fn is None
    # In fp32 nothing is changed.
    assert type(layer(x).grad_fn).__name__ != "ConvolutionBackward"


def test_a_copied_network_is_multiplied_with_its_own_weights() -> None:
    model = nn.Sequential(nn.Conv2d(4, 8, 3))
    multiply_weight_gradients(model)
    other = copy.deepcopy(model)
    with torch.no_grad():
        other[0].weight.zero_()
        other[0].bias.zero_()
    with torch.autocast("cpu", torch.bfloat16):
        assert other(torch.randn(1, 4, 4, 4)).abs().sum() == 0
