"""Residual networks and VGG: sizes, shortcuts, how residual branches begin, where IBN-a stands."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from kit.norms import every_kind_of_norm
from torch import Tensor, nn
from torchvision.models import resnet18

from normbench.errors import NormbenchError
from normbench.models import Layers, models
from normbench.models.residual import Block, PadShortcut
from normbench.norms import norms
from normbench.norms.mixed import HalfInstanceNorm


def build(name: str, norm: str = "bn", **options: Any) -> nn.Module:
    return models.build(name, Layers(norms.build(norm), seed=0), 10, options=options)


def images() -> Tensor:
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def blocks(model: nn.Module) -> list[Block]:
    return [module for module in model.modules() if isinstance(module, Block)]


@pytest.mark.parametrize(
    ("name", "options", "number"),
    [
        ("resnet", {"depth": 20}, 269_722),
        ("resnet", {"depth": 56}, 853_018),
        ("resnet18", {}, 11_173_962),
        ("vgg", {"depth": 11}, 9_228_362),
        ("vgg", {"depth": 16}, 14_724_042),
    ],
)
def test_networks_have_the_numbers_of_parameters_in_their_docstrings(
    name: str, options: dict[str, Any], number: int
) -> None:
    model = build(name, **options)
    assert sum(parameter.numel() for parameter in model.parameters()) == number
    doc = models[name].function.__doc__ or ""
    assert f"{number:,}" in doc


def test_a_network_of_6n_plus_2_layers_has_as_many_convolutions_and_a_classifier() -> None:
    for depth in (20, 32):
        model = build("resnet", depth=depth)
        convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
        assert len(convolutions) == depth - 1


def test_resnet18_is_torchvision_s_behind_the_stem() -> None:
    ours, theirs = build("resnet18"), resnet18(num_classes=10)
    theirs.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    theirs.maxpool = nn.Identity()
    # In the order of the forward pass; torchvision names a block's shortcut last.
    given, wanted = [], []
    for module in theirs.modules():
        if isinstance(module, (nn.Conv2d, nn.BatchNorm2d, nn.Linear)):
            wanted.append(module)
    for module in ours.modules():
        if isinstance(module, (nn.Conv2d, nn.BatchNorm2d, nn.Linear)):
            given.append(module)
    assert len(given) == len(wanted)
    for source, target in zip(given, wanted, strict=True):
        target.load_state_dict(source.state_dict())
    torch.testing.assert_close(ours(images()), theirs(images()), rtol=1e-5, atol=1e-5)


def test_a_shortcut_without_parameters_takes_every_second_pixel_and_adds_zeros() -> None:
    x = torch.arange(2 * 3 * 4 * 4.0).reshape(2, 3, 4, 4)
    y = PadShortcut(3, 8, stride=2)(x)
    assert y.shape == (2, 8, 2, 2)
    assert torch.equal(y[:, 2:5], x[:, :, ::2, ::2])
    assert y.sum() == y[:, 2:5].sum()


@pytest.mark.parametrize(
    ("norm", "init"),
    [("bn", "zero_last_gamma"), ("gn", "skipinit"), ("none", "skipinit"), ("none", "fixup")],
)
def test_residual_branches_can_begin_as_nothing(norm: str, init: str) -> None:
    x = torch.randn(2, 16, 8, 8, generator=torch.Generator().manual_seed(2)).relu()
    first = blocks(build("resnet", norm, residual_init=init))[0]
    assert torch.equal(first(x), x)
    plain = blocks(build("resnet", norm))[0]
    assert not torch.equal(plain(x), x)


def test_fixup_begins_with_a_classifier_of_0_and_scales_the_first_weights_of_a_block() -> None:
    assert torch.equal(build("resnet", "none", residual_init="fixup")(images()), torch.zeros(2, 10))
    plain, fixup = (build("resnet", "none", residual_init=init) for init in ("plain", "fixup"))
    first = blocks(plain)[0].branch[0].weight
    scaled = blocks(fixup)[0].branch[1].weight
    torch.testing.assert_close(scaled, first * (6 / 9) ** 0.5)
    # He's standard deviation, over the square root of the number of blocks.
    fan_in = scaled[0].numel()
    assert scaled.std().item() == pytest.approx((2 / fan_in / 9) ** 0.5, rel=0.05)


@pytest.mark.parametrize(
    ("norm", "init", "told"),
    [
        ("bn", "fixup", "residual_init=fixup is for networks without norms"),
        ("scaled_ws", "fixup", "residual_init=fixup is for networks without norms"),
        ("none", "zero_last_gamma", "no gamma to begin with 0"),
        ("in", "zero_last_gamma", "no gamma to begin with 0"),
        ("lazy_bn", "zero_last_gamma", "no gamma to begin with 0"),
    ],
)
def test_beginnings_that_a_norm_cannot_have_are_refused(norm: str, init: str, told: str) -> None:
    with pytest.raises(NormbenchError, match=told):
        build("resnet", norm, residual_init=init)


def test_ibn_stands_at_the_first_norm_of_a_block_but_in_the_last_stage() -> None:
    model = build("resnet18", "ibn")
    places = [name for name, m in model.named_modules() if isinstance(m, HalfInstanceNorm)]
    wanted = [f"stage{stage}.{block}.branch.1.0" for stage in (1, 2, 3) for block in (0, 1)]
    assert places == wanted
    # A network without blocks has it everywhere.
    everywhere = [m for m in build("vgg", "ibn").modules() if isinstance(m, HalfInstanceNorm)]
    assert len(everywhere) == 13


@every_kind_of_norm
def test_equal_seeds_give_equal_convolutions_under_every_norm(name: str) -> None:
    ours, bare = build("resnet", name), build("resnet", "none")
    for (key, module), (_, plain) in zip(
        convolutions(ours).items(), convolutions(bare).items(), strict=True
    ):
        weight = module.state_dict().get("weight")
        if weight is not None:
            assert torch.equal(weight, plain.weight), key


def convolutions(model: nn.Module) -> dict[str, nn.Module]:
    return {key: m for key, m in model.named_modules() if isinstance(m, nn.Conv2d)}
