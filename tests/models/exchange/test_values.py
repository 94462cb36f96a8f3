"""What a new norm takes over: learned values where they mean the same, an initial gamma, a mode."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import timm
import torch
from kit.networks import Block, stem
from kit.norms import NAMES, spec_of
from torch import Tensor, nn

import normbench
from normbench.models.exchange import ExchangedSite

SHAPE = (3, 8, 8)
# Norms that evaluate as bn does, with bn's values.
LIKE_BN = {"bn", "bn_custom", "lazy_bn", "ghost_bn", "sync_bn", "batch_renorm", "ws_bn", "bin"}
# Norms without a gamma per channel or element.
NO_GAMMA = {"in", "none", "scaled_ws", "weight_norm", "spectral_norm"}


def images() -> Tensor:
    return torch.randn(4, *SHAPE, generator=torch.Generator().manual_seed(1))


def trained(make: Callable[[], nn.Module]) -> nn.Module:
    """A convolution and a norm with values as after training."""
    norm = make()
    for name, value in norm.state_dict().items():
        if name == "num_batches_tracked":
            value.fill_(70)
        else:
            value.uniform_(0.5, 1.5)
    return nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), norm).eval()


def converted(model: nn.Module, name: str, **options: float) -> tuple[nn.Module, ExchangedSite]:
    made = normbench.convert(model, name, image_shape=SHAPE, **options)
    return made, made.normbench_exchange.sites[0]


@pytest.mark.parametrize(("name", "stays"), [("bn_custom", True), ("gn", False)])
def test_a_frozen_norm_stays_frozen_where_its_values_stay(name: str, stays: bool) -> None:
    model = trained(lambda: nn.BatchNorm2d(8)).requires_grad_(False)
    made, _ = converted(model, name)
    assert all(parameter.requires_grad != stays for parameter in made[1].parameters())


@pytest.mark.parametrize("name", NAMES)
def test_bn_s_learned_values_are_kept_where_the_norm_evaluates_as_bn_and_nowhere_else(
    name: str,
) -> None:
    model = trained(lambda: nn.BatchNorm2d(8))
    before = copy.deepcopy(model)
    made, site = converted(model, name)
    if name in LIKE_BN:
        assert "values kept" in site.remarks[0]
        if name != "ws_bn":
            torch.testing.assert_close(made(images()), before(images()))
    else:
        fresh = spec_of(name).norm(8)
        has_values = any(True for _ in fresh.parameters())
        what = "mean something else: new ones" if has_values else "have no place here"
        assert f"its learned values {what}" in site.remarks[0]
        for key, value in fresh.state_dict().items():
            if not isinstance(value, nn.UninitializedParameter):
                assert torch.equal(made[1].state_dict()[key], value), key


def test_a_count_of_batches_is_kept_but_by_batch_renorm_whose_bounds_grow_by_it() -> None:
    for name, count in (("bn", 70), ("sync_bn", 70), ("batch_renorm", 0)):
        made, _ = converted(trained(lambda: nn.BatchNorm2d(8)), name)
        assert made[1].num_batches_tracked == count


@pytest.mark.parametrize(
    ("make", "name", "options"),
    [
        (lambda: nn.GroupNorm(2, 8), "gn", {"num_groups": 2}),
        (lambda: nn.GroupNorm(1, 8), "ln", {}),
        (lambda: nn.InstanceNorm2d(8, affine=True), "in_affine", {}),
        (lambda: timm.layers.LayerNorm2d(8), "ln_c", {}),
        (lambda: nn.SyncBatchNorm(8), "bn", {}),
        (lambda: timm.layers.BatchNormAct2d(8), "bn", {}),
        (lambda: timm.layers.GroupNormAct(8, 2), "gn", {"num_groups": 2}),
    ],
)
def test_other_norms_of_the_same_meaning_keep_their_values_and_their_activation(
    make: Callable[[], nn.Module], name: str, options: dict[str, int]
) -> None:
    model = trained(make)
    before = copy.deepcopy(model)
    made, site = converted(model, name, **options)
    assert site.remarks == ("values kept",)
    torch.testing.assert_close(made(images()), before(images()))


def test_groups_of_another_size_do_not_mean_the_same() -> None:
    made, site = converted(trained(lambda: nn.GroupNorm(2, 8)), "gn", num_groups=4)
    assert site.remarks == ("its learned values mean something else: new ones",)
    assert torch.equal(made[1].weight, torch.ones(8))


def test_another_eps_or_momentum_is_told_and_takes_no_values_away() -> None:
    made, site = converted(trained(lambda: nn.BatchNorm2d(8, eps=1e-3, momentum=0.01)), "bn")
    assert site.remarks == ("values kept; eps 0.001 -> 1e-05; momentum 0.01 -> 0.1",)
    assert made[1].eps == 1e-5


@pytest.mark.parametrize("name", NAMES)
def test_a_residual_branch_that_begins_at_zero_does_so_under_every_norm_with_a_gamma(
    name: str,
) -> None:
    model = stem(Block())
    nn.init.zeros_(model[3].bn2.weight)
    made = normbench.convert(model, name, image_shape=SHAPE)
    site = {site.name: site for site in made.normbench_exchange.sites}["3.bn2"]
    x = torch.randn(2, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    is_identity = torch.equal(made[3](x), x.relu())
    assert is_identity == (name not in NO_GAMMA)
    told = "gamma started at 0, and here is none" if name in NO_GAMMA else ""
    assert told in str(site)
    if name == "bcn":
        assert (made[3].bn2.weight == 0).all()
        assert (made[3].bn2.batch.weight == 1).all()
    gamma = getattr(made[3].bn1, "weight", None)
    assert gamma is None or bool((gamma == 1).all())


@pytest.mark.parametrize("training", [True, False])
def test_new_layers_are_in_the_mode_type_and_device_of_the_norm_before(training: bool) -> None:
    model = stem(Block()).double().train(training)
    model[3].bn2.train(not training)
    made = normbench.convert(model, "ln_chw", image_shape=SHAPE)
    modes = [module.training for module in (made, made[1], made[3].bn1, made[3].bn2)]
    assert modes == [training, training, training, not training]
    assert all(value.dtype == torch.float64 for value in made.parameters())
    assert made[1].weight.shape == (8, 8, 8)
    on_meta = normbench.convert(stem(Block()).to("meta"), "gn", image_shape=SHAPE)
    assert all(value.is_meta for value in on_meta.parameters())
