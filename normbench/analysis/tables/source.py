"""The table that normbench sets out to check, with what was measured beside what it claims.

The claims are those of a tutorial that does not say how it obtained them; its protocol is batch 64, 5 epochs of
CIFAR-10, Adam at 1e-3.
"""

from __future__ import annotations

import math
from dataclasses import astuple, dataclass, replace
from typing import Any

import pandas as pd

from normbench.analysis.captions import caption, unfinished
from normbench.analysis.choice import at_chosen_rate
from normbench.analysis.frames import Frames
from normbench.analysis.stats import Estimate, Ratio, median_ratio
from normbench.analysis.tables.crosstab import cells
from normbench.analysis.tables.table import BASELINE, NOT_MEASURED, Table, as_text, times
from normbench.analysis.times import clock_of, time_note

BATCH = 64
SMALLEST = 1
ACCURACY = "test_accuracy"
NOTHING = Estimate(math.nan, math.nan, 0)


@dataclass(frozen=True)
class Claim:
    """What the source says of a norm: test accuracy, time per epoch relative to bn, behaviour at batch size 1."""

    accuracy: float
    relative_time: float
    at_batch_1: str


CLAIMS = {
    "bn": Claim(0.923, 1.00, "collapses"),
    "ln": Claim(0.901, 1.10, "stable"),
    "in": Claim(0.885, 1.20, "stable"),
    "gn": Claim(0.917, 1.05, "stable"),
}


def source_table(frames: Frames) -> Table:
    """A row per norm of the source: its test accuracy, relative time and batch 1, each claimed and measured.

    Raises NormbenchError where runs of a norm differ in more than seed and batch size.
    """
    data = pd.DataFrame([_row(frames, norm, claim) for norm, claim in CLAIMS.items()])
    note = f" Claimed: at batch {BATCH}, by a tutorial that does not say how; measured: the same batch sizes here."
    runs = frames.runs[
        frames.runs["norm"].isin(CLAIMS) & frames.runs["batch_size"].isin((BATCH, SMALLEST))
    ]
    return Table(
        "The source's table, claimed and measured",
        data,
        _shown(data),
        caption(runs, times=time_note(frames)) + note,
        unfinished(runs),
    )


def relative_time(frames: Frames, norm: str, batch_size: int = BATCH) -> Ratio | None:
    """The norm's training seconds per epoch over bn's at this batch size, by rounds; None where they were not timed."""
    runs = at_chosen_rate(frames.runs[frames.runs["batch_size"] == batch_size])
    first, second = (clock_of(frames, runs[runs["norm"] == name]) for name in (norm, BASELINE))
    return median_ratio(first, second)


def _row(frames: Frames, norm: str, claim: Claim) -> dict[str, object]:
    return {
        "norm": norm,
        "claimed_accuracy": claim.accuracy,
        **_estimate("accuracy", *_accuracy(frames, norm, BATCH)),
        "claimed_time": claim.relative_time,
        **_time(relative_time(frames, norm)),
        "claimed_at_batch_1": claim.at_batch_1,
        **_estimate("at_batch_1", *_accuracy(frames, norm, SMALLEST)),
    }


def _accuracy(frames: Frames, norm: str, batch_size: int) -> tuple[Estimate, str]:
    """What the norm reached, and how those of its runs ended that did not finish."""
    chosen = frames.runs[(frames.runs["norm"] == norm) & (frames.runs["batch_size"] == batch_size)]
    if chosen.empty:
        return NOTHING, ""
    cell = cells(replace(frames, runs=chosen), ["norm"]).iloc[0]
    return Estimate(cell[ACCURACY], cell["half_width"], int(cell["n"])), str(cell["status"])


def _time(ratio: Ratio | None) -> dict[str, object]:
    """The measured ratio in text and numbers."""
    median, low, high, n = astuple(ratio) if ratio else (math.nan, math.nan, math.nan, 0)
    return {
        "time": median,
        "time_low": low,
        "time_high": high,
        "time_n": n,
        "time_shown": times(ratio),
    }


def _estimate(name: str, measured: Estimate, status: str = "") -> dict[str, object]:
    figures = {
        name: measured.mean,
        f"{name}_half_width": measured.half_width,
        f"{name}_n": measured.n,
    }
    return figures | {f"{name}_status": status}


def _shown(data: pd.DataFrame) -> pd.DataFrame:
    rows = data.to_dict("records")
    return pd.DataFrame(
        {
            "norm": data["norm"],
            "accuracy claimed": [f"{100 * row['claimed_accuracy']:.1f} %" for row in rows],
            "accuracy measured": [_measured(row, "accuracy") for row in rows],
            "time claimed": [f"{row['claimed_time']:.2f}x" for row in rows],
            "time measured": [row["time_shown"] for row in rows],
            "batch 1 claimed": data["claimed_at_batch_1"],
            "batch 1 measured": [_measured(row, "at_batch_1") for row in rows],
        }
    )


def _measured(row: dict[Any, Any], name: str) -> str:
    estimate, status = (
        Estimate(*(row[key] for key in (name, f"{name}_half_width", f"{name}_n"))),
        row[f"{name}_status"],
    )
    if not estimate.n:
        return status or NOT_MEASURED
    return (
        f"{as_text(estimate, ACCURACY)} ({', '.join(filter(None, [f'n = {estimate.n}', status]))})"
    )
