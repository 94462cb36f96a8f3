"""A ratio of times and its interval by numpy and scipy, as an oracle."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import scipy.stats


def over_processes(ratios: Sequence[Sequence[float]]) -> tuple[float, float, float]:
    """The ratio and its ends, from the rounds' ratios of each process; nan below 5 processes."""
    logarithms = np.log([np.median(of_process) for of_process in ratios])
    value = float(np.exp(logarithms.mean()))
    if len(ratios) < 5:
        return value, math.nan, math.nan
    half_width = scipy.stats.t.ppf(0.975, len(ratios) - 1) * scipy.stats.sem(logarithms)
    return value, float(value / np.exp(half_width)), float(value * np.exp(half_width))
