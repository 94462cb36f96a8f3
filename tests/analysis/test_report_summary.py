"""The sentences of a report, each recomputed from the runs it speaks of."""

from __future__ import annotations

import re
import statistics
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from kit.ratios import over_processes
from kit.runs import REGRESSION, in_study, one_run, some_seconds, timed

from normbench.analysis.family import every_pair
from normbench.analysis.loading import load_study
from normbench.analysis.report.summary import MOST, summary
from normbench.analysis.study import Study
from normbench.analysis.study_files import write_study

LEADER = re.compile(
    r"At batch size (\d+), (\w+) reached the highest test accuracy, ([\d.]+) "
    r"(?:± [\d.]+ %|% \([\d.]+ to [\d.]+\)) \((\d) seeds\), "
    r"([+-][\d.]+) ± [\d.]+ points before (\w+) \((\d) seeds, paired, "
    r"on these test images\), p = \S+ \(Holm over \d+ comparisons?: all pairs of these runs\): "
    r"(undecided|more than chance explains)(?:, within ± [\d.]+ points)?\."
)
DIVERGED = "the loss is\n nan"


def beginning(study: Study, words: str) -> list[str]:
    """The sentences that begin so."""
    return [sentence for sentence in summary(study).sentences if sentence.startswith(words)]


def leaders(study: Study) -> list[tuple[str, ...]]:
    found = [LEADER.fullmatch(sentence) for sentence in summary(study).sentences]
    return [match.groups() for match in found if match]


def by_seed(study: Study, norm: str, batch_size: int) -> dict[int, float]:
    """Test accuracies of the finished runs."""
    runs = study.done.at(norm=norm, batch_size=batch_size).runs
    return dict(zip(runs["seed"], runs["test_accuracy"], strict=True))


@pytest.fixture(scope="module")
def sweep() -> Study:
    """bn diverged at batch size 1, in was refused there and did not run elsewhere."""
    random = np.random.default_rng(0)
    runs = []
    for norm in ("bn", "gn", "ln"):
        for size in (1, 8, 64):
            for seed in (0, 1):
                reached = random.uniform(0.1, 0.9)
                lost = (norm, size) == ("bn", 1)
                ending = {"state": "diverged", "reason": DIVERGED} if lost else {}
                runs.append(one_run(norm, size, seed, reached, **ending))
    runs.append(one_run("in", 1, state="refused", reason="one value per channel"))
    return timed(in_study(*runs), some_seconds("bn", "ln"))


def test_a_sentence_after_the_leaders_counts_runs_states_and_seeds(sweep: Study) -> None:
    assert summary(sweep).sentences[3] == (
        "19 runs of normresnet on cifar10-jpeg: bn, gn, ln, in at batch size 1, 8, 64 with "
        "2 seeds, all 50,000 training images, 1 epoch; 16 done, 2 diverged, 1 refused."
    )


def test_the_leader_at_each_batch_size_is_who_has_the_highest_mean(sweep: Study) -> None:
    found = leaders(sweep)
    assert [one[0] for one in found] == ["1", "8", "64"]
    for size, first, reached, seeds, ahead, second, pairs, _ in found:
        means = {}
        for norm in ("bn", "gn", "ln"):
            values = by_seed(sweep, norm, int(size))
            if values:
                means[norm] = statistics.fmean(values.values())
        assert [first, second] == sorted(means, key=lambda norm: -means[norm])[:2]
        assert reached == f"{100 * means[first]:.1f}"
        assert ahead == f"{100 * (means[first] - means[second]):+.1f}"
        assert seeds == pairs == "2"


def test_where_smaller_is_better_the_lowest_mean_leads_by_a_negative_difference() -> None:
    errors = {"bn": (0.30, 0.32), "gn": (0.10, 0.13), "ln": (0.20, 0.22)}
    runs = [
        one_run(norm, 64, seed, value, task=REGRESSION)
        for norm, values in errors.items()
        for seed, value in enumerate(values)
    ]
    (sentence,) = beginning(in_study(*runs), "At the settings of these runs")
    assert "gn reached the lowest test squared error, 0.1150 (0.0000 to " in sentence
    assert ", -0.0950 ± " in sentence
    assert "before ln" in sentence


