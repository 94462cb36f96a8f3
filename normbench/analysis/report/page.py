"""The report as a single HTML page, with script, style and drawings inside."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

import normbench
from normbench.analysis.captions import caption, distinct, unfinished
from normbench.analysis.report.decisions import MOST_LEADING
from normbench.analysis.report.glossary import terms_in
from normbench.analysis.report.names import FirstNames
from normbench.analysis.report.page_tables import MOST_ROWS, Cell, as_number, page_tables
from normbench.analysis.report.run_curves import HEIGHT, WIDTH, run_curves
from normbench.analysis.report.summary import as_names, summary
from normbench.analysis.report.svg import Settings, inline_svg
from normbench.analysis.settings import is_setting
from normbench.analysis.study import Study
from normbench.analysis.study_files import common_settings
from normbench.analysis.tables.source import table_of_alike
from normbench.analysis.tables.table import Table, in_words
from normbench.runs.records import at
from normbench.text import visible

LEADING = "norms"  # the figure that stands with the decision
UNSEEN = re.compile(r"<(script|style)\b.*?</\1>", re.DOTALL)
TAGS = re.compile(r"<[^>]*>")
# Columns by which rows are filtered, with their headings in tables.
FILTERS = {"norm": "norm", "batch_size": "batch size", "lr": "lr", "status": "status"}
ENVIRONMENT = {
    "device": "hardware.device_name",
    "cores": "hardware.cores",
    "threads": "hardware.threads",
    "platform": "hardware.platform",
    "Python": "versions.python",
    "torch": "versions.torch",
    "normbench": "versions.normbench",
    "commit": "git.commit",
    "files differ from it": "git.dirty",
    "data": "data.name",
    "content of the data": "data.content",
    "runs at a time": "concurrent_runs",
}


@dataclass(frozen=True)
class Drawing:
    """A figure for the page; alt: the figure in words."""

    title: str
    caption: str
    alt: str
    svg: str


@dataclass(frozen=True)
class NormPart:
    """What the page says of a norm itself: in words, and which cells share a statistic."""

    name: str
    title: str
    formula: str
    sentences: Sequence[str]
    drawing: Drawing


@dataclass(frozen=True)
class ClaimPart:
    """A claim that the study decides, with the verdict, its rule and the figures."""

    verdict: str
    claim: str
    rule: str
    figures: Sequence[str]


def page(
    study: Study,
    tables: Mapping[str, Table],
    figures: Mapping[str, Drawing],
    missing: Sequence[str],
    command: str | None = None,
    norms: Sequence[NormPart] = (),
    claims: Sequence[ClaimPart] = (),
) -> str:
    """The page: the decision and its figure, tables, figures, claims, norms, runs, environment.

    missing: each table and figure that failed, and why. command: of the report.
    """
    environment = Environment(
        loader=PackageLoader("normbench.analysis.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_visible,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = as_number
    runs = study.runs
    commands = [at(one, "command") for one in study.environments.values()]
    # In the order of the page, so that a name is written out where it first stands.
    called = FirstNames({part.name.partition(" ")[0]: part.title for part in norms})
    title = f"{as_names(runs, called)} on {distinct(runs, 'data') or 'no data'}"
    told = summary(study, called)
    shared = (caption(study), *told.more, *unfinished(study))
    inline = _inline(runs, figures)
    first = inline.pop(LEADING, None)
    content = {
        "title": title,
        "decisions": told.decisions[:MOST_LEADING],
        "more": [*told.decisions[MOST_LEADING:], *told.more],
        "extent": told.extent,
        "leading": first,
        "shared": shared[0],
        "hypotheses": study.design.hypotheses if study.design else (),
        "notes": [note.removeprefix("left out: ") for note in (*study.notes, *missing)],
        "report_command": command,
        "tables": page_tables(_told(study, tables), shared, called),
        "figures": inline,
        "crowded": _crowded(runs),
        "claims": claims,
        "norms": [(norm, _inline_cube(norm, place)) for place, norm in enumerate(norms)],
        "family": _family(tables),
        "filter_columns": FILTERS,
        "filters": _filters(study),
        "metric": study.primary,
        "broken": study.broken,
        "runs": _rows(study),
        "most_rows": MOST_ROWS,
        "columns": study.varying(["lr", *filter(is_setting, runs.columns)]),
        "figure_columns": [in_words(name) for name in _figure_columns(study)],
        "curves": run_curves(study),
        "width": WIDTH,
        "height": HEIGHT,
        "environments": _environments(study),
        "settings": common_settings(study.configs),
        "commands": [*dict.fromkeys(command for command in commands if command is not None)],
        "version": normbench.__version__,
    }
    # Apart, and once: rows of thousands of runs take longer than all the rest.
    rows = environment.get_template("runs.html").render(content)
    content["rows_of_runs"] = Markup(rows.strip())
    template = environment.get_template("page.html")
    without = template.render(content, glossary=[])
    return template.render(content, glossary=terms_in(_text_of(without)))


def _crowded(runs: pd.DataFrame) -> str:
    """Why figures with a line for each norm are folded; empty where they are not."""
    number = runs["norm"].nunique()
    return f"lines of {number} norms" if number > MOST_ROWS else ""


def _text_of(html: str) -> str:
    """What a reader sees of a page, without what the script and the style say."""
    return TAGS.sub(" ", UNSEEN.sub(" ", html))


def _told(study: Study, tables: Mapping[str, Table]) -> dict[str, Table]:
    """The tables; that of the sources with those alone whose protocol the runs have."""
    told = {name: tables[name] for name in tables if name != "source"}
    alike = table_of_alike(study) if "source" in tables else None
    return told if alike is None else told | {"source": alike}


def _visible(value: Any) -> Any:
    """What the page shows of a value; HTML of our own as it is."""
    return value if isinstance(value, Markup) else visible(str(value), lines=True)


def _family(tables: Mapping[str, Table]) -> str:
    """The family of the page's p-values in words; empty where nothing was tested."""
    if "pairs" not in tables:
        return ""
    tested = tables["pairs"].data.dropna(subset=["p_adjusted"])
    return "" if tested.empty else str(tested["family"].iloc[0])


