"""Every norm against its formula, the laws that tie norms together, and the contract of the registry."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils import parametrize

from normbench.errors import NormbenchError
from normbench.norms import NormSpec, norms
from normbench.norms.spec import Shape

Array = NDArray[np.float64]
NAMES = [entry.name for entry in norms]
CHANNELS = 8

every_norm = pytest.mark.parametrize("name", NAMES)


def spec_of(name: str, **options: Any) -> NormSpec:
    return norms.build(name, options=options)


def normal(*shape: int, seed: int = 0) -> Tensor:
    """Float64 normal numbers whose channels have means and scales of their own."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    if len(shape) == 4:
        x = (
            x * torch.linspace(0.5, 2, shape[1], dtype=torch.float64)[:, None, None]
            + torch.arange(shape[1])[:, None, None]
        )
    return x


def layer_of(name: str, num_features: int, **options: Any) -> nn.Module:
    """The norm's layer in float64 with a scale and shift that are not 1 and 0."""
    layer = spec_of(name, **options).norm(num_features).double()
    generator = torch.Generator().manual_seed(1)
    for parameter in layer.parameters():
        with torch.no_grad():
            parameter.copy_(torch.rand(parameter.shape, generator=generator, dtype=torch.float64) + 0.5)
    return layer


def layers_with_activation(name: str) -> list[nn.Module]:
    spec = spec_of(name)
    return [make(CHANNELS).double() for make in (spec.norm, spec.norm_act) if make is not None]


# The contract of every registered norm


@every_norm
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("shape", [(4, CHANNELS, 5, 3), (1, CHANNELS, 4, 4)], ids=["batch of 4", "batch of 1"])
def test_a_norm_keeps_the_shape_and_gives_finite_values_and_gradients(
    name: str, training: bool, shape: tuple[int, ...]
) -> None:
    for layer in layers_with_activation(name):
        for x in (normal(*shape), torch.zeros(shape, dtype=torch.float64), 1e4 + normal(*shape)):
            x.requires_grad_()
            y = layer.train(training)(x)
            assert y.shape == x.shape
            assert y.isfinite().all()
            y.square().sum().backward()
            assert x.grad is not None
            assert x.grad.isfinite().all()


@every_norm
def test_the_scope_is_what_one_perturbed_value_reaches(name: str) -> None:
    scope = spec_of(name).scope
    for layer in layers_with_activation(name):
        x = normal(3, CHANNELS, 4, 4)
        perturbed = x.clone()
        perturbed[0, 2, 1, 1] += 3.0
        change = (layer.train()(perturbed) - layer.train()(x)).abs() > 1e-12
        assert change[0, 2, 1, 1]
        elsewhere_in_the_sample = change[0].sum() > 1
        assert bool(change[1:].any()) == (scope == "batch")
        assert bool(elsewhere_in_the_sample) == (scope in ("batch", "sample"))


@every_norm
def test_in_evaluation_a_sample_alone_gives_what_it_gives_within_a_batch(name: str) -> None:
    for layer in layers_with_activation(name):
        x = normal(4, CHANNELS, 4, 4)
        layer.train()(x)
        layer.eval()
        together = layer(x)
        for index in range(len(x)):
            torch.testing.assert_close(layer(x[index : index + 1])[0], together[index])
        torch.testing.assert_close(layer(x), together, msg="evaluation changes the layer")


@every_norm
def test_the_gradients_are_those_of_finite_differences(name: str) -> None:
    for layer in layers_with_activation(name):
        x = normal(2, CHANNELS, 2, 2).requires_grad_()
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
            assert parametrize.is_parametrized(again)


VARIANTS: list[tuple[str, dict[str, Any]]] = [(name, {}) for name in NAMES] + [
    ("bn", {"track_running_stats": False}),
    ("in", {"affine": True}),
    ("in", {"track_running_stats": True}),
    ("gn", {"num_groups": 1}),
    ("gn", {"num_groups": 3}),
    ("gn", {"num_groups": CHANNELS}),
]


def depends_on_its_input(layer: nn.Module, shape: Shape) -> bool:
    """False where the layer says nothing of x, as where one value is its own mean."""
    one, other = (layer.train()(normal(*shape, seed=seed)) for seed in (1, 2))
    return not torch.allclose(one, other)


