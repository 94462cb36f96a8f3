"""The report as one self-contained HTML page: no script, style, font or picture from anywhere else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

import normbench
from normbench.analysis.captions import distinct
from normbench.analysis.choice import rate_varies
from normbench.analysis.frames import Frames, settings_of_study
from normbench.analysis.loading import shared_settings
from normbench.analysis.report.run_curves import HEIGHT, WIDTH, run_curves
from normbench.analysis.report.summary import summary
from normbench.analysis.report.svg import inline_svg
from normbench.analysis.tables.table import Table
from normbench.runs.files import at

MOST_IN_TITLE = 8
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
    """A figure for the page: its title, what it rests on, itself in words, and as SVG."""

    title: str
    caption: str
    alt: str
    svg: str


def _norms(runs: pd.DataFrame) -> str:
    """The norms by name while a heading holds them, else how many there are."""
    names = [str(norm) for norm in runs["norm"].unique()]
    return ", ".join(names) if len(names) <= MOST_IN_TITLE else f"{len(names)} norms"


def page(
    frames: Frames,
    tables: Mapping[str, Table],
    figures: Mapping[str, Drawing],
    missing: Sequence[str],
    command: str | None = None,
) -> str:
    """The page: summary, tables, figures, every run, environment, settings, how to reproduce.

    missing: why a table or figure is not there; command: what makes this page.
    """
    environment = Environment(
        loader=PackageLoader("normbench.analysis.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    runs = frames.runs
    return environment.get_template("page.html").render(
        version=normbench.__version__,
        title=f"{_norms(runs)} on {distinct(runs, 'data') or 'no data'}",
        summary=summary(frames),
        notes=[note.removeprefix("left out: ") for note in (*frames.notes, *missing)],
        report_command=command,
        tables=tables,
        figures=_inline(runs, figures),
        filter_columns=FILTERS,
        filters={
            name: (label, _choices(runs[name]))
            for name, label in FILTERS.items()
            if name != "lr" or rate_varies(runs)
        },
        runs=_runs(frames),
        columns=[name for name in ["lr", *settings_of_study(runs)] if runs[name].nunique() > 1],
        curves=run_curves(frames),
        width=WIDTH,
        height=HEIGHT,
        environments=_environments(frames),
        settings=shared_settings(frames.configs),
        commands=Counter(_command(environment) for environment in frames.environments.values()),
    )


def _inline(runs: pd.DataFrame, figures: Mapping[str, Drawing]) -> dict[str, Drawing]:
    """The figures with SVG for the page; a line or point leads to the first run of its settings."""
    texts = runs[list(FILTERS)].astype(str)

    @cache
    def first_run(settings: tuple[tuple[str, str], ...]) -> str:
        matching = (texts[[name for name, _ in settings]] == pd.Series(dict(settings))).all(axis=1)
        return str(runs["run"][matching].iloc[0])

    return {
        name: replace(one, svg=Markup(inline_svg(one.svg, name, one.alt, first_run)))
        for name, one in figures.items()
    }


def _choices(column: pd.Series) -> list[str]:
    """The values one can filter by; numbers in ascending order, names as they come."""
    values = column.dropna().unique().tolist()
    return [
        str(value)
        for value in (sorted(values) if pd.api.types.is_numeric_dtype(column) else values)
    ]


def _runs(frames: Frames) -> list[dict[str, Any]]:
    """A row for each run, missing values as None."""
    records = frames.runs.astype(object).where(frames.runs.notna(), None).to_dict("records")
    return [
        {str(key): value for key, value in record.items()}
        | {"command": _command(frames.environments.get(record["run"], {}))}
        for record in records
    ]


def _environments(frames: Frames) -> list[tuple[int, dict[str, Any]]]:
    """The distinct environments, each with the number of runs that it had."""
    found = Counter(
        tuple((label, at(environment, key)) for label, key in ENVIRONMENT.items())
        for environment in frames.environments.values()
    )
    return [
        (count, {label: value for label, value in one if value is not None})
        for one, count in found.items()
    ]


def _command(environment: Mapping[str, Any]) -> str | None:
    command = at(environment, "command")
    return None if command is None else str(command)
