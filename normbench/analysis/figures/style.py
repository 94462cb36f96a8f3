"""How figures look: one colour and marker per norm everywhere, sizes for paper, slide and web, captions, files.

Nothing here touches matplotlib's global state: what differs from its defaults holds within `drawing` only.
"""

from __future__ import annotations

import io
import itertools
import re
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from normbench.atomic import disk_errors, write_bytes
from normbench.errors import NormbenchError, unknown

# Text and axes, small print, background: a page that shows a figure gives them colours of its own.
INK, FAINT, PAPER = "#1b1b1f", "#5b5b66", "#ffffff"
# Okabe and Ito's colours, which colour-blind readers tell apart, and markers for print in grey: one pair per norm, the
# same in every figure.
BLUE, ORANGE, GREEN, RED, PINK, SKY = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#D55E00",
    "#CC79A7",
    "#56B4E9",
)
GREY = "#777777"
# The colour tells the family: by batch, mixed or corrected batch, by sample, by instance, by group, of weights, none.
FAMILIES = {
    BLUE: {"bn": "o", "bn_custom": "v", "lazy_bn": "P", "sync_bn": "*"},
    SKY: {
        "ghost_bn": "o",
        "batch_renorm": "v",
        "ws_bn": "P",
        "evonorm_b0": "*",
        "switchable": "<",
        "ibn": ">",
    },
    ORANGE: {"ln": "s", "ln_chw": "v", "ln_c": "P", "rms": "*"},
    GREEN: {"in": "^", "in_affine": "v", "frn": "P"},
    RED: {"gn": "D", "ws_gn": "v", "evonorm_s0": "P"},
    PINK: {"weight_norm": "v", "spectral_norm": "P", "scaled_ws": "*"},
    GREY: {"none": "X", "dyt": "v"},
}
STYLES = {
    norm: (colour, marker) for colour, norms in FAMILIES.items() for norm, marker in norms.items()
}
MARKERS = ("v", "P", "*", "<", ">", "h", "p", "d", "o", "s", "^", "D", "X")
OTHERS = {
    colour: [(colour, marker) for marker in MARKERS if (colour, marker) not in STYLES.values()]
    for colour in (INK, PINK, SKY, BLUE, ORANGE, GREEN, RED)
}
FREE = [
    pair for pairs in itertools.zip_longest(*OTHERS.values()) for pair in pairs if pair
]  # the colour changes first
Styles = dict[str, tuple[str, str]]  # colour and marker by label
ROOM_FOR_ROWS = 3  # of a legend, in a figure of the usual height
LONGEST_AT_END = 20  # letters of a label that stands at the end of its line: longer ones leave no room for the lines


@dataclass(frozen=True)
class Size:
    """Inches and points: the width of a figure, the height of a row of panels, panels in a row, the size of text.

    height: of the whole figure, where that is given. is_phone: without a caption, which the page says around it.
    """

    width: float
    row: float
    columns: int
    font: float
    height: float | None = None
    is_phone: bool = False


SIZES = {
    "column": Size(3.5, 2.5, 1, 8),
    "page": Size(7.2, 2.5, 3, 9),
    "slide": Size(13.33, 4.0, 3, 18, height=7.5),
}
PAGE = SIZES["page"]
FORMATS: dict[str, dict[str, Any]] = {
    ".svg": {"metadata": {"Date": None}},
    ".png": {"dpi": 160},
    ".pdf": {"metadata": {"CreationDate": None}},
}
PHONE = Size(3.5, 2.6, 1, 9.5, is_phone=True)


def size_called(name: str) -> Size:
    """The size of that name; raises NormbenchError for another."""
    if name not in SIZES:
        raise unknown("size", name, SIZES)
    return SIZES[name]


