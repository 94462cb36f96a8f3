"""The table of the time to a target: the first epoch that reaches it, and seeds that never do."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from statistics import median
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kit.runs import REGRESSION, in_study, one_run

from normbench.analysis.tables.target import target_table
from normbench.errors import NormbenchError
from normbench.runs.files import RunFiles

Course = Sequence[float]


def run(
    norm: str, course: Course, seed: int = 0, *, seconds: float = 10.0, **values: Any
) -> RunFiles:
    """A run with this test accuracy, or squared error, after each epoch."""
    each = [seconds] * len(course)
    made = one_run(norm, values.pop("batch_size", 64), seed, course[-1], seconds=each, **values)
    column = "test_squared_error" if values.get("task") is REGRESSION else "test_accuracy"
    metrics = {**made.metrics, column: np.array(course)} if made.metrics else {}
    return replace(made, metrics=metrics)


def rows(target: float | None, *runs: RunFiles) -> dict[str, tuple[str, ...]]:
    """The shown cells after the target, by norm."""
    shown = target_table(in_study(*runs), target).shown
    after = [*shown.columns][[*shown.columns].index("target") + 1 :]
    return {row["norm"]: tuple(row[name] for name in after) for row in shown.to_dict("records")}


def test_a_run_reaches_a_target_in_its_first_such_epoch_though_it_falls_later() -> None:
    found = rows(50, run("bn", [0.2, 0.5, 0.3, 0.9]), run("gn", [0.6, 0.1, 0.1, 0.1]))
    assert found == {"bn": ("1 of 1", "2", "20.0 s"), "gn": ("1 of 1", "1", "10.0 s")}


def test_a_smaller_error_reaches_a_target_from_above() -> None:
    runs = [
        run("bn", [0.9, 0.4, 0.2], task=REGRESSION),
        run("gn", [0.9, 0.8, 0.7], task=REGRESSION),
    ]
    table = target_table(in_study(*runs), 0.4)
    assert table.shown["reached"].tolist() == ["1 of 1", "0 of 1"]
    assert "at most that test squared error" in table.caption
    assert target_table(in_study(*runs)).data["target"].tolist() == [0.7, 0.7]
    assert "the highest final mean of a norm" in target_table(in_study(*runs)).caption


def test_censored_seeds_are_counted_and_later_than_any_other() -> None:
    never = [0.1, 0.2]
    two_of_three = [run("bn", [0.6, 0.6]), run("bn", [0.1, 0.6], 1), run("bn", never, 2)]
    half = [run("gn", [0.6, 0.6]), run("gn", never, 1)]
    found = rows(50, *two_of_three, *half)
    assert found["bn"] == ("2 of 3", "2", "20.0 s")
    assert found["gn"] == ("1 of 2", "not reached", "not reached")
    assert "half of the seeds or more" in target_table(in_study(*half), 50).caption


def test_a_seed_that_diverged_or_failed_has_not_reached_it_and_one_that_runs_does_not_count() -> (
    None
):
    runs = [run("bn", [0.6, 0.7]), run("bn", [0.6, 0.7], 1, state="diverged")]
    runs += [
        run("bn", [0.6, 0.7], 2, state="failed"),
        run("bn", [0.6, 0.7], 3, state="interrupted"),
    ]
    assert rows(50, *runs)["bn"][:2] == ("1 of 3", "not reached")


def test_by_default_the_target_is_the_worst_final_mean_at_each_batch_size() -> None:
    runs = [run("bn", [0.5, 0.9]), run("gn", [0.1, 0.4]), run("gn", [0.1, 0.6], 1)]
    runs += [run("bn", [0.1, 0.2], batch_size=8), run("gn", [0.2, 0.3], batch_size=8)]
    data = target_table(in_study(*runs)).data
    target = data.groupby("batch_size")["target"].first()
    assert target.to_dict() == pytest.approx({8: 0.2, 64: 0.5})
    assert (
        "the lowest final mean of a norm at each batch size"
        in target_table(in_study(*runs)).caption
    )


def test_the_mean_of_equal_seeds_is_reached_by_each() -> None:
    course = [0.05, 0.1]
    for seeds in range(1, 12):
        runs = [run(norm, course, seed) for norm in ("bn", "gn") for seed in range(seeds)]
        assert rows(None, *runs)["bn"][0] == f"{seeds} of {seeds}"


@pytest.mark.parametrize("concurrent", [1, 2])
def test_seconds_are_given_for_runs_that_had_the_machine_to_themselves(concurrent: int) -> None:
    shared = run("gn", [0.6], concurrent_runs=concurrent)
    found = rows(50, run("bn", [0.6]), shared)
    assert found["bn"][-1] == "10.0 s"
    assert found["gn"][-1] == ("10.0 s" if concurrent == 1 else "not measured")
    alone = target_table(in_study(shared), 50)
    assert ("seconds" in alone.shown) is (concurrent == 1)
    assert ("Seconds are not given, since" in alone.caption) is (concurrent == 2)


COURSES = st.lists(st.integers(0, 8).map(lambda value: value / 8), min_size=4, max_size=4)
STATES = st.sampled_from(["done", "done", "done", "diverged"])


@st.composite
def some_runs(draw: st.DrawFn) -> list[RunFiles]:
    found = [run("bn", draw(COURSES))]
    for norm in ("bn", "gn", "ln"):
        for seed in range(1, 1 + draw(st.integers(0, 4))):
            found.append(run(norm, draw(COURSES), seed, state=draw(STATES)))
    return found


def slowly(runs: Sequence[RunFiles], target: float) -> dict[str, tuple[int, int, float]]:
    """Seeds, those that reach the target, and the median epoch by norm, by sorting."""
    epochs: dict[str, list[float]] = {}
    for one in runs:
        course = one.metrics.get("test_accuracy", []) if one.status["state"] == "done" else []
        reaching = [epoch for epoch, value in enumerate(course, 1) if value >= target]
        first = min(reaching, default=math.inf)
        epochs.setdefault(one.config["norm"]["name"], []).append(first)
    return {
        norm: (len(found), sum(map(math.isfinite, found)), median(found))
        for norm, found in epochs.items()
    }


def by_norm(data: pd.DataFrame) -> dict[str, tuple[int, int, float]]:
    columns = ["norm", "n", "reached", "epochs"]
    return {norm: tuple(rest) for norm, *rest in data[columns].itertuples(index=False)}


@settings(max_examples=30)
@given(some_runs(), st.integers(0, 8).map(lambda value: value / 8))
def test_seeds_and_epochs_are_those_of_a_slow_oracle(runs: list[RunFiles], target: float) -> None:
    data = target_table(in_study(*runs), 100 * target).data
    assert by_norm(data) == slowly(runs, target)


@settings(max_examples=20)
@given(some_runs(), st.randoms(use_true_random=False), st.sampled_from([0.5, 2.0, 8.0]))
def test_scaled_times_scale_seconds_and_nothing_else(
    runs: list[RunFiles], random: Any, factor: float
) -> None:
    before = target_table(in_study(*runs), 50).data
    scaled = []
    for one in runs:
        metrics = {**one.metrics}
        if metrics:
            metrics["train_seconds"] = factor * metrics["train_seconds"]
        scaled.append(replace(one, metrics=metrics))
    random.shuffle(scaled)
    after = target_table(in_study(*scaled), 50).data
    assert by_norm(after) == by_norm(before)
    seconds = before.set_index("norm")["seconds"] * factor
    assert after.set_index("norm")["seconds"].to_dict() == pytest.approx(seconds.to_dict())


@settings(max_examples=15)
@given(some_runs())
def test_an_unrelated_norm_changes_no_row_at_a_given_target(runs: list[RunFiles]) -> None:
    before = by_norm(target_table(in_study(*runs), 50).data)
    after = by_norm(target_table(in_study(*runs, run("in", [0.0, 0.1])), 50).data)
    assert {norm: after[norm] for norm in before} == before


@pytest.mark.parametrize("target", [-1, 100.5, math.nan, math.inf])
def test_a_target_out_of_the_metric_s_range_is_refused(target: float) -> None:
    refusal = rf"--target {target:g}: accuracy \(%\) is a number from 0 to 100"
    with pytest.raises(NormbenchError, match=refusal):
        target_table(in_study(run("bn", [0.5])), target)


def test_without_a_finished_run_there_is_no_table() -> None:
    with pytest.raises(NormbenchError, match="no target: no run has finished"):
        target_table(in_study(run("bn", [0.5], state="diverged")))
