"""BatchNorm's three evaluations side by side: whether training failed, or only the evaluation of what was trained."""

from __future__ import annotations

from typing import Any

import pandas as pd

from normbench.analysis.captions import caption, unfinished
from normbench.analysis.frames import Frames
from normbench.analysis.stats import Estimate
from normbench.analysis.tables.crosstab import cells
from normbench.analysis.tables.table import NOT_MEASURED, Table, as_text

EVALUATIONS = {
    "test_accuracy": "running averages",
    "test_accuracy_precise": "whole training set",
    "test_accuracy_batch": "test batch",
}
ONLY_ONE = "keeps none"
BY = ["norm", "batch_size"]


def evaluations_table(frames: Frames) -> Table:
    """Test accuracy by where the statistics come from, for each norm and batch size.

    Raises NormbenchError where runs of one norm and batch size differ in more than seed.
    """
    parts = {metric: cells(frames, BY, metric) for metric in EVALUATIONS}
    shown = parts["test_accuracy"][BY].rename(columns={"batch_size": "batch size"}).astype(str)
    asked = {run for run, config in frames.configs.items() if config.get("train.bn_evaluations")}
    all_asked = frames.runs.assign(asked=frames.runs["run"].isin(asked)).groupby(BY)["asked"].all()
    for metric, title in EVALUATIONS.items():
        cells_of = parts[metric].to_dict("records")
        shown[title] = [
            _shown(cell, metric, all_asked[cell["norm"], cell["batch_size"]]) for cell in cells_of
        ]
    data = pd.concat(
        [part.assign(statistics=EVALUATIONS[metric]) for metric, part in _renamed(parts)],
        ignore_index=True,
    )
    basis = (
        f"{caption(frames.runs)} Statistics for evaluation from running averages of training, from all training "
        "images, not augmented, under the final weights, layer by layer, or from random test batches as large as in "
        "training."
    )
    return Table(
        "Test accuracy by statistics of evaluation", data, shown, basis, unfinished(frames.runs)
    )


def _renamed(parts: dict[str, pd.DataFrame]) -> list[tuple[str, pd.DataFrame]]:
    """Every part with its accuracy in a column of one name."""
    return [
        (metric, part.rename(columns={metric: "test_accuracy"})) for metric, part in parts.items()
    ]


def _shown(cell: dict[Any, Any], metric: str, asked: bool) -> str:
    """A run that was asked for its other evaluations and has none keeps no statistics."""
    estimate = Estimate(cell[metric], cell["half_width"], cell["n"])
    if estimate.n:
        return as_text(estimate, metric)
    return str(cell["status"]) or (
        ONLY_ONE if asked and metric != "test_accuracy" else NOT_MEASURED
    )
