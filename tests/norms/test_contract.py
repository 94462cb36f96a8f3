"""The contract over the registry, and layers with a single thing wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from kit.norms import every_kind_of_norm, every_norm, new_layers, normal, results
from torch import Tensor, nn

from normbench.certificates import CHECKS, Broken, breaches, broken, contract, defects
from normbench.norms import NormSpec, norms
from normbench.norms.spec import Refusal, Shape

VARIANTS: list[tuple[str, dict[str, Any]]] = [
    ("in", {"affine": True}),
    ("in", {"track_running_stats": True}),
    ("gn", {"num_groups": 1}),
    ("gn", {"num_groups": 8}),
    ("bn", {"momentum": None}),
    ("bn", {"affine": False}),
    ("ghost_bn", {"size": 2}),
    ("batch_renorm", {"warmup_steps": 0, "ramp_steps": 0}),
    ("evonorm_s0", {"num_groups": 1}),
    ("spectral_norm", {"num_power_iterations": 3}),
]


def failures(spec: NormSpec) -> dict[str, str]:
    """Broken demands and their failures."""
    return {demand: failure for demand, failure in broken(spec) if failure is not None}


@every_kind_of_norm
def test_a_norm_keeps_the_contract(name: str) -> None:
    assert failures(norms.build(name)) == {}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "options"), VARIANTS, ids=str)
def test_a_norm_with_options_keeps_the_contract(name: str, options: dict[str, Any]) -> None:
    assert failures(norms.build(name, options=options)) == {}


@every_norm
def test_a_constant_sample_alone_gives_finite_values_and_gradients(name: str) -> None:
    for layer in new_layers(name, normal(1, 8, 4, 4)):
        for training in (True, False):
            x = torch.zeros(1, 8, 4, 4, dtype=torch.float64)
            found = results(layer.train(training), x, torch.ones_like(x))
            assert all(value.isfinite().all() for value in found.values())


def test_a_norm_that_refuses_every_network_is_not_tried() -> None:
    spec = NormSpec("none", nn.Identity, refuse=lambda shape: Refusal("on purpose"))
    with pytest.raises(Broken, match=r"on purpose; it works with none of 16, 32, .* channels"):
        next(broken(spec))
    assert [*defects(spec, (8, 24))] == ["could not be tried"]


@pytest.mark.parametrize("num_groups", [12, 16, 32])
def test_options_are_tried_on_channels_that_they_fit(num_groups: int) -> None:
    assert failures(norms.build("gn", options={"num_groups": num_groups})) == {}


def test_every_check_says_in_a_sentence_what_it_demands() -> None:
    sentences = [(check.__doc__ or "") for check in CHECKS]
    assert all(text.endswith(".") and "\n" not in text for text in sentences)
    assert len(set(sentences)) == len(CHECKS)


class Doubled(torch.autograd.Function):
    """Twice its input, with three times the gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return 2 * x

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return 3 * gradients[0]


class Layer(nn.Module):
    """A scale per channel, then whatever is wrong."""

    count: Tensor

    def __init__(self, num_features: int, spoil: Callable[[Layer, Tensor], Tensor]) -> None:
        super().__init__()
        self.spoil = spoil
        self.weight = nn.Parameter(torch.ones(num_features))
        self.register_buffer("count", torch.zeros(1))
        self.forgotten = torch.zeros(1)  # no buffer, so missing from state_dict

    def forward(self, x: Tensor) -> Tensor:
        return self.spoil(self, x * self.weight[:, None, None].to(x.dtype))


def remember(layer: Layer, x: Tensor) -> Tensor:
    if layer.training:
        layer.forgotten = layer.forgotten + 1
    return x + layer.forgotten.to(x)


def drift(layer: Layer, x: Tensor) -> Tensor:
    if not layer.training:
        layer.forgotten = layer.forgotten + 1
    return x + layer.forgotten.to(x)


def keep_for_a_look(layer: Layer, x: Tensor) -> Tensor:
    layer.forgotten = x.mean()
    return x


