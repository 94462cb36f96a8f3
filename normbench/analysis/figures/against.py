"""The final result against a setting: batch size, or learning rate."""

from __future__ import annotations

from dataclasses import dataclass, replace

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from normbench.analysis.figures import style
from normbench.analysis.figures.labels import add_labels
from normbench.analysis.figures.layout import basis, by_panel, link, prepared
from normbench.analysis.stats import mean_interval
from normbench.analysis.study import Study
from normbench.analysis.tables.crosstab import final
from normbench.analysis.tables.table import in_words
from normbench.errors import NormbenchError

APART = 0.05  # between norms at a setting, as a share of the distance between settings
MOST_APART = 8  # norms that stand so far apart; more stand closer
INTERVAL = "Bars: 95 % Student-t interval over seeds; small dots: each seed."
NO_RESULT = "x at the foot: no run finished there."


@dataclass(frozen=True)
class Axis:
    """A setting on a logarithmic x axis."""

    setting: str
    label: str
    base: int


BATCH_SIZE = Axis("batch_size", "batch size (images, log2)", 2)
LEARNING_RATE = Axis("lr", "learning rate (log)", 10)


def batch_size(study: Study, size: style.Size = style.PAGE) -> Figure:
    """The primary metric on the test set against batch size.

    Figure 1 of Group Normalization (arXiv:1803.08494) shows the error on the same log2 axis.
    Raises NormbenchError where all runs have the same batch size.
    """
    study, looks = prepared(study)
    return _against(study.chosen, looks, BATCH_SIZE, study.test_column, size)


def learning_rate(study: Study, size: style.Size = style.PAGE) -> Figure:
    """The primary metric against the learning rate: on held-out images, or else the test set.

    Raises NormbenchError where all runs have the same learning rate.
    """
    study, looks = prepared(study)
    column = study.val_column if study.holds_out else study.test_column
    return _against(study, looks, LEARNING_RATE, column, size)


def _against(study: Study, looks: style.Looks, axis: Axis, column: str, size: style.Size) -> Figure:
    runs, metric = study.runs, study.metric(column)
    if runs[axis.setting].nunique() < 2:
        only = runs[axis.setting].iloc[0]
        raise NormbenchError(f"no figure against {axis.setting}: all runs have {only}")
    values = metric.scale * runs["run"].map(final(study, column))
    results = dict(zip(runs["run"], values, strict=True))
    with style.drawing(size):
        facets = by_panel(study, axis.setting)
        figure, axes = style.panels(size, len(facets))
        for ax, (title, panel) in zip(axes, facets, strict=True):
            _draw_panel(ax, panel.runs.assign(result=panel.runs["run"].map(results)), looks, axis)
            style.set_title(ax, title)
            if style.is_first(ax):
                ax.set_ylabel(replace(metric, name=in_words(column)).label)
        add_labels(figure, axes, size)
        interval = INTERVAL if runs["seed"].nunique() > 1 else ""
        lost = "" if study.unfinished.runs.empty else NO_RESULT
        style.add_caption(figure, basis(study, interval, lost), size)
    return figure


def _draw_panel(ax: Axes, runs: pd.DataFrame, looks: style.Looks, axis: Axis) -> None:
    ticks = sorted(runs[axis.setting].unique())
    lines = runs.groupby("line", sort=False)
    apart = APART * min(1, MOST_APART / lines.ngroups)
    for index, (label, of_line) in enumerate(lines):
        # Equal factors are equal distances on a logarithmic axis.
        factor = (ticks[-1] / ticks[0]) ** (apart * (index - (lines.ngroups - 1) / 2) / 6)
        _draw_line(ax, of_line, axis.setting, looks[str(label)], factor).set_label(str(label))
    ax.set_xlabel(axis.label)
    ax.set_xscale("log", base=axis.base)
    margin = max((ticks[-1] / ticks[0]) ** 0.04, 1.2)
    ax.set_xlim(ticks[0] / margin, ticks[-1] * margin)
    ax.xaxis.set_major_locator(FixedLocator([float(tick) for tick in ticks]))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.xaxis.set_minor_locator(NullLocator())


def _draw_line(ax: Axes, runs: pd.DataFrame, x: str, look: style.Look, factor: float) -> Line2D:
    """Draws a norm: means joined, intervals, each seed as a faint dot, an x for no result."""
    colour, marker = look
    font = mpl.rcParams["font.size"]
    means: dict[float, float] = {}
    links, known, seeds = [], [], []
    for at, group in runs.groupby(x):
        place = float(str(at)) * factor
        values = group["result"].dropna().tolist()
        estimate = mean_interval(values)
        means[place] = estimate.mean  # without a finished run nan, which breaks the line
        if values:
            links.append(link(group, ("batch_size", x)))
        if len(values) > 1:
            known.append((place, estimate.mean, estimate.half_width))
            seeds += [(place, value) for value in values]
    (line,) = ax.plot([*means], [*means.values()], color=colour, marker=marker, zorder=2)
    # The same points again: only the points of a scatter can each have a link.
    reached = pd.Series(means).dropna()
    dots = ax.scatter(reached.index, reached, color=colour, marker=marker, s=font * 3.5, zorder=3)
    dots.set_urls(links)
    if known:
        x_known, y_known, widths = zip(*known, strict=True)
        ax.errorbar(x_known, y_known, widths, fmt="none", color=colour, capsize=2, zorder=2)
        x_seeds, y_seeds = zip(*seeds, strict=True)
        ax.scatter(x_seeds, y_seeds, color=colour, alpha=0.45, s=font, zorder=2)
    lost = [place for place in means if place not in reached]
    foot, inside = [0.02] * len(lost), ax.get_xaxis_transform()
    ax.scatter(lost, foot, color=colour, marker="x", transform=inside, clip_on=False)
    return line
