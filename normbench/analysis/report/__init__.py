"""Everything a set of runs says, as a folder: one HTML page, tables, figures, and the runs as CSV."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from functools import partial
from pathlib import Path
from typing import TypeVar

from matplotlib.figure import Figure

from normbench.analysis.choice import rate_varies
from normbench.analysis.figures import FIGURES
from normbench.analysis.figures.labels import alt_text
from normbench.analysis.figures.saving import save, to_svg, without_links
from normbench.analysis.figures.style import PAGE, Size
from normbench.analysis.frames import Frames
from normbench.analysis.loading import write_study
from normbench.analysis.report.page import Drawing, page
from normbench.analysis.tables.comparison import comparison_table
from normbench.analysis.tables.crosstab import cross_table
from normbench.analysis.tables.evaluations import EVALUATIONS, evaluations_table
from normbench.analysis.tables.pairs import pairs_table
from normbench.analysis.tables.rendering import FORMS, SUFFIXES, to_markdown
from normbench.analysis.tables.source import BATCH, CLAIMS, source_table
from normbench.analysis.tables.table import Table
from normbench.atomic import disk_errors, write_text
from normbench.errors import NormbenchError

Made = TypeVar("Made")
Draw = Callable[[Size], Figure]
FILE = "report.html"
TABLES = ("source", "comparison", "batch-size", "evaluations", "learning-rate", "pairs")
TITLES = {
    "loss": "Training loss by step",
    "accuracy": "Loss and accuracy by epoch",
    "batch-size": "Test accuracy against batch size",
    "learning-rate": "Accuracy against learning rate",
    "time": "Training time per epoch",
}


def write_report(frames: Frames, folder: Path, command: str | None = None) -> Path:
    """Writes report.html, table.md, tables/, the figures as SVG and PNG, and the runs as CSV; the path of the page.

    What these runs have nothing for is left out; what cannot be made of them is named on the page, with the reason.
    command: what makes this report, for those who want to.
    """
    missing: list[str] = []
    tables = _made(tables_for(frames), missing)
    figures = _made(
        {name: partial(_draw, name, draw) for name, draw in figures_for(frames).items()}, missing
    )
    drawings = {name: drawing for name, (_, drawing) in figures.items()}
    html = page(frames, tables, drawings, missing, command)
    write_study(frames, folder)
    _discard(folder, figures, tables)
    for name, (figure, drawing) in figures.items():
        write_text(folder / f"{name}.svg", without_links(drawing.svg))
        save(figure, folder / f"{name}.png")
    for name, table in tables.items():
        for form, write in FORMS.items():
            write_text(folder / "tables" / f"{name}{SUFFIXES[form]}", write(table))
    write_text(folder / "table.md", to_markdown(tables["comparison"]))
    write_text(folder / FILE, html)
    return folder / FILE


def tables_for(frames: Frames) -> dict[str, Callable[[], Table]]:
    """The tables that these runs have something for."""
    runs = frames.runs
    batches = ["batch_size"] if runs["batch_size"].nunique() > 1 else []
    metric = "val_accuracy" if "val_accuracy" in runs else "test_accuracy"
    has_source = (runs["norm"].isin(CLAIMS) & (runs["batch_size"] == BATCH)).any()
    tables: dict[str, tuple[bool, Callable[[], Table]]] = {
        "source": (bool(has_source), partial(source_table, frames)),
        "comparison": (True, partial(comparison_table, frames)),
        "batch-size": (bool(batches), partial(cross_table, frames, ["norm", "batch_size"])),
        "evaluations": (
            set(EVALUATIONS) <= set(frames.metrics),
            partial(evaluations_table, frames),
        ),
        "learning-rate": (
            rate_varies(runs),
            partial(cross_table, frames, ["norm", *batches, "lr"], metric),
        ),
        "pairs": (runs["norm"].nunique() > 1, partial(pairs_table, frames)),
    }
    return {name: make for name, (wanted, make) in tables.items() if wanted}


def figures_for(frames: Frames) -> dict[str, Draw]:
    """The figures that these runs have something for."""
    runs = frames.runs
    wanted = {
        "loss": not frames.steps.empty,
        "accuracy": True,
        "batch-size": runs["batch_size"].nunique() > 1,
        "learning-rate": rate_varies(runs),
        "time": bool(frames.clocks),
    }
    return {name: partial(FIGURES[name], frames) for name in TITLES if wanted[name]}


def _draw(name: str, draw: Draw) -> tuple[Figure, Drawing]:
    """The figure, and what the page shows of it."""
    figure = draw(PAGE)
    svg = to_svg(figure, PAGE)
    return figure, Drawing(TITLES[name], str(figure.get_label()), alt_text(figure), svg)


def _discard(folder: Path, figures: Collection[str], tables: Collection[str]) -> None:
    """Removes what an earlier report had and this one has not."""
    stale = [
        folder / f"{name}{suffix}" for name in {*TITLES} - {*figures} for suffix in (".svg", ".png")
    ]
    stale += [
        folder / "tables" / f"{name}{end}"
        for name in {*TABLES} - {*tables}
        for end in SUFFIXES.values()
    ]
    with disk_errors(folder / "tables"):
        (folder / "tables").mkdir(exist_ok=True)
        for path in stale:
            path.unlink(missing_ok=True)


def _made(makers: Mapping[str, Callable[[], Made]], missing: list[str]) -> dict[str, Made]:
    """What can be made; the reasons for the rest go to `missing`."""
    made = {}
    for name, make in makers.items():
        try:
            made[name] = make()
        except NormbenchError as error:
            missing.append(f"{TITLES.get(name, f'Table {name}')}: {error}.")
    return made
