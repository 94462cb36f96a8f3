"""Figures over settings, cell by cell against a slow oracle; what has no figure says why."""

from __future__ import annotations

import itertools
import math
import statistics
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kit.runs import in_study, one_run

from normbench.analysis.stats import Estimate, half_width_of_test_set, mean_interval
from normbench.analysis.study import CHOSEN, Study
from normbench.analysis.tables.crosstab import cells, cross_table, final
from normbench.errors import NormbenchError
from normbench.runs.files import RunFiles

NORMS, BATCH_SIZES, SEEDS = ("gn", "bn", "ln"), (64, 8, 256), (0, 1, 2)
STATES = ("done", "done", "done", "diverged", "failed", "refused", "interrupted")
PLACES = list(itertools.product(NORMS, BATCH_SIZES, SEEDS))


@st.composite
def runs_of_a_study(draw: st.DrawFn) -> list[RunFiles]:
    """Some of the places of a grid, in any order, ended in any way."""
    places = draw(st.lists(st.sampled_from(PLACES), unique=True, min_size=1, max_size=16))
    return [
        one_run(
            *place,
            draw(st.floats(0.05, 0.95)),
            state=draw(st.sampled_from(STATES)),
            seconds=draw(st.lists(st.floats(1, 100), min_size=3, max_size=3)),
            concurrent_runs=draw(st.sampled_from([1, 1, 2])),
        )
        for place in places
    ]


def slow_value(run: RunFiles, metric: str) -> float | None:
    """The figure of one run by hand: its last epoch's, or the median of its clocks; None where it
    has none."""
    if run.status["state"] != "done":
        return None
    if metric == "train_seconds":
        alone = run.environment["concurrent_runs"] == 1
        return statistics.median(run.metrics[metric].tolist()) if alone else None
    return float(run.metrics[metric][-1])


def slow_cells(
    runs: list[RunFiles], by: list[str], metric: str
) -> dict[tuple[Any, ...], tuple[Any, ...]]:
    """What each cell should say: n, mean, half width, and how many runs ended otherwise, by
    state."""
    found: dict[tuple[Any, ...], list[RunFiles]] = {}
    for run in runs:
        place = {"norm": run.config["norm"]["name"], "batch_size": run.config["batch_size"]}
        found.setdefault(tuple(place[name] for name in by), []).append(run)
    oracle = {}
    for key, group in found.items():
        values = [value for run in group if (value := slow_value(run, metric)) is not None]
        estimate = mean_interval(values) if values else Estimate(math.nan, math.nan, 0)
        states = [run.status["state"] for run in group if run.status["state"] != "done"]
        oracle[key] = (estimate, {state: states.count(state) for state in states})
    return oracle


@pytest.mark.parametrize("by", [["norm", "batch_size"], ["batch_size", "norm"]])
@pytest.mark.parametrize("metric", ["test_accuracy", "test_loss", "train_seconds"])
@settings(max_examples=15)
@given(runs=runs_of_a_study())
def test_cells_are_those_of_a_slow_oracle(runs: list[RunFiles], by: list[str], metric: str) -> None:
    table = cells(in_study(*runs), by, metric)
    oracle = slow_cells(runs, by, metric)
    assert len(table) == len(oracle)
    for row in table.to_dict("records"):
        estimate, ended = oracle[tuple(row[name] for name in by)]
        assert (row["n"], row[metric], row["half_width"]) == pytest.approx(
            (estimate.n, estimate.mean, estimate.half_width), nan_ok=True
        )
        words = row["status"].split(", ") if row["status"] else []
        assert {
            state: int(count) for count, _, state in (word.partition(" ") for word in words)
        } == ended
        if metric == "test_accuracy" and estimate.n:
            assert row["test_set_half_width"] == pytest.approx(
                half_width_of_test_set(estimate.mean, 10_000)
            )


@settings(max_examples=10)
@given(runs=runs_of_a_study())
def test_every_run_without_a_result_is_counted_in_a_note(runs: list[RunFiles]) -> None:
    notes = cross_table(in_study(*runs), ["norm", "batch_size"]).notes
    assert sum(int(note.split(": ")[1].split()[0]) for note in notes) == sum(
        run.status["state"] != "done" for run in runs
    )


