"""Laws of norms of weights."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from kit.norms import normal, randomize, spec_of
from torch import Tensor, nn

STANDARDIZING = ["ws_gn", "ws_bn"]
ON_EVERY_LAYER = ["weight_norm", "spectral_norm"]


def conv(channels: int = 3, filters: int = 5) -> nn.Module:
    """A float64 convolution with random weights and a bias."""
    return randomize(nn.Conv2d(channels, filters, 3).double())


def rows(weight: Tensor) -> Tensor:
    return weight.detach().flatten(1)


def largest_singular_value(weight: Tensor) -> float:
    return float(torch.linalg.matrix_norm(rows(weight), ord=2))


@pytest.mark.parametrize("name", STANDARDIZING)
def test_standardizing_a_standardized_weight_leaves_it(name: str) -> None:
    spec = spec_of(name, weight_eps=1e-12)
    once = spec.reparametrize(conv())
    again = conv()
    with torch.no_grad():
        again.weight.copy_(once.weight)
    torch.testing.assert_close(spec.reparametrize(again).weight, once.weight)


@pytest.mark.parametrize("name", [*STANDARDIZING, "scaled_ws"])
@given(st.floats(0.1, 10), st.floats(-5, 5))
def test_a_standardized_weight_ignores_the_scale_and_offset_of_the_weight_below(
    name: str, scale: float, offset: float
) -> None:
    spec, moved = spec_of(name, weight_eps=1e-12), conv()
    with torch.no_grad():
        moved.weight.mul_(scale).add_(offset)
    torch.testing.assert_close(spec.reparametrize(moved).weight, spec.reparametrize(conv()).weight)


def test_scaled_weight_standardization_keeps_the_variance_through_relu_and_conv() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(64, 32, 12, 12, generator=generator)
    conv = nn.Conv2d(32, 64, 3, bias=False)
    nn.init.normal_(conv.weight, generator=generator)
    scaled = spec_of("scaled_ws").reparametrize(conv)
    with torch.no_grad():
        relative = scaled(x.relu()).var() / x.var()
    assert relative == pytest.approx(1.0, abs=0.03)


def test_a_new_scaled_standardization_has_gain_1_and_a_learned_one_by_filter() -> None:
    gain = spec_of("scaled_ws").reparametrize(conv()).parametrizations.weight[0].gain
    assert torch.equal(gain, torch.ones(5, 1, 1, 1))
    assert isinstance(gain, nn.Parameter)


@pytest.mark.parametrize(
    "make", [conv, lambda: randomize(nn.Linear(6, 4).double())], ids=["conv", "linear"]
)
def test_weight_norm_starts_as_the_weight_it_was_given(make: Callable[[], nn.Module]) -> None:
    torch.testing.assert_close(spec_of("weight_norm").reparametrize(make()).weight, make().weight)


@given(st.floats(0.01, 100))
def test_weight_norm_ignores_the_length_of_v_and_has_the_length_g(scale: float) -> None:
    module = spec_of("weight_norm").reparametrize(conv())
    g, v = module.parametrizations.weight.original0, module.parametrizations.weight.original1
    before = module.weight.detach().clone()
    with torch.no_grad():
        v.mul_(scale)
    torch.testing.assert_close(module.weight, before)
    torch.testing.assert_close(rows(module.weight).norm(dim=1), g.detach().flatten())
    with torch.no_grad():
        g.mul_(-scale)
    torch.testing.assert_close(module.weight, -scale * before)


@pytest.mark.parametrize("num_power_iterations", [1, 5])
def test_spectral_norm_s_weight_has_largest_singular_value_1_after_enough_steps_of_training(
    num_power_iterations: int,
) -> None:
    module = spec_of("spectral_norm", num_power_iterations=num_power_iterations).reparametrize(
        conv(4, 6)
    )
    with torch.no_grad():
        module.parametrizations.weight.original.copy_(normal(6, 4, 3, 3, seed=5))
    far = abs(largest_singular_value(module.eval().weight) - 1)
    module.train()
    for _ in range(100):
        module(torch.zeros(1, 4, 3, 3).double())
    assert largest_singular_value(module.eval().weight) == pytest.approx(1, abs=1e-6)
    assert far > 0.01


def test_in_evaluation_spectral_norm_takes_no_step() -> None:
    module = spec_of("spectral_norm").reparametrize(conv())
    with torch.no_grad():
        module.parametrizations.weight.original.copy_(normal(5, 3, 3, 3, seed=5))
    vectors = {name: buffer.clone() for name, buffer in module.named_buffers()}
    assert len(vectors) == 2
    x = torch.zeros(1, 3, 3, 3).double()
    module.eval()(x)
    assert all(torch.equal(buffer, vectors[name]) for name, buffer in module.named_buffers())
    module.train()(x)
    assert not any(torch.equal(buffer, vectors[name]) for name, buffer in module.named_buffers())


@pytest.mark.parametrize("name", [*STANDARDIZING, "scaled_ws", *ON_EVERY_LAYER])
def test_reparametrizing_takes_nothing_from_torch_s_random_numbers_on_any_device(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seeded: list[int] = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded.append)
    module, before = conv(), torch.get_rng_state()
    spec_of(name).reparametrize(module)
    assert torch.equal(torch.get_rng_state(), before)
    assert seeded == []


def test_spectral_norm_s_first_vectors_are_the_same_whatever_was_drawn_before() -> None:
    states = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        weight = spec_of("spectral_norm").reparametrize(conv(64, 64)).parametrizations.weight
        states.append([buffer.clone() for buffer in weight.buffers()])
    assert all(torch.equal(one, other) for one, other in zip(*states, strict=True))
