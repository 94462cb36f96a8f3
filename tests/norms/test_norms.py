"""The contract of every registered norm: shapes, finite numbers, scope, gradients, evaluation, reparametrization."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from probes import (
    CHANNELS,
    every_norm,
    every_norm_of_one_input,
    float_keeps_float64,
    new_layer,
    new_layers,
    normal,
    spec_of,
)
from torch import nn
from torch.nn.utils import parametrize

STANDARDIZING = ("ws_bn", "ws_gn", "scaled_ws")  # they leave linear layers alone


@pytest.fixture(autouse=True)
def timm_in_float64() -> Iterator[None]:
    with float_keeps_float64():
        yield


@every_norm_of_one_input
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    "shape", [(4, CHANNELS, 5, 3), (1, CHANNELS, 4, 4)], ids=["batch of 4", "batch of 1"]
)
def test_a_norm_keeps_the_shape_and_gives_finite_values_and_gradients(
    name: str, training: bool, shape: tuple[int, ...]
) -> None:
    for layer in new_layers(name, normal(*shape)):
        for x in (normal(*shape), torch.zeros(shape, dtype=torch.float64), 1e4 + normal(*shape)):
            x.requires_grad_()
            y = layer.train(training)(x)
            assert y.shape == x.shape
            assert y.isfinite().all()
            y.square().sum().backward()
            assert x.grad is not None
            assert x.grad.isfinite().all()


@every_norm_of_one_input
def test_the_scope_is_what_one_perturbed_value_reaches(name: str) -> None:
    scope = spec_of(name).scope
    x = (
        normal(3, CHANNELS, 4, 4) - 6
    )  # around zero in channel 6, where EvoNorm-B0 divides by the batch's deviation
    layer = new_layer(name, x)  # where an activation follows: without one EvoNorm has no statistics
    perturbed = x.clone()
    perturbed[0, 6, 1, 1] += 3.0  # in the half of IBN's channels that the batch normalizes
    change = (layer.train()(perturbed) - layer.train()(x)).abs() > 1e-12
    assert change[0, 6, 1, 1]
    elsewhere_in_the_sample = change[0].sum() > 1
    assert bool(change[1:].any()) == (scope == "batch")
    assert bool(elsewhere_in_the_sample) == (scope in ("batch", "sample"))


@every_norm_of_one_input
def test_in_evaluation_a_sample_alone_gives_what_it_gives_within_a_batch(name: str) -> None:
    x = normal(4, CHANNELS, 4, 4)
    for layer in new_layers(name, x):
        layer.train()(x)
        layer.eval()
        together = layer(x)
        for index in range(len(x)):
            torch.testing.assert_close(layer(x[index : index + 1])[0], together[index])
        torch.testing.assert_close(layer(x), together, msg="evaluation changes the layer")


@every_norm_of_one_input
def test_the_gradients_are_those_of_finite_differences(name: str) -> None:
    x = normal(2, CHANNELS, 2, 2).requires_grad_()
    for layer in new_layers(name, x):
        torch.autograd.gradcheck(layer.train(), x)


@every_norm
def test_a_norm_that_reparametrizes_returns_a_layer_of_the_same_shape(name: str) -> None:
    reparametrize = spec_of(name).reparametrize
    for module in (nn.Conv2d(3, 4, 3), nn.Linear(3, 4)):
        shape = module.weight.shape
        if reparametrize is None:
            assert spec_of(name).scope != "weight"
        else:
            again = reparametrize(module)
            assert again.weight.shape == shape
            assert parametrize.is_parametrized(again) == (
                name not in STANDARDIZING or isinstance(module, nn.Conv2d)
            )
