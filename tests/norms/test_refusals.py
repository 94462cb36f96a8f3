"""Refusals of norms: shapes without statistics, options out of range."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from kit.norms import CHANNELS, EVERY_NORM, Options, every_norm, new_layers, normal, spec_of
from torch import Tensor, nn

from normbench.errors import NormbenchError
from normbench.norms import norms
from normbench.norms.spec import Refusal, Shape

WITH_OPTIONS: list[tuple[str, Options]] = [
    ("bn", {"track_running_stats": False}),
    ("in", {"affine": True}),
    ("in", {"track_running_stats": True}),
    ("gn", {"num_groups": 1}),
    ("gn", {"num_groups": 3}),
    ("gn", {"num_groups": CHANNELS}),
    ("ghost_bn", {"size": 1}),
    ("ghost_bn", {"size": 2}),
    ("ws_gn", {"num_groups": 3}),
    ("evonorm_s0", {"num_groups": 1}),
    ("evonorm_s0", {"num_groups": 4}),
    ("evonorm_s1", {"num_groups": 4}),
    ("evonorm_s2", {"num_groups": 3}),
    ("bcn", {"num_groups": 1}),
    ("bcn", {"num_groups": 3}),
    ("iternorm", {"group_size": 3}),
    ("iternorm", {"group_size": 1}),
    ("mabn", {"warmup_steps": 0}),
]
SHAPES = st.tuples(
    st.sampled_from([1, 2, 3]),
    st.sampled_from([1, 2, 3, 4, 8, 12]),
    st.integers(1, 2),
    st.integers(1, 2),
)
# Raised by torch, by EvoNorm's division by n - 1 = 0, by torch on no channels.
FAILURES = (ValueError, RuntimeError, ZeroDivisionError, IndexError)


def depends_on_its_input(layer: nn.Module, shape: Shape) -> bool:
    """False where outputs ignore x, as where a value is its own mean; the sign alone counts."""
    first, second = (layer.train()(normal(*shape, seed=seed)) for seed in (1, 2))
    negative = layer(-normal(*shape, seed=1))
    return not (torch.allclose(first, second) and torch.allclose(first, negative))


def normalizes(name: str, options: Options, x: Tensor) -> bool:
    """False where eps alone is left to divide by, so that eps decides the size of the output."""
    if "eps" not in norms.check(name, options):
        return True
    large, small = (new_layers(name, x, **{**options, "eps": eps})[-1](x) for eps in (1e-6, 1e-10))
    return bool(small.abs().max() < 10 * large.abs().max() + 1)


def stays_finite(layer: nn.Module, x: Tensor) -> bool:
    """Whether output, gradients and state are finite after a step of training."""
    y = layer.train()(x.requires_grad_())
    y.square().sum().backward()
    values = [y, x.grad, *layer.buffers(), *(parameter.grad for parameter in layer.parameters())]
    return all(bool(value.isfinite().all()) for value in values if value is not None)


def assert_refuses_what_fails(name: str, options: Options, shape: Shape) -> None:
    refusal, x = spec_of(name, **options).refuse(shape), normal(*shape)
    try:
        layer = new_layers(name, x, **options)[-1]
        works = depends_on_its_input(layer, shape) and stays_finite(layer, x)
        works = works and normalizes(name, options, x.detach())
    except FAILURES:
        works = False
    assert works == (refusal is None), refusal
    assert refusal is None or (refusal.reason and "\n" not in refusal.reason)


@pytest.mark.parametrize("name", EVERY_NORM)
@given(SHAPES)
def test_refuse_objects_exactly_where_training_fails_or_forgets_its_input(
    name: str, shape: Shape
) -> None:
    assert_refuses_what_fails(name, {}, shape)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "options"), WITH_OPTIONS, ids=str)
@given(SHAPES)
def test_refuse_knows_the_options(name: str, options: Options, shape: Shape) -> None:
    assert_refuses_what_fails(name, options, shape)


@every_norm
def test_a_norm_that_accepts_a_batch_of_images_accepts_a_larger_batch_of_the_same(
    name: str,
) -> None:
    refuse = spec_of(name).refuse
    for channels, size in ((CHANNELS, 1), (CHANNELS, 2), (16, 8)):
        accepted = [refuse((samples, channels, size, size)) is None for samples in (1, 2, 8, 64)]
        assert accepted == sorted(accepted)


@every_norm
def test_a_shape_has_any_number_of_places(name: str) -> None:
    """Height times width decides, not how many axes the places of a map have."""
    refuse = spec_of(name).refuse
    for samples, channels in ((1, 8), (2, 8), (2, 1)):
        for side in (1, 3):
            assert refuse((samples, channels, side * side)) == refuse(
                (samples, channels, side, side)
            )


PER_CHANNEL = "one value per channel has no variance: a batch of 1 on a 1x1 map"
A_PIXEL = "one value per sample and channel has no variance: a 1x1 map"
NO_DIVISOR = "num_groups=3 does not divide 8 channels"
OF_THE_BATCH = [
    *("bn", "bn_custom", "lazy_bn", "batch_renorm", "sync_bn", "ws_bn", "ebn", "bcn", "bin"),
    "iternorm",
    *("evonorm_b0", "evonorm_b1", "evonorm_b2"),
]
A_GROUP = "num_groups=8 leaves one value per group: 8 channels on a 1x1 map"
A_CHUNK = "size=4 leaves a chunk of one sample, whose 1x1 map has no variance, in a batch of 9"


@pytest.mark.parametrize(
    ("name", "options", "shape", "reason"),
    [
        ("in", {}, (64, 8, 1, 1), A_PIXEL),
        ("in_affine", {}, (64, 8, 1, 1), A_PIXEL),
        ("ibn", {}, (64, 8, 1, 1), A_PIXEL),
        ("ibn", {}, (64, 1, 4, 4), "one channel has no half"),
        ("gn", {"num_groups": 3}, (64, 8, 4, 4), NO_DIVISOR),
        ("ws_gn", {"num_groups": 3}, (64, 8, 4, 4), NO_DIVISOR),
        ("evonorm_s0", {}, (64, 12, 4, 4), "num_groups=8 does not divide 12 channels"),
        ("evonorm_s2", {}, (64, 12, 4, 4), "num_groups=8 does not divide 12 channels"),
        ("bcn", {"num_groups": 3}, (64, 8, 4, 4), NO_DIVISOR),
        ("iternorm", {"group_size": 3}, (64, 8, 4, 4), "group_size=3 does not divide 8 channels"),
        ("gn", {"num_groups": 8}, (64, 8, 1, 1), A_GROUP),
        ("evonorm_s1", {}, (64, 8, 1, 1), A_GROUP),
        ("bcn", {"num_groups": 8}, (64, 8, 1, 1), A_GROUP),
        ("simple", {}, (64, 1, 4, 4), "one channel has no variance over channels"),
        ("ln_c", {}, (64, 1, 4, 4), "one channel has no variance over channels"),
        ("ln_chw", {}, (64, 1, 1, 1), "one value per sample has no variance"),
        ("switchable", {}, (1, 1, 1, 1), "one value has no variance"),
        ("ghost_bn", {"size": 4}, (9, 8, 1, 1), A_CHUNK),
        *((name, {}, (1, 8, 1, 1), PER_CHANNEL) for name in OF_THE_BATCH),
    ],
)
def test_refuse_names_the_reason(name: str, options: Options, shape: Shape, reason: str) -> None:
    assert spec_of(name, **options).refuse(shape) == Refusal(reason)


AT_LEAST_0, AT_LEAST_1 = "greater than or equal to 0", "greater than or equal to 1"


@pytest.mark.parametrize(
    ("name", "option", "value", "rule"),
    [
        ("gn", "num_groups", 0, AT_LEAST_1),
        ("bn", "eps", 0.0, "greater than 0"),
        ("bn", "momentum", 1.5, "less than or equal to 1"),
        ("in", "momentum", -0.1, AT_LEAST_0),
        ("ghost_bn", "size", 0, AT_LEAST_1),
        ("batch_renorm", "r_max", 0.5, AT_LEAST_1),
        ("batch_renorm", "d_max", -1.0, AT_LEAST_0),
        ("dyt", "alpha", 0.0, "greater than 0"),
        ("derf", "alpha", 0.0, "greater than 0"),
        ("bcn", "num_groups", 0, AT_LEAST_1),
        ("iternorm", "iterations", 0, AT_LEAST_1),
        ("mabn", "window", 0, AT_LEAST_1),
        ("mabn", "r_max", 0.5, AT_LEAST_1),
        ("online", "alpha_f", 1.0, "less than 1"),
        ("spectral_norm", "num_power_iterations", 0, AT_LEAST_1),
        ("scaled_ws", "weight_eps", 0.0, "greater than 0"),
    ],
)
def test_an_option_out_of_range_is_refused(name: str, option: str, value: float, rule: str) -> None:
    with pytest.raises(NormbenchError) as caught:
        spec_of(name, **{option: value})
    assert str(caught.value) == f"norm.{option}: should be {rule}, not {value}"


def test_an_unknown_option_is_refused() -> None:
    with pytest.raises(NormbenchError) as caught:
        spec_of("ln", num_groups=2)
    message = "unknown option of norm ln 'num_groups': allowed: affine, eps"
    assert str(caught.value) == message
