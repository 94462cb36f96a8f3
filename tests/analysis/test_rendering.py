"""Every form of every table of one small study, as it was written before; LaTeX that sets what is
meant.

After a change that is meant, `python tests/analysis/test_rendering.py` writes golden/ anew: read
its diff.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from kit.runs import Seconds, in_study, one_run, timed

from normbench.analysis.loading import load_study
from normbench.analysis.study import Study
from normbench.analysis.study_files import write_study
from normbench.analysis.tables.comparison import comparison_table
from normbench.analysis.tables.crosstab import cross_table
from normbench.analysis.tables.pairs import pairs_table
from normbench.analysis.tables.rendering import FORMS, SUFFIXES, to_csv, to_latex, to_markdown
from normbench.analysis.tables.source import source_table
from normbench.analysis.tables.table import Table

GOLDEN = Path(__file__).parent / "golden"
FIGURE = re.compile(r"-?\d+\.\d+(e-?\d+)?")
SPECIAL = r"%_&#${}~^\<>±"
TABLES: dict[str, Callable[[Study], Table]] = {
    "comparison": comparison_table,
    "cross": lambda study: cross_table(study, ["norm", "batch_size"]),
    "source": source_table,
    "pairs": pairs_table,
}


def small_study() -> Study:
    """bn, ln and gn at batch sizes 64 and 1: bn diverged once at 1, ln was refused there, and gn
    has no run there.

    All were timed in turns, a round in each of 7 processes, but those at batch size 1.
    """
    bn = [one_run("bn", 64, seed, 0.75 + seed / 64, seconds=(10.0, 8.0, 9.0)) for seed in (0, 1, 2)]
    ln = [
        one_run("ln", 64, seed, 0.5 + seed / 128, seconds=(10.0, 12.0, 11.0)) for seed in (0, 1, 2)
    ]
    gn = [one_run("gn", 64, seed, 0.75 - seed / 32, seconds=(9.0, 10.0, 9.5)) for seed in (0, 1)]
    at_1 = [
        one_run("bn", 1, seed, 0.125 + seed / 32, seconds=(80.0, 90.0, 100.0)) for seed in (0, 1)
    ]
    diverged = one_run(
        "bn", 1, 2, state="diverged", reason="the loss of step 3 is nan", seconds=(1.0, 1.0, 1.0)
    )
    refused = one_run(
        "ln", 1, 0, state="refused", reason="a 1x1 map at width_1 & 100 %", seconds=(1.0, 1.0, 1.0)
    )
    ticks = {
        "bn": (16, 18, 17, 16, 20, 16, 16),
        "ln": (20, 18, 19, 20, 25, 17, 22),
        "gn": (17, 18, 18, 18, 15, 18, 20),
    }
    seconds: Seconds = {
        (norm, 64): [number / 1024 for number in found] for norm, found in ticks.items()
    }
    return timed(in_study(*bn, *ln, *gn, *at_1, diverged, refused), seconds, processes=7)


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("form", ["markdown", "latex"])
def test_a_table_is_written_as_it_always_was(name: str, form: str) -> None:
    written = FORMS[form](TABLES[name](small_study()))
    assert written == (GOLDEN / f"{name}{SUFFIXES[form]}").read_text()


@pytest.mark.parametrize("name", TABLES)
def test_the_figures_of_a_table_are_what_they_always_were(name: str) -> None:
    """Every field as it was; a figure to 12 digits, since the last ones are those of scipy's
    version."""
    written, golden = (
        list(csv.reader(io.StringIO(text)))
        for text in (to_csv(TABLES[name](small_study())), (GOLDEN / f"{name}.csv").read_text())
    )
    assert len(written) == len(golden)
    for row, expected in zip(written, golden, strict=True):
        assert len(row) == len(expected)
        for field, value in zip(row, expected, strict=True):
            if FIGURE.fullmatch(value):
                assert float(field) == pytest.approx(float(value), rel=1e-12)
            else:
                assert field == value


@pytest.mark.parametrize("name", TABLES)
def test_all_forms_have_the_same_columns_in_every_row(name: str) -> None:
    table = TABLES[name](small_study())
    width = len(table.shown.columns)
    latex = [line for line in to_latex(table).splitlines() if line.endswith(r"\\")]
    assert len(latex) == len(table.shown) + 1
    assert {len(re.findall(r"(?<!\\)&", line)) for line in latex} == {width - 1}
    longest = [table.shown[name].str.len().max() for name in table.shown]
    columns = "".join("l" if length <= 50 else "p{7cm}" for length in longest)
    assert f"\\begin{{tabular}}{{{columns}}}" in to_latex(table)
    markdown = [line for line in to_markdown(table).splitlines() if line.startswith("|")]
    assert len(markdown) == len(table.shown) + 2
    assert {line.count("|") for line in markdown} == {width + 1}


@pytest.mark.parametrize("name", TABLES)
def test_the_csv_has_the_figures_of_the_table_unrounded(name: str) -> None:
    table = TABLES[name](small_study())
    rows = list(csv.DictReader(io.StringIO(to_csv(table))))
    assert len(rows) == len(table.data)
    for column in table.data.select_dtypes("number"):
        for row, value in zip(rows, table.data[column], strict=True):
            assert pd.isna(value) if row[column] == "" else float(row[column]) == value


@pytest.mark.parametrize(
    "by", [["norm", "batch_size"], ["norm", "norm.num_groups"], ["norm.num_groups", "norm"]]
)
def test_a_study_that_was_written_and_read_has_the_same_tables(
    tmp_path: Path, by: list[str]
) -> None:
    groups = [one_run("gn", reached=count / 16, **{"norm.num_groups": count}) for count in (2, 4)]
    study = in_study(*groups, one_run("bn")) if "norm.num_groups" in by else small_study()
    write_study(study, tmp_path)
    again = load_study([tmp_path])
    for make in (comparison_table, lambda study: cross_table(study, by)):
        assert to_markdown(make(again)) == to_markdown(make(study))


def test_notes_follow_the_caption_of_a_table() -> None:
    table = TABLES["cross"](small_study())
    assert table.notes == (
        "bn, batch size 1: 1 diverged: the loss of step 3 is nan",
        "ln, batch size 1: 1 refused: a 1x1 map at width_1 & 100 %",
    )
    text = to_markdown(table)
    assert text.endswith(f"\n\n{table.caption}\n\n- {table.notes[0]}\n- {table.notes[1]}\n")
    assert r"a 1x1 map at width\_1 \& 100 \%." in to_latex(table)
    assert to_markdown(TABLES["pairs"](small_study())).endswith(".\n")


def test_whole_numbers_are_cells_as_they_are() -> None:
    table = Table("", pd.DataFrame(), pd.DataFrame({"batch size": [64, 1]}), "two")
    assert "64" in to_markdown(table)
    assert "64" in to_latex(table)


def of_text(text: str) -> Table:
    """A table of one cell, with the text as its caption and note too."""
    return Table(text, pd.DataFrame({"a": [1]}), pd.DataFrame({"a": [text]}), text, (text,))


def plain(latex: str) -> str:
    """What LaTeX sets for a piece of text, by its commands; fails where a special sign stands
    bare."""
    said = {
        r"\textbackslash{}": "\\",
        r"\textasciitilde{}": "~",
        r"\textasciicircum{}": "^",
        r"$\pm$": "±",
    }
    said |= {r"\textless{}": "<", r"\textgreater{}": ">"} | {
        f"\\{sign}": sign for sign in "%_&#${}"
    }
    text, at = "", 0
    while at < len(latex):
        command = next((command for command in said if latex.startswith(command, at)), latex[at])
        assert command not in SPECIAL, f"{command} stands bare in {latex}"
        text += said.get(command, command)
        at += len(command)
    return text


@given(st.text(st.sampled_from(SPECIAL + "ab ."), max_size=12))
@example(SPECIAL)
def test_latex_sets_every_sign_as_it_is(text: str) -> None:
    lines = to_latex(of_text(text)).splitlines()
    cell = lines[lines.index(r"\midrule") + 1].removesuffix(r" \\")
    caption = next(line for line in lines if line.startswith(r"\caption{"))
    assert plain(cell) == text
    assert plain(caption.removeprefix(r"\caption{").removesuffix("}")) == f"{text} {text}."


if __name__ == "__main__":
    for stem, make in TABLES.items():
        for kind, write in FORMS.items():
            (GOLDEN / f"{stem}{SUFFIXES[kind]}").write_text(write(make(small_study())))
