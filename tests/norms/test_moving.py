"""mabn and online, whose backward pass has state: loops in NumPy, and laws."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from formulas import BATCH, Named, Values, affine, column, derivatives
from kit.norms import CHANNELS, Array, layer_of, normal, results, with_statistics
from torch import Tensor

SHAPE = (3, CHANNELS, 4, 2)
BATCHES = range(6)
MABN = {"window": 3, "warmup_steps": 2, "r_max": 1.2, "eps": 0.02, "momentum": 0.3}
ONLINE = {"alpha_f": 0.9, "alpha_b": 0.7, "eps": 0.02}


def batch_and_gradient(number: int) -> tuple[Tensor, Tensor]:
    """Batches that grow, so that averages over batches differ from each of them."""
    x, gradient = (normal(*SHAPE, seed=2 * number + one) for one in (0, 1))
    return x * (1 + number), gradient


@dataclass
class MovingAverages:
    """mabn's statistics over its batches, oldest first."""

    running: Array
    mean_squares: list[Array] = field(default_factory=list)
    gradients: list[Array] = field(default_factory=list)

    def step(self, x: Array, p: Named, gradient: Array) -> dict[str, Array]:
        """The output and the gradients of the next batch, by the docstring of `mabn`."""
        self.mean_squares.append((x**2).mean(axis=BATCH))
        is_warm = len(self.mean_squares) > MABN["warmup_steps"]
        window = MABN["window"] if is_warm else 1
        std = np.sqrt(np.mean(self.mean_squares[-window:], axis=0) + MABN["eps"])
        r = std / np.sqrt(self.running + MABN["eps"])
        r = np.clip(r, 1 / MABN["r_max"], MABN["r_max"]) if is_warm else np.ones_like(r)
        self.running = 0.7 * self.running + 0.3 * self.mean_squares[-1]
        z = x / column(std)
        g = gradient * column(p["weight"] * r)
        self.gradients.append((g * z).mean(axis=BATCH))
        average = np.mean(self.gradients[-window:], axis=0)
        return {
            "y": affine(z * column(r), p),
            "x": (g - z * column(average)) / column(std),
            "weight": (gradient * z * column(r)).sum(axis=BATCH),
            "bias": gradient.sum(axis=BATCH),
        }


def test_mabn_is_its_formula_in_and_after_its_warm_up_and_moves_its_averages() -> None:
    layer = layer_of("mabn", normal(*SHAPE), **MABN)
    p = {name: value.detach().numpy() for name, value in layer.named_parameters()}
    oracle = MovingAverages(np.ones(CHANNELS))
    clipped = []
    for number in BATCHES:
        x, gradient = batch_and_gradient(number)
        wanted = oracle.step(x.numpy(), p, gradient.numpy())
        found = results(layer, x, gradient)
        for key, value in wanted.items():
            np.testing.assert_allclose(found[key], value, rtol=1e-9, atol=1e-10, err_msg=key)
        clipped.append(bool((oracle.running > 4 * oracle.mean_squares[0]).any()))
    assert clipped[-1]
    np.testing.assert_allclose(layer.running_mean_square, oracle.running)


def test_mabn_with_an_unclipped_correction_divides_by_the_running_average() -> None:
    x = normal(*SHAPE)
    layer = with_statistics(layer_of("mabn", x, r_max=1e9), num_batches=1000)
    evaluated = copy.deepcopy(layer).eval()(x)
    torch.testing.assert_close(layer(x), evaluated)


@dataclass
class Streams:
    """online's statistics and controls, a sample at a time."""

    mean: Array
    var: Array
    scale: Array
    shift: Array

    def forward(self, sample: Array) -> tuple[Array, Array]:
        """z of one sample (c, h, w), and the deviation (c,) that it was divided by."""
        alpha = ONLINE["alpha_f"]
        std = np.sqrt(self.var + ONLINE["eps"])
        z = (sample - self.mean[:, None, None]) / std[:, None, None]
        mean = sample.mean(axis=(1, 2))
        self.var = alpha * self.var + (1 - alpha) * sample.var(axis=(1, 2))
        self.var = self.var + alpha * (1 - alpha) * (mean - self.mean) ** 2
        self.mean = alpha * self.mean + (1 - alpha) * mean
        return z, std

    def backward(self, dz: Array, z: Array, std: Array) -> Array:
        rate = 1 - ONLINE["alpha_b"]
        d = dz - rate * self.scale[:, None, None] * z
        self.scale = self.scale + (d * z).mean(axis=(1, 2))
        dx = d / std[:, None, None] - rate * self.shift[:, None, None]
        self.shift = self.shift + dx.mean(axis=(1, 2))
        return dx


def scaled(at: Named) -> Values:
    """Affine and layer scaling of z."""
    u = affine(at["z"], at)
    return u / np.sqrt((u**2).mean(axis=(1, 2, 3), keepdims=True) + ONLINE["eps"])


def test_online_is_its_recursion_over_samples_in_both_passes() -> None:
    layer = with_statistics(layer_of("online", normal(*SHAPE), **ONLINE))
    p = {name: value.detach().numpy() for name, value in layer.named_parameters()}
    names = ("running_mean", "running_var", "scale_control", "shift_control")
    oracle = Streams(*(layer.get_buffer(name).numpy().copy() for name in names))
    for number in range(3):
        x, gradient = batch_and_gradient(number)
        passed = [oracle.forward(sample) for sample in x.numpy()]
        z = np.stack([of_sample for of_sample, _ in passed])
        by_step = derivatives(scaled, {"z": z, **p}, gradient.numpy())
        inputs = [
            oracle.backward(dz, *of_sample)
            for dz, of_sample in zip(by_step.pop("z"), passed, strict=True)
        ]
        wanted = {"y": scaled({"z": z, **p}), "x": np.stack(inputs), **by_step}
        found = results(layer, x, gradient)
        assert found.keys() == wanted.keys()
        for key, value in wanted.items():
            np.testing.assert_allclose(found[key], value, rtol=1e-9, atol=1e-10, err_msg=key)
        for name, value in zip(names, vars(oracle).values(), strict=True):
            np.testing.assert_allclose(layer.get_buffer(name), value, err_msg=name)


def test_online_takes_a_batch_as_its_samples_one_after_another() -> None:
    x, gradient = batch_and_gradient(0)
    together = with_statistics(layer_of("online", x))
    alone = copy.deepcopy(together)
    wanted = results(together, x, gradient)
    parts = [results(alone, *pair) for pair in zip(x.split(1), gradient.split(1), strict=True)]
    for key in ("y", "x"):
        torch.testing.assert_close(torch.cat([part[key] for part in parts]), wanted[key])
    for key, buffer in together.named_buffers():
        torch.testing.assert_close(alone.get_buffer(key), buffer)


@pytest.mark.parametrize(("name", "options"), [("mabn", MABN), ("online", ONLINE)])
def test_training_goes_on_from_a_state_dict_with_the_same_bits(
    name: str, options: dict[str, float]
) -> None:
    layer = layer_of(name, normal(*SHAPE), **options)
    for number in range(3):
        results(layer, *batch_and_gradient(number))
    again = layer_of(name, normal(*SHAPE), **options)
    again.load_state_dict(copy.deepcopy(layer.state_dict()))
    for number in range(3, 6):
        found = results(again, *batch_and_gradient(number))
        wanted = results(layer, *batch_and_gradient(number))
        assert all(torch.equal(found[key], value) for key, value in wanted.items())
