"""Laws of exchanged norms: the same function where it must be, the same start, training, files."""

from __future__ import annotations

import copy
import io
import itertools
from typing import Any

import pytest
import torch
from kit.networks import SMALL, Block, activating, computed, stem
from kit.norms import NAMES, REPARAMETRIZING, every_norm, spec_of
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.utils import parametrize

import normbench
from normbench.errors import Unsupported
from normbench.models.exchange import exchange

SHAPE = (3, 8, 8)
every_small_network = pytest.mark.parametrize("network", SMALL)


def images(num_images: int = 4, shape: tuple[int, ...] = SHAPE) -> Tensor:
    return torch.randn(num_images, *shape, generator=torch.Generator().manual_seed(1))


def learned(model: nn.Module) -> nn.Module:
    """Gives every norm random values of its own, as if it had been trained."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d | nn.GroupNorm):
            for value in module.state_dict().values():
                if value.is_floating_point():
                    value.uniform_(0.5, 1.5)
    return model


def assert_same_bits(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        assert torch.equal(found[name], value), name


@every_small_network
def test_bn_for_bn_gives_the_same_outputs_and_gradients_bit_for_bit(network: str) -> None:
    model = learned(SMALL[network]())
    wanted = computed(copy.deepcopy(model), images())
    before = {id(module) for module in model.modules() if isinstance(module, nn.BatchNorm2d)}
    made = normbench.convert(model, "bn", image_shape=SHAPE)
    assert made is model
    after = {id(module) for module in model.modules() if isinstance(module, nn.BatchNorm2d)}
    assert len(after) == len(before)
    assert not before & after
    assert_same_bits(computed(made, images()), wanted)


@every_small_network
def test_a_norm_with_the_activation_inside_leaves_the_function_where_right_ones_are_taken(
    network: str,
) -> None:
    model = SMALL[network]()
    activation = nn.Hardswish if network == "calls_itself" else nn.ReLU
    if network == "functional":  # its activations are of two kinds
        model[3].silu = nn.ReLU()
    wanted = computed(copy.deepcopy(model), images())
    made, record = exchange(model, activating(activation), SHAPE)
    assert any(site.replaces_activation for site in record.sites)
    found = computed(made, images())
    for name in ("training", "evaluation"):
        assert torch.equal(found[name], wanted[name])
    # Names of norms have changed, and no gradient.
    assert [value.shape for value in found.values()] == [value.shape for value in wanted.values()]
    assert all(map(torch.equal, found.values(), wanted.values()))


@pytest.mark.parametrize(("before", "after"), [("ln", "gn"), ("gn", "ln")])
def test_gn_of_one_group_and_ln_are_exchanged_with_their_values(before: str, after: str) -> None:
    options = {"gn": {"num_groups": 1}, "ln": {}}
    model = normbench.convert(stem(Block()), before, image_shape=SHAPE, **options[before])
    wanted = computed(copy.deepcopy(learned(model)), images())
    made = normbench.convert(model, after, image_shape=SHAPE, **options[after])
    assert_same_bits(computed(made, images()), wanted)


@every_norm
def test_a_network_under_every_norm_trains_and_its_state_is_read_back(name: str) -> None:
    made = normbench.convert(stem(Block(), Block()), name, image_shape=SHAPE)
    x, labels = images(), torch.tensor([0, 1, 2, 3])
    optimizer = torch.optim.SGD(made.parameters(), lr=0.01)
    losses = []
    for _ in range(5):
        loss = cross_entropy(made(x), labels)
        optimizer.zero_grad()
        loss.backward()
        assert all(parameter.grad is not None for parameter in made.parameters())
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    file = io.BytesIO()
    torch.save(made.state_dict(), file)
    file.seek(0)
    again = normbench.convert(stem(Block(), Block()), name, image_shape=SHAPE)
    again.load_state_dict(torch.load(file, weights_only=True))
    assert_same_bits(computed(again, x), computed(made, x))


def weights(model: nn.Module) -> dict[str, Tensor]:
    """Weights and biases of convolutions and the head, as before any reparametrization."""
    found = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            weight = module.weight
            if parametrize.is_parametrized(module):
                original = module.parametrizations["weight"]
                weight = getattr(original, "original", weight)
            found[name] = weight.detach().clone()
    return found


@every_norm
def test_every_norm_starts_from_the_weights_that_the_network_had(name: str) -> None:
    model = stem(Block(), Block())
    wanted = weights(model)
    found = weights(normbench.convert(model, name, image_shape=SHAPE))
    assert found.keys() == wanted.keys()
    for key, value in wanted.items():
        # Length times direction rounds.
        tolerance = 1e-6 if name == "weight_norm" else 0
        torch.testing.assert_close(found[key], value, rtol=tolerance, atol=tolerance / 100)


@pytest.mark.parametrize("name", REPARAMETRIZING)
def test_a_norm_of_weights_acts_on_the_layers_that_feed_norms_and_on_no_other(name: str) -> None:
    model = nn.Sequential(stem(Block()), nn.Unflatten(1, (10, 1, 1)), nn.Conv2d(10, 4, 1))
    made = normbench.convert(model, name, image_shape=SHAPE)
    acted_on = {key for key, module in made.named_modules() if parametrize.is_parametrized(module)}
    assert acted_on == {"0.0", "0.3.conv1", "0.3.conv2"}


@every_norm
def test_a_convolution_has_a_bias_where_the_norm_needs_one_and_else_what_it_had(name: str) -> None:
    model = stem(Block())
    model[3].conv2 = nn.Conv2d(8, 8, 3, padding=1)
    bias = model[3].conv2.bias.detach().clone()
    made = normbench.convert(model, name, image_shape=SHAPE)
    assert (made[0].bias is not None) == spec_of(name).conv_bias
    assert torch.equal(made[3].conv2.bias, bias)


def drawing(num_features: int) -> nn.Module:
    norm = nn.BatchNorm2d(num_features)
    nn.init.normal_(norm.weight)
    return norm


def test_new_values_depend_on_the_seed_and_the_place_and_torch_s_generator_stays() -> None:
    spec = normbench.norms.NormSpec("batch", drawing, conv_bias=True)
    drawn: list[Any] = []
    for seed in (0, 0, 1):
        model = stem(Block())
        torch.manual_seed(len(drawn))
        state = torch.get_rng_state()
        made, _ = exchange(model, spec, SHAPE, seed=seed)
        assert torch.equal(torch.get_rng_state(), state)
        values = (made[1].weight, made[0].bias, made[3].bn1.weight, made[3].conv1.bias)
        drawn.append(torch.stack([value.detach().clone() for value in values]))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    assert not torch.equal(drawn[0][0], drawn[0][2])
    assert not torch.equal(drawn[0][1], drawn[0][3])


def test_a_new_bias_is_drawn_from_torch_s_default_distribution() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4000, 3, bias=False), nn.BatchNorm2d(4000))
    bias = normbench.convert(model, "none", image_shape=SHAPE)[0].bias.detach()
    bound = 27**-0.5
    assert 0.99 * bound < bias.abs().max() <= bound
    assert bias.var() == pytest.approx(bound**2 / 3, rel=0.1)


def test_without_a_norm_the_input_of_a_pre_activation_is_not_changed_in_place() -> None:
    model = SMALL["pre_activation"]()
    made = normbench.convert(model, "none", image_shape=SHAPE)
    block = made[3]
    x = images(shape=(8, 4, 4))
    before = x.clone()
    y = block(x)
    assert torch.equal(x, before)
    wanted = block.conv2(block.conv1(x.relu()).relu()) + x
    assert torch.equal(y, wanted)


def test_of_twice_exchanged_norms_the_last_counts() -> None:
    direct = normbench.convert(stem(Block()), "gn", image_shape=SHAPE)
    model = normbench.convert(stem(Block()), "in_affine", image_shape=SHAPE)
    model = normbench.convert(model, "gn", image_shape=SHAPE)
    model.load_state_dict(direct.state_dict())
    assert_same_bits(computed(model, images()), computed(direct, images()))


@pytest.mark.parametrize("name", NAMES)
def test_what_a_preview_tells_is_what_an_exchange_does(name: str) -> None:
    model = SMALL["pre_activation"]()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    told = normbench.models.exchange.preview(model, spec_of(name), SHAPE)
    assert_same_bits(model.state_dict(), before)
    if any(site.refusal for site in told.sites):
        with pytest.raises(Unsupported):
            exchange(model, spec_of(name), SHAPE)
        assert_same_bits(model.state_dict(), before)
    else:
        assert exchange(model, spec_of(name), SHAPE)[1] == told


@pytest.mark.slow
@pytest.mark.parametrize(
    ("network", "name"),
    [
        *itertools.product(["residual", "functional", "calls_itself"], ["gn", "evonorm_s0", "frn"]),
        ("residual", "ws_gn"),
    ],
)
def test_an_exchanged_network_compiles_and_computes_the_eager_numbers(
    network: str, name: str
) -> None:
    torch.compiler.reset()
    model = normbench.convert(SMALL[network](), name, image_shape=SHAPE)
    wanted = computed(copy.deepcopy(model), images())
    found = computed(torch.compile(model, backend="aot_eager", fullgraph=True), images())
    torch.compiler.reset()
    for key, value in found.items():
        torch.testing.assert_close(value, wanted[key.removeprefix("_orig_mod.")])