def _inline(runs: pd.DataFrame, figures: Mapping[str, Drawing]) -> dict[str, Drawing]:
    """The figures with SVG for the page, their lines and points linked to runs."""
    texts = runs[list(FILTERS)].astype(str)

    @cache
    def first_run(settings: Settings) -> str:
        matching = pd.Series(True, index=texts.index)
        for name, value in settings:
            matching &= texts[name] == value
        return str(runs["run"][matching].iloc[0])

    inline = {}
    for name, figure in figures.items():
        svg = inline_svg(figure.svg, name, figure.alt, first_run)
        inline[name] = replace(figure, svg=Markup(svg))
    return inline


def _inline_cube(norm: NormPart, place: int) -> Markup:
    drawing = norm.drawing
    return Markup(inline_svg(drawing.svg, f"cube-{place}", drawing.alt, lambda settings: ""))


def _filters(study: Study) -> dict[str, tuple[str, list[str]]]:
    found = {}
    for name, heading in FILTERS.items():
        values = study.runs[name].dropna().unique().tolist()
        if pd.api.types.is_numeric_dtype(study.runs[name]):
            values.sort()
        if name != "lr" or study.tries_rates:
            found[name] = (heading, [str(value) for value in values])
    return found


def _figure_columns(study: Study) -> list[str]:
    columns = dict.fromkeys([study.test_column, "test_loss", "train_loss"])
    return [name for name in columns if name in study.runs]


def _rows(study: Study) -> list[dict[Any, Any]]:
    """The row of each run, with its figures as cells; missing values are None."""
    known = study.runs.astype(object).where(study.runs.notna(), None)
    rows = []
    for record in known.to_dict("records"):
        figures = []
        for name in _figure_columns(study):
            value = record[name]
            text = "" if value is None else study.metric(name).show(value)
            figures.append(Cell(text, value))
        command = at(study.environments.get(record["run"], {}), "command")
        rows.append(record | {"figures": figures, "command": command})
    return rows


def _environments(study: Study) -> list[tuple[int, dict[str, Any]]]:
    count: Counter[tuple[tuple[str, Any], ...]] = Counter()
    for environment in study.environments.values():
        values = [(label, at(environment, key)) for label, key in ENVIRONMENT.items()]
        count[tuple((label, value) for label, value in values if value is not None)] += 1
    return [(number, dict(values)) for values, number in count.items()]
