"""CSV files that people open: a spreadsheet shows every word, and computes none.

A text that begins with =, +, - or @ is a formula to a spreadsheet. Such a text, if no number, is
written with an apostrophe before it, and read without.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import pandas as pd

from normbench.text import visible

NUMBER = r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?"
# Apostrophes before a sign too: otherwise two texts would be written alike.
FORMULA = re.compile(rf"(?!{NUMBER}$)'*[=+\-@]", re.ASCII)


def to_csv(table: pd.DataFrame) -> str:
    """The table as CSV without the index: texts visible, formulas as text."""
    return _changed(table, _quoted).to_csv(index=False)


def unquoted(table: pd.DataFrame) -> pd.DataFrame:
    """The table of a file that `to_csv` wrote, with the texts as they were, and visible."""
    return _changed(table, _unquoted).rename(columns=visible)


def _changed(table: pd.DataFrame, change: Callable[[str], str]) -> pd.DataFrame:
    """The table with other texts; each text of a column is changed once, numbers are not."""
    table = table.copy(deep=False)
    for name in table.select_dtypes(["object", "string"]):
        texts = [value for value in table[name].unique() if isinstance(value, str)]
        others = {text: change(text) for text in texts if change(text) != text}
        if others:
            table[name] = [others.get(value, value) for value in table[name]]
    return table


def _quoted(text: str) -> str:
    shown = visible(text, lines=True)
    return f"'{shown}" if FORMULA.match(shown) else shown


def _unquoted(text: str) -> str:
    is_quoted = text[:1] == "'" and FORMULA.match(text[1:])
    return visible(text[1:] if is_quoted else text, lines=True)
