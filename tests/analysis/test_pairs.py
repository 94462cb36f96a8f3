"""Two norms over equal seeds: differences, verdicts, sentences."""

from __future__ import annotations

import itertools
import math
import re

import pandas as pd
import pytest
import scipy.stats
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from kit.runs import in_study, one_run

from normbench.analysis.family import compare, every_pair
from normbench.analysis.paired import p_text
from normbench.analysis.report.summary import summary
from normbench.analysis.stats import holm, mean_interval
from normbench.analysis.study import Study
from normbench.analysis.tables.pairs import pairs_table
from normbench.errors import NormbenchError


def runs(**reached: list[float]) -> Study:
    """A run per norm and seed."""
    of_norm = reached.items()
    return in_study(
        *(one_run(norm, 64, seed, a) for norm, values in of_norm for seed, a in enumerate(values))
    )


def family(number: int) -> str:
    noun = "comparison" if number == 1 else "comparisons"
    return f"Holm over {number} {noun}: all pairs of these runs"


def test_a_difference_is_taken_seed_by_seed() -> None:
    (found,) = compare(runs(gn=[0.70, 0.80, 0.90], bn=[0.69, 0.78, 0.87]), "gn", "bn")
    estimate = found.difference.estimate
    assert estimate.mean == pytest.approx(0.02)
    assert estimate.half_width == pytest.approx(mean_interval([0.01, 0.02, 0.03]).half_width)
    assert found.settings == {"batch_size": 64, "lr": 0.001}


def test_the_other_way_round_is_the_same_finding() -> None:
    table = runs(gn=[0.70, 0.71, 0.72], bn=[0.60, 0.612, 0.618])
    (there,), (back,) = compare(table, "gn", "bn"), compare(table, "bn", "gn")
    assert there.verdict == back.verdict == "gn"
    assert there.difference.estimate.mean == pytest.approx(-back.difference.estimate.mean)


def test_a_wide_interval_is_undecided_and_so_is_a_single_seed() -> None:
    (wide,) = compare(runs(gn=[0.70, 0.80, 0.60], bn=[0.60, 0.65, 0.75]), "gn", "bn")
    assert wide.verdict == "undecided"
    assert wide.reach == pytest.approx(0.4328, abs=1e-3)
    assert wide.sentence().endswith(": undecided, within ± 43.3 points.")
    (single,) = compare(runs(gn=[0.9], bn=[0.1]), "gn", "bn")
    assert math.isnan(single.adjusted)
    assert single.verdict == "undecided"
    assert single.sentence() == (
        "batch size 64, lr 0.001: gn - bn = +80.0 points (one seed, on these test images): "
        "no interval, undecided."
    )


def test_a_sentence_carries_interval_seeds_and_p_value() -> None:
    (found,) = compare(runs(gn=[0.70, 0.71, 0.72], bn=[0.60, 0.612, 0.618]), "gn", "bn")
    assert found.sentence() == (
        "batch size 64, lr 0.001: gn - bn = +10.0 ± 0.5 points (95 % interval, 3 seeds, paired, "
        "on these test images), p < 0.001 (Holm over 1 comparison: all pairs of these runs): "
        "gn is better."
    )


def test_p_values_are_corrected_for_all_settings_compared() -> None:
    reached = {"gn": [0.70, 0.71, 0.72], "bn": [0.68, 0.70, 0.695]}
    places = itertools.product((64, 8, 1), reached, range(3))
    study = in_study(*(one_run(norm, b, seed, reached[norm][seed]) for b, norm, seed in places))
    found = compare(study, "gn", "bn")
    assert [paired.settings["batch_size"] for paired in found] == [64, 8, 1]
    assert [paired.adjusted for paired in found] == holm(
        [paired.difference.p_value for paired in found]
    )
    assert found[0].adjusted == pytest.approx(3 * found[0].difference.p_value)


