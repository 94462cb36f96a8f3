"""The page of a report: what stands first, what is folded, what is said once, and its words."""

from __future__ import annotations

import re
from dataclasses import replace
from html import unescape
from pathlib import Path

import pytest
from kit.runs import in_study, one_run
from matplotlib.colors import to_hex

import normbench.analysis.report
from normbench.analysis.captions import caption
from normbench.analysis.design import Design, Family
from normbench.analysis.figures.style import (
    BEHIND,
    GRID,
    PAPER,
    SIZES,
    drawing,
    panels,
    write_number,
)
from normbench.analysis.outputs import outputs
from normbench.analysis.report.glossary import TERMS, terms_in
from normbench.analysis.report.names import FirstNames
from normbench.analysis.report.page import Drawing, NormPart, page
from normbench.analysis.report.page_tables import MOST_ROWS, MOST_SHOWN, page_tables
from normbench.analysis.report.summary import summary
from normbench.analysis.report.svg import COLOURS
from normbench.analysis.study import Study
from normbench.analysis.tables.comparison import comparison_table
from normbench.analysis.tables.pairs import pairs_table
from normbench.analysis.tables.source import table_of_alike
from normbench.analysis.tables.table import Table

SVG = '<svg width="1pt" height="1pt" viewBox="0 0 1 1"></svg>'
CSS = Path(normbench.analysis.report.__file__).with_name("page.css").read_text()
SOURCES_OWN = {"model.widths": [64, 128, 256, 512]}


def study_of(norms: int = 3, seeds: int = 2, sizes: tuple[int, ...] = (64,)) -> Study:
    runs = []
    for index in range(norms):
        for size in sizes:
            for seed in range(seeds):
                reached = 0.2 + index / 100 + seed / 500
                runs.append(one_run(f"norm{index}", size, seed, reached))
    return in_study(*runs)


def tables_of(study: Study) -> dict[str, Table]:
    return {output.name: output.make(study) for output in outputs("table", study)}


def part(name: str, title: str) -> NormPart:
    return NormPart(name, title, "", (), Drawing(name, "", "a drawing", SVG))


def text_of(html: str) -> str:
    return unescape(re.sub(r"<[^>]*>", " ", html[html.index("<body>") :]))


def test_the_page_begins_with_the_decision_and_its_figure() -> None:
    study = study_of()
    html = page(study, tables_of(study), {"norms": Drawing("By norm", "dots", "words", SVG)}, [])
    places = [html.index(one) for one in ('class="lead"', 'id="figure-norms"', 'id="tables"')]
    assert places == sorted(places)
    assert summary(study).decisions[0] in text_of(html)
    assert html.count('id="figure-norms"') == 1


def test_what_all_tables_rest_on_is_said_once_and_each_says_what_is_its_own() -> None:
    study = study_of(sizes=(1, 64))
    tables = tables_of(study)
    assert len(tables) > 3
    text = text_of(page(study, tables, {}, []))
    assert text.count(caption(study)) == 1
    for table in tables.values():
        assert caption(study) in table.caption
        assert table.remarks in text


@pytest.mark.parametrize(("rows", "is_folded"), [(MOST_ROWS, False), (MOST_ROWS + 1, True)])
def test_a_table_of_more_than_twenty_rows_is_folded(rows: int, is_folded: bool) -> None:
    study = study_of(rows, seeds=1)
    (table,) = page_tables({"comparison": comparison_table(study)}, ())
    assert len(table.rows) == rows
    assert bool(table.folded) == is_folded
    html = page(study, {"comparison": comparison_table(study)}, {}, [])
    assert ("rows)</summary>" in html) == is_folded
    assert (f"<summary>{rows} runs</summary>" in html) == is_folded


def test_of_very_many_pairs_the_page_shows_the_first_and_says_where_all_are() -> None:
    pairs = pairs_table(study_of(norms=21))
    (table,) = page_tables({"pairs": pairs}, ())
    assert len(table.rows) == MOST_SHOWN < len(pairs.shown) == 210
    assert [row["pair"].text for row in table.rows] == [*pairs.shown["pair"][:MOST_SHOWN]]
    assert table.folded == "210 rows"
    assert "The first 200 rows; tables/pairs.csv of the report has all." in table.caption


@pytest.mark.parametrize("seeds", [1, 2])
def test_pairs_that_nothing_can_decide_are_folded(seeds: int) -> None:
    (table,) = page_tables({"pairs": pairs_table(study_of(seeds=seeds))}, ())
    assert (table.folded == "3 pairs, of one seed each: undecided") == (seeds == 1)


def test_a_norm_is_written_out_where_it_first_stands_and_nowhere_else() -> None:
    called = FirstNames({"gn": "GroupNorm", "none": "none"})
    said = [called(name) for name in ("gn num groups 2", "gn", "mine.py:Mine", "none")]
    assert said == ["GroupNorm (gn) num groups 2", "gn", "mine.py:Mine", "none"]


