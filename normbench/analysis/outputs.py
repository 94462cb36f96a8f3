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
from normbench.analysis.tables.pairs import pairs_table
from normbench.analysis.tables.source import has_claims, source_table
from normbench.analysis.tables.table import Table
from normbench.errors import unknown

Kind = Literal["table", "figure"]


@dataclass(frozen=True)
class Output:
    """A table or figure of a study, by name.

    title: with {metric} for the name of the study's primary metric. wanted: whether a study has
    something to show in it. make: of a study, a Table or a matplotlib Figure; a figure takes a Size
    too, and options of its own.
    """

    name: str
    title: str
    kind: Kind
    wanted: Callable[[Study], bool]
    make: Callable[..., Any]

    def titled(self, study: Study) -> str:
        """The title, with the name of the study's primary metric."""
        return self.title.format(metric=study.primary.title)


def drawn(module: str, function: str) -> Callable[..., Any]:
    """The function of a module of `figures`, imported at the first call."""

    def draw(*arguments: Any, **options: Any) -> Any:
        figures = import_module(f"normbench.analysis.figures.{module}")
        return getattr(figures, function)(*arguments, **options)

    return draw


def _always(study: Study) -> bool:
    return True


def _has_batch_sizes(study: Study) -> bool:
    return study.runs["batch_size"].nunique() > 1


def _has_norms(study: Study) -> bool:
    return study.runs["norm"].nunique() > 1


def _has_steps(study: Study) -> bool:
    return not study.steps.empty


def _has_times(study: Study) -> bool:
    return bool(study.clocks)


def _tries_rates(study: Study) -> bool:
    return study.tries_rates


def _batch_size_table(study: Study) -> Table:
    return cross_table(study, ["norm", "batch_size"])


def _learning_rate_table(study: Study) -> Table:
    """The table of learning rates, judged on held-out images if any."""
    column = study.val_column if study.holds_out else study.test_column
    return cross_table(study, ["norm", *study.varying(["batch_size"]), "lr"], column)


# In the order of the report.
OUTPUTS = (
    Output("source", "Claimed and measured", "table", has_claims, source_table),
    Output("comparison", "What each norm reached", "table", _always, comparison_table),
    Output("batch-size", "By batch size", "table", _has_batch_sizes, _batch_size_table),
    Output("evaluations", "By evaluation", "table", has_evaluations, evaluations_table),
    Output("learning-rate", "By learning rate", "table", _tries_rates, _learning_rate_table),
    Output("pairs", "Norm against norm", "table", _has_norms, pairs_table),
    Output("loss", "Training loss by step", "figure", _has_steps, drawn("curves", "loss")),
    Output("epochs", "Loss and {metric} by epoch", "figure", _always, drawn("curves", "epochs")),
    Output(
        "batch-size",
        "Test {metric} against batch size",
        "figure",
        _has_batch_sizes,
        drawn("against", "batch_size"),
    ),
    Output(
        "learning-rate",
        "Final {metric} against learning rate",
        "figure",
        _tries_rates,
        drawn("against", "learning_rate"),
    ),
    Output("time", "Training time per epoch", "figure", _has_times, drawn("costs", "time")),
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
