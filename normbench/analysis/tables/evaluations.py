"""The evaluations of BatchNorm side by side: did training fail, or only evaluation?"""

from __future__ import annotations

from typing import Any

import pandas as pd

from normbench.analysis.captions import caption, unfinished
from normbench.analysis.study import Study
from normbench.analysis.tables.crosstab import cells
from normbench.analysis.tables.table import NOT_MEASURED, Table, in_words, show_result

# By the end of their column in metrics.csv: where the statistics of an evaluation come from.
SOURCES = {"": "running averages", "_precise": "whole training set", "_batch": "test batch"}
WEIGHED = {"_weighed": "running averages and the image"}
NO_STATISTICS = "keeps none"
ABSENT = "-"
BY = ["norm", "batch_size"]
NOTE = (
    "Statistics for evaluation from running averages of training, from all training images, not "
    "augmented, under the final weights, layer by layer, or from random test batches as large as "
    "in training."
)
WEIGHED_NOTE = (
    " The image's own statistics are mixed into the running averages with the weight that has the "
    f"least loss on held-out or else training images; {ABSENT} where this was not measured."
)


def has_evaluations(study: Study) -> bool:
    """Whether any run was evaluated in all three ways."""
    return all(study.test_column + end in study.metrics for end in SOURCES)


def evaluations_table(study: Study) -> Table:
    """The primary metric by the source of statistics, for each norm and batch size.

    Raises NormbenchError where runs of a norm and batch size differ in more than their seed.
    """
    measured = study.test_column
    asked = _asked(study)
    parts, numbers = [], {}
    columns: dict[str, list[str]] = {}
    has_weighed = measured + "_weighed" in study.metrics
    for end, source in (SOURCES | WEIGHED if has_weighed else SOURCES).items():
        part = cells(study, BY, measured + end).rename(columns={measured + end: measured})
        parts.append(part.assign(statistics=source))
        numbers[source] = part[measured]
        columns[source] = []
        for cell in part.to_dict("records"):
            is_asked = asked[cell["norm"], cell["batch_size"]]
            lacking = _lacking(end) if is_asked else NOT_MEASURED
            text = show_result(study.primary, cell, measured, lacking=lacking)
            columns[source].append(text)
    shown = parts[0][BY].rename(columns=in_words).assign(**columns).astype(str)
    title = f"{in_words(measured).capitalize()} by statistics of evaluation"
    data = pd.concat(parts, ignore_index=True)
    told = NOTE + (WEIGHED_NOTE if has_weighed else "")
    basis = (caption(study),)
    return Table(title, data, shown, told, unfinished(study), pd.DataFrame(numbers), basis)


def _lacking(end: str) -> str:
    """What stands in the place of a figure that runs with all evaluations do not have."""
    if end in WEIGHED:
        return ABSENT
    # A norm without the other two keeps no statistics for them.
    return NO_STATISTICS if end else NOT_MEASURED


def _asked(study: Study) -> dict[Any, bool]:
    """Whether all runs of a norm and batch size had `train.bn_evaluations` on."""
    configs = study.configs.items()
    asked = [run for run, config in configs if config.get("train.bn_evaluations")]
    is_asked = study.runs["run"].isin(asked)
    return dict(study.runs.assign(asked=is_asked).groupby(BY)["asked"].all())
