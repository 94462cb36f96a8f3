"""The report's first paragraph: sentences computed from the runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import pandas as pd

from normbench.analysis.captions import (
    UNTIMED,
    batch_sizes,
    chosen_rates,
    distinct,
    epochs,
    not_comparable,
    processes,
    seeds,
    shared_out,
    timed_networks,
    trained_on,
    unfinished,
)
from normbench.analysis.family import planned_of
from normbench.analysis.paired import Paired
from normbench.analysis.report.decisions import Called, decisions, leaders, pairs_of
from normbench.analysis.stats import paired_difference
from normbench.analysis.study import BASELINE, Study
from normbench.analysis.tables.source import source_table
from normbench.analysis.tables.table import times
from normbench.analysis.tables.tutorial import BATCH, CLAIMS, has_claims, relative_time
from normbench.errors import NormbenchError
from normbench.text import counted

MOST = 12  # sentences of a kind
MOST_NAMED = 8  # norms by name


@dataclass(frozen=True)
class Summary:
    """Sentences computed from the runs.

    decisions: what the study was to decide, or else who leads. extent: the runs, and those that
    are not comparable or did not finish. more: rates, the effect of batch size, the tutorial's
    figures, times.
    """

    decisions: list[str]
    extent: list[str]
    more: list[str]

    @property
    def sentences(self) -> list[str]:
        """All of them."""
        return [*self.decisions, *self.extent, *self.more]


def summary(study: Study, called: Called = str) -> Summary:
    """The sentences of a study.

    called: what a norm is called, as `BatchNorm (bn)` where it first stands.
    """
    # Labelled before runs are left out: a norm's options are named alike in all sentences.
    done = study.labelled.chosen.done
    pairs, trouble = pairs_of(study)
    first = [*trouble, *decisions(study, pairs, called)]
    if not planned_of(study) and not done.runs.empty:
        first += [*leaders(done, pairs, called)][:MOST]
    extent = [_extent(study), *not_comparable(study)]
    ended = unfinished(study)
    extent += [f"Not finished: {line}." for line in ended[:MOST]]
    if len(ended) > MOST:
        rest = len(ended) - MOST
        extent.append(f"And {rest} more kinds of runs that did not finish.")
    more = [*filter(None, [chosen_rates(study)])]
    if not done.runs.empty:
        for kind in (_changes(done), _order(done, pairs), _levels(study), _times(study)):
            more += [*kind][:MOST]
    return Summary(first, extent, more)


def _extent(study: Study) -> str:
    """`36 runs of normresnet on cifar10: bn, ln at batch size 1, 8 with 3 seeds; 36 done.`"""
    runs = study.runs
    batches = "; ".join(batch_sizes(study)) if shared_out(study) else ", ".join(batch_sizes(study))
    counts = runs["status"].value_counts().items()
    states = ", ".join(f"{count} {state}" for state, count in counts)
    done = study.done.runs
    trained = "" if done.empty else f", {trained_on(study)}{epochs(done)}"
    return (
        f"{counted(len(runs), 'run')} of {distinct(runs, 'model')} on {distinct(runs, 'data')}: "
        f"{as_names(runs)} at batch size {batches} with "
        f"{seeds(runs['seed'].nunique())}{trained}; {states}."
    )


def as_names(runs: pd.DataFrame, called: Called = str) -> str:
    """The norms of runs: `bn, gn`, or `26 norms` where they are many."""
    names = runs["norm"].unique()
    if len(names) > MOST_NAMED:
        return f"{len(names)} norms"
    return ", ".join(called(str(name)) for name in names)


def _changes(done: Study) -> Iterator[str]:
    """The change from the largest to the smallest batch size, paired by seed."""
    metric, runs = done.primary, done.runs
    small, large = runs["batch_size"].min(), runs["batch_size"].max()
    if small == large or runs.duplicated(["norm", "batch_size", "seed"]).any():
        return
    changes = []
    for norm, of_norm in runs.groupby("norm", sort=False):
        # A column for each batch size, a row for each seed.
        results = of_norm.pivot(index="seed", columns="batch_size", values=done.test_column)
        at_small, at_large = (
            results.get(size, pd.Series(dtype=float)).dropna().to_dict() for size in (small, large)
        )
        difference = paired_difference(at_small, at_large)
        if difference is not None:
            estimate = difference.estimate
            change = metric.show_difference(estimate.mean, estimate.half_width)
            changes.append(f"{norm} by {change} ({seeds(estimate.n)})")
    if changes:
        yield (
            f"From batch size {large} to {small}, test {metric.title} changes for "
            f"{', '.join(changes)}."
        )


def _order(done: Study, pairs: Sequence[Paired]) -> Iterator[str]:
    """The tutorial's order of norms beside the measured one, where all four norms ran alike."""
    runs = done.runs
    at_batch = runs[(runs["batch_size"] == BATCH) & runs["norm"].isin(CLAIMS)]
    is_complete = set(at_batch["norm"]) == set(CLAIMS)
    # Runs that differ in more than norm and seed have several orders.
    if not (has_claims(done) and is_complete) or at_batch.duplicated(["norm", "seed"]).any():
        return
    claimed = sorted(CLAIMS, key=lambda norm: -CLAIMS[norm].reached)
    means = at_batch.groupby("norm")[done.test_column].mean()
    measured = sorted(claimed, key=lambda norm: -means[norm])
    decided = set()
    for pair in pairs:
        if pair.settings["batch_size"] == BATCH and pair.is_decided:
            decided.add(frozenset((pair.first, pair.second)))
    steps = [" > ".join(step) for step in pairwise(measured) if frozenset(step) in decided]
    yield (
        f"The tutorial's order at batch {BATCH} is {' > '.join(claimed)}. The means here stand as "
        f"{' > '.join(measured)}; of these steps are decided: {', '.join(steps) or 'none'}."
    )


