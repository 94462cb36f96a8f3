"""The source's table: what it claims stays what it claims, and what was measured stands beside it."""

from __future__ import annotations

import math

import pytest
from table_runs import in_frames, one_run

from normbench.analysis.runfiles import RunFiles
from normbench.analysis.stats import mean_interval
from normbench.analysis.tables.source import CLAIMS, relative_time, source_table
from normbench.errors import NormbenchError

BN_SECONDS, LN_SECONDS = (10.0, 20.0, 40.0), (11.0, 26.0, 40.0)


def measured() -> list[RunFiles]:
    """bn and ln at batch 64 with three seeds each, bn diverged at batch 1, ln there with one seed; gn at batch 8."""
    runs = [one_run("bn", 64, seed, 0.7 + seed / 100, seconds=BN_SECONDS[seed]) for seed in (0, 1, 2)]
    runs += [one_run("ln", 64, seed, 0.6 + seed / 100, seconds=LN_SECONDS[seed]) for seed in (2, 0, 1)]
    runs += [one_run("bn", 1, 0, state="diverged", reason="the loss of step 3 is nan"), one_run("ln", 1, 0, 0.55)]
    return [*runs, one_run("gn", 8, 0), one_run("none", 64, 0)]


def test_the_claims_are_those_of_the_source() -> None:
    shown = source_table(in_frames(*measured())).shown
    assert shown[["norm", "accuracy claimed", "time claimed", "batch 1 claimed"]].to_numpy().tolist() == [
        ["bn", "92.3 %", "1.00x", "collapses"],
        ["ln", "90.1 %", "1.10x", "stable"],
        ["in", "88.5 %", "1.20x", "stable"],
        ["gn", "91.7 %", "1.05x", "stable"],
    ]


def test_what_was_measured_stands_beside_with_its_interval_and_number() -> None:
    table = source_table(in_frames(*measured()))
    ratio = mean_interval([1.1, 1.3, 1.0])
    seeds = 100 * mean_interval([0.7, 0.71, 0.72]).half_width
    shown = table.shown.set_index("norm")
    assert shown.loc["bn", "accuracy measured"] == f"71.0 ± {seeds:.1f} % (n = 3)"
    assert shown.loc["bn", "time measured"] == "1.00 ± 0.00x (n = 3)"
    assert shown.loc["ln", "time measured"] == f"1.13 ± {ratio.half_width:.2f}x (n = 3)"
    assert shown.loc["bn", "batch 1 measured"] == "1 diverged"
    assert shown.loc["ln", "batch 1 measured"] == "55.0 % (n = 1)"
    data = table.data.set_index("norm")
    assert data.loc["ln", ["time", "time_half_width", "time_n"]].tolist() == pytest.approx(
        [ratio.mean, ratio.half_width, 3]
    )


def test_what_has_no_run_was_not_measured() -> None:
    shown = source_table(in_frames(*measured())).shown.set_index("norm")
    for norm in ("in", "gn"):
        for what in ("accuracy", "time", "batch 1"):
            assert shown.loc[norm, f"{what} measured"] == "not measured"
    empty = source_table(in_frames(one_run("none"))).shown
    assert (empty[[name for name in empty if name.endswith(" measured")]] == "not measured").all(axis=None)


def test_the_notes_are_of_the_runs_in_the_table_only() -> None:
    lost = [one_run("gn", 8, 1, state="failed", reason="OSError"), one_run("none", 1, 0, state="failed")]
    notes = source_table(in_frames(*measured(), *lost)).notes
    assert notes == ("bn, batch size 1: 1 diverged: the loss of step 3 is nan",)


def test_times_are_paired_over_equal_seeds() -> None:
    runs = [one_run("bn", 64, seed, seconds=10.0 * (seed + 1)) for seed in (0, 1, 2)]
    runs += [one_run("gn", 64, seed, seconds=12.0 * (seed + 1)) for seed in (2, 1, 5)]
    found = relative_time(in_frames(*runs).runs, "gn")
    assert found is not None
    assert (found.mean, found.n) == (pytest.approx(1.2), 2)
    assert found.half_width == pytest.approx(0)


def test_runs_that_shared_the_machine_or_did_not_finish_have_no_time() -> None:
    runs = [one_run("bn", 64, seed, seconds=10.0) for seed in (0, 1, 2)]
    runs += [one_run("gn", 64, 0, seconds=11.0), one_run("gn", 64, 1, seconds=99.0, concurrent_runs=2)]
    runs += [one_run("gn", 64, 2, seconds=77.0, state="interrupted")]
    found = relative_time(in_frames(*runs).runs, "gn")
    assert found is not None
    assert (found.mean, found.n) == (pytest.approx(1.1), 1)
    assert math.isnan(found.half_width)
    shared = in_frames(*(one_run(norm, 64, concurrent_runs=2) for norm in CLAIMS))
    assert relative_time(shared.runs, "gn") is None
    assert set(source_table(shared).shown["time measured"]) == {"not measured"}


def test_times_of_other_batch_sizes_do_not_count() -> None:
    runs = [one_run("bn", 64), one_run("gn", 64, seconds=11.0), one_run("bn", 8), one_run("gn", 8, seconds=99.0)]
    at_64, at_8 = relative_time(in_frames(*runs).runs, "gn"), relative_time(in_frames(*runs).runs, "gn", 8)
    assert at_64 is not None
    assert at_8 is not None
    assert (at_64.mean, at_8.mean) == (pytest.approx(1.1), pytest.approx(9.9))


def test_time_and_accuracy_are_of_the_same_rate() -> None:
    places = [(0.1, 0.9, 20.0), (0.01, 0.2, 10.0)]
    runs = [one_run("bn", 64, lr=lr, held_out=held_out) for lr, held_out, _ in places]
    runs += [one_run("ln", 64, lr=lr, held_out=held_out, seconds=seconds) for lr, held_out, seconds in places]
    for order in (runs, runs[::-1]):
        assert source_table(in_frames(*order)).data.set_index("norm").loc["ln", "time"] == pytest.approx(2.0)


def test_runs_of_a_norm_that_differ_in_more_than_the_seed_are_refused() -> None:
    with pytest.raises(NormbenchError, match=r"runs of norm gn differ in norm\.num_groups"):
        source_table(in_frames(*(one_run("gn", 64, **{"norm.num_groups": count}) for count in (2, 4))))
