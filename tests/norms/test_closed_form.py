"""Gradients in closed form against autograd of the plain formulas, and what layers keep."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from kit.norms import every_norm, layer_of, new_layer, normal
from torch import Tensor, nn

from normbench.norms import closed_form, norms
from normbench.norms.closed_form import (
    FilterResponse,
    GatedOverRoot,
    InstanceNormalization,
    OverChannels,
)
from normbench.norms.map_functions import BoundedMap, InstanceMoments, OverLarger, ScaledMap
from normbench.norms.whitening import MeanAndCovariance, MixedMap
from normbench.timing.footprint import saved_bytes

EPS = 0.02
# Norms that keep their input for the backward pass, and little beside it.
KEEP_THE_INPUT = [
    "batch_renorm",
    "bin",
    "bn_custom",
    "derf",
    "dyt",
    "ebn",
    "switchable",
    "evonorm_b0",
    "evonorm_b1",
    "evonorm_b2",
    "evonorm_s0",
    "evonorm_s1",
    "evonorm_s2",
    "frn",
    "ibn",
    "iternorm",
    "mabn",
    "online",
    "rms",
    "simple",
]


def filter_response(x: Tensor, weight: Tensor, bias: Tensor, tau: Tensor | None) -> Tensor:
    y = x / (x.square().mean((2, 3), keepdim=True) + EPS).sqrt() * per_channel(weight)
    y = y + per_channel(bias)
    return y if tau is None else torch.where(y > per_channel(tau), y, per_channel(tau))


def over_channels(x: Tensor, weight: Tensor) -> Tensor:
    return x / (x.square().mean(1, keepdim=True) + EPS).sqrt() * per_channel(weight)


def over_channels_centred(x: Tensor, weight: Tensor) -> Tensor:
    return x / (x.var(1, keepdim=True) + EPS).sqrt() * per_channel(weight)


def instance_norm(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    deviations = x - x.mean((2, 3), keepdim=True)
    z = deviations / (deviations.square().mean((2, 3), keepdim=True) + EPS).sqrt()
    return z if weight is None else z * per_channel(weight) + per_channel(bias)


def gated_over_root(
    x: Tensor, v: Tensor | None, weight: Tensor, bias: Tensor, centred: bool
) -> Tensor:
    groups = x.unflatten(1, (2, -1))
    deviation = groups - centred * groups.mean((2, 3, 4), keepdim=True)
    squares = deviation.square().mean((2, 3, 4), keepdim=True)
    gate = torch.sigmoid(x if v is None else per_channel(v) * x).unflatten(1, (2, -1))
    y = (groups * gate / (squares + EPS).sqrt()).flatten(1, 2)
    return y * per_channel(weight) + per_channel(bias)


def weighted(mean: Tensor, var: Tensor) -> Tensor:
    """A map's moments (n, c, 1, 1) as one tensor."""
    return mean * 3 + var.square()


def weighted_moments(x: Tensor) -> Tensor:
    return weighted(x.mean((2, 3), keepdim=True), x.var((2, 3), correction=0, keepdim=True))


def of_samples(x: Tensor, parameters: Sequence[Tensor]) -> list[Tensor]:
    """Parameters (c,) as (n, c, 1, 1), other numbers in each sample."""
    factors = 1 + torch.arange(len(x), dtype=x.dtype)[:, None, None, None]
    return [per_channel(values) * factors for values in parameters]


