"""Runs in Python: what `train`, `sweep` and `load` return, and what is made of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from normbench.analysis.family import compare as compare_norms
from normbench.analysis.loading import check_comparable, load_study, select_runs
from normbench.analysis.study import Study
from normbench.runs.standing import standing

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from normbench.analysis.paired import Paired

Places = str | Path | Sequence[str | Path]


class Runs:
    """Finished and unfinished runs, to compare: what `nb.sweep` and `nb.load` return.

    metrics: a row for each run and epoch. steps: a row for each logged step. table: a row a run.
    """

    def __init__(self, study: Study) -> None:
        self.study = study

    @property
    def metrics(self) -> pd.DataFrame:
        """The metrics of each run by epoch, with the run's settings that vary."""
        return self.study.metrics

    @property
    def steps(self) -> pd.DataFrame:
        """The loss of each logged step."""
        return self.study.steps

    def where(self, *conditions: str) -> Runs:
        """The runs under all conditions, such as `norm=bn,gn` and `batch_size<=4`.

        Raises NormbenchError where none is left, and for a condition that cannot be read.
        """
        return Runs(select_runs(self.study, conditions))

    def table(self, by: str | Sequence[str] = (), metric: str | None = None) -> pd.DataFrame:
        """What each norm reached, unrounded; with `by`, the metric by these settings.

        metric: a column of `metrics`, the task's own on the test set by default. The table's
        attrs["caption"] says what it rests on. Raises NormbenchError for an unknown setting, and
        for runs that cannot stand in one table.
        """
        from normbench.analysis.tables.comparison import comparison_table
        from normbench.analysis.tables.crosstab import cross_table

        by = [by] if isinstance(by, str) else by
        check_comparable(self.study, by)
        made = cross_table(self.study, by, metric) if by else comparison_table(self.study)
        data = made.data.copy()
        data.attrs["caption"] = made.caption
        return data

    def plot(self, figure: str, *, size: str = "page") -> Figure:
        """A figure as `normbench plot` draws it: loss, epochs, batch-size, pareto, time and more.

        Raises NormbenchError for an unknown figure, and where the runs have nothing to show in it.
        """
        from normbench.analysis.figures.style import size_called
        from normbench.analysis.outputs import output_named

        check_comparable(self.study)
        drawn: Figure = output_named("figure", figure).make(self.study, size_called(size))
        return drawn

    def __len__(self) -> int:
        return len(self.study.runs)

    def __repr__(self) -> str:
        states = self.study.runs["status"].value_counts()
        told = ", ".join(f"{number} {state}" for state, number in states.items())
        return f"Runs({told})"

    def _repr_html_(self) -> str:
        html: str = self.study.runs.to_html(index=False)
        return html


@dataclass(frozen=True)
class Run:
    """A run by its directory: what `nb.train` returns."""

    path: Path

    @cached_property
    def study(self) -> Study:
        """The run as a study of one."""
        return load_study([self.path])

    @property
    def status(self) -> str:
        """How it ended: done, diverged or interrupted."""
        return standing(self.path).state

    @property
    def metrics(self) -> pd.DataFrame:
        """The metrics of each epoch."""
        return self.study.metrics

    @property
    def steps(self) -> pd.DataFrame:
        """The loss of each logged step."""
        return self.study.steps

    @property
    def result(self) -> float:
        """The task's metric on the test set in the last epoch; nan for a run without one."""
        reached = self.metrics[self.study.test_column]
        return float(reached.iloc[-1]) if len(reached) else float("nan")

    def __repr__(self) -> str:
        metric = self.study.primary
        told = f"test {metric.title} {metric.finer().show(self.result)}"
        return f"Run({self.path.name}: {self.status}, {told})"


def load(places: Places = "results/runs", *conditions: str) -> Runs:
    """The runs at these places under all conditions: run directories, folders of them, studies.

    Raises NormbenchError where there is no run.
    """
    paths = [places] if isinstance(places, (str, Path)) else places
    return Runs(load_study([Path(path).expanduser() for path in paths], conditions))


def compare(runs: Runs | Places, first: str | type, second: str | type) -> list[Paired]:
    """First minus second over equal seeds, at each choice of settings, as `normbench compare`.

    Each has `sentence()`, `difference`, `verdict`. Raises NormbenchError for a norm without runs.
    """
    runs = runs if isinstance(runs, Runs) else load(runs)
    check_comparable(runs.study)
    names = [norm if isinstance(norm, str) else norm.__name__ for norm in (first, second)]
    return list(compare_norms(runs.study, *names))


def report(runs: Runs | Run | Places, folder: str | Path) -> Path:
    """Writes the report to a folder, as `normbench report`; returns the path of its page.

    Raises NormbenchError for a file, a folder of run directories, and one whose runs.csv has other
    runs.
    """
    from normbench.analysis.study_files import check_folder
    from normbench.analysis.study_reader import check_keeps
    from normbench.audit.whole_report import write_whole_report

    runs = runs if isinstance(runs, (Runs, Run)) else load(runs)
    place = Path(folder).expanduser()
    check_folder(place)
    check_keeps(place, runs.study.runs["run"])
    check_comparable(runs.study)
    return write_whole_report(runs.study, place)
