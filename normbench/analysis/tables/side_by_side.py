"""Figures of a run side by side: under changed appearance, and the shares that a norm learns."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from normbench.analysis.captions import caption, unfinished
from normbench.analysis.study import Study
from normbench.analysis.tables.crosstab import cells
from normbench.analysis.tables.table import Table, in_words, show_result
from normbench.runs.columns import APPEARANCES, SHARES, appearance_columns

BY = ["norm", "batch_size"]
CHANGES = (
    "brightness, contrast and saturation times 0.5 and 1.5, hue turned by a quarter of the circle "
    "either way; a mean over both"
)


def has_appearance(study: Study) -> bool:
    """Whether any finished run was evaluated under changed appearance."""
    return bool(_measured(study, appearance_columns(study.primary.name)))


def appearance_table(study: Study) -> Table:
    """The primary metric on unchanged and on changed test images, for each norm and batch size."""
    columns = {kind: f"{study.test_column}_{kind}" for kind in APPEARANCES}
    title = f"{in_words(study.test_column).capitalize()} under changed appearance"
    note = f"Test images as they are and changed: {CHANGES}."
    return side_by_side(study, {"unchanged": study.test_column, **columns}, title, note)


def feature_shift_table(study: Study) -> Table:
    """The feature shift by kind of change, for each norm and batch size."""
    columns = {kind: f"feature_shift_{kind}" for kind in APPEARANCES}
    note = (
        "1 - the cosine between the inputs of the last linear layer of a test image as it is and "
        f"changed, mean over images: {CHANGES}."
    )
    return side_by_side(study, columns, "Feature shift under changed appearance", note)


def has_shares(study: Study) -> bool:
    """Whether any finished run has a norm that told shares of itself."""
    return bool(_measured(study, _shares(study)))


def shares_table(study: Study) -> Table:
    """The learned shares of mixed norms after the last epoch, for each norm and batch size."""
    columns = {in_words(name.removeprefix(SHARES)): name for name in _shares(study)}
    note = "Means over the norms of the network; the shares of a mean, as of a variance, sum to 1."
    return side_by_side(study, columns, "Learned shares", note)


def side_by_side(study: Study, columns: Mapping[str, str], title: str, note: str) -> Table:
    """Final figures, a column for each of metrics.csv, of the norms that have more than the first.

    columns: of metrics.csv, by heading. Raises NormbenchError where runs of a norm and batch size
    differ in more than their seed.
    """
    study = study.only(_measured(study, [*columns.values()][-1:]))
    parts, numbers = [], {}
    shown = pd.DataFrame()
    for heading, column in columns.items():
        part = cells(study, BY, column)
        metric = study.metric(column)
        if shown.empty:
            shown = part[BY].rename(columns=in_words)
        found = part.to_dict("records")
        shown[heading] = [show_result(metric, cell, column) for cell in found]
        numbers[heading] = part[column]
        parts.append(part.rename(columns={column: "value"}).assign(figure=column))
    data = pd.concat(parts, ignore_index=True)
    shown, notes, basis = shown.astype(str), unfinished(study), (caption(study),)
    return Table(title, data, shown, note, notes, pd.DataFrame(numbers), basis)


def _shares(study: Study) -> list[str]:
    return [str(name) for name in study.metrics if str(name).startswith(SHARES)]


def _measured(study: Study, columns: list[str]) -> list[str]:
    """The runs of the norms of which a finished run has one of these figures."""
    known = [name for name in columns if name in study.metrics]
    metrics = study.done.metrics
    norms = set(metrics.loc[metrics[known].notna().any(axis=1), "norm"])
    return study.runs.loc[study.runs["norm"].isin(norms), "run"].tolist()
