"""Tables as Markdown, LaTeX for booktabs, CSV, and on a terminal."""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd

from normbench.analysis.tables.table import Table
from normbench.spreadsheet import to_csv as csv_of
from normbench.text import markdown_cell, visible

LONGEST_LINE = 50  # characters of a cell; longer ones are broken into lines
SUFFIXES = {"markdown": ".md", "latex": ".tex", "csv": ".csv"}


# pandas' Styler escapes cells only, not the caption, and leaves < and > to print as ¡ and ¿.
LATEX = {"\\": r"\textbackslash{}", "±": r"$\pm$", "<": r"\textless{}", ">": r"\textgreater{}"}
LATEX |= {sign: f"\\{sign}" for sign in "%_&#${}"}
LATEX |= {"~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
TO_LATEX = {ord(sign): command for sign, command in LATEX.items()}


def to_markdown(table: Table) -> str:
    """The table, the caption, and a list of runs without a figure."""
    cells = table.shown.map(str).map(markdown_cell).rename(columns=markdown_cell)
    shown = cells.to_markdown(index=False, disable_numparse=True)
    notes = "".join(f"- {note}\n" for note in table.notes)
    return f"{shown}\n\n{table.caption}\n" + (f"\n{notes}" if notes else "")


def to_latex(table: Table) -> str:
    """A table environment with booktabs rules; the caption includes the notes."""
    notes = [f"{note}." for note in table.notes]
    columns = ["l" if _is_short(table.shown[name]) else "p{7cm}" for name in table.shown]
    styler = table.shown.map(_escape).rename(columns=_escape).style.hide(axis="index")
    return styler.to_latex(
        hrules=True,
        position_float="centering",
        column_format="".join(columns),
        caption=_escape(" ".join([table.caption, *notes])),
    )


def to_csv(table: Table) -> str:
    """The data of the table, every figure unrounded."""
    return csv_of(table.data)


def to_terminal(table: Table) -> None:
    """Prints the table as wide as the terminal allows."""
    from rich.console import Console
    from rich.table import Table as RichTable

    grid = RichTable(title=table.title, title_justify="left")
    for name in table.shown.columns:
        grid.add_column(visible(str(name)), no_wrap=name == "norm", overflow="fold")
    for row in table.shown.itertuples(index=False, name=None):
        grid.add_row(*(visible(str(cell)) for cell in row))
    console = Console(highlight=False, markup=False, emoji=False)
    console.print(grid)
    for line in (table.caption, *(f"- {note}" for note in table.notes)):
        console.print(visible(line))


FORMS: dict[str, Callable[[Table], str]] = {
    "markdown": to_markdown,
    "latex": to_latex,
    "csv": to_csv,
}


def _is_short(column: pd.Series) -> bool:
    """Whether no cell of a column needs several lines."""
    return column.astype(str).str.len().max() <= LONGEST_LINE


def _escape(text: object) -> str:
    escaped = visible(str(text)).translate(TO_LATEX)
    # After the end of a row, LaTeX takes either sign for an argument of the end.
    return f"{{}}{escaped}" if escaped.startswith(("[", "*")) else escaped
