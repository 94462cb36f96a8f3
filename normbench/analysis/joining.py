"""Joins several studies to one, and refuses runs that have ended in two ways."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from normbench.analysis.design import united
from normbench.analysis.settings import with_settings
from normbench.analysis.study import Study
from normbench.analysis.study_reader import tidy
from normbench.errors import NormbenchError, RunFailure
from normbench.runs.records import OVER
from normbench.tasks.metric import metric_of

CORRECT = "the choice of right test images"


def join(studies: Sequence[tuple[str, Study]]) -> Study:
    """The runs of several studies, each with the name of its place; a repeated run is kept once.

    Raises NormbenchError where a study does not tell its runs from others, and RunFailure where
    one run has two different results.
    """
    if len(studies) == 1:
        return studies[0][1]
    if any(not study.configs for _, study in studies):
        raise NormbenchError(
            "a runs.csv without its configs.json cannot be told apart from other runs: "
            "show it alone"
        )
    check_same_results(studies)
    configs: dict[str, Any] = {}
    environments: dict[str, Any] = {}
    correct: dict[str, bytes] = {}
    pictures: dict[str, bytes] = {}
    kept = []
    for _, study in _by_results(studies):
        kept.append(study.only(set(study.runs["run"]) - configs.keys()))
        configs |= kept[-1].configs
        environments |= kept[-1].environments
    # A run may be in one study with its bits, and without them in another.
    for _, study in studies:
        correct |= study.done.correct
        pictures |= study.done.pictures
    tables = [(study.runs, study.metrics, study.steps) for study in kept]
    runs, metrics, steps = map(stacked, zip(*tables, strict=True))
    joined = Study(tidy(with_settings(runs, configs)), metrics, steps, environments, configs)
    design = united([study.design for _, study in studies])
    return replace(joined, correct=correct, pictures=pictures, design=design)


def check_same_results(studies: Sequence[tuple[str, Study]]) -> None:
    """Raises RunFailure where a run has ended differently in two studies.

    In its state, its last figures, or the test images that it gets right. Seconds and memory may
    differ: the same run was then made twice.
    """
    seen: dict[str, tuple[str, dict[Any, Any]]] = {}
    for place, study in studies:
        for run, figures in _last_figures(study).items():
            before, known = seen.setdefault(run, (place, figures))
            both = [name for name in figures if name in known or name != CORRECT]
            differing = [name for name in both if known.get(name) != figures[name]]
            if differing:
                name = differing[0]
                raise RunFailure(
                    f"{run} has two different results: {name} is {known.get(name)} in '{before}' "
                    f"and {figures[name]} in '{place}': keep one of them"
                )


def _last_figures(study: Study) -> dict[str, dict[Any, Any]]:
    """State, last figures and test images of each run that is over, as a repetition has them."""
    over = study.runs[study.runs["status"].isin(OVER)]
    metrics = study.done.metrics
    names = [name for name in metrics if metric_of(str(name), study.task.metrics)]
    last = metrics.drop_duplicates("run", keep="last").set_index("run")[names]
    # Unknown figures equal one another.
    figures = last.astype(object).where(last.notna(), None).to_dict("index")
    found: dict[str, dict[Any, Any]] = {}
    for run, status in zip(over["run"], over["status"], strict=True):
        found[run] = {"its state": status, **figures.get(run, {})}
        if run in study.correct:
            found[run][CORRECT] = f"the bits {study.correct[run].hex()[:8]}..."
    return found


def _by_results(studies: Sequence[tuple[str, Study]]) -> Iterator[tuple[str, Study]]:
    """The runs of all studies that are done or diverged, then the others."""
    for is_over in (True, False):
        for place, study in studies:
            is_wanted = study.runs["status"].isin(OVER) == is_over
            yield place, study.only(set(study.runs.loc[is_wanted, "run"]))


def stacked(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """The rows of the tables below one another; the columns of the first where all are empty."""
    filled = [table for table in tables if not table.empty]
    return pd.concat(filled or tables[:1], ignore_index=True)
