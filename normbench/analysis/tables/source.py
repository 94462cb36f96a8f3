"""The table of the source, claimed and measured: the occasion for normbench.

The source is a tutorial, silent on how figures were obtained; the protocol is batch 64,
5 epochs of CIFAR-10, Adam at 1e-3.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import pandas as pd

from normbench.analysis.captions import caption, time_note, unfinished
from normbench.analysis.stats import Estimate, Ratio, median_ratio
from normbench.analysis.study import BASELINE, Study
from normbench.analysis.tables.crosstab import cells
from normbench.analysis.tables.table import NOT_MEASURED, Table, times
from normbench.tasks.metric import Metric

METRIC = "accuracy"  # the claims are about accuracy: no table for another metric
BATCH = 64
SMALLEST = 1
NOTE = (
    f"Claimed: at batch {BATCH}, by a tutorial that does not say how; "
    "measured: the same batch sizes here."
)


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
    data = pd.DataFrame([_row(study, norm, claim) for norm, claim in CLAIMS.items()])
    runs = study.runs
    is_claimed = runs["norm"].isin(CLAIMS) & runs["batch_size"].isin((BATCH, SMALLEST))
    claimed = study.only(runs.loc[is_claimed, "run"])
    basis = f"{caption(claimed, times=time_note(study))} {NOTE}"
    shown = _readable(study.primary, data)
    headings = {
        f"claimed_{METRIC}": f"{METRIC} claimed",
        METRIC: f"{METRIC} measured",
        "claimed_time": "time claimed",
        "time": "time measured",
        "at_batch_1": "batch 1 measured",
    }
    numbers = data.rename(columns=headings)
    title = "The source's table, claimed and measured"
    return Table(title, data, shown, basis, unfinished(claimed), numbers)


def relative_time(study: Study, norm: str, batch_size: int = BATCH) -> Ratio | None:
    """Seconds of an epoch over bn's at a batch size, by rounds; None if not timed."""
    runs = study.at(batch_size=batch_size).chosen.runs
    of_norm, of_bn = (
        study.clock(runs.loc[runs["norm"] == name, "run"]) for name in (norm, BASELINE)
    )
    return median_ratio(of_norm, of_bn)


def _row(study: Study, norm: str, claim: Claim) -> dict[str, object]:
    ratio = relative_time(study, norm) or Ratio(math.nan, math.nan, math.nan, 0)
    return {
        "norm": norm,
        f"claimed_{METRIC}": claim.reached,
        **_reached(study, METRIC, norm, BATCH),
        "claimed_time": claim.relative_time,
        "time": ratio.median,
        "time_low": ratio.low,
        "time_high": ratio.high,
        "time_n": ratio.n,
        "time_shown": times(ratio if ratio.n else None),
        "claimed_at_batch_1": claim.at_batch_1,
        **_reached(study, "at_batch_1", norm, SMALLEST),
    }


def _reached(study: Study, name: str, norm: str, batch_size: int) -> dict[str, object]:
    """The result of a norm, and the runs without a result."""
    runs = study.at(norm=norm, batch_size=batch_size)
    estimate, status = Estimate(math.nan, math.nan, 0), ""
    if not runs.runs.empty:
        cell = cells(runs, ["norm"], study.test_column).iloc[0]
        estimate = Estimate(cell[study.test_column], cell["half_width"], int(cell["n"]))
        status = str(cell["status"])
    return {
        name: estimate.mean,
        f"{name}_half_width": estimate.half_width,
        f"{name}_n": estimate.n,
        f"{name}_status": status,
    }


def _readable(metric: Metric, data: pd.DataFrame) -> pd.DataFrame:
    rows = data.to_dict("records")
    return pd.DataFrame(
        {
            "norm": data["norm"],
            f"{METRIC} claimed": [metric.show(row[f"claimed_{METRIC}"]) for row in rows],
            f"{METRIC} measured": [_measured(row, METRIC, metric) for row in rows],
            "time claimed": [f"{row['claimed_time']:.2f}x" for row in rows],
            "time measured": data["time_shown"],
            "batch 1 claimed": data["claimed_at_batch_1"],
            "batch 1 measured": [_measured(row, "at_batch_1", metric) for row in rows],
        }
    )


def _measured(row: dict[Any, Any], name: str, metric: Metric) -> str:
    number, status = row[f"{name}_n"], row[f"{name}_status"]
    if not number:
        return status or NOT_MEASURED
    remarks = f"n = {number}, {status}" if status else f"n = {number}"
    return f"{metric.show(row[name], row[f'{name}_half_width'])} ({remarks})"
