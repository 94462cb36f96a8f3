"""The studies that claims are judged by: read once, and None where they have not been made."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from normbench.analysis.family import every_pair
from normbench.analysis.loading import load_study
from normbench.analysis.paired import Paired
from normbench.analysis.stats import Estimate, Ratio, mean_interval
from normbench.analysis.study import Study
from normbench.analysis.tables.crosstab import final
from normbench.analysis.tables.step_costs import costs
from normbench.analysis.tables.table import RATIO
from normbench.timing.rounds import read_bench


def folder_of(study: str) -> str:
    """The name of a study's folder: `batch_size` is in `batch-size`."""
    return study.replace("_", "-")


@dataclass
class Evidence:
    """The studies in a folder such as results/, by name."""

    folder: Path
    _studies: dict[str, Study | None] = field(default_factory=dict)
    _pairs: dict[str, list[Paired]] = field(default_factory=dict)

    def study(self, name: str) -> Study | None:
        """The study called `name`; None where its folder is missing.

        Raises NormbenchError for a folder whose files are damaged.
        """
        if name not in self._studies:
            folder = self.folder / folder_of(name)
            is_there = (folder / "runs.csv").is_file()
            self._studies[name] = load_study([folder]) if is_there else None
        return self._studies[name]

    def pair(self, name: str, first: str, second: str, **settings: object) -> Paired | None:
        """First against second in the study's family at these settings; None without a verdict."""
        study = self.study(name)
        if study is None:
            return None
        if name not in self._pairs:
            self._pairs[name] = every_pair(study)
        for paired in self._pairs[name]:
            if not paired.is_primary or {paired.first, paired.second} != {first, second}:
                continue
            if all(str(paired.settings.get(key)) == str(settings[key]) for key in settings):
                return paired if paired.first == first else paired.turned()
        return None

    def reached(self, name: str, column: str = "", **values: object) -> Estimate | None:
        """The mean of a column of the finished runs with these values; None without such runs.

        column: by default the primary metric on the test set, in its own unit.
        """
        study = self.study(name)
        if study is None:
            return None
        chosen = study.at(**values).done
        column = column or study.test_column
        if chosen.runs.empty or column not in chosen.metrics:
            return None
        found = final(chosen, column).values()
        return mean_interval([value for value in found if not math.isnan(value)])

    def time_of_step(self, norm: str, batch_size: int) -> Ratio | None:
        """The time of a training step relative to bn's, of the bench in `speed`; None without."""
        file = self.folder / "speed" / "bench.csv"
        if not file.is_file():
            return None
        found = costs(read_bench(file))
        is_asked = (found["norm"] == norm) & (found["batch_size"] == batch_size)
        for row in found[is_asked].to_dict("records"):
            value, low, high = (row[name] for name in RATIO)
            return Ratio(value, low, high, row["rounds"], row["processes"])
        return None


def told(study: str, pairs: Sequence[Paired | None]) -> Iterator[str]:
    """The sentences of the comparisons that are there, with the study's name."""
    for paired in pairs:
        if paired is not None:
            yield f"{study}: {paired.sentence()}"
