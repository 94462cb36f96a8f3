"""What a study has decided beforehand: its comparisons alone have p-values and verdicts."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from kit.runs import in_study, one_run

from normbench.analysis.captions import chosen_rates
from normbench.analysis.design import Comparison, Design, Rate, read_design, united
from normbench.analysis.family import every_pair
from normbench.analysis.paired import Paired
from normbench.analysis.report.summary import summary
from normbench.analysis.stats import crossed_difference, holm
from normbench.analysis.study import Study
from normbench.analysis.tables.pairs import pairs_table
from normbench.errors import NormbenchError
from normbench.runs.correct import pack

GN_AND_LN = {"norms": ["gn", "ln"], "against": "bn", "at": {"batch_size": [4, 64]}}
NOISE = (0.0, 0.006, 0.016)


def design(**keys: Any) -> Design:
    return read_design({"name": "s", "primary": [GN_AND_LN], **keys})


def study(design: Design | None, sizes: tuple[int, ...] = (4, 64)) -> Study:
    """Norms a point apart, the later the worse, with three seeds; only bn has noise."""
    runs = []
    for place, norm in enumerate(("bn", "gn", "ln", "in")):
        for size in sizes:
            for seed in range(3):
                noise = NOISE[seed] if norm == "bn" else 0.0
                runs.append(one_run(norm, size, seed, 0.72 - place / 100 + noise))
    return replace(in_study(*runs), design=design)


def named(found: list[Paired]) -> dict[tuple[str, str, int], Paired]:
    return {(one.first, one.second, one.settings["batch_size"]): one for one in found}


def test_a_family_is_each_norm_against_one_at_every_choice_of_settings() -> None:
    assert design().comparisons() == [
        Comparison(norm, "bn", {"batch_size": size}) for norm in ("gn", "ln") for size in (4, 64)
    ]


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"primary": [{"norms": ["bn"], "against": "bn"}]}, "bn is compared with itself"),
        ({"primary": [{"norms": [], "against": "bn"}]}, r"primary\.0\.norms"),
        ({"primary": [{"norms": ["gn"], "versus": "bn"}]}, r"primary\.0\.against: Field required"),
        ({"smallest_difference": 0}, "smallest_difference"),
        ({"standard_deviation": float("inf")}, "standard_deviation"),
        ({"hypotheses": [{"expected": "bn wins"}]}, r"hypotheses\.0\.source: Field required"),
        ({"surprise": 1}, "surprise"),
        ({"primary": [GN_AND_LN | {"at": {"optim.lr": [0.1]}}]}, "optim.lr is no setting at"),
    ],
)
def test_a_design_that_says_something_else_is_refused(keys: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        read_design({"name": "s", **keys})


def test_only_the_comparisons_decided_beforehand_have_p_values_and_verdicts() -> None:
    found = every_pair(study(design()))
    primary = {key for key, one in named(found).items() if one.is_primary}
    assert primary == {(norm, "bn", size) for norm in ("gn", "ln") for size in (4, 64)}
    p_values = [one.difference.p_value for one in found if one.is_primary]
    assert [one.adjusted for one in found if one.is_primary] == holm(p_values)
    for one in found:
        if not one.is_primary:
            assert math.isnan(one.adjusted)
            assert one.verdict == "no verdict"
            assert "not among the comparisons decided beforehand" in one.sentence()
        assert one.family == "Holm over 4 comparisons decided beforehand"
    table = pairs_table(study(design()))
    assert table.data["is_primary"].tolist() == [True] * 4 + [False] * 8
    assert (table.shown["better"] == "").tolist() == [False] * 4 + [True] * 8


def test_a_comparison_that_is_not_measured_yet_keeps_its_place_in_the_family() -> None:
    whole, part = (named(every_pair(study(design(), sizes=sizes))) for sizes in ((4, 64), (64,)))
    for one in part.values():
        if one.is_primary:
            smallest = one.difference.p_value
            assert one.adjusted >= min(1.0, 3 * smallest)
    assert part["gn", "bn", 64].adjusted >= whole["gn", "bn", 64].adjusted
    told = summary(study(design(), sizes=(64,))).sentences
    assert "Not measured yet: 2 comparisons of the 4 decided beforehand." in told


def test_a_comparison_with_a_single_seed_keeps_its_place_in_the_family_too() -> None:
    runs = [
        one_run(norm, 4, seed, 0.7 + NOISE[seed] * (norm == "bn"))
        for norm in ("bn", "gn")
        for seed in range(3)
    ]
    runs += [one_run(norm, 64, 0, 0.7) for norm in ("bn", "gn", "ln")]
    found = named(every_pair(replace(in_study(*runs), design=design())))
    alone = found["gn", "bn", 4]
    assert alone.adjusted == min(1.0, 4 * alone.difference.p_value)


def test_a_norm_that_has_lost_all_seeds_is_told_of() -> None:
    runs = [one_run("bn", size, seed, 0.7) for size in (4, 64) for seed in range(3)]
    runs += [one_run("gn", 4, seed, 0.1, state="diverged", reason="nan") for seed in range(3)]
    told = summary(replace(in_study(*runs), design=design())).sentences
    assert "At batch size 4, gn and bn are not compared: 3 of gn lost." in told
    assert "Not measured yet: 4 comparisons of the 4 decided beforehand." in told


def test_seeds_lost_at_rates_that_were_not_chosen_are_not_counted() -> None:
    runs = [one_run("bn", 4, seed, 0.7) for seed in (0, 1)]
    for seed, lr in itertools.product((0, 1), (0.01, 0.1)):
        runs.append(one_run("gn", 4, seed, 0.1, state="diverged", reason="nan", lr=lr))
    told = summary(replace(in_study(*runs), design=design())).sentences
    assert "At batch size 4, gn and bn are not compared: 2 of gn lost." in told


@pytest.mark.parametrize("key", ["optim.name", "optim", "epochs"])
def test_a_comparison_may_be_at_a_setting_that_has_one_value_so_far(key: str) -> None:
    value = {"optim.name": "adam", "optim": "adam", "epochs": 1}[key]
    place = {"batch_size": [4], key: [value]}
    wanted = read_design(
        {"name": "s", "primary": [{"norms": ["gn"], "against": "bn", "at": place}]}
    )
    runs = [one_run(norm, 4, seed, 0.7 + seed / 10) for norm in ("bn", "gn") for seed in (0, 1)]
    (found,) = every_pair(replace(in_study(*runs), design=wanted))
    assert found.planned is not None


def test_a_comparison_without_a_place_is_refused_at_several_batch_sizes() -> None:
    everywhere = read_design({"name": "s", "primary": [{"norms": ["gn"], "against": "bn"}]})
    with pytest.raises(NormbenchError, match=r"batch size 4.* and batch size 64"):
        every_pair(study(everywhere))
    (told, *_) = summary(study(everywhere)).sentences
    assert told.startswith("Norms are not compared: gn - bn, decided beforehand, is there at")


def test_a_primary_comparison_at_several_settings_is_not_decided_twice() -> None:
    runs = [
        one_run(n, 4, s, 0.7, **{"optim.eps": e})
        for n in ("bn", "gn")
        for s in (0, 1)
        for e in (1, 2)
    ]
    with pytest.raises(NormbenchError, match="gn - bn, decided beforehand, is there at several"):
        every_pair(replace(in_study(*runs), design=design()))


def test_a_summary_leads_with_what_was_to_be_decided_in_sentences_to_be_quoted() -> None:
    told = summary(study(design())).sentences
    assert told[0] == "Of 4 comparisons decided beforehand, undecided in 4."
    assert told[1].startswith("At batch size 4, lr 0.001, bn reaches 1.7 ± 2.0 points more than gn")
    assert all(sentence.startswith("At batch size") for sentence in told[1:5])
    assert "points more than" in told[4]


def test_rates_that_another_study_has_chosen_do_not_part_the_norms() -> None:
    rates = [
        Rate(norm="bn", batch_size=64, lr=0.01, is_edge=False),
        Rate(norm="gn", batch_size=64, lr=0.003, is_edge=True),
    ]
    runs = []
    for rate in rates:
        for seed in range(3):
            reached = 0.7 + seed / 1000 - (rate.norm == "gn") * (0.1 + seed**2 / 1000)
            runs.append(one_run(rate.norm, 64, seed, reached, lr=rate.lr))
    plain = in_study(*runs)
    assert every_pair(plain) == []
    tuned = replace(plain, design=design(tuned_by="tuning", rates=rates))
    (found,) = every_pair(tuned)
    assert found.decision().startswith("At batch size 64, bn reaches 10.2 ± ")
    caption = pairs_table(tuned).caption
    assert "Learning rates are those that tuning chose on held-out training images" in caption
    assert "at batch size 64 bn 0.01, gn 0.003 (the edge of what was tried)." in caption


def test_a_rate_of_a_setting_is_told_with_it() -> None:
    rates, runs = [], []
    for position, lr in (("pre", 0.01), ("post", 0.003)):
        at = {"model.norm_position": position}
        rates.append(Rate(norm="bn", batch_size=64, lr=lr, is_edge=False, at=at))
        runs += [one_run("bn", 64, seed, 0.5, lr=lr, **at) for seed in range(2)]
    tuned = replace(in_study(*runs), design=design(tuned_by="tuning", rates=rates))
    told = "bn 0.003 at model.norm position post, bn 0.01 at model.norm position pre."
    assert told in chosen_rates(tuned)


def test_a_layout_that_follows_from_norm_and_batch_size_does_not_part_norms() -> None:
    runs = []
    for norm, size, seed in itertools.product(("bn", "in"), (1, 64), (0, 1)):
        layout = {"runtime.channels_last": norm == "bn" and size == 64}
        runs.append(one_run(norm, size, seed, 0.7 + seed / 100, **layout))
    study = in_study(*runs)
    assert "runtime.channels_last" not in study.runs
    assert len(every_pair(study)) == 2
    more = one_run("bn", 64, 0, 0.7, **{"runtime.channels_last": False})
    assert "runtime.channels_last" in in_study(*runs, more).runs


def test_a_null_result_has_its_bound_and_may_be_below_what_is_of_interest() -> None:
    undecided = named(every_pair(study(design(smallest_difference=1))))["gn", "bn", 64]
    assert undecided.verdict == "undecided"
    assert undecided.outcome == (
        "undecided, within ± 3.7 points: not known to be below the 1.0 points of interest"
    )
    alike = named(every_pair(study(design(smallest_difference=5))))["gn", "bn", 64]
    assert alike.verdict == "alike"
    assert alike.outcome == "alike, within ± 3.7 points: less than the 5.0 points of interest"


def test_a_small_difference_is_undecided_where_seeds_were_lost() -> None:
    runs = [one_run(n, 4, s, 0.7 + NOISE[s] * (n == "bn")) for n in ("bn", "gn") for s in range(3)]
    runs.append(one_run("gn", 4, 3, 0.1, state="diverged", reason="nan"))
    wide = design(smallest_difference=5)
    (found,) = every_pair(replace(in_study(*runs), design=wide))
    assert found.outcome.endswith("less than the 5.0 points of interest, but seeds were lost")


@pytest.mark.parametrize(("loser", "verdict"), [("bn", "no verdict"), ("gn", "bn")])
def test_a_norm_that_lost_seeds_gets_no_verdict_in_its_favour(loser: str, verdict: str) -> None:
    runs = [one_run("bn", seed=seed, reached=0.9) for seed in range(3)]
    runs += [one_run("gn", seed=seed, reached=0.5 + seed / 1000) for seed in range(3)]
    runs.append(one_run(loser, seed=3, state="diverged", reason="the loss is nan"))
    (found,) = every_pair(in_study(*runs))
    assert found.better == "bn"
    assert found.verdict == verdict
    assert f"1 of {loser} lost" in found.sentence()
    assert pairs_table(in_study(*runs)).shown["lost"].tolist() == [f"1 of {loser}"]


def test_with_the_bits_of_all_runs_a_difference_is_over_test_images_too() -> None:
    random = np.random.default_rng(0)
    bits = {(norm, seed): random.random(10_000) < 0.7 for norm in "ab" for seed in range(3)}
    runs = [one_run(norm, seed=seed, reached=right.mean()) for (norm, seed), right in bits.items()]
    plain = in_study(*runs)
    packed = map(pack, bits.values())
    kept = replace(plain, correct=dict(zip(plain.runs["run"], packed, strict=True)))
    (found,) = every_pair(kept)
    assert found.difference == crossed_difference(
        np.stack([bits["a", seed] for seed in range(3)]),
        np.stack([bits["b", seed] for seed in range(3)]),
    )
    assert "test images counted as drawn" in found.sentence()
    lacking = dict(list(kept.correct.items())[1:])
    (without,) = every_pair(replace(kept, correct=lacking))
    assert "on these test images" in without.sentence()


def test_parts_of_a_study_have_one_design_and_rates_that_do_not_contradict() -> None:
    bn, gn = (Rate(norm=norm, batch_size=4, lr=0.1, is_edge=False) for norm in ("bn", "gn"))
    both = united([design(rates=[bn]), design(rates=[gn]), design()])
    assert both == design(rates=[bn, gn])
    post = bn.model_copy(update={"lr": 0.2, "at": {"model.norm_position": "post"}})
    assert united([design(rates=[post]), design(rates=[bn])]) == design(rates=[bn, post])
    assert united([design(), None]) is None
    assert united([design(), design().model_copy(update={"name": "other"})]) is None
    with pytest.raises(NormbenchError, match="parts of the study s with different designs"):
        united([design(), design(smallest_difference=1)])
    with pytest.raises(NormbenchError, match=r"rates of bn at batch size 4: 0\.1 and 0\.2"):
        united([design(rates=[bn]), design(rates=[bn.model_copy(update={"lr": 0.2})])])