def test_the_summary_and_the_table_of_pairs_decide_alike() -> None:
    """bn against gn: p = 0.03 at one batch size, 0.06 by Holm's rule over both."""
    level = {"bn": 0.72, "gn": 0.70, "in": 0.40, "ln": 0.20}
    noise = (0.000, 0.006, 0.016)
    runs = []
    for norm, size in ((norm, size) for norm in level for size in (8, 64)):
        for seed in range(3):
            reached = level[norm] + (noise[seed] if norm == "bn" else 0.0)
            runs.append(one_run(norm, size, seed, reached))
    study = in_study(*runs)
    verdicts = {}
    for pair in every_pair(study):
        verdicts[pair.settings["batch_size"], pair.first, pair.second] = pair.verdict
    found = leaders(study)
    assert [(one[0], one[1], one[5]) for one in found] == [("8", "bn", "gn"), ("64", "bn", "gn")]
    for size, first, _, _, _, second, _, said in found:
        assert (said == "undecided") == (verdicts[int(size), first, second] == "undecided")


def test_the_change_from_the_largest_to_the_smallest_batch_size_is_taken_seed_by_seed(
    sweep: Study,
) -> None:
    (sentence,) = beginning(sweep, "From batch size 64 to 1, test accuracy")
    told = dict(re.findall(r"(\w+) by ([+-][\d.]+) ± [\d.]+ points \(2 seeds\)", sentence))
    expected = {}
    for norm in ("gn", "ln"):
        small, large = by_seed(sweep, norm, 1), by_seed(sweep, norm, 64)
        change = statistics.fmean(small[seed] - large[seed] for seed in (0, 1))
        expected[norm] = f"{100 * change:+.1f}"
    assert told == expected


@pytest.mark.parametrize(("gap", "decided"), [(0.1, "ln > bn, bn > gn, gn > in"), (0.0001, "none")])
def test_the_order_of_the_source_stands_beside_the_measured_one_and_what_of_it_is_decided(
    gap: float, decided: str
) -> None:
    spread = (0.0, 0.001, 0.0, -0.001)
    runs = []
    for place, norm in enumerate(("ln", "bn", "gn", "in")):
        for seed in range(4):
            runs.append(one_run(norm, 64, seed, 0.9 - gap * place + spread[(seed + place) % 4]))
    study = in_study(*runs)
    assert beginning(study, "The tutorial's order") == [
        "The tutorial's order at batch 64 is bn > gn > ln > in. The means here stand as "
        f"ln > bn > gn > in; of these steps are decided: {decided}."
    ]
    mixed = pd.concat([study.runs, study.runs.assign(run="again")])
    assert beginning(replace(study, runs=mixed), "The tutorial's order") == []


def test_the_levels_that_the_tutorial_claims_stand_beside_those_reached_with_what_differs() -> None:
    """In a sentence for each difference, of norms that finished at its batch size."""
    half = {"data.limit_train": 25_000}
    runs = [one_run("bn", reached=0.75, seconds=(1.0,) * 5), one_run("gn", reached=0.5, **half)]
    runs += [one_run("ln", 8), one_run("in", state="diverged"), one_run("ws_gn")]
    said = beginning(in_study(*runs), "Accuracies that the tutorial claims at batch 64, against")
    told = [sentence.partition(" here: ")[2] for sentence in said]
    network = "normresnet, not normresnet, widths 64, 128, 256, 512"
    assert told == [
        f"bn 92.3 % against 75.0 %; what differs here: {network}; JPEG copy.",
        f"gn 91.7 % against 50.0 %; what differs here: {network}; 1 epoch, not 5; "
        "25,000 of 50,000 training images; JPEG copy.",
    ]
    assert beginning(in_study(one_run("bn", task=REGRESSION)), "Accuracies") == []


def test_one_seed_decides_nothing() -> None:
    study = in_study(one_run("bn", reached=0.5), one_run("gn", reached=0.625))
    assert beginning(study, "At the settings") == [
        "At the settings of these runs, gn reached the highest test accuracy, 62.5 % (one seed), "
        "+12.5 points before bn; one seed decides nothing."
    ]


