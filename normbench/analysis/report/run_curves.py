"""Each run's own curves as small SVG drawings, light enough for hundreds on one page."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from normbench.analysis.frames import Frames

WIDTH, HEIGHT = 240, 72  # units of the drawing, not pixels
MOST_POINTS = 100
Values = npt.NDArray[np.float64]


@dataclass(frozen=True)
class RunCurves:
    """The lines of one run as SVG path data: losses of logged steps, accuracies by epoch; and what their ends are."""

    loss: str
    loss_range: str
    train_accuracy: str
    test_accuracy: str
    test_range: str


def run_curves(frames: Frames) -> dict[str, RunCurves]:
    """The curves of every run that has rows; accuracies on one scale for all runs, losses each on its own."""
    steps = frames.steps.groupby("run", sort=False).indices if len(frames.steps) else {}
    losses = frames.steps["loss"].to_numpy(float)
    accuracies = {
        name: frames.metrics[name].to_numpy(float) for name in ("train_accuracy", "test_accuracy")
    }
    highest = max((np.nanmax(column) for column in accuracies.values() if len(column)), default=1.0)
    found = {}
    for run, rows in (
        frames.metrics.groupby("run", sort=False).indices if len(frames.metrics) else {}
    ).items():
        loss = losses[steps[run]] if run in steps else np.array([])
        known = loss[np.isfinite(loss)]
        found[str(run)] = RunCurves(
            path(loss, known.min(initial=0), known.max(initial=1)),
            f"{known[0]:.2f} to {known[-1]:.2f}" if len(known) else "",
            path(accuracies["train_accuracy"][rows], 0, highest),
            path(accuracies["test_accuracy"][rows], 0, highest),
            f"{accuracies['test_accuracy'][rows[0]]:.3f} to {accuracies['test_accuracy'][rows[-1]]:.3f}",
        )
    return found


def path(values: Values, low: float, high: float) -> str:
    """SVG path data of a line through the values from left to right; at most 100 points, evenly chosen."""
    chosen = values[np.linspace(0, len(values) - 1, min(len(values), MOST_POINTS)).astype(int)]
    x = np.linspace(0, WIDTH, len(chosen)) if len(chosen) > 1 else np.full(len(chosen), WIDTH / 2)
    y = HEIGHT - HEIGHT * (chosen - low) / ((high - low) or 1)
    known = np.isfinite(y)
    pairs = [f"{a:.0f},{b:.1f}" for a, b in zip(x[known], y[known], strict=True)]
    return f"M{' '.join(pairs * 2 if len(pairs) == 1 else pairs)}" if pairs else ""
