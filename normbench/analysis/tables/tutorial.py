"""The table of the source, claimed and measured: the occasion for normbench.

The source is a tutorial, silent on how figures were obtained; the protocol is batch 64,
5 epochs of CIFAR-10, Adam at 1e-3.
"""

from __future__ import annotations

import math
from dataclasses import astuple, dataclass
from typing import Any

import pandas as pd

from normbench.analysis.captions import caption, time_note, unfinished
from normbench.analysis.stats import Ratio, ratio_over_processes
from normbench.analysis.study import Study
from normbench.analysis.tables.crosstab import cells
from normbench.analysis.tables.table import Table, show_result, times

METRIC = "accuracy"  # the claims are about accuracy: no table for another metric
BATCH = 64
TIME = ("time", "time_low", "time_high", "time_n", "time_processes")
NO_RATIO = Ratio(math.nan, math.nan, math.nan, 0, 0)
SMALLEST = 1
NOTE = (
    f"Claimed: at batch {BATCH}, by a tutorial that does not say how; "
    "measured: the same batch sizes here."
)


HEADINGS = {
    f"claimed_{METRIC}": f"{METRIC} claimed",
    METRIC: f"{METRIC} measured",
    "claimed_time": "time claimed",
    "time": "time measured",
    "at_batch_1": "batch 1 measured",
}


@dataclass(frozen=True)
class Claim:
    """A claim of the source about a norm.

    reached: test accuracy; relative_time: of an epoch, relative to bn; at_batch_1: in words.
    """

    reached: float
    relative_time: float
    at_batch_1: str


CLAIMS = {
    "bn": Claim(0.923, 1.00, "collapses"),
    "ln": Claim(0.901, 1.10, "stable"),
    "in": Claim(0.885, 1.20, "stable"),
    "gn": Claim(0.917, 1.05, "stable"),
}


def has_claims(study: Study) -> bool:
    """Whether the source claims anything about the runs."""
    if study.primary.name != METRIC:
        return False
    runs = study.runs
    return bool((runs["norm"].isin(CLAIMS) & (runs["batch_size"] == BATCH)).any())


def source_table(study: Study) -> Table:
    """A row per norm of the source: result, time and batch 1, claimed and measured.

    Raises NormbenchError where runs of a norm differ in more than seed and batch size.
    """
    rows, shown = [], []
    for norm, claim in CLAIMS.items():
        ratio = relative_time(study, norm)
        at_batch, at_batch_1 = (_reached(study, norm, size) for size in (BATCH, SMALLEST))
        rows.append(
            {
                "norm": norm,
                f"claimed_{METRIC}": claim.reached,
                **_columns(METRIC, at_batch),
                "claimed_time": claim.relative_time,
                **dict(zip(TIME, astuple(ratio or NO_RATIO), strict=True)),
                "time_shown": times(ratio),
                "claimed_at_batch_1": claim.at_batch_1,
                **_columns("at_batch_1", at_batch_1),
            }
        )
        metric = study.primary
        shown.append(
            {
                "norm": norm,
                f"{METRIC} claimed": metric.show(claim.reached),
                f"{METRIC} measured": show_result(metric, at_batch, METRIC, with_n=True),
                "time claimed": f"{claim.relative_time:.2f}x",
                "time measured": times(ratio),
                "batch 1 claimed": claim.at_batch_1,
                "batch 1 measured": show_result(metric, at_batch_1, METRIC, with_n=True),
            }
        )
    data = pd.DataFrame(rows)
    runs = study.runs
    is_claimed = runs["norm"].isin(CLAIMS) & runs["batch_size"].isin((BATCH, SMALLEST))
    claimed = study.only(runs.loc[is_claimed, "run"])
    basis = f"{caption(claimed, times=time_note(study))} {NOTE}"
    numbers = data.rename(columns=HEADINGS)
    title = "The source's table, claimed and measured"
    return Table(title, data, pd.DataFrame(shown), basis, unfinished(claimed), numbers)


def relative_time(study: Study, norm: str, batch_size: int = BATCH) -> Ratio | None:
    """Seconds of an epoch over bn's at a batch size, by rounds; None if not timed."""
    chosen = study.at(norm=norm, batch_size=batch_size).chosen
    return ratio_over_processes(study.clock(chosen.runs["run"]), study.clock_of_bn)


def _reached(study: Study, norm: str, batch_size: int) -> dict[Any, Any]:
    runs = study.at(norm=norm, batch_size=batch_size)
    if runs.runs.empty:
        return {"n": 0, METRIC: math.nan, "half_width": math.nan, "status": ""}
    cell = cells(runs, ["norm"], study.test_column).to_dict("records")[0]
    return {**cell, METRIC: cell[study.test_column]}


def _columns(name: str, reached: dict[Any, Any]) -> dict[str, Any]:
    parts = {f"{name}_{part}": reached[part] for part in ("half_width", "n", "status")}
    return {name: reached[METRIC], **parts}
