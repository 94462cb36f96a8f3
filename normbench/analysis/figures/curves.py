"""What happened in the course of training: losses by step, losses and accuracies by epoch."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from normbench.analysis.figures.labels import add_labels
from normbench.analysis.figures.layout import (
    RowsOf,
    basis,
    by_line,
    by_panel,
    finished,
    link,
    prepared,
)
from normbench.analysis.figures.style import (
    PAGE,
    PAPER,
    Size,
    add_caption,
    drawing,
    is_first,
    panels,
    set_title,
)
from normbench.analysis.frames import Frames
from normbench.errors import NormbenchError

Facet = tuple[str, pd.DataFrame]
MARKED = 6  # markers on a long line
MOST_SMOOTHED = 9  # logged steps


def loss(frames: Frames, size: Size = PAGE, smooth: int | None = None) -> Figure:
    """Training loss of logged steps against the step, all norms in one panel: the mean over their seeds.

    smooth: logged steps in a centred running mean, the raw line staying behind it, faint; an odd number, 1 for the raw
    line alone, None for up to 9 as far as a line is long enough. Raises NormbenchError where no step was logged, and
    for another number.
    """
    if smooth is not None and (smooth < 1 or smooth % 2 == 0):
        raise NormbenchError(
            f"--smooth {smooth}: give the odd number of logged steps to average over, 1 for none"
        )
    frames, colours = prepared(frames)
    frames = finished(frames)
    if frames.steps.empty:
        raise NormbenchError("no steps.csv: these runs logged no steps")
    with drawing(size):
        facets, rows_of, widths = by_panel(frames.runs), RowsOf(frames.steps), []
        figure, axes = panels(size, len(facets))
        for ax, (title, runs) in zip(axes, facets, strict=True):
            for place, (label, ids) in enumerate(by_line(runs).items()):
                mean = rows_of(ids).groupby("step")["loss"].mean()
                widths.append(_width(smooth, len(mean)))
                line = _loss_line(ax, mean, widths[-1], label, colours[label], place)
                line.set_url(link(runs, label))
            _finish(ax, title, "step", "training loss (nats)" if is_first(ax) else "")
        add_labels(figure, axes, size)
        over_seeds = "Mean over seeds." if frames.runs["seed"].nunique() > 1 else ""
        add_caption(figure, basis(frames, _how_smooth(widths), over_seeds), size)
    return figure


def accuracy(frames: Frames, size: Size = PAGE) -> Figure:
    """Loss and accuracy by epoch, in training (dashed) and on the test set (solid), with a band over seeds."""
    frames, colours = prepared(frames)
    frames = finished(frames)
    with drawing(size):
        facets, rows_of = by_panel(frames.runs), RowsOf(frames.metrics)
        columns = min(len(facets), size.columns)
        order = [
            (*facet, what)
            for row in _rows(facets, columns)
            for what in ("loss", "accuracy")
            for facet in row
        ]
        figure, axes = panels(
            size,
            len(order),
            columns=min(2, size.columns) if columns == 1 else columns,
            sharey=False,
        )
        for ax, (title, runs, what) in zip(axes, order, strict=True):
            for label, ids in by_line(runs).items():
                of_line = rows_of(ids)
                _epoch_line(ax, of_line, f"train_{what}", colours[label], "--", "_")
                _epoch_line(ax, of_line, f"test_{what}", colours[label], "-", label).set_url(
                    link(runs, label)
                )
            _finish(ax, title, "epoch", "loss (nats)" if what == "loss" else "accuracy (%)")
            ax.xaxis.set_major_locator(MaxNLocator(integer=True))
            if runs["epochs"].max() == 1:
                ax.set_xlim(0.5, 1.5)
        add_labels(figure, axes, size)
        band = (
            "Lines: mean over seeds; bands: lowest to highest."
            if frames.runs["seed"].nunique() > 1
            else ""
        )
        add_caption(
            figure,
            basis(frames, "Solid: test set; dashed: training, as the epoch went.", band),
            size,
        )
    return figure


def _rows(facets: Sequence[Facet], columns: int) -> list[Sequence[Facet]]:
    return [facets[i : i + columns] for i in range(0, len(facets), columns)]


def _width(smooth: int | None, length: int) -> int:
    """The number of logged steps to average over, odd; on a short line as many as leave it more than its ends."""
    return min(MOST_SMOOTHED, 1 + length // 8 // 2 * 2) if smooth is None else smooth


def _how_smooth(widths: Sequence[int]) -> str:
    if max(widths) == 1:
        return "Single logged steps."
    span = f"{max(widths)}" if min(widths) == max(widths) else f"up to {max(widths)}"
    return f"Bold: running mean of {span} logged steps; faint: each."


def _loss_line(
    ax: Axes, raw: pd.Series, width: int, label: str, style: tuple[str, str], place: int
) -> Line2D:
    """One norm, its mean over seeds by step; markers stand apart from those of the others."""
    colour, marker = style
    shown = raw.rolling(width, center=True, min_periods=1).mean()
    if width > 1:
        ax.plot(raw.index, raw, color=colour, alpha=0.3, linewidth=0.7, label="_")
    every = max(1, len(shown) // MARKED)
    markers = (every * place // 5 % every, every)
    return ax.plot(shown.index, shown, color=colour, marker=marker, markevery=markers, label=label)[
        0
    ]


def _epoch_line(
    ax: Axes, metrics: pd.DataFrame, name: str, style: tuple[str, str], line: str, label: str
) -> Line2D:
    colour, marker = style
    factor = 100 if name.endswith("accuracy") else 1
    over = (
        (factor * metrics.set_index("epoch")[name])
        .groupby("epoch")
        .agg(["mean", "min", "max", "size"])
    )
    every = max(1, len(over) // MARKED)
    if (over["size"] > 1).any():
        ax.fill_between(over.index, over["min"], over["max"], color=colour, alpha=0.15, linewidth=0)
    (drawn,) = ax.plot(
        over.index, over["mean"], line, color=colour, marker=marker, markevery=every, label=label
    )
    if line == "--":
        drawn.set_markerfacecolor(PAPER)
    return drawn


def _finish(ax: Axes, title: str, x: str, y: str) -> None:
    set_title(ax, title)
    ax.set_xlabel(x)
    ax.set_ylabel(y)
