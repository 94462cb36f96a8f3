"""Steps timed in turns: rows, runs of equal cost, memory, and a process left as before."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from kit.tiny import tiny

from normbench.analysis.loading import load_study, with_bench
from normbench.config.compose import compose
from normbench.config.schema import RunConfig
from normbench.data import Source
from normbench.timing import steps
from normbench.timing.race import WARM_UP_CALLS
from normbench.timing.rounds import NEEDED, NUMBERS, as_rounds, read_bench, write_rounds
from normbench.timing.steps import bench_steps
from normbench.training.engine import Trainer
from normbench.training.resolve import Resolver, resolve
from normbench.training.run import execute

GROUPS = "norm.num_groups=2"
TWO_THREADS = "system.threads=2"
OWN = '''"""A norm of the user's own."""
from torch import nn


class Scaled(nn.Module):
    def __init__(self, num_features, factor: float = 1.0):
        super().__init__()
        self.factor = factor

    def forward(self, x):
        return self.factor * x
'''


@pytest.fixture(autouse=True)
def short_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """A single call of a contestant in each turn."""
    monkeypatch.setattr(steps, "LEAST_SECONDS", 0.0)
    monkeypatch.setenv("KINETO_LOG_LEVEL", "99")


def asked(norm: str = "bn", *overrides: str, **system: Any) -> RunConfig:
    """A tiny configuration, not yet resolved."""
    settings = tiny("batch_size=4", "epochs=1", f"norm={norm}", *overrides)
    return compose(settings, {"system.progress": "none"} | system)


def resolved(norm: str = "bn", *overrides: str, **system: Any) -> RunConfig:
    return resolve(asked(norm, *overrides, **system))[0]


def bench(*configs: RunConfig, rounds: int = 1) -> list[dict[str, Any]]:
    return list(bench_steps(configs, rounds, lambda: None))


# Rows


def test_every_configuration_has_a_row_in_every_round_of_its_batch_size() -> None:
    configs = [resolved("bn"), resolved("gn", GROUPS), resolved("bn", "batch_size=8")]
    calls: list[int] = []
    rows: list[dict[str, Any]] = []
    for row in bench_steps(configs, 6, lambda: calls.append(len(rows)), 2):
        rows.append(row)
    places = [(row["norm.name"], row["batch_size"], row["round"]) for row in rows]
    at_4 = [(norm, 4, number) for number in range(6) for norm in ("bn", "gn")]
    assert places == [*at_4, *(("bn", 8, number) for number in range(6))]
    assert calls == [2, 4, 6, 8, 10, 12, *range(13, 19)], "once when a round is done"
    races = {row["batch_size"]: row["race"] for row in rows}
    assert [name.partition(" ")[2] for name in races.values()] == [
        "process 2 batch 4",
        "process 2 batch 8",
    ]
    for row in rows:
        assert row["race"] == races[row["batch_size"]]
        assert 0 < row["seconds"] < 60


def test_a_row_has_every_column_and_the_facts_of_the_machine() -> None:
    config = resolved("gn", GROUPS, "data.augment=standard", TWO_THREADS)
    (row,) = bench(config)
    assert {*row} >= NEEDED
    settings = config.cost_settings()
    assert {key: row[key] for key in settings} == settings
    assert {*row} - NEEDED - {*settings} == {"python"}
    assert row["cost_id"] == config.cost_id((3, 32, 32), 10)
    assert (row["image"], row["outputs"]) == ("3x32x32", 10)
    assert row["threads"] == 2
    assert row["torch"] == torch.__version__.partition("+")[0]
    assert row["compile_seconds"] == 0
    assert all(isinstance(row[name], int | float) for name in NUMBERS)


def test_steps_are_taken_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[str] = []
    take_step = Trainer.take_step

    def spy(self: Trainer, group: torch.Tensor, lr: float) -> torch.Tensor:
        taken.append(type(self.model[0].norm_act[0]).__name__)
        assert len(group) == 4
        return take_step(self, group, lr)

    monkeypatch.setattr(Trainer, "take_step", spy)
    bench(resolved("bn"), resolved("in"), resolved("gn", GROUPS), rounds=5)
    in_turns = ["BatchNorm2d", "InstanceNorm", "GroupNorm"]
    assert taken[-15:] == in_turns * 5
    # The trial's own warm-up, the bytes of a step, the race's warm-up, and a look for the quickest.
    expected = WARM_UP_CALLS + 1 + WARM_UP_CALLS + 1
    warm_up = taken[:-15]
    assert [warm_up.count(name) for name in in_turns] == [expected] * 3


# Equal cost


def test_configurations_of_equal_cost_are_timed_once() -> None:
    rows = bench(resolved("bn"), resolved("bn", "seed=1"), resolved("bn", "optim.lr=0.1"), rounds=2)
    assert [row["round"] for row in rows] == [0, 1]


def test_images_of_two_sizes_are_two_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    class Sizes(Resolver):
        def source(self, config: RunConfig) -> Source:
            source = super().source(config)
            return replace(source, image_shape=(3, 16, 16)) if config.seed else source

    monkeypatch.setattr(steps, "Resolver", Sizes)
    rows = bench(resolved(), resolved("bn", "seed=1"))
    assert {row["image"] for row in rows} == {"3x32x32", "3x16x16"}
    assert len({row["cost_id"] for row in rows}) == 2


def test_rounds_belong_to_the_runs_of_the_same_settings(tmp_path: Path) -> None:
    """The cost_id in a run's env.json against the cost_id in bench.csv."""
    own = tmp_path / "mine.py"
    own.write_text(OWN)
    # Settings, and the steps of an epoch.
    given: list[tuple[tuple[str, ...], float]] = [
        (("bn",), 100 / 4),
        (("gn", GROUPS), 100 / 4),
        (("gn", "norm.num_groups=4", "data.limit_train=60", "data.augment=standard"), 60 / 4),
        ((f"{own}:Scaled", "norm.options.factor=0.5", "data.val_fraction=0.2"), 80 / 4),
        (("ln", "train.accumulate=2", "optim=sgd"), 100 / 8),
    ]
    for settings, _ in given:
        execute(asked(*settings, **{"system.runs_dir": str(tmp_path / "runs")}))
    rows = bench(*(resolved(*settings) for settings, _ in given), rounds=2)
    write_rounds(as_rounds(rows), tmp_path / "speed" / "bench.csv")
    study = load_study([tmp_path / "runs"])
    for rounds in (as_rounds(rows), read_bench(tmp_path / "speed")):
        clocks = with_bench(study, rounds).clocks
        assert len(clocks) == len(given)
        for index, (settings, num_steps) in enumerate(given):
            expected = [num_steps * row["seconds"] for row in rows[index :: len(given)]]
            assert [*clocks[resolved(*settings).run_id].values()] == pytest.approx(expected)
    another = as_rounds(bench(resolved("bn", "batch_size=8")))
    assert with_bench(study, another).clocks == {}


# Memory


def test_bytes_are_the_same_in_every_round_and_every_time() -> None:
    names = ["peak_bytes", "saved_bytes", "state_bytes"]
    found = []
    for _ in range(2):
        rows = bench(resolved("bn"), resolved("none"), rounds=3)
        found.append([[row[name] for name in names] for row in rows])
    first, second = found
    assert first == second
    assert first == first[:2] * 3
    for peak, saved, state in first[:2]:
        assert 0 < saved < peak
        assert state > 0


def test_lasting_bytes_are_those_of_a_checkpoint_of_the_run(tmp_path: Path) -> None:
    bn, none = bench(resolved("bn"), resolved("none"))
    path = execute(asked("bn", **{"system.runs_dir": str(tmp_path)})).path
    saved = torch.load(path / "checkpoint.pt", weights_only=True)
    tensors = [*saved["model"].values()]
    for state in saved["optimizer"]["state"].values():
        tensors += [value for value in state.values() if isinstance(value, torch.Tensor)]
    assert bn["state_bytes"] == sum(tensor.nbytes for tensor in tensors)
    # Weights and biases of two convolutions and the last layer; Adam's two moments and counters.
    parameters = (3 * 4 + 4 * 8) * 9 + (4 + 8) + 8 * 10 + 10
    assert none["state_bytes"] == 3 * 4 * parameters + 4 * 6


def test_saved_bytes_are_those_of_one_batch_however_many_make_a_step() -> None:
    one, two = bench(resolved("bn"), resolved("bn", "train.accumulate=2"))
    assert one["saved_bytes"] == two["saved_bytes"]
    (larger,) = bench(resolved("bn", "batch_size=8"))
    assert larger["saved_bytes"] > 1.9 * one["saved_bytes"]


# The process afterwards


def state_of_this_process() -> tuple[object, ...]:
    """Threads, flags, and the random generators of Python and numpy.

    Without torch's generator: building a network draws from the generator, to no effect.
    """
    return (
        torch.get_num_threads(),
        torch.backends.cudnn.allow_tf32,
        torch.backends.cuda.matmul.allow_tf32,
        torch.are_deterministic_algorithms_enabled(),
        torch.get_default_dtype(),
        torch.is_grad_enabled(),
        np.random.get_state()[1].tolist(),  # type: ignore[index]  # noqa: NPY002
        random.getstate(),
    )


def test_a_bench_leaves_the_process_as_it_was_also_when_it_is_broken_off() -> None:
    before = state_of_this_process()
    configs = [resolved("bn", TWO_THREADS), resolved("gn", "system.threads=3")]
    assert len(bench(*configs, rounds=2)) == 4
    assert state_of_this_process() == before
    rows = bench_steps(configs[:1], 5, lambda: None)
    next(rows)
    assert torch.get_num_threads() == 2
    rows.close()  # type: ignore[attr-defined]
    assert state_of_this_process() == before


def test_an_error_leaves_the_process_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    before = state_of_this_process()
    monkeypatch.setattr(Trainer, "take_step", Mock(side_effect=RuntimeError("out of memory")))
    with pytest.raises(RuntimeError, match="out of memory"):
        bench(resolved("bn", TWO_THREADS))
    assert state_of_this_process() == before
