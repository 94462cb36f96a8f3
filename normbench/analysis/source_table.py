"""The table that normbench sets out to check, with what was measured beside what it claims.

The claims are those of a tutorial that does not say how it obtained them; its protocol is batch 64, 5 epochs of
CIFAR-10, Adam at 1e-3.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from normbench.analysis.crosstab import as_text, cells, final
from normbench.analysis.frames import Frames
from normbench.analysis.provenance import caption, unfinished
from normbench.analysis.stats import Estimate, mean_interval
from normbench.analysis.tables import BASELINE, NOT_MEASURED, Table

BATCH = 64
SMALLEST = 1
TIME = "train_seconds"
ACCURACY = "test_accuracy"


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
    runs = frames.runs[frames.runs["norm"].isin(CLAIMS) & frames.runs["batch_size"].isin((BATCH, SMALLEST))]
    return Table("The source's table, claimed and measured", data, _shown(data), caption(runs) + note, unfinished(runs))


def relative_time(frames: Frames, norm: str, batch_size: int = BATCH) -> Estimate | None:
    """The norm's training seconds per epoch over bn's at this batch size, by pairs of equal seed that ran alone.

    None where there is no such pair.
    """
    runs = frames.runs[frames.runs["batch_size"] == batch_size]
    seconds = runs.assign(seconds=runs["run"].map(final(frames, TIME))).dropna(subset="seconds")
    of = {name: group.set_index("seed")["seconds"].to_dict() for name, group in seconds.groupby("norm")}
    first, second = of.get(norm, {}), of.get(BASELINE, {})
    ratios = [first[seed] / second[seed] for seed in first.keys() & second.keys()]
    return mean_interval(ratios) if ratios else None


def _row(frames: Frames, norm: str, claim: Claim) -> dict[str, object]:
    at_batch, at_1 = (_accuracy(frames, norm, batch_size) for batch_size in (BATCH, SMALLEST))
    time = relative_time(frames, norm) if TIME in frames.metrics else None
    return {
        "norm": norm,
        "claimed_accuracy": claim.accuracy,
        **_estimate("accuracy", at_batch),
        "claimed_time": claim.relative_time,
        **_estimate("time", time),
        "claimed_at_batch_1": claim.at_batch_1,
        **_estimate("at_batch_1", at_1),
    }


def _accuracy(frames: Frames, norm: str, batch_size: int) -> Estimate | str | None:
    """What the norm reached; how its runs ended where none has finished; None where there is none."""
    chosen = frames.runs[(frames.runs["norm"] == norm) & (frames.runs["batch_size"] == batch_size)]
    if chosen.empty:
        return None
    cell = cells(replace(frames, runs=chosen), ["norm"]).iloc[0]
    return Estimate(cell[ACCURACY], cell["half_width"], int(cell["n"])) if cell["n"] else str(cell["status"])


def _estimate(name: str, measured: Estimate | str | None) -> dict[str, object]:
    if isinstance(measured, Estimate):
        return {name: measured.mean, f"{name}_half_width": measured.half_width, f"{name}_n": measured.n}
    return {name: math.nan, f"{name}_half_width": math.nan, f"{name}_n": 0, f"{name}_status": measured or NOT_MEASURED}


def _shown(data: pd.DataFrame) -> pd.DataFrame:
    rows = data.to_dict("records")
    return pd.DataFrame(
        {
            "norm": data["norm"],
            "accuracy claimed": [f"{100 * row['claimed_accuracy']:.1f} %" for row in rows],
            "accuracy measured": [_measured(row, "accuracy") for row in rows],
            "time claimed": [f"{row['claimed_time']:.2f}x" for row in rows],
            "time measured": [_measured(row, "time") for row in rows],
            "batch 1 claimed": data["claimed_at_batch_1"],
            "batch 1 measured": [_measured(row, "at_batch_1") for row in rows],
        }
    )


def _measured(row: dict[Any, Any], name: str) -> str:
    if not row[f"{name}_n"]:
        return str(row[f"{name}_status"])
    estimate = Estimate(*(row[key] for key in (name, f"{name}_half_width", f"{name}_n")))
    if name == "time":
        spread = "" if math.isnan(estimate.half_width) else f" ± {estimate.half_width:.2f}"
        return f"{estimate.mean:.2f}{spread}x (n = {estimate.n})"
    return f"{as_text(estimate, ACCURACY)} (n = {estimate.n})"
