"""normbench in Python: what the commands do, in the same words. `import normbench` offers it all.

    import normbench as nb

    run = nb.train(norm="gn", batch_size=8, data="synthetic", epochs=2)
    runs = nb.sweep(norm=["bn", "gn"], seed=range(3), data="synthetic", epochs=2)
    runs.table(by=["norm"])
    runs.plot("epochs")
    nb.report(runs, "out")

Settings are given by their names, `lr` and `batch_size`; those of sections in a mapping before
them, `nb.train({"norm.num_groups": 8}, norm="gn")`. A class may stand for its own name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from normbench.analysis.family import compare as compare_norms
from normbench.analysis.loading import check_comparable, load_study, select_runs
from normbench.analysis.study import Study
from normbench.config.compose import compose
from normbench.config.grammar import SHORT
from normbench.errors import NormbenchError
from normbench.given import given_name
from normbench.runs.standing import standing

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure
    from torch import nn

    from normbench.analysis.paired import Paired
    from normbench.certificates import Certificate

Settings = Mapping[str, Any]
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

    def table(self, by: Sequence[str] = (), metric: str | None = None) -> pd.DataFrame:
        """What each norm reached, unrounded; with `by`, the metric by these settings.

        metric: a column of `metrics`, the task's own on the test set by default. The table's
        attrs["caption"] says what it rests on. Raises NormbenchError for an unknown setting, and
        for runs that cannot stand in one table.
        """
        from normbench.analysis.tables.comparison import comparison_table
        from normbench.analysis.tables.crosstab import cross_table

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
    def _study(self) -> Study:
        return load_study([self.path])

    @property
    def status(self) -> str:
        """How it ended: done, diverged or interrupted."""
        return standing(self.path).state

    @property
    def metrics(self) -> pd.DataFrame:
        """The metrics of each epoch."""
        return self._study.metrics

    @property
    def steps(self) -> pd.DataFrame:
        """The loss of each logged step."""
        return self._study.steps

    @property
    def result(self) -> float:
        """The task's metric on the test set in the last epoch; nan for a run without one."""
        reached = self.metrics[self._study.test_column]
        return float(reached.iloc[-1]) if len(reached) else float("nan")

    def __repr__(self) -> str:
        metric = self._study.primary
        told = f"test {metric.title} {metric.finer().show(self.result)}"
        return f"Run({self.path.name}: {self.status}, {told})"


def train(settings: Settings | None = None, /, *, restart: bool = False, **given: Any) -> Run:
    """Trains a run, resumes it, or returns it where it is finished, as `normbench train`.

    restart: begins anew, whatever is there. Raises NormbenchError for wrong settings, before any
    work.
    """
    from normbench.train.run import execute

    flags = {}
    for key, value in _settings(settings, given).items():
        flags[key] = _name(key, value)
    return Run(execute(compose((), flags), restart=restart).path)


def sweep(
    study: str | Settings | None = None,
    /,
    *,
    jobs: int | None = None,
    launcher: str | None = None,
    retry_failed: bool = False,
    restart: bool = False,
    **given: Any,
) -> Runs:
    """Trains every combination of settings, as `normbench sweep`; finished runs are not repeated.

    A list or range is an axis; a setting that is itself a list stands in a list. study: a study of
    configs/sweep/ by name, or settings by dotted key. launcher: inline or processes, which is the
    default unless a class is given, which other processes cannot see. Raises NormbenchError for
    wrong settings, before any work.
    """
    from normbench.sweeps.carry_out import planned_study, run_plan
    from normbench.sweeps.launchers import launchers
    from normbench.sweeps.plan import make_plan
    from normbench.sweeps.sweep import AD_HOC, Sweep, load_sweep
    from normbench.sweeps.tuning import tuned
    from normbench.train.resolve import Resolver

    axes, has_class = {}, False
    for key, value in _settings(None if isinstance(study, str) else study, given).items():
        values = [*value] if isinstance(value, (list, tuple, range)) else [value]
        has_class = has_class or any(callable(one) for one in values)
        axes[key] = [_name(key, one) for one in values]
    chosen = launcher or ("inline" if has_class else "processes")
    if has_class and chosen != "inline":
        raise NormbenchError(
            f"launcher={chosen}: its processes cannot see a class that is given in Python; "
            "allowed: inline, or the class as file.py:NAME"
        )
    if jobs is not None and chosen == "inline":
        raise NormbenchError("jobs: the launcher inline trains one run after the other")
    options = {} if jobs is None else {"jobs": jobs}
    made = launchers.build(chosen, restart, options=options)
    named = load_sweep(study) if isinstance(study, str) else Sweep(AD_HOC, ())
    plan = make_plan(tuned(named.with_values(axes), None), {}, Resolver(made.device), {})
    open_runs = plan.open(retry_failed=retry_failed, restart=restart)
    plan = run_plan(plan, open_runs, made)
    return Runs(planned_study(plan, None, [config.run_id for config in open_runs]))


def load(places: Places = "results/runs", *conditions: str) -> Runs:
    """The runs at these places under all conditions: run directories, folders of them, studies.

    Raises NormbenchError where there is no run.
    """
    paths = [places] if isinstance(places, (str, Path)) else places
    return Runs(load_study([Path(path).expanduser() for path in paths], conditions))


def compare(runs: Runs, first: str, second: str) -> list[Paired]:
    """First minus second over equal seeds, at each choice of settings, as `normbench compare`.

    Each has `sentence()`, `difference`, `verdict`. Raises NormbenchError for a norm without runs.
    """
    check_comparable(runs.study)
    return list(compare_norms(runs.study, first, second))


def report(runs: Runs, folder: str | Path) -> Path:
    """Writes the report to a folder, as `normbench report`; returns the path of its page.

    Raises NormbenchError for a folder of something else.
    """
    from normbench.analysis.report import write_report
    from normbench.analysis.study_files import check_folder
    from normbench.audit.account import claim_parts
    from normbench.certificates.parts import norm_parts

    place = Path(folder).expanduser()
    check_folder(place)
    check_comparable(runs.study)
    parts = norm_parts(runs.study), claim_parts(runs.study)
    return write_report(runs.study, place, None, *parts)


def norm(name: str | type, num_features: int, **options: Any) -> nn.Module:
    """A norm's layer for so many features. Raises NormbenchError for an unknown name or option."""
    made: nn.Module = _spec(name, options).norm(num_features)
    return made


def certificate(name: str | type, **options: Any) -> Certificate:
    """What a norm does, computed. Raises NormbenchError for an unknown name or option."""
    from normbench.certificates import certify

    return certify(_spec(name, options))


def _spec(name: Any, options: Settings) -> Any:
    from normbench.norms import norms
    from normbench.users_code import is_own

    called = _name("norm", name)
    return norms.build(called, options={"options": options} if is_own(called) else options)


def _settings(settings: Settings | None, given: Settings) -> dict[str, Any]:
    """All settings by their whole keys. Raises NormbenchError for one that is given twice."""
    found: dict[str, Any] = {}
    for key, value in [*(settings or {}).items(), *given.items()]:
        whole = SHORT.get(key, key)
        if whole in found:
            raise NormbenchError(f"'{whole}' is given twice")
        found[whole] = value
    return found


def _name(key: str, value: Any) -> Any:
    """The value as a configuration holds it: of a class its name, of a path its text."""
    if key in ("norm", "model") and callable(value):
        return given_name(value)
    return str(value) if isinstance(value, Path) else value
