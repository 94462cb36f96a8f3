"""The cost of a step, and of the norm layers alone, relative to bn's, as figures."""

from __future__ import annotations

import math

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from normbench.analysis.captions import describe
from normbench.analysis.figures.style import (
    PAGE,
    Looks,
    Size,
    add_caption,
    drawing,
    looks_of,
    panels,
    set_title,
)
from normbench.analysis.stats import with_interval
from normbench.analysis.tables.costs import costs
from normbench.analysis.tables.layers import layers
from normbench.timing.rounds import basis_of

NOTE = "Dots: median over rounds of the ratio to bn in the same round, {interval}."
MARGIN = 0.12  # on both sides of the axis, of what is between the ends, so that dots and their names stand within


def costs_figure(rounds: pd.DataFrame, size: Size = PAGE) -> Figure:
    """A panel for each batch size and choice of settings, a row per norm: its step over bn's, with interval."""
    data = costs(rounds)
    settings = [str(name) for name in data.columns[1 : data.columns.get_loc("seconds")]]
    note = NOTE.format(interval=with_interval(data["rounds"]))
    return _figure(data, settings, "time of a step over bn's", f"{note} {basis_of(rounds)}.", size)


def layers_figure(rounds: pd.DataFrame, size: Size = PAGE) -> Figure:
    """A panel for each batch size, layout and mode, a row per norm: its layers, both ways, over bn's, with interval."""
    settings = ["batch_size", "layout", "mode"]
    note = NOTE.format(interval=with_interval([rounds["round"].nunique()]))
    return _figure(
        layers(rounds),
        settings,
        "time of the layers over bn's",
        f"{note} {basis_of(rounds)}.",
        size,
    )


def _figure(
    data: pd.DataFrame, settings: list[str], label: str, caption: str, size: Size
) -> Figure:
    looks = looks_of(data["norm"].unique())
    with drawing(size):
        varying = [name for name in settings if data[name].nunique() > 1]
        facets = [*data.groupby(varying, sort=False)] if varying else [((), data)]
        figure, axes = panels(size, len(facets), sharey=False)
        ends = [data[f"relative_time{end}"] for end in ("", "_low", "_high")]
        low, high = (
            min(1.0, *(end.min() for end in ends)),
            max(1.0, *(end.max() for end in ends)),
        )  # nan is no limit
        margin = MARGIN * max(high - low, 0.1)
        for ax, (key, group) in zip(axes, facets, strict=True):
            ax.set_xlim(low - margin, high + margin)
            _ratios(ax, group, looks)
            ax.set_xlabel(label)
            set_title(ax, describe(dict(zip(varying, key, strict=True))))
        add_caption(figure, caption, size)
    return figure


def _ratios(ax: Axes, group: pd.DataFrame, looks: Looks) -> None:
    for row, one in enumerate(group.itertuples()):
        colour, marker = looks[str(one.norm)]
        middle, low, high = (
            float(getattr(one, f"relative_time{end}")) for end in ("", "_low", "_high")
        )
        if math.isnan(middle):
            continue
        bars = None if math.isnan(low) else [[middle - low], [high - middle]]
        ax.errorbar([middle], [row], xerr=bars, color=colour, marker=marker, capsize=2)
        ax.annotate(
            f"{middle:.2f}x", (middle, row), xytext=(0, 5), textcoords="offset points", ha="center"
        )
    ax.axvline(1, linewidth=0.8, alpha=0.5, color="0.4", zorder=0)
    ax.set_yticks(range(len(group)), [*group["norm"]])
    ax.set_ylim(len(group) - 0.4, -0.6)
