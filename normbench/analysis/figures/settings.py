"""What was reached in the end, against a setting: batch size, learning rate; and what it cost."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from statistics import median
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from normbench.analysis.choice import at_chosen_rate
from normbench.analysis.figures.labels import add_labels
from normbench.analysis.figures.layout import basis, by_line, by_panel, finished, link, prepared
from normbench.analysis.figures.style import (
    PAGE,
    Looks,
    Size,
    add_caption,
    drawing,
    is_first,
    panels,
    set_title,
)
from normbench.analysis.frames import Clock, Frames
from normbench.analysis.stats import Estimate, mean_interval, median_ratio
from normbench.analysis.tables.crosstab import final
from normbench.analysis.tables.table import BASELINE, times
from normbench.analysis.times import clock_of, time_note
from normbench.errors import NormbenchError

DODGE = 0.05  # how far norms stand apart at one setting, of the distance between settings
MOST_APART = 8  # norms that stand as far apart as that
INTERVAL = "Bars: 95 % Student-t interval over seeds; small dots: each seed."
MIDDLE_HALF = "Bars: the middle half of the rounds."
NO_RESULT = "x at the foot: no run finished there."


def batch_size(frames: Frames, size: Size = PAGE) -> Figure:
    """Final test accuracy against batch size on a log2 axis, as in figure 1 of Group Normalization (arXiv:1803.08494).

    Raises NormbenchError where all runs have one batch size.
    """
    frames, colours = prepared(frames)
    frames = replace(frames, runs=at_chosen_rate(frames.runs))
    return _against(
        frames, colours, "batch_size", "test_accuracy", "batch size (images, log2)", size
    )


def learning_rate(frames: Frames, size: Size = PAGE) -> Figure:
    """Final accuracy against the learning rate: on held-out training images where there are any, else on the test set.

    Raises NormbenchError where all runs have one learning rate.
    """
    frames, colours = prepared(frames)
    metric = "val_accuracy" if "val_accuracy" in frames.runs else "test_accuracy"
    return _against(frames, colours, "lr", metric, "learning rate (log)", size)


def time(frames: Frames, size: Size = PAGE) -> Figure:
    """Training seconds per epoch of each norm, as timed by `normbench bench`.

    Raises NormbenchError where nothing was timed of these runs.
    """
    frames, colours = prepared(frames)
    frames = finished(frames)
    frames = replace(frames, runs=frames.runs[frames.runs["run"].isin(frames.clocks)])
    if frames.runs.empty:
        raise NormbenchError("no times: normbench bench measures them")
    with drawing(size):
        facets = by_panel(frames.runs)
        figure, axes = panels(size, len(facets), sharey=False)
        for ax, (title, runs) in zip(axes, facets, strict=True):
            lines = runs.groupby("line", sort=False)
            _times(ax, {str(label): clock_of(frames, line) for label, line in lines}, colours)
            set_title(ax, title)
        add_caption(figure, f"{time_note(frames)}{MIDDLE_HALF}", size)
    return figure


def _against(frames: Frames, colours: Looks, x: str, metric: str, label: str, size: Size) -> Figure:
    runs = frames.runs
    if runs[x].nunique() < 2:
        raise NormbenchError(f"no figure against {x}: all runs have {runs[x].iloc[0]}")
    values = final(frames, metric)
    with drawing(size):
        facets = by_panel(runs, x)
        figure, axes = panels(size, len(facets))
        for ax, (title, group) in zip(axes, facets, strict=True):
            lines = by_line(group)
            closer = min(
                1, MOST_APART / len(lines)
            )  # many stand closer, so that all keep to their setting
            for i, (name, ids) in enumerate(lines.items()):
                of_line = group[group["run"].isin(ids)]
                _line(
                    ax,
                    of_line,
                    x,
                    values,
                    name,
                    colours[name],
                    closer * (i - (len(lines) - 1) / 2),
                    size.font,
                )
            _log_axis(ax, sorted(group[x].unique()), 2 if x == "batch_size" else 10)
            set_title(ax, title)
            ax.set_xlabel(label)
            if is_first(ax):
                ax.set_ylabel(f"{metric.replace('_', ' ').replace('val ', 'validation ')} (%)")
        add_labels(figure, axes, size)
        interval = INTERVAL if runs["seed"].nunique() > 1 else ""
        ended = NO_RESULT if (runs["status"] != "done").any() else ""
        add_caption(figure, basis(frames, interval, ended), size)
    return figure


def _line(
    ax: Axes,
    runs: pd.DataFrame,
    x: str,
    values: dict[str, float],
    label: str,
    style: tuple[str, str],
    place: float,
    font: float,
) -> None:
    """One norm: its means joined, their intervals, each seed as a faint dot, and what has no result at the foot."""
    colour, marker = style
    runs = runs.assign(value=[100 * values.get(run, math.nan) for run in runs["run"]]).sort_values(
        x
    )
    of: dict[Any, list[float]] = {
        at: group["value"].dropna().tolist() for at, group in runs.groupby(x)
    }
    means = {at: mean_interval(found) for at, found in of.items() if found}
    apart = (max(of) / min(of)) ** (DODGE * place / 6)
    places = [float(at) * apart for at in means]
    line = [
        means[at].mean if at in means else math.nan for at in of
    ]  # broken where no run finished
    ax.plot(
        [float(at) * apart for at in of], line, color=colour, marker=marker, label=label, zorder=2
    )
    # The same points once more: only those of a scatter can each lead to runs of their own.
    dots = ax.scatter(
        places,
        [one.mean for one in means.values()],
        color=colour,
        marker=marker,
        s=font * 3.5,
        zorder=3,
    )
    dots.set_urls([link(runs[runs[x] == at], label, ("batch_size", x)) for at in means])
    _bars(ax, places, list(means.values()), colour)
    seeds = [
        (float(at) * apart, value) for at, found in of.items() for value in found if len(found) > 1
    ]
    ax.scatter(
        [at for at, _ in seeds],
        [value for _, value in seeds],
        color=colour,
        alpha=0.45,
        s=font,
        zorder=2,
    )
    lost = [float(at) * apart for at, found in of.items() if not found]
    ax.scatter(
        lost,
        [0.02] * len(lost),
        color=colour,
        marker="x",
        transform=ax.get_xaxis_transform(),
        clip_on=False,
    )


def _bars(ax: Axes, places: Sequence[float], estimates: Sequence[Estimate], colour: str) -> None:
    known = [
        (at, one)
        for at, one in zip(places, estimates, strict=True)
        if not math.isnan(one.half_width)
    ]
    if known:
        ax.errorbar(
            [at for at, _ in known],
            [one.mean for _, one in known],
            yerr=[one.half_width for _, one in known],
            fmt="none",
            color=colour,
            capsize=2,
            zorder=2,
        )


def _log_axis(ax: Axes, ticks: Sequence[float], base: int) -> None:
    ax.set_xscale("log", base=base)
    margin = max((ticks[-1] / ticks[0]) ** 0.04, 1.2)
    ax.set_xlim(ticks[0] / margin, ticks[-1] * margin)
    ax.xaxis.set_major_locator(FixedLocator([float(tick) for tick in ticks]))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.xaxis.set_minor_locator(NullLocator())


def _times(ax: Axes, clocks: dict[str, Clock], colours: Looks) -> None:
    """A row per norm, the first on top: the middle half of the rounds, their median, and how it stands to bn."""
    longest = max((median(clock.values()) for clock in clocks.values()), default=0.0)
    for row, (label, clock) in enumerate(clocks.items()):
        colour, marker = colours[label]
        low, middle, high = np.percentile([*clock.values()], [25, 50, 75])
        ax.errorbar(
            [middle],
            [row],
            xerr=[[middle - low], [high - middle]],
            color=colour,
            marker=marker,
            capsize=2,
        )
        ratio = median_ratio(clock, clocks.get(BASELINE, {}))
        if ratio is not None and label != BASELINE:
            end, side, align = (
                (low, -6, "right") if middle > longest / 2 else (high, 6, "left")
            )  # where there is room
            ax.annotate(
                times(ratio),
                (end, row),
                (side, 0),
                textcoords="offset points",
                va="center",
                ha=align,
            )
    ax.set_yticks(range(len(clocks)), list(clocks))
    ax.set_ylim(len(clocks) - 0.5, -0.5)
    ax.set_xlim(left=0)
    ax.margins(x=0.15)
    ax.set_xlabel("training time per epoch (s)")