def _levels(study: Study) -> Iterator[str]:
    """The tutorial's accuracies beside those measured, by what differs in the protocol."""
    if not has_claims(study):
        return
    try:
        data = source_table(study).data
    except NormbenchError:
        return
    metric = study.primary
    compared = data[data["claimed"].notna() & (data["n"] > 0)]
    for differs, rows in compared.groupby("differs", sort=False):
        told = []
        for row in rows.to_dict("records"):
            here = metric.show(row[study.test_column], row["half_width"])
            told.append(f"{row['norm']} {metric.show(row['claimed'])} against {here}")
        yield (
            f"Accuracies that the tutorial claims at batch {BATCH}, against those reached here: "
            f"{', '.join(told)}; what differs here: {differs}."
        )


def _times(study: Study) -> Iterator[str]:
    """Epoch times relative to bn, with the name of the network, or a word that none are known."""
    if not study.clocks:
        yield UNTIMED
        return
    done = study.done.runs
    norms = [str(norm) for norm in done["norm"].unique() if norm != BASELINE]
    for batch_size in sorted(done["batch_size"].unique()):
        told, numbers = [], []
        for norm in norms:
            ratio = relative_time(study, norm, batch_size)
            if ratio is not None:
                told.append(f"{norm} {times(ratio)}{_claimed_time(norm, batch_size)}")
                numbers.append(ratio.processes)
        if told:
            yield (
                f"An epoch at batch size {batch_size} takes, relative to {BASELINE}, on this "
                f"study's network ({timed_networks(study)}), by rounds of {processes(numbers)}: "
                f"{'; '.join(told)}."
            )


def _claimed_time(norm: str, batch_size: int) -> str:
    """The tutorial's claim of a relative time, where there is one."""
    if batch_size != BATCH or norm not in CLAIMS:
        return ""
    return f", claimed {CLAIMS[norm].relative_time:.2f}x"
