"""A figure as part of a page: in the page's colours, with ids of its own, its points leading to their runs."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping

from matplotlib.figure import Figure

from normbench.analysis.figures.style import INK, Size, alt_text, to_bytes

FirstRuns = Mapping[tuple[str, str], str]  # by norm and batch size
LINK = re.compile(r'xlink:href="#runs:([^:"]+):([^":]+)"')


def inline_svg(figure: Figure, name: str, size: Size, first_runs: FirstRuns) -> str:
    """The figure as an SVG element without a size of its own; `name` sets its ids apart from those of others."""
    text = to_bytes(figure, "svg", size, metadata={"Date": None}).decode()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r'\b(id="|url\(#|xlink:href="#(?!runs:))', rf"\g<1>{name}-", text.replace(INK, "currentColor"))
    text = LINK.sub(lambda found: _link(found[1], found[2], first_runs), text)
    tag, inside = text[: text.index(">")], text[text.index(">") :]
    tag = re.sub(r'\s(width|height)="[^"]+"', "", tag)
    return f'{tag} role="group" aria-label="{html.escape(alt_text(figure))}"{inside}'


def _link(norm: str, batch_size: str, first_runs: FirstRuns) -> str:
    """To the first run of this norm and batch size; a script shows all of them instead."""
    run = first_runs.get((norm, batch_size), "")
    label = f"Runs of {norm} at batch size {batch_size}"
    return f'href="#run-{run}" data-norm="{norm}" data-batch_size="{batch_size}" aria-label="{label}"'
