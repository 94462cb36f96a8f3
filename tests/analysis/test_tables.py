"""The comparison table: means, intervals, ratios, and what is left out of it."""

from __future__ import annotations

import math

import pandas as pd
import pytest

from normbench.analysis.frames import METRICS, STEPS, Frames
from normbench.analysis.tables.comparison import comparison, comparison_table
from normbench.analysis.tables.rendering import to_markdown


def run(norm: str, accuracy: float, seconds: float, **values: object) -> dict[str, object]:
    """One row of the table of runs."""
    row: dict[str, object] = {"run": f"{norm}-0", "model": "normresnet", "norm": norm, "batch_size": 64, "seed": 0}
    row |= {"lr": 0.001, "status": "done", "reason": None, "epochs": 5, "test_accuracy": accuracy, "num_test": 10_000}
    row |= {"median_train_seconds": seconds, "data": "cifar10-jpeg", "device": "a processor", "threads": 2}
    row |= {"precision": "fp32", "concurrent_runs": 1, "torch": "2.15.0", "commit": "0123456789abcdef", "dirty": False}
    return row | values


def table(*rows: dict[str, object]) -> pd.DataFrame:
    return pd.DataFrame(list(rows))


def shown_table(runs: pd.DataFrame) -> str:
    """The comparison of these runs as people read it."""
    metrics, steps = (pd.DataFrame(columns=["run", *names]) for names in (METRICS, STEPS))
    return to_markdown(comparison_table(Frames(runs, metrics, steps, {}, {})))


def test_accuracies_are_averaged_and_times_related_to_bn() -> None:
    runs = table(run("gn", 0.70, 12.0), run("bn", 0.80, 10.0), run("bn", 0.84, 10.0, seed=1))
    shown = comparison(runs).set_index("norm")
    assert shown["n"].to_dict() == {"gn": 1, "bn": 2}
    assert shown["test_accuracy"].to_dict() == pytest.approx({"gn": 0.70, "bn": 0.82})
    assert shown["relative_time"].to_dict() == pytest.approx({"gn": 1.2, "bn": 1.0})


def test_times_are_related_within_one_batch_size() -> None:
    runs = table(run("bn", 0.8, 10.0), run("bn", 0.8, 100.0, batch_size=1), run("gn", 0.8, 50.0, batch_size=1))
    assert comparison(runs)["relative_time"].tolist() == [1.0, 1.0, 0.5]


def test_seconds_of_runs_that_shared_the_machine_are_compared_nowhere() -> None:
    runs = table(run("bn", 0.8, 10.0, concurrent_runs=2), run("gn", 0.8, 12.0, concurrent_runs=2))
    assert comparison(runs)["seconds"].isna().all()
    shown = shown_table(runs)
    assert "time per epoch" not in shown
    assert "No times are compared: the runs shared the machine." in shown


def test_a_time_that_was_not_measured_says_so() -> None:
    runs = table(run("bn", 0.8, 10.0), run("gn", 0.8, 12.0, concurrent_runs=2))
    assert shown_table(runs).count("not measured") == 2


def test_a_run_without_a_result_is_counted_and_not_averaged() -> None:
    runs = table(run("bn", 0.8, 10.0), run("none", 0.1, 10.0, status="diverged"))
    shown = comparison(runs).set_index("norm")
    assert shown.loc["none", "n"] == 0
    assert math.isnan(shown.loc["none", "test_accuracy"])
    assert "none finished" in shown_table(runs)
    assert "1 diverged" in shown_table(runs)
    assert "\n- none: 1 diverged\n" in shown_table(runs)


def test_without_bn_no_ratio_is_made_up() -> None:
    assert comparison(table(run("gn", 0.8, 12.0)))["relative_time"].isna().all()


