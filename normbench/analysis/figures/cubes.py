"""Cubes of samples, channels and pixels in which the cells of one statistic are coloured.

The picture is that of Group Normalization (arXiv:1803.08494, figure 2), for any set of cells.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, PathPatch
from matplotlib.path import Path
from numpy.typing import NDArray

from normbench.analysis.figures import style
from normbench.analysis.figures.labels import shortened
from normbench.text import visible

Mask = NDArray[np.bool_]
Point = NDArray[np.float64]  # (x, y) on paper

# The next cell along an axis on paper, in widths of a channel: samples go back, pixels down.
SAMPLE, CHANNEL, PIXEL = np.array([0.30, 0.20]), np.array([1.0, 0.0]), np.array([0.0, -0.62])
# By statistic of a cube.
COLOURS = (style.BLUE, style.ORANGE, style.GREEN)
CAPTION = (
    "Coloured: cells that share a statistic with the outlined one in training, since the value of "
    "one enters the output at the other. Computed from the layer on drawn inputs of {n} samples "
    "(n), {c} channels (c) and {h}x{w} pixels (h w, row by row): {cells:,} cells."
)
SHEET_COLUMNS = 4
LONGEST_TITLE = 28  # letters
BELOW = 0.25  # the space for the legend, in heights of the cube
LEGEND = 0.15  # the top of the legend, in heights of the panel


@dataclass(frozen=True)
class Statistic:
    """The cells of a statistic as (n, c, h, w), and its axes in words.

    channel: of the outlined cell, which is in the first sample at the first pixel.
    """

    cells: Mask
    axes: str
    channel: int

    def in_words(self) -> str:
        """The axes and the number of cells: `n h w: 800 cells`."""
        number = int(self.cells.sum())
        if number == 1:
            return "nothing is shared"
        return f"{self.axes}: {number:,} cells"


@dataclass(frozen=True)
class Cube:
    """A norm's title and its kinds of statistics, on inputs of one shape."""

    title: str
    statistics: Sequence[Statistic]

    def in_words(self) -> str:
        """The statistics in words, for who cannot see the figure."""
        return f"{self.title}: {'; '.join(one.in_words() for one in self.statistics)}"


@dataclass(frozen=True)
class Face:
    """A visible side of a cube: its cells (rows, columns), and where they are on paper.

    row, column: the steps to the next. strength: of the colour, from 0 to 1.
    """

    cells: Mask
    corner: Point
    row: Point
    column: Point
    strength: float

    def at(self, row: int, column: int) -> Point:
        """The corner before this row and column."""
        place: Point = self.corner + row * self.row + column * self.column
        return place

    def grid(self) -> Path:
        """The lines between cells."""
        rows, columns = self.cells.shape
        lines = [[self.at(row, 0), self.at(row, columns)] for row in range(rows + 1)]
        lines += [[self.at(0, column), self.at(rows, column)] for column in range(columns + 1)]
        return Path.make_compound_path(*map(Path, lines))

    def coloured(self) -> Path:
        """The coloured cells, neighbours as one."""
        return Path.make_compound_path(*(self._box(*box) for box in self._boxes()))

    def cell(self, column: int) -> Path:
        """The cell of the first row in this column."""
        return self._box(range(1), range(column, column + 1))

    def _boxes(self) -> Iterator[tuple[range, range]]:
        """The rows and columns of boxes of coloured cells: runs of a row, in all equal rows."""
        first = 0
        for _, equal in groupby(self.cells, key=np.ndarray.tobytes):
            rows = range(first, first + len([*equal]))
            first = rows.stop
            changes = np.flatnonzero(np.diff(np.pad(self.cells[rows.start].astype(int), 1)))
            for start, end in changes.reshape(-1, 2).tolist():
                yield rows, range(start, end)

    def _box(self, rows: range, columns: range) -> Path:
        top, bottom, left, right = rows.start, rows.stop, columns.start, columns.stop
        corners = [(top, left), (top, right), (bottom, right), (bottom, left), (top, left)]
        return Path([self.at(*corner) for corner in corners], closed=True)


def cube_figure(
    cube: Cube, size: style.Size = style.SIZES["column"], *, has_caption: bool = True
) -> Figure:
    """A single cube, without the caption where a page has it once for all."""
    row = 0.72 * size.width
    return _figure([cube], replace(size, columns=1, row=row), has_caption=has_caption)


