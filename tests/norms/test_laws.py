"""Laws between norms, for drawn shapes: a norm with some options equals another norm."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from kit.norms import (
    CHANNELS,
    NAMES,
    assert_equal_results,
    layer_of,
    new_layer,
    normal,
    results,
    share_parameters,
    spec_of,
    statistics,
    with_statistics,
)
from torch import Tensor, nn

Shape = tuple[int, int, int, int]
SHAPES = st.tuples(
    st.integers(1, 4), st.sampled_from([1, 2, 4, 6]), st.integers(1, 4), st.integers(2, 4)
)
WITHOUT_A_NORM = {"none", "weight_norm", "spectral_norm", "scaled_ws"}
WITHOUT_AN_OFFSET = {"rms", "simple"}


def assert_same(first: nn.Module, second: nn.Module, x: Tensor) -> None:
    """Compares output and gradients of layers with the first layer's parameters."""
    share_parameters(first, second)
    gradient = normal(*x.shape, seed=2)
    assert_equal_results(results(first, x, gradient), results(second, x, gradient))


@given(SHAPES)
def test_group_norm_with_one_group_equals_layer_norm(shape: Shape) -> None:
    x = normal(*shape)
    assert torch.equal(layer_of("gn", x, num_groups=1)(x), layer_of("ln", x)(x))


@given(SHAPES)
def test_group_norm_with_as_many_groups_as_channels_equals_affine_instance_norm(
    shape: Shape,
) -> None:
    x = normal(*shape)
    group, instance = layer_of("gn", x, num_groups=shape[1]), layer_of("in", x, affine=True)
    torch.testing.assert_close(group(x), instance(x))
    assert_same(group, layer_of("in_affine", x), x)


@given(SHAPES)
def test_layer_norm_per_element_with_one_affine_for_all_pixels_equals_layer_norm(
    shape: Shape,
) -> None:
    x = normal(*shape)
    plain, per_element = layer_of("ln", x), layer_of("ln_chw", x)
    with torch.no_grad():
        for own, parameter in zip(per_element.parameters(), plain.parameters(), strict=True):
            own.copy_(parameter[:, None, None].expand_as(own))
    torch.testing.assert_close(per_element(x), plain(x))


@given(SHAPES, st.integers(0, 4))
def test_ghost_batch_norm_with_one_chunk_equals_batch_norm_and_keeps_its_statistics(
    shape: Shape, more: int
) -> None:
    x = normal(*shape)
    ghost, batch = layer_of("ghost_bn", x, size=shape[0] + more), layer_of("bn", x)
    assert_same(ghost, batch, x)
    assert torch.equal(ghost.running_mean, batch.running_mean)
    assert torch.equal(ghost.running_var, batch.running_var)
    assert torch.equal(ghost.eval()(x), batch.eval()(x))


@given(SHAPES, st.integers(1, 4))
def test_ghost_batch_norm_is_batch_norm_on_each_chunk_in_turn(shape: Shape, size: int) -> None:
    x = normal(*shape)
    ghost, batch = layer_of("ghost_bn", x, size=size), layer_of("bn", x)
    parts = torch.cat([batch(chunk) for chunk in x.split(size)])
    assert torch.equal(ghost(x), parts)
    for name, value in statistics(ghost).items():
        assert torch.equal(value, statistics(batch)[name])


@given(SHAPES)
def test_extended_batch_norm_of_a_single_channel_equals_batch_norm(shape: Shape) -> None:
    x = normal(shape[0], 1, *shape[2:])
    extended, batch = layer_of("ebn", x), layer_of("bn", x)
    assert_same(extended, batch, x)
    torch.testing.assert_close(extended.eval()(x), batch.eval()(x))


@given(SHAPES)
def test_batch_channel_norm_is_batch_norm_and_then_group_norm(shape: Shape) -> None:
    x = normal(*shape)
    both, batch = new_layer("bcn", x, num_groups=1), new_layer("bn", x)
    group = new_layer("gn", x, num_groups=1)
    torch.testing.assert_close(both(x), group(batch(x)))


@given(SHAPES)
def test_batch_instance_norm_is_batch_norm_at_rho_1_and_instance_norm_at_rho_0(
    shape: Shape,
) -> None:
    x = normal(*shape)
    for rho, name in ((1.0, "bn"), (0.0, "in_affine")):
        mix = new_layer("bin", x)
        with torch.no_grad():
            mix.rho.fill_(rho)
        torch.testing.assert_close(mix(x), new_layer(name, x)(x))


@pytest.mark.parametrize("group_size", [2, 4, 64])
def test_iternorm_with_many_iterations_gives_each_group_the_identity_as_covariance(
    group_size: int,
) -> None:
    x = normal(6, CHANNELS, 4, 4)
    y = new_layer("iternorm", x, group_size=group_size, iterations=40, eps=1e-12)(x)
    rows = y.transpose(0, 1).flatten(1)
    for group in rows.split(group_size):
        identity = torch.eye(len(group), dtype=torch.float64)
        torch.testing.assert_close(group.cov(correction=0), identity)
    if group_size < CHANNELS:
        assert rows.cov(correction=0).fill_diagonal_(0).abs().max() > 0.01


@given(SHAPES)
def test_iternorm_in_groups_of_one_channel_is_batch_norm(shape: Shape) -> None:
    x = normal(*shape)
    options = {"group_size": 1, "eps": 0.01}
    iterative, batch = new_layer("iternorm", x, **options), new_layer("bn", x, eps=0.01)
    torch.testing.assert_close(iterative(x), batch(x))
    torch.testing.assert_close(iterative.running_mean, batch.running_mean)


@given(SHAPES)
def test_evonorm_s1_is_evonorm_s0_with_v_at_1(shape: Shape) -> None:
    x = normal(*shape)
    first, zeroth = (new_layer(name, x, num_groups=1) for name in ("evonorm_s1", "evonorm_s0"))
    torch.testing.assert_close(first(x), zeroth(x))


def test_a_new_switchable_norm_mixes_its_parts_equally() -> None:
    x = normal(4, CHANNELS, 3, 3)
    layer = new_layer("switchable", x)
    for logits in (layer.mean_logits, layer.var_logits):
        torch.testing.assert_close(logits.softmax(0), torch.full((3,), 1 / 3, dtype=torch.float64))


@pytest.mark.parametrize("channels", [2, 5, 8])
@pytest.mark.parametrize("training", [True, False])
def test_ibn_is_instance_norm_on_the_first_half_and_batch_norm_on_the_rest(
    channels: int, training: bool
) -> None:
    x = normal(3, channels, 4, 4)
    half = channels // 2
    layer = with_statistics(layer_of("ibn", x)).train(training)
    first, rest = new_layer("in_affine", x[:, :half]), new_layer("bn", x[:, half:]).train(training)
    first.load_state_dict(layer.instance.state_dict())
    rest.load_state_dict(layer.batch.state_dict())
    torch.testing.assert_close(layer(x), torch.cat([first(x[:, :half]), rest(x[:, half:])], 1))


def test_a_norm_of_weights_is_the_identity_and_the_convolution_keeps_its_bias() -> None:
    x = normal(2, CHANNELS, 3, 3)
    for name in WITHOUT_A_NORM:
        assert torch.equal(spec_of(name).norm(CHANNELS)(x), x)
    keep_the_bias = {name for name in NAMES if spec_of(name).conv_bias}
    assert keep_the_bias == WITHOUT_A_NORM | WITHOUT_AN_OFFSET
    of_weights = {name for name in NAMES if spec_of(name).scope == "weight"}
    assert all(spec_of(name).reparametrize is not None for name in of_weights)
