"""Accuracies on CIFAR-10 as claimed, as published, and as measured, and what differs between them.

The claims are the tutorial's (tables/tutorial.py), the published figures those of
analysis/published.yaml. Neither is part of a mean, an interval or a verdict.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from normbench.analysis.captions import basis, unfinished
from normbench.analysis.protocol import Protocol, common, differences, protocol_of, unknown_of
from normbench.analysis.published import OBTAINED, Published, published
from normbench.analysis.study import Study
from normbench.analysis.tables.crosstab import cells
from normbench.analysis.tables.table import Table, show_result
from normbench.analysis.tables.tutorial import BATCH, CLAIMS, SMALLEST, of_cifar10, protocol_for
from normbench.errors import NormbenchError
from normbench.tasks.metric import Metric

BY = ["norm", "batch_size"]
TUTORIAL = "tutorial"
MEASURED = "measured here"
NUMBERS = ["batch size", "claimed", "published", MEASURED]
NOTHING = "nothing that is known"
UNKNOWN = "not known"
NO_PROTOCOL = ("precision", "pixels")
NOTE = (
    "Claimed: by the tutorial that was the occasion for normbench; published: by others, at the "
    "same norm and batch size. Neither enters a mean, interval or verdict; sd is the standard "
    "deviation over n runs. What differs: the protocol here, not the source's, as far as both are "
    "known; the sources are below."
)


@dataclass(frozen=True)
class Setting:
    """A norm and batch size of which a source tells the accuracy.

    accuracy: from 0 to 1; nan for a claim in words alone. words: the tutorial's. published: the
    figure, unless it is a claim.
    """

    norm: str
    batch_size: int
    protocol: Protocol
    accuracy: float = math.nan
    words: str = ""
    published: Published | None = None

    @property
    def place(self) -> tuple[str, int]:
        """Norm and batch size."""
        return self.norm, self.batch_size

    @property
    def source(self) -> str:
        """The source in a word."""
        return TUTORIAL if self.published is None else self.published.source.short

    def claimed(self, metric: Metric) -> str:
        """A claim in a cell: `92.3 %`, `collapses`; empty for a published figure."""
        if self.published is not None:
            return ""
        return self.words or metric.show(self.accuracy)

    def in_words(self, metric: Metric) -> str:
        """A published figure in a cell: `86.0 % (sd 0.3, n = 5, BeFranke)`; empty for a claim."""
        if self.published is None:
            return ""
        figure = self.published.figure
        parts = [] if figure.sd is None else [f"sd {figure.sd:.1f}"]
        parts += [f"n = {figure.n or 'unknown'}", self.source]
        return f"{metric.show(self.accuracy)} ({', '.join(parts)})"

    def note(self, here: Protocol | None) -> str:
        """The source in full, how its figures were obtained, its protocol, and what is unknown."""
        if self.published is None:
            told = f"{TUTORIAL}, which does not say how its figures were obtained"
            remark = ""
        else:
            source = self.published.source
            commit = f" at {source.commit}" if source.commit else ""
            told = f"{source.source}{commit}, {OBTAINED[source.obtained]}"
            remark = source.remark
        # The groups are those of a norm, not of the source.
        shared = self.protocol.model_copy(update={"groups": None})
        parts = [f"{told}: {shared}.", remark]
        unknown = "" if here is None else unknown_of(self.protocol, here)
        if unknown:
            parts.append(f"Not known of it: {unknown}.")
        # A line below a table ends without a full stop.
        return " ".join(filter(None, parts)).removesuffix(".")


def settings() -> list[Setting]:
    """All claims, then all published figures of a norm of normbench at a known batch size."""
    found = []
    for norm, claim in CLAIMS.items():
        protocol = protocol_for(norm)
        found.append(Setting(norm, SMALLEST, protocol, words=claim.at_batch_1))
        found.append(Setting(norm, BATCH, protocol, claim.reached))
    for one in published():
        name, size = one.figure.norm, one.figure.batch_size
        if name is not None and size is not None:
            accuracy = one.figure.percent / 100
            found.append(Setting(name, size, one.protocol, accuracy, published=one))
    return found


def has_sources(study: Study) -> bool:
    """Whether anything is claimed or published at a norm and batch size of the runs."""
    return bool(_fitting(study))


def source_table(study: Study) -> Table:
    """A row for each accuracy that is claimed or published at a norm and batch size of the runs.

    Raises NormbenchError where no run fits, and where runs of a norm and batch size differ in more
    than their seed.
    """
    fitting = _fitting(study)
    if not fitting:
        raise NormbenchError(
            "nothing is claimed or published for these runs: the sources have accuracies on "
            "CIFAR-10, at norms and batch sizes of their own"
        )
    return _table(study, fitting)


def table_of_alike(study: Study) -> Table | None:
    """The table with the sources alone whose protocol the runs have; None without such a source.

    The numbers' precision and a lossy copy of the images are no other protocol.
    """
    fitting = _fitting(study)
    protocols = _protocols(_told(study, fitting))
    alike = []
    for setting in fitting:
        here = protocols.get(setting.place)
        there = setting.protocol.model_copy(update=dict.fromkeys(NO_PROTOCOL))
        if here is not None and not differences(here, there):
            alike.append(setting)
    return _table(study, alike) if alike else None


def _table(study: Study, fitting: Sequence[Setting]) -> Table:
    metric, column = study.primary, study.test_column
    told = _told(study, fitting)
    measured = {_place(cell): cell for cell in cells(told, BY, column).to_dict("records")}
    protocols = _protocols(told)
    rows, shown = [], []
    notes: dict[str, str] = {}
    for setting in fitting:
        cell, protocol = measured[setting.place], protocols.get(setting.place)
        rows.append(_row(setting, cell, protocol))
        shown.append(
            {
                "norm": setting.norm,
                "batch size": str(setting.batch_size),
                "claimed": setting.claimed(metric),
                "published": setting.in_words(metric),
                MEASURED: show_result(metric, cell, column, with_n=True),
                "what differs": rows[-1]["differs"],
            }
        )
        notes.setdefault(setting.source, setting.note(protocol))
    data = pd.DataFrame(rows)
    numbers = data.rename(columns={"batch_size": "batch size", column: MEASURED})[NUMBERS]
    here = [f"here: {common(protocols.values())}"] if protocols else []
    lines = (*unfinished(told), *here, *notes.values())
    title = "Claimed, published, measured"
    return Table(title, data, pd.DataFrame(shown), NOTE, lines, numbers, basis(told))


def _place(row: Mapping[Any, Any]) -> tuple[str, int]:
    return row["norm"], row["batch_size"]


def _fitting(study: Study) -> list[Setting]:
    """The settings of which there are runs: by batch size, source, and norm in the runs' order."""
    runs = of_cifar10(study)
    places = {*zip(runs["norm"], runs["batch_size"], strict=True)}
    found = [setting for setting in settings() if setting.place in places]
    norms = [*runs["norm"].unique()]
    sources = [*dict.fromkeys(setting.source for setting in found)]

    def order(setting: Setting) -> tuple[int, int, int]:
        return setting.batch_size, sources.index(setting.source), norms.index(setting.norm)

    return sorted(found, key=order)


