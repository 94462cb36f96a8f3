"""The final result against a setting: batch size, or learning rate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from normbench.analysis.figures.labels import add_labels
from normbench.analysis.figures.layout import basis, by_panel, link, prepared
from normbench.analysis.figures.style import (
    PAGE,
    Look,
    Looks,
    Size,
    add_caption,
    drawing,
    is_first,
    panels,
    set_title,
)
from normbench.analysis.stats import Estimate, mean_interval
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


def batch_size(study: Study, size: Size = PAGE) -> Figure:
    """The primary metric on the test set against batch size.

    Figure 1 of Group Normalization (arXiv:1803.08494) shows the error on the same log2 axis.
    Raises NormbenchError where all runs have the same batch size.
    """
    study, looks = prepared(study)
    return _against(study.chosen, looks, BATCH_SIZE, study.test_column, size)


def learning_rate(study: Study, size: Size = PAGE) -> Figure:
    """The primary metric against the learning rate: on held-out images, or else the test set.

    Raises NormbenchError where all runs have the same learning rate.
    """
    study, looks = prepared(study)
    column = study.val_column if study.holds_out else study.test_column
    return _against(study, looks, LEARNING_RATE, column, size)


def _against(study: Study, looks: Looks, axis: Axis, column: str, size: Size) -> Figure:
    runs, metric = study.runs, study.metric(column)
    if runs[axis.setting].nunique() < 2:
        only = runs[axis.setting].iloc[0]
        raise NormbenchError(f"no figure against {axis.setting}: all runs have {only}")
    values = metric.scale * runs["run"].map(final(study, column))
    results = dict(zip(runs["run"], values, strict=True))
    with drawing(size):
        facets = by_panel(study, axis.setting)
        figure, axes = panels(size, len(facets))
        for ax, (title, panel) in zip(axes, facets, strict=True):
            _draw_panel(ax, panel.runs.assign(result=panel.runs["run"].map(results)), looks, axis)
            set_title(ax, title)
            if is_first(ax):
                ax.set_ylabel(replace(metric, name=in_words(column)).label)
        add_labels(figure, axes, size)
        interval = INTERVAL if runs["seed"].nunique() > 1 else ""
        lost = "" if study.unfinished.runs.empty else NO_RESULT
        add_caption(figure, basis(study, interval, lost), size)
    return figure


def _draw_panel(ax: Axes, runs: pd.DataFrame, looks: Looks, axis: Axis) -> None:
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


def _draw_line(ax: Axes, runs: pd.DataFrame, x: str, look: Look, factor: float) -> Line2D:
    """Draws a norm: means joined, intervals, each seed as a faint dot, an x for no result."""
    colour, marker = look
    font = mpl.rcParams["font.size"]
    places, values, links = [], [], []
    for at, group in runs.groupby(x):
        places.append(float(str(at)) * factor)
        values.append(group["result"].dropna().tolist())
        links.append(link(group, ("batch_size", x)))
    estimates = [mean_interval(found) for found in values]
    # Without a finished run the mean is nan, which breaks the line.
    means = [estimate.mean for estimate in estimates]
    (line,) = ax.plot(places, means, color=colour, marker=marker, zorder=2)
    # The same points again: only the points of a scatter can each have a link.
    reached = [index for index, estimate in enumerate(estimates) if estimate.n]
    x_y = [places[index] for index in reached], [means[index] for index in reached]
    dots = ax.scatter(*x_y, color=colour, marker=marker, s=font * 3.5, zorder=3)
    dots.set_urls([links[index] for index in reached])
    _draw_intervals(ax, places, estimates, colour)
    _draw_seeds(ax, places, values, colour)
    lost = [place for place, found in zip(places, values, strict=True) if not found]
    foot = [0.02] * len(lost)
    marks = ax.scatter(lost, foot, color=colour, marker="x", transform=ax.get_xaxis_transform())
    marks.set_clip_on(False)
    return line


def _draw_intervals(
    ax: Axes, places: Sequence[float], estimates: Sequence[Estimate], colour: str
) -> None:
    known = [pair for pair in zip(places, estimates, strict=True) if pair[1].n > 1]
    if known:
        x = [place for place, _ in known]
        means = [estimate.mean for _, estimate in known]
        half_widths = [estimate.half_width for _, estimate in known]
        ax.errorbar(x, means, yerr=half_widths, fmt="none", color=colour, capsize=2, zorder=2)


def _draw_seeds(
    ax: Axes, places: Sequence[float], values: Sequence[Sequence[float]], colour: str
) -> None:
    """Draws each seed as a faint dot, from two seeds on."""
    x: list[float] = []
    y: list[float] = []
    for place, found in zip(places, values, strict=True):
        if len(found) > 1:
            x += [place] * len(found)
            y += found
    ax.scatter(x, y, color=colour, alpha=0.45, s=mpl.rcParams["font.size"], zorder=2)
