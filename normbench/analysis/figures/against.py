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
from normbench.analysis.figures.intervals import SEEDS, lengths, over_seeds
from normbench.analysis.figures.labels import add_labels
from normbench.analysis.figures.layout import add_basis, by_panel, link, prepared
from normbench.analysis.stats import Estimate, mean_interval
from normbench.analysis.study import Study
from normbench.analysis.tables.crosstab import final
from normbench.analysis.tables.table import in_words
from normbench.errors import NormbenchError
from normbench.tasks.metric import Metric

APART = 0.05  # between norms at a setting, as a share of the distance between settings
MOST_APART = 8  # norms that stand so far apart; more stand closer
NO_RESULT = "x at the foot: no run finished there."
Groups = dict[float, pd.DataFrame]  # the runs of a norm by their place on the x axis
Estimates = dict[float, Estimate]


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
        estimates: list[Estimate] = []
        for ax, (title, panel) in zip(axes, facets, strict=True):
            of_panel = panel.runs.assign(result=panel.runs["run"].map(results))
            estimates += _draw_panel(ax, of_panel, looks, axis, metric)
            style.set_title(ax, title)
            if style.is_first(ax):
                ax.set_ylabel(replace(metric, name=in_words(column)).label)
        add_labels(figure, axes, size)
        lost = "" if study.unfinished.runs.empty else NO_RESULT
        seeds = SEEDS if max(estimate.n for estimate in estimates) > 1 else ""
        add_basis(figure, study, size, over_seeds(estimates, metric), seeds, lost)
    return figure


def _draw_panel(
    ax: Axes, runs: pd.DataFrame, looks: style.Looks, axis: Axis, metric: Metric
) -> list[Estimate]:
    """Draws a line per norm; returns the means with their intervals."""
    ticks = sorted(runs[axis.setting].unique())
    lines = runs.groupby("line", sort=False)
    apart = APART * min(1, MOST_APART / lines.ngroups)
    estimates: list[Estimate] = []
    for index, (label, of_line) in enumerate(lines):
        # Equal factors are equal distances on a logarithmic axis.
        factor = (ticks[-1] / ticks[0]) ** (apart * (index - (lines.ngroups - 1) / 2) / 6)
        places = {float(str(at)) * factor: group for at, group in of_line.groupby(axis.setting)}
        known = {place: mean_interval(_results(group)) for place, group in places.items()}
        look = looks[str(label)]
        _draw_line(ax, places, known, axis.setting, look).set_label(str(label))
        _draw_seeds(ax, places, known, metric, look[0])
        estimates += known.values()
    ax.set_xlabel(axis.label)
    ax.set_xscale("log", base=axis.base)
    margin = max((ticks[-1] / ticks[0]) ** 0.04, 1.2)
    ax.set_xlim(ticks[0] / margin, ticks[-1] * margin)
    ax.xaxis.set_major_locator(FixedLocator([float(tick) for tick in ticks]))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.xaxis.set_minor_locator(NullLocator())
    return estimates


def _results(group: pd.DataFrame) -> list[float]:
    return [float(value) for value in group["result"].dropna()]


def _draw_line(ax: Axes, places: Groups, known: Estimates, x: str, look: style.Look) -> Line2D:
    """Draws the means of a norm, joined, and an x where no run has a result."""
    colour, marker = look
    font = mpl.rcParams["font.size"]
    # Without a finished run a mean is nan, which breaks the line.
    means = [estimate.mean for estimate in known.values()]
    (line,) = ax.plot([*known], means, color=colour, marker=marker, zorder=2)
    # The same points again: only the points of a scatter can each have a link.
    reached = {place: estimate.mean for place, estimate in known.items() if estimate.n}
    at, values = [*reached], [*reached.values()]
    dots = ax.scatter(at, values, color=colour, marker=marker, s=font * 3.5, zorder=3)
    dots.set_urls([link(places[place], ("batch_size", x)) for place in reached])
    lost = [place for place in known if place not in reached]
    foot, inside = [0.02] * len(lost), ax.get_xaxis_transform()
    ax.scatter(lost, foot, color=colour, marker="x", transform=inside, clip_on=False)
    return line


def _draw_seeds(ax: Axes, places: Groups, known: Estimates, metric: Metric, colour: str) -> None:
    """Draws the seeds of a norm as faint dots, and the intervals over them as bars."""
    x_seeds, y_seeds, x_bars, y_bars, ends = [], [], [], [], []
    for place, estimate in known.items():
        if estimate.n > 1:
            y_seeds += _results(places[place])
            x_seeds += [place] * estimate.n
        bar = lengths(estimate, metric)
        if bar is not None:
            x_bars.append(place)
            y_bars.append(estimate.mean)
            ends.append(bar)
    if x_seeds:
        size = mpl.rcParams["font.size"]
        ax.scatter(x_seeds, y_seeds, color=colour, alpha=0.45, s=size, zorder=2)
    if ends:
        both = [*zip(*ends, strict=True)]
        ax.errorbar(x_bars, y_bars, both, fmt="none", color=colour, capsize=2, zorder=2)
