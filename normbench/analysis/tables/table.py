"""What a table is: data, what people read of it, and what the figures rest on."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pandas as pd

from normbench.analysis.stats import Estimate

BASELINE = "bn"
NONE_FINISHED = "none finished"
NOT_MEASURED = "not measured"


@dataclass(frozen=True)
class Table:
    """A table as data, unrounded, and as people read it.

    notes: what has no figure, and why; one line each.
    """

    title: str
    data: pd.DataFrame
    shown: pd.DataFrame
    caption: str
    notes: tuple[str, ...] = ()


def ended_otherwise(runs: pd.DataFrame) -> str:
    """How many runs without a result ended how: 1 diverged, 2 failed."""
    ended = runs.loc[runs["status"] != "done", "status"].value_counts()
    return ", ".join(f"{count} {state}" for state, count in ended.items())


def percent(estimate: Estimate) -> str:
    """An accuracy in percent, with its interval where there is one."""
    if math.isnan(estimate.mean):
        return NONE_FINISHED
    if math.isnan(estimate.half_width):
        return f"{100 * estimate.mean:.1f} %"
    return f"{100 * estimate.mean:.1f} ± {100 * estimate.half_width:.1f} %"


def figure(value: float, form: str) -> str:
    """A figure in this format; not measured where there is none."""
    return NOT_MEASURED if math.isnan(value) else form.format(value)


def times(ratio: Estimate) -> str:
    """How many times as long, with its interval where there is one."""
    if math.isnan(ratio.mean):
        return NOT_MEASURED
    spread = "" if math.isnan(ratio.half_width) else f" ± {ratio.half_width:.2f}"
    return f"{ratio.mean:.2f}{spread}x"
