"""Running statistics: what norms average in training, and use and leave in evaluation."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from kit.norms import (
    CHANNELS,
    NAMES,
    Array,
    Options,
    layer_of,
    new_layers,
    normal,
    randomize,
    results,
    statistics,
)
from torch import Tensor, nn

UNBIASED = [
    *("bn", "lazy_bn", "sync_bn", "batch_renorm", "switchable", "ws_bn", "bin"),
    *("evonorm_b0", "evonorm_b1", "evonorm_b2"),
]
STATISTICS = {
    *("bn_custom", "ghost_bn", "ibn", "ebn", "bcn", "iternorm", "mabn", "online"),
    *UNBIASED,
}
PLAIN = [name for name in NAMES if name not in STATISTICS]
COLUMN = (1, CHANNELS, 1, 1)


def batches() -> list[Tensor]:
    return [normal(3, CHANNELS, 4, 2, seed=seed) for seed in range(4)]


def by_channel(x: Tensor) -> Array:
    return x.numpy().transpose(1, 0, 2, 3).reshape(x.shape[1], -1)


def averages(values: list[Tensor], momentum: float, ddof: int) -> tuple[Array, Array]:
    """Moving averages of the batches' means and variances."""
    mean, var = np.zeros(values[0].shape[1]), np.ones(values[0].shape[1])
    for batch in map(by_channel, values):
        mean = (1 - momentum) * mean + momentum * batch.mean(1)
        var = (1 - momentum) * var + momentum * batch.var(1, ddof=ddof)
    return mean, var


def assert_averages(layer: nn.Module, mean: Array, var: Array) -> None:
    kept = statistics(layer)
    np.testing.assert_allclose(kept["running_var"], var, rtol=1e-12)
    if "running_mean" in kept:  # EvoNorm-B removes no mean
        np.testing.assert_allclose(kept["running_mean"], mean, rtol=1e-12)


def trained(name: str, **options: Any) -> nn.Module:
    """The layer after all batches."""
    layer = layer_of(name, batches()[0], **options).train()
    for x in batches():
        layer(x)
    return layer


@pytest.mark.parametrize("name", UNBIASED)
@pytest.mark.parametrize("momentum", [0.0, 0.1, 0.7, 1.0])
def test_batch_norm_and_its_kin_keep_a_moving_mean_and_unbiased_variance(
    name: str, momentum: float
) -> None:
    layer = trained(name, momentum=momentum)
    assert_averages(layer, *averages(batches(), momentum, ddof=1))


@pytest.mark.parametrize("momentum", [0.0, 0.1, 0.7, 1.0])
def test_batch_norm_by_hand_keeps_the_biased_variance_smaller_by_1_minus_1_over_n(
    momentum: float,
) -> None:
    by_hand, batch = trained("bn_custom", momentum=momentum), trained("bn", momentum=momentum)
    assert_averages(by_hand, *averages(batches(), momentum, ddof=0))
    if momentum == 1.0:
        torch.testing.assert_close(by_hand.running_var, batch.running_var * (1 - 1 / 24))


@pytest.mark.parametrize("size", [1, 2])
def test_ghost_batch_norm_averages_over_chunks(size: int) -> None:
    layer = trained("ghost_bn", size=size, momentum=0.3)
    chunks: list[Tensor] = []
    for x in batches():
        chunks += x.split(size)
    assert_averages(layer, *averages(chunks, 0.3, ddof=1))


