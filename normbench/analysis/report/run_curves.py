"""The curves of each run as small SVG drawings, light enough for hundreds on a page."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from normbench.analysis.study import Study

WIDTH, HEIGHT = 240, 72  # units of the drawing, not pixels
MOST_POINTS = 100
Values = npt.NDArray[np.float64]


@dataclass(frozen=True)
class RunCurves:
    """The lines of a run as SVG path data, and the ends of two lines.

    loss: of logged steps. train, test: the primary metric by epoch.
    """

    loss: str
    loss_range: str
    train: str
    test: str
    test_range: str


def run_curves(study: Study) -> dict[str, RunCurves]:
    """The curves of every run with epochs: all metrics on the same scale, each loss on another.

    The scale of metrics begins at 0 or below, so that heights of different runs compare.
    """
    train, test = f"train_{study.primary.name}", study.test_column
    losses = _by_run(study.steps, "loss")
    of_test, of_train = _by_run(study.metrics, test), _by_run(study.metrics, train)
    everything = [0.0, *np.concatenate([*of_test.values(), *of_train.values(), [0.0]])]
    low, high = float(np.nanmin(everything)), float(np.nanmax(everything))
    found = {}
    for run, values in of_test.items():
        loss = losses.get(run, np.array([]))
        known = loss[np.isfinite(loss)]
        found[run] = RunCurves(
            path(loss, known.min(initial=0), known.max(initial=1)),
            f"{known[0]:.2f} to {known[-1]:.2f}" if len(known) else "",
            path(of_train[run], low, high),
            path(values, low, high),
            f"{study.primary.show(values[0])} to {study.primary.show(values[-1])}",
        )
    return found


def path(values: Values, low: float, high: float) -> str:
    """SVG path data of a line through the values, left to right; at most 100 points, evenly chosen.

    Infinite values and nan are left out; without any number the path is empty.
    """
    places = np.linspace(0, len(values) - 1, min(len(values), MOST_POINTS)).astype(int)
    chosen = values[places]
    x = np.linspace(0, WIDTH, len(chosen)) if len(chosen) > 1 else np.full(len(chosen), WIDTH / 2)
    y = HEIGHT - HEIGHT * (chosen - low) / ((high - low) or 1)
    known = np.isfinite(y)
    # Python's numbers are written several times as fast as numpy's.
    points = zip(x[known].tolist(), y[known].tolist(), strict=True)
    pairs = [f"{a:.0f},{b:.1f}" for a, b in points]
    if len(pairs) == 1:
        pairs *= 2  # a line to itself is a dot where line caps are round, and nothing else is
    return f"M{' '.join(pairs)}" if pairs else ""


def _by_run(table: pd.DataFrame, column: str) -> dict[str, Values]:
    if table.empty:
        return {}
    runs = table.groupby("run", sort=False)[column]
    return {str(run): values.to_numpy(float) for run, values in runs}
