"""The comparison table: means, intervals, ratios, and what is left out of it."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from kit.ratios import over_processes
from kit.runs import CLASSIFICATION, REGRESSION, Seconds, in_study, one_run, rows_of, timed

from normbench.analysis.loading import with_bench
from normbench.analysis.study import Study
from normbench.analysis.tables.comparison import comparison, comparison_table
from normbench.analysis.tables.rendering import to_markdown
from normbench.runs.files import RunFiles
from normbench.tasks.metric import TaskRecord
from normbench.timing.rounds import as_rounds


def run(norm: str, reached: float, batch_size: int = 64, seed: int = 0, **values: Any) -> RunFiles:
    """A run of 5 epochs with 100 steps of 64 images each: steps of 0.1 s make an epoch of 10 s."""
    values = {"seconds": [987.0] * 5, "data.limit_train": 6400} | values
    return one_run(norm, batch_size, seed, reached, **values)


def table(*runs: RunFiles, seconds: Seconds | None = None, processes: int = 1) -> Study:
    """The study of these runs, with the times that follow from these seconds of a step."""
    study = in_study(*runs)
    return timed(study, seconds, processes) if seconds else study


def shown_table(study: Study) -> str:
    """The comparison of these runs as people read it."""
    return to_markdown(comparison_table(study))


def test_accuracies_are_averaged_and_times_related_to_bn() -> None:
    runs = run("gn", 0.70), run("bn", 0.80), run("bn", 0.84, seed=1)
    shown = comparison(table(*runs, seconds={"gn": [0.12], "bn": [0.1]})).set_index("norm")
    assert shown["n"].to_dict() == {"gn": 1, "bn": 2}
    assert shown["test_accuracy"].to_dict() == pytest.approx({"gn": 0.70, "bn": 0.82})
    assert shown["seconds"].to_dict() == pytest.approx({"gn": 12.0, "bn": 10.0})
    assert shown["relative_time"].to_dict() == pytest.approx({"gn": 1.2, "bn": 1.0})


def test_a_time_and_a_ratio_are_medians_over_rounds() -> None:
    seconds = {"bn": [0.1, 0.2, 0.4, 0.1, 0.2, 0.1, 0.1], "gn": [0.3, 0.2, 0.4, 0.2, 0.6, 0.2, 0.1]}
    shown = comparison(table(run("bn", 0.8), run("gn", 0.7), seconds=seconds)).set_index("norm")
    assert shown["seconds"].to_dict() == pytest.approx({"bn": 10.0, "gn": 20.0})
    ratio = ["relative_time", "relative_time_low", "relative_time_high", "rounds", "processes"]
    of_gn = [2.0, math.nan, math.nan, 7, 1]  # 1, 1, 1, 2, 2, 3, 3
    assert shown.loc["gn", ratio].tolist() == pytest.approx(of_gn, nan_ok=True)
    found = comparison(table(run("bn", 0.8), run("gn", 0.7), seconds=seconds, processes=6))
    shown = found.set_index("norm")
    expected = over_processes([[3, 1], [1], [1], [2], [3], [2]])
    assert shown.loc["gn", ratio].tolist() == pytest.approx([*expected, 7, 6])
    assert shown.loc["bn", ratio].tolist() == [1.0, 1.0, 1.0, 7, 6]


def test_times_are_related_within_one_batch_size() -> None:
    runs = run("bn", 0.8), run("bn", 0.8, batch_size=1), run("gn", 0.8, batch_size=1)
    seconds: Seconds = {("bn", 64): [0.1], ("bn", 1): [0.02], ("gn", 1): [0.01]}
    found = comparison(table(*runs, seconds=seconds))
    assert found["relative_time"].tolist() == [1.0, 1.0, 0.5]
    assert found["seconds"].tolist() == pytest.approx([10.0, 128.0, 64.0])


@pytest.mark.parametrize("concurrent_runs", [1, 2])
def test_seconds_of_the_runs_themselves_are_compared_nowhere(concurrent_runs: int) -> None:
    runs = [run(norm, 0.8, concurrent_runs=concurrent_runs) for norm in ("bn", "gn")]
    shown = shown_table(table(*runs))
    assert comparison(table(*runs))[["seconds", "relative_time"]].isna().all(axis=None)
    assert "time per epoch" not in shown
    assert "987" not in shown
    assert "Times are not measured here: normbench bench does that." in shown
    seconds = {"bn": [0.1], "gn": [0.2]}
    slower = [
        run(norm, 0.8, concurrent_runs=concurrent_runs, seconds=[1234.0] * 5)
        for norm in ("bn", "gn")
    ]
    assert shown_table(table(*runs, seconds=seconds)) == shown_table(
        table(*slower, seconds=seconds)
    )
    assert "10.0 s" in shown_table(table(*runs, seconds=seconds))


def test_a_time_that_was_not_measured_says_so() -> None:
    assert (
        shown_table(table(run("bn", 0.8), run("gn", 0.8), seconds={"bn": [0.1]})).count(
            "not measured"
        )
        == 2
    )


def test_times_of_different_races_are_shown_and_not_related() -> None:
    study = table(run("bn", 0.8), run("gn", 0.8), seconds={"bn": [0.1], "gn": [0.2]})
    races = study.bench["race"].where(study.bench["norm.name"] == "bn", "another day")
    apart = with_bench(study, study.bench.assign(race=races))
    found = comparison(apart).set_index("norm")
    assert found["seconds"].to_dict() == pytest.approx({"bn": 10.0, "gn": 20.0})
    assert found["relative_time"].isna().to_dict() == {"bn": False, "gn": True}
    assert shown_table(apart).count("not measured") == 1


def test_a_run_without_a_result_is_counted_and_not_averaged() -> None:
    runs = table(run("bn", 0.8), run("none", 0.1, state="diverged"))
    shown = comparison(runs).set_index("norm")
    assert shown.loc["none", "n"] == 0
    assert math.isnan(shown.loc["none", "test_accuracy"])
    assert "none finished" in shown_table(runs)
    assert "1 diverged" in shown_table(runs)
    assert "\n- none: 1 diverged\n" in shown_table(runs)


def test_without_bn_no_ratio_is_made_up() -> None:
    rounds = table(run("gn", 0.8), run("bn", 0.8), seconds={"gn": [0.12], "bn": [0.1]}).bench
    found = comparison(with_bench(table(run("gn", 0.8)), rounds))
    assert found["seconds"].tolist() == pytest.approx([12.0])
    assert found["relative_time"].isna().all()


def test_of_two_kinds_of_bn_none_is_chosen_to_relate_to() -> None:
    study = table(*(run("bn", 0.8, **{"norm.eps": eps}) for eps in (0.1, 0.2)), run("gn", 0.8))
    steps = zip(study.configs.values(), (0.1, 0.2, 0.4), strict=True)
    rows = [row for config, seconds in steps for row in rows_of(config, [seconds])]
    assert (
        comparison(with_bench(study, as_rounds(rows)))
        .set_index("norm")["relative_time"]
        .isna()["gn"]
    )


def test_the_markdown_table_says_what_its_figures_rest_on() -> None:
    seconds = {"bn": [0.1] * 6, "gn": [0.12, 0.13, 0.12, 0.13, 0.14, 0.11]}
    _, low, high = over_processes([[1.2], [1.3], [1.2], [1.3], [1.4], [1.1]])
    assert (round(low, 2), round(high, 2)) == (1.14, 1.36)
    runs = run("bn", 0.8), run("gn", 0.7)
    assert shown_table(table(*runs, seconds=seconds, processes=6)) == (
        "| norm   | test accuracy   | test set   | difference to bn   | time per epoch   | relative to bn       | runs   |\n"
        "|:-------|:----------------|:-----------|:-------------------|:-----------------|:---------------------|:-------|\n"
        "| bn     | 80.0 %          | ± 0.8 %    | baseline           | 10.0 s           | 1.00x                | 1      |\n"
        "| gn     | 70.0 %          | ± 0.9 %    | -10.0 points       | 12.5 s           | 1.25x (1.14 to 1.36) | 1      |\n"
        "\n"
        "Data cifar10-jpeg, 6,400 of 50,000 training images, 5 epochs, final epoch; 2 runs, one seed each, so nothing is said of the spread over seeds. "
        "a processor, threads: 2, fp32, torch 2.15.0, commit 0123456789ab. "
        "Test set: the 95 % interval that 10000 test images leave of each. "
        "Time per epoch is a training step's median, without evaluation, times the steps; relative to bn: the median "
        "of the rounds' ratios (not the ratio of medians), averaged over 6 processes, with its 95 % "
        "Student-t interval over them; timed in "
        "turns, 6 rounds, on another processor, threads: 1, torch 2.16.0, "
        "commit fedcba987654. "
        "Times are of this study's network (normresnet), not of the norm as such. "
        "Difference to bn: paired over equal seeds, on these test images; no verdict.\n"
    )


def test_rows_stand_by_batch_size_and_then_by_result() -> None:
    runs = []
    for size in (64, 4, 16):
        for norm, reached in (("bn", 0.5), ("gn", 0.7), ("ln", 0.6)):
            runs.append(run(norm, reached, batch_size=size))
    shown = comparison_table(table(*runs)).shown
    assert [*zip(shown["batch size"], shown["norm"], strict=True)] == [
        (size, norm) for size in ("4", "16", "64") for norm in ("gn", "ln", "bn")
    ]


def test_batch_size_and_learning_rate_are_columns_only_where_they_vary() -> None:
    assert "batch size" not in shown_table(table(run("bn", 0.8), run("gn", 0.8)))
    assert "batch size" in shown_table(table(run("bn", 0.8), run("bn", 0.8, batch_size=1)))


def test_more_seeds_do_not_shrink_what_one_test_set_leaves_open() -> None:
    one, three = (table(*(run("bn", 0.8, seed=seed) for seed in range(count))) for count in (1, 3))
    assert (
        comparison(one)["test_set_half_width"].tolist()
        == comparison(three)["test_set_half_width"].tolist()
    )


def test_an_interval_over_seeds_is_students_and_a_single_seed_has_none() -> None:
    one = table(run("bn", 0.72))
    three = table(*(run("bn", 0.70 + seed / 50, seed=seed) for seed in range(3)))
    assert comparison(one)["half_width"].isna().all()
    assert "| 72.0 %          | ± 0.9 %" in shown_table(one)
    assert "| 72.0 ± 5.0 %    | ± 0.9 %" in shown_table(
        three
    )  # t(0.975, 2) = 4.30 times 2 points / sqrt(3)
    interval = (
        "3 seeds; ± is the 95 % Student-t interval over them; a seed draws initial weights and"
    )
    assert interval in shown_table(three)


def test_where_seeds_blow_up_the_median_and_the_worst_stand_beside_the_mean_and_only_there() -> (
    None
):
    runs = [run("bn", reached, seed=seed) for seed, reached in enumerate((0.5, 0.7, 0.9))]
    calm = comparison_table(table(*runs))
    assert not {"median", "worst"} & {*calm.shown, *calm.data}
    assert "diverged" not in calm.caption
    others = [run("gn", 0.4), run("ln", 0.1, state="failed"), run("in", 0.1, state="interrupted")]
    diverged = run("bn", 0.1, seed=3, state="diverged", reason="nan")
    blown = comparison_table(table(*runs, diverged, *others))
    shown = blown.shown.set_index("norm")[["median", "worst"]]
    assert shown.loc["bn"].tolist() == ["70.0 %", "50.0 %"]
    assert (shown.drop(index="bn") == "").all(axis=None)
    told = "Where runs diverged or failed, mean, median and worst are of those that finished."
    assert told in blown.caption


def test_the_worst_of_a_metric_that_is_better_when_smaller_is_the_largest() -> None:
    runs = [run("bn", value, seed=i, task=REGRESSION) for i, value in enumerate((0.1, 0.2, 0.9))]
    lost = run("bn", 0.0, seed=3, state="diverged", task=REGRESSION)
    assert comparison_table(table(*runs, lost)).data[["median", "worst"]].values.tolist() == [
        [0.2, 0.9]
    ]


def test_a_commit_with_changes_is_marked() -> None:
    def of_commit(commit: str | None, *, dirty: bool | None) -> str:
        one = run("bn", 0.8)
        git = {"commit": commit, "dirty": dirty}
        return shown_table(table(replace(one, environment=one.environment | {"git": git})))

    assert "commit 0123456789ab+." in of_commit("0123456789abcdef", dirty=True)
    assert "commit of an installed package." in of_commit(None, dirty=None)


def test_a_learning_rate_is_chosen_by_the_images_held_out_and_never_by_the_test_set() -> None:
    rates = [(0.001, 0.60, 0.75), (0.003, 0.65, 0.70), (0.01, 0.50, 0.80)]
    at_64 = [run("bn", test, lr=lr, held_out=held_out) for lr, held_out, test in rates]
    study = table(*at_64)
    chosen = {0.001: False, 0.003: True, 0.01: False}
    assert comparison(study).set_index("lr")["chosen"].to_dict() == chosen
    assert "65.0 % (best)" in shown_table(study)
    held_out_at_8 = {0.001: 0.9, 0.003: 0.1, 0.01: 0.1}
    at_8 = [run("bn", 0.5, 8, lr=lr, held_out=value) for lr, value in held_out_at_8.items()]
    best = comparison(table(*at_64, *at_8)).query("chosen")
    assert best[["batch_size", "lr"]].values.tolist() == [[64, 0.003], [8, 0.001]]


def test_of_a_metric_that_is_better_when_smaller_the_smallest_on_held_out_images_is_chosen() -> (
    None
):
    rates = {0.001: 0.60, 0.003: 0.65, 0.01: 0.50}
    runs = [run("bn", 0.1, lr=lr, held_out=value, task=REGRESSION) for lr, value in rates.items()]
    study = table(*runs)
    assert comparison(study).query("chosen")["lr"].tolist() == [0.01]
    assert list(comparison_table(study).shown) == [
        "norm",
        "lr",
        "validation squared error",
        "test squared error",
        "runs",
    ]
    assert "0.5000 (best, at the edge)" in shown_table(study)


@pytest.mark.parametrize("task", [CLASSIFICATION, REGRESSION])
def test_only_a_metric_with_a_range_has_an_interval_of_the_test_set(task: TaskRecord) -> None:
    found = comparison_table(table(run("bn", 0.8, task=task)))
    has_range = task is CLASSIFICATION
    assert ("test set" in found.shown) is has_range
    assert ("Test set: the 95 % interval" in found.caption) is has_range


def test_runs_that_differ_in_an_option_of_the_norm_have_a_row_each() -> None:
    rows = [run("gn", 0.7 + 0.01 * i, **{"norm.num_groups": i}) for i in (1, 2)]
    study = table(*rows, run("bn", 0.7), seconds={"gn": [0.1], "bn": [0.05]})
    of_two_groups = study.bench["norm.num_groups"] == "2"
    slower = study.bench["seconds"].where(~of_two_groups, 0.15)
    shown = comparison(with_bench(study, study.bench.assign(seconds=slower)))
    assert shown["norm.num_groups"].fillna("").tolist() == ["1", "2", ""]
    assert shown["n"].tolist() == [1, 1, 1]
    assert shown["relative_time"].tolist() == pytest.approx([2.0, 3.0, 1.0])
