"""The tables of a page: each with what is only its own, the long and the idle ones folded."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from normbench.analysis.tables.rendering import LONGEST_LINE
from normbench.analysis.tables.table import Table
from normbench.text import counted

MOST_ROWS = 20  # of a table or list that is not folded
MOST_SHOWN = 200  # rows of a table; all pairs of 37 norms would be half a megabyte
NORM = "norm"


@dataclass(frozen=True)
class Cell:
    """A cell of a table, and the unrounded number to sort by; None sorts as text.

    written: what is shown in place of the text, as a norm's name written out.
    """

    text: str
    number: float | None = None
    written: str = ""

    @property
    def is_long(self) -> bool:
        """Whether the text is broken into lines, for the sake of the other columns."""
        return len(self.text) > LONGEST_LINE


@dataclass(frozen=True)
class PageTable:
    """A table on a page; folded: why it is closed at first, empty where it is open."""

    name: str
    title: str
    columns: Sequence[str]
    rows: Sequence[dict[str, Cell]]
    caption: str
    notes: Sequence[str]
    folded: str


def page_tables(
    tables: Mapping[str, Table],
    shared: Collection[str],
    called: Callable[[str], str] = str,
) -> list[PageTable]:
    """The tables, without the sentences and notes that the page says once.

    called: a norm's name, written out where it first stands.
    """
    found = []
    for name, table in tables.items():
        own = [sentence for sentence in table.basis if sentence not in shared]
        cut = len(table.shown) > MOST_SHOWN
        rest = f"The first {MOST_SHOWN} rows; tables/{name}.csv of the report has all."
        found.append(
            PageTable(
                name,
                table.title,
                [str(column) for column in table.shown.columns],
                _cells(table, called)[:MOST_SHOWN],
                " ".join(filter(None, [*own, table.remarks, rest if cut else ""])),
                [note for note in table.notes if note not in shared],
                _why_folded(name, table),
            )
        )
    return found


def _why_folded(name: str, table: Table) -> str:
    if name == "pairs" and (table.data["n"] == 1).all():
        return f"{counted(len(table.data), 'pair')}, of one seed each: undecided"
    rows = len(table.shown)
    return f"{rows} rows" if rows > MOST_ROWS else ""


def _cells(table: Table, called: Callable[[str], str]) -> list[dict[str, Cell]]:
    """The rows of a table, by heading.

    A cell sorts by `table.numbers`; settings and counts, shown unrounded, by their text.
    """
    rows = []
    for place, texts in enumerate(table.shown.to_dict("records")):
        row = {}
        for heading, text in texts.items():
            value = table.numbers.get(heading, table.shown[heading]).iloc[place]
            written = called(text) if heading == NORM else ""
            row[str(heading)] = Cell(text, as_number(value), written)
        rows.append(row)
    return rows


def as_number(value: Any) -> float | None:
    """The value as a finite number; None for any other."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None
