"""The sources' decision tree as a figure: an outline, whose branches end in norms."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from normbench.analysis.decision_tree import LARGE, SMALL, DecisionTree, Question
from normbench.analysis.figures.style import FAINT, SIZES, Size, drawing, looks_of

ROW = 0.23  # inches
INDENT = 0.07  # of the width
ENDS = 0.80  # where norms stand, as a share of the width


@dataclass(frozen=True)
class Row:
    """A line of the outline. parent: the row that it hangs from, or None."""

    text: str
    depth: int
    parent: int | None
    norms: tuple[str, ...] = ()
    is_question: bool = False


def rows_of(tree: DecisionTree) -> list[Row]:
    """The lines from top to bottom: a question, its branches below it, each indented."""
    rows: list[Row] = []
    for question in tree.questions:
        _add(rows, question, tree.small_below)
    return rows


def draw_tree(tree: DecisionTree, size: Size = SIZES["column"]) -> Figure:
    """Draws the outline, a norm in its colour."""
    rows = rows_of(tree)
    with drawing(size):
        figure = Figure(figsize=(size.width, ROW * (len(rows) + 1)))
        FigureCanvasAgg(figure)
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set_axis_off()
        axes.set_xlim(0, 1)
        axes.set_ylim(len(rows), -1)
        for place in range(len(rows)):
            _draw_row(axes, place, rows, size)
    return figure


def _add(
    rows: list[Row],
    question: Question,
    small_below: int,
    depth: int = 0,
    parent: int | None = None,
) -> None:
    """Adds the lines of a question and of all that follows it."""
    top = len(rows)
    rows.append(Row(f"{question.asks}?", depth, parent, is_question=True))
    sizes: dict[tuple[str, ...], str]
    sizes = {(LARGE,): f"{small_below} or more", (SMALL,): f"below {small_below}"}
    for branch in question.branches:
        number = sizes.get(branch.when)
        text = f"{branch.title} ({number})" if number else branch.title
        rows.append(Row(text, depth + 1, top, branch.norms))
        if branch.then is not None:
            _add(rows, branch.then, small_below, depth + 2, len(rows) - 1)


def _draw_row(axes: Axes, place: int, rows: list[Row], size: Size) -> None:
    row = rows[place]
    x = 0.03 + INDENT * row.depth
    weight = "bold" if row.is_question else "normal"
    axes.text(x, place, row.text, va="center", weight=weight)
    if row.parent is not None:
        # The stem goes on from the branch above, lest strokes darken one another.
        siblings = [other for other in range(place) if rows[other].parent == row.parent]
        top = siblings[-1] if siblings else row.parent + 0.4
        stem = x - INDENT + 0.02
        axes.plot([stem, stem, x - 0.01], [top, place, place], color=FAINT, lw=size.font / 16)
    for x_of_norm, norm, colour in _ends(row.norms):
        axes.text(x_of_norm, place, norm, va="center", color=colour, weight="bold")


def _ends(norms: tuple[str, ...]) -> Iterator[tuple[float, str, str]]:
    looks = looks_of(norms)
    for index, norm in enumerate(norms):
        yield ENDS + 0.1 * index, norm, looks[norm][0]
