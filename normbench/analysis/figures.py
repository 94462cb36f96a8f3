"""Figures of runs. Functions return a Figure and leave matplotlib's global state alone; `save` writes SVG and PNG."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from normbench.analysis.frames import Frames
from normbench.atomic import write_bytes

# Okabe and Ito's colours, which colour-blind readers tell apart, and markers for print in grey: one pair per norm, the
# same in every figure.
STYLES = {
    "bn": ("#0072B2", "o"),
    "ln": ("#E69F00", "s"),
    "in": ("#009E73", "^"),
    "gn": ("#D55E00", "D"),
    "none": ("#555555", "x"),
}
OTHERS = [("#CC79A7", "v"), ("#56B4E9", "P"), ("#000000", "*")]
RC: Any = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "svg.hashsalt": "normbench",
    "svg.fonttype": "none",
}


def loss_curves(frames: Frames) -> Figure:
    """Training loss against step and test accuracy against epoch, one line per norm (the mean over its runs).

    Faint lines are the losses of single logged steps, markers the mean over each epoch, in the middle of that epoch.
    """
    with mpl.rc_context(RC):
        figure = Figure(figsize=(7.2, 3.4), layout="constrained")
        FigureCanvasAgg(figure)
        loss, accuracy = figure.subplots(1, 2)
        for norm, (color, marker) in styles(frames.runs["norm"].unique().tolist()).items():
            steps = _of(frames.steps, norm).groupby("step")["loss"].mean()
            epochs = _of(frames.metrics, norm).groupby("epoch")[["steps", "train_loss", "test_accuracy"]].mean()
            middles = epochs["steps"] - epochs["steps"].diff().fillna(epochs["steps"]) / 2
            loss.plot(steps.index, steps, color=color, alpha=0.35, linewidth=0.8)
            loss.plot(middles, epochs["train_loss"], color=color, marker=marker, markersize=4, label=norm)
            accuracy.plot(epochs.index, 100 * epochs["test_accuracy"], color=color, marker=marker, markersize=4)
        _label(loss, "step", "training loss (cross-entropy)")
        _label(accuracy, "epoch", "test accuracy (%)")
        accuracy.xaxis.get_major_locator().set_params(integer=True)
        loss.legend(frameon=False)
        figure.suptitle(_title(frames), fontsize=8)
    return figure


def styles(norms: list[str]) -> dict[str, tuple[str, str]]:
    """Colour and marker of each norm: fixed for the known ones, the next free pair for others."""
    free = iter(OTHERS * len(norms))
    return {norm: STYLES.get(norm) or next(free) for norm in norms}


def save(figure: Figure, path: Path) -> list[Path]:
    """Writes the figure as `path` with the endings .svg and .png; the same figure gives the same bytes."""
    written = []
    for suffix, options in ((".svg", {"metadata": {"Date": None}}), (".png", {"dpi": 160})):
        buffer = io.BytesIO()
        with mpl.rc_context(RC):
            figure.savefig(buffer, format=suffix[1:], **options)
        write_bytes(path.with_suffix(suffix), buffer.getvalue())
        written.append(path.with_suffix(suffix))
    return written


def _of(table: pd.DataFrame, norm: str) -> pd.DataFrame:
    return table[table["norm"] == norm]


def _label(axes: Axes, x: str, y: str) -> None:
    axes.set_xlabel(x)
    axes.set_ylabel(y)


def _title(frames: Frames) -> str:
    """What the lines rest on: data, batch size, runs and precision."""
    runs = frames.runs[frames.runs["status"] == "done"]
    if runs.empty:
        return "no run finished"
    data, batch, precision = (
        " / ".join(str(value) for value in runs[name].unique()) for name in ("data", "batch_size", "precision")
    )
    per_norm = " to ".join(str(count) for count in sorted(set(runs.groupby("norm").size())))
    seeds = "1 run" if per_norm == "1" else f"mean of {per_norm} runs"
    return f"{data}, batch {batch}, {precision}, {seeds} per norm; markers: mean of an epoch, faint: single steps"
