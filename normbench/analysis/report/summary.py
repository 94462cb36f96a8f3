"""The report's first paragraph: what the runs say, in sentences computed from them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise

import pandas as pd

from normbench.analysis.captions import (
    beside_norm,
    counted,
    describe,
    distinct,
    labelled,
    seeds,
    unfinished,
)
from normbench.analysis.choice import at_chosen_rate, chosen_rates
from normbench.analysis.frames import Frames
from normbench.analysis.stats import mean_interval, paired_difference
from normbench.analysis.tables.pairs import Paired, every_pair, p_text, points
from normbench.analysis.tables.source import BATCH, CLAIMS, relative_time
from normbench.analysis.tables.table import BASELINE, as_text, times
from normbench.errors import NormbenchError

MOST = 12  # sentences of a kind


def summary(frames: Frames) -> list[str]:
    """Sentences on what was run, who leads where, what batch size does, the source's order, times, what is missing."""
    runs = at_chosen_rate(labelled(frames.runs))
    done = runs[runs["status"] == "done"]
    sentences = [_what(frames.runs), *filter(None, [chosen_rates(frames.runs)])]
    if not done.empty:
        pairs = _pairs(done)
        for kind in (
            _leaders(done, pairs),
            _batch_sizes(done),
            _order(done, pairs),
            _times(frames),
        ):
            sentences += list(kind)[:MOST]
    ended = unfinished(frames.runs)
    sentences += [f"Not finished: {line}." for line in ended[:MOST]]
    sentences += (
        [f"And {len(ended) - MOST} more kinds of runs that did not finish."]
        if len(ended) > MOST
        else []
    )
    return sentences


def _pairs(done: pd.DataFrame) -> list[Paired]:
    """Every pair, or none where several runs of a norm have the same seed and settings."""
    try:
        return every_pair(done)
    except NormbenchError:
        return []


def _what(runs: pd.DataFrame) -> str:
    """36 runs of normresnet on cifar10-jpeg: bn, ln, in, gn at batch size 1, 8, 64 with 3 seeds; 36 done."""
    batches = ", ".join(map(str, sorted(runs["batch_size"].unique())))
    counts = runs["status"].value_counts()
    states = ", ".join(f"{count} {state}" for state, count in counts.items())
    return (
        f"{counted(len(runs), 'run')} of {distinct(runs, 'model')} on {distinct(runs, 'data')}: "
        f"{', '.join(map(str, runs['norm'].unique()))} at batch size {batches} with "
        f"{seeds(runs['seed'].nunique())}; {states}."
    )


def _leaders(done: pd.DataFrame, pairs: Sequence[Paired]) -> Iterator[str]:
    """At each choice of settings: who reached the highest accuracy, and whether the lead over the next is decided.

    A norm with other options is another one.
    """
    settings = [name for name in beside_norm(done) if done[name].nunique() > 1]
    for key, group in done.groupby(settings or (lambda _: ""), dropna=False):
        means = group.groupby("line")["test_accuracy"].mean().sort_values(ascending=False)
        where = (
            f"At {describe(dict(zip(settings, key, strict=True)))}"
            if settings
            else "At the settings of these runs"
        )
        first = str(means.index[0])
        reached = mean_interval(group.loc[group["line"] == first, "test_accuracy"].tolist())
        text = f"{where}, {first} reached the highest test accuracy, {as_text(reached, 'test_accuracy')}"
        text += f" ({seeds(reached.n)})"
        yield (
            f"{text}{_lead(group, first, str(means.index[1]), pairs)}."
            if len(means) > 1
            else f"{text}."
        )


def _lead(group: pd.DataFrame, first: str, second: str, pairs: Sequence[Paired]) -> str:
    """What the table of pairs says of these two, whose p-values are corrected for all pairs."""
    here = group.iloc[0]
    same = [
        pair for pair in pairs if all(here[name] == value for name, value in pair.settings.items())
    ]
    found = next((pair for pair in same if {pair.first, pair.second} == {first, second}), None)
    if found is None:
        return f", before {second}"
    estimate = found.difference.estimate
    ahead = points(replace(estimate, mean=abs(estimate.mean)))
    if estimate.n == 1:
        return f", {ahead} before {second}; one seed decides nothing"
    how = "more than chance explains" if found.verdict == first else "undecided"
    return f", {ahead} before {second}, paired over {seeds(estimate.n)}, {p_text(found.adjusted)}: {how}"


def _batch_sizes(done: pd.DataFrame) -> Iterator[str]:
    """What going from the largest to the smallest batch size changes, seed by seed."""
    small, large = done["batch_size"].min(), done["batch_size"].max()
    if small == large or done.duplicated(["norm", "batch_size", "seed"]).any():
        return
    changes = []
    for norm, group in done.groupby("norm", sort=False):
        ends = [
            group[group["batch_size"] == size].set_index("seed")["test_accuracy"]
            for size in (small, large)
        ]
        difference = paired_difference(*(one.to_dict() for one in ends))
        if difference is not None:
            changes.append(
                f"{norm} by {points(difference.estimate)} ({seeds(difference.estimate.n)})"
            )
    if changes:
        yield f"From batch size {large} to {small}, test accuracy changes for {', '.join(changes)}."


def _order(done: pd.DataFrame, pairs: Sequence[Paired]) -> Iterator[str]:
    """The order that the source claims beside the measured one, where all its norms ran at its batch size.

    Nothing is said of runs that differ in more than norm and seed.
    """
    at_batch = done[(done["batch_size"] == BATCH) & done["norm"].isin(CLAIMS)]
    claimed = sorted(CLAIMS, key=lambda norm: -CLAIMS[norm].accuracy)
    if set(at_batch["norm"]) != set(CLAIMS) or at_batch.duplicated(["norm", "seed"]).any():
        return
    means = at_batch.groupby("norm")["test_accuracy"].mean()
    measured = sorted(claimed, key=lambda norm: -means[norm])
    verdicts = {
        frozenset((pair.first, pair.second)): pair.verdict
        for pair in pairs
        if pair.settings["batch_size"] == BATCH
    }
    steps = [
        pair
        for pair in pairwise(measured)
        if verdicts.get(frozenset(pair), "undecided") != "undecided"
    ]
    decided = ", ".join(f"{first} > {second}" for first, second in steps) or "none"
    yield (
        f"The source's order at batch {BATCH} is {' > '.join(claimed)}. The means here stand as "
        f"{' > '.join(measured)}; of these steps are decided: {decided}."
    )


def _times(frames: Frames) -> Iterator[str]:
    """Epoch times relative to bn, or why there are none."""
    done = frames.runs[frames.runs["status"] == "done"]
    if not frames.clocks:
        yield "Times are not measured here: normbench bench does that."
    for batch_size in sorted(done["batch_size"].unique()):
        found = {
            norm: relative_time(frames, norm, batch_size)
            for norm in done["norm"].unique()
            if norm != BASELINE
        }
        told = [f"{norm} {times(one)}" for norm, one in found.items() if one is not None]
        if told:
            yield f"An epoch at batch size {batch_size} takes, relative to {BASELINE}: {', '.join(told)}."
