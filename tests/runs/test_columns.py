"""The columns of metrics.csv and steps.csv: which there must be, and the range of their values."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from kit.runs import CLASSIFICATION, REGRESSION, seal, write_run

from normbench.analysis.loading import load_study
from normbench.runs.columns import STEP_COLUMNS, Columns, check_metrics, check_steps, read_columns
from normbench.runs.files import read_run
from normbench.runs.listing import list_runs

Change = Callable[[Columns], object]
CONFIG = {"data": {"val_fraction": 0.0}}


def test_figures_of_the_end_are_unknown_before_and_have_ranges(columns: Columns) -> None:
    columns["test_accuracy_hue"] = np.array([np.nan, 0.3])
    columns["feature_shift_hue"] = np.array([np.nan, 1.7])
    check_metrics(columns, CLASSIFICATION, CONFIG)
    columns["feature_shift_hue"][1] = 2.1
    with pytest.raises(ValueError, match=r"has feature_shift_hue 2\.1, out of its range"):
        check_metrics(columns, CLASSIFICATION, CONFIG)


@pytest.fixture
def columns(tmp_path: Path) -> Columns:
    """The columns of a run of two epochs."""
    return read_columns((write_run(tmp_path) / "metrics.csv").read_text())


def renamed(columns: Columns) -> None:
    columns["test_acuracy"] = columns.pop("test_accuracy")


def put(name: str, *values: float) -> Change:
    """Puts values in the place of a column's."""

    def change(columns: Columns) -> None:
        columns[name] = np.array(values, dtype=columns[name].dtype)

    return change


CHANGES = [
    (renamed, "has no column test_accuracy"),
    (lambda columns: columns.pop("train_seconds"), "has no column train_seconds"),
    (lambda columns: columns.update(val_x=columns["lr"]), "has a column val_x of which nothing"),
    (put("test_accuracy", 0.5, 4.12), "has test_accuracy 4.12, out of its range"),
    (put("test_accuracy", -0.5, 0.5), "has test_accuracy -0.5, out of its range"),
    (put("train_accuracy", 0.5, np.nan), "has train_accuracy nan, out of its range"),
    (put("test_loss", 1.0, -1.0), "has test_loss -1, out of its range"),
    (put("test_loss", 1.0, np.inf), "has test_loss inf, out of its range"),
    (put("train_seconds", -1.0, 1.0), "has train_seconds -1, out of its range"),
    (put("lr", 0.1, -0.1), "has lr -0.1, out of its range"),
    (put("epoch", 1, 3), "has epochs or steps that do not follow each other"),
    (put("steps", 10, 10), "has epochs or steps that do not follow each other"),
]


@pytest.mark.parametrize(("change", "reason"), CHANGES)
def test_a_strange_column_and_an_odd_value_are_named(
    columns: Columns, change: Change, reason: str
) -> None:
    check_metrics(columns, CLASSIFICATION, CONFIG)
    change(columns)
    with pytest.raises(ValueError, match=reason):
        check_metrics(columns, CLASSIFICATION, CONFIG)


def test_an_unbounded_metric_may_have_any_finite_value(tmp_path: Path) -> None:
    path = write_run(tmp_path, "normresnet-bn-b64-s0", (0.5, 400.0), task=REGRESSION)
    assert read_run(path).damaged == {}


def test_held_out_images_need_their_columns(columns: Columns) -> None:
    held_out = {"data": {"val_fraction": 0.1}}
    with pytest.raises(ValueError, match="has no column val_loss"):
        check_metrics(columns, CLASSIFICATION, held_out)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("step,epoch,loss,rate\n0,1,1.0,0.1\n", "has the columns step, epoch, loss, rate, not"),
        ("step,epoch,loss,lr\n5,1,1.0,0.1\n5,1,1.0,0.1\n", "do not follow each other"),
        ("step,epoch,loss,lr\n0,2,1.0,0.1\n5,1,1.0,0.1\n", "do not follow each other"),
        ("step,epoch,loss,lr\n0,1,1.0,-0.1\n", "has lr -0.1, out of its range"),
    ],
)
def test_strange_steps_are_named(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        check_steps(read_columns(text))


def test_the_loss_of_a_step_that_diverged_may_be_no_number() -> None:
    check_steps(read_columns("step,epoch,loss,lr\n0,1,1.0,0.1\n3,1,nan,0.1\n7,1,inf,0.1\n"))
    assert STEP_COLUMNS == ("step", "epoch", "loss", "lr")


@pytest.mark.parametrize("state", ["done", "interrupted"])
def test_the_list_and_the_tables_name_what_is_odd_whatever_the_seal_says(
    tmp_path: Path, state: str
) -> None:
    path = write_run(tmp_path, state=state)
    write_run(tmp_path, "normresnet-gn-b64-s0")
    text = (path / "metrics.csv").read_text()
    (path / "metrics.csv").write_text(text.replace("0.75", "4.12"))
    if state == "done":
        seal(path)
    (row,) = list_runs(tmp_path, ["norm=bn"]).rows
    reason = "metrics.csv has train_accuracy 4.12, out of its range"
    assert (row["status"], row["reason"]) == ("damaged", reason)
    assert load_study([tmp_path]).notes == (f"left out: {path}: {reason}",)
