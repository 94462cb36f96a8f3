"""Figures as files: SVG, PNG or PDF, the same bytes for the same figure."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from normbench.analysis.figures.style import PAGE, Size, drawing
from normbench.atomic import disk_errors, write_bytes
from normbench.errors import NormbenchError, unknown

# Without the date: the same figure is the same bytes every day.
NOTHING = dict.fromkeys(("Date", "Creator", "Format", "Type"))
FORMATS: dict[str, dict[str, Any]] = {
    ".svg": {"metadata": NOTHING},
    ".png": {"dpi": 160},
    ".pdf": {"metadata": {"CreationDate": None}},
}


def save(figure: Figure, path: Path, size: Size = PAGE) -> None:
    """Writes the figure in the format of the path's ending.

    Raises NormbenchError for an ending outside FORMATS, and where the file cannot be
    written.
    """
    suffix = path.suffix.lower()
    if suffix not in FORMATS:
        raise unknown("format", path.suffix or str(path), FORMATS)
    for parent in path.parents:
        if parent.is_file():
            raise NormbenchError(f"--output: '{parent}' is not a folder")
    content = _drawn(figure, suffix, size)
    if suffix == ".svg":
        content = without_links(content.decode()).encode()
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, content)


def to_svg(figure: Figure, size: Size) -> str:
    """The figure as SVG, whose lines and points link to `#runs:norm=bn;batch_size=64`."""
    return _drawn(figure, ".svg", size).decode()


def without_links(svg: str) -> str:
    """The SVG without the links, for a file without the rows of runs."""
    return re.sub(r' xlink:href="#runs:[^"]*" target="_blank"', "", svg)


def _drawn(figure: Figure, suffix: str, size: Size) -> bytes:
    buffer = io.BytesIO()
    with drawing(size):
        figure.savefig(buffer, format=suffix[1:], **FORMATS[suffix])
        # The layout is done: the next format reuses the positions. Any engine, "none" too, would
        # have it drawn twice.
        figure.set_layout_engine(None)
    return buffer.getvalue()
