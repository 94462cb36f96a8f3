"""torch.compile gives every norm's eager numbers: output, gradients and running statistics."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch
from kit.norms import (
    REPARAMETRIZING,
    every_norm,
    layer_of,
    normal,
    randomize,
    results,
    spec_of,
    with_statistics,
)
from torch import nn

from normbench.norms import AdaIN

SHAPE = (2, 8, 4, 4)
# Layers of many small operations, which the compiler fuses.
GENERATED = ["batch_renorm", "ghost_bn", "evonorm_s0"]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(autouse=True)
def nothing_compiled_before() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def assert_compiled_as_eager(
    layer: nn.Module, backend: str, modes: tuple[bool, ...] = (True, False)
) -> None:
    """Compares training, then evaluation with the statistics that training left."""
    x, eager = normal(*SHAPE).float(), copy.deepcopy(layer)
    generator = torch.Generator().manual_seed(0)
    gradient = torch.randn(copy.deepcopy(layer)(x).shape, generator=generator)
    compiled = torch.compile(layer, backend=backend, fullgraph=True)
    for training in modes:
        found = results(compiled.train(training), x, gradient)
        wanted = results(eager.train(training), x, gradient)
        found = {key.removeprefix("_orig_mod."): value for key, value in found.items()}
        assert found.keys() == wanted.keys()
        for key, value in wanted.items():
            tolerance = 1e-5 * float(value.abs().max())
            torch.testing.assert_close(
                found[key], value, rtol=0, atol=tolerance, msg=lambda text, k=key: k + text
            )
        state = dict(layer.named_buffers())
        for key, buffer in eager.named_buffers():
            torch.testing.assert_close(state[key], buffer, msg=lambda text, k=key: k + text)


def float32_layer(name: str) -> nn.Module:
    """Random parameters, and statistics of many batches unlike the next batch."""
    return with_statistics(layer_of(name, normal(*SHAPE)), num_batches=500).float().train()


@every_norm
def test_a_compiled_norm_gives_the_eager_numbers(name: str) -> None:
    assert_compiled_as_eager(float32_layer(name), "aot_eager")


@pytest.mark.parametrize("name", GENERATED)
def test_a_norm_in_generated_code_trains_by_the_eager_numbers(name: str) -> None:
    assert_compiled_as_eager(float32_layer(name), "inductor", modes=(True,))


@pytest.mark.parametrize("name", REPARAMETRIZING)
def test_a_compiled_reparametrized_convolution_gives_the_eager_numbers(name: str) -> None:
    # Random weights, far from the vectors of spectral norm.
    conv = randomize(spec_of(name).reparametrize(nn.Conv2d(8, 4, 3)))
    assert_compiled_as_eager(conv, "aot_eager")


def test_a_compiled_adain_gives_the_eager_numbers() -> None:
    images = normal(*SHAPE).float(), normal(*SHAPE, seed=1).float()
    compiled = torch.compile(AdaIN(), backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(*images), AdaIN()(*images), rtol=1e-5, atol=1e-5)
