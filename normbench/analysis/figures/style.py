"""The look of figures: a colour and a marker per norm, sizes for paper, page and slide, captions.

Matplotlib's global style is never changed: the style of `drawing` ends with the block.
"""

from __future__ import annotations

import io
import itertools
import textwrap
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from normbench.errors import unknown

Look = tuple[str, str]  # colour and marker
Looks = dict[str, Look]  # by the label of a line

# Text and axes, small print, background. A page replaces all three, by light or dark.
INK, FAINT, PAPER = "#1b1b1f", "#5b5b66", "#ffffff"
# Lines of the grid, and what lies behind a number that lines would strike through: a page has
# them in its own colours, too. PAPER itself is nothing there.
GRID, BEHIND = "#b0b0b0", "#fffffe"

# Colours of Okabe and Ito (https://jfly.uni-koeln.de/color), distinct for colour-blind readers.
BLUE, SKY, ORANGE, GREEN = "#0072B2", "#56B4E9", "#E69F00", "#009E73"
RED, PINK, GREY = "#D55E00", "#CC79A7", "#777777"

# The same in every figure: the colour tells the family, the marker the norm, also in grey print.
FAMILIES = {
    # Statistics of the batch; the same, corrected or mixed.
    BLUE: {
        "bn": "o",
        "bn_custom": "v",
        "lazy_bn": "P",
        "sync_bn": "*",
        "ebn": "s",
        "iternorm": "D",
    },
    SKY: {
        "ghost_bn": "o",
        "batch_renorm": "v",
        "ws_bn": "P",
        "evonorm_b0": "*",
        "evonorm_b1": "X",
        "evonorm_b2": "D",
        "switchable": "<",
        "ibn": ">",
        "bcn": "s",
        "bin": "d",
        "mabn": "h",
        "online": "p",
    },
    # Statistics of the sample, of a channel of a sample, of a group of channels.
    ORANGE: {"ln": "s", "ln_chw": "v", "ln_c": "P", "rms": "*", "simple": "X"},
    GREEN: {"in": "^", "in_affine": "v", "frn": "P"},
    RED: {"gn": "D", "ws_gn": "v", "evonorm_s0": "P", "evonorm_s1": "X", "evonorm_s2": "*"},
    # Normalized weights; no statistics.
    PINK: {"weight_norm": "v", "spectral_norm": "P", "scaled_ws": "*"},
    GREY: {"none": "X", "dyt": "v", "derf": "P"},
}
STYLES: Looks = {}
for colour, markers in FAMILIES.items():
    STYLES |= {norm: (colour, marker) for norm, marker in markers.items()}
# Norms of the user take the free pairs, the markers of no norm above first: each of the first 21
# norms differs in colour from the norm before.
FREE_MARKERS = ("h", "p", "d", "<", ">", "*", "P", "v", "o", "s", "^", "D", "X")
FREE_COLOURS = (INK, PINK, SKY, BLUE, ORANGE, GREEN, RED)
# Lines, for a title or caption with a very long name.
MOST_IN_TITLE, MOST_IN_CAPTION = 4, 12


@dataclass(frozen=True)
class Size:
    """The size of a figure in inches, and of its text in points.

    width, height: of the whole figure; without a height, each row of panels has `row` inches.
    columns: panels in a row.
    """

    width: float
    row: float
    columns: int
    font: float
    height: float | None = None


SIZES = {
    "column": Size(3.5, 2.5, 1, 8),
    "page": Size(7.2, 2.5, 3, 9),
    "slide": Size(13.33, 4.0, 3, 18, height=7.5),
}
PAGE = SIZES["page"]


def size_called(name: str) -> Size:
    """The size of the name. Raises NormbenchError for an unknown name."""
    if name not in SIZES:
        raise unknown("size", name, SIZES)
    return SIZES[name]


def looks_of(labels: Iterable[str]) -> Looks:
    """Colour and marker by label: fixed for the norms in STYLES, the next free pair for others."""
    looks = [(colour, marker) for marker in FREE_MARKERS for colour in FREE_COLOURS]
    free = itertools.cycle([look for look in looks if look not in STYLES.values()])
    return {label: STYLES.get(label) or next(free) for label in labels}


