"""The column of differences to the baseline: the family's figures, a dash without a pair."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kit.runs import REGRESSION, in_study, one_run

from normbench.analysis.design import Design, Family
from normbench.analysis.family import every_pair
from normbench.analysis.loading import load_study
from normbench.analysis.study import Study
from normbench.analysis.tables.comparison import comparison, comparison_table
from normbench.runs.correct import pack
from normbench.runs.files import RunFiles

ROOT = Path(__file__).parents[2]
NORMS, SIZES, SEEDS = ("bn", "gn", "ln"), (8, 64), (0, 1, 2)
PLACES = [(norm, size, seed) for norm in NORMS for size in SIZES for seed in SEEDS]


@st.composite
def some_runs(draw: st.DrawFn) -> list[RunFiles]:
    """Runs at some of the places, in any order, some of them diverged."""
    places = draw(st.lists(st.sampled_from(PLACES), unique=True, min_size=2, max_size=18))
    return [
        one_run(
            *place,
            draw(st.integers(100, 9000)) / 10_000,
            state=draw(st.sampled_from(["done", "done", "done", "diverged"])),
        )
        for place in places
    ]


def differences(study: Study) -> dict[tuple[str, int], tuple[float, float, float]]:
    """Difference, half width and pairs by norm and batch size, without the missing ones."""
    found = {}
    for row in comparison(study).to_dict("records"):
        if not math.isnan(row.get("difference", math.nan)):
            half_width = row.get("difference_half_width", math.nan)
            found[row["norm"], row["batch_size"]] = (row["difference"], half_width, row["pairs"])
    return found


def of_the_family(study: Study, baseline: str = "bn") -> dict[tuple[str, int], tuple[float, ...]]:
    """The same from the table of all pairs, from the other norm's side."""
    found = {}
    for pair in every_pair(study):
        if baseline in (pair.first, pair.second):
            turned = pair if pair.second == baseline else pair.turned()
            estimate = turned.difference.estimate
            place = (turned.first, turned.settings["batch_size"])
            found[place] = (estimate.mean, estimate.half_width, estimate.n)
    return found


def same(ours: dict, theirs: dict) -> bool:
    """Whether two choices of differences agree; nan equals nan."""
    if ours.keys() != theirs.keys():
        return False
    return all(np.allclose(ours[key], theirs[key], equal_nan=True) for key in ours)


@settings(max_examples=25)
@given(some_runs())
def test_the_column_has_the_family_s_differences_and_a_dash_elsewhere(runs: list[RunFiles]) -> None:
    study = in_study(*runs)
    assert same(differences(study), of_the_family(study))
    shown = comparison_table(study).shown
    if "difference to bn" not in shown:
        assert not of_the_family(study)
        return
    sizes = comparison_table(study).data["batch_size"]
    for norm, size, text, n in zip(
        shown["norm"], sizes, shown["difference to bn"], shown["runs"], strict=True
    ):
        if norm == "bn":
            assert text == ("baseline" if int(n) else "-")
        else:
            assert (text == "-") == ((norm, size) not in of_the_family(study))


@settings(max_examples=15)
@given(some_runs(), st.randoms(use_true_random=False))
def test_neither_the_order_of_runs_nor_an_unrelated_norm_changes_a_difference(
    runs: list[RunFiles], random: object
) -> None:
    before = differences(in_study(*runs))
    shuffled = [*runs]
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert same(differences(in_study(*shuffled)), before)
    another = [one_run("in", 64, seed, 0.3 + seed / 10) for seed in SEEDS]
    after = differences(in_study(*runs, *another))
    assert same({key: after[key] for key in after if key[0] != "in"}, before)


