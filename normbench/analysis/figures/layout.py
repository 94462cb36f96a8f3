"""Lines and panels: runs of a panel differ in norm and seed only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from urllib.parse import quote

import pandas as pd
from matplotlib.figure import Figure

from normbench.analysis.captions import (
    commits,
    distinct,
    epochs,
    not_comparable,
    seeds,
    shared_out,
)
from normbench.analysis.figures import style
from normbench.analysis.figures.style import Looks, Size, looks_of
from normbench.analysis.images import training_images
from normbench.analysis.settings import describe
from normbench.analysis.study import Study
from normbench.errors import NormbenchError
from normbench.runs.where import rank
from normbench.text import counted

MAX_PANELS = 24


def prepared(study: Study) -> tuple[Study, Looks]:
    """The study with the column `line` in `runs`, and the look of each line in every figure.

    A norm whose figures are not comparable has a star.
    Raises NormbenchError where no run has finished.
    """
    if study.done.runs.empty:
        raise NormbenchError(f"no figure: none of {counted(len(study.runs), 'run')} finished")
    runs = study.labelled.runs
    stars = runs["norm"].isin(study.broken).map({True: "*", False: ""})
    labelled = replace(study, runs=runs.assign(line=runs["line"] + stars))
    return labelled, looks_of(labelled.runs["line"].unique())


def by_panel(study: Study, x: str | None = None) -> list[tuple[str, Study]]:
    """A title and runs for each choice of the shared settings in which runs differ.

    x: the setting on the x axis, not to be split into panels.
    Raises NormbenchError for more than MAX_PANELS panels.
    """
    names = study.varying([name for name in study.shared_settings if name != x])
    if not names:
        return [("", study)]
    groups = dict(iter(study.runs.groupby(names, dropna=False)["run"]))
    if len(groups) > MAX_PANELS:
        raise NormbenchError(
            f"{len(groups)} panels, for {', '.join(names)}: choose among them with --where"
        )
    found = []
    for key in sorted(groups, key=lambda key: list(map(rank, key))):
        title = describe(dict(zip(names, key, strict=True)))
        found.append((title, study.only(set(groups[key]))))
    return found


def of_lines(table: pd.DataFrame, panel: Study) -> pd.DataFrame:
    """A long table of a panel, each row with the `line` of the run."""
    return table.merge(panel.runs[["run", "line"]], on="run")


def add_basis(figure: Figure, study: Study, size: Size, *remarks: str) -> None:
    """Writes the caption: what the figure rests on, then the remarks, which are its own."""
    own = " ".join(filter(None, [*remarks, *starred(study)]))
    style.add_caption(figure, f"{_basis(study)} {own}".rstrip(), size, own)


def _basis(study: Study) -> str:
    """Data, constant settings, seeds, device, versions and commit in words."""
    runs = study.done.runs
    fixed = [name for name in ("batch_size", "lr") if runs[name].nunique() == 1]
    lost = len(study.runs) - len(runs)
    parts = [
        f"Data {distinct(runs, 'data')}",
        *filter(None, [training_images(study.done)]),
        epochs(runs),
        *(describe({name: runs[name].iloc[0]}) for name in fixed),
        counted(len(runs), "run") + (f" ({lost} more did not finish)" if lost else ""),
        seeds(runs["seed"].nunique()),
        distinct(runs, "device"),
        distinct(runs, "precision"),
        f"torch {distinct(runs, 'torch')}",
        f"commit {commits(runs)}.",
    ]
    return " ".join([", ".join(parts), *shared_out(study)])


def starred(study: Study) -> list[str]:
    """The sentences of a caption on norms with a star."""
    return [f"* {line}" for line in not_comparable(study)]


def link(runs: pd.DataFrame, settings: Sequence[str] = ("batch_size",)) -> str:
    """The link from a line or point to the runs: `#runs:norm=bn;batch_size=64`, percent-encoded.

    Of `settings`, the link names each with the same value in all runs.
    """
    told = {"norm": runs["norm"].iloc[0]}
    for name in settings:
        if runs[name].nunique() == 1:
            told[name] = runs[name].iloc[0]
    return "#runs:" + ";".join(
        f"{name}={quote(str(value), safe='')}" for name, value in told.items()
    )
