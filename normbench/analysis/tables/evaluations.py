"""BatchNorm's three evaluations side by side: whether training failed, or only the evaluation of what was trained."""

from __future__ import annotations

import pandas as pd

from normbench.analysis.frames import Frames
from normbench.analysis.provenance import caption, unfinished
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
    for metric, title in EVALUATIONS.items():
        shown[title] = [_shown(cell, metric) for cell in parts[metric].to_dict("records")]
    data = pd.concat(
        [part.assign(statistics=EVALUATIONS[metric]) for metric, part in _renamed(parts)], ignore_index=True
    )
    basis = (
        f"{caption(frames.runs)} Statistics for evaluation from running averages of training, from all training images "
        "under the final weights, layer by layer, or from random test batches of the size of training."
    )
    return Table("Test accuracy by statistics of evaluation", data, shown, basis, unfinished(frames.runs))


def _renamed(parts: dict[str, pd.DataFrame]) -> list[tuple[str, pd.DataFrame]]:
    """Every part with its accuracy in a column of one name."""
    return [(metric, part.rename(columns={metric: "test_accuracy"})) for metric, part in parts.items()]


def _shown(cell: dict[object, object], metric: str) -> str:
    estimate = Estimate(cell[metric], cell["half_width"], cell["n"])  # type: ignore[arg-type]
    if estimate.n:
        return as_text(estimate, metric)
    return str(cell["status"]) or (NOT_MEASURED if metric == "test_accuracy" else ONLY_ONE)