@contextmanager
def drawing(size: Size) -> Iterator[None]:
    """Sets the style for drawing and saving figures within the block."""
    rc: Any = {
        "font.size": size.font,
        "font.family": "sans-serif",
        "axes.titlesize": "medium",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.facecolor": PAPER,
        "figure.facecolor": PAPER,
        # A figure without a layout engine has none, whatever the user's own style says.
        "figure.autolayout": False,
        "figure.constrained_layout.use": False,
        "savefig.facecolor": PAPER,
        "grid.color": GRID,
        "grid.alpha": 0.25,
        "lines.linewidth": size.font / 6,
        "lines.markersize": size.font / 2,
        # Ids of SVG elements are hashes: the salt makes the same figure the same bytes.
        "svg.hashsalt": "normbench",
        "svg.fonttype": "none",
        # A name with two dollar signs is a name, and no formula.
        "text.parse_math": False,
    }
    inked = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color")
    with mpl.rc_context(rc | dict.fromkeys(inked, INK)), warnings.catch_warnings():
        # A letter that the font lacks is a box in a PNG; the SVG has it as text.
        warnings.filterwarnings("ignore", r"Glyph \d+ .* missing from font")
        yield


class ShownFigure(Figure):
    """A figure that a notebook shows without pyplot."""

    def __init__(self, size: Size, height: float) -> None:
        super().__init__(figsize=(size.width, height), layout="constrained")
        FigureCanvasAgg(self)
        self._size = size

    def _repr_png_(self) -> bytes:
        """The figure as PNG, which IPython asks for by this name."""
        buffer = io.BytesIO()
        with drawing(self._size):
            self.savefig(buffer, format="png", dpi=110)
        return buffer.getvalue()


def panels(
    size: Size, count: int, columns: int | None = None, *, sharey: bool = True
) -> tuple[Figure, list[Axes]]:
    """A figure with `count` panels in rows of `columns`, by default of `size.columns`."""
    columns = columns or min(size.columns, count)
    rows = -(-count // columns)
    single = 1.25 if count == 1 else 1
    height = size.height or rows * size.row * single
    figure = ShownFigure(size, height)
    grid = [*figure.subplots(rows, columns, sharey=sharey, squeeze=False).flat]
    for spare in grid[count:]:
        spare.remove()
    return figure, grid[:count]


def is_first(axes: Axes) -> bool:
    """Whether the panel is the first of its row."""
    spec = axes.get_subplotspec()
    return spec is None or spec.is_first_col()


def set_title(axes: Axes, text: str) -> None:
    """Writes the title at the left end of the panel, in lines no wider than the panel."""
    spec, figure = axes.get_subplotspec(), axes.get_figure(root=True)
    assert spec is not None
    assert figure is not None
    points = 72 * figure.get_figwidth() / spec.get_gridspec().ncols
    letters = int(points / (0.65 * mpl.rcParams["font.size"]))
    axes.set_title(_wrapped(text, letters, MOST_IN_TITLE), loc="left")


def write_number(axes: Axes, text: str, at: tuple[float, float], align: str = "center") -> None:
    """Writes a number above a point, on a ground of its own: no line strikes it through."""
    ground = {"facecolor": BEHIND, "edgecolor": "none", "pad": 0.8}
    number = axes.annotate(text, at, (0, 5), textcoords="offset points", ha=align, bbox=ground)
    number.set_zorder(1.8)  # over the grid, under the points


def add_caption(figure: Figure, text: str, size: Size, own: str | None = None) -> None:
    """Writes the caption below the panels in small print; the figure's label is the same text.

    own: the part that says only what is this figure's, for a page that says the rest once.
    """
    figure.set_label(text)
    letters = int(size.width * 72 / (0.40 * size.font))
    wrapped = _wrapped(text, letters, MOST_IN_CAPTION)
    caption = figure.supxlabel(wrapped, x=0.01, ha="left", fontsize=0.75 * size.font, color=FAINT)
    # A page cuts the element with the id `caption` off, and writes wrapping text instead.
    caption.set_gid("caption")
    caption.set_label(text if own is None else own)


def own_caption(figure: Figure) -> str:
    """What the caption says of this figure alone; empty without a caption."""
    captions = [text for text in figure.texts if text.get_gid() == "caption"]
    return str(captions[0].get_label()) if captions else ""


def _wrapped(text: str, letters: int, most: int) -> str:
    return textwrap.fill(text, letters, max_lines=most, placeholder=" ...")
