"""The report of a study, as a folder: an HTML page, tables, figures, and the runs as CSV."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from normbench.analysis.figures.labels import alt_text
from normbench.analysis.figures.saving import save, to_svg, without_links
from normbench.analysis.figures.style import PAGE, own_caption
from normbench.analysis.outputs import OUTPUTS, Kind, output_named, outputs
from normbench.analysis.report.page import ClaimPart, Drawing, NormPart, page
from normbench.analysis.study import Study
from normbench.analysis.study_files import absent, keep_sums, write_files
from normbench.analysis.tables.rendering import FORMS, SUFFIXES, to_markdown
from normbench.atomic import disk_errors, write_text
from normbench.errors import NormbenchError
from normbench.replacement import replacement

FILE = "report.html"
FIGURE_SUFFIXES = (".svg", ".png")


def write_report(
    study: Study,
    folder: Path,
    command: str | None = None,
    norms: Sequence[NormPart] = (),
    claims: Sequence[ClaimPart] = (),
) -> Path:
    """Writes the report to a folder, and returns the path of its page.

    The folder gets report.html, table.md, tables/, the figures as SVG and PNG, and the runs as CSV.
    An output without data in the study is left out; an output that cannot be made is named on the
    page, with the reason. A failure, or a kill at any moment, leaves the last report whole.
    command: the command of the report, for the page. norms: what the page says of norms themselves;
    claims: of the usual sentences that the study decides.
    """
    missing: list[str] = []
    tables = _made("table", study, missing)
    figures = _made("figure", study, missing)
    drawings = {}
    for name, figure in figures.items():
        title, svg = output_named("figure", name).titled(study), to_svg(figure, PAGE)
        drawings[name] = Drawing(title, own_caption(figure), alt_text(figure), svg)
    html = page(study, tables, drawings, missing, command, norms, claims)
    with replacement(folder, [*absent(study), *_stale(tables, figures)]) as new:
        keep_sums(folder, new)
        write_files(study, new)
        for name, figure in figures.items():
            write_text(new / f"{name}.svg", without_links(drawings[name].svg))
            save(figure, new / f"{name}.png")
        with disk_errors(folder):
            (new / "tables").mkdir()
        for name, table in tables.items():
            for form, write in FORMS.items():
                write_text(new / "tables" / f"{name}{SUFFIXES[form]}", write(table))
        write_text(new / "table.md", to_markdown(tables["comparison"]))
        write_text(new / FILE, html)
    return folder / FILE


def _made(kind: Kind, study: Study, missing: list[str]) -> dict[str, Any]:
    """The outputs of a kind, by name; `missing` gets the reason for each failure."""
    made = {}
    for output in outputs(kind, study):
        make = partial(output.make, size=PAGE) if kind == "figure" else output.make
        try:
            made[output.name] = make(study)
        except NormbenchError as error:
            what = "Table " if kind == "table" else ""
            missing.append(f"{what}{output.titled(study)}: {error}.")
    return made


def _stale(tables: Collection[str], figures: Collection[str]) -> list[str]:
    """The files of outputs that are not among these, by their path in the folder."""
    found = []
    for output in OUTPUTS:
        if output.kind == "figure" and output.name not in figures:
            found += [f"{output.name}{suffix}" for suffix in FIGURE_SUFFIXES]
        if output.kind == "table" and output.name not in tables:
            found += [f"tables/{output.name}{suffix}" for suffix in SUFFIXES.values()]
    return found