@contextmanager
def drawing(size: Size) -> Iterator[None]:
    """Our style for what is drawn and saved within."""
    colours = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color")
    rc: Any = dict.fromkeys(colours, INK) | {
        "font.size": size.font,
        "font.family": "sans-serif",
        "axes.titlesize": "medium",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.facecolor": PAPER,
        "figure.facecolor": PAPER,
        "savefig.facecolor": PAPER,
        "grid.alpha": 0.25,
        "lines.linewidth": size.font / 6,
        "lines.markersize": size.font / 2,
        "svg.hashsalt": "normbench",
        "svg.fonttype": "none",
    }
    with mpl.rc_context(rc):
        yield


def panels(
    size: Size, count: int, columns: int | None = None, *, sharey: bool = True
) -> tuple[Figure, list[Axes]]:
    """A figure with `count` panels in rows of `columns`, by default as many as the size has in a row."""
    columns = columns or min(size.columns, count)
    rows = -(-count // columns)
    height = size.height or rows * size.row * (1.25 if count == 1 else 1)
    figure = Figure(figsize=(size.width, height), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(rows, columns, sharey=sharey, squeeze=False)
    for spare in list(grid.flat)[count:]:
        spare.remove()
    return figure, list(grid.flat)[:count]


def is_first(axes: Axes) -> bool:
    """Whether the panel is the first of its row."""
    spec = axes.get_subplotspec()
    return spec is None or spec.is_first_col()


def set_title(axes: Axes, text: str) -> None:
    """Above the panel's left end, broken into lines where the next panel begins."""
    spec, figure = axes.get_subplotspec(), axes.get_figure(root=True)
    assert spec is not None
    assert figure is not None
    points = 72 * figure.get_figwidth() / spec.get_gridspec().ncols
    columns = int(points / (0.65 * mpl.rcParams["font.size"]))
    axes.set_title(textwrap.fill(text, columns), loc="left")


def styles(labels: Iterable[str]) -> Styles:
    """Colour and marker by label: fixed for the norms that have one, the next free pair for others."""
    free = itertools.cycle(FREE)
    return {label: STYLES.get(label) or next(free) for label in labels}


def add_caption(figure: Figure, text: str, size: Size) -> None:
    """What the figure rests on: as its label, and in small print below it."""
    figure.set_label(text)
    if not size.is_phone:
        columns = int(size.width * 72 / (0.40 * size.font))
        figure.supxlabel(
            textwrap.fill(text, columns), x=0.01, ha="left", fontsize=0.75 * size.font, color=FAINT
        )


def add_labels(figure: Figure, axes: Sequence[Axes], size: Size) -> None:
    """Says which line is which: at their ends where there is one panel, else in a legend above all."""
    named = {
        label: line
        for panel in axes
        for line, label in zip(*panel.get_legend_handles_labels(), strict=True)
    }
    if len(axes) == 1 and 0 < len(named) <= 8 and max(map(len, named)) <= LONGEST_AT_END:
        _label_ends(axes[0], size)
    elif named:
        columns = max(1, int(size.width * 72 / (size.font * (max(map(len, named)) * 0.6 + 4))))
        figure.legend(
            list(named.values()),
            list(named),
            loc="outside upper left",
            ncols=columns,
            frameon=False,
        )
        more = max(0, -(-len(named) // columns) - ROOM_FOR_ROWS)
        if size.height is None:  # a long legend takes nothing from the panels
            figure.set_figheight(figure.get_figheight() + 1.5 * more * size.font / 72)


def alt_text(figure: Figure) -> str:
    """The figure in words: what each panel shows, and where its lines begin and end."""
    said, measured = [], ""
    for axes in figure.axes:
        measured = axes.get_ylabel() or measured  # a row of panels may share it
        lines = [line for line in axes.get_lines() if not str(line.get_label()).startswith("_")]
        ends = [(str(line.get_label()), np.asarray(line.get_ydata(), float)) for line in lines]
        known = [(label, y[np.isfinite(y)]) for label, y in ends]
        told = "; ".join(f"{label} from {y[0]:.3g} to {y[-1]:.3g}" for label, y in known if len(y))
        title = axes.get_title(loc="left")
        name = f"{title}: " if title else ""
        said.append(f"{name}{measured} against {axes.get_xlabel()}. {told}".strip())
    return " ".join(f"{one.rstrip('.')}." for one in said)


def save(figure: Figure, path: Path, size: Size = PAGE) -> None:
    """Writes the figure in the format that the path ends in; the same figure gives the same bytes.

    Raises NormbenchError for another ending than .svg, .png or .pdf, and where the file cannot be written.
    """
    suffix = path.suffix.lower()
    if suffix not in FORMATS:
        raise unknown("format", path.suffix or str(path), FORMATS)
    if blocking := next((parent for parent in path.parents if parent.is_file()), None):
        raise NormbenchError(f"--output: '{blocking}' is not a folder")
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(
        path,
        without_links(to_svg(figure, size)).encode()
        if suffix == ".svg"
        else _drawn(figure, suffix, size),
    )


def to_svg(figure: Figure, size: Size) -> str:
    """The figure as SVG, whose lines and points lead to the runs behind them on a page."""
    return _drawn(figure, ".svg", size).decode()


def without_links(svg: str) -> str:
    """For a file of its own, where there is no such page."""
    return re.sub(r' xlink:href="#runs:[^"]*" target="_blank"', "", svg)


def _drawn(figure: Figure, suffix: str, size: Size) -> bytes:
    buffer = io.BytesIO()
    with drawing(size):
        figure.savefig(buffer, format=suffix[1:], **FORMATS[suffix])
    figure.set_layout_engine("none")  # what is laid out stays so in another format
    return buffer.getvalue()


def _label_ends(axes: Axes, size: Size) -> None:
    """Writes each line's name beside its last point, with its marker, moved apart where they would touch."""
    named = [line for line in axes.get_lines() if not str(line.get_label()).startswith("_")]
    lines = [line for line in named if np.isfinite(np.asarray(line.get_ydata(), float)).any()]
    axes.margins(x=0.02)
    low, high = axes.get_ylim()
    reaching = [line for line in lines if np.isfinite(np.asarray(line.get_ydata(), float)[-1])]
    for line in (line for line in lines if line not in reaching):
        text = axes.annotate(
            str(line.get_label()), _last(line), xytext=(size.font, 0), textcoords="offset points"
        )
        text.set_verticalalignment("center")
    ends = sorted((_last(line)[1], index) for index, line in enumerate(reaching))
    least = 1.25 * size.font / (72 * 0.7 * (size.height or size.row))
    places = spread_out([(end - low) / (high - low) for end, _ in ends], least)
    beside = 1.0 + size.font / 72 / size.width
    for (_, index), place in zip(ends, places, strict=True):
        line = reaching[index]
        text = axes.annotate(
            str(line.get_label()),
            (1.0, place),
            (1.5 * size.font, 0),
            "axes fraction",
            "offset points",
        )
        text.set(verticalalignment="center", annotation_clip=False)
        (mark,) = axes.plot(
            [beside], [place], transform=axes.transAxes, label="_", linestyle="", clip_on=False
        )
        mark.set(marker=line.get_marker(), color=line.get_color())


def _last(line: Line2D) -> tuple[float, float]:
    """The last known point of a line."""
    x, y = np.asarray(line.get_xdata(), float), np.asarray(line.get_ydata(), float)
    known = np.flatnonzero(np.isfinite(y))[-1]
    return float(x[known]), float(y[known])


def spread_out(places: Sequence[float], least: float) -> list[float]:
    """Ascending places moved as little as needed to be `least` apart, around the middle of those that touch."""
    groups: list[list[float]] = []  # of touching labels: sum of places, number
    for place in places:
        groups.append([place, 1])
        while len(groups) > 1 and _low(groups[-1], least) < _high(groups[-2], least):
            last = groups.pop()
            groups[-1] = [groups[-1][0] + last[0], groups[-1][1] + last[1]]
    return [
        _low(group, least) + (i + 0.5) * least for group in groups for i in range(int(group[1]))
    ]


def _low(group: list[float], least: float) -> float:
    return group[0] / group[1] - group[1] * least / 2


def _high(group: list[float], least: float) -> float:
    return group[0] / group[1] + group[1] * least / 2
