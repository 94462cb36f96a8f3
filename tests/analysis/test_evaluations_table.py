"""BatchNorm's evaluations in a table: each from its own column, and nothing invented for
norms without."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from kit.runs import in_study, one_run

from normbench.analysis.outputs import outputs
from normbench.analysis.stats import mean_interval
from normbench.analysis.tables.evaluations import SOURCES, WEIGHED, evaluations_table
from normbench.runs.files import RunFiles


def evaluated(run: RunFiles, precise: float, batch: float) -> RunFiles:
    more = {"test_accuracy_precise": np.array([precise]), "test_accuracy_batch": np.array([batch])}
    return dataclasses.replace(run, metrics={**run.metrics, **more})


def measured() -> list[RunFiles]:
    asked = {"train.bn_evaluations": True}
    runs = [
        evaluated(one_run("bn", 1, seed, 0.1, **asked), 0.3 + seed / 100, 0.4) for seed in (0, 1, 2)
    ]
    runs += [
        evaluated(one_run("bn", 64, 0, 0.5, **asked), 0.51, 0.49),
        one_run("gn", 64, 0, 0.45, **asked),
    ]
    return [
        *runs,
        one_run("bn", 2, 0, state="diverged", reason="the loss of step 3 is nan", **asked),
    ]


def test_each_evaluation_has_a_column_with_its_interval() -> None:
    table = evaluations_table(in_study(*measured()))
    rows = table.shown.set_index(["norm", "batch size"])
    half = 100 * mean_interval([0.3, 0.31, 0.32]).half_width
    assert rows.loc[("bn", "1")].tolist() == [
        "10.0 ± 0.0 %",
        f"31.0 ± {half:.1f} %",
        "40.0 ± 0.0 %",
    ]
    assert rows.loc[("bn", "64")].tolist() == ["50.0 %", "51.0 %", "49.0 %"]
    assert rows.loc[("bn", "2")].tolist() == ["1 diverged"] * 3
    assert len(table.notes) == 1


def test_a_norm_without_running_statistics_has_one_evaluation_only() -> None:
    table = evaluations_table(in_study(*measured()))
    row = table.shown.set_index(["norm", "batch size"]).loc[("gn", "64")]
    assert row.tolist() == ["45.0 %", "keeps none", "keeps none"]


def test_a_run_that_was_not_asked_is_not_said_to_keep_none() -> None:
    table = evaluations_table(in_study(*measured(), one_run("ln", 64, 0, 0.4)))
    row = table.shown.set_index(["norm", "batch size"]).loc[("ln", "64")]
    assert row.tolist() == ["40.0 %", "not measured", "not measured"]


def test_the_data_are_unrounded_with_a_row_for_each_evaluation() -> None:
    data = evaluations_table(in_study(*measured())).data.set_index(
        ["norm", "batch_size", "statistics"]
    )
    assert set(data.index.get_level_values("statistics")) == set(SOURCES.values())
    assert data.loc[("bn", 1, "whole training set"), "test_accuracy"] == pytest.approx(0.31)
    assert data.loc[("bn", 1, "whole training set"), "n"] == 3


def test_example_weighing_has_a_column_where_a_run_has_it_and_a_dash_for_runs_from_before() -> None:
    newer = evaluated(one_run("bn", 8, 0, 0.5, **{"train.bn_evaluations": True}), 0.51, 0.49)
    more = {"test_accuracy_weighed": np.array([0.52]), "example_weight": np.array([0.01])}
    newer = dataclasses.replace(newer, metrics={**newer.metrics, **more})
    old = evaluations_table(in_study(*measured()))
    assert not {*WEIGHED.values()} & {*old.shown}
    assert "mixed" not in old.caption
    both = evaluations_table(in_study(*measured(), newer))
    shown = both.shown.set_index(["norm", "batch size"])["running averages and the image"]
    assert shown.loc[("bn", "8")] == "52.0 %"
    assert shown.loc[("bn", "64")] == shown.loc[("gn", "64")] == "-"
    assert "mixed" in both.caption


def test_a_report_has_the_table_where_runs_were_evaluated_so() -> None:
    def tables(*runs: RunFiles) -> list[str]:
        return [output.name for output in outputs("table", in_study(*runs))]

    assert "evaluations" in tables(*measured())
    assert "evaluations" not in tables(one_run("bn"), one_run("gn"))
