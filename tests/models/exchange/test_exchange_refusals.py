"""What cannot be exchanged: refused with name and reason, and then nothing has changed."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
import torchvision
from kit.networks import Block, CallsItself, FunctionalBlock, Untraceable, conv, stem
from torch import Tensor, fx, nn
from torch.nn import functional

import normbench
from normbench.errors import NormbenchError, Unsupported

SHAPE = (3, 8, 8)
NORM = "3.bn1"


def used_twice() -> nn.Module:
    norm = nn.BatchNorm2d(8)
    return stem(conv(), norm, conv(), norm)


def scripted() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return stem(torch.jit.script(Block()))


def with_norm(make: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    def network() -> nn.Module:
        block = Block()
        block.bn1 = make()
        return stem(block)

    return network


def of_tokens() -> nn.Module:
    layer = nn.TransformerEncoderLayer(8, 2, 8, batch_first=True)
    return nn.Sequential(conv(3), nn.Flatten(2), Transposed(), layer)


class Transposed(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.movedim(1, -1)


class BlockUsedTwice(nn.Module):
    """Two norms, and one function for what follows both."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = conv(3), conv()
        self.bn1, self.bn2 = nn.BatchNorm2d(8), nn.BatchNorm2d(8)
        self.activate = Activate()

    def forward(self, x: Tensor) -> Tensor:
        y = self.activate(self.bn1(self.first(x)))
        return self.activate(self.bn2(self.second(y)))


class Activate(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(x)


class AsksForTraining(Block):
    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu(self.bn1(self.conv1(x)))
        y = functional.dropout(self.conv2(y), 0.5, self.training)
        return functional.relu(self.bn2(y))


class AsksForTheType(Block):
    """torch.fx hands in no Tensor: a graph would leave out the factor."""

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu(self.bn1(self.conv1(x)))
        if isinstance(y, Tensor):
            y = y * 3
        return functional.relu(self.bn2(self.conv2(y)))


class MakesNoise(Block):
    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu(self.bn1(self.conv1(x)))
        return functional.relu(self.bn2(self.conv2(y))) + torch.rand(8, 1, 1)


class TakesAList(nn.Module):
    """A list of lengths for an argument, which no graph can check."""

    def __init__(self) -> None:
        super().__init__()
        self.block = Scaled()

    def forward(self, x: Tensor) -> Tensor:
        return self.block(x, {"scale": 2.0})


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = conv(3), nn.BatchNorm2d(8)

    def forward(self, x: Tensor, options: dict[str, float]) -> Tensor:
        return functional.relu(self.bn(self.conv(x))) * options["scale"]


FROZEN = torchvision.ops.FrozenBatchNorm2d
FREE = "depends on what its input is"
# A network, a norm, and the whole line but for its beginning.
REFUSED: list[tuple[Callable[[], nn.Module], str, str]] = [
    (used_twice, "gn", "norm gn at 4: it is used 2 times"),
    (with_norm(lambda: FROZEN(8)), "gn", f"norm gn at {NORM}: it is frozen: "),
    (with_norm(lambda: nn.LayerNorm(8)), "gn", f"norm gn at {NORM}: it takes the channels from "),
    (of_tokens, "gn", r"norm gn at 3.norm1: it stands on (n, 64, 8), which is no feature map"),
    (
        with_norm(lambda: timm.layers.BatchNormAct2d(8, drop_layer=nn.Dropout)),
        "gn",
        f"norm gn at {NORM}: it contains a dropout",
    ),
    (lambda: stem(Block()), "gn", "norm gn at 1: num_groups=3 does not divide 8 channels"),
    (lambda: nn.Sequential(stem(nn.AdaptiveAvgPool2d(1), Block())), "in", "norm in at 0.4.bn1: "),
    (
        lambda: stem(nn.BatchNorm2d(8)),
        "ws_gn",
        "norm ws_gn at 3: this norm acts on weights, and no convolution or linear layer alone ",
    ),
    (Untraceable, "evonorm_s0", "which activation follows"),
    (Untraceable, "ws_gn", "which layer feeds it"),
    (Untraceable, "rms", "which layer feeds it"),
    (BlockUsedTwice, "frn", "the activation after it is in a Activate that is used twice"),
    (lambda: stem(AsksForTraining()), "frn", "AsksForTraining asks whether it is in training"),
    (lambda: stem(AsksForTheType()), "frn", f"the forward of AsksForTheType {FREE}"),
    (lambda: stem(MakesNoise()), "frn", "the forward of MakesNoise makes a tensor of its own"),
    (TakesAList, "frn", "the forward of Scaled takes arguments that are neither tensors nor"),
    (scripted, "gn", "3.bn1: a norm inside a part that torch.jit has compiled cannot be exchanged"),
    (lambda: nn.Conv2d(3, 8, 3), "gn", "nothing to exchange: Conv2d has no norm that is known; "),
    (lambda: nn.Sequential(conv(5), nn.BatchNorm2d(8)), "gn", "Sequential cannot take images of "),
]


def state(model: nn.Module) -> dict[str, Any]:
    """Everything that an exchange may change: modules, their modes, attributes and values."""
    found: dict[str, Any] = {"": [repr(model)]}
    for name, module in model.named_modules():
        found[f"{name}: module"] = (id(module), module.training, sorted(vars(module)))
    return found | {name: value.clone() for name, value in model.state_dict().items()}


def assert_unchanged(model: nn.Module, before: dict[str, Any]) -> None:
    after = state(model)
    assert after.keys() == before.keys()
    for name, value in before.items():
        same = (
            torch.equal(value, after[name]) if isinstance(value, Tensor) else value == after[name]
        )
        assert same, name


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    ("make", "norm", "line"), REFUSED, ids=[f"{norm}-{line[:40]}" for _, norm, line in REFUSED]
)
def test_what_cannot_be_exchanged_is_refused_in_one_line_and_nothing_changes(
    make: Callable[[], nn.Module], norm: str, line: str, training: bool
) -> None:
    model = make().train(training)
    before, random = state(model), torch.get_rng_state()
    options = {"num_groups": 3} if "num_groups=3" in line else {}
    with pytest.raises(NormbenchError) as raised:
        normbench.convert(model, norm, image_shape=SHAPE, **options)
    assert line in str(raised.value)
    assert "\n" not in str(raised.value)
    assert torch.equal(torch.get_rng_state(), random)
    assert_unchanged(model, before)


