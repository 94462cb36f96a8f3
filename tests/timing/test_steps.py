"""Steps timed in turns: what is in the rows, which runs they are the cost of, and what is left as it was."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from normbench.analysis.loading import load_study, with_bench
from normbench.config.compose import compose
from normbench.config.schema import RunConfig, cost_settings, flatten
from normbench.data import Source
from normbench.timing import steps
from normbench.timing.race import WARM_UP
from normbench.timing.rounds import NEEDED, NUMBERS, as_rounds, read_bench, write_rounds
from normbench.timing.steps import bench_steps
from normbench.train.engine import Trainer
from normbench.train.resolve import Resolver, resolve
from normbench.train.run import execute

TINY = [
    "data=synthetic",
    "data.num_train=100",
    "data.num_test=20",
    "model.widths=[4,8]",
    "batch_size=4",
    "epochs=1",
]
NUM_PARAMETERS = (
    (3 * 4 + 4 * 8) * 9 + 8 * 10 + 10
)  # of two convolutions without biases and the last layer
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
    """One call of each in its turn, however quick."""
    monkeypatch.setattr(steps, "LEAST_SECONDS", 0.0)
    monkeypatch.setenv("KINETO_LOG_LEVEL", "99")


def asked(norm: str = "bn", *overrides: str, **system: Any) -> RunConfig:
    """A tiny configuration, before it is resolved."""
    keys = {text.partition("=")[0] for text in overrides}
    kept = [text for text in TINY if text.partition("=")[0] not in keys]
    return compose([*kept, *overrides], {"norm": norm, "system.progress": "none"} | system)


def tiny(norm: str = "bn", *overrides: str, **system: Any) -> RunConfig:
    return resolve(asked(norm, *overrides, **system))[0]


def bench(*configs: RunConfig, rounds: int = 6) -> list[dict[str, Any]]:
    return list(bench_steps(configs, rounds, lambda: None))


def test_every_configuration_has_a_row_in_every_round_of_its_batch_size() -> None:
    configs = [tiny("bn"), tiny("gn", "norm.num_groups=2"), tiny("bn", "batch_size=8")]
    calls: list[int] = []
    rows = []
    for row in bench_steps(configs, 6, lambda: calls.append(len(rows))):
        rows.append(row)
    places = [(row["norm.name"], row["batch_size"], row["round"]) for row in rows]
    assert places == [
        *((norm, "4", number) for number in range(6) for norm in ("bn", "gn")),
        *(("bn", "8", number) for number in range(6)),
    ]
    assert calls == [2, 4, 6, 8, 10, 12, *range(13, 19)], "once when a round is done"
    races = {row["batch_size"]: row["race"] for row in rows}
    assert len({*races.values()}) == 2
    assert all(row["race"] == races[row["batch_size"]] for row in rows)
    assert all(0 < row["seconds"] < 60 for row in rows)


def test_the_rows_have_every_column_and_the_facts_of_the_machine() -> None:
    (row,) = bench(
        tiny("gn", "norm.num_groups=2", "data.augment=standard", **{"system.threads": 2}), rounds=1
    )
    assert {*row} >= NEEDED
    settings = cost_settings(
        flatten(tiny("gn", "norm.num_groups=2", "data.augment=standard").identity())
    )
    assert {key: row[key] for key in settings} == settings
    assert {*row} - {*NEEDED} - {*settings} == {"python", "classes"}
    assert (row["image"], row["classes"]) == ("3x32x32", 10)
    assert row["threads"] == 2
    assert row["torch"] == torch.__version__.partition("+")[0]
    assert row["compile_seconds"] == 0


def test_steps_are_taken_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[str] = []
    take_step = Trainer.take_step

    def spy(self: Trainer, group: torch.Tensor, lr: float) -> torch.Tensor:
        taken.append(type(self.model[0].norm_act[0]).__name__)
        assert len(group) == 4
        return take_step(self, group, lr)

    monkeypatch.setattr(Trainer, "take_step", spy)
    bench(tiny("bn"), tiny("in"), tiny("gn", "norm.num_groups=2"), rounds=5)
    in_turns = ["BatchNorm2d", "InstanceNorm2d", "GroupNorm"]
    assert taken[-15:] == in_turns * 5
    warm_up = taken[:-15]
    assert {name: warm_up.count(name) for name in in_turns} == dict.fromkeys(
        in_turns, 2 * WARM_UP + 2
    )


def test_what_costs_the_same_is_timed_once() -> None:
    rows = bench(tiny("bn"), tiny("bn", "seed=1"), tiny("bn", "optim.lr=0.1"), rounds=2)
    assert [row["round"] for row in rows] == [0, 1]


# Which runs


def test_images_of_two_sizes_are_two_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    class Sizes(Resolver):
        def source(self, config: RunConfig) -> Source:
            source = super().source(config)
            return replace(source, image_shape=(3, 16, 16)) if config.seed else source

    monkeypatch.setattr(steps, "Resolver", Sizes)
    assert {row["image"] for row in bench(tiny(), tiny("bn", "seed=1"))} == {"3x32x32", "3x16x16"}


def test_rounds_are_those_of_runs_that_were_trained(tmp_path: Path) -> None:
    """By what the run's files say of it: its config.yaml and env.json, and the bench.csv."""
    own = tmp_path / "mine.py"
    own.write_text(OWN)
    asked_for = [
        ("bn", ()),
        ("gn", ("norm.num_groups=2",)),
        ("gn", ("norm.num_groups=4", "data.limit_train=60", "data.augment=standard")),
        (f"{own}:Scaled", ("norm.options.factor=0.5", "data.val_fraction=0.2")),
        ("ln", ("train.accumulate=2", "optim=sgd")),
    ]
    for norm, overrides in asked_for:
        execute(asked(norm, *overrides, **{"system.runs_dir": str(tmp_path / "runs")}))
    frames = load_study([tmp_path / "runs"])
    rows = bench(*(tiny(norm, *overrides) for norm, overrides in asked_for), rounds=2)
    write_rounds(as_rounds(rows), tmp_path / "speed" / "bench.csv")
    steps_of_epoch = [100 / 4, 100 / 4, 60 / 4, 80 / 4, 100 / 8]
    for rounds in (as_rounds(rows), read_bench(tmp_path / "speed")):
        clocks = with_bench(frames, rounds).clocks
        assert {*clocks} == {*frames.runs["run"]}
        for (norm, overrides), num_steps, index in zip(
            asked_for, steps_of_epoch, range(5), strict=True
        ):
            run = tiny(norm, *overrides).run_id
            expected = [num_steps * row["seconds"] for row in rows[index::5]]
            assert [*clocks[run].values()] == pytest.approx(expected)
    assert with_bench(frames, as_rounds(bench(tiny("bn", "batch_size=8"), rounds=1))).clocks == {}


