"""Every norm's output and gradients against its formula in NumPy."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pytest
import torch
from formulas import FORMULAS, WITHOUT_ACTIVATION, Formula, Values, derivatives
from kit.norms import (
    CHANNELS,
    NAMES,
    OWN_ACTIVATION,
    REPARAMETRIZING,
    Array,
    Options,
    layer_of,
    new_layers,
    normal,
    randomize,
    results,
    spec_of,
    with_statistics,
)
from torch import Tensor, nn
from weight_formulas import WEIGHTS, over_singular_value, power_iteration

from normbench.norms import AdaIN, norms

OWN_GRADIENT = {"online"}  # its oracle is in test_moving.py
VARIANTS: list[tuple[str, Options]] = [
    *((name, {}) for name in NAMES if name not in OWN_GRADIENT),
    ("bn", {"affine": False}),
    ("bn", {"momentum": None}),
    ("bn", {"track_running_stats": False}),
    ("lazy_bn", {"affine": False}),
    ("sync_bn", {"affine": False}),
    ("ghost_bn", {"size": 2}),
    ("ghost_bn", {"size": 3, "affine": False}),
    ("in", {"affine": True}),
    ("in", {"track_running_stats": True}),
    ("ln", {"affine": False}),
    ("gn", {"num_groups": 2, "affine": False}),
    ("gn", {"num_groups": 8}),
    ("ws_gn", {"num_groups": 2}),
    ("evonorm_s0", {"num_groups": 2}),
    ("evonorm_s1", {"num_groups": 2}),
    ("evonorm_s2", {"num_groups": 2}),
    ("bcn", {"num_groups": 2}),
    ("iternorm", {"group_size": 4, "iterations": 3}),
    ("dyt", {"alpha": 2.0}),
    ("derf", {"alpha": 2.0, "shift": 0.5}),
]
RENORM = {"warmup_steps": 10, "ramp_steps": 100}
RENORM_AT: list[tuple[int, float, float]] = [
    (10, 3.0, 5.0),  # the last step of the warm-up: r = 1, d = 0
    (60, 3.0, 5.0),  # half of the ramp
    (500, 1.0, 0.0),  # bounds without room
    (500, 1.2, 0.1),  # clipped in most channels
    (500, 1000.0, 1000.0),  # clipped in none
]

conv_and_linear = pytest.mark.parametrize(
    "make", [lambda: nn.Conv2d(3, 4, 3), lambda: nn.Linear(6, 4)], ids=["conv", "linear"]
)


def numpy_of(tensors: dict[str, Tensor]) -> dict[str, Array]:
    return {name: tensor.detach().numpy().astype(np.float64) for name, tensor in tensors.items()}


def assert_as_by_formula(
    name: str,
    layer: nn.Module,
    x: Tensor,
    options: Options,
    rtol: float = 1e-9,
    formulas: Mapping[str, Formula] = FORMULAS,
) -> dict[str, Tensor]:
    """Checks output and gradients for x and the parameters; returns the layer's."""
    formula, chosen = formulas[name], norms.check(name, options)
    values = numpy_of({**dict(layer.named_parameters()), "x": x})
    buffers = numpy_of(dict(layer.named_buffers()))
    gradient = normal(*x.shape, seed=2)
    found = results(layer, x, gradient)

    def by_formula(at: dict[str, Array]) -> Array:
        return formula(at["x"], at, buffers, layer.training, **chosen)

    wanted = {"y": by_formula(values), **derivatives(by_formula, values, gradient.numpy())}
    assert found.keys() == wanted.keys()
    for key, value in wanted.items():
        np.testing.assert_allclose(found[key], value, rtol=rtol, atol=rtol / 10, err_msg=key)
    return found


@pytest.mark.parametrize(("name", "options"), VARIANTS, ids=str)
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize(
    "shape", [(3, CHANNELS, 4, 2), (1, CHANNELS, 2, 3)], ids=["batch of 3", "batch of 1"]
)
def test_output_and_gradients_are_those_of_the_formula_with_random_parameters_and_statistics(
    name: str, options: Options, training: bool, shape: tuple[int, ...]
) -> None:
    x = normal(*shape) - 3  # channels on both sides of zero
    if "eps" in norms.check(name, options):
        options = options | {"eps": 0.02}
    layer = with_statistics(layer_of(name, x, **options)).train(training)
    assert_as_by_formula(name, layer, x, options)


@pytest.mark.parametrize("name", OWN_ACTIVATION)
def test_the_layer_without_an_activation_is_the_formula_without_an_activation(name: str) -> None:
    x = normal(3, CHANNELS, 4, 2) - 3
    without, _ = new_layers(name, x)
    assert_as_by_formula(name, randomize(without), x, {}, formulas=WITHOUT_ACTIVATION)


@pytest.mark.parametrize(("steps", "r_max", "d_max"), RENORM_AT)
def test_batch_renorm_after_its_warm_up_is_its_formula_without_gradient_through_the_correction(
    steps: int, r_max: float, d_max: float
) -> None:
    options, x = {**RENORM, "r_max": r_max, "d_max": d_max}, normal(3, CHANNELS, 4, 2)
    layer = with_statistics(layer_of("batch_renorm", x, **options), steps)
    # Bounds are float32 numbers, as quotients of whole numbers of steps.
    rtol = 1e-6 if r_max == 1.2 else 1e-9
    y = assert_as_by_formula("batch_renorm", layer, x, options, rtol)["y"]
    assert torch.allclose(y, layer_of("bn", x)(x)) == (steps == 10 or r_max == 1.0)


