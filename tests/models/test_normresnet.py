"""NormResNet's figures, the contract of every registered model, and which norms can train it on what."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.utils import parametrize

from normbench.errors import NormbenchError
from normbench.models import Layers, materialize, models, norm_sites, unsupported
from normbench.norms import NormSpec, norms

NAMES = [entry.name for entry in norms if entry.name != "adain"]  # it is no classifier's norm
MODELS = [entry.name for entry in models]
IMAGES = (2, 3, 32, 32)

every_norm = pytest.mark.parametrize("name", NAMES)
every_model = pytest.mark.parametrize("model_name", MODELS)


def build(model_name: str, layers: Layers, **options: Any) -> nn.Module:
    return models.build(model_name, layers, 10, options=options)


def normresnet(
    norm: str = "bn", seed: int = 0, widths: tuple[int, ...] = (64, 128, 256, 512)
) -> nn.Module:
    return build("normresnet", Layers(norms.build(norm), seed), widths=widths)


def images(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def weights(model: nn.Module) -> list[Tensor]:
    """Of every convolution and linear layer, before any reparametrization of them."""
    return [
        drawn(module) for module in model.modules() if isinstance(module, nn.Conv2d | nn.Linear)
    ]


def drawn(module: nn.Module) -> Tensor:
    if not parametrize.is_parametrized(module):
        return module.weight
    below = dict(module.parametrizations["weight"].named_parameters())
    return below.get(
        "original", below.get("original1")
    )  # weight norm's second parameter has the weight's direction


# The figures of the source


@pytest.mark.parametrize(
    ("norm", "count"), [("bn", 1_557_066), ("ln", 1_557_066), ("gn", 1_557_066), ("in", 1_555_146)]
)
def test_normresnet_has_the_source_s_number_of_parameters(norm: str, count: int) -> None:
    assert sum(parameter.numel() for parameter in normresnet(norm).parameters()) == count


def test_every_stage_has_the_source_s_output_and_an_image_costs_58_4_million_multiply_adds() -> (
    None
):
    model, shapes, costs = normresnet(), {}, []
    for name, module in model.named_modules():

        def record(module: nn.Module, _: Any, output: Tensor, name: str = name) -> None:
            shapes[name] = tuple(output.shape[1:])
            if isinstance(module, nn.Conv2d | nn.Linear):
                costs.append(output[0].numel() * module.weight[0].numel())

        module.register_forward_hook(record)
    logits = model(images(*IMAGES))
    assert logits.shape == (2, 10)
    assert [shapes[f"stage{i}"] for i in (1, 2, 3, 4)] == [
        (64, 32, 32),
        (128, 16, 16),
        (256, 8, 8),
        (512, 4, 4),
    ]
    assert sum(costs) == 1024 * 64 * 27 + 3 * 256 * 128 * 576 + 5120
    assert round(sum(costs) / 1e6, 1) == 58.4


def test_the_features_of_a_stage_are_activated_and_the_logits_are_not() -> None:
    model, x = normresnet(widths=(4, 8)), images(8, 3, 8, 8)
    features = model.stage1(x)
    assert features.min() == 0
    assert model(x).min() < 0


def test_widths_decide_the_stages_and_an_empty_or_zero_width_is_refused() -> None:
    assert [type(m) for m in normresnet(widths=(4,)).modules()].count(nn.Conv2d) == 1
    for widths, message in (
        ((), "model.widths: "),
        ((4, 0), "model.widths.1: "),
        ((4, 8.5), "model.widths.1: "),
    ):
        with pytest.raises(NormbenchError, match=f"^{message}"):
            normresnet(widths=widths)


# The contract of every registered model


@every_model
@every_norm
def test_a_model_gives_logits_and_takes_a_finite_step_under_every_norm(
    model_name: str, name: str
) -> None:
    model = materialize(build(model_name, Layers(norms.build(name), seed=0)), IMAGES[1:])
    logits = model(images(*IMAGES))
    assert logits.shape == (2, 10)
    cross_entropy(logits, torch.tensor([0, 1])).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    torch.optim.SGD(model.parameters(), 0.01).step()
    assert all(p.isfinite().all() for p in model.state_dict().values())


@every_model
@every_norm
def test_equal_seeds_give_equal_initial_weights_under_every_norm_and_others_do_not(
    model_name: str, name: str
) -> None:
    plain = weights(build(model_name, Layers(norms.build("none"), seed=0)))
    same = weights(build(model_name, Layers(norms.build(name), seed=0)))
    other = weights(build(model_name, Layers(norms.build(name), seed=1)))
    assert all(torch.equal(a, b) for a, b in zip(plain, same, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(same, other, strict=True))


class Recording(Layers):
    """Layers that remembers what it hands out."""

    def __init__(self, spec: NormSpec, seed: int = 0) -> None:
        super().__init__(spec, seed)
        self.handed_out: set[nn.Module] = set()

    def __getattribute__(self, name: str) -> Any:
        attribute = super().__getattribute__(name)
        if name.startswith("_") or not callable(attribute):
            return attribute

        def remember(*arguments: Any, **options: Any) -> Any:
            module = attribute(*arguments, **options)
            self.handed_out.update(module.modules())
            return module

        return remember


@every_model
def test_a_model_builds_no_layer_norm_or_activation_of_its_own(model_name: str) -> None:
    layers = Recording(norms.build("gn"))
    model = build(model_name, layers)
    assert layers.handed_out
    own = [m for m in model.modules() if m not in layers.handed_out and not list(m.children())]
    assert {type(m).__module__ for m in own} <= {
        "torch.nn.modules.pooling",
        "torch.nn.modules.flatten",
    }
    in_ours = {id(p) for m in layers.handed_out for p in m.parameters()}
    assert {id(p) for p in model.parameters()} == in_ours


@every_model
def test_a_norm_that_owns_its_activation_meets_no_second_one(model_name: str) -> None:
    class Activated(nn.Hardswish):
        def __init__(self, num_features: int) -> None:
            super().__init__()

    spec = NormSpec(scope="sample", norm=lambda num_features: nn.Identity(), norm_act=Activated)
    types = [type(module) for module in build(model_name, Layers(spec, seed=0)).modules()]
    assert Activated in types
    assert nn.ReLU not in types


@every_model
def test_every_convolution_and_linear_layer_is_reparametrized_once(model_name: str) -> None:
    seen: list[nn.Module] = []

    def reparametrize(module: nn.Module) -> nn.Module:
        seen.append(module)
        return module

    spec = NormSpec(
        scope="weight", norm=lambda num_features: nn.Identity(), reparametrize=reparametrize
    )
    model = build(model_name, Layers(spec, seed=0))
    assert sorted(map(id, seen)) == sorted(
        id(m) for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)
    )


# What can be trained


def test_the_sites_of_the_norms_are_the_shapes_that_reach_them() -> None:
    sites = norm_sites(partial(build, "normresnet", widths=(4, 8, 16)), (3, 9, 8))
    assert sites == [(4, 9, 8), (8, 5, 4), (16, 3, 2)]


@pytest.mark.parametrize(
    ("norm", "options", "batch", "size", "reason"),
    [
        ("bn", {}, 1, 8, "one value per channel has no variance: a batch of 1 on a 1x1 map"),
        ("bn", {}, 2, 8, None),
        ("bn", {}, 1, 16, None),
        ("in", {}, 64, 8, "one value per sample and channel has no variance: a 1x1 map"),
        ("in", {}, 1, 16, None),
        ("ln", {}, 1, 8, None),
        ("gn", {"num_groups": 3}, 64, 32, "num_groups=3 does not divide 4 channels"),
        ("gn", {"num_groups": 8}, 64, 32, "num_groups=8 does not divide 4 channels"),
        (
            "gn",
            {"num_groups": 4},
            1,
            8,
            "num_groups=4 leaves one value per group: 4 channels on a 1x1 map",
        ),
        ("gn", {"num_groups": 2}, 1, 8, None),
        ("none", {}, 1, 1, None),
    ],
)
def test_unsupported_names_the_reason_or_accepts(
    norm: str, options: dict[str, Any], batch: int, size: int, reason: str | None
) -> None:
    sites = norm_sites(partial(build, "normresnet", widths=(4, 4, 4, 4)), (3, size, size))
    assert unsupported(norms.build(norm, options=options), sites, batch) == reason


def learns_from_its_images(model: nn.Module, shape: tuple[int, ...]) -> bool:
    """Whether one step of training works, and the logits say anything of the images."""
    try:
        logits = model(images(*shape))
        cross_entropy(logits, torch.zeros(len(logits), dtype=torch.int64)).backward()
        torch.optim.SGD(model.parameters(), 0.1).step()
        assert all(parameter.isfinite().all() for parameter in model.parameters())
        return not torch.equal(model(images(*shape, seed=1)), model(images(*shape, seed=2)))
    except (ValueError, ZeroDivisionError):  # of torch, and of timm where n - 1 = 0
        return False


def assert_unsupported_decides(
    norm: tuple[str, dict[str, Any]], widths: list[int], batch: int, shape: tuple[int, int, int]
) -> None:
    name, options = norm
    spec, model = norms.build(name, options=options), partial(build, "normresnet", widths=widths)
    reason = unsupported(spec, norm_sites(model, shape), batch)
    try:
        works = learns_from_its_images(model(Layers(spec, seed=0)).train(), (batch, *shape))
    except ValueError:  # groups that do not divide the channels fail when the layer is built
        works = False
    assert works == (reason is None), reason


@settings(max_examples=40)
@given(
    st.sampled_from(
        [
            ("bn", {}),
            ("ln", {}),
            ("in", {}),
            ("none", {}),
            *(("gn", {"num_groups": g}) for g in (2, 3, 8)),
        ]
    ),
    st.lists(st.sampled_from([3, 8, 16]), min_size=1, max_size=4),
    st.integers(1, 3),
    st.sampled_from([1, 2, 4, 7, 8]),
)
def test_what_unsupported_accepts_trains_and_what_it_refuses_does_not(
    norm: tuple[str, dict[str, Any]], widths: list[int], batch: int, size: int
) -> None:
    assert_unsupported_decides(norm, widths, batch, (3, size, size))


# EvoNorm-S0 with one value in a group is refused, although it does something: it divides by eps alone.
@settings(max_examples=100)
@given(
    st.sampled_from(
        [(name, {}) for name in NAMES if name != "evonorm_s0"]
        + [
            ("bn", {"track_running_stats": False}),
            ("ghost_bn", {"size": 2}),
            ("in", {"affine": True}),
        ]
    ),
    st.lists(
        st.sampled_from([8, 16]), min_size=1, max_size=3
    ),  # in narrower ones every ReLU can be dead
    st.integers(1, 3),
    st.sampled_from([1, 2, 4, 7, 8]),
)
def test_what_unsupported_accepts_of_any_norm_trains_and_what_it_refuses_does_not(
    norm: tuple[str, dict[str, Any]], widths: list[int], batch: int, size: int
) -> None:
    assert_unsupported_decides(norm, widths, batch, (3, size, size))
