"""Layers: initial values by stream, each activation once, weights reparametrized."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from kit.norms import NAMES, REPARAMETRIZING, every_norm
from torch import Tensor, nn
from torch.nn.utils import parametrize

from normbench.models import Layers, materialize, models
from normbench.norms import NormSpec, norms

# Weight standardization leaves linear layers alone.
CONVS_ALONE = {"ws_gn", "ws_bn", "scaled_ws", "mabn"}


def test_a_layer_draws_torch_s_default_distribution() -> None:
    layers = Layers(norms.build("none"), seed=0)
    for layer, fan_in in ((layers.conv(32, 64, 3), 32 * 9), (layers.linear(300, 200), 300)):
        for values in (layer.weight, layer.bias):
            scaled = values.detach().flatten().double().numpy() * math.sqrt(fan_in)
            assert np.abs(scaled).max() <= 1 + 1e-6
            # Kolmogorov-Smirnov against the uniform distribution on [-1, 1], level about 1e-4.
            quantiles = (np.arange(scaled.size) + 0.5) / scaled.size
            distances = np.abs(np.sort((scaled + 1) / 2) - quantiles)
            assert distances.max() < 2.3 / math.sqrt(scaled.size)


def test_the_i_th_layer_draws_the_same_weights_whether_those_before_it_have_a_bias_or_not() -> None:
    with_bias, without = (Layers(norms.build(name), seed=3) for name in ("none", "bn"))
    for _ in range(3):
        one, other = with_bias.conv(3, 3, 3), without.conv(3, 3, 3)
        assert (one.bias is None, other.bias is None) == (False, True)
        assert torch.equal(one.weight, other.weight)


def weight_below(module: nn.Module) -> Tensor:
    """The weight before any reparametrization; of weight norm length times direction."""
    if not parametrize.is_parametrized(module):
        return module.weight
    parametrization = module.parametrizations["weight"]
    return parametrization.original if hasattr(parametrization, "original") else module.weight


@every_norm
@pytest.mark.parametrize("seed", [0, 3])
def test_equal_seeds_give_equal_initial_weights_under_every_norm(name: str, seed: int) -> None:
    plain, built = Layers(norms.build("none"), seed), Layers(norms.build(name), seed)
    for _ in range(2):
        for kind, sizes in (("conv", (3, 4, 3)), ("conv", (4, 2, 1)), ("linear", (5, 2))):
            wanted, found = (getattr(layers, kind)(*sizes) for layers in (plain, built))
            if name == "weight_norm":  # length times direction rounds
                torch.testing.assert_close(weight_below(found), wanted.weight, rtol=1e-6, atol=1e-8)
                assert torch.equal(found.parametrizations.weight.original1, wanted.weight)
            else:
                assert torch.equal(weight_below(found), wanted.weight)
            if found.bias is not None:
                assert torch.equal(found.bias, wanted.bias)
            assert (found.bias is None) == (kind == "conv" and not built.spec.conv_bias)


@pytest.mark.parametrize("name", REPARAMETRIZING)
def test_a_norm_of_weights_acts_on_convolutions_and_where_it_says_so_on_the_head(name: str) -> None:
    layers = Layers(norms.build(name), seed=0)
    assert parametrize.is_parametrized(layers.conv(3, 4, 3))
    assert parametrize.is_parametrized(layers.linear(3, 4)) == (name not in CONVS_ALONE)


def network(name: str, norm: str, init_scale: float, **options: Any) -> nn.Module:
    layers = Layers(norms.build(norm), seed=3, init_scale=init_scale)
    return materialize(models.build(name, layers, 10, options=options), (3, 32, 32))


def weights_and_rest(model: nn.Module) -> tuple[list[Tensor], dict[str, Tensor]]:
    """The weights of convolutions and linear layers in order; all other state by name."""
    rest = model.state_dict()
    weights = []
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            weights.append(weight_below(module).detach())
            for key in [*rest]:
                if key == f"{name}.weight" or key.startswith(f"{name}.parametrizations.weight.or"):
                    del rest[key]
    return weights, rest


NARROW = {"width": 0.125}
NETWORKS: list[tuple[str, str, dict[str, Any]]] = [
    *(("normresnet", norm, {"widths": (8, 8, 16)}) for norm in NAMES),
    ("resnet", "bn", {**NARROW, "residual_init": "zero_last_gamma", "shortcut": "projection"}),
    ("resnet", "none", {**NARROW, "residual_init": "skipinit"}),
    ("resnet", "none", {**NARROW, "residual_init": "fixup"}),
    ("resnet18", "ibn", NARROW),
    ("vgg", "ws_gn", NARROW),
    ("vit", "ln", {"width": 8, "depth": 1, "heads": 2}),
    ("vit", "weight_norm", {"width": 8, "depth": 1, "heads": 2, "norm_position": "post"}),
    ("lstm", "bn", {"hidden": 8}),
    ("lstm", "weight_norm", {"hidden": 8}),
]


@pytest.mark.parametrize("scale", [0.125, 4.0])
@pytest.mark.parametrize(("name", "norm", "options"), NETWORKS)
def test_an_initial_scale_multiplies_the_weights_and_changes_nothing_else(
    name: str, norm: str, options: dict[str, Any], scale: float
) -> None:
    plain, rest = weights_and_rest(network(name, norm, 1.0, **options))
    scaled, rest_of_scaled = weights_and_rest(network(name, norm, scale, **options))
    assert len(plain) >= 3
    for before, after in zip(plain, scaled, strict=True):
        # A power of two: exact but for weight_norm, whose length times direction rounds.
        torch.testing.assert_close(after, scale * before, rtol=1e-6, atol=0)
    assert rest.keys() == rest_of_scaled.keys()
    for key, value in rest.items():
        assert torch.equal(value, rest_of_scaled[key]), key


def test_every_layer_and_every_seed_draws_other_weights() -> None:
    weights = []
    for seed in (0, 1):
        layers = Layers(norms.build("bn"), seed)
        weights += [layers.linear(3, 9).weight.flatten(), layers.linear(3, 9).weight.flatten()]
        weights += [layers.conv(3, 1, 3).weight.flatten()]
    assert len({tuple(weight.tolist()) for weight in weights}) == len(weights)


def test_initial_weights_do_not_depend_on_torch_s_own_random_numbers() -> None:
    drawn = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        drawn.append(Layers(norms.build("bn"), seed=0).conv(3, 4, 3).weight)
    assert torch.equal(*drawn)


@pytest.mark.parametrize(
    ("kernel_size", "stride", "size"), [(3, 1, 8), (1, 1, 8), (5, 1, 8), (3, 2, 4)]
)
def test_a_convolution_keeps_the_size_at_stride_1_and_halves_it_at_stride_2(
    kernel_size: int, stride: int, size: int
) -> None:
    conv = Layers(norms.build("bn"), seed=0).conv(3, 4, kernel_size, stride=stride)
    assert conv(torch.zeros(2, 3, 8, 8)).shape == (2, 4, size, size)


@every_norm
def test_norm_act_activates_and_norm_does_not(name: str) -> None:
    layers = Layers(norms.build(name), seed=0)
    x = torch.randn(4, 8, 5, 5, generator=torch.Generator().manual_seed(0))
    plain, activated = layers.norm(8)(x), layers.norm_act(8)(x)
    assert plain.shape == activated.shape == x.shape
    assert (plain < 0).any()
    if layers.spec.norm_act is None:
        assert torch.equal(activated, plain.relu())
    else:
        assert not torch.equal(activated, plain)


def test_reparametrize_sees_the_drawn_weights_of_every_convolution_and_linear_layer() -> None:
    seen: list[Tensor] = []

    def reparametrize(module: nn.Module) -> nn.Module:
        seen.append(module.weight.detach().clone())
        return nn.Sequential(module)

    spec = NormSpec(
        scope="weight", norm=lambda num_features: nn.Identity(), reparametrize=reparametrize
    )
    layers, plain = Layers(spec, seed=0), Layers(norms.build("bn"), seed=0)
    built = [layers.conv(3, 4, 3), layers.linear(4, 2)]
    assert all(type(module) is nn.Sequential for module in built)
    expected = [plain.conv(3, 4, 3).weight, plain.linear(4, 2).weight]
    assert all(torch.equal(one, other) for one, other in zip(seen, expected, strict=True))