def test_runs_that_did_not_finish_and_seeds_that_only_one_has_do_not_count() -> None:
    gn = [one_run("gn", 64, seed, 0.7 + seed / 10) for seed in (0, 1)]
    bn = [one_run("bn", 64, 0, 0.6), one_run("bn", 64, 1, 0.99, state="diverged")]
    (found,) = compare(in_study(*gn, *bn), "gn", "bn")
    assert found.difference.estimate.n == 1


def test_what_cannot_be_paired_is_refused() -> None:
    with pytest.raises(NormbenchError, match="unknown norm 'gnn': did you mean 'gn'"):
        compare(runs(gn=[0.7], bn=[0.6]), "gnn", "bn")
    with pytest.raises(NormbenchError, match="no finished runs of the same seed and settings"):
        compare(in_study(one_run("gn", seed=0), one_run("bn", seed=1)), "gn", "bn")
    twice = one_run("gn"), one_run("gn", run="another")
    with pytest.raises(NormbenchError, match="several runs of gn have the same seed"):
        compare(in_study(*twice, one_run("bn")), "gn", "bn")


# Every pair


@st.composite
def studies(draw: st.DrawFn) -> Study:
    """Two to four norms at one or two batch sizes, two to five seeds, some of them missing."""
    norms = ["bn", "gn", "ln", "in"][: draw(st.integers(2, 4))]
    sizes, seeds = [64, 8][: draw(st.integers(1, 2))], range(draw(st.integers(2, 5)))
    places = [(norm, size, seed) for norm in norms for size in sizes for seed in seeds]
    missing = draw(st.sets(st.sampled_from(places), max_size=4))
    accuracy = st.integers(100, 9000).map(lambda images: images / 10_000)
    kept = [place for place in places if place not in missing]
    return in_study(*(one_run(*place, draw(accuracy)) for place in kept))


def slowly_paired(table: pd.DataFrame) -> dict[tuple[str, str, int], tuple[list[float], float]]:
    """The differences and scipy's p-value of each pair at each batch size; nan for a single
    seed."""
    found = {}
    for size in table["batch_size"].unique():
        at = table[table["batch_size"] == size]
        of = {
            norm: dict(zip(rows["seed"], rows["test_accuracy"], strict=True))
            for norm, rows in at.groupby("norm")
        }
        for first, second in itertools.permutations(of, 2):
            seeds = sorted(of[first].keys() & of[second].keys())
            pairs = [(of[first][seed], of[second][seed]) for seed in seeds]
            if pairs:
                differences = [a - b for a, b in pairs]
                varied = len(pairs) > 1 and len({round(value, 9) for value in differences}) > 1
                p_value = (
                    float(scipy.stats.ttest_rel(*zip(*pairs, strict=True)).pvalue)
                    if varied
                    else math.nan
                )
                found[first, second, size] = (differences, p_value)
    return found


def slow_holm(p_values: list[float]) -> list[float]:
    """Holm's rule by its definition: the largest over all p not above this one of p times how many
    are not below it."""
    return [
        min(1.0, max(q * sum(r >= q for r in p_values) for q in p_values if q <= p))
        for p in p_values
    ]


@settings(max_examples=12)
@given(studies())
def test_every_pair_is_scipys_t_test_corrected_for_all_pairs(study: Study) -> None:
    found, oracle = every_pair(study), slowly_paired(study.runs)
    assert 2 * len(found) == len(oracle), "each pair once, wherever it has a seed in common"
    for paired in found:
        differences, p_value = oracle[paired.first, paired.second, paired.settings["batch_size"]]
        estimate = paired.difference.estimate
        assert (estimate.n, estimate.mean) == (
            len(differences),
            pytest.approx(sum(differences) / len(differences)),
        )
        if not math.isnan(p_value):
            assert paired.difference.p_value == pytest.approx(p_value, abs=1e-9)
    tested = [paired for paired in found if not math.isnan(paired.difference.p_value)]
    assert [paired.adjusted for paired in tested] == pytest.approx(
        slow_holm([paired.difference.p_value for paired in tested])
    )