def _told(study: Study, fitting: Collection[Setting]) -> Study:
    """The runs on CIFAR-10 at the norms and batch sizes of the settings."""
    places = {setting.place for setting in fitting}
    runs = of_cifar10(study)[["run", *BY]].to_dict("records")
    return study.only({run["run"] for run in runs if _place(run) in places})


def _protocols(told: Study) -> dict[tuple[str, int], Protocol]:
    """The protocol of the runs by norm and batch size, at the chosen learning rate.

    Of a finished run, if there is one. None of a run that did not begin or has no configs.json.
    """
    runs = told.chosen.runs
    # In the order of the states, `done` first: the first run of a place is taken.
    ranked = runs.sort_values("status", key=lambda states: states != "done", kind="stable")
    found = {}
    for row in ranked.drop_duplicates(BY).to_dict("records"):
        run = row["run"]
        if run in told.configs and run in told.environments:
            found[_place(row)] = protocol_of(told.configs[run], told.environments[run])
    return found


def _row(setting: Setting, cell: Mapping[Any, Any], here: Protocol | None) -> dict[str, Any]:
    """The unrounded figures of a row; what a source does not tell is nan."""
    figure = None if setting.published is None else setting.published.figure
    row: dict[str, Any] = {name: cell[name] for name in BY}
    row["source"] = setting.source
    row["claimed"] = setting.accuracy if figure is None else math.nan
    row["claimed_in_words"] = setting.words
    row["published"] = math.nan if figure is None else setting.accuracy
    row["published_sd"] = math.nan if figure is None or figure.sd is None else figure.sd / 100
    row["published_n"] = math.nan if figure is None or figure.n is None else figure.n
    row |= {name: value for name, value in cell.items() if name not in BY}
    differs = UNKNOWN if here is None else differences(here, setting.protocol)
    return row | {"differs": differs or NOTHING}
