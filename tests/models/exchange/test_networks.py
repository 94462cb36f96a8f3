"""The laws over networks of torchvision and timm, at 32 and 224 pixels; every norm in one."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from kit.networks import COUNTS, activating, computed, network, norm_options
from kit.norms import NAMES
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import normbench
from normbench.errors import Unsupported
from normbench.models.exchange import exchange, find

BATCH_NORMED = [name for name in COUNTS if name != "timm-convnext_atto"]

every_network = pytest.mark.parametrize("name", COUNTS)
every_batch_normed_network = pytest.mark.parametrize("name", BATCH_NORMED)


def images(size: int, num_images: int = 2) -> Tensor:
    return torch.randn(num_images, 3, size, size, generator=torch.Generator().manual_seed(1))


def assert_same_bits(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert len(found) == len(wanted)
    # An activation inside a norm gives its parameters other names, in the same order.
    for name, value, other in zip(wanted, wanted.values(), found.values(), strict=True):
        assert torch.equal(value, other), name


@every_network
@pytest.mark.parametrize("size", [32, 224])
def test_every_norm_is_found_with_what_feeds_and_follows_it(name: str, size: int) -> None:
    found = find(network(name), (3, size, size))
    assert found.traced is not None
    assert found.remarks == ()
    assert all(norm.refusal is None for norm in found.norms)
    followed = sum(norm.activation is not None for norm in found.norms)
    fed = sum(norm.around.feeder is not None for norm in found.norms)
    assert (len(found.norms), followed, fed) == COUNTS[name]


@pytest.mark.slow
@every_batch_normed_network
@pytest.mark.parametrize("size", [32, 224])
def test_bn_for_bn_gives_the_same_outputs_and_gradients_bit_for_bit(name: str, size: int) -> None:
    model = network(name)
    wanted = computed(copy.deepcopy(model), images(size))
    made = normbench.convert(model, "bn", image_shape=(3, size, size), **norm_options(model))
    assert made is model
    assert_same_bits(computed(made, images(size)), wanted)


ACTIVATIONS = {"relu": nn.ReLU, "relu6": nn.ReLU6, "silu": nn.SiLU, "hardswish": nn.Hardswish}


@pytest.mark.slow
@every_batch_normed_network
@pytest.mark.parametrize("size", [32, 224])
def test_a_norm_with_the_activation_inside_takes_the_place_of_the_right_ones(
    name: str, size: int
) -> None:
    model = network(name)
    kinds = [norm.activation for norm in find(model, (3, size, size)).norms]
    kinds = [kind.lower() for kind in kinds if kind is not None]
    kept = iter(kinds)

    # Where a network has two kinds, the right one comes with the order of its norms.
    def norm_act(num_features: int) -> nn.Module:
        return nn.Sequential(spec.norm(num_features), ACTIVATIONS[next(kept)]())

    options = norm_options(model)
    spec = activating(nn.ReLU, **options)
    wanted = computed(copy.deepcopy(model), images(size))
    num_values = len(model.state_dict())
    made, record = exchange(model, type(spec)(spec.scope, spec.norm, norm_act), (3, size, size))
    assert sum(site.replaces_activation for site in record.sites) == len(kinds) == COUNTS[name][1]
    assert len(made.state_dict()) == num_values
    again = copy.deepcopy(made)
    assert again.state_dict().keys() == made.state_dict().keys()
    assert_same_bits(computed(made, images(size)), wanted)
    assert_same_bits(computed(again, images(size)), wanted)


@pytest.mark.slow
@every_network
@pytest.mark.parametrize("norm", ["gn", "evonorm_s0", "frn"])
def test_an_exchanged_network_trains_at_32_pixels_and_starts_from_the_same_convolutions(
    name: str, norm: str
) -> None:
    torch.manual_seed(0)
    model = network(name)
    before = {key: module for key, module in model.named_modules() if isinstance(module, nn.Conv2d)}
    weights = {key: conv.weight.detach().clone() for key, conv in before.items()}
    made = normbench.convert(model, norm, image_shape=(3, 32, 32), **groups_of(norm))
    after = dict(made.named_modules())
    assert all(torch.equal(after[key].weight, weight) for key, weight in weights.items())
    assert_trains(made, 32)


def groups_of(norm: str) -> dict[str, int]:
    return {"num_groups": 4} if norm in ("gn", "evonorm_s0") else {}


def assert_trains(model: nn.Module, size: int) -> None:
    """Two steps: finite losses, a gradient for every parameter, other weights afterwards."""
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    for _ in range(2):
        loss = cross_entropy(model(images(size)), torch.tensor([0, 1]))
        optimizer.zero_grad()
        loss.backward()
        assert loss.isfinite()
        assert all(parameter.grad is not None for parameter in model.parameters())
        optimizer.step()
    assert any(not torch.equal(*pair) for pair in zip(before, model.parameters(), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("norm", NAMES)
@pytest.mark.parametrize("size", [64, 224])
def test_every_norm_of_the_catalogue_trains_in_torchvision_s_resnet18(norm: str, size: int) -> None:
    def made() -> nn.Module:
        torch.manual_seed(0)
        return normbench.convert(
            network("torchvision-resnet18"), norm, image_shape=(3, size, size), batch_size=2
        )

    model = made()
    assert type(model).__name__ == "ResNet"
    assert_trains(model, size)
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    again = made()
    again.load_state_dict(torch.load(file, weights_only=True))
    assert_same_bits(computed(again, images(size)), computed(model, images(size)))


@pytest.fixture(scope="module")
def resnet18() -> nn.Module:
    return network("torchvision-resnet18")


def test_resnet18_at_32_pixels_ends_in_a_1x1_map_which_in_is_refused_for(
    resnet18: nn.Module,
) -> None:
    reason = "one value per sample and channel has no variance: a 1x1 map"
    with pytest.raises(Unsupported, match=f"^norm in at layer4.0.bn1: {reason}"):
        normbench.convert(resnet18, "in", image_shape=(3, 32, 32))


def test_convnext_of_torchvision_is_refused_for_its_channels_last_norms() -> None:
    import torchvision

    model = torchvision.models.convnext_tiny(weights=None)
    with pytest.raises(Unsupported, match=r"features\.1\.0\.block\.2: it takes the channels from"):
        normbench.convert(model, "gn", image_shape=(3, 64, 64))


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["gn", "evonorm_s0"])
def test_an_exchanged_resnet18_compiles(norm: str) -> None:
    model = normbench.convert(network("torchvision-resnet18"), norm, image_shape=(3, 64, 64))
    torch.compiler.reset()
    wanted = computed(copy.deepcopy(model), images(64))
    found = computed(torch.compile(model, backend="aot_eager", fullgraph=True), images(64))
    torch.compiler.reset()
    for value, other in zip(found.values(), wanted.values(), strict=True):
        torch.testing.assert_close(value, other, rtol=1e-3, atol=1e-3 * float(other.abs().max()))