@pytest.mark.parametrize("norms", [3, 9])
def test_the_heading_or_else_the_decision_and_the_tables_write_norms_out(norms: int) -> None:
    study = study_of(norms)
    parts = [part(f"norm{index}", f"Norm No {index}") for index in range(norms)]
    html = page(study, tables_of(study), {}, [], norms=parts)
    before = html[html.index("<body>") : html.index('<section id="norms"')]
    for index in range(norms):
        assert before.count(f"Norm No {index} (norm{index})") == 1
    heading = html[html.index("<h1>") : html.index("</h1>")]
    assert ("Norm No 0 (norm0)" in heading) == (norms == 3)


def test_many_comparisons_decided_beforehand_are_counted_first() -> None:
    norms = tuple(f"norm{index}" for index in range(1, 5))
    design = Design(name="many", primary=(Family(norms=norms, against="norm0"),))
    told = summary(replace(study_of(5, seeds=3), design=design)).decisions
    assert told[0].startswith("Of 4 comparisons decided beforehand, ")
    counts = [int(number) for number in re.findall(r" in (\d+)", told[0])]
    assert sum(counts) == len(told) - 1 == 4
    runs = study_of(5, seeds=3)
    part_of_it = runs.only(runs.runs.loc[runs.runs["norm"] != "norm4", "run"])
    wider = Design(name="many", primary=(Family(norms=(*norms, "norm5"), against="norm0"),))
    told = summary(replace(runs, design=wider)).decisions
    assert told[0].startswith("Of 5 comparisons decided beforehand, ")
    assert told[0].endswith(", not measured in 1.")
    few = summary(replace(part_of_it, design=design)).decisions
    assert not few[0].startswith("Of ")


@pytest.mark.parametrize(("epochs", "is_alike"), [(5, True), (2, False)])
def test_the_sources_stand_on_the_page_only_where_runs_were_made_as_theirs(
    epochs: int, is_alike: bool
) -> None:
    settings = SOURCES_OWN | {"epochs": epochs}
    study = in_study(*(one_run(norm, 64, 0, 0.7, **settings) for norm in ("bn", "ln")))
    alike = table_of_alike(study)
    assert (alike is not None) == is_alike
    if alike is not None:  # the tutorial alone: others trained another network
        assert set(alike.data["source"]) == {"tutorial"}
    html = page(study, tables_of(study), {}, [])
    headings = re.findall(r'<h3 id="table-(\w+)"', html)
    assert ("source" in headings) == is_alike
    assert (headings[-1] == "source") == is_alike


# Words


def test_every_term_is_found_by_its_own_name_and_by_no_part_of_another_word() -> None:
    named = [term for term in TERMS if term not in ("CIFAR-10", "p", "bf16, fp32")]
    for term in named:
        assert term in dict(terms_in(f"a {term}."))
        assert term not in dict(terms_in(f"x{term}x"))
    assert "p" in dict(terms_in("p = 0.03"))
    assert "p" not in dict(terms_in("p of a page"))
    assert terms_in("") == []


def test_a_page_explains_the_terms_that_it_uses_and_no_other() -> None:
    html = page(study_of(), {}, {}, [])
    words = html[html.index('id="glossary"') :]
    explained = re.findall(r"<dt>([^<]+)</dt>", words)
    assert {"seed", "normresnet", "accuracy"} <= {*explained}
    assert not {"synthetic", "held out", "diverged"} & {*explained}
    assert sorted(explained, key=str.casefold) == explained


# Colours


def luminance(colour: str) -> float:
    channels = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return sum(share * c for share, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_a_number_at_a_point_is_over_the_grid_and_under_the_points_on_the_page_s_own_ground() -> (
    None
):
    with drawing(SIZES["page"]):
        _, (axes,) = panels(SIZES["page"], 1)
        (point,) = axes.plot([1], [1], marker="o")
        write_number(axes, "1.05x", (1, 1))
    (number,) = axes.texts
    assert axes.get_axisbelow() == "line", "a grid has the order 1.5"
    assert 1.5 < number.get_zorder() < point.get_zorder()
    ground = number.get_bbox_patch()
    assert ground is not None
    assert to_hex(ground.get_facecolor()) == BEHIND
    assert COLOURS[BEHIND] == "var(--page)"


def test_the_grid_is_as_faint_in_the_dark_as_in_the_light() -> None:
    pages = re.findall(r"--page: (#\w{6})", CSS)
    grids = re.findall(r"--grid: (#\w{6})", CSS)
    assert pages[0] == PAPER
    assert grids[0] == GRID
    contrasts = []
    for ground, grid in zip(pages, grids, strict=True):
        # A quarter of the grid's colour over the page's.
        mixed = "#"
        for place in (1, 3, 5):
            below, above = int(ground[place : place + 2], 16), int(grid[place : place + 2], 16)
            mixed += f"{round(0.75 * below + 0.25 * above):02x}"
        low, high = sorted([luminance(mixed), luminance(ground)])
        contrasts.append((high + 0.05) / (low + 0.05))
    light, dark = contrasts
    assert dark == pytest.approx(light, abs=0.03)
    assert light > 1.1