def grid() -> Study:
    """bn and gn at batch sizes 8 and 64: one diverged, all of gn at 8 failed; ln was refused, in
    is only at 64."""
    runs = [
        one_run("bn", batch, seed, 0.5 + seed / 10)
        for batch in (64, 8)
        for seed in SEEDS
        if (batch, seed) != (8, 2)
    ]
    runs += [one_run("bn", 8, 2, state="diverged", reason="the loss of step 3\nis nan")]
    runs += [one_run("gn", 64, seed, 0.25) for seed in SEEDS]
    runs += [one_run("gn", 8, seed, state="failed", reason="OSError: gone") for seed in SEEDS]
    runs += [one_run("ln", 8, 0, state="refused", reason="a 1x1 map"), one_run("in", 64, 0, 0.75)]
    return in_study(*runs)


def test_a_cell_says_what_was_reached_or_how_it_ended_or_that_there_is_no_run() -> None:
    table = cross_table(grid(), ["norm", "batch_size"])
    assert table.title == "Test accuracy by norm and batch size"
    assert table.shown.to_dict("split")["columns"] == ["norm", "batch size 8", "batch size 64"]
    half = 100 * mean_interval([0.5, 0.6, 0.7]).half_width
    assert table.shown.to_numpy().tolist() == [
        ["in", "no run", "75.0 % (n = 1)"],
        [
            "bn",
            # An interval over two seeds reaches beyond what an accuracy can be.
            "55.0 % (0.0 to 100.0) (n = 2, 1 diverged, median 55.0 %, worst 50.0 %)",
            f"60.0 ± {half:.1f} % (n = 3)",
        ],
        ["gn", "3 failed", "25.0 ± 0.0 % (n = 3)"],
        ["ln", "1 refused", "no run"],
    ]


def test_what_has_no_figure_is_a_note_with_its_reason() -> None:
    assert cross_table(grid(), ["norm", "batch_size"]).notes == (
        "bn, batch size 8: 1 diverged: the loss of step 3 is nan",
        "gn, batch size 8: 3 failed: OSError: gone",
        "ln, batch size 8: 1 refused: a 1x1 map",
    )


def test_equal_counts_are_not_repeated_in_every_cell() -> None:
    table = cross_table(
        in_study(*(one_run(norm, 64, seed) for norm in NORMS for seed in SEEDS)), ["norm"]
    )
    assert not any("n =" in cell for cell in table.shown["test accuracy"])
    assert "3 seeds" in table.caption


def test_rows_are_settings_in_the_order_of_the_runs_and_numbers_ascend() -> None:
    runs = [one_run(norm, batch) for norm in ("gn", "bn") for batch in (64, 8, 256)]
    runs += [one_run("gn", 8, **{"model.name": "convnext"})]
    study = in_study(*runs)
    by_batch = cross_table(in_study(*runs[:-1]), ["norm", "batch_size"]).shown
    assert by_batch["norm"].tolist() == ["gn", "bn"]
    assert list(by_batch)[1:] == ["batch size 8", "batch size 64", "batch size 256"]
    three = cross_table(study, ["batch_size", "model", "norm"]).shown
    assert three[["batch size", "model"]].drop_duplicates().shape[0] == len(three)
    with_runs = [row[:2] for row in three.to_numpy().tolist() if set(row[2:]) != {"no run"}]
    assert with_runs == [
        ["8", "normresnet"],
        ["8", "convnext"],
        ["64", "normresnet"],
        ["256", "normresnet"],
    ]


def test_a_single_setting_is_a_column_of_figures() -> None:
    table = cross_table(in_study(one_run("bn", reached=0.5), one_run("gn", reached=0.25)), ["norm"])
    assert list(table.shown) == ["norm", "test accuracy"]
    assert table.shown.to_numpy().tolist() == [["bn", "50.0 %"], ["gn", "25.0 %"]]
    assert "10000 test images leave open up to ± 1.0 points" in table.caption


# What may not be mixed


