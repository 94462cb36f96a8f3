"""The source's table: what it claims stays what it claims, and what was measured stands beside
it."""

from __future__ import annotations

import math

import pytest
from kit.ratios import over_processes
from kit.runs import REGRESSION, Seconds, in_study, one_run, rows_of, timed

from normbench.analysis.loading import with_bench
from normbench.analysis.stats import mean_interval
from normbench.analysis.tables.tutorial import CLAIMS, has_claims, relative_time, source_table
from normbench.errors import NormbenchError
from normbench.runs.files import RunFiles
from normbench.timing.rounds import as_rounds

# Of a step, by round; ln's over bn's: 1.1, 1.3, 1.0, 1.4, 1.2, 0.9, 1.5.
BN = (0.1, 0.2, 0.4, 0.1, 0.2, 0.1, 0.2)
LN = (0.11, 0.26, 0.4, 0.14, 0.24, 0.09, 0.3)


def measured() -> list[RunFiles]:
    """bn and ln at batch 64 with three seeds each, bn diverged at batch 1, ln there with one seed;
    gn at batch 8."""
    runs = [one_run("bn", 64, seed, 0.7 + seed / 100) for seed in (0, 1, 2)]
    runs += [one_run("ln", 64, seed, 0.6 + seed / 100) for seed in (2, 0, 1)]
    runs += [
        one_run("bn", 1, 0, state="diverged", reason="the loss of step 3 is nan"),
        one_run("ln", 1, 0, 0.55),
    ]
    return [*runs, one_run("gn", 8, 0), one_run("none", 64, 0)]


def test_the_claims_are_those_of_the_source() -> None:
    shown = source_table(in_study(*measured())).shown
    assert shown[
        ["norm", "accuracy claimed", "time claimed", "batch 1 claimed"]
    ].to_numpy().tolist() == [
        ["bn", "92.3 %", "1.00x", "collapses"],
        ["ln", "90.1 %", "1.10x", "stable"],
        ["in", "88.5 %", "1.20x", "stable"],
        ["gn", "91.7 %", "1.05x", "stable"],
    ]


def test_what_was_measured_stands_beside_with_its_interval_and_number() -> None:
    study = in_study(*measured())
    table = source_table(timed(study, {("bn", 64): BN, ("ln", 64): LN}, processes=5))
    seeds = 100 * mean_interval([0.7, 0.71, 0.72]).half_width
    shown = table.shown.set_index("norm")
    assert shown.loc["bn", "accuracy measured"] == f"71.0 ± {seeds:.1f} % (n = 3)"
    assert shown.loc["bn", "time measured"] == "1.00x"
    # Processes 1 and 2 had two rounds each.
    value, low, high = over_processes([[1.1, 0.9], [1.3, 1.5], [1.0], [1.4], [1.2]])
    assert shown.loc["ln", "time measured"] == f"{value:.2f}x ({low:.2f} to {high:.2f})"
    assert shown.loc["bn", "batch 1 measured"] == "1 diverged"
    assert shown.loc["ln", "batch 1 measured"] == "55.0 % (n = 1)"
    data = table.data.set_index("norm")
    columns = ["time", "time_low", "time_high", "time_n", "time_processes"]
    assert data.loc["ln", columns].tolist() == pytest.approx([value, low, high, 7, 5])
    assert "timed in turns, 7 rounds, on another processor" in table.caption


def test_what_has_no_run_was_not_measured() -> None:
    shown = source_table(
        timed(in_study(*measured()), {"bn": BN, "ln": LN, "gn": LN})
    ).shown.set_index("norm")
    for norm in ("in", "gn"):  # gn was timed where it ran, at batch 8
        for what in ("accuracy", "time", "batch 1"):
            assert shown.loc[norm, f"{what} measured"] == "not measured"
    empty = source_table(in_study(one_run("none"))).shown
    assert (empty[[name for name in empty if name.endswith(" measured")]] == "not measured").all(
        axis=None
    )


def test_the_notes_are_of_the_runs_in_the_table_only() -> None:
    lost = [
        one_run("gn", 8, 1, state="failed", reason="OSError"),
        one_run("none", 1, 0, state="failed"),
    ]
    notes = source_table(in_study(*measured(), *lost)).notes
    assert notes == ("bn, batch size 1: 1 diverged: the loss of step 3 is nan",)


def test_times_are_paired_over_equal_rounds_of_the_same_race() -> None:
    study = in_study(one_run("bn", 64), one_run("gn", 64))
    bn, gn = study.configs.values()
    rounds = [
        *rows_of(bn, [0.2, 0.3, 9.0], "a"),
        *rows_of(gn, [0.24, 0.39], "a"),
    ]  # cut before gn's last turn
    rounds += [*rows_of(bn, [9.0], "b"), *rows_of(gn, [9.0, 0.1, 0.1], "c")]
    found = relative_time(with_bench(study, as_rounds(rounds)), "gn")
    assert found is not None
    assert (found.value, found.n, found.processes) == (pytest.approx(1.25), 2, 1)
    assert math.isnan(found.low)
    assert math.isnan(found.high)


def test_how_runs_ended_and_what_their_own_epochs_took_is_nothing_to_the_time_of_a_step() -> None:
    def ratio(*runs: RunFiles) -> tuple[float, int]:
        found = relative_time(timed(in_study(*runs), {"bn": [0.1, 0.1], "gn": [0.11, 0.11]}), "gn")
        assert found is not None
        return found.value, found.n

    alone = ratio(one_run("bn", 64), one_run("gn", 64))
    assert alone == (pytest.approx(1.1), 2)
    assert (
        ratio(one_run("bn", 64, seconds=1.0), one_run("gn", 64, seconds=99.0, concurrent_runs=2))
        == alone
    )
    assert (
        ratio(one_run("bn", 64), one_run("gn", 64, state="interrupted"), one_run("gn", 64, 1))
        == alone
    )
    untimed = in_study(*(one_run(norm, 64) for norm in CLAIMS))
    assert relative_time(untimed, "gn") is None
    table = source_table(untimed)
    assert set(table.shown["time measured"]) == {"not measured"}
    assert "Times are not measured here" in table.caption


def test_times_of_other_batch_sizes_do_not_count() -> None:
    runs = [one_run("bn", 64), one_run("gn", 64), one_run("bn", 8), one_run("gn", 8)]
    seconds: Seconds = {"bn": [0.1], ("gn", 64): [0.11], ("gn", 8): [0.99]}
    study = timed(in_study(*runs), seconds)
    at_64, at_8 = relative_time(study, "gn"), relative_time(study, "gn", 8)
    assert at_64 is not None
    assert at_8 is not None
    assert (at_64.value, at_8.value) == (pytest.approx(1.1), pytest.approx(9.9))


def test_a_task_of_another_metric_has_no_claims_to_compare_with() -> None:
    assert has_claims(in_study(*measured()))
    assert not has_claims(in_study(one_run("bn", task=REGRESSION)))
    assert not has_claims(in_study(one_run("gn", 8)))


def test_runs_of_a_norm_that_differ_in_more_than_the_seed_are_refused() -> None:
    with pytest.raises(NormbenchError, match=r"runs of norm gn differ in norm\.num_groups"):
        source_table(
            in_study(*(one_run("gn", 64, **{"norm.num_groups": count}) for count in (2, 4)))
        )
