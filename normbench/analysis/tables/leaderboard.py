"""The norms ranked by their result, at each batch size and choice of other shared settings.

A rank orders means and decides nothing. Which norms differ from the first is told by the verdicts
of the family alone.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pandas as pd

from normbench.analysis.captions import basis, unfinished
from normbench.analysis.family import every_pair
from normbench.analysis.paired import NO_VERDICT, Paired
from normbench.analysis.study import Study
from normbench.analysis.tables.table import (
    OF_FINISHED,
    Table,
    as_data,
    in_words,
    result,
    show_all,
    show_means,
    survivors_note,
)
from normbench.errors import NormbenchError
from normbench.runs.where import rank

FIRST = "first"
ABSENT = "-"
AGAINST = "against the first"
WHY_NONE = (
    "the pair is not of that family, the better norm has lost seeds, or figures are not comparable"
)
Row = dict[Any, Any]


def leaderboard_table(study: Study) -> Table:
    """The norms by their mean on the test set, the best first, at each choice of shared settings.

    Each norm is at its chosen learning rate. A norm without a finished run, or whose figures are
    not comparable, has no rank and stands last.
    Raises NormbenchError where no run has finished.
    """
    chosen = study.chosen
    if chosen.done.runs.empty:
        raise NormbenchError("no leaderboard: no run has finished")
    pairs, trouble = _pairs(study)
    rows: list[Row] = []
    for runs in by_place(chosen):
        here = [pair for pair in pairs if _is_at(pair, runs)]
        rows += _with_verdicts(_ranked(chosen, runs), here)
    data = as_data(rows)
    told = " ".join([_note(study, pairs), *trouble, *survivors_note(data)])
    numbers = data.rename(columns=in_words)
    shown = _readable(chosen, data)
    return Table("Leaderboard", data, shown, told, unfinished(study), numbers, basis(study))


def by_place(study: Study) -> list[pd.DataFrame]:
    """The runs at each choice of the shared settings in which runs differ, in ascending order."""
    places = study.varying(study.shared_settings)
    if not places:
        return [study.runs]
    groups = dict(iter(study.runs.groupby(places, dropna=False)))
    return [groups[key] for key in sorted(groups, key=lambda key: [*map(rank, key)])]


def _pairs(study: Study) -> tuple[list[Paired], list[str]]:
    """Every pair of norms, and the reason in a sentence where they cannot be paired."""
    try:
        return every_pair(study), []
    except NormbenchError as error:
        return [], [f"Norms are not compared: {error}."]


def _is_at(pair: Paired, runs: pd.DataFrame) -> bool:
    """Whether the pair was compared at the settings of these runs."""
    here = runs.iloc[0]
    return all(here[name] == value for name, value in pair.settings.items())


def _ranked(study: Study, runs: pd.DataFrame) -> list[Row]:
    """A row for each norm and choice of its options among these runs, the best mean first."""
    column, metric = study.test_column, study.primary
    settings = ["norm", *study.varying(study.settings)]
    rows = []
    # In the order of names, which stays that of equal means.
    for _, group in runs.groupby(settings, dropna=False):
        values = group.loc[group["status"] == "done", column].tolist()
        told = group[settings].iloc[0].to_dict()
        reached = result(group, column, values, metric, with_worst=study.shows_worst)
        rows.append({"rank": math.nan} | told | reached)
    ranked = [row for row in rows if row["n"] and row["norm"] not in study.broken]
    ranked.sort(key=lambda row: row[column], reverse=metric.is_larger_better)
    for row in ranked:
        row["rank"] = 1 + sum(metric.is_better(one[column], row[column]) for one in ranked)
    return ranked + [row for row in rows if math.isnan(row["rank"])]


def _with_verdicts(rows: Sequence[Row], pairs: Sequence[Paired]) -> list[Row]:
    """The rows of a place with the family's verdict on each norm and the first."""
    first, *others = rows
    if math.isnan(first["rank"]):
        return [row | {"verdict": ABSENT} for row in rows]
    # The family knows no options: a norm that stands here with several is in none of its pairs.
    count = Counter(row["norm"] for row in rows)
    verdicts = {}
    for pair in pairs:
        if count[pair.first] == count[pair.second] == 1:
            told = f"{pair.verdict} is better" if pair.is_decided else pair.verdict
            verdicts[frozenset((pair.first, pair.second))] = told
    judged = [first | {"verdict": FIRST}]
    for row in others:
        both = frozenset((first["norm"], row["norm"]))
        judged.append(row | {"verdict": verdicts.get(both, ABSENT)})
    return judged


def _note(study: Study, pairs: Sequence[Paired]) -> str:
    """What ranks, and whose the verdicts are."""
    measured = in_words(study.test_column)
    told = f"Ranked by the mean {measured}"
    if study.chooses_rates:
        told += f", at the learning rate that {in_words(study.val_column)} chose"
    told += "; a rank alone decides nothing."
    if pairs:
        is_tested = any(not math.isnan(pair.adjusted) for pair in pairs)
        family = pairs[0].family if is_tested else "without a p-value"
        told += f" {AGAINST.capitalize()}: the verdict on a norm and the first there, {family}"
        told += f"; {ABSENT} where they have no seed in common."
    if any(pair.verdict == NO_VERDICT for pair in pairs):
        told += f" {NO_VERDICT.capitalize()}: {WHY_NONE}."
    return told


def _readable(study: Study, data: pd.DataFrame) -> pd.DataFrame:
    metric = study.primary
    options = [name for name in data if str(name).startswith("norm.")]
    places = study.varying(study.shared_settings)
    shown = data[[*places, "rank", "norm", *options]].rename(columns=in_words)
    shown["rank"] = [ABSENT if math.isnan(place) else f"{place:.0f}" for place in data["rank"]]
    shown[in_words(study.test_column)] = show_means(metric, data, study.test_column)
    for name in OF_FINISHED:
        if name in data:
            shown[name] = show_all(metric, data[name], absent="")
    shown["seeds"] = data["n"]
    if data["status"].any():
        shown["ended otherwise"] = data["status"]
    shown[AGAINST] = data["verdict"]
    return shown.astype(str)
