"""A figure within a page: in the page's colours, with points linked to rows of runs."""

from __future__ import annotations

import html
import re
from collections.abc import Callable
from urllib.parse import parse_qsl

from normbench.analysis.figures.style import BEHIND, FAINT, GRID, INK, PAPER

Settings = tuple[tuple[str, str], ...]  # (("norm", "bn"), ("batch_size", "64"))
FirstRun = Callable[[Settings], str]  # the id of the first run with these settings

COLOURS = {
    INK: "currentColor",
    FAINT: "var(--faint)",
    PAPER: "none",
    GRID: "var(--grid)",
    BEHIND: "var(--page)",
}
TAG = re.compile(r"<[^>]*>")  # the text between may hold anything, a colour's name too
METADATA = re.compile(r"<metadata>.*?</metadata>", re.DOTALL)
CAPTION = re.compile(r'<g id="caption">.*?translate\([\d.]+ ([\d.]+)\).*?</g>', re.DOTALL)
IDS = re.compile(r'\b(id="|url\(#|xlink:href="#(?!runs:))')
LINK = re.compile(r'xlink:href="#runs:([^"]+)" target="_blank"')
ASCENT = 9  # points from the top of a caption to the first baseline


def inline_svg(svg: str, name: str, alt: str, first_run: FirstRun) -> str:
    """The figure as an SVG element as wide as the page, without the caption.

    name: begins every id of the element, so that figures of a page share no id.
    alt: the figure in words.
    """
    text = METADATA.sub("", svg[svg.index("<svg") :])
    text = _without_caption(text)
    text = TAG.sub(lambda tag: _restyled(tag[0], name), text)
    tag, inside = text[: text.index(">")], text[text.index(">") :]
    tag = re.sub(r'\s(width|height)="[^"]+"', "", tag)
    return f'{tag} role="group" aria-label="{html.escape(alt)}"{_linked(inside, first_run)}'


def _restyled(tag: str, name: str) -> str:
    for colour, of_page in COLOURS.items():
        tag = tag.replace(colour, of_page)
    return IDS.sub(rf"\g<1>{name}-", tag)


def _without_caption(text: str) -> str:
    """The figure cut off above the caption; the page writes the caption as wrapping text."""
    found = CAPTION.search(text)
    if found is None:
        return text
    height = float(found[1]) - ASCENT
    text = CAPTION.sub("", text)
    return re.sub(r'viewBox="0 0 ([\d.]+) [\d.]+"', rf'viewBox="0 0 \1 {height:g}"', text, count=1)


def _linked(text: str, first_run: FirstRun) -> str:
    """Links to the first run of the settings; the page's script shows all runs of them instead."""
    seen: set[str] = set()

    def link(found: re.Match[str]) -> str:
        settings = tuple(parse_qsl(found[1], separator=";", keep_blank_values=True))
        data = " ".join(f'data-{name}="{html.escape(value)}"' for name, value in settings)
        # A line of many points is a single stop of the tab key.
        stop = ' tabindex="-1"' if found[1] in seen else ""
        seen.add(found[1])
        label = html.escape(_label(dict(settings)))
        return f'href="#run-{html.escape(first_run(settings))}" {data} aria-label="{label}"{stop}'

    return LINK.sub(link, text)


def _label(settings: dict[str, str]) -> str:
    norm = settings.pop("norm")
    rest = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in settings.items())
    return f"Runs of {norm} at {rest}" if rest else f"Runs of {norm}"
