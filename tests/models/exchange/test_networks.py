"""The laws over networks of torchvision and timm, at 32 and 224 pixels; every norm in one."""

from __future__ import annotations

import copy
import io

import pytest
import torch
import torchvision
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


ACTIVATIONS = {"relu": nn.ReLU, "relu6": nn.ReLU6, "silu": nn.SiLU, "hardswish": nn.Hardswish}


@pytest.mark.slow
@every_batch_normed_network
# The last maps of 32 pixels have a single one, of which two images leave statistics.
@pytest.mark.parametrize(("size", "num_images"), [(32, 2), (224, 1)])
def test_bn_for_bn_and_bn_with_the_activation_inside_change_no_bit(
    name: str, size: int, num_images: int
) -> None:
    """The same outputs and gradients; the activation only where the right ones are taken away."""
    model, x, shape = network(name), images(size, num_images), (3, size, size)
    options = norm_options(model)
    wanted = computed(copy.deepcopy(model), x)

    inside, num_activations = with_activations_inside(copy.deepcopy(model), shape)
    assert num_activations == COUNTS[name][1]
    assert len(inside.state_dict()) == len(model.state_dict())
    again = copy.deepcopy(inside)
    assert again.state_dict().keys() == inside.state_dict().keys()
    assert_same_bits(computed(inside, x), wanted)
    assert_same_bits(computed(again, x), wanted)

    made = normbench.convert(model, "bn", image_shape=shape, **options)
    assert made is model
    assert_same_bits(computed(made, x), wanted)


def with_activations_inside(model: nn.Module, shape: tuple[int, int, int]) -> tuple[nn.Module, int]:
    """The model under BatchNorms that contain what follows them, and how many do."""
    kinds = [norm.activation for norm in find(model, shape).norms]
    # Where a network has two kinds, the right one comes with the order of its norms.
    kept = iter([kind.lower() for kind in kinds if kind is not None])
    spec = activating(nn.ReLU, **norm_options(model))

    def norm_act(num_features: int) -> nn.Module:
        return nn.Sequential(spec.norm(num_features), ACTIVATIONS[next(kept)]())

    made, record = exchange(model, type(spec)(spec.scope, spec.norm, norm_act), shape)
    assert next(kept, None) is None
    return made, sum(site.replaces_activation for site in record.sites)


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


def assert_trains(model: nn.Module, size: int, num_steps: int = 2) -> None:
    """Finite losses, a gradient for every parameter in every step, other weights afterwards."""
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    for _ in range(num_steps):
        loss = cross_entropy(model(images(size)), torch.tensor([0, 1]))
        optimizer.zero_grad()
        loss.backward()
        assert loss.isfinite()
        assert all(parameter.grad is not None for parameter in model.parameters())
        optimizer.step()
    assert any(not torch.equal(*pair) for pair in zip(before, model.parameters(), strict=True))


def resnet18_under(norm: str, size: int) -> nn.Module:
    """torchvision's ResNet-18 under a norm; the same each time."""
    torch.manual_seed(0)
    shape = (3, size, size)
    model = network("torchvision-resnet18")
    return normbench.convert(model, norm, image_shape=shape, batch_size=2)


@pytest.mark.slow
@pytest.mark.parametrize("norm", NAMES)
def test_every_norm_of_the_catalogue_trains_in_torchvision_s_resnet18(norm: str) -> None:
    assert_trains(resnet18_under(norm, 224), 224, num_steps=1)
    model = resnet18_under(norm, 64)
    assert type(model).__name__ == "ResNet"
    assert_trains(model, 64)
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    again = resnet18_under(norm, 64)
    again.load_state_dict(torch.load(file, weights_only=True))
    assert_same_bits(computed(again, images(64)), computed(model, images(64)))


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
