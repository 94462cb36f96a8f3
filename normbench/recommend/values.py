"""Answers as values for programs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from normbench.analysis.paired import Paired
from normbench.recommend.account import headline
from normbench.recommend.answer import Answer
from normbench.recommend.words import short


def values_of(answer: Answer, wished: Sequence[str] = ()) -> dict[str, Any]:
    """The answer by name. wished: sentences on wishes."""
    question = answer.question
    return {
        "network": answer.network,
        "model": question.model,
        "batch_size": question.batch_size,
        "verdict": answer.verdict,
        "recommended": answer.recommended,
        "candidates": list(answer.outcome.candidates),
        "behind": list(answer.outcome.behind),
        "measured_at": [one.batch_size for one in answer.at],
        "nearest": None if answer.nearest is None else answer.nearest.batch_size,
        "evidence": [_values(*found) for one in answer.at for found in one.judged],
        "excluded": {norm: why for one in answer.at for norm, why in one.excluded.items()},
        "asked": list(wished),
        "changed_by": {one.batch_size: short(one.outcome) for one in answer.changed_by},
        "tree": [{"path": one.way, "norms": list(one.norms)} for one in answer.advice],
        "sentence": headline(answer),
    }


def _values(study: str, paired: Paired) -> dict[str, Any]:
    """A comparison as values, in the metric's own unit; None for what has no number."""
    estimate = paired.difference.estimate
    numbers = {
        "difference": estimate.mean,
        "half_width": estimate.half_width,
        "p_value": paired.adjusted,
    }
    known = {name: None if math.isnan(value) else value for name, value in numbers.items()}
    names = {"study": study, "first": paired.first, "second": paired.second}
    return {**names, **known, "n": estimate.n, "verdict": paired.verdict}
