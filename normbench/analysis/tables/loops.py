"""Table of training loops: the time of a step, and the speed relative to the tutorial's loop."""

from __future__ import annotations

import pandas as pd

from normbench.analysis.captions import machine, over_processes
from normbench.analysis.stats import Ratio, ratio_over_processes
from normbench.analysis.tables.table import RATIO, Table, times

REFERENCE = "tutorial"
NOTE = (
    "Median of {rounds} rounds, in turns; speed: the tutorial's step over the loop's, median of "
    "the rounds' ratios, {interval}. {machine}."
)


def loops_table(rounds: pd.DataFrame) -> Table:
    """A row for each loop at each batch size and norm."""
    data = speeds(rounds)
    shown = data[["batch_size", "norm", "loop"]].rename(columns={"batch_size": "batch size"})
    shown["ms per step"] = [f"{1e3 * seconds:.4g}" for seconds in data["seconds"]]
    shown["speed"] = [
        times(Ratio(*row)) for row in data[[*RATIO, "rounds", "processes"]].to_numpy()
    ]
    return Table("Training loops", rounds, shown, note(data, rounds))


def speeds(rounds: pd.DataFrame) -> pd.DataFrame:
    """batch_size, norm, loop; median seconds of a step; RATIO of the tutorial's to it; how many.

    rounds: batch_size, norm, loop, process, round, seconds; the tutorial's loop among them.
    """
    rows = []
    for (batch_size, norm), group in rounds.groupby(["batch_size", "norm"], sort=False):
        seconds = group.pivot(index=["process", "round"], columns="loop", values="seconds")
        for loop in group["loop"].unique():
            ratio = ratio_over_processes(dict(seconds[REFERENCE]), dict(seconds[loop]))
            assert ratio is not None, "they have all rounds in common"
            of_loop = ratio.value, ratio.low, ratio.high, ratio.n, ratio.processes
            rows.append((batch_size, norm, loop, seconds[loop].median(), *of_loop))
    columns = ["batch_size", "norm", "loop", "seconds", *RATIO, "rounds", "processes"]
    return pd.DataFrame(rows, columns=columns)


def note(data: pd.DataFrame, rounds: pd.DataFrame) -> str:
    """How the speeds were measured, and on which machine."""
    interval = over_processes(data["processes"])
    return NOTE.format(rounds=data["rounds"].max(), interval=interval, machine=machine(rounds))
