"""The norms that remove a mean and divide by a deviation, against their derivation by hand in NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from probes import CHANNELS, Array, Options, layer_of, normal


def by_formula(
    x: Array,
    gradient: Array,
    gamma: Array,
    beta: Array,
    num_groups: int,
    axes: tuple[int, ...],
    eps: float,
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
    dx = inverse * (
        g - g.mean(axis=axes, keepdims=True) - x_hat * (g * x_hat).mean(axis=axes, keepdims=True)
    )
    dgamma = (gradient * x_hat.reshape(x.shape)).sum(axis=(0, 2, 3))
    return y, dx.reshape(x.shape), dgamma, gradient.sum(axis=(0, 2, 3))


ORACLES: list[tuple[str, Options, int, tuple[int, ...]]] = [
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
    *(
        (name, {}, CHANNELS, (0, 3, 4))
        for name in ("bn_custom", "lazy_bn", "ghost_bn", "batch_renorm", "sync_bn")
    ),
    ("ws_bn", {}, CHANNELS, (0, 3, 4)),
    ("ws_gn", {"num_groups": 2}, 2, (2, 3, 4)),
    ("in_affine", {}, CHANNELS, (3, 4)),
    ("ln_c", {}, 1, (1, 2)),
]


@pytest.mark.parametrize(
    ("name", "options", "num_groups", "axes"), ORACLES, ids=lambda value: str(value)
)
@pytest.mark.parametrize("eps", [1e-5, 0.5])
def test_output_and_gradients_are_those_of_the_formula(
    name: str, options: Options, num_groups: int, axes: tuple[int, ...], eps: float
) -> None:
    x, gradient = normal(3, CHANNELS, 4, 2).requires_grad_(), normal(3, CHANNELS, 4, 2, seed=2)
    layer = layer_of(name, x, eps=eps, **options).train()
    learned = dict(layer.named_parameters())
    assert set(learned) == ({"weight", "bias"} if options.get("affine", name != "in") else set())
    gamma, beta = (
        learned.get("weight", torch.ones(CHANNELS)),
        learned.get("bias", torch.zeros(CHANNELS)),
    )

    y = layer(x)
    (y * gradient).sum().backward()

    arrays = [tensor.detach().numpy().astype(np.float64) for tensor in (x, gradient, gamma, beta)]
    expected = by_formula(*arrays, num_groups, axes, eps)
    for found, wanted in zip(
        (y, x.grad, *(p.grad for p in learned.values())), expected, strict=False
    ):
        np.testing.assert_allclose(found.detach().numpy(), wanted, rtol=1e-9, atol=1e-11)