# Memory


def test_bytes_are_the_same_in_every_round_and_every_time() -> None:
    names = ["peak_bytes", "saved_bytes", "state_bytes"]
    first, second = (
        [[row[name] for name in names] for row in bench(tiny("bn"), tiny("none"), rounds=3)]
        for _ in range(2)
    )
    assert first == second
    assert first[0::2] == [first[0]] * 3
    assert first[1::2] == [first[1]] * 3
    for peak, saved, state in first:
        assert 0 < saved < peak
        assert state > 0


def test_what_lasts_is_what_a_checkpoint_of_the_run_holds(tmp_path: Path) -> None:
    bn, none = bench(tiny("bn"), tiny("none"), rounds=1)
    path = execute(asked("bn", **{"system.runs_dir": str(tmp_path)})).path
    saved = torch.load(path / "checkpoint.pt", weights_only=True)
    kept = [value for one in saved["optimizer"]["state"].values() for value in one.values()]
    tensors = [
        *saved["model"].values(),
        *(value for value in kept if isinstance(value, torch.Tensor)),
    ]
    assert bn["state_bytes"] == sum(tensor.nbytes for tensor in tensors)
    biases = 4 + 8  # where no norm has a bias of its own
    num_tensors = 6  # weight and bias of each layer, of which Adam keeps a step counter
    assert none["state_bytes"] == 3 * 4 * (NUM_PARAMETERS + biases) + 4 * num_tensors


def test_what_is_saved_is_one_batch_s_however_many_make_a_step() -> None:
    one, two = bench(tiny("bn"), tiny("bn", "train.accumulate=2"), rounds=1)
    assert one["saved_bytes"] == two["saved_bytes"]
    (larger,) = bench(tiny("bn", "batch_size=8"), rounds=1)
    assert larger["saved_bytes"] > 1.9 * one["saved_bytes"]


# What is left as it was


def state_of_this_process() -> tuple[object, ...]:
    """Threads, flags, and the random generators of Python and numpy.

    Torch's own is not among them: to build a network draws from it, for a run as for a bench, and nothing uses it.
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


def test_it_leaves_the_process_as_it_was() -> None:
    before = state_of_this_process()
    rows = bench(tiny("bn", **{"system.threads": 2}), tiny("gn", **{"system.threads": 3}), rounds=2)
    assert len(rows) == 4
    assert state_of_this_process() == before


def test_it_leaves_the_process_as_it_was_when_it_is_broken_off() -> None:
    before = state_of_this_process()
    rows = bench_steps([tiny("bn", **{"system.threads": 2})], 5, lambda: None)
    next(rows)
    assert torch.get_num_threads() == 2
    rows.close()  # type: ignore[attr-defined]
    assert state_of_this_process() == before


def test_what_training_raises_is_raised_and_the_process_is_left_as_it_was(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = state_of_this_process()

    def broken(*arguments: object) -> torch.Tensor:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(Trainer, "take_step", broken)
    with pytest.raises(RuntimeError, match="out of memory"):
        bench(tiny("bn", **{"system.threads": 2}))
    assert state_of_this_process() == before


def test_a_run_trains_to_the_same_bits_after_a_bench(tmp_path: Path) -> None:
    weights = []
    for folder in ("before", "after"):
        path = execute(asked("bn", **{"system.runs_dir": str(tmp_path / folder)})).path
        weights.append(torch.load(path / "checkpoint.pt", weights_only=True)["model"])
        bench(tiny("bn"), tiny("gn", "norm.num_groups=2"), rounds=1)
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())


def test_numbers_of_a_row_are_numbers() -> None:
    (row,) = bench(tiny(), rounds=1)
    assert all(isinstance(row[name], int | float) for name in NUMBERS)
