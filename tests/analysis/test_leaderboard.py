"""The leaderboard: ranks by an oracle, and verdicts that the family gives and no others."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kit.runs import CLASSIFICATION, REGRESSION, in_study, one_run

from normbench.analysis.design import Design, Family, read_design
from normbench.analysis.family import every_pair
from normbench.analysis.stats import mean_interval
from normbench.analysis.study import Study
from normbench.analysis.tables.comparison import comparison_table
from normbench.analysis.tables.leaderboard import leaderboard_table
from normbench.errors import NormbenchError
from normbench.runs.files import RunFiles
from normbench.tasks.metric import TaskRecord

NORMS, SIZES, SEEDS = ("bn", "gn", "ln", "in"), (64, 8), (0, 1, 2)
AGAINST = "against the first"


def runs_of(reached: dict[str, float], size: int = 64, **values: Any) -> list[RunFiles]:
    """Three runs of each norm around its value, so alike that every difference is decided."""
    found = []
    for place, (norm, value) in enumerate(reached.items()):
        for seed in SEEDS:
            found.append(one_run(norm, size, seed, value + (1 + place) * seed / 1000, **values))
    return found


def board(study: Study) -> pd.DataFrame:
    return leaderboard_table(study).shown


@st.composite
def some_runs(draw: st.DrawFn) -> list[RunFiles]:
    """Runs of a grid in any order; few values, so that norms may be equally good."""
    places = [(norm, size, seed) for norm in NORMS for size in SIZES for seed in SEEDS]
    kept = draw(st.lists(st.sampled_from(places), unique=True, min_size=2, max_size=24))
    states = st.sampled_from(["done", "done", "done", "failed"])
    values = st.integers(1, 4).map(lambda value: value / 8)
    return [one_run(*place, draw(values), state=draw(states)) for place in kept]


@settings(max_examples=30)
@given(some_runs())
def test_ranks_count_the_better_means_at_the_same_batch_size(runs: list[RunFiles]) -> None:
    study = in_study(*runs)
    done = study.done.runs
    if done.empty:
        with pytest.raises(NormbenchError, match="no leaderboard: no run has finished"):
            leaderboard_table(study)
        return
    data = leaderboard_table(study).data
    means = done.groupby(["batch_size", "norm"])["test_accuracy"].mean()
    places = study.runs.groupby(["batch_size", "norm"]).ngroups
    assert len(data) == places
    for row in data.to_dict("records"):
        size = row.get("batch_size", study.runs["batch_size"].iloc[0])
        values = done[(done["norm"] == row["norm"]) & (done["batch_size"] == size)]
        expected = mean_interval(values["test_accuracy"].tolist())
        assert row["n"] == expected.n
        if expected.n:
            better = (means[size] > expected.mean).sum()
            assert row["rank"] == 1 + better
            assert row["test_accuracy"] == pytest.approx(expected.mean)
        else:
            assert pd.isna(row["rank"])


@settings(max_examples=20)
@given(some_runs(), st.randoms(use_true_random=False))
def test_the_order_of_runs_changes_nothing(runs: list[RunFiles], random: Any) -> None:
    if all(run.status["state"] != "done" for run in runs):
        return
    before = board(in_study(*runs))
    shuffled = [*runs]
    random.shuffle(shuffled)
    assert board(in_study(*shuffled)).equals(before)


@settings(max_examples=30)
@given(some_runs())
def test_no_more_is_claimed_than_the_family_has_decided(runs: list[RunFiles]) -> None:
    study = in_study(*runs)
    if study.done.runs.empty:
        return
    data = leaderboard_table(study).data
    if "batch_size" not in data:
        data = data.assign(batch_size=study.runs["batch_size"].iloc[0])
    known = {}
    for pair in every_pair(study):
        verdict = f"{pair.verdict} is better" if pair.is_decided else pair.verdict
        known[frozenset((pair.first, pair.second)), pair.settings["batch_size"]] = verdict
    for size, rows in data.groupby("batch_size"):
        first = rows.iloc[0]
        assert first["verdict"] == ("first" if first["n"] else "-")
        for row in rows.iloc[1:].to_dict("records"):
            both = frozenset((first["norm"], row["norm"]))
            expected = known.get((both, size), "-") if first["n"] else "-"
            assert row["verdict"] == expected


def test_batch_sizes_follow_one_another_each_with_its_own_first() -> None:
    at_64 = runs_of({"bn": 0.9, "gn": 0.5})
    shown = board(in_study(*at_64, *runs_of({"bn": 0.3, "gn": 0.6}, 8)))
    columns = ["batch size", "rank", "norm", "seeds", AGAINST]
    assert shown[columns].values.tolist() == [
        ["8", "1", "gn", "3", "first"],
        ["8", "2", "bn", "3", "gn is better"],
        ["64", "1", "bn", "3", "first"],
        ["64", "2", "gn", "3", "bn is better"],
    ]


def test_a_pair_outside_the_design_s_family_gets_no_verdict() -> None:
    study = in_study(*runs_of({"bn": 0.5, "gn": 0.7, "ln": 0.6}))
    design = Design(name="some", primary=(Family(norms=("gn", "ln"), against="bn"),))
    told = leaderboard_table(replace(study, design=design))
    verdicts = dict(zip(told.shown["norm"], told.shown[AGAINST], strict=True))
    assert verdicts == {"gn": "first", "ln": "no verdict", "bn": "gn is better"}
    assert "Holm over 2 comparisons decided beforehand" in told.caption
    assert "No verdict: the pair is not of that family" in told.caption
    assert "No verdict" not in leaderboard_table(study).caption


def test_one_seed_decides_nothing_and_names_no_family() -> None:
    told = leaderboard_table(in_study(one_run("bn", reached=0.9), one_run("gn", reached=0.1)))
    assert told.shown[AGAINST].tolist() == ["first", "undecided"]
    assert "without a p-value" in told.caption
    assert "Holm" not in told.caption
    assert "±" not in "".join(told.shown["test accuracy"])


def test_survivors_are_no_verdict_and_show_median_and_worst() -> None:
    lost = one_run("gn", 64, 3, state="diverged")
    shown = board(in_study(*runs_of({"gn": 0.7, "bn": 0.5}), lost, one_run("bn", 64, 3, 0.5)))
    assert shown["norm"].tolist() == ["gn", "bn"]
    assert shown[AGAINST].tolist() == ["first", "no verdict"]
    assert shown["worst"].tolist() == ["70.0 %", ""]
    assert shown["ended otherwise"].tolist() == ["1 diverged", ""]


def test_a_design_asks_for_median_and_worst_where_no_run_was_lost() -> None:
    runs = [one_run("gn", 64, seed, reached) for seed, reached in enumerate((0.5, 0.6, 0.9))]
    calm = in_study(*runs)
    for asked in (False, True):
        design = read_design({"name": "s", "median_and_worst": asked})
        study = replace(calm, design=design)
        for table in (leaderboard_table(study), comparison_table(study)):
            shown = [table.shown[name].tolist() for name in ("median", "worst") if asked]
            assert shown == [["60.0 %"], ["50.0 %"]] * asked
            assert ("median" in table.shown) == asked


def test_a_norm_that_is_not_comparable_has_no_rank_and_stands_last() -> None:
    sound = runs_of({"bn": 0.5, "gn": 0.4})
    broken = [one_run("Mine", 64, seed, 0.9, broken=["keeps state"]) for seed in SEEDS]
    shown = board(in_study(*broken, *sound))
    assert shown[["rank", "norm"]].values.tolist() == [["1", "bn"], ["2", "gn"], ["-", "Mine"]]
    assert shown[AGAINST].tolist() == ["first", "bn is better", "no verdict"]
    alone = board(in_study(*broken))
    assert alone[["rank", AGAINST]].values.tolist() == [["-", "-"]]


@pytest.mark.parametrize(("task", "first"), [(CLASSIFICATION, "gn"), (REGRESSION, "bn")])
def test_the_direction_of_the_metric_decides_who_is_first(task: TaskRecord, first: str) -> None:
    shown = board(in_study(*runs_of({"bn": 0.3, "gn": 0.6}, task=task)))
    assert shown["norm"].tolist()[0] == first


def test_rates_are_chosen_by_validation_and_norms_ranked_by_the_test_set() -> None:
    runs = [one_run("bn", 64, 0, 0.9, lr=0.1, held_out=0.1)]
    runs += [one_run("bn", 64, 0, 0.5, lr=0.2, held_out=0.8)]
    runs += [one_run("gn", 64, 0, 0.6, lr=lr, held_out=0.3) for lr in (0.1, 0.2)]
    told = leaderboard_table(in_study(*runs))
    assert told.shown["norm"].tolist() == ["gn", "bn"]
    assert told.shown["test accuracy"].tolist() == ["60.0 %", "50.0 %"]
    expected = (
        "Ranked by the mean test accuracy, at the learning rate that validation accuracy chose"
    )
    assert expected in told.caption


def test_options_of_a_norm_are_contestants_of_their_own_without_a_verdict() -> None:
    groups = [one_run("gn", 64, 0, n / 10, **{"norm.num_groups": n}) for n in (2, 8)]
    told = leaderboard_table(in_study(*groups, one_run("bn", 64, 0, 0.5)))
    assert told.shown["norm.num groups"].tolist() == ["8", "", "2"]
    assert told.shown[AGAINST].tolist() == ["first", "-", "-"]
    assert "Norms are not compared: several runs of gn have the same seed" in told.caption
