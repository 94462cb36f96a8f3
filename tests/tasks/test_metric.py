"""A metric as data: how values are written, compared, and found in columns."""

from __future__ import annotations

import json
import math

import pytest
from kit.runs import ACCURACY, CLASSIFICATION, LOSS, REGRESSION, SQUARED_ERROR

from normbench.tasks.metric import Metric, TaskRecord, metric_of


def test_values_carry_their_unit_and_interval() -> None:
    assert ACCURACY.show(0.9132) == "91.3 %"
    assert ACCURACY.show(0.9132, 0.002) == "91.3 ± 0.2 %"
    assert ACCURACY.show_difference(0.008, 0.003) == "+0.8 ± 0.3 points"
    assert ACCURACY.finer().show(0.9132) == "91.32 %"
    assert LOSS.show_difference(-0.5) == "-0.500 nats"
    assert SQUARED_ERROR.show(0.25, math.nan) == "0.2500"
    assert (ACCURACY.label, SQUARED_ERROR.label) == ("accuracy (%)", "squared error")


def test_a_direction_says_which_value_is_better() -> None:
    assert ACCURACY.is_better(0.9, 0.8)
    assert SQUARED_ERROR.is_better(0.8, 0.9)
    assert not SQUARED_ERROR.is_better(0.8, 0.8)
    with pytest.raises(ValueError, match="better is larger or smaller, not 'more'"):
        Metric("loss", "nats", "more")  # type: ignore[arg-type]


@pytest.mark.parametrize("task", [CLASSIFICATION, REGRESSION])
def test_a_task_is_the_same_after_json(task: TaskRecord) -> None:
    assert TaskRecord.from_json(json.loads(json.dumps(task.to_json()))) == task


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"name": "x", "primary": "loss", "metrics": []},
        {"name": "x", "primary": "loss", "metrics": [{"name": "loss", "colour": "red"}]},
        {"name": "x", "primary": "loss", "metrics": 3},
        [],
    ],
)
def test_any_other_content_is_a_value_error(content: object) -> None:
    with pytest.raises(ValueError, match=r"not a (task|metric): "):
        TaskRecord.from_json(content)  # type: ignore[arg-type]


def test_the_metric_of_a_column_is_that_with_the_longest_fitting_name() -> None:
    rate = Metric("accuracy_rate", "", "larger")
    metrics = [ACCURACY, rate]
    assert metric_of("test_accuracy_precise", metrics) == ACCURACY
    assert metric_of("val_accuracy_rate", metrics) == rate
    for column in ("accuracy", "test_loss", "train_seconds", "testaccuracy"):
        assert metric_of(column, metrics) is None