def test_ibn_averages_over_the_batch_half_alone() -> None:
    layer = trained("ibn", momentum=0.3)
    assert_averages(layer.batch, *averages([x[:, CHANNELS // 2 :] for x in batches()], 0.3, ddof=1))
    assert list(layer.instance.buffers()) == []


def test_extended_batch_norm_averages_one_variance_for_all_channels() -> None:
    layer = trained("ebn", momentum=0.3)
    mean, var = averages(batches(), 0.3, ddof=1)
    assert_averages(layer, mean, var.mean(keepdims=True))


def test_batch_channel_norm_averages_as_batch_norm() -> None:
    layer = trained("bcn", momentum=0.3)
    assert_averages(layer.batch, *averages(batches(), 0.3, ddof=1))


def test_iternorm_averages_the_means_and_the_whitening_matrices() -> None:
    layer = layer_of("iternorm", batches()[0], momentum=0.3).train()
    layers = [layer_of("iternorm", x, momentum=1.0).train() for x in batches()]
    mean, whitening = torch.zeros(CHANNELS).double(), torch.eye(CHANNELS)[None].double()
    for x, alone in zip(batches(), layers, strict=True):
        layer(x)
        alone(x)
        mean = 0.7 * mean + 0.3 * alone.running_mean
        whitening = 0.7 * whitening + 0.3 * alone.running_whitening
    torch.testing.assert_close(layer.running_mean, mean)
    torch.testing.assert_close(layer.running_whitening, whitening)


def test_batch_norm_without_momentum_keeps_the_plain_average_over_all_batches() -> None:
    layer = trained("bn", momentum=None)
    rows = np.stack([by_channel(x) for x in batches()])
    np.testing.assert_allclose(layer.running_mean, rows.mean(2).mean(0), rtol=1e-12)
    np.testing.assert_allclose(layer.running_var, rows.var(2, ddof=1).mean(0), rtol=1e-12)


@pytest.mark.parametrize("name", sorted(STATISTICS))
def test_training_moves_the_statistics_and_evaluation_leaves_every_part_of_the_state(
    name: str,
) -> None:
    layer = layer_of(name, batches()[0]).train()
    state = {key: value.clone() for key, value in layer.state_dict().items()}
    # mabn and online have state of the backward pass, too.
    y = results(layer, batches()[0], normal(3, CHANNELS, 4, 2, seed=9))["y"]
    moved = {key for key, value in layer.state_dict().items() if not torch.equal(value, state[key])}
    assert moved == {name for name, _ in layer.named_buffers()}
    state = {key: value.clone() for key, value in layer.state_dict().items()}
    assert not torch.allclose(layer.eval()(batches()[0]), y)
    assert all(torch.equal(value, state[key]) for key, value in layer.state_dict().items())


@pytest.mark.parametrize("name", PLAIN)
def test_the_other_norms_keep_no_statistics_and_evaluate_as_they_train(name: str) -> None:
    x = normal(3, CHANNELS, 4, 4)
    for layer in new_layers(name, x):
        randomize(layer)
        assert list(layer.buffers()) == []
        assert torch.equal(layer.train()(x), layer.eval()(x))


def test_instance_norm_with_running_statistics_evaluates_with_them() -> None:
    x = normal(3, CHANNELS, 4, 4)
    layer = layer_of("in", x, track_running_stats=True, momentum=1.0).train()
    layer(x)
    mean = x.mean((2, 3)).mean(0).view(1, -1, 1, 1)
    var = x.var((2, 3), correction=1).mean(0).view(1, -1, 1, 1)
    torch.testing.assert_close(layer.eval()(x), (x - mean) / (var + 1e-5).sqrt())


@pytest.mark.parametrize(
    ("options", "num_batches", "share"),
    [
        ({"warmup_steps": 3, "ramp_steps": 4}, 3, 0.0),
        ({"warmup_steps": 3, "ramp_steps": 4}, 4, 0.25),
        ({"warmup_steps": 3, "ramp_steps": 4}, 7, 1.0),
        ({"warmup_steps": 3, "ramp_steps": 4}, 9, 1.0),
        ({"warmup_steps": 0, "ramp_steps": 0}, 0, 0.0),
        ({"warmup_steps": 0, "ramp_steps": 0}, 1, 1.0),
    ],
)
def test_batch_renorm_s_bounds_grow_with_the_batches_it_has_seen(
    options: Options, num_batches: int, share: float
) -> None:
    x = normal(3, CHANNELS, 4, 4) * 100 + 1000  # r and d far beyond any bound
    layer = layer_of("batch_renorm", x, r_max=3.0, d_max=5.0, momentum=0.0, **options).train()
    for _ in range(num_batches):
        layer(x)
    mean, var = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), correction=0, keepdim=True)
    y = (x - mean) / (var + 1e-5).sqrt() * (1 + 2 * share) + 5 * share
    torch.testing.assert_close(layer(x), y * layer.weight.view(COLUMN) + layer.bias.view(COLUMN))
    assert layer.num_batches_tracked == num_batches + 1