@pytest.mark.parametrize(
    ("by", "setting", "value"),
    [
        (["norm"], "batch_size", 8),
        (["batch_size"], "norm", "gn"),
        (["norm", "batch_size"], "lr", 0.1),
        (["norm"], "epochs", None),
        (["norm"], "precision", "bf16"),
        (["norm"], "data.limit_train", 1000),
        (["norm"], "norm.num_groups", 4),
        (["norm"], "optim.lr_scaling", "linear"),
        (["norm"], "model", "convnext"),
    ],
)
def test_runs_of_one_cell_that_differ_in_a_setting_are_refused_with_its_name(
    by: list[str], setting: str, value: Any
) -> None:
    of_run: dict[str, dict[str, Any]] = {
        "epochs": {"seconds": (1.0, 2.0)},
        "precision": {"runtime.precision": value},
        "model": {"model.name": value},
    }
    other = one_run(**{"seed": 1, **of_run.get(setting, {setting: value})})
    study = in_study(one_run(**({setting: "none"} if "." in setting else {})), other)
    with pytest.raises(
        NormbenchError,
        match=rf"differ in ({setting}|planned_epochs): add it to --by, or choose with ",
    ):
        cells(study, by, "test_accuracy")
    apart = cells(study, [*by, setting], "test_accuracy")
    assert apart["n"].tolist() == [1, 1]


def test_a_setting_of_runs_that_did_not_finish_is_no_difference() -> None:
    study = in_study(
        one_run(seed=0), one_run(seed=1, state="failed", **{"runtime.precision": "bf16"})
    )
    assert cells(study, ["norm"], "test_accuracy")["n"].tolist() == [1]


def test_an_unknown_setting_and_an_unknown_metric_name_the_nearest() -> None:
    with pytest.raises(
        NormbenchError, match=r"unknown setting 'batchsize': did you mean 'batch_size'\?"
    ):
        cells(grid(), ["norm", "batchsize"], "test_accuracy")
    with pytest.raises(
        NormbenchError, match=r"unknown metric 'test_acuracy': did you mean 'test_accuracy'\?"
    ):
        cells(grid(), ["norm", "batch_size"], "test_acuracy")
    for key in ("norm", "epoch", "lr", "seed"):
        with pytest.raises(NormbenchError, match=f"unknown metric '{key}'"):
            cells(grid(), ["norm", "batch_size"], key)
    with pytest.raises(NormbenchError, match="unknown setting 'seed'"):
        cells(grid(), ["norm", "seed"], "test_accuracy")


def test_a_setting_is_named_once() -> None:
    with pytest.raises(NormbenchError, match="norm"):
        cross_table(in_study(one_run("bn"), one_run("gn")), ["norm", "norm"])


# The learning rate


def rates(**held_out: float) -> list[RunFiles]:
    """bn at three rates: by name of the rate's exponent, accuracy on held-out images; the best
    there is worst here."""
    return [
        one_run(
            "bn",
            64,
            seed,
            reached=1 - value - seed / 100,
            lr=10.0 ** -int(name[1:]),
            held_out=value + seed / 100,
        )
        for name, value in held_out.items()
        for seed in (0, 1)
    ]


def test_a_cell_is_of_the_rate_best_on_held_out_images_and_never_on_the_test_set() -> None:
    runs = rates(e1=0.2, e2=0.8, e3=0.5)
    for order in (runs, runs[::-1]):
        row = cells(in_study(*order), ["norm"], "test_accuracy").iloc[0]
        assert (row["n"], row["test_accuracy"]) == (2, pytest.approx(0.195))
    assert "best on held-out training images" in cross_table(in_study(*runs), ["norm"]).caption
    assert "best on held-out" not in cross_table(in_study(*runs), ["norm", "lr"]).caption


def test_each_norm_and_batch_size_has_its_own_rate() -> None:
    places = itertools.product(("bn", "gn"), (8, 64), (0.1, 0.01))
    best = {("bn", 8): 0.1, ("bn", 64): 0.01, ("gn", 8): 0.01, ("gn", 64): 0.1}
    runs = [
        one_run(n, b, lr=lr, reached=lr, held_out=0.9 if best[n, b] == lr else 0.1)
        for n, b, lr in places
    ]
    found = cells(in_study(*runs), ["norm", "batch_size"], "test_accuracy")
    assert {
        (r["norm"], r["batch_size"]): r["test_accuracy"] for r in found.to_dict("records")
    } == best


def test_rates_that_are_equally_good_are_not_mixed() -> None:
    row = cells(in_study(*rates(e1=0.5, e2=0.5)), ["norm"], "test_accuracy").iloc[0]
    assert row["n"] == 2, "one run per seed"


