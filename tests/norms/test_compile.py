"""torch.compile gives every norm's eager numbers: output, gradients and running statistics."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch
from probes import (
    REPARAMETRIZING,
    every_norm_of_one_input,
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
GENERATED = [
    "batch_renorm",
    "ghost_bn",
    "evonorm_s0",
]  # written in many small operations, which are fused

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(autouse=True)
def nothing_compiled_before() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def assert_compiled_as_eager(
    layer: nn.Module, backend: str, modes: tuple[bool, ...] = (True, False)
) -> None:
    """In training, then in evaluation: the second starts from the statistics that the first left."""
    x = normal(*SHAPE).float()
    eager = copy.deepcopy(layer)
    gradient = torch.randn(
        copy.deepcopy(layer)(x).shape, generator=torch.Generator().manual_seed(0)
    )
    compiled = torch.compile(layer, backend=backend, fullgraph=True)
    for training in modes:
        found, wanted = (
            results(module.train(training), x, gradient) for module in (compiled, eager)
        )
        found = {key.removeprefix("_orig_mod."): value for key, value in found.items()}
        assert found.keys() == wanted.keys()
        for key, value in wanted.items():
            of_size = float(value.abs().max())
            torch.testing.assert_close(
                found[key], value, rtol=0, atol=1e-5 * of_size, msg=lambda text, k=key: k + text
            )
        state = dict(layer.named_buffers())
        for key, buffer in eager.named_buffers():
            torch.testing.assert_close(state[key], buffer, msg=lambda text, k=key: k + text)


def float32_layer(name: str) -> nn.Module:
    """Random parameters, and statistics of many batches unlike the next one."""
    return with_statistics(layer_of(name, normal(*SHAPE)), num_batches=500).float().train()


@every_norm_of_one_input
def test_a_compiled_norm_gives_the_eager_numbers(name: str) -> None:
    assert_compiled_as_eager(float32_layer(name), "aot_eager")


@pytest.mark.parametrize("name", GENERATED)
def test_a_norm_in_generated_code_trains_by_the_eager_numbers(name: str) -> None:
    assert_compiled_as_eager(float32_layer(name), "inductor", modes=(True,))


@pytest.mark.parametrize("name", REPARAMETRIZING)
def test_a_compiled_reparametrized_convolution_gives_the_eager_numbers(name: str) -> None:
    conv = randomize(
        spec_of(name).reparametrize(nn.Conv2d(8, 4, 3))
    )  # far from where spectral norm's vectors point
    assert_compiled_as_eager(conv, "aot_eager")


def test_a_compiled_adain_gives_the_eager_numbers() -> None:
    content, style = normal(*SHAPE).float(), normal(*SHAPE, seed=1).float()
    compiled = torch.compile(AdaIN(), backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(
        compiled(content, style), AdaIN()(content, style), rtol=1e-5, atol=1e-5
    )
