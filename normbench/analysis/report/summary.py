"""The report's first paragraph: sentences computed from the runs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise

import pandas as pd

from normbench.analysis.captions import (
    UNTIMED,
    batch_sizes,
    chosen_rates,
    counted,
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
from normbench.analysis.family import every_pair, lost_seeds, planned_of
from normbench.analysis.paired import Paired
from normbench.analysis.settings import describe
from normbench.analysis.stats import mean_interval, paired_difference
from normbench.analysis.study import BASELINE, Study
from normbench.analysis.tables.source import source_table
from normbench.analysis.tables.table import times
from normbench.analysis.tables.tutorial import BATCH, CLAIMS, has_claims, relative_time
from normbench.errors import NormbenchError

MOST = 12  # sentences of a kind
Lines = pd.DataFrame  # finished runs with the column `line`


def summary(study: Study) -> list[str]:
    """Sentences, the decisions first: what the study was to decide, or else who leads.

    Then the extent, the effect of batch size, times, unfinished runs.
    """
    # Labelled before runs are left out: a norm's options are named alike in all sentences.
    done = study.labelled.chosen.done
    pairs, trouble = _pairs(study)
    sentences = [*trouble, *_decisions(study, pairs)]
    if not planned_of(study) and not done.runs.empty:
        sentences += [*_leaders(done, pairs)][:MOST]
    sentences.append(_extent(study))
    rates = chosen_rates(study)
    if rates:
        sentences.append(rates)
    sentences += not_comparable(study)
    if not done.runs.empty:
        for kind in (_changes(done), _order(done, pairs), _levels(study), _times(study)):
            sentences += [*kind][:MOST]
    ended = unfinished(study)
    sentences += [f"Not finished: {line}." for line in ended[:MOST]]
    if len(ended) > MOST:
        rest = len(ended) - MOST
        sentences.append(f"And {rest} more kinds of runs that did not finish.")
    return sentences


def _pairs(study: Study) -> tuple[list[Paired], list[str]]:
    """Every pair of norms, and the reason in a sentence where they cannot be paired."""
    if study.done.runs.empty:
        return [], []
    try:
        return every_pair(study), []
    except NormbenchError as error:
        return [], [f"Norms are not compared: {error}."]


def _decisions(study: Study, pairs: Sequence[Paired]) -> list[str]:
    """A sentence for each comparison that the design has decided on beforehand."""
    planned = planned_of(study)
    primary = [pair for pair in pairs if pair.planned]
    sentences = [pair.decision() for pair in primary]
    measured = [pair.planned for pair in primary]
    missing = 0
    for one in planned:
        if one in measured:
            continue
        missing += 1
        lost = lost_seeds(study, one)
        if lost:
            told = ", ".join(f"{count} of {norm} lost" for norm, count in lost.items())
            place = describe(one.at) or "the settings of these runs"
            sentences.append(f"At {place}, {one.first} and {one.second} are not compared: {told}.")
    if missing:
        noun = counted(missing, "comparison")
        sentences.append(f"Not measured yet: {noun} of the {len(planned)} decided beforehand.")
    return sentences


def _extent(study: Study) -> str:
    """`36 runs of normresnet on cifar10: bn, ln at batch size 1, 8 with 3 seeds; 36 done.`"""
    runs = study.runs
    batches = "; ".join(batch_sizes(study)) if shared_out(study) else ", ".join(batch_sizes(study))
    counts = runs["status"].value_counts().items()
    states = ", ".join(f"{count} {state}" for state, count in counts)
    return (
        f"{counted(len(runs), 'run')} of {distinct(runs, 'model')} on {distinct(runs, 'data')}: "
        f"{', '.join(map(str, runs['norm'].unique()))} at batch size {batches} with "
        f"{seeds(runs['seed'].nunique())}, {trained_on(study)}{epochs(study.done.runs)}; {states}."
    )


def _leaders(done: Study, pairs: Sequence[Paired]) -> Iterator[str]:
    """For each choice of settings, the leader, and whether the lead over the next is decided.

    A norm with different options is a different contestant. A norm whose figures are not
    comparable leads nobody.
    """
    metric, column = done.primary, done.test_column
    extreme = "highest" if metric.is_larger_better else "lowest"
    settings = done.varying(done.shared_settings)
    groups = done.runs.groupby(settings, dropna=False) if settings else [((), done.runs)]
    for key, group in groups:
        place = describe(dict(zip(settings, key, strict=True))) or "the settings of these runs"
        means = group.groupby("line")[column].mean()
        ranked = means.sort_values(ascending=not metric.is_larger_better).index
        first = group[group["line"] == ranked[0]]
        reached = mean_interval(first[column].tolist())
        value = f"{metric.show(reached.mean, reached.half_width)} ({seeds(reached.n)})"
        best = f"the {extreme} test {metric.title}, {value}"
        defects = done.broken.get(first["norm"].iloc[0])
        if defects:
            yield f"At {place}, there is no leader: {ranked[0]}, with {best}, {defects}."
        else:
            lead = _lead(group, str(ranked[0]), str(ranked[1]), pairs) if len(ranked) > 1 else ""
            yield f"At {place}, {ranked[0]} reached {best}{lead}."


def _lead(group: Lines, first: str, second: str, pairs: Sequence[Paired]) -> str:
    """The lead of the first over the second, as the table of pairs has it.

    Two options of the same norm are no pair of the table, and get no p-value.
    """
    here = group.iloc[0]
    for pair in pairs:
        is_here = all(here[name] == value for name, value in pair.settings.items())
        if is_here and {pair.first, pair.second} == {first, second}:
            break
    else:
        return f", before {second}"
    estimate = pair.difference.estimate
    # From the leader's side.
    sign = 1 if pair.first == first else -1
    ahead = pair.metric.show_difference(sign * estimate.mean, estimate.half_width)
    if estimate.n == 1:
        return f", {ahead} before {second}; one seed decides nothing"
    how = "more than chance explains" if pair.verdict == first else pair.outcome
    if math.isnan(pair.adjusted):
        return f", {ahead} before {second} ({pair.basis}): {how}"
    return f", {ahead} before {second} ({pair.basis}), {pair.p_in_words}: {how}"


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
