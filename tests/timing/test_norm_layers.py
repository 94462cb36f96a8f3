"""Norm layers timed alone: sites, layouts and modes, and the work of a timed pass."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from normbench.config.compose import compose
from normbench.config.schema import RunConfig
from normbench.errors import NormbenchError
from normbench.norms import norms
from normbench.timing import norm_layers as layers_module
from normbench.timing.norm_layers import LAYOUTS, PARTS, bench_layers, sites_of
from normbench.timing.race import Timer, Work
from normbench.timing.steps import bench_steps
from normbench.training.resolve import resolve

MACHINE = {"device", "threads", "torch", "python", "commit", "dirty"}
SITES = ("4x32x32", "8x16x16")


@pytest.fixture(autouse=True)
def short_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """A single call of a contestant in each turn."""
    monkeypatch.setattr(layers_module, "LEAST_SECONDS", 0.0)


def tiny(norm: str, batch_size: int = 4, **settings: Any) -> RunConfig:
    given = {"norm": norm, "batch_size": batch_size, "data": "synthetic", "model.widths": [4, 8]}
    return resolve(compose([], given | settings))[0]


def bench(*configs: RunConfig, rounds: int = 3, mode: str = "eager") -> list[dict[str, Any]]:
    return list(bench_layers(configs, rounds, lambda: None, modes=(mode,)))


def test_sites_are_the_distinct_shapes_at_which_the_network_has_a_norm() -> None:
    assert sites_of(tiny("bn")) == [(4, 32, 32), (8, 16, 16)]
    same_width = tiny("bn", **{"model.widths": [4, 4, 4]})
    assert sites_of(same_width) == [(4, 32, 32), (4, 16, 16), (4, 8, 8)]


def test_sites_of_tokens_are_refused_since_they_have_one_layout() -> None:
    vit = resolve(compose([], {"norm": "ln", "data": "synthetic", "model": "vit"}))[0]
    with pytest.raises(NormbenchError, match="the norms of vit have tokens: choose another model"):
        sites_of(vit)


def test_every_norm_has_a_row_for_each_site_layout_part_and_round() -> None:
    calls: list[int] = []
    threads = {"system.threads": 2}
    configs = [tiny(norm, size, **threads) for norm, size in (("bn", 4), ("gn", 4), ("bn", 8))]
    before = torch.get_num_threads()
    rows = list(bench_layers(configs, 3, lambda: calls.append(1), 3, ("eager",)))
    names = ("batch_size", "norm", "site", "layout", "part", "round")
    keys = [tuple(row[name] for name in names) for row in rows]
    at_4 = itertools.product([4], ("bn", "gn"), SITES, LAYOUTS, PARTS, range(3))
    at_8 = itertools.product([8], ("bn",), SITES, LAYOUTS, PARTS, range(3))
    assert sorted(keys) == sorted([*at_4, *at_8])
    assert len(calls) == 3 * len(SITES) * 2
    measured = {"race", "mode", "precision", "own_activation", "seconds"}
    for row in rows:
        assert {*row} == MACHINE | {*names} | measured
        assert row["seconds"] > 0
        assert (row["mode"], row["threads"]) == ("eager", 2)
        assert not row["own_activation"]
        assert row["race"].endswith(f" process 3 batch {row['batch_size']}")
    races = {(row["race"], row["batch_size"]) for row in rows}
    assert len(races) == 2, "a race has all sites, whose seconds are summed"
    assert torch.get_num_threads() == before
    assert all(row["own_activation"] for row in bench(tiny("frn")))


def test_a_norm_that_comes_twice_is_refused_rather_than_timed_once() -> None:
    twice = [tiny("gn", **{"norm.num_groups": number}) for number in (2, 4)]
    with pytest.raises(NormbenchError, match="gn at batch size 4 comes 2 times"):
        bench(*twice)


@pytest.mark.parametrize(
    ("setting", "value"),
    [("runtime.channels_last", True), ("runtime.compile", True), ("train.accumulate", 2)],
)
def test_a_setting_without_effect_on_a_layer_is_refused(setting: str, value: object) -> None:
    with pytest.raises(NormbenchError, match=f"--layers: leave out {setting}"):
        bench(tiny("gn", **{setting: value}))


@pytest.mark.slow
def test_however_many_norms_there_are_all_are_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    # Imported here: torch's compiler takes seconds to import.
    from torch._dynamo.testing import CompileCounter

    counts = CompileCounter()

    def compile_and_count(layer: nn.Module, *, dynamic: bool) -> Callable[[Tensor], Tensor]:
        return really_compile(layer, dynamic=dynamic, backend=counts)

    really_compile = torch.compile
    monkeypatch.setattr(torch, "compile", compile_and_count)
    many = ("bn", "ln", "in", "gn", "in_affine", "ln_c")
    bench(*(tiny(name) for name in many), rounds=1, mode="compiled")
    assert counts.frame_count >= len(many) * len(LAYOUTS) * len(SITES)


def test_steps_and_layers_say_the_same_of_the_machine() -> None:
    (step,) = bench_steps([tiny("bn")], 1, lambda: None)
    layer, *_ = bench(tiny("bn"), rounds=1)
    assert {name: step[name] for name in MACHINE} == {name: layer[name] for name in MACHINE}


# The work of a timed pass


class Probe(nn.Module):
    """Notes layout, shape and type of the input, and the arrival of the gradient."""

    def __init__(self, told: list[tuple[str, ...]]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.told = told

    def forward(self, x: Tensor) -> Tensor:
        is_last = x.is_contiguous(memory_format=torch.channels_last)
        assert x.requires_grad
        assert is_last != x.is_contiguous()
        layout = "channels_last" if is_last else "contiguous"
        self.told.append(("forward", layout, str(tuple(x.shape)), str(x.dtype)))
        y = x * self.weight
        y.register_hook(lambda gradient: self.told.append(("backward",)))
        return y


@pytest.fixture
def works(monkeypatch: pytest.MonkeyPatch) -> dict[str, Work]:
    """The works of the races by name, in place of the races."""
    found: dict[str, Work] = {}

    def no_race(works: Mapping[str, Work], timer: Timer, **_: object) -> Iterator[dict[str, float]]:
        found.update(works)
        return iter(())

    monkeypatch.setattr(layers_module, "race", no_race)
    return found


@pytest.fixture
def probes(monkeypatch: pytest.MonkeyPatch) -> list[Probe]:
    """The timed layers, replaced by probes."""
    found: list[Probe] = []

    def make(spec: object, shape: object) -> Probe:
        found.append(Probe([]))
        return found[-1]

    monkeypatch.setattr(layers_module, "_layer", make)
    return found


@pytest.mark.parametrize(
    ("precision", "dtype"), [("fp32", "torch.float32"), ("bf16", "torch.bfloat16")]
)
def test_a_pass_is_in_the_layout_and_precision_and_goes_forward_or_both_ways(
    works: dict[str, Work], probes: list[Probe], precision: str, dtype: str
) -> None:
    bench(tiny("bn", **{"model.widths": [4]}).with_runtime(precision=precision))
    assert {*works} == {f"bn|{layout}|eager|{part}" for layout in LAYOUTS for part in PARTS}
    for (name, work), probe in zip(works.items(), probes, strict=True):
        work()
        _, layout, _, part = name.split("|")
        assert probe.told[0] == ("forward", layout, "(4, 4, 32, 32)", dtype)
        assert probe.told[1:] == ([("backward",)] if part == "both" else [])


def test_no_gradient_is_kept_from_pass_to_pass(works: dict[str, Work], probes: list[Probe]) -> None:
    bench(tiny("bn"))
    for work in [*works.values()] * 2:
        work()
    assert [probe.weight.grad for probe in probes] == [None] * len(probes)


def test_compiled_layers_are_timed_beside_eager_layers(
    works: dict[str, Work], monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[nn.Module] = []

    def compile_nothing(layer: nn.Module, *, dynamic: bool) -> Callable[[Tensor], Tensor]:
        assert not dynamic
        compiled.append(layer)
        return layer

    monkeypatch.setattr(torch, "compile", compile_nothing)
    # By default, both modes.
    list(bench_layers([tiny("bn", **{"model.widths": [4]})], 1, lambda: None))
    assert {name.split("|")[2] for name in works} == {"eager", "compiled"}
    assert len(compiled) == len(works) / 2 == 4
    assert len({id(layer) for layer in compiled}) == 4, "each contestant has its own layer"
    for work in works.values():
        work()


def test_every_norm_that_can_train_has_a_layer_that_can_be_timed(works: dict[str, Work]) -> None:
    configs = [tiny(entry.name, 2, **{"model.widths": [8]}) for entry in norms]
    bench(*configs)
    assert len(works) == len(configs) * len(LAYOUTS) * len(PARTS)
    for work in works.values():
        work()


def test_a_layer_has_the_shape_of_its_site_its_options_and_its_own_activation() -> None:
    spec = norms.build("gn", options={"num_groups": 2})
    layer = layers_module._layer(spec, (4, 8, 16, 16))
    assert isinstance(layer, nn.GroupNorm)
    assert (layer.num_groups, layer.num_channels, layer.training) == (2, 8, True)
    by_position = layers_module._layer(norms.build("ln_chw"), (4, 8, 16, 16))
    assert {tuple(parameter.shape) for parameter in by_position.parameters()} == {(8, 16, 16)}
    activated = norms.build("evonorm_s0")
    assert activated.norm_act is not None
    assert isinstance(layers_module._layer(activated, (4, 8, 16, 16)), type(activated.norm_act(8)))