def raises(layer: Layer, x: Tensor) -> Tensor:
    raise ZeroDivisionError("on purpose")


SPOILED: list[tuple[Callable[[NormSpec, Shape], None], Callable[[Layer, Tensor], Tensor]]] = [
    (contract.keeps_shape_and_type, lambda layer, x: x[..., :1]),
    (contract.keeps_shape_and_type, lambda layer, x: x.float()),
    (contract.stays_finite, lambda layer, x: x / x.detach().abs().mean((1, 2, 3), keepdim=True)),
    (contract.gradients_are_right, lambda layer, x: Doubled.apply(x)),
    (contract.every_parameter_learns, lambda layer, x: x.detach()),
    (contract.scope_is_as_declared, lambda layer, x: x - x.mean((1, 2, 3), keepdim=True)),
    (contract.evaluates_samples_alone, lambda layer, x: x if layer.training else x - x.mean()),
    (contract.evaluates_without_a_trace, lambda layer, x: x + 0 * layer.count.add_(1)),
    (contract.evaluates_without_a_trace, drift),
    (contract.refuses_what_fails, lambda layer, x: 0 * x),
    (contract.refuses_what_fails, raises),
    (contract.saves_and_loads, remember),
    (contract.repeats_itself, lambda layer, x: x + 1e-9 * torch.randn_like(x)),
    (contract.knows_no_layout, lambda layer, x: x + x.is_contiguous()),
    (contract.computes_in_half, lambda layer, x: x * layer.weight[:, None, None]),
    (contract.trains, lambda layer, x: 1e30 * x),
]


@pytest.mark.parametrize(("check", "spoil"), SPOILED, ids=range(len(SPOILED)))
def test_a_layer_with_one_thing_wrong_breaks_the_check_for_it(
    monkeypatch: pytest.MonkeyPatch,
    check: Callable[[NormSpec, Shape], None],
    spoil: Callable[[Layer, Tensor], Tensor],
) -> None:
    monkeypatch.setattr(contract, "CHECKS", (check,))
    assert failures(NormSpec("none", lambda size: Layer(size, spoil))) != {}


@pytest.mark.parametrize(("check", "spoil"), SPOILED, ids=range(len(SPOILED)))
def test_the_defects_that_spoil_a_run_s_figures_have_a_phrase(
    check: Callable[[NormSpec, Shape], None], spoil: Callable[[Layer, Tensor], Tensor]
) -> None:
    before = torch.get_rng_state()
    found = defects(NormSpec("none", lambda size: Layer(size, spoil)), (8,))
    assert torch.equal(torch.get_rng_state(), before)
    if check in breaches.DEFECTS:
        assert breaches.DEFECTS[check] in found


@every_norm
def test_a_registered_norm_has_no_such_defect(name: str) -> None:
    assert defects(norms.build(name), (16,)) == {}


def test_the_layer_that_is_spoiled_is_sound_by_itself() -> None:
    assert failures(NormSpec("none", lambda size: Layer(size, lambda layer, x: x))) == {}


def test_a_layer_may_keep_a_tensor_for_a_look() -> None:
    assert defects(NormSpec("none", lambda size: Layer(size, keep_for_a_look)), (8,)) == {}


def test_a_refusal_of_a_shape_that_works_is_broken_too() -> None:
    def refuse(shape: tuple[int, ...]) -> Refusal | None:
        return Refusal("too few") if shape[0] == 1 else None

    with pytest.raises(Broken, match=r"shape \(1, 16, 4, 4\): works, refusal: too few"):
        contract.refuses_what_fails(NormSpec("none", lambda size: nn.Identity(), refuse=refuse))


def test_random_initial_values_come_from_the_seed_whatever_was_drawn_before() -> None:
    class Random(Layer):
        def __init__(self, num_features: int) -> None:
            super().__init__(num_features, lambda layer, x: x)
            nn.init.uniform_(self.weight)

    torch.manual_seed(torch.seed() % 1000)
    contract.repeats_itself(NormSpec("none", Random))
