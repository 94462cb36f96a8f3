"""A metric of a task: name, unit, direction, and the writing of values.

The env.json of a run records the metrics of the task. `runs` and `analysis` read the record, and
so judge runs of any task without importing tasks or torch.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, TypeAdapter

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Metric:
    """A figure of merit, averaged over the images of a split.

    name: as in the columns of metrics.csv, `{train,val,test}_{name}`.
    unit, decimals: a value is shown times `scale`, with `decimals` decimals and the unit.
    better: whether larger or smaller values are better.
    difference_unit: unit of a difference of two values; `unit` if empty.
    low, high: the range of an image's value, before scaling; None is unbounded.
    """

    name: str
    unit: str
    better: Literal["larger", "smaller"]
    scale: float = 1.0
    decimals: Annotated[int, Field(ge=0, le=12)] = 3
    difference_unit: str = ""
    low: float | None = None
    high: float | None = None

    def __post_init__(self) -> None:
        if self.better not in ("larger", "smaller"):
            raise ValueError(f"better is larger or smaller, not {self.better!r}")

    @property
    def title(self) -> str:
        """The name in words: `squared error`."""
        return self.name.replace("_", " ")

    @property
    def label(self) -> str:
        """The name and unit, for an axis: `accuracy (%)`."""
        return f"{self.title} ({self.unit})" if self.unit else self.title

    @property
    def is_larger_better(self) -> bool:
        """The direction as a truth value, for sorting."""
        return self.better == "larger"

    def is_better(self, first: float, second: float) -> bool:
        """Whether the first value is strictly better than the second."""
        return first > second if self.is_larger_better else first < second

    def show(self, value: float, half_width: float = math.nan) -> str:
        """A value with unit, and half width of an interval unless nan: `91.3 ± 0.2 %`.

        An interval that leaves the metric's range ends there: `91.3 % (82.0 to 100.0)`.
        """
        low = value - half_width if self.low is None else max(self.low, value - half_width)
        high = value + half_width if self.high is None else min(self.high, value + half_width)
        if math.isnan(half_width) or (low, high) == (value - half_width, value + half_width):
            return self._written(value, half_width, self.unit)
        ends = [f"{self.scale * end:.{self.decimals}f}" for end in (low, high)]
        return f"{self._written(value, math.nan, self.unit)} ({' to '.join(ends)})"

    def show_difference(self, value: float, half_width: float = math.nan) -> str:
        """A signed difference of two values, likewise: `+0.8 ± 0.3 points`."""
        return self._written(value, half_width, self.difference_unit or self.unit, sign="+")

    def finer(self) -> Metric:
        """The metric with another decimal, for single runs side by side."""
        return replace(self, decimals=self.decimals + 1)

    def _written(self, value: float, half_width: float, unit: str, sign: str = "-") -> str:
        text = f"{self.scale * value:{sign}.{self.decimals}f}"
        if not math.isnan(half_width):
            text += f" ± {self.scale * half_width:.{self.decimals}f}"
        return f"{text} {unit}".rstrip()


@dataclass(frozen=True)
class TaskRecord:
    """The task of a run in env.json: name, metrics, and the primary metric."""

    name: str
    primary: Metric
    metrics: tuple[Metric, ...]

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> TaskRecord:
        """The record written by `to_json`. Raises ValueError for any other content."""
        try:
            metrics = _metrics_of(json.dumps(content["metrics"]))
            primary = {metric.name: metric for metric in metrics}[content["primary"]]
            return cls(str(content["name"]), primary, metrics)
        except (KeyError, TypeError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise ValueError(f"not a task: {reason}") from None

    def to_json(self) -> dict[str, Any]:
        """The section `task` of env.json."""
        return asdict(self) | {"primary": self.primary.name}


# Read from JSON text, in which a list may stand for the tuple; every type is checked.
METRICS = TypeAdapter(tuple[Metric, ...], config=ConfigDict(strict=True))


@lru_cache(maxsize=64)
def _metrics_of(text: str) -> tuple[Metric, ...]:
    """The metrics of a task, cached: thousands of runs have the same."""
    return METRICS.validate_json(text)


# The task of runs without an environment, and so without figures.
NO_METRIC = Metric("result", "", "larger")
UNKNOWN_TASK = TaskRecord("unknown", NO_METRIC, (NO_METRIC,))


def metric_of(column: str, metrics: Iterable[Metric]) -> Metric | None:
    """The metric in a column of metrics.csv: `test_accuracy` or `test_accuracy_precise`.

    None for any other column.
    """
    split, _, rest = column.partition("_")
    if split not in SPLITS:
        return None
    # The longest name first: `error_rate` must not be taken for a variant of `error`.
    for metric in sorted(metrics, key=lambda metric: -len(metric.name)):
        if rest == metric.name or rest.startswith(f"{metric.name}_"):
            return metric
    return None
