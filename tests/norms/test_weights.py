"""Laws of norms of weights."""

from __future__ import annotations

import pytest
import torch
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


def test_scaled_weight_standardization_keeps_the_variance_through_relu_and_conv() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(64, 32, 12, 12, generator=generator)
    conv = nn.Conv2d(32, 64, 3, bias=False)
    nn.init.normal_(conv.weight, generator=generator)
    scaled = spec_of("scaled_ws").reparametrize(conv)
    with torch.no_grad():
        relative = scaled(x.relu()).var() / x.var()
    assert relative == pytest.approx(1.0, abs=0.03)


def test_spectral_norm_s_weight_has_largest_singular_value_1_after_enough_steps() -> None:
    module = spec_of("spectral_norm").reparametrize(conv(4, 6))
    with torch.no_grad():
        module.parametrizations.weight.original.copy_(normal(6, 4, 3, 3, seed=5))
    far = abs(largest_singular_value(module.eval().weight) - 1)
    module.train()
    for _ in range(100):
        module(torch.zeros(1, 4, 3, 3).double())
    assert largest_singular_value(module.eval().weight) == pytest.approx(1, abs=1e-6)
    assert far > 0.01


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
