"""Times of training: of an epoch of a study's runs, of a step, and of the norm layers alone."""

from __future__ import annotations

import math
from dataclasses import replace
from statistics import median

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from normbench.analysis.captions import machine, networks, over_processes, time_note
from normbench.analysis.figures import style
from normbench.analysis.figures.labels import shortened
from normbench.analysis.figures.layout import by_panel, prepared, starred
from normbench.analysis.settings import describe
from normbench.analysis.stats import ratio_over_processes
from normbench.analysis.study import BASELINE, Study
from normbench.analysis.tables.layer_costs import layers
from normbench.analysis.tables.loops import REFERENCE, speeds
from normbench.analysis.tables.loops import note as loops_note
from normbench.analysis.tables.step_costs import costs
from normbench.analysis.tables.table import RATIO, times
from normbench.analysis.times import Clock
from normbench.errors import NormbenchError

MIDDLE_HALF = "Bars: the middle half of the rounds."
NOTE = "Dots: the median of the rounds' ratios to bn, {interval}; on {machine}."
NETWORK = " Of this network: {networks}."
MARGIN = 0.12  # of the axis, at both ends, for the dots and their numbers
LONGEST_NAME = 32  # letters at the axis
LINES_A_ROW = 2.2  # lines of text: a name at the axis, and a number above the dot


def time(study: Study, size: style.Size = style.PAGE) -> Figure:
    """Training seconds per epoch of each norm, by the rounds of `normbench bench`.

    Raises NormbenchError where no run was timed.
    """
    study, looks = prepared(study)
    timed = study.done.chosen.only(study.clocks)
    if timed.runs.empty:
        raise NormbenchError("no times: normbench bench measures them")
    with style.drawing(size):
        facets = by_panel(timed)
        rows = max(panel.runs["line"].nunique() for _, panel in facets)
        figure, axes = style.panels(_tall(size, rows), len(facets), sharey=False)
        for ax, (title, panel) in zip(axes, facets, strict=True):
            clocks = {}
            for label, of_line in panel.runs.groupby("line", sort=False):
                clocks[str(label)] = panel.clock(of_line["run"])
            _draw_clocks(ax, clocks, looks)
            style.set_title(ax, title)
        style.add_caption(figure, " ".join([time_note(timed), MIDDLE_HALF, *starred(timed)]), size)
    return figure


def costs_figure(rounds: pd.DataFrame, size: style.Size = style.PAGE) -> Figure:
    """The time of a step over bn's, a panel for each batch size and choice of settings."""
    data = costs(rounds)
    settings = [str(name) for name in data.loc[:, "batch_size":"seconds"].columns[:-1]]
    note = NOTE.format(interval=over_processes(data["processes"]), machine=machine(rounds))
    note += NETWORK.format(networks=networks(rounds.to_dict("records")))
    return _ratios_figure(data, settings, "time of a step over bn's", note, size)


def layers_figure(rounds: pd.DataFrame, size: style.Size = style.PAGE) -> Figure:
    """The time of the norm layers, both ways, over bn's, a panel for each layout and mode."""
    settings = ["batch_size", "layout", "mode"]
    data = layers(rounds)
    note = NOTE.format(interval=over_processes(data["processes"]), machine=machine(rounds))
    return _ratios_figure(data, settings, "time of the layers over bn's", note, size)


def loops_figure(rounds: pd.DataFrame, size: style.Size = style.PAGE) -> Figure:
    """The speed of training loops over the tutorial's, a panel for each batch size and norm.

    rounds: as of `tables.loops.speeds`.
    """
    data = speeds(rounds)
    label = f"times the {REFERENCE}'s speed"
    settings = ["batch_size", "norm"]
    return _ratios_figure(data, settings, label, loops_note(data, rounds), size, rows="loop")


def _ratios_figure(
    data: pd.DataFrame,
    settings: list[str],
    label: str,
    caption: str,
    size: style.Size,
    rows: str = "norm",
) -> Figure:
    """Dots with their intervals, of RATIO; a row for each value of the column `rows`."""
    looks = style.looks_of(data[rows].unique())
    ends = [1.0, *data[RATIO].to_numpy().ravel()]
    low, high = float(np.nanmin(ends)), float(np.nanmax(ends))
    margin = MARGIN * max(high - low, 0.1)
    varying = [name for name in settings if data[name].nunique() > 1]
    facets = [*data.groupby(varying, sort=False)] if varying else [((), data)]
    with style.drawing(size):
        names = [[*group[rows]] for _, group in facets]
        # Panels of the same rows name them once.
        is_shared = all(of_panel == names[0] for of_panel in names)
        size = _tall(size, max(map(len, names)))
        figure, axes = style.panels(size, len(facets), sharey=is_shared)
        for ax, (key, group) in zip(axes, facets, strict=True):
            ax.set_xlim(low - margin, high + margin)
            ax.set_xlabel(label)
            _draw_ratios(ax, group, looks, rows)
            style.set_title(ax, describe(dict(zip(varying, key, strict=True))))
        style.add_caption(figure, caption, size)
    return figure


def _draw_ratios(ax: Axes, group: pd.DataFrame, looks: style.Looks, rows: str) -> None:
    ax.axvline(1, linewidth=0.8, alpha=0.5, color="0.4", zorder=0)
    for row, (name, ratio) in enumerate(zip(group[rows], group[RATIO].to_numpy(), strict=True)):
        middle, low, high = map(float, ratio)
        if math.isnan(middle):
            continue
        _draw_bar(ax, row, low, middle, high, looks[name])
        style.write_number(ax, f"{middle:.2f}x", (middle, row))
    _name_rows(ax, [*group[rows]])


def _draw_clocks(ax: Axes, clocks: dict[str, Clock], looks: style.Looks) -> None:
    longest = max(median(clock.values()) for clock in clocks.values())
    for row, (label, clock) in enumerate(clocks.items()):
        low, middle, high = np.percentile([*clock.values()], [25, 50, 75])
        _draw_bar(ax, row, low, middle, high, looks[label])
        ratio = ratio_over_processes(clock, clocks.get(BASELINE, {}))
        if ratio is not None and label != BASELINE:
            # Above the bar, towards the side with more room.
            is_long = middle > longest / 2
            end, align = (high, "right") if is_long else (low, "left")
            style.write_number(ax, times(ratio), (end, row), align)
    _name_rows(ax, list(clocks))
    ax.set_xlim(left=0)
    ax.margins(x=0.15)
    ax.set_xlabel("training time per epoch (s)")


def _tall(size: style.Size, rows: int) -> style.Size:
    return replace(size, row=max(size.row, 1 + rows * LINES_A_ROW * size.font / 72))


def _draw_bar(ax: Axes, row: int, low: float, middle: float, high: float, look: style.Look) -> None:
    """Draws a dot with a bar from low to high; without a bar where the ends are unknown."""
    colour, marker = look
    bars = None if math.isnan(low) else [[middle - low], [high - middle]]
    ax.errorbar([middle], [row], xerr=bars, color=colour, marker=marker, capsize=2)


def _name_rows(ax: Axes, names: list[str]) -> None:
    ax.set_yticks(range(len(names)), [shortened(name, LONGEST_NAME) for name in names])
    ax.set_ylim(len(names) - 0.4, -0.6)
