"""Every norm's gradients, for its input and all of its parameters, against finite differences of the layer itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from probes import (
    CHANNELS,
    REPARAMETRIZING,
    every_norm_of_one_input,
    float_keeps_float64,
    layer_of,
    normal,
    randomize,
    spec_of,
    with_statistics,
)
from torch import Tensor, nn
from torch.func import functional_call

from normbench.norms import AdaIN


@pytest.fixture(autouse=True)
def timm_in_float64() -> Iterator[None]:
    with float_keeps_float64():
        yield


def gradients_are_right(module: nn.Module, *inputs: Tensor) -> bool:
    """gradcheck of a pure function: every call begins with the statistics that the module has now."""
    names, values = (
        zip(*module.named_parameters(), strict=True) if list(module.parameters()) else ((), ())
    )
    state = {name: buffer.clone() for name, buffer in module.named_buffers()}

    def pure(*arguments: Tensor) -> Tensor:
        given = dict(zip(names, arguments[len(inputs) :], strict=True))
        again = {name: buffer.clone() for name, buffer in state.items()}
        return functional_call(module, given | again, arguments[: len(inputs)])

    arguments = [tensor.detach().clone().requires_grad_() for tensor in (*inputs, *values)]
    return torch.autograd.gradcheck(pure, arguments)


@every_norm_of_one_input
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
def test_the_gradients_for_input_and_parameters_are_those_of_finite_differences(
    name: str, training: bool
) -> None:
    x = normal(2, CHANNELS, 2, 2) - 3
    assert gradients_are_right(with_statistics(layer_of(name, x)).train(training), x)


def test_the_gradients_of_a_clipped_batch_renorm_are_those_of_finite_differences() -> None:
    x = normal(
        2, CHANNELS, 2, 2
    )  # unclipped, finite differences see what the layer hides from the gradient
    layer = with_statistics(
        layer_of("batch_renorm", x, warmup_steps=0, r_max=1.01, d_max=0.01), num_batches=5000
    )
    layer.running_var.mul_(100)  # so that no channel is within the bounds
    assert gradients_are_right(layer, x)


@pytest.mark.parametrize("name", REPARAMETRIZING)
@pytest.mark.parametrize(
    "make", [lambda: nn.Conv2d(2, 3, 2), lambda: nn.Linear(4, 3)], ids=["conv", "linear"]
)
def test_the_gradients_through_a_reparametrized_weight_are_those_of_finite_differences(
    name: str, make: Callable[[], nn.Module]
) -> None:
    module = randomize(spec_of(name).reparametrize(make()).double()).eval()
    assert gradients_are_right(
        module, normal(2, 2, 3, 3) if isinstance(module, nn.Conv2d) else normal(3, 4)
    )


def test_spectral_norm_s_gradient_in_training_is_that_of_finite_differences_once_its_vectors_have_converged() -> (
    None
):
    module = spec_of("spectral_norm", num_power_iterations=30).reparametrize(
        nn.Conv2d(2, 3, 2).double()
    )
    for _ in range(10):
        module(normal(2, 2, 3, 3))
    assert gradients_are_right(module.train(), normal(2, 2, 3, 3))


def test_the_gradients_of_adain_for_content_and_style_are_those_of_finite_differences() -> None:
    assert gradients_are_right(AdaIN(), normal(2, 3, 2, 2), normal(2, 3, 2, 3, seed=1))
