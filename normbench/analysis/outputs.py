"""The list of every table and figure of a study: for `normbench plot` and for the report.

The module of a figure is imported for drawing only: matplotlib takes half a second to import, and
`normbench table` draws nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal

from normbench.analysis.study import Study
from normbench.analysis.tables.comparison import comparison_table
from normbench.analysis.tables.crosstab import cross_table
from normbench.analysis.tables.evaluations import evaluations_table, has_evaluations
from normbench.analysis.tables.leaderboard import leaderboard_table
from normbench.analysis.tables.pairs import pairs_table
from normbench.analysis.tables.side_by_side import (
    appearance_table,
    feature_shift_table,
    has_appearance,
    has_shares,
    shares_table,
)
from normbench.analysis.tables.source import has_sources, source_table
from normbench.analysis.tables.table import Table
from normbench.analysis.tables.target import target_table
from normbench.errors import unknown

Kind = Literal["table", "figure"]


@dataclass(frozen=True)
class Output:
    """A table or figure of a study, by name.

    title: with {metric} for the name of the study's primary metric. make: of a study, a Table or a
    matplotlib Figure; a figure takes a Size too, and options of its own. wanted: whether a study
    has something to show in it.
    """

    name: str
    title: str
    kind: Kind
    make: Callable[..., Any]
    wanted: Callable[[Study], bool] = lambda study: True

    def titled(self, study: Study) -> str:
        """The title, with the name of the study's primary metric."""
        return self.title.format(metric=study.primary.title)


def drawn(module: str, function: str) -> Callable[..., Any]:
    """The function of a module of `figures`, imported at the first call."""

    def draw(*arguments: Any, **options: Any) -> Any:
        figures = import_module(f"normbench.analysis.figures.{module}")
        return getattr(figures, function)(*arguments, **options)

    return draw


def _varies(column: str) -> Callable[[Study], bool]:
    return lambda study: bool(study.varying([column]))


def _compares(study: Study) -> bool:
    """Whether runs of two norms or more have finished."""
    return bool(study.done.varying(["norm"]))


def _tries_rates(study: Study) -> bool:
    return study.tries_rates


def _batch_size_table(study: Study) -> Table:
    return cross_table(study, ["norm", "batch_size"])


def _learning_rate_table(study: Study) -> Table:
    column = study.val_column if study.holds_out else study.test_column
    return cross_table(study, ["norm", *study.varying(["batch_size"]), "lr"], column)


# In the order of the report.
OUTPUTS = (
    Output("comparison", "What each norm reached", "table", comparison_table),
    Output("batch-size", "By batch size", "table", _batch_size_table, _varies("batch_size")),
    Output("leaderboard", "Leaderboard", "table", leaderboard_table, _compares),
    Output("evaluations", "By evaluation", "table", evaluations_table, has_evaluations),
    Output("appearance", "By appearance", "table", appearance_table, has_appearance),
    Output("feature-shift", "Feature shift", "table", feature_shift_table, has_appearance),
    Output("shares", "Learned shares", "table", shares_table, has_shares),
    Output("learning-rate", "By learning rate", "table", _learning_rate_table, _tries_rates),
    Output("pairs", "Norm against norm", "table", pairs_table, _varies("norm")),
    Output("target", "Time to a target", "table", target_table, _compares),
    Output("source", "Claimed, published, measured", "table", source_table, has_sources),
    Output("norms", "Test {metric} by norm", "figure", drawn("by_norm", "norms"), _compares),
    Output(
        "loss",
        "Training loss by step",
        "figure",
        drawn("curves", "loss"),
        lambda study: not study.steps.empty,
    ),
    Output(
        "pictures",
        "Contents, style and results",
        "figure",
        drawn("pictures", "pictures"),
        lambda study: bool(study.pictures),
    ),
    Output("epochs", "Loss and {metric} by epoch", "figure", drawn("curves", "epochs")),
    Output(
        "batch-size",
        "Test {metric} against batch size",
        "figure",
        drawn("against", "batch_size"),
        _varies("batch_size"),
    ),
    Output(
        "learning-rate",
        "Final {metric} against learning rate",
        "figure",
        drawn("against", "learning_rate"),
        _tries_rates,
    ),
    Output(
        "pareto",
        "Test {metric} against time of a step",
        "figure",
        drawn("pareto", "pareto"),
        lambda study: _compares(study) and bool(study.clock_of_bn),
    ),
    Output(
        "time",
        "Training time per epoch",
        "figure",
        drawn("costs", "time"),
        lambda study: bool(study.clocks),
    ),
)


def outputs(kind: Kind, study: Study | None = None) -> list[Output]:
    """The outputs of a kind; with a study, only outputs wanted of the study."""
    found = [output for output in OUTPUTS if output.kind == kind]
    return found if study is None else [output for output in found if output.wanted(study)]


def output_named(kind: Kind, name: str) -> Output:
    """The output of a kind and name. Raises NormbenchError with the nearest name."""
    found = {output.name: output for output in outputs(kind)}
    if name not in found:
        raise unknown(kind, name, found)
    return found[name]
