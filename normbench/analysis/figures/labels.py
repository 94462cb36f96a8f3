"""Names of lines, at the ends of lines or in a legend; and a figure in words."""

from __future__ import annotations

import re
from collections.abc import Sequence
from statistics import fmean
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from normbench.analysis.figures.style import Size

MOST_AT_ENDS = 8
LONGEST_AT_END = 20  # letters; longer names leave no room for the lines
LETTER = 0.6  # its width, in font sizes
IN_ROWS = "in rows"  # the label of a panel with a row for each line, whose values are those of x
# The labels of lines without a name: ours, and those that matplotlib gives.
UNNAMED = re.compile(r"_|_child\d+|_nolegend_")


def add_labels(figure: Figure, axes: Sequence[Axes], size: Size) -> None:
    """Names the lines of all panels, each name once."""
    named = _by_name(axes)
    if not named:
        return
    longest = max(map(len, named))
    if len(axes) == 1 and len(named) <= MOST_AT_ENDS and longest <= LONGEST_AT_END:
        _label_ends(axes[0], size)
    else:
        add_legend(figure, axes, size)


def add_legend(figure: Figure, axes: Sequence[Axes], size: Size) -> None:
    """Names the lines of all panels above the panels, each name once."""
    named = _by_name(axes)
    beside = 4  # the line and marker before a name, in font sizes
    room = size.width * 72 / size.font
    names = [shortened(name, int((room - beside) / LETTER)) for name in named]
    columns = max(1, int(room / (max(map(len, names)) * LETTER + beside)))
    figure.legend([*named.values()], names, loc="outside upper left", ncols=columns, frameon=False)
    more_rows = -(-len(named) // columns) - 1
    if size.height is None:  # a long legend takes no height from the panels
        figure.set_figheight(figure.get_figheight() + 1.5 * more_rows * size.font / 72)


def named_lines(axes: Axes) -> list[Line2D]:
    """The lines with a name, which may begin with an underscore, as a class's may."""
    return [line for line in axes.get_lines() if not UNNAMED.fullmatch(str(line.get_label()))]


def shortened(name: str, letters: int) -> str:
    """The name without its middle if it has more letters: options at its end tell names apart."""
    kept = (letters - 3) // 2
    return name if len(name) <= letters else f"{name[:kept]}...{name[-kept:]}"


def alt_text(figure: Figure) -> str:
    """The figure in words: the axes of each panel, and the first and last value of each line.

    Of a single point: both its values, `gn 67.6 at 1.02`. Of pictures: the names of their rows; of
    norms in rows, the value of each.
    """
    sentences, measured = [], ""
    for axes in figure.axes:
        if axes.images:
            sentences.append(_in_rows(axes))
            continue
        if axes.get_label() == IN_ROWS:
            sentences.append(_values(axes))
            continue
        measured = axes.get_ylabel() or measured  # a row of panels shares the label of the first
        ends = []
        for line in named_lines(axes):
            x, y = (np.asarray(values, float) for values in line.get_data())
            known = y[np.isfinite(y)]
            if len(y) == len(known) == 1:
                ends.append(f"{line.get_label()} {y[0]:.3g} at {x[0]:.3g}")
            elif len(known):
                ends.append(f"{line.get_label()} from {known[0]:.3g} to {known[-1]:.3g}")
        title = axes.get_title(loc="left")
        name = f"{title}: " if title else ""
        shown = f"{name}{measured} against {axes.get_xlabel()}. {'; '.join(ends)}".strip()
        sentences.append(f"{shown.rstrip('.')}.")
    return " ".join(sentences)


def _in_rows(axes: Axes) -> str:
    rows = ", ".join(label.get_text() for label in axes.get_yticklabels())
    return f"{axes.get_title(loc='left')}: rows of pictures: {rows}.".removeprefix(": ")


def _values(axes: Axes) -> str:
    title = axes.get_title(loc="left")
    ends = []
    for line in named_lines(axes):
        (value,) = np.asarray(line.get_xdata(), float)
        ends.append(f"{line.get_label()} {value:.3g}")
    return f"{title}: {axes.get_xlabel()}: {', '.join(ends)}.".removeprefix(": ")


def spread_out(places: Sequence[float], least: float) -> list[float]:
    """Ascending places moved so that neighbours are `least` apart, with the least squared moves.

    Place i owes a distance of i * least. Without the owed distances, the moved places only have to
    ascend: an isotonic regression.
    """
    owed = [least * number for number in range(len(places))]
    moved = _ascending([place - distance for place, distance in zip(places, owed, strict=True)])
    return [place + distance for place, distance in zip(moved, owed, strict=True)]


def _ascending(values: Sequence[float]) -> list[float]:
    """Ascending numbers with the least squared distance from these: what falls becomes its mean.

    scipy.optimize has it too, and takes a quarter of a second to import.
    """
    pools: list[list[float]] = []
    for value in values:
        pools.append([value])
        while len(pools) > 1 and fmean(pools[-2]) > fmean(pools[-1]):
            last = pools.pop()
            pools[-1] += last
    return [fmean(pool) for pool in pools for _ in pool]


def _by_name(axes: Sequence[Axes]) -> dict[str, Line2D]:
    """The named lines of all panels; of lines with the same name the last."""
    return {str(line.get_label()): line for panel in axes for line in named_lines(panel)}


def _label_ends(axes: Axes, size: Size) -> None:
    """Writes each name and marker beside the last point of the line, without overlaps."""
    axes.margins(x=0.02)
    reaching = []
    for line in named_lines(axes):
        x, y = (np.asarray(values, float) for values in line.get_data())
        known = np.flatnonzero(np.isfinite(y))
        if len(known) and known[-1] == len(y) - 1:
            reaching.append((float(y[-1]), line))
        elif len(known):
            # A line that ends early is named at the last known point.
            end = (x[known[-1]], y[known[-1]])
            _write(axes, line, end, (size.font, 0), textcoords="offset points")
    reaching.sort(key=lambda end: end[0])
    low, high = axes.get_ylim()
    line_height = 1.25 * size.font / (72 * 0.7 * (size.height or size.row))
    places = spread_out([(y - low) / (high - low) for y, _ in reaching], line_height)
    beside = 1.0 + size.font / 72 / size.width
    for (_, line), place in zip(reaching, places, strict=True):
        offset = (1.5 * size.font, 0)
        _write(axes, line, (1.0, place), offset, "axes fraction", "offset points")
        (mark,) = axes.plot([beside], [place], transform=axes.transAxes, label="_", linestyle="")
        mark.set(marker=line.get_marker(), color=line.get_color(), clip_on=False)


def _write(axes: Axes, line: Line2D, *place: Any, **options: Any) -> None:
    text = axes.annotate(str(line.get_label()), *place, **options)
    text.set(verticalalignment="center", annotation_clip=False)
