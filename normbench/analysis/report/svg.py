"""A figure as part of a page: in the page's colours, with ids of its own, its points leading to their runs."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping

from matplotlib.figure import Figure

from normbench.analysis.figures.style import FAINT, INK, PAPER, Size, alt_text, to_bytes

FirstRuns = Mapping[tuple[str, str], str]  # by norm and batch size
LINK = re.compile(r'xlink:href="#runs:([^:"]+):([^":]+)" target="_blank"')


def inline_svg(figure: Figure, name: str, size: Size, first_runs: FirstRuns) -> str:
    """The figure as an SVG element without a size of its own; `name` sets its ids apart from those of others."""
    text = to_bytes(figure, "svg", size, metadata={"Date": None}).decode()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    for colour, of_page in ((INK, "currentColor"), (FAINT, "var(--faint)"), (PAPER, "none")):
        text = text.replace(colour, of_page)
    text = re.sub(r'\b(id="|url\(#|xlink:href="#(?!runs:))', rf"\g<1>{name}-", text)
    tag, inside = text[: text.index(">")], text[text.index(">") :]
    tag = re.sub(r'\s(width|height)="[^"]+"', "", tag)
    return f'{tag} role="group" aria-label="{html.escape(alt_text(figure))}"{_linked(inside, first_runs)}'


def _linked(text: str, first_runs: FirstRuns) -> str:
    """With links to the first run of their norm and batch size, of which a script shows all; the tab key stops once."""
    seen: set[tuple[str, str]] = set()

    def link(found: re.Match[str]) -> str:
        norm, batch_size = key = found[1], found[2]
        stop = ' tabindex="-1"' if key in seen else ""
        seen.add(key)
        return (
            f'href="#run-{first_runs.get(key, "")}" data-norm="{norm}" data-batch_size="{batch_size}"'
            f' aria-label="Runs of {norm} at batch size {batch_size}"{stop}'
        )

    return LINK.sub(link, text)