def scaled_map(x: Tensor, centre: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    return (x - centre) * scale + shift


def mean_and_covariance(x: Tensor) -> tuple[Tensor, Tensor]:
    """Of pairs of channels."""
    rows = x.transpose(0, 1).flatten(1)
    mean = rows.mean(1, keepdim=True)
    pairs = (rows - mean).unflatten(0, (-1, 2))
    return mean.flatten(), pairs @ pairs.mT / rows.shape[1]


def as_one(mean: Tensor, covariance: Tensor) -> Tensor:
    """Means (c,) and covariances (c / 2, 2, 2) of pairs of channels as one tensor."""
    return mean.view(-1, 2, 1) * 3 + covariance.square()


def matrices_of(rows: Tensor, columns: Tensor) -> Tensor:
    """A matrix for each pair of channels, (c / 2, 2, 2), from parameters (c,)."""
    return rows.view(-1, 2, 1).exp() + columns.view(-1, 1, 2)


def mixed_map(x: Tensor, mean: Tensor, matrices: Tensor, shift: Tensor) -> Tensor:
    pairs = (x - per_channel(mean)).unflatten(1, (-1, 2))
    mixed = torch.einsum("gij,ngjhw->ngihw", matrices, pairs)
    return mixed.flatten(1, 2) + per_channel(shift)


def bounded_map(
    function: Callable[[Tensor], Tensor],
    x: Tensor,
    slope: Tensor,
    shift: Tensor,
    weight: Tensor,
    bias: Tensor,
) -> Tensor:
    return function(slope * x + shift) * weight + bias


def over_larger(
    x: Tensor, root: Tensor, slope: Tensor, size: Tensor, weight: Tensor, bias: Tensor
) -> Tensor:
    return x / torch.maximum(root, slope * x + size) * weight + bias


def per_channel(values: Tensor) -> Tensor:
    return values[:, None, None]


FUNCTIONS: dict[str, tuple[Callable[..., Tensor], Callable[..., Tensor], int]] = {
    "frn": (lambda *at: FilterResponse.apply(*at, EPS), filter_response, 3),
    "frn without activation": (
        lambda *at: FilterResponse.apply(*at, None, EPS),
        lambda *at: filter_response(*at, None),
        2,
    ),
    "rms": (lambda *at: OverChannels.apply(*at, EPS, False), over_channels, 1),
    "simple": (lambda *at: OverChannels.apply(*at, EPS, True), over_channels_centred, 1),
    "in": (
        lambda x: InstanceNormalization.apply(x, None, None, EPS),
        lambda x: instance_norm(x, None, None),
        0,
    ),
    "in_affine": (lambda *at: InstanceNormalization.apply(*at, EPS), instance_norm, 2),
    "moments": (lambda x: weighted(*InstanceMoments.apply(x)), weighted_moments, 0),
    "scaled": (
        lambda x, *at: ScaledMap.apply(x, *of_samples(x, at)),
        lambda x, *at: scaled_map(x, *of_samples(x, at)),
        3,
    ),
    "covariance": (
        lambda x: as_one(*MeanAndCovariance.apply(x, 2)),
        lambda x: as_one(*mean_and_covariance(x)),
        0,
    ),
    "iternorm": (
        lambda x, *at: MixedMap.apply(x, at[0], matrices_of(*at[1:3]), at[3]),
        lambda x, *at: mixed_map(x, at[0], matrices_of(*at[1:3]), at[3]),
        4,
    ),
    "dyt": (
        lambda x, *at: BoundedMap.apply(x, *of_samples(x, at), False),
        lambda x, *at: bounded_map(torch.sigmoid, x, *of_samples(x, at)),
        4,
    ),
    "derf": (
        lambda x, *at: BoundedMap.apply(x, *of_samples(x, at), True),
        lambda x, *at: bounded_map(torch.erf, x, *of_samples(x, at)),
        4,
    ),
    "evonorm_b": (
        lambda x, *at: OverLarger.apply(x, *of_samples(x, at)),
        lambda x, *at: over_larger(x, *of_samples(x, at)),
        5,
    ),
    "evonorm_s0": (
        lambda *at: GatedOverRoot.apply(*at, 2, EPS, True),
        lambda *at: gated_over_root(*at, True),
        3,
    ),
    "evonorm_s1": (
        lambda x, *at: GatedOverRoot.apply(x, None, *at, 2, EPS, True),
        lambda x, *at: gated_over_root(x, None, *at, True),
        2,
    ),
    "evonorm_s2": (
        lambda x, *at: GatedOverRoot.apply(x, None, *at, 2, EPS, False),
        lambda x, *at: gated_over_root(x, None, *at, False),
        2,
    ),
}
every_function = pytest.mark.parametrize("name", FUNCTIONS)


def inputs(number_of_parameters: int, *shape: int) -> list[Tensor]:
    """x (n, c, h, w) with channels on both sides of zero, and parameters (c,)."""
    parameters = [normal(shape[1], seed=seed + 1) for seed in range(number_of_parameters)]
    return [tensor.requires_grad_() for tensor in (normal(*shape) - 2, *parameters)]


@every_function
@pytest.mark.parametrize("shape", [(3, 4, 2, 5), (1, 4, 1, 1), (2, 8, 1, 3)], ids=str)
def test_values_and_gradients_are_those_of_autograd_on_the_formula(
    name: str, shape: tuple[int, ...]
) -> None:
    function, formula, number = FUNCTIONS[name]
    at = inputs(number, *shape)
    y, wanted = function(*at), formula(*at)
    gradient = normal(*y.shape, seed=9)
    torch.testing.assert_close(y, wanted, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(
        torch.autograd.grad(y, at, gradient),
        torch.autograd.grad(wanted, at, gradient),
        rtol=1e-10,
        atol=1e-12,
    )


@every_function
def test_gradients_are_those_of_finite_differences(name: str) -> None:
    function, _, number = FUNCTIONS[name]
    assert torch.autograd.gradcheck(function, inputs(number, 2, 4, 3, 2))


@every_norm
def test_output_and_gradient_of_a_map_in_channels_last_are_so_too(name: str) -> None:
    layer = layer_of(name, normal(4, 8, 4, 3)).float()
    x = normal(4, 8, 4, 3).float().to(memory_format=torch.channels_last).requires_grad_()
    y = layer(x)
    maps = y, *torch.autograd.grad(y, x, torch.ones_like(x))
    assert all(found.is_contiguous(memory_format=torch.channels_last) for found in maps)


@pytest.mark.parametrize("name", KEEP_THE_INPUT)
def test_little_more_than_the_input_is_kept_for_the_backward_pass(name: str) -> None:
    x = normal(4, 8, 16, 16).float().requires_grad_()
    layer: nn.Module = new_layer(name, x).float()
    kept = saved_bytes(layer, x, list(layer.parameters())) / x.nbytes
    assert 1 <= kept < 1.3


@every_function
def test_samples_in_several_parts_give_the_numbers_of_one_part(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    function, _, number = FUNCTIONS[name]
    found = []
    for part in (1, 2 * 8 * 3 * 2, 2**18):  # one sample, two, all five
        monkeypatch.setattr(closed_form, "PART", part)
        at = inputs(number, 5, 8, 3, 2)
        y = function(*at)
        found.append((y, *torch.autograd.grad(y, at, normal(*y.shape, seed=9))))
    torch.testing.assert_close(found[0], found[2], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found[1], found[2], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "norm", ["frn", "rms", "in", "evonorm_s0", "evonorm_b0", "bn_custom", "dyt", "mabn"]
)
def test_a_second_derivative_is_an_error_and_not_a_wrong_number(norm: str) -> None:
    """Statistics are kept without a graph: their share of it would be missing."""
    spec = norms.build(norm)
    layer = (spec.norm_act or spec.norm)(16)
    x = torch.randn(4, 16, 3, 3, requires_grad=True)
    (first,) = torch.autograd.grad(layer(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiate twice"):
        first.sum().backward()