def test_a_single_seed_has_no_interval_and_fewer_pairs_than_runs_are_counted() -> None:
    one = comparison_table(in_study(one_run("bn", reached=0.5), one_run("gn", reached=0.25)))
    assert one.shown["difference to bn"].tolist() == ["baseline", "-25.0 points"]
    assert "±" not in one.caption.partition("Difference to bn")[2]
    bn = [one_run("bn", 64, seed, 0.5) for seed in (0, 1)]
    gn = [one_run("gn", 64, seed, 0.25 + seed / 8) for seed in (0, 1, 2)]
    (_, text) = comparison_table(in_study(*bn, *gn)).shown["difference to bn"]
    assert text.endswith(" points (2 of 3 paired)")
    assert text.startswith("-18.8 ± ")


def test_the_baseline_is_that_of_the_design_s_comparisons() -> None:
    study = in_study(*(one_run(norm, 64, s, 0.5 + s / 9) for norm in NORMS for s in SEEDS))
    against_gn = Design(name="ws", primary=(Family(norms=("ln", "bn"), against="gn"),))
    told = comparison_table(replace(study, design=against_gn)).shown.set_index("norm")
    assert told["difference to gn"]["gn"] == "baseline"
    families = (
        Family(norms=("ln",), against="gn"),
        Family(norms=("ln",), against="bn"),
    )
    several = replace(study, design=Design(name="both", primary=families))
    told = comparison_table(several).shown.set_index("norm")
    assert told["difference to bn"]["bn"] == "baseline"


def test_norms_are_paired_at_their_chosen_rates_and_nowhere_else() -> None:
    rates = {"bn": {0.1: (0.6, 0.3), 0.2: (0.4, 0.9)}, "gn": {0.1: (0.2, 0.8), 0.2: (0.7, 0.5)}}
    runs = []
    for norm, of_norm in rates.items():
        for lr, (held_out, reached) in of_norm.items():
            runs.append(one_run(norm, 64, 0, reached, lr=lr, held_out=held_out))
    told = comparison_table(in_study(*runs))
    assert told.shown["difference to bn"].tolist() == ["-", "-", "+20.0 points", "baseline"]
    assert "each norm at its chosen rate" in told.caption


def test_options_of_a_norm_have_a_difference_each_and_a_baseline_with_options_has_none() -> None:
    groups = [one_run("gn", 64, 0, 0.1 * n, **{"norm.num_groups": n}) for n in (2, 4)]
    told = comparison_table(in_study(*groups, one_run("bn", 64, 0, 0.5)))
    assert told.shown["difference to bn"].tolist() == ["baseline", "-10.0 points", "-30.0 points"]
    of_bn = [one_run("bn", 64, 0, 0.5, **{"norm.eps": eps}) for eps in (0.1, 0.2)]
    assert "difference to bn" not in comparison_table(in_study(*of_bn, *groups[:1])).shown


def test_images_count_as_drawn_where_runs_kept_them() -> None:
    random = np.random.default_rng(0)
    study = in_study(*(one_run(norm, 64, s, 0.5) for norm in ("bn", "gn") for s in SEEDS))
    bits = {run: pack(random.random(10_000) < 0.5) for run in study.runs["run"]}
    kept = replace(study, correct=bits)
    assert same(differences(kept), of_the_family(kept))
    assert not same(differences(kept), differences(study))
    assert "test images counted as drawn too; no verdict." in comparison_table(kept).caption
    assert "on these test images; no verdict." in comparison_table(study).caption


def test_a_metric_without_a_unit_keeps_its_sign() -> None:
    runs = [
        one_run("bn", reached=0.5, task=REGRESSION),
        one_run("gn", reached=0.3, task=REGRESSION),
    ]
    shown = comparison_table(in_study(*runs)).shown
    assert shown["difference to bn"].tolist() == ["-0.2000", "baseline"]


@pytest.mark.parametrize("name", ["batch-size", "first-sweep"])
def test_committed_studies_show_the_differences_of_their_pairs(name: str) -> None:
    study = load_study([ROOT / "results" / name])
    assert same(differences(study), of_the_family(study))
