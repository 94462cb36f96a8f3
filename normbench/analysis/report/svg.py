"""A figure as part of a page: in the page's colours, with ids of its own, its points leading to their runs."""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Mapping

from normbench.analysis.figures.style import FAINT, INK, PAPER

FirstRun = Callable[[Mapping[str, str]], str]  # of those with these settings
LINK = re.compile(r'xlink:href="#runs:([^"]+)" target="_blank"')


def inline_svg(svg: str, name: str, alt: str, first_run: FirstRun) -> str:
    """The figure as an SVG element without a size of its own; `name` sets its ids apart from those of others."""
    text = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    for colour, of_page in ((INK, "currentColor"), (FAINT, "var(--faint)"), (PAPER, "none")):
        text = text.replace(colour, of_page)
    text = re.sub(r'\b(id="|url\(#|xlink:href="#(?!runs:))', rf"\g<1>{name}-", text)
    tag, inside = text[: text.index(">")], text[text.index(">") :]
    tag = re.sub(r'\s(width|height)="[^"]+"', "", tag)
    return f'{tag} role="group" aria-label="{html.escape(alt)}"{_linked(inside, first_run)}'


def _linked(text: str, first_run: FirstRun) -> str:
    """With links to the first run of their settings, of which a script shows all; the tab key stops once at each."""
    seen: set[str] = set()

    def link(found: re.Match[str]) -> str:
        settings = dict(part.split("=", 1) for part in html.unescape(found[1]).split(";"))
        data = " ".join(f'data-{name}="{html.escape(value)}"' for name, value in settings.items())
        others = ", ".join(
            f"{name.replace('_', ' ')} {value}"
            for name, value in settings.items()
            if name != "norm"
        )
        label = " at ".join(filter(None, [f"Runs of {settings['norm']}", others]))
        stop = ' tabindex="-1"' if found[1] in seen else ""
        seen.add(found[1])
        return f'href="#run-{first_run(settings)}" {data} aria-label="{html.escape(label)}"{stop}'

    return LINK.sub(link, text)
