"""The final result of each norm, the best mean first: every seed, the mean, and its interval."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from normbench.analysis.figures import style
from normbench.analysis.figures.intervals import SEEDS, lengths, over_seeds
from normbench.analysis.figures.labels import IN_ROWS, LETTER, shortened
from normbench.analysis.figures.layout import add_basis, by_panel, link, prepared
from normbench.analysis.stats import Estimate, mean_interval
from normbench.analysis.study import Study
from normbench.analysis.tables.table import in_words
from normbench.tasks.metric import Metric

SORTED = "The best mean on top{where}; an order of means decides nothing."
NO_RESULT = "x at the left: no run finished."
FEW = 8  # norms, which have more room each
LINES_A_ROW, LINES_OF_FEW = 1.35, 2.0  # lines of text that the row of a norm is high
AROUND = 0.8  # inches of a panel for title and axis
CAPTION = 0.4  # inches
MARGIN = 0.04  # of the axis, at both ends


@dataclass(frozen=True)
class Row:
    """A norm in a panel: what each seed reached, times the metric's scale; url: to its runs."""

    label: str
    values: Sequence[float]
    reached: Estimate
    url: str


def norms(study: Study, size: style.Size = style.PAGE) -> Figure:
    """The primary metric on the test set by norm, a panel for each choice of shared settings.

    Each norm is at its chosen learning rate. Raises NormbenchError where no run has finished.
    """
    study, looks = prepared(study)
    study = study.chosen
    metric = study.primary
    panels = {title: _rows(panel) for title, panel in by_panel(study)}
    every = [row for rows in panels.values() for row in rows]
    columns = min(size.columns, 2 if len(panels) == 4 else 3, len(panels))
    with style.drawing(size):
        figure, axes = style.panels(size, len(panels), columns, sharey=False)
        if size.height is None:
            num_rows = -(-len(panels) // columns)
            figure.set_figheight(num_rows * _height(panels.values(), size) + CAPTION)
        limits = _limits(every, metric)
        letters = int(0.4 * 72 * size.width / columns / LETTER / size.font)
        for ax, (title, rows) in zip(axes, panels.items(), strict=True):
            _draw_panel(ax, rows, metric, looks)
            ax.set_yticks(range(len(rows)), [shortened(row.label, letters) for row in rows])
            ax.set_xlim(limits)
            ax.set_xlabel(replace(metric, name=in_words(study.test_column)).label)
            style.set_title(ax, title)
        estimates = [row.reached for row in every]
        seeds = SEEDS if max(estimate.n for estimate in estimates) > 1 else ""
        lost = NO_RESULT if min(estimate.n for estimate in estimates) == 0 else ""
        order = SORTED.format(where=", in each panel" if len(panels) > 1 else "")
        add_basis(figure, study, size, order, seeds, over_seeds(estimates, metric), lost)
    return figure


def _rows(panel: Study) -> list[Row]:
    """The norms of a panel by their mean, the best first; those without a result are the last."""
    metric, rows = panel.primary, []
    for label, runs in panel.runs.groupby("line", sort=False):
        done = runs[runs["status"] == "done"]
        values = [metric.scale * float(value) for value in done.get(panel.test_column, [])]
        rows.append(Row(str(label), values, mean_interval(values), link(runs)))
    sign = -1 if metric.is_larger_better else 1
    return sorted(rows, key=lambda row: sign * row.reached.mean if row.values else math.inf)


def _height(panels: Collection[Sequence[Row]], size: style.Size) -> float:
    """The inches of a panel that has room for the most rows."""
    most = max(map(len, panels))
    lines = LINES_OF_FEW if most <= FEW else LINES_A_ROW
    return AROUND + most * lines * size.font / 72


def _limits(rows: Sequence[Row], metric: Metric) -> tuple[float, float]:
    """The ends of the common axis: all seeds and bars, with a margin."""
    ends = []
    for row in rows:
        below, above = lengths(row.reached, metric) or (0.0, 0.0)
        if row.values:
            ends += [*row.values, row.reached.mean - below, row.reached.mean + above]
    margin = MARGIN * ((max(ends) - min(ends)) or 1.0)
    return min(ends) - margin, max(ends) + margin


def _draw_panel(ax: Axes, rows: Sequence[Row], metric: Metric, looks: style.Looks) -> None:
    font = mpl.rcParams["font.size"]
    for place, row in enumerate(rows):
        colour, marker = looks[row.label]
        if not row.values:
            inside = ax.get_yaxis_transform()
            ax.scatter([0.01], [place], color=colour, marker="x", transform=inside, clip_on=False)
            continue
        mean = row.reached.mean
        bar = lengths(row.reached, metric)
        if bar is not None:
            ends = [[bar[0]], [bar[1]]]
            ax.errorbar([mean], [place], xerr=ends, fmt="none", color=colour, capsize=2, zorder=2)
        if row.reached.n > 1:
            places = [place] * len(row.values)
            ax.scatter(row.values, places, color=colour, alpha=0.45, s=font, zorder=2)
        (line,) = ax.plot([mean], [place], color=colour, marker=marker, linestyle="", zorder=3)
        line.set(label=row.label, url=row.url)
    ax.set_ylim(len(rows) - 0.4, -0.6)
    ax.set_label(IN_ROWS)
