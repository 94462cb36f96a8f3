"""Optimizers, weight decay by parameter, and learning rates as functions of progress."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from normbench.errors import NormbenchError
from normbench.models import Layers, models
from normbench.norms import norms
from normbench.training.optim import (
    SCHEDULES,
    body_parameters,
    clamp_parameters,
    clip_adaptively,
    one_cycle,
    optimizers,
    parameter_groups,
    scaled_lr,
    schedule,
    set_lr,
)

PROGRESS = st.floats(0, 1)
WARMUP = st.sampled_from([0.0, 0.05, 0.3, 0.9])
NAMES = [entry.name for entry in optimizers]

every_schedule = pytest.mark.parametrize("name", SCHEDULES)


def factor_of(name: str, warmup: float) -> Callable[[float], float]:
    return schedule(name, 0.0 if name == "one_cycle" else warmup)


@every_schedule
@given(PROGRESS, WARMUP)
def test_a_schedule_stays_between_0_and_1(name: str, progress: float, warmup: float) -> None:
    assert 0 <= factor_of(name, warmup)(progress) <= 1 + 1e-12


@every_schedule
@given(WARMUP)
def test_a_schedule_reaches_1_and_has_no_jumps(name: str, warmup: float) -> None:
    factors = [factor_of(name, warmup)(step / 2000) for step in range(2001)]
    assert max(factors) == pytest.approx(1)
    steepest = max(math.pi / 2 / (1 - warmup), 1 / max(warmup, 0.05), 1 / 0.3, math.pi / 2 / 0.7)
    assert all(abs(b - a) <= 1.01 * steepest / 2000 for a, b in pairwise(factors))


@pytest.mark.parametrize(
    ("name", "start", "middle", "end"),
    [("constant", 1, 1, 1), ("cosine", 1, 0.5, 0), ("one_cycle", 0, None, 0)],
)
def test_a_schedule_without_warm_up_starts_and_ends_where_it_says(
    name: str, start: float, middle: float | None, end: float
) -> None:
    factor = schedule(name, 0.0)
    assert factor(0) == start
    assert factor(1) == pytest.approx(end, abs=1e-12)
    assert middle is None or factor(0.5) == pytest.approx(middle)


@pytest.mark.parametrize("name", ["constant", "cosine"])
@given(WARMUP.filter(bool), PROGRESS)
def test_a_warm_up_rises_linearly_to_the_peak_and_then_runs_the_whole_schedule(
    name: str, warmup: float, progress: float
) -> None:
    factor = schedule(name, warmup)
    assert factor(progress * warmup * 0.999) == pytest.approx(progress * 0.999)
    after = warmup + progress * (1 - warmup)
    assert factor(after) == pytest.approx(SCHEDULES[name](progress), abs=1e-9)


def test_one_cycle_rises_linearly_to_its_peak_and_falls_as_half_a_cosine() -> None:
    expected = {0.15: 0.5, 0.3: 1, 0.65: 0.5, 0.475: (1 + math.cos(math.pi / 4)) / 2}
    assert {progress: one_cycle(progress) for progress in expected} == pytest.approx(expected)


def test_two_warm_ups_at_once_are_refused() -> None:
    message = r"^optim\.warmup_fraction: one_cycle has a warm-up of its own"
    with pytest.raises(NormbenchError, match=message):
        schedule("one_cycle", 0.1)


@given(st.floats(1e-6, 10), st.integers(1, 10**5), st.integers(1, 10**5))
def test_the_rate_scales_with_the_batch_size_or_its_root(lr: float, batch: int, ref: int) -> None:
    assert scaled_lr(lr, "none", batch, ref) == lr
    assert scaled_lr(lr, "linear", batch, ref) == pytest.approx(lr * batch / ref)
    assert scaled_lr(lr, "sqrt", batch, ref) ** 2 == pytest.approx(lr**2 * batch / ref)


@pytest.mark.parametrize("norm", [entry.name for entry in norms])
def test_exactly_the_weights_of_convolutions_and_linear_layers_decay(norm: str) -> None:
    layers = Layers(norms.build(norm), seed=0)
    model = models.build("normresnet", layers, 10, options={"widths": (4, 8)})
    decaying, rest, *ruled = parameter_groups(model)
    assert {group["weight_decay"] for group in (rest, *ruled)} == {0}
    assert "weight_decay" not in decaying
    weights = set()
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            shape = module.weight.shape
            weights |= {id(p) for p in module.parameters() if p.shape == shape}
    assert len(weights) == 3
    found = [id(parameter) for parameter in decaying["params"]]
    assert set(found) == weights
    others = [parameter for group in (rest, *ruled) for parameter in group["params"]]
    everything = found + [id(parameter) for parameter in others]
    assert sorted(everything) == sorted(map(id, model.parameters()))


def test_of_a_reparametrized_weight_the_direction_decays_and_the_scale_does_not() -> None:
    model = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(3, 2)))
    decaying, rest = parameter_groups(model)
    assert [p.numel() for p in decaying["params"]] == [6]
    assert [p.numel() for p in rest["params"]] == [2, 2]


def test_rho_of_bin_has_ten_times_the_rate_no_decay_and_stays_in_its_bounds() -> None:
    layer = norms.build("bin").norm(3)
    _, _, of_rho = groups = parameter_groups(nn.Sequential(nn.Conv2d(3, 3, 1), layer))
    assert [id(parameter) for parameter in of_rho["params"]] == [id(layer.rho)]
    optimizer = optimizers.build(
        "sgd", options={"momentum": 0.0, "nesterov": False, "weight_decay": 0.5}
    )(groups, 1.0)
    with torch.no_grad():
        layer.rho.fill_(0.5)
    layer.rho.grad = torch.tensor([1.0, -10.0, 10.0])
    layer.weight.grad = torch.ones(3)
    set_lr(optimizer, 0.01)
    optimizer.step()
    clamp_parameters(optimizer)
    torch.testing.assert_close(layer.rho.detach(), torch.tensor([0.4, 1.0, 0.0]))
    torch.testing.assert_close(layer.weight.detach(), torch.full((3,), 0.99))


def test_with_decay_norm_norms_decay_and_biases_and_ruled_parameters_do_not() -> None:
    conv, layer = nn.Conv2d(3, 3, 2), norms.build("bin").norm(3)
    decaying, rest, of_rho = parameter_groups(nn.Sequential(conv, layer), decay_norm=True)
    wanted = [conv.weight, layer.weight, layer.bias]
    assert [id(p) for p in decaying["params"]] == [id(p) for p in wanted]
    assert [id(p) for p in rest["params"]] == [id(conv.bias)]
    assert of_rho["weight_decay"] == 0


@given(st.floats(1e-3, 1), st.integers(0, 2**31))
def test_adaptive_clipping_bounds_the_gradient_of_each_unit_and_keeps_short_ones(
    factor: float, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    parameters = []
    for shape in ((4, 3, 2, 2), (5, 3), (6,), (4, 1, 1, 1)):
        parameter = nn.Parameter(torch.randn(shape, generator=generator))
        parameter.grad = torch.randn(shape, generator=generator).exp()
        parameters.append(parameter)
    parameters[0].data[0] = 0  # a unit shorter than 0.001
    before = [parameter.grad.clone() for parameter in parameters]
    clip_adaptively(parameters, factor)
    for parameter, gradient in zip(parameters, before, strict=True):
        has_units = parameter[0].numel() > 1
        number = len(parameter) if has_units else 1  # a vector is one unit
        found = (parameter.detach(), parameter.grad, gradient)
        rows = [values.reshape(number, -1) for values in found]
        for weight, clipped, original in zip(*rows, strict=True):
            bound = factor * max(float(weight.norm()), 1e-3)
            scale = min(1.0, bound / float(original.norm()))
            torch.testing.assert_close(clipped, original * scale)


def test_the_head_is_not_clipped() -> None:
    layers = Layers(norms.build("scaled_ws"), seed=0)
    model = models.build("normresnet", layers, 10, options={"widths": (4, 8)})
    head = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
    kept = {id(parameter) for parameter in body_parameters(model)}
    everything = {id(parameter) for parameter in model.parameters()}
    assert everything - kept == {id(head.weight), id(head.bias)}


TORCHS = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}


@pytest.mark.parametrize("name", TORCHS)
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_adam_and_adamw_take_the_steps_of_torch_s_own(name: str, weight_decay: float) -> None:
    ours = nn.Linear(3, 2)
    theirs = copy.deepcopy(ours)
    options = {"betas": (0.8, 0.9), "eps": 1e-6, "weight_decay": weight_decay}
    optimizer = optimizers.build(name, options=options)(parameter_groups(ours), 0.01)
    groups = [{"params": [theirs.weight]}, {"params": [theirs.bias], "weight_decay": 0.0}]
    reference = TORCHS[name](groups, lr=0.01, **options, foreach=False)  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(0)
    for _ in range(8):
        x = torch.randn(8, 3, generator=generator)
        for model, steps in ((ours, optimizer), (theirs, reference)):
            steps.zero_grad()
            model(x).square().mean().backward()
            steps.step()
        torch.testing.assert_close(ours.weight, theirs.weight, rtol=1e-6, atol=1e-7)
        torch.testing.assert_close(ours.bias, theirs.bias, rtol=1e-6, atol=1e-7)


def test_the_decay_of_adamw_is_decoupled_from_the_gradient() -> None:
    model = nn.Linear(3, 2)
    before = model.weight.detach().clone()
    bias = model.bias.detach().clone()
    optimizer = optimizers.build("adamw", options={"weight_decay": 0.5})(
        parameter_groups(model), 0.1
    )
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    # Algorithm 2, line 12, without a gradient: theta - lr * weight_decay * theta.
    torch.testing.assert_close(model.weight.detach(), 0.95 * before)
    assert torch.equal(model.bias, bias)


@pytest.mark.parametrize("name", NAMES)
def test_an_optimizer_decays_only_the_first_group_and_takes_a_step_downhill(name: str) -> None:
    model = nn.Linear(3, 2)
    optimizer = optimizers.build(name, options={"weight_decay": 0.25})(
        parameter_groups(model), 1e-3
    )
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.25, 0.0]
    assert [group["lr"] for group in optimizer.param_groups] == [1e-3, 1e-3]
    x = torch.randn(8, 3, generator=torch.Generator().manual_seed(0))
    before = model(x).square().mean()
    before.backward()
    optimizer.step()
    assert model(x).square().mean() < before


def test_nesterov_without_momentum_is_refused() -> None:
    with pytest.raises(NormbenchError, match=r"^optim\.nesterov: needs optim\.momentum > 0$"):
        optimizers.build("sgd", options={"momentum": 0.0})
    optimizers.build("sgd", options={"momentum": 0.0, "nesterov": False})


@pytest.mark.parametrize(
    ("name", "option", "value"),
    [
        ("adam", "betas", [0.9, 1.0]),
        ("adam", "eps", 0),
        ("sgd", "momentum", 1),
        ("sgd", "weight_decay", -1e-4),
    ],
)
def test_an_option_out_of_range_is_refused(name: str, option: str, value: object) -> None:
    with pytest.raises(NormbenchError, match=rf"^optim\.{option}"):
        optimizers.build(name, options={option: value})
