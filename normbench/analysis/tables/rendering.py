"""Tables in the forms that people take away: Markdown, LaTeX for booktabs, CSV, and a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from normbench.analysis.tables.table import Table

LATEX = {"\\": r"\textbackslash{}", "±": r"$\pm$", "<": r"\textless{}", ">": r"\textgreater{}"}
LATEX |= {sign: f"\\{sign}" for sign in "%_&#${}"} | {
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
}


def to_markdown(table: Table) -> str:
    """The table with its caption, and below it what has no figure, and why."""
    shown = table.shown.to_markdown(index=False, disable_numparse=True)
    notes = "".join(f"- {note}\n" for note in table.notes)
    return f"{shown}\n\n{table.caption}\n" + (f"\n{notes}" if notes else "")


def to_latex(table: Table) -> str:
    """A table environment with booktabs rules; caption and notes as its caption."""
    columns, rows = table.shown.columns, table.shown.itertuples(index=False, name=None)
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\begin{{tabular}}{{{'l' * len(columns)}}}",
        r"\toprule",
        _latex_row(columns),
        r"\midrule",
        *map(_latex_row, rows),
        r"\bottomrule",
        r"\end{tabular}",
        rf"\caption{{{_latex(' '.join([table.caption, *(f'{note}.' for note in table.notes)]))}}}",
        r"\end{table}",
    ]
    return "\n".join([*lines, ""])


def to_csv(table: Table) -> str:
    """The data of the table, every figure unrounded."""
    return str(table.data.to_csv(index=False))


def to_terminal(table: Table) -> None:
    """Prints the table as wide as the terminal allows."""
    from rich.console import Console
    from rich.table import Table as RichTable

    grid = RichTable(title=table.title, title_justify="left")
    for name in table.shown.columns:
        grid.add_column(name, no_wrap=name == "norm", overflow="fold")
    for row in table.shown.itertuples(index=False, name=None):
        grid.add_row(*map(str, row))
    console = Console(highlight=False, markup=False)
    console.print(grid)
    for line in (table.caption, *(f"- {note}" for note in table.notes)):
        console.print(line)


SUFFIXES = {"markdown": ".md", "latex": ".tex", "csv": ".csv"}
FORMS: dict[str, Callable[[Table], str]] = {
    "markdown": to_markdown,
    "latex": to_latex,
    "csv": to_csv,
}


def _latex_row(cells: Iterable[object]) -> str:
    return " & ".join(map(_latex, cells)) + r" \\"


def _latex(value: object) -> str:
    return "".join(LATEX.get(sign, sign) for sign in str(value))
