"""The cost of a step relative to bn's, as a figure."""

from __future__ import annotations

import math

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from normbench.analysis.clocks import basis_of
from normbench.analysis.figures.style import PAGE, Size, Styles, add_caption, drawing, panels, set_title, styles
from normbench.analysis.provenance import describe
from normbench.analysis.stats import with_interval
from normbench.analysis.tables.costs import costs

NOTE = "Dots: median over rounds of the ratio to bn in the same round, {interval}."
MARGIN = 0.03  # of the axis, on both sides


def costs_figure(rounds: pd.DataFrame, size: Size = PAGE) -> Figure:
    """A panel for each batch size and choice of settings, a row per norm: its step over bn's, with interval."""
    data = costs(rounds)
    settings = [str(name) for name in data.columns[1 : data.columns.get_loc("seconds")]]
    looks = styles(data["norm"].unique())
    with drawing(size):
        varying = [name for name in settings if data[name].nunique() > 1]
        facets = [*data.groupby(varying, sort=False)] if varying else [((), data)]
        figure, axes = panels(size, len(facets), sharey=False)
        ends = [data[f"relative_time{end}"] for end in ("", "_low", "_high")]
        low, high = min(1.0, *(end.min() for end in ends)), max(1.0, *(end.max() for end in ends))  # nan is no limit
        for ax, (key, group) in zip(axes, facets, strict=True):
            ax.set_xlim(low - MARGIN, high + MARGIN)
            _ratios(ax, group, looks)
            set_title(ax, describe(dict(zip(varying, key, strict=True))))
        note = NOTE.format(interval=with_interval(int(data["rounds"].median())))
        add_caption(figure, f"{note} {basis_of(rounds)}.", size)
    return figure


def _ratios(ax: Axes, group: pd.DataFrame, looks: Styles) -> None:
    for row, one in enumerate(group.itertuples()):
        colour, marker = looks[str(one.norm)]
        middle, low, high = (float(getattr(one, f"relative_time{end}")) for end in ("", "_low", "_high"))
        if math.isnan(middle):
            continue
        bars = None if math.isnan(low) else [[middle - low], [high - middle]]
        ax.errorbar([middle], [row], xerr=bars, color=colour, marker=marker, capsize=2)
        ax.annotate(f"{middle:.2f}x", (middle, row), xytext=(0, 5), textcoords="offset points", ha="center")
    ax.axvline(1, linewidth=0.8, alpha=0.5, color="0.4", zorder=0)
    ax.set_yticks(range(len(group)), [*group["norm"]])
    ax.set_ylim(len(group) - 0.4, -0.6)
    ax.set_xlabel("time of a step over bn's")