def sheet(cubes: Sequence[Cube], size: style.Size = style.PAGE) -> Figure:
    """Cubes side by side."""
    row = 1.1 * size.width / SHEET_COLUMNS
    return _figure(cubes, replace(size, columns=SHEET_COLUMNS, row=row))


def caption(cubes: Sequence[Cube]) -> str:
    """The caption of cubes of one shape."""
    cells = cubes[0].statistics[0].cells
    n, c, h, w = cells.shape
    return CAPTION.format(n=n, c=c, h=h, w=w, cells=cells.size)


def _figure(cubes: Sequence[Cube], size: style.Size, *, has_caption: bool = True) -> Figure:
    with style.drawing(size):
        figure, axes = style.panels(size, len(cubes), sharey=False)
        for ax, cube in zip(axes, cubes, strict=True):
            _draw(ax, cube, size)
        if has_caption:
            style.add_caption(figure, caption(cubes), size)
    return figure


def _draw(ax: Axes, cube: Cube, size: style.Size) -> None:
    coloured = np.zeros_like(cube.statistics[0].cells)
    thin = 0.1 * size.width / size.columns
    for face in _faces(coloured):
        _add(ax, face.grid(), edgecolor=style.FAINT, linewidth=thin, zorder=3)
    entries = []
    for statistic, colour in zip(cube.statistics, COLOURS, strict=False):
        # Of statistics that overlap the first is drawn.
        if (statistic.cells & coloured).any():
            continue
        coloured |= statistic.cells
        faces = _faces(statistic.cells)
        for face in faces:
            _add(ax, face.coloured(), facecolor=colour, alpha=face.strength)
        cell = faces[0].cell(statistic.channel)
        _add(ax, cell, edgecolor=style.INK, linewidth=4 * thin, zorder=4)
        entries.append(Patch(color=colour, label=statistic.in_words()))
    _name_axes(ax, *coloured.shape)
    ax.set_aspect("equal")
    ax.autoscale_view()
    ax.set_axis_off()
    style.set_title(ax, shortened(visible(cube.title), LONGEST_TITLE))
    _add_legend(ax, entries)


def _add_legend(ax: Axes, entries: list[Patch]) -> None:
    """Names the colours below the cube, in space of their own: no legend narrows its panel."""
    low, high = ax.get_ylim()
    ax.set_ylim(low - BELOW * (high - low), high)
    legend = ax.legend(
        handles=entries,
        loc="upper left",
        bbox_to_anchor=(0, LEGEND),
        borderpad=0,
        borderaxespad=0,
        frameon=False,
        fontsize="small",
        handlelength=1,
    )
    legend.set_in_layout(False)


def _add(ax: Axes, path: Path, **look: object) -> None:
    ax.add_patch(PathPatch(path, **({"facecolor": "none", "edgecolor": "none"} | look)))


def _faces(cells: Mask) -> tuple[Face, Face, Face]:
    """The first sample, the first pixel of each map, and the last channel."""
    n, c = cells.shape[:2]
    cells = cells.reshape(n, c, -1)
    corner = np.zeros(2)
    return (
        Face(cells[0].T, corner, PIXEL, CHANNEL, 0.8),
        Face(cells[:, :, 0], corner, SAMPLE, CHANNEL, 0.5),
        Face(cells[:, -1], corner + c * CHANNEL, SAMPLE, PIXEL, 1.0),
    )


def _name_axes(ax: Axes, n: int, c: int, h: int, w: int) -> None:
    """Writes the letters of the axes along the edges."""
    bottom = h * w * PIXEL
    places = {
        "c": (bottom + c / 2 * CHANNEL, (0, -2), "center", "top"),
        "h w": (bottom / 2, (-2, 0), "right", "center"),
        "n": (bottom + c * CHANNEL + n / 2 * SAMPLE, (2, -2), "left", "top"),
    }
    for name, (place, offset, horizontal, vertical) in places.items():
        ax.annotate(
            name,
            tuple(place),
            offset,
            textcoords="offset points",
            horizontalalignment=horizontal,
            verticalalignment=vertical,
            color=style.FAINT,
            fontsize="small",
        )
