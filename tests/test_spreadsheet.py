"""CSV that a spreadsheet shows as text, and that is read back equal."""

from __future__ import annotations

import csv
import io
import math

import pandas as pd
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from kit.text import HOSTILE

from normbench.spreadsheet import to_csv, unquoted
from normbench.text import visible

STARTS = st.sampled_from(["=", "+", "-", "@", "'", "'=", "''-", "-1", "+.5", "-1e5", "-inf", ""])
TEXTS = st.builds("{}{}".format, STARTS, st.text() | HOSTILE).map(visible)


def fields(table: pd.DataFrame) -> list[str]:
    return [row[0] for row in csv.reader(io.StringIO(to_csv(table)))][1:]


def read(text: str) -> pd.DataFrame:
    return unquoted(pd.read_csv(io.StringIO(text), dtype=str, keep_default_na=False))


@pytest.mark.parametrize(
    "text", ["=1+1", "+x", "-x", "@SUM(A1)", "-1x", "-", "-inf", "- 1", "--1", "+1_0"]
)
def test_a_formula_has_an_apostrophe_before_it(text: str) -> None:
    assert fields(pd.DataFrame({"a": [text]})) == [f"'{text}"]


@pytest.mark.parametrize("text", ["-1", "+1.5", "-.5", "-1.", "-1e-05", "1=1", "a-b", "", " -"])
def test_a_number_or_another_text_is_written_as_it_is(text: str) -> None:
    assert fields(pd.DataFrame({"a": [text], "b": 0})) == [text]


def test_a_control_character_is_written_as_its_escape() -> None:
    assert fields(pd.DataFrame({"a": ["\r=1\n\t\x1b"]})) == ["\\r=1\n\\t\\x1b"]


def test_figures_are_no_text() -> None:
    table = pd.DataFrame({"a": [-1.5, math.nan, -math.inf], "b": [-1, 2, 3], "c": [True, -2, None]})
    assert to_csv(table) == table.to_csv(index=False)


@given(st.lists(TEXTS, min_size=1, max_size=6))
@example(["=1", "'=1", "''=1", "'-1", "-1", "'"])
def test_a_table_of_texts_is_read_back_equal_and_computes_nothing(texts: list[str]) -> None:
    table = pd.DataFrame({"a": texts, "b": 0})
    pd.testing.assert_frame_equal(read(to_csv(table)), table.astype(str))
    for field in fields(table):
        assert field[:1] not in ("=", "+", "-", "@", "\t", "\r") or math.isfinite(float(field))
    assert table["a"].tolist() == texts, "the table itself is unchanged"


def test_what_others_wrote_is_made_visible_and_keeps_its_apostrophes() -> None:
    read_back = read("a\x1b,b\n'tis,'-1\n\x1b[2J,'=1\n")
    assert read_back.to_dict("list") == {"a\\x1b": ["'tis", "\\x1b[2J"], "b": ["'-1", "=1"]}
