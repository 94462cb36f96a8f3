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
from normbench.audit.verdicts import Interval, Verdict, better, not_worse
from normbench.errors import NormbenchError
from normbench.timing.rounds import read_bench

POINT = 0.01  # of accuracy


def folder_of(study: str) -> str:
    """The name of a study's folder: `batch_size` is in `batch-size`."""
    return study.replace("_", "-")


@dataclass
class Evidence:
    """The studies in a folder such as results/, by name; those given need no folder."""

    folder: Path
    studies: dict[str, Study | None] = field(default_factory=dict)
    _pairs: dict[str, list[Paired]] = field(default_factory=dict)

    def study(self, name: str) -> Study | None:
        """The study called `name`; None where its folder is missing.

        Raises NormbenchError for a folder whose files are damaged.
        """
        if name not in self.studies:
            folder = self.folder / folder_of(name)
            is_there = (folder / "runs.csv").is_file()
            self.studies[name] = load_study([folder]) if is_there else None
        return self.studies[name]

    def pair(self, name: str, first: str, second: str, **settings: object) -> Paired | None:
        """First against second in the study's family at these settings; None without a verdict."""
        study = self.study(name)
        if study is None:
            return None
        if name not in self._pairs:
            self._pairs[name] = every_pair(study)
        found = []
        for paired in self._pairs[name]:
            is_asked = paired.is_primary and {paired.first, paired.second} == {first, second}
            told = {key: str(paired.settings.get(key)) for key in settings}
            if is_asked and told == {key: str(value) for key, value in settings.items()}:
                found.append(paired)
        if len(found) > 1:
            places = " and ".join(paired.place for paired in found)
            raise NormbenchError(f"study {name}: {first} and {second} are compared at {places}")
        if not found:
            return None
        return found[0] if found[0].first == first else found[0].turned()

    def reached(self, name: str, column: str = "", **values: object) -> Estimate | None:
        """The mean of a column of the finished runs with these values; None without such runs.

        Each norm is at its chosen learning rate. column: by default the primary metric on the test
        set, in its own unit.
        """
        study = self.study(name)
        if study is None:
            return None
        chosen = study.chosen.at(**values).done
        column = column or study.test_column
        if chosen.runs.empty or column not in chosen.metrics:
            return None
        found = [value for value in final(chosen, column).values() if not math.isnan(value)]
        return mean_interval(found) if found else None

    def time_of_step(self, norm: str, batch_size: int, network: str = "normresnet") -> Ratio | None:
        """The time of a training step relative to bn's, of the bench in `speed`; None without.

        Raises NormbenchError where it was timed in several settings.
        """
        file = self.folder / "speed" / "bench.csv"
        if not file.is_file():
            return None
        rounds = read_bench(file)
        found = costs(rounds[rounds["model.name"] == network])
        if found.empty:
            return None
        is_asked = (found["norm"] == norm) & (found["batch_size"] == batch_size)
        rows = found[is_asked].to_dict("records")
        if len(rows) > 1:
            raise NormbenchError(f"'{file}' has {norm} at batch size {batch_size} several times")
        if not rows:
            return None
        value, low, high = (rows[0][name] for name in RATIO)
        return Ratio(value, low, high, rows[0]["rounds"], rows[0]["processes"])


def by_seed(study: Study, column: str = "") -> dict[int, float]:
    """A column of the finished runs at their last epoch, by seed: by default the test metric.

    Raises NormbenchError where a seed has several runs.
    """
    done = study.done
    if done.runs.empty:
        return {}
    found: dict[int, float] = {}
    values = final(done, column or study.test_column)
    for run, seed in zip(done.runs["run"], done.runs["seed"], strict=True):
        if seed in found:
            raise NormbenchError(f"several runs of seed {seed}, of which {run} is one")
        found[int(seed)] = values[run]
    return found


def interval_of(estimate: Estimate) -> Interval:
    """The ends of an estimate's interval."""
    return estimate.mean - estimate.half_width, estimate.mean + estimate.half_width


def points(estimate: Estimate) -> str:
    """A difference of accuracies in words: `+1.2 ± 0.7 points (3 seeds)`."""
    mean, half_width = 100 * estimate.mean, 100 * estimate.half_width
    return f"{mean:+.1f} ± {half_width:.1f} points ({estimate.n} seeds)"


def ahead(paired: Paired | None) -> Verdict:
    """Whether the first norm of a comparison is ahead; not measured without the comparison."""
    if paired is None:
        return Verdict.UNMEASURED
    return better(paired.verdict, paired.first, paired.second)


def not_behind(paired: Paired | None) -> Verdict:
    """Whether the second norm of a comparison is not ahead; not measured without the comparison."""
    if paired is None:
        return Verdict.UNMEASURED
    return not_worse(paired.verdict, paired.first, paired.second)


def told(study: str, pairs: Sequence[Paired | None]) -> Iterator[str]:
    """The sentences of the comparisons that are there, with the study's name."""
    for paired in pairs:
        if paired is not None:
            yield f"{study}: {paired.sentence()}"