def test_times_are_of_rounds_and_of_a_network_and_said_where_both_were_timed(sweep: Study) -> None:
    """At every batch size: how bn's runs at batch size 1 ended is nothing to its steps."""
    steps = {norm: np.array(found) for norm, found in some_seconds("bn", "ln").items()}
    ratios = steps["ln"] / steps["bn"]
    by_processes = timed(sweep, some_seconds("bn", "ln"), processes=9)
    value, low, high = over_processes([[ratio] for ratio in ratios])
    for study, basis, told in (
        (sweep, "one process", f"{np.median(ratios):.2f}x"),
        (by_processes, "9 processes", f"{value:.2f}x ({low:.2f} to {high:.2f})"),
    ):
        assert beginning(study, "An epoch") == [
            f"An epoch at batch size {size} takes, relative to bn, on this study's network "
            f"(normresnet), by rounds of {basis}: ln {told}{claimed}."
            for size, claimed in ((1, ""), (8, ""), (64, ", claimed 1.10x"))
        ]


def test_without_rounds_no_time_is_told_whatever_the_runs_own_seconds(sweep: Study) -> None:
    untimed = replace(sweep, bench=pd.DataFrame())
    for concurrent_runs in (1, 2):
        study = replace(untimed, runs=untimed.runs.assign(concurrent_runs=concurrent_runs))
        assert "Times are not measured here: normbench bench does that." in summary(study).sentences
        assert beginning(study, "An epoch") == []


def test_a_norm_of_several_options_has_no_one_time() -> None:
    of_gn = [one_run("gn", **{"norm.num_groups": number}) for number in (2, 16)]
    study = in_study(one_run("bn"), one_run("ln"), *of_gn)
    said = beginning(timed(study, {"bn": [0.1], "gn": [0.2], "ln": [0.3]}), "An epoch")
    assert [sentence.partition(": ")[2] for sentence in said] == ["ln 3.00x, claimed 1.10x."]


def test_the_summary_names_each_kind_of_run_that_did_not_finish(sweep: Study) -> None:
    assert beginning(sweep, "Not finished: ") == [
        "Not finished: bn, batch size 1: 2 diverged: the loss is nan.",
        "Not finished: in, batch size 1: 1 refused: one value per channel.",
    ]


def test_a_long_list_of_ends_is_cut_with_a_count_of_the_rest() -> None:
    sizes = range(1, MOST + 4)
    runs = [one_run("bn", size, state="failed", reason=f"reason {size}") for size in sizes]
    study = in_study(*runs)
    assert len(beginning(study, "Not finished: ")) == MOST
    assert summary(study).extent[-1] == "And 3 more kinds of runs that did not finish."


def test_a_reason_that_looks_like_no_value_is_kept(tmp_path: Path) -> None:
    study = in_study(one_run("gn"), one_run("bn", state="diverged", reason="nan"))
    write_study(study, tmp_path)
    assert summary(load_study([tmp_path])).sentences == summary(study).sentences
    assert beginning(study, "Not finished: ") == ["Not finished: bn: 1 diverged: nan."]


def test_the_leader_is_who_leads_at_the_rates_chosen_on_images_held_out() -> None:
    """On the test set gn would lead, at a rate that was worse on the images held out."""
    runs = [
        one_run("bn", reached=0.6, lr=0.01, held_out=0.5),
        one_run("bn", reached=0.5, lr=0.1, held_out=0.7),
        one_run("gn", reached=0.4, lr=0.01, held_out=0.6),
        one_run("gn", reached=0.9, lr=0.1, held_out=0.2),
    ]
    (sentence,) = beginning(in_study(*runs), "At the settings of these runs")
    assert "bn reached the highest test accuracy, 50.0 % (one seed), +10.0 points" in sentence


def test_options_of_a_norm_are_norms_of_their_own_to_the_summary() -> None:
    runs = []
    for number, reached in ((2, 0.5), (16, 0.75)):
        for seed in (0, 1):
            runs.append(one_run("gn", 64, seed, reached, **{"norm.num_groups": number}))
    assert beginning(in_study(*runs), "At the settings of these runs") == [
        "At the settings of these runs, gn num groups 16 reached the highest test accuracy, "
        "75.0 ± 0.0 % (2 seeds), before gn num groups 2."
    ]
