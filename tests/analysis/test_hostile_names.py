"""Names of any text in figures, on the page and in captions: shown as they are, and inert."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from kit.runs import in_study, one_run, some_seconds, timed
from kit.text import HOSTILE, steers

from normbench.analysis.figures.labels import add_labels, alt_text, named_lines, shortened
from normbench.analysis.figures.saving import to_svg
from normbench.analysis.figures.style import PAGE, Size, add_caption, drawing, panels, set_title
from normbench.analysis.outputs import output_named
from normbench.analysis.report.page import Drawing, page
from normbench.analysis.report.svg import inline_svg
from normbench.analysis.settings import describe
from normbench.analysis.study import Study
from normbench.analysis.tables.comparison import comparison_table
from normbench.analysis.tables.rendering import to_latex, to_terminal
from normbench.analysis.tables.table import Table
from normbench.text import visible

NAMES = HOSTILE.map(visible)
MANY = "".join("ABCDEFGHIJKLMNOPQRSTUVWXYZ"[place % 26] for place in range(300))


def drawn(name: str, size: Size = PAGE) -> str:
    """The SVG of a panel with a line of this name, in the title and the caption too."""
    with drawing(size):
        figure, axes = panels(size, 2)
        for ax in axes:
            ax.plot([0, 1], [0, 1], label=name)
            set_title(ax, name)
        add_labels(figure, axes, size)
        add_caption(figure, name, size)
    return to_svg(figure, size)


def texts(svg: str) -> list[str]:
    elements = ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")
    return ["".join(element.itertext()) for element in elements]


def study_of(norm: str, **settings: str) -> Study:
    return in_study(one_run(norm, 8, **settings), one_run(norm, 64), one_run("bn", 8))


@settings(max_examples=4)
@given(NAMES)
@example("$x_1$ and $\\frac$")
@example("_Mine")
@example("<!-- & ]]> -->")
def test_a_name_in_a_figure_is_its_text_and_the_svg_is_well_formed(name: str) -> None:
    svg = drawn(name)
    assert texts(svg).count(name.strip()) >= 1
    assert not steers(svg)


def test_a_name_that_begins_with_an_underscore_is_a_name() -> None:
    figure = output_named("figure", "batch-size").make(study_of("_Mine"), PAGE)
    assert "_Mine" in {str(line.get_label()) for line in named_lines(figure.axes[0])}
    assert "_Mine from" in alt_text(figure)
    assert "_Mine" in texts(to_svg(figure, PAGE))


def test_a_very_long_name_loses_its_middle_in_the_legend_and_none_in_the_table() -> None:
    table = comparison_table(study_of(MANY))
    assert table.shown["norm"].iloc[0] == MANY
    in_legend = [text for text in texts(drawn(MANY)) if "..." in text and text[:3] == MANY[:3]]
    assert in_legend
    assert any(text.endswith(MANY[-3:]) for text in in_legend)


@given(st.text(max_size=60), st.integers(5, 40))
def test_a_shortened_name_fits_and_keeps_both_ends(name: str, letters: int) -> None:
    short = shortened(name, letters)
    assert len(short) <= max(letters, 3)
    assert short == name if len(name) <= letters else "..." in short
    assert name.startswith(short.split("...")[0])
    assert name.endswith(short.rpartition("...")[2])


def test_a_very_long_name_at_the_axis_of_times_is_shortened() -> None:
    study = timed(study_of(MANY), some_seconds(MANY, "bn"))
    figure = output_named("figure", "time").make(study, PAGE)
    names = [label.get_text() for ax in figure.axes for label in ax.get_yticklabels()]
    assert shortened(MANY, 32) in names


@settings(max_examples=3)
@given(NAMES)
@example("a;norm=bn&x=1")
@example('"><img src=x onerror=alert(1)>')
@example('#1b1b1f id="x" url(#y)')
def test_a_point_on_the_page_leads_to_the_runs_of_its_norm(norm: str) -> None:
    figure = output_named("figure", "batch-size").make(study_of(norm), PAGE)
    asked = []

    def first_run(settings: tuple[tuple[str, str], ...]) -> str:
        asked.append(dict(settings)["norm"])
        return norm

    parsed = Elements(inline_svg(to_svg(figure, PAGE), "a-figure", norm, first_run))
    # bn is drawn at one batch size.
    label = norm.rpartition(":")[2]
    assert {*asked} == {label, "bn"}
    links = [attributes for tag, attributes in parsed.found if "data-norm" in attributes]
    assert {link["data-norm"] for link in links} == {label, "bn"}
    assert {link["href"] for link in links} == {f"#run-{norm}"}
    assert "img" not in {tag for tag, _ in parsed.found}
    assert label in "".join(parsed.texts)


class Elements(HTMLParser):
    """The elements of a page with their attributes, and its texts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def shape(text: str) -> list[tuple[str, list[str]]]:
    return [(tag, [*attributes]) for tag, attributes in Elements(text).found]


@settings(max_examples=8)
@given(HOSTILE)
@example("</script><script>alert(1)</script>\x1b[2J")
def test_the_elements_of_the_page_are_those_of_harmless_runs(text: str) -> None:
    def made(word: str) -> str:
        norm = f"{word}x".replace(":", "")
        run = one_run(norm, run=word, reason=word, state="failed", **{"data.name": word})
        run.environment["command"] = run.environment["hardware"]["device_name"] = word
        study = in_study(run, one_run("bn"))
        figures = {"a": Drawing(word, word, visible(word), "<svg></svg>")}
        study = replace(study, notes=(word,))
        return page(study, {"a": comparison_table(study)}, figures, [word], word)

    text = text.encode(errors="ignore").decode()  # halves of pairs are damage, and not read
    hostile, harmless = made(text), made("harmless")
    assert shape(hostile) == shape(harmless)
    assert not steers(hostile)
    assert visible(text, lines=True) in "".join(Elements(hostile).texts)


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("relu", "relu"),
        ("[4, 8]", "[4, 8]"),
        ("a, lr 2", '"a, lr 2"'),
        ("a=b", '"a=b"'),
        ("a;b", '"a;b"'),
        ('"', json.dumps('"')),
        ("[4, 8], lr 2", '"[4, 8], lr 2"'),
        ("ä b", "ä b"),
    ],
)
def test_a_setting_whose_value_could_be_another_setting_stands_in_quotes(
    value: str, told: str
) -> None:
    assert describe({"norm.note": value, "batch_size": 8}) == f"norm.note {told}, batch size 8"


@given(st.lists(st.text(), min_size=2, max_size=2), st.lists(st.text(), min_size=2, max_size=2))
def test_other_values_are_told_in_other_words(first: list[str], second: list[str]) -> None:
    if first != second:
        told = [describe(dict(zip("ab", values, strict=True))) for values in (first, second)]
        assert told[0] != told[1]


def table_of(cells: list[str]) -> Table:
    frame = comparison_table(study_of("gn")).shown.head(len(cells)).assign(norm=cells)
    return Table("title", frame, frame, "caption")


@pytest.mark.parametrize("name", ["[x", "*x"])
def test_latex_takes_no_first_cell_for_an_argument_of_the_row_before(name: str) -> None:
    written = to_latex(table_of(["gn", name]))
    assert re.search(r"\\\\\s*[\[*]", written) is None
    assert f"{{}}{name} &" in written


def test_a_terminal_shows_a_name_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    to_terminal(table_of([":bug:[b]", "\x1b[2J"]))
    shown = capsys.readouterr().out
    assert ":bug:[b]" in shown
    assert "\\x1b[2J" in shown
    assert not steers(shown)
