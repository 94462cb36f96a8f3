"""What a study decides, in sentences: its comparisons decided beforehand, or else who leads."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import pandas as pd

from normbench.analysis.captions import seeds
from normbench.analysis.family import every_pair, lost_seeds, planned_of
from normbench.analysis.paired import Paired
from normbench.analysis.settings import describe
from normbench.analysis.stats import mean_interval
from normbench.analysis.study import Study
from normbench.errors import NormbenchError
from normbench.text import counted

MOST_LEADING = 3  # decisions before all else
Called = Callable[[str], str]  # what a norm is called, by its name
Lines = pd.DataFrame  # finished runs with the column `line`


def pairs_of(study: Study) -> tuple[list[Paired], list[str]]:
    """Every pair of norms, and the reason in a sentence where they cannot be paired."""
    if study.done.runs.empty:
        return [], []
    try:
        return every_pair(study), []
    except NormbenchError as error:
        return [], [f"Norms are not compared: {error}."]


def decisions(study: Study, pairs: Sequence[Paired], called: Called) -> list[str]:
    """A sentence for each comparison that the design has decided on beforehand.

    Where there are many, the first sentence counts the verdicts.
    """
    planned = planned_of(study)
    primary = [pair for pair in pairs if pair.planned]
    sentences = []
    if len(primary) > MOST_LEADING:
        sentences.append(_tally(primary, len(planned), called))
    sentences += [pair.decision(called) for pair in primary]
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


def _tally(primary: Sequence[Paired], number: int, called: Called) -> str:
    """`Of 16 comparisons decided beforehand, bn is better in 9, alike in 1, not measured in 6.`

    number: of the comparisons decided beforehand, measured or not.
    """
    found = Counter(pair.verdict for pair in primary)
    decided = {pair.verdict for pair in primary if pair.is_decided}
    told = []
    for verdict, count in found.most_common():
        how = f"{called(verdict)} is better" if verdict in decided else verdict
        told.append(f"{how} in {count}")
    if len(primary) < number:
        told.append(f"not measured in {number - len(primary)}")
    return f"Of {number} comparisons decided beforehand, {', '.join(told)}."


def leaders(done: Study, pairs: Sequence[Paired], called: Called) -> Iterator[str]:
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
        name = called(str(ranked[0]))
        if defects:
            yield f"At {place}, there is no leader: {name}, with {best}, {defects}."
            continue
        lead = ""
        if len(ranked) > 1:
            lead = _lead(group, str(ranked[0]), str(ranked[1]), pairs, called)
        yield f"At {place}, {name} reached {best}{lead}."


def _lead(group: Lines, first: str, second: str, pairs: Sequence[Paired], called: Called) -> str:
    """The lead of the first over the second, as the table of pairs has it.

    Two options of the same norm are no pair of the table, and get no p-value.
    """
    here = group.iloc[0]
    for pair in pairs:
        is_here = all(here[name] == value for name, value in pair.settings.items())
        if is_here and {pair.first, pair.second} == {first, second}:
            break
    else:
        return f", before {called(second)}"
    ahead = pair if pair.first == first else pair.turned()
    estimate = ahead.difference.estimate
    before = f"{ahead.shown} before {called(second)}"
    if estimate.n == 1:
        return f", {before}; one seed decides nothing"
    how = "more than chance explains" if pair.verdict == first else pair.outcome
    if math.isnan(pair.adjusted):
        return f", {before} ({pair.basis}): {how}"
    return f", {before} ({pair.basis}), {pair.p_in_words}: {how}"