@pytest.mark.parametrize("make", [Untraceable, lambda: stem(AsksForTheType()), BlockUsedTwice])
def test_a_norm_that_needs_no_neighbours_stands_in_these_networks(
    make: Callable[[], nn.Module],
) -> None:
    made = normbench.convert(make(), "gn", image_shape=SHAPE)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in made.modules())
    made(torch.zeros(2, *SHAPE))


def test_a_network_that_cannot_be_traced_says_what_is_not_known() -> None:
    made = normbench.convert(Untraceable(), "gn", image_shape=SHAPE)
    first, second = str(made.normbench_exchange).splitlines()[:2]
    assert first.startswith("torch.fx cannot trace the network (TraceError: ")
    assert first.endswith("by its modules alone, without what feeds or follows them")
    assert second == "body.1 (8x8x8): BatchNorm2d -> GroupNorm"


def test_a_rewritten_network_takes_other_values_of_its_fixed_arguments_for_no_answer() -> None:
    model = CallsItself()
    wanted = copy.deepcopy(model)
    made = normbench.convert(model, "frn", image_shape=SHAPE)
    x = torch.zeros(2, *SHAPE)
    assert made(x, scale=None).shape == wanted(x).shape
    with pytest.raises(AssertionError, match="specialized to have value None"):
        made(x, scale=2.0)


def test_the_batch_size_decides_where_a_norm_needs_more_than_one_image() -> None:
    def model() -> nn.Module:
        return stem(nn.AdaptiveAvgPool2d(1), Block())

    reason = "^norm bn at 4.bn1: one value per channel has no variance: a batch of 1 on a 1x1 map"
    with pytest.raises(Unsupported, match=reason):
        normbench.convert(model(), "bn", image_shape=SHAPE, batch_size=1)
    for batch_size in (2, None):
        normbench.convert(model(), "bn", image_shape=SHAPE, batch_size=batch_size)


def test_an_unknown_norm_or_option_and_what_is_no_network_are_refused() -> None:
    for arguments, line in [
        ((stem(), "gm"), "unknown norm 'gm': did you mean 'gn'?"),
        ((Block, "gn"), "model is to be an nn.Module, not a type"),
    ]:
        with pytest.raises(NormbenchError, match=line.replace("?", r"\?")):
            normbench.convert(*arguments, image_shape=SHAPE)
    with pytest.raises(NormbenchError, match="unknown option of norm gn 'groups'"):
        normbench.convert(stem(), "gn", image_shape=SHAPE, groups=2)


def test_a_rewritten_block_keeps_its_attributes_and_the_network_its_class() -> None:
    block = FunctionalBlock()
    made = normbench.convert(stem(block), "frn", image_shape=SHAPE)
    assert type(made) is nn.Sequential
    assert isinstance(made[3], fx.GraphModule)
    assert made[3].width == block.width
    assert made[3].conv2 is block.conv2
    # One that nothing has to be taken from is left.
    assert type(normbench.convert(stem(Block()), "gn", image_shape=SHAPE)[3]) is Block
