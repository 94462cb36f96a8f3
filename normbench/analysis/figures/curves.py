"""What happened in the course of training: losses by step, losses and accuracies by epoch."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from normbench.analysis.figures.layout import basis, by_line, by_panel, finished, rows_of
from normbench.analysis.figures.style import PAGE, Size, add_caption, add_labels, drawing, is_first, panels, styles
from normbench.analysis.frames import Frames
from normbench.errors import NormbenchError

Facet = tuple[str, pd.DataFrame]
MARKED = 6  # markers on a long line


def loss(frames: Frames, size: Size = PAGE, smooth: int = 1) -> Figure:
    """Training loss of logged steps against the step, all norms in one panel: the mean over their seeds.

    smooth: logged steps in a centred running mean, the raw line staying behind it, faint; 1 for the raw line alone.
    Raises NormbenchError where no step was logged, and for a width below 1.
    """
    if smooth < 1:
        raise NormbenchError(f"--smooth {smooth}: give the number of logged steps to average over, 1 for none")
    frames = finished(frames)
    if frames.steps.empty:
        raise NormbenchError("no steps.csv: these runs logged no steps")
    with drawing(size):
        facets = by_panel(frames.runs)
        figure, axes = panels(size, len(facets))
        colours = styles(list(by_line(frames.runs)))
        for ax, (title, runs) in zip(axes, facets, strict=True):
            for place, (label, ids) in enumerate(by_line(runs).items()):
                _loss_line(ax, rows_of(frames.steps, ids), label, colours[label], smooth, place)
            _finish(ax, title, "step", "training loss (nats)" if is_first(ax) else "")
        add_labels(figure, axes, size)
        how = f"Bold: running mean of {smooth} logged steps; faint: each." if smooth > 1 else "Single logged steps."
        add_caption(figure, basis(frames, how, "Mean over seeds." if frames.runs["seed"].nunique() > 1 else ""), size)
    return figure


def accuracy(frames: Frames, size: Size = PAGE) -> Figure:
    """Loss and accuracy by epoch, in training (dashed) and on the test set (solid), with a band over seeds."""
    frames = finished(frames)
    with drawing(size):
        facets = by_panel(frames.runs)
        columns = min(len(facets), size.columns)
        order = [(*facet, what) for row in _rows(facets, columns) for what in ("loss", "accuracy") for facet in row]
        figure, axes = panels(size, len(order), columns=min(2, size.columns) if columns == 1 else columns, sharey=False)
        colours = styles(list(by_line(frames.runs)))
        for ax, (title, runs, what) in zip(axes, order, strict=True):
            for label, ids in by_line(runs).items():
                of_line = rows_of(frames.metrics, ids)
                _epoch_line(ax, of_line, f"train_{what}", colours[label], "--", "_")
                _epoch_line(ax, of_line, f"test_{what}", colours[label], "-", label)
            _finish(ax, title, "epoch", "loss (nats)" if what == "loss" else "accuracy (%)")
            ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        add_labels(figure, axes, size)
        band = "Lines: mean over seeds; bands: lowest to highest." if frames.runs["seed"].nunique() > 1 else ""
        add_caption(figure, basis(frames, "Solid: test set; dashed: training, as the epoch went.", band), size)
    return figure


def _rows(facets: Sequence[Facet], columns: int) -> list[Sequence[Facet]]:
    return [facets[i : i + columns] for i in range(0, len(facets), columns)]


def _loss_line(ax: Axes, steps: pd.DataFrame, label: str, style: tuple[str, str], smooth: int, place: int) -> None:
    """One norm; markers stand apart from those of the others, and a line too short to be smoothed stays as it is."""
    colour, marker = style
    raw = steps.groupby("step")["loss"].mean()
    width = min(smooth, 1 + len(raw) // 8)
    shown = raw.rolling(width, center=True, min_periods=1).mean()
    if width > 1:
        ax.plot(raw.index, raw, color=colour, alpha=0.3, linewidth=0.7, label="_")
    every = max(1, len(shown) // MARKED)
    ax.plot(shown.index, shown, color=colour, marker=marker, markevery=(every * place // 5 % every, every), label=label)


def _epoch_line(ax: Axes, metrics: pd.DataFrame, name: str, style: tuple[str, str], line: str, label: str) -> None:
    colour, marker = style
    factor = 100 if name.endswith("accuracy") else 1
    over = (factor * metrics.set_index("epoch")[name]).groupby("epoch").agg(["mean", "min", "max", "size"])
    every = max(1, len(over) // MARKED)
    ax.plot(over.index, over["mean"], line, color=colour, marker=marker, markevery=every, label=label)
    if (over["size"] > 1).any():
        ax.fill_between(over.index, over["min"], over["max"], color=colour, alpha=0.15, linewidth=0)


def _finish(ax: Axes, title: str, x: str, y: str) -> None:
    ax.set_title(title, loc="left")
    ax.set_xlabel(x)
    ax.set_ylabel(y)
