"""What norms refuse: shapes without statistics, options out of range."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from probes import CHANNELS, ONE_INPUT, Options, every_norm, new_layers, normal, spec_of
from torch import Tensor, nn

from normbench.errors import NormbenchError
from normbench.norms import norms
from normbench.norms.spec import Shape

VARIANTS: list[tuple[str, Options]] = [(name, {}) for name in ONE_INPUT] + [
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
]
# of torch, timm, timm's division by n - 1 = 0, torch on no channels
FAILURES = (ValueError, AssertionError, ZeroDivisionError, IndexError)


def depends_on_its_input(layer: nn.Module, shape: Shape) -> bool:
    """False where the layer says nothing of x, as where one value is its own mean; its sign alone is something."""
    one, other = (layer.train()(normal(*shape, seed=seed)) for seed in (1, 2))
    negative = layer(-normal(*shape, seed=1))
    return not (torch.allclose(one, other) and torch.allclose(one, negative))


def normalizes(name: str, options: Options, x: Tensor) -> bool:
    """False where eps alone is left to divide by, so that its choice decides the size of the output."""
    if "eps" not in norms.check(name, options):
        return True
    outputs = [new_layers(name, x, **{**options, "eps": eps})[-1](x) for eps in (1e-6, 1e-10)]
    return bool(outputs[1].abs().max() < 10 * outputs[0].abs().max() + 1)


def stays_finite(layer: nn.Module, x: Tensor) -> bool:
    """Whether a step of training leaves finite statistics, and gives a finite output and gradients."""
    y = layer.train()(x.requires_grad_())
    y.square().sum().backward()
    gradients = [x.grad, *(parameter.grad for parameter in layer.parameters())]
    return all(
        bool(values.isfinite().all())
        for values in (y, *gradients, *layer.buffers())
        if values is not None
    )


@pytest.mark.parametrize(("name", "options"), VARIANTS, ids=lambda value: str(value))
@given(
    st.sampled_from([1, 2, 3]),
    st.sampled_from([1, 2, 3, 4, 8, 12]),
    st.integers(1, 2),
    st.integers(1, 2),
)
def test_refuse_objects_exactly_where_the_layer_fails_or_forgets_its_input_or_leaves_no_finite_state(
    name: str, options: Options, samples: int, channels: int, height: int, width: int
) -> None:
    spec, shape = spec_of(name, **options), (samples, channels, height, width)
    reason, x = spec.refuse(shape), normal(*shape)
    try:
        layer = new_layers(name, x, **options)[-1]
        works = (
            depends_on_its_input(layer, shape)
            and stays_finite(layer, x)
            and normalizes(name, options, x.detach())
        )
    except FAILURES:
        works = False
    assert works == (reason is None), reason
    assert reason is None or (reason and "\n" not in reason)


@every_norm
def test_a_norm_that_accepts_a_batch_of_images_accepts_a_larger_batch_of_the_same(
    name: str,
) -> None:
    spec = spec_of(name)
    for channels, size in ((CHANNELS, 1), (CHANNELS, 2), (16, 8)):
        accepted = [
            spec.refuse((samples, channels, size, size)) is None for samples in (1, 2, 8, 64)
        ]
        assert accepted == sorted(accepted)


@pytest.mark.parametrize(
    ("name", "options", "shape", "reason"),
    [
        (
            "bn",
            {},
            (1, 8, 1, 1),
            "one value per channel has no variance: a batch of 1 on a 1x1 map",
        ),
        ("in", {}, (64, 8, 1, 1), "one value per sample and channel has no variance: a 1x1 map"),
        ("gn", {"num_groups": 3}, (64, 8, 4, 4), "num_groups=3 does not divide 8 channels"),
        (
            "gn",
            {"num_groups": 8},
            (64, 8, 1, 1),
            "num_groups=8 leaves one value per group: 8 channels on a 1x1 map",
        ),
        (
            "in_affine",
            {},
            (64, 8, 1, 1),
            "one value per sample and channel has no variance: a 1x1 map",
        ),
        ("ws_gn", {"num_groups": 3}, (64, 8, 4, 4), "num_groups=3 does not divide 8 channels"),
        ("evonorm_s0", {}, (64, 12, 4, 4), "num_groups=8 does not divide 12 channels"),
        ("ln_c", {}, (64, 1, 4, 4), "one channel has no variance over channels"),
        ("ln_chw", {}, (64, 1, 1, 1), "one value per sample has no variance"),
        ("switchable", {}, (1, 1, 1, 1), "one value has no variance"),
        ("ibn", {}, (64, 1, 4, 4), "one channel has no half"),
        ("ibn", {}, (64, 8, 1, 1), "one value per sample and channel has no variance: a 1x1 map"),
        (
            "ghost_bn",
            {"size": 4},
            (9, 8, 1, 1),
            "size=4 leaves a chunk of one sample, whose 1x1 map has no variance, in a batch of 9",
        ),
        *(
            (
                name,
                {},
                (1, 8, 1, 1),
                "one value per channel has no variance: a batch of 1 on a 1x1 map",
            )
            for name in ("bn_custom", "lazy_bn", "batch_renorm", "sync_bn", "evonorm_b0", "ws_bn")
        ),
        (
            "adain",
            {},
            (64, 8, 32, 32),
            "its scale and shift come from a style image, which a classifier has not: see normbench.norms.AdaIN",
        ),
    ],
)
def test_refuse_names_the_reason(name: str, options: Options, shape: Shape, reason: str) -> None:
    assert spec_of(name, **options).refuse(shape) == reason


@pytest.mark.parametrize(
    "name", ["none", "dyt", "rms", "frn", "weight_norm", "spectral_norm", "scaled_ws"]
)
def test_a_norm_without_variances_accepts_every_shape(name: str) -> None:
    assert all(
        spec_of(name).refuse((n, c, size, size)) is None
        for n in (1, 2)
        for c in (1, 3)
        for size in (1, 2)
    )


def test_adain_accepts_no_shape_since_it_needs_a_second_input() -> None:
    refuse = spec_of("adain").refuse
    assert all(refuse((n, c, size, size)) for n in (1, 64) for c in (1, 64) for size in (1, 32))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("gn", {"num_groups": 0}, "norm.num_groups: should be greater than or equal to 1, not 0"),
        ("bn", {"eps": 0.0}, "norm.eps: should be greater than 0, not 0.0"),
        ("bn", {"momentum": 1.5}, "norm.momentum: should be less than or equal to 1, not 1.5"),
        ("in", {"momentum": -0.1}, "norm.momentum: should be greater than or equal to 0, not -0.1"),
        ("ln", {"num_groups": 2}, "unknown option of norm ln 'num_groups': allowed: affine, eps"),
        ("ghost_bn", {"size": 0}, "norm.size: should be greater than or equal to 1, not 0"),
        (
            "batch_renorm",
            {"r_max": 0.5},
            "norm.r_max: should be greater than or equal to 1, not 0.5",
        ),
        (
            "batch_renorm",
            {"d_max": -1.0},
            "norm.d_max: should be greater than or equal to 0, not -1.0",
        ),
        ("dyt", {"alpha": 0.0}, "norm.alpha: should be greater than 0, not 0.0"),
        (
            "spectral_norm",
            {"num_power_iterations": 0},
            "norm.num_power_iterations: should be greater than or equal to 1, not 0",
        ),
        ("scaled_ws", {"weight_eps": 0.0}, "norm.weight_eps: should be greater than 0, not 0.0"),
        (
            "evonorm_s0",
            {"num_groups": 0},
            "norm.num_groups: should be greater than or equal to 1, not 0",
        ),
    ],
)
def test_an_option_out_of_range_is_refused(name: str, options: Options, message: str) -> None:
    with pytest.raises(NormbenchError) as caught:
        spec_of(name, **options)
    assert str(caught.value) == message
