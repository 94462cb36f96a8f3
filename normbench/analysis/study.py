"""A study: the runs to be compared, as tables, and the decisions common to all outputs.

`analysis.loading` reads a Study from run directories or CSV files. Each table, figure and page is
made from a Study. The Study alone decides five questions:

- Which runs count? `done` has the finished runs, `chosen` each norm at a single learning rate.
- Which runs differ only in their seed? Runs with equal values in `settings`.
- Whose figures are not comparable? `broken` has own norms that break what figures rest on.
- By which metric are runs judged? `primary`, from the task in env.json.
- How long does an epoch take? `clocks`, from the rounds of `normbench bench`.

A Study is never changed: `done`, `chosen` and `only` give a smaller Study.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import pandas as pd

from normbench.analysis.design import Design
from normbench.analysis.settings import describe, is_setting
from normbench.analysis.times import Clock, epoch_clocks, united
from normbench.errors import NormbenchError
from normbench.runs.columns import quantity_of
from normbench.runs.records import OVER, defects_of, task_of
from normbench.tasks.metric import UNKNOWN_TASK, Metric, TaskRecord

BASELINE = "bn"  # the norm to which times are relative
LOST = ("diverged", "failed")  # states of runs that have ended without a result
CHOSEN = "chosen"  # instead of a learning rate chosen on held-out images


@dataclass(frozen=True, eq=False)
class Study:
    """Runs as three tables, with the environment and configuration of each run.

    runs: a row per run, with the columns of `runs.row` and a column per varying setting.
    metrics: a row per run and epoch; steps: a row per run and logged step. Both have the columns
        run, model, norm, batch_size and seed.
    environments: env.json by run; missing for runs that failed before training.
    configs: the flat configuration by run, {"norm.name": "bn"}; empty for a study without its
        configs.json.
    notes: damaged runs, left out, with their damage.
    bench: rounds of `normbench bench`, the source of `clocks`.
    correct: by run, the bits of `runs.correct`; missing for runs that kept none.
    pictures: by run, the file picture.png of the runs of the first seed that have one.
    design: what was decided before the runs; None for runs of no study, or of several.
    """

    runs: pd.DataFrame
    metrics: pd.DataFrame
    steps: pd.DataFrame
    environments: dict[str, dict[str, Any]]
    configs: dict[str, dict[str, Any]]
    notes: tuple[str, ...] = ()
    bench: pd.DataFrame = field(default_factory=pd.DataFrame)
    correct: dict[str, bytes] = field(default_factory=dict)
    pictures: dict[str, bytes] = field(default_factory=dict)
    design: Design | None = None

    # Runs

    def only(self, runs: Collection[str]) -> Study:
        """The study of the runs with the given ids."""
        return self._where(self.runs["run"].isin(runs))

    def at(self, **values: object) -> Study:
        """The study of the runs with the given values: `study.at(norm="bn", batch_size=64)`."""
        mask = pd.Series(True, index=self.runs.index)  # without values: all runs
        for column, value in values.items():
            mask &= self.runs[column] == value
        return self._where(mask)

    @cached_property
    def done(self) -> Study:
        """The finished runs: no other run has a result."""
        return self._where(self.runs["status"] == "done")

    @cached_property
    def unfinished(self) -> Study:
        """The runs without a result: failed, diverged, killed, refused, or still running."""
        return self._where(self.runs["status"] != "done")

    @cached_property
    def chosen(self) -> Study:
        """Each norm at the learning rate chosen on held-out images, where `chooses_rates`.

        The column `lr` then reads `chosen`, as where another study has chosen the rates. A norm
        of which no run finished keeps all its runs.
        """
        if not self.chooses_rates:
            is_tuned = self.design is not None and self.design.tuned_by and not self.tries_rates
            return replace(self, runs=self.runs.assign(lr=CHOSEN)) if is_tuned else self
        groups = self._beside_rate
        rates = self.runs[groups].merge(self.best_rates, on=groups, how="left")["lr"].to_numpy()
        kept = self._where((self.runs["lr"] == rates) | pd.isna(rates))
        return replace(kept, runs=kept.runs.assign(lr=CHOSEN))

    def _where(self, mask: pd.Series) -> Study:
        if mask.all():
            return self
        runs = self.runs[mask]
        ids = set(runs["run"])
        return replace(
            self,
            runs=runs.reset_index(drop=True),
            metrics=self.metrics[self.metrics["run"].isin(ids)].reset_index(drop=True),
            steps=self.steps[self.steps["run"].isin(ids)].reset_index(drop=True),
            environments={run: self.environments[run] for run in self.environments if run in ids},
            configs={run: self.configs[run] for run in self.configs if run in ids},
            correct={run: self.correct[run] for run in self.correct if run in ids},
            pictures={run: self.pictures[run] for run in self.pictures if run in ids},
        )

    @property
    def shows_worst(self) -> bool:
        """Whether its design wants median and worst beside every mean."""
        return self.design is not None and self.design.median_and_worst

    # Norms

    @cached_property
    def broken(self) -> dict[str, str]:
        """The defects of own norms whose figures are not comparable, by norm, from env.json.

        `{"MyNorm": "evaluates with batch mates and does not repeat itself"}`. No output names such
        a norm as the better one.
        """
        found: dict[str, dict[str, None]] = {}
        for run, norm in zip(self.runs["run"], self.runs["norm"], strict=True):
            for phrase in defects_of(self.environments.get(run, {})):
                found.setdefault(norm, {})[phrase] = None
        return {norm: " and ".join(phrases) for norm, phrases in found.items()}

    # Settings

    @property
    def settings(self) -> list[str]:
        """The columns of settings: runs of a norm with equal settings differ only in their seed.

        `norm.num_groups` and other dotted columns exist if runs of a norm differ in the setting.
        """
        return ["model", "batch_size", "lr", *filter(is_setting, self.runs.columns)]

    @property
    def shared_settings(self) -> list[str]:
        """The settings common to all norms: without the options of a norm."""
        return [name for name in self.settings if not name.startswith("norm.")]

    def varying(self, columns: Collection[str]) -> list[str]:
        """The given columns with more than a single value."""
        return [name for name in columns if self.runs[name].nunique() > 1]

    @property
    def labelled(self) -> Study:
        """The study with the column `line` in `runs`: the norm with varying options.

        Runs with an equal `line` are drawn and ranked as a single contestant.
        """
        options = self.varying([name for name in self.settings if name.startswith("norm.")])
        lines = [_line(run, options) for run in self.runs[["norm", *options]].to_dict("records")]
        return replace(self, runs=self.runs.assign(line=lines))

    # Learning rates

    @cached_property
    def tries_rates(self) -> bool:
        """Whether any norm was trained at several learning rates, all else being equal."""
        rates = self.runs.groupby(self._beside_rate, dropna=False)["lr"].nunique()
        return bool((rates > 1).any())

    @property
    def holds_out(self) -> bool:
        """Whether any run held training images out, so that `val_column` has values."""
        return self.val_column in self.runs

    @property
    def chooses_rates(self) -> bool:
        """Whether several learning rates were tried, and images held out to choose among the rates.

        A rate is never chosen on the test set: the best of several would be too good.
        """
        return self.holds_out and self.tries_rates

    @cached_property
    def best_rates(self) -> pd.DataFrame:
        """`lr`, the rate with the best mean on held-out images, per norm and other settings.

        Rates with the most finished seeds compete: a rate with diverged seeds must not win by the
        remaining seeds. Of equally good rates the smallest is taken. is_edge: whether no smaller,
        or no larger, rate was tried, so that a better one may lie beyond.
        """
        groups = self._beside_rate
        results = self.done.runs.groupby([*groups, "lr"], dropna=False)[self.val_column]
        scores = results.agg(["size", "mean"]).reset_index()
        order = [False, not self.primary.is_larger_better]
        ranked = scores.sort_values(["size", "mean"], ascending=order, kind="stable")
        best = ranked.drop_duplicates(groups).drop(columns=["size", "mean"])
        ended = self.runs[self.runs["status"].isin(OVER)]
        tried = ended.groupby(groups, dropna=False)["lr"].agg(["min", "max"]).reset_index()
        ends = best.merge(tried, on=groups, how="left")
        is_edge = (ends["lr"] == ends["min"]) | (ends["lr"] == ends["max"])
        return best.assign(is_edge=is_edge.to_numpy())

    @property
    def _beside_rate(self) -> list[str]:
        return ["norm", *(name for name in self.settings if name != "lr")]

    # Metrics

    @cached_property
    def task(self) -> TaskRecord:
        """The task in env.json; UNKNOWN_TASK if no run began.

        Raises NormbenchError for several tasks, since tasks share no primary metric.
        """
        tasks = [task_of(environment) for environment in self.environments.values()]
        known = {task.name: task for task in tasks if task is not UNKNOWN_TASK}
        if len(known) > 1:
            hint = f"choose with --where task={next(iter(known))}"
            raise NormbenchError(f"runs of different task: {', '.join(known)}; {hint}")
        return next(iter(known.values()), UNKNOWN_TASK)

    @property
    def primary(self) -> Metric:
        """The metric for comparing norms."""
        return self.task.primary

    @property
    def test_column(self) -> str:
        """The column with the primary metric on the test set: `test_accuracy`."""
        return f"test_{self.primary.name}"

    @property
    def val_column(self) -> str:
        """The column with the primary metric on held-out training images: `val_accuracy`."""
        return f"val_{self.primary.name}"

    def metric(self, column: str) -> Metric:
        """The metric, time or memory in a column, for unit and direction.

        Columns with unknown names are shown as plain numbers.
        """
        return quantity_of(column, self.task.metrics) or Metric(column, "", "larger")

    # Times

    @cached_property
    def clocks(self) -> dict[str, Clock]:
        """Seconds of an epoch by round of the bench, for each run whose settings were timed.

        Raises NormbenchError if several machines timed the settings of a run.
        """
        return epoch_clocks(self.bench, self.environments, self.configs)

    def clock(self, runs: Iterable[str]) -> Clock:
        """Seconds of an epoch by round, for runs of equal cost; {} otherwise."""
        timed = {self.environments[run]["cost_id"]: run for run in runs if run in self.clocks}
        return self.clocks[timed.popitem()[1]] if len(timed) == 1 else {}

    @cached_property
    def clock_of_bn(self) -> Clock:
        """Seconds of an epoch of bn by round, at all settings."""
        runs = self.runs.loc[self.runs["norm"] == BASELINE, "run"]
        kinds = {self.environments[run]["cost_id"]: run for run in runs if run in self.clocks}
        return united([self.clocks[run] for run in kinds.values()])


def _line(run: Mapping[Any, Any], options: Collection[str]) -> str:
    told = {}
    for name in options:
        if run[name] != "":
            told[name.removeprefix("norm.").removeprefix("options.")] = run[name]
    return f"{run['norm']} {describe(told)}".strip()