@settings(max_examples=12)
@given(studies())
def test_compare_the_table_of_pairs_and_the_report_give_one_p_value(study: Study) -> None:
    found = every_pair(study)
    assume(found)
    table = pairs_table(study)
    num_tests = sum(not math.isnan(paired.difference.p_value) for paired in found)
    assert (f", {family(num_tests)}. " in table.caption) == (num_tests > 0)
    for row in table.data.to_dict("records"):
        for first, second in itertools.permutations((row["first"], row["second"])):
            at = [
                paired
                for paired in compare(study, first, second)
                if paired.settings["batch_size"] == row["batch_size"]
            ]
            (paired,) = at
            assert (paired.first, paired.second) == (first, second)
            assert paired.adjusted == pytest.approx(row["p_adjusted"], rel=0, abs=0, nan_ok=True)
            assert paired.verdict == row["verdict"]
            if not math.isnan(paired.adjusted):
                told = f"{p_text(row['p_adjusted'])} ({family(num_tests)}): "
                assert told in paired.sentence()
    known = {f"{p_text(p)} ({family(num_tests)})" for p in table.data["p_adjusted"].dropna()}
    for sentence in summary(study).sentences:
        for told in re.findall(r"p [<=] .*\)(?=:)", sentence):
            assert told in known


def test_the_report_s_leader_has_the_p_value_of_compare() -> None:
    study = runs(bn=[0.70, 0.71, 0.72], gn=[0.68, 0.686, 0.706], ln=[0.1, 0.2, 0.12])
    (paired,) = compare(study, "bn", "gn")
    (leader,) = [
        sentence for sentence in summary(study).sentences if "reached the highest" in sentence
    ]
    assert paired.family == family(3)
    assert f", {paired.p_in_words}: " in leader


def test_the_more_pairs_the_less_is_decided() -> None:
    two = runs(bn=[0.70, 0.71, 0.72], gn=[0.68, 0.686, 0.706])
    four = runs(
        bn=[0.70, 0.71, 0.72],
        gn=[0.68, 0.686, 0.706],
        ln=[0.69, 0.72, 0.71],
        none=[0.71, 0.70, 0.69],
    )
    (alone,) = every_pair(two)
    among = next(
        paired for paired in every_pair(four) if (paired.first, paired.second) == ("bn", "gn")
    )
    assert alone.difference == among.difference
    assert alone.verdict == "bn"
    assert among.verdict == "undecided"


def test_the_table_of_pairs_has_a_row_each_and_settings_only_where_they_vary() -> None:
    study = in_study(
        *(
            one_run(norm, 64, seed, 0.5 + rank / 10 + rank**2 * seed / 100)
            for rank, norm in enumerate("abc")
            for seed in (0, 1)
        ),
    )
    table = pairs_table(study)
    assert table.shown["pair"].tolist() == ["a - c", "b - c", "a - b"]
    assert list(table.shown) == ["pair", "difference", "seeds", "p", "better"]
    assert "Holm over 3 comparisons: all pairs of these runs. " in table.caption
    wider = pairs_table(
        in_study(*(one_run(norm, size) for norm in ("bn", "gn") for size in (8, 64)))
    )
    assert wider.shown["batch size"].tolist() == ["8", "64"]
    assert wider.shown["p"].tolist() == ["", ""], "one seed tests nothing"
    assert "Holm" not in wider.caption


def test_where_no_two_norms_share_a_seed_there_is_no_table_of_pairs() -> None:
    with pytest.raises(
        NormbenchError, match="no two norms have a finished run of the same seed and settings"
    ):
        pairs_table(in_study(one_run("bn", seed=0), one_run("gn", seed=1)))


def test_equal_differences_are_no_spread_to_judge_by() -> None:
    (found,) = compare(runs(gn=[0.72, 0.82, 0.62], bn=[0.70, 0.80, 0.60]), "gn", "bn")
    assert found.verdict == "undecided"
    assert "the same with every seed: no p-value, undecided" in found.sentence()


def test_a_norm_is_not_compared_with_itself() -> None:
    with pytest.raises(NormbenchError, match="gn and gn are the same norm: name two"):
        compare(runs(gn=[0.7], bn=[0.6]), "gn", "gn")