def test_a_rate_none_of_whose_runs_finished_is_not_chosen() -> None:
    good = rates(e3=0.5)
    bad = [one_run("bn", 64, seed, lr=0.1, state="diverged") for seed in (0, 1)]
    row = cells(in_study(*bad, *good), ["norm"], "test_accuracy").iloc[0]
    assert (row["n"], row["test_accuracy"]) == (2, pytest.approx(0.495))
    lost = in_study(
        *good,
        *(one_run("none", 64, seed, lr=lr, state="diverged") for seed in (0, 1) for lr in (1, 2)),
    )
    assert (
        cells(lost, ["norm"], "test_accuracy").set_index("norm").loc["none", "status"]
        == "4 diverged"
    )


def test_several_rates_without_held_out_images_are_refused() -> None:
    runs = [one_run("bn", lr=lr) for lr in (0.1, 0.01)]
    with pytest.raises(
        NormbenchError,
        match=r"runs of norm bn differ in lr: add it to --by, or choose with --where lr=",
    ):
        cells(in_study(*runs), ["norm"], "test_accuracy")
    assert cells(in_study(*runs), ["norm", "lr"], "test_accuracy")["lr"].tolist() == [0.01, 0.1]


def test_of_accuracies_on_held_out_images_by_rate_the_best_is_marked() -> None:
    table = cross_table(in_study(*rates(e1=0.2, e2=0.8, e3=0.5)), ["norm", "lr"], "val_accuracy")
    marked = [name for name, cell in table.shown.iloc[0].items() if cell.endswith(" (best)")]
    assert marked == ["lr 0.01"]


def test_without_a_choice_runs_stay_as_they_are() -> None:
    one_rate = in_study(*rates(e1=0.5))
    no_images = in_study(one_run(lr=0.1), one_run(lr=0.2))
    for study in (one_rate, no_images):
        assert study.chosen is study
    assert set(in_study(*rates(e1=0.5, e2=0.6)).chosen.runs["lr"]) == {CHOSEN}


# Clocks


def test_clocks_leave_out_runs_that_shared_the_machine() -> None:
    runs = [
        one_run("bn", seed=0, seconds=(1.0, 2.0, 30.0)),
        one_run("bn", seed=1, seconds=99.0, concurrent_runs=2),
    ]
    study = in_study(runs[0], one_run("bn", seed=1, seconds=(99.0, 99.0, 99.0), concurrent_runs=2))
    for metric, value in {"train_seconds": 2.0, "images_per_second": 500.0}.items():
        row = cells(study, ["norm"], metric).iloc[0]
        assert (row["n"], row[metric]) == (1, value)
        assert final(study, metric) == {runs[0].run: value}
    assert cells(study, ["norm"], "test_accuracy")["n"].tolist() == [2]


def test_a_clock_of_runs_that_all_shared_the_machine_was_not_measured() -> None:
    study = in_study(one_run("bn", concurrent_runs=2), one_run("gn"))
    table = cross_table(study, ["norm"], "train_seconds")
    assert table.shown["train seconds"].tolist() == ["10.0 s", "not measured"]


@pytest.mark.parametrize(
    ("metric", "estimate", "text"),
    [
        ("test_accuracy", Estimate(0.923, 0.0049, 3), "92.3 ± 0.5 %"),
        ("test_accuracy", Estimate(0.923, math.nan, 1), "92.3 %"),
        ("test_accuracy", Estimate(0.923, 0.1, 3), "92.3 % (82.3 to 100.0)"),
        ("test_accuracy", Estimate(0.05, 0.1, 3), "5.0 % (0.0 to 15.0)"),
        ("train_loss", Estimate(1.23456, 0.1, 3), "1.235 ± 0.100 nats"),
        ("train_seconds", Estimate(12.34, math.nan, 1), "12.3 s"),
        ("images_per_second", Estimate(1234.5, math.nan, 1), "1234 images/s"),
        ("peak_memory_mib", Estimate(100.2, math.nan, 1), "100 MiB"),
        ("grad_norm", Estimate(0.5, math.nan, 1), "0.500"),
    ],
)
def test_a_figure_has_the_unit_of_its_metric(metric: str, estimate: Estimate, text: str) -> None:
    shown = in_study(one_run()).metric(metric).show(estimate.mean, estimate.half_width)
    assert shown == text