def test_the_clipped_and_the_unclipped_correction_of_the_test_above_are_so() -> None:
    x = normal(3, CHANNELS, 4, 2)
    layer = with_statistics(layer_of("batch_renorm", x))
    r = (x.var((0, 2, 3), correction=0) / layer.running_var).sqrt()
    d = (x.mean((0, 2, 3)) - layer.running_mean) / layer.running_var.sqrt()
    assert ((r > 1.2) | (r < 1 / 1.2)).sum() >= CHANNELS // 2
    assert (d.abs() > 0.1).sum() >= CHANNELS // 2
    assert r.max() < 1000
    assert d.abs().max() < 1000


@pytest.mark.parametrize("name", WEIGHTS)
@conv_and_linear
def test_a_reparametrized_weight_and_its_gradients_are_those_of_the_formula(
    name: str, make: Callable[[], nn.Module]
) -> None:
    formula, options = WEIGHTS[name]
    module = spec_of(name, **options).reparametrize(make()).double()
    if isinstance(module, nn.Linear) and name != "weight_norm":
        # Weight standardization leaves the head alone.
        assert type(module) is nn.Linear
        return
    parametrization = randomize(module.parametrizations["weight"])
    values = numpy_of(dict(parametrization.named_parameters()))
    gradient = normal(*module.weight.shape, seed=3)
    (module.weight * gradient).sum().backward()
    np.testing.assert_allclose(module.weight.detach(), formula(values, **options), rtol=1e-12)
    wanted = derivatives(lambda at: formula(at, **options), values, gradient.numpy())
    for key, parameter in parametrization.named_parameters():
        np.testing.assert_allclose(parameter.grad, wanted[key], rtol=1e-9, atol=1e-12, err_msg=key)


@conv_and_linear
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("num_power_iterations", [1, 3])
def test_a_spectrally_normalized_weight_and_its_gradient_are_those_of_the_formula(
    make: Callable[[], nn.Module], training: bool, num_power_iterations: int
) -> None:
    spec = spec_of("spectral_norm", num_power_iterations=num_power_iterations)
    module = spec.reparametrize(make()).double().train(training)
    # The vectors remain those of the weight before the change.
    parametrization = randomize(module.parametrizations["weight"])
    buffers = [buffer for _, buffer in sorted(parametrization.named_buffers())]
    original = parametrization.original.detach().numpy().copy()
    vectors = [buffer.numpy().copy() for buffer in buffers]
    u, v = power_iteration(original, *vectors, num_power_iterations if training else 0)

    weight, gradient = module.weight, normal(*original.shape, seed=3)
    (weight * gradient).sum().backward()
    np.testing.assert_allclose(weight.detach(), over_singular_value(original, u, v), rtol=1e-12)
    wanted = derivatives(
        lambda at: over_singular_value(at["weight"], u, v), {"weight": original}, gradient.numpy()
    )
    gradient_found = parametrization.original.grad
    np.testing.assert_allclose(gradient_found, wanted["weight"], rtol=1e-9, atol=1e-12)
    for kept, vector in zip(buffers, (u, v), strict=True):
        # An element near 0 of a vector of length 1 is a difference of larger numbers.
        np.testing.assert_allclose(kept, vector, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", REPARAMETRIZING)
def test_a_reparametrized_convolution_convolves_with_the_weight_of_the_formula(name: str) -> None:
    conv = nn.Conv2d(3, 4, 3, stride=2, padding=1).double()
    module, x = spec_of(name).reparametrize(conv), normal(2, 3, 6, 5)
    module.eval()  # spectral norm's vectors stay
    y = module(x).detach().numpy()
    weight, bias = module.weight.detach().numpy(), module.bias.detach().numpy()
    padded = np.pad(x.numpy(), ((0, 0), (0, 0), (1, 1), (1, 1)))
    for row, line in ((0, 0), (1, 2), (2, 1)):
        patch = padded[:, :, 2 * row : 2 * row + 3, 2 * line : 2 * line + 3]
        wanted = np.einsum("nchw,ochw->no", patch, weight) + bias
        np.testing.assert_allclose(y[:, :, row, line], wanted, rtol=1e-9)


def test_adain_and_its_gradients_are_those_of_the_formula() -> None:
    def formula(at: dict[str, Values]) -> Values:
        content, style = at["content"], at["style"]
        mean, style_mean = (x.mean(axis=(2, 3), keepdims=True) for x in (content, style))
        var = ((content - mean) ** 2).mean(axis=(2, 3), keepdims=True)
        style_var = ((style - style_mean) ** 2).mean(axis=(2, 3), keepdims=True)
        return np.sqrt(style_var + 0.02) * (content - mean) / np.sqrt(var + 0.02) + style_mean

    content = normal(2, 3, 4, 2).requires_grad_()
    style = (3 * normal(2, 3, 3, 5, seed=1) - 2).requires_grad_()
    gradient = normal(2, 3, 4, 2, seed=2)
    y = AdaIN(0.02)(content, style)
    (y * gradient).sum().backward()
    values = numpy_of({"content": content, "style": style})
    np.testing.assert_allclose(y.detach(), formula(values), rtol=1e-12)
    wanted = derivatives(formula, values, gradient.numpy())
    np.testing.assert_allclose(content.grad, wanted["content"], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(style.grad, wanted["style"], rtol=1e-9, atol=1e-12)