@pytest.mark.parametrize(("name", "options"), VARIANTS, ids=lambda value: str(value))
@given(st.sampled_from([1, 2, 3]), st.sampled_from([1, 2, 3, 4, 8, 12]), st.integers(1, 2), st.integers(1, 2))
def test_refuse_objects_exactly_where_the_layer_fails_or_forgets_its_input(
    name: str, options: dict[str, Any], samples: int, channels: int, height: int, width: int
) -> None:
    spec, shape = spec_of(name, **options), (samples, channels, height, width)
    reason = spec.refuse(shape)
    try:
        works = depends_on_its_input(spec.norm(channels).double(), shape)
    except ValueError:
        works = False
    assert works == (reason is None), reason
    assert reason is None or (reason and "\n" not in reason)


@pytest.mark.parametrize(
    ("name", "options", "shape", "reason"),
    [
        ("bn", {}, (1, 8, 1, 1), "one value per channel has no variance: a batch of 1 on a 1x1 map"),
        ("in", {}, (64, 8, 1, 1), "one value per sample and channel has no variance: a 1x1 map"),
        ("gn", {"num_groups": 3}, (64, 8, 4, 4), "num_groups=3 does not divide 8 channels"),
        ("gn", {"num_groups": 8}, (64, 8, 1, 1), "num_groups=8 leaves one value per group: 8 channels on a 1x1 map"),
    ],
)
def test_refuse_names_the_reason(name: str, options: dict[str, Any], shape: Shape, reason: str) -> None:
    assert spec_of(name, **options).refuse(shape) == reason


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("gn", {"num_groups": 0}, "norm.num_groups: should be greater than or equal to 1, not 0"),
        ("bn", {"eps": 0.0}, "norm.eps: should be greater than 0, not 0.0"),
        ("bn", {"momentum": 1.5}, "norm.momentum: should be less than or equal to 1, not 1.5"),
        ("in", {"momentum": -0.1}, "norm.momentum: should be greater than or equal to 0, not -0.1"),
        ("ln", {"num_groups": 2}, "unknown option of norm ln 'num_groups': allowed: affine, eps"),
    ],
)
def test_an_option_out_of_range_is_refused(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(NormbenchError) as caught:
        spec_of(name, **options)
    assert str(caught.value) == message


# The formulas, in NumPy


def by_formula(
    x: Array, gradient: Array, gamma: Array, beta: Array, num_groups: int, axes: tuple[int, ...], eps: float
) -> tuple[Array, Array, Array, Array]:
    """y, and the gradients of sum(y * gradient) for x, gamma and beta.

    The statistics run over `axes` of x as (samples, groups, channels of a group, height, width).
    """
    samples, channels, height, width = x.shape
    split = (samples, num_groups, channels // num_groups, height, width)
    grouped, column = x.reshape(split), (1, channels, 1, 1)
    inverse = 1 / np.sqrt(grouped.var(axis=axes, keepdims=True) + eps)
    x_hat = (grouped - grouped.mean(axis=axes, keepdims=True)) * inverse
    y = x_hat.reshape(x.shape) * gamma.reshape(column) + beta.reshape(column)
    g = (gradient * gamma.reshape(column)).reshape(split)
    dx = inverse * (g - g.mean(axis=axes, keepdims=True) - x_hat * (g * x_hat).mean(axis=axes, keepdims=True))
    dgamma = (gradient * x_hat.reshape(x.shape)).sum(axis=(0, 2, 3))
    return y, dx.reshape(x.shape), dgamma, gradient.sum(axis=(0, 2, 3))


ORACLES: list[tuple[str, dict[str, Any], int, tuple[int, ...]]] = [
    ("bn", {}, CHANNELS, (0, 3, 4)),
    ("bn", {"affine": False}, CHANNELS, (0, 3, 4)),
    ("bn", {"momentum": None}, CHANNELS, (0, 3, 4)),
    ("bn", {"track_running_stats": False}, CHANNELS, (0, 3, 4)),
    ("ln", {}, 1, (1, 2, 3, 4)),
    ("ln", {"affine": False}, 1, (1, 2, 3, 4)),
    ("in", {}, CHANNELS, (3, 4)),
    ("in", {"affine": True}, CHANNELS, (3, 4)),
    ("in", {"track_running_stats": True}, CHANNELS, (3, 4)),
    ("gn", {}, 4, (2, 3, 4)),
    *(("gn", {"num_groups": groups}, groups, (2, 3, 4)) for groups in (1, 2, 8)),
    ("gn", {"num_groups": 2, "affine": False}, 2, (2, 3, 4)),
]


@pytest.mark.parametrize(("name", "options", "num_groups", "axes"), ORACLES, ids=lambda value: str(value))
@pytest.mark.parametrize("eps", [1e-5, 0.5])
def test_output_and_gradients_are_those_of_the_formula(
    name: str, options: dict[str, Any], num_groups: int, axes: tuple[int, ...], eps: float
) -> None:
    layer = layer_of(name, CHANNELS, eps=eps, **options).train()
    x, gradient = normal(3, CHANNELS, 4, 2).requires_grad_(), normal(3, CHANNELS, 4, 2, seed=2)
    learned = dict(layer.named_parameters())
    assert set(learned) == ({"weight", "bias"} if options.get("affine", name != "in") else set())
    gamma, beta = learned.get("weight", torch.ones(CHANNELS)), learned.get("bias", torch.zeros(CHANNELS))

    y = layer(x)
    (y * gradient).sum().backward()

    arrays = [tensor.detach().numpy().astype(np.float64) for tensor in (x, gradient, gamma, beta)]
    expected = by_formula(*arrays, num_groups, axes, eps)
    for found, wanted in zip((y, x.grad, *(p.grad for p in learned.values())), expected, strict=False):
        np.testing.assert_allclose(found.detach().numpy(), wanted, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(
    ("name", "options", "axes"),
    [("bn", {}, (0, 2, 3)), ("ln", {}, (1, 2, 3)), ("in", {}, (2, 3)), ("in", {"affine": True}, (2, 3))],
)
def test_over_its_own_axes_a_new_norm_s_output_has_mean_0_and_variance_1(
    name: str, options: dict[str, Any], axes: tuple[int, ...]
) -> None:
    y = spec_of(name, **options).norm(CHANNELS).double().train()(normal(6, CHANNELS, 5, 5))
    torch.testing.assert_close(y.mean(axes), torch.zeros_like(y.mean(axes)), atol=1e-12, rtol=0)
    torch.testing.assert_close(y.var(axes, correction=0), torch.ones_like(y.mean(axes)), atol=1e-4, rtol=0)


def test_over_each_group_a_new_group_norm_s_output_has_mean_0_and_variance_1() -> None:
    y = spec_of("gn", num_groups=2).norm(CHANNELS).double()(normal(6, CHANNELS, 5, 5)).view(6, 2, -1)
    torch.testing.assert_close(y.mean(2), torch.zeros(6, 2).double(), atol=1e-12, rtol=0)
    torch.testing.assert_close(y.var(2, correction=0), torch.ones(6, 2).double(), atol=1e-4, rtol=0)


# Laws between norms

SHAPES = st.tuples(st.integers(1, 4), st.sampled_from([1, 2, 4, 6]), st.integers(1, 4), st.integers(2, 4))


@given(SHAPES)
def test_group_norm_with_one_group_equals_layer_norm(shape: tuple[int, int, int, int]) -> None:
    x = normal(*shape)
    assert torch.equal(layer_of("gn", shape[1], num_groups=1)(x), layer_of("ln", shape[1])(x))


@given(SHAPES)
def test_group_norm_with_as_many_groups_as_channels_equals_affine_instance_norm(
    shape: tuple[int, int, int, int],
) -> None:
    x = normal(*shape)
    group, instance = layer_of("gn", shape[1], num_groups=shape[1]), layer_of("in", shape[1], affine=True)
    torch.testing.assert_close(group(x), instance(x))


@given(SHAPES)
def test_batch_norm_trained_on_a_batch_of_one_equals_affine_instance_norm(shape: tuple[int, int, int, int]) -> None:
    x = normal(*shape)[:1]
    torch.testing.assert_close(layer_of("bn", shape[1]).train()(x), layer_of("in", shape[1], affine=True)(x))


@given(SHAPES, st.floats(0.1, 10), st.floats(-10, 10))
def test_every_mean_and_variance_norm_ignores_the_scale_and_offset_of_its_input(
    shape: tuple[int, int, int, int], scale: float, offset: float
) -> None:
    x = normal(*shape)
    for name, options in (("bn", {}), ("ln", {}), ("in", {}), ("gn", {"num_groups": shape[1]})):
        layer = layer_of(name, shape[1], eps=1e-12, **options).train()
        torch.testing.assert_close(layer(scale * x + offset), layer(x), rtol=1e-6, atol=1e-6)


def test_no_norm_is_the_identity_and_leaves_the_convolution_its_bias() -> None:
    x = normal(2, CHANNELS, 3, 3)
    assert torch.equal(spec_of("none").norm(CHANNELS)(x), x)
    assert spec_of("none").conv_bias
    assert not any(spec_of(name).conv_bias for name in ("bn", "ln", "in", "gn"))


# Running statistics


def batches() -> list[Tensor]:
    return [normal(3, CHANNELS, 4, 2, seed=seed) for seed in range(4)]


@pytest.mark.parametrize("momentum", [0.0, 0.1, 0.7, 1.0])
def test_batch_norm_keeps_a_moving_mean_and_unbiased_variance_in_torch_s_sense_of_momentum(momentum: float) -> None:
    layer = layer_of("bn", CHANNELS, momentum=momentum).train()
    mean, var = np.zeros(CHANNELS), np.ones(CHANNELS)
    for x in batches():
        layer(x)
        values = x.numpy().transpose(1, 0, 2, 3).reshape(CHANNELS, -1)
        mean = (1 - momentum) * mean + momentum * values.mean(1)
        var = (1 - momentum) * var + momentum * values.var(1, ddof=1)
    np.testing.assert_allclose(layer.running_mean, mean, rtol=1e-12)
    np.testing.assert_allclose(layer.running_var, var, rtol=1e-12)


def test_batch_norm_without_momentum_keeps_the_plain_average_over_all_batches() -> None:
    layer = layer_of("bn", CHANNELS, momentum=None).train()
    for x in batches():
        layer(x)
    rows = np.stack([x.numpy().transpose(1, 0, 2, 3).reshape(CHANNELS, -1) for x in batches()])
    np.testing.assert_allclose(layer.running_mean, rows.mean(2).mean(0), rtol=1e-12)
    np.testing.assert_allclose(layer.running_var, rows.var(2, ddof=1).mean(0), rtol=1e-12)


def test_in_evaluation_batch_norm_uses_its_running_statistics_and_leaves_them() -> None:
    layer = layer_of("bn", CHANNELS).train()
    layer(batches()[0])
    state = {key: value.clone() for key, value in layer.state_dict().items()}
    x, column = batches()[1], (1, CHANNELS, 1, 1)
    y = layer.eval()(x)
    mean, var = state["running_mean"].view(column), state["running_var"].view(column)
    expected = (x - mean) / (var + 1e-5).sqrt() * state["weight"].view(column) + state["bias"].view(column)
    torch.testing.assert_close(y, expected)
    assert all(torch.equal(value, state[key]) for key, value in layer.state_dict().items())


@pytest.mark.parametrize("name", ["ln", "in", "gn", "none"])
def test_the_other_norms_keep_no_statistics_and_evaluate_as_they_train(name: str) -> None:
    layer, x = layer_of(name, CHANNELS), normal(3, CHANNELS, 4, 4)
    assert list(layer.buffers()) == []
    assert torch.equal(layer.train()(x), layer.eval()(x))


def test_batch_norm_without_running_statistics_evaluates_with_the_batch_s_own() -> None:
    layer, x = layer_of("bn", CHANNELS, track_running_stats=False), normal(3, CHANNELS, 4, 4)
    assert torch.equal(layer.eval()(x), layer.train()(x))


def test_instance_norm_with_running_statistics_evaluates_with_them() -> None:
    layer, x = layer_of("in", CHANNELS, track_running_stats=True, momentum=1.0).train(), normal(3, CHANNELS, 4, 4)
    layer(x)
    mean = x.mean((2, 3)).mean(0).view(1, -1, 1, 1)
    var = x.var((2, 3), correction=1).mean(0).view(1, -1, 1, 1)
    torch.testing.assert_close(layer.eval()(x), (x - mean) / (var + 1e-5).sqrt())