def test_the_markdown_table_says_what_its_figures_rest_on() -> None:
    assert shown_table(table(run("bn", 0.8, 10.0), run("gn", 0.7, 12.5))) == (
        "| norm   | test accuracy   | test set   | time per epoch   | relative to bn   | runs   |\n"
        "|:-------|:----------------|:-----------|:-----------------|:-----------------|:-------|\n"
        "| bn     | 80.0 %          | ± 0.8 %    | 10.0 s           | 1.00x            | 1      |\n"
        "| gn     | 70.0 %          | ± 0.9 %    | 12.5 s           | 1.25x            | 1      |\n"
        "\n"
        "Data cifar10-jpeg, 5 epochs, final epoch; 2 runs, one seed each, so nothing is said of the spread over seeds. "
        "Test set: the 95 % interval that 10000 test images leave of each. "
        "Time per epoch is the median of the epochs' training seconds, without evaluation; ratios are of equal seeds. "
        "a processor, threads: 2, fp32, torch 2.15.0, commit 0123456789ab.\n"
    )


def test_batch_size_and_learning_rate_are_columns_only_where_they_vary() -> None:
    assert "batch size" not in shown_table(table(run("bn", 0.8, 10.0), run("gn", 0.8, 10.0)))
    assert "batch size" in shown_table(table(run("bn", 0.8, 10.0), run("bn", 0.8, 10.0, batch_size=1)))


def test_more_seeds_do_not_shrink_what_one_test_set_leaves_open() -> None:
    one, three = (table(*(run("bn", 0.8, 10.0, seed=seed) for seed in range(count))) for count in (1, 3))
    assert comparison(one)["test_set_half_width"].tolist() == comparison(three)["test_set_half_width"].tolist()


def test_an_interval_over_seeds_is_students_and_a_single_seed_has_none() -> None:
    one = table(run("bn", 0.72, 10.0))
    three = table(*(run("bn", accuracy, 10.0, seed=seed) for seed, accuracy in enumerate((0.70, 0.72, 0.74))))
    assert comparison(one)["half_width"].isna().all()
    assert "| 72.0 %          | ± 0.9 %" in shown_table(one)
    assert "| 72.0 ± 5.0 %    | ± 0.9 %" in shown_table(three)  # t(0.975, 2) = 4.30 times 2 points / sqrt(3)
    assert "3 seeds; ± is the 95 % Student-t interval over them." in shown_table(three)


def test_a_commit_with_changes_is_marked() -> None:
    assert "commit 0123456789ab+." in shown_table(table(run("bn", 0.8, 10.0, dirty=True)))
    assert "commit of an installed package." in shown_table(table(run("bn", 0.8, 10.0, commit=None, dirty=None)))


def test_a_learning_rate_is_chosen_by_the_images_held_out_and_never_by_the_test_set() -> None:
    rates = [(0.001, 0.60, 0.75), (0.003, 0.65, 0.70), (0.01, 0.50, 0.80)]
    runs = table(*(run("bn", test, 10.0, lr=lr, val_accuracy=held_out) for lr, held_out, test in rates))
    assert comparison(runs).set_index("lr")["chosen"].to_dict() == {0.001: False, 0.003: True, 0.01: False}
    assert "65.0 % (best)" in shown_table(runs)
    by_batch = pd.concat([runs, runs.assign(batch_size=8, val_accuracy=[0.9, 0.1, 0.1])])
    assert comparison(by_batch).query("chosen")[["batch_size", "lr"]].values.tolist() == [[64, 0.003], [8, 0.001]]


def test_runs_that_differ_in_an_option_of_the_norm_have_a_row_each() -> None:
    runs = table(*(run("gn", 0.7 + 0.01 * i, 10.0, **{"norm.num_groups": str(i)}) for i in (1, 2)), run("bn", 0.7, 5.0))
    shown = comparison(runs)
    assert shown["norm.num_groups"].fillna("").tolist() == ["1", "2", ""]
    assert shown["n"].tolist() == [1, 1, 1]
    assert shown["relative_time"].tolist() == [2.0, 2.0, 1.0]
