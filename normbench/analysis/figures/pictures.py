"""What networks make of a few test images: contents above, and below what each norm has made."""

from __future__ import annotations

import io

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from normbench.analysis.figures import style
from normbench.analysis.figures.layout import add_basis, by_panel, prepared
from normbench.analysis.study import Study
from normbench.errors import NormbenchError

MOST_COLUMNS = 2  # of panels, which are wider than high


def pictures(study: Study, size: style.Size = style.PAGE) -> Figure:
    """The style image, the contents and the results of each norm, by setting, of the first seed.

    Raises NormbenchError where no run has kept a picture.
    """
    study, _ = prepared(study)
    drawn = study.done.only(study.pictures.keys())
    if drawn.runs.empty:
        raise NormbenchError("no pictures: no finished run has kept one")
    with style.drawing(size):
        facets = by_panel(drawn)
        columns = min(MOST_COLUMNS, size.columns, len(facets))
        figure, axes = style.panels(size, len(facets), columns, sharey=False)
        for ax, (title, panel) in zip(axes, facets, strict=True):
            _draw_panel(ax, panel)
            style.set_title(ax, title)
        seed = drawn.runs["seed"].iloc[0]
        remark = f"Above: style image and test images; below: what was made of them, seed {seed}."
        add_basis(figure, study, size, remark)
    return figure


def _draw_panel(ax: Axes, panel: Study) -> None:
    """The upper row of the first run's picture, and the lower row of each."""
    rows: list[NDArray[np.uint8]] = []
    names = ["content"]
    for run, line in zip(panel.runs["run"], panel.runs["line"], strict=True):
        upper, lower = np.split(_decoded(panel.pictures[run]), 2)
        rows += [lower] if rows else [upper, lower]
        names.append(line)
    height = len(rows[0])
    opaque = np.full((*rows[0].shape[:2], 1), 255, np.uint8)
    image = np.concatenate([np.concatenate([row, opaque], 2) for row in rows])
    image[height:, :height, 3] = 0  # below the style image
    ax.imshow(image, interpolation="nearest")
    ax.set_xticks([])
    ax.set_yticks([height * (number + 0.5) for number in range(len(rows))], names)
    ax.tick_params(length=0)
    ax.grid(False)
    for side in ("left", "bottom"):
        ax.spines[side].set_visible(False)


def _decoded(png: bytes) -> NDArray[np.uint8]:
    with Image.open(io.BytesIO(png), formats=["PNG"]) as image:
        return np.asarray(image.convert("RGB"))
