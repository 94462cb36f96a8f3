"""The table and figure of training loops, on constructed rounds."""

from __future__ import annotations

import pandas as pd
import pytest

from normbench.analysis.figures.costs import loops_figure
from normbench.analysis.tables.loops import loops_table, speeds


def rounds(*, processes: int) -> pd.DataFrame:
    """A machine whose speed drifts from round to round; `quick` always takes half the time."""
    rows = []
    for process in range(1, processes + 1):
        for number in range(3):
            drift = process + number
            rows.append((64, "bn", "tutorial", process, number, 0.2 * drift))
            rows.append((64, "bn", "quick", process, number, 0.1 * drift))
    columns = ["batch_size", "norm", "loop", "process", "round", "seconds"]
    where = {"device": "a processor", "threads": 2, "torch": "2", "python": "3"}
    return pd.DataFrame(rows, columns=columns).assign(**where, commit="c", dirty=False)


def test_a_speed_is_the_tutorial_s_time_over_the_loop_s_in_the_same_rounds() -> None:
    found = speeds(rounds(processes=5)).set_index("loop")
    assert found.loc["tutorial", "relative_time"] == pytest.approx(1)
    quick = found.loc["quick"]
    assert list(quick[["relative_time", "relative_time_low", "relative_time_high"]]) == (
        pytest.approx([2, 2, 2])
    )
    assert (quick["rounds"], quick["processes"]) == (15, 5)
    assert quick["seconds"] == pytest.approx(0.1 * 4)


def test_few_processes_give_no_interval() -> None:
    table = loops_table(rounds(processes=2))
    assert list(table.shown["speed"]) == ["1.00x", "2.00x"]
    assert "without an interval" in table.caption


def test_the_figure_names_loops_and_their_speeds() -> None:
    figure = loops_figure(rounds(processes=5))
    (ax,) = figure.axes
    assert [label.get_text() for label in ax.get_yticklabels()] == ["tutorial", "quick"]
    assert {"1.00x", "2.00x"} <= {text.get_text() for text in ax.texts}
