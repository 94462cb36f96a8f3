"""Claimed, published, measured: each stays what it is, beside the others and what differs."""

from __future__ import annotations

import csv
import io
import math
from dataclasses import replace

import pandas as pd
import pytest
from kit.runs import REGRESSION, Seconds, in_study, one_run, rows_of, timed

from normbench.analysis.loading import with_bench
from normbench.analysis.published import published
from normbench.analysis.stats import mean_interval
from normbench.analysis.study import Study
from normbench.analysis.tables.pairs import every_pair
from normbench.analysis.tables.rendering import to_csv
from normbench.analysis.tables.source import has_sources, source_table
from normbench.analysis.tables.tutorial import CLAIMS, has_claims, relative_time
from normbench.errors import NormbenchError
from normbench.runs.files import RunFiles
from normbench.timing.rounds import as_rounds

NETWORK = "normresnet, not normresnet, widths 64, 128, 256, 512"


def measured() -> list[RunFiles]:
    """bn and ln at batch 64 with three seeds each, bn diverged at batch 1, ln there with one seed;
    gn at batch 8; none at 64, of which nobody tells anything."""
    runs = [one_run("bn", 64, seed, 0.7 + seed / 100) for seed in (0, 1, 2)]
    runs += [one_run("ln", 64, seed, 0.6 + seed / 100) for seed in (2, 0, 1)]
    runs += [
        one_run("bn", 1, 0, state="diverged", reason="the loss of step 3 is nan"),
        one_run("ln", 1, 0, 0.55),
    ]
    return [*runs, one_run("gn", 8, 0), one_run("none", 64, 0)]


def row(study: Study, norm: str, batch_size: int, source: str) -> dict[str, object]:
    """The readable row of a source, and its figures under the names of their columns."""
    table = source_table(study)
    data = table.data
    is_it = (data["norm"] == norm) & (data["batch_size"] == batch_size)
    (place,) = data.index[is_it & (data["source"] == source)]
    return {**data.loc[place].to_dict(), **table.shown.loc[place].to_dict()}


def test_the_claims_are_those_of_the_tutorial() -> None:
    runs = [one_run(norm, size) for norm in CLAIMS for size in (1, 64)]
    shown = source_table(in_study(*runs)).shown
    claimed = shown.loc[shown["claimed"] != "", ["norm", "batch size", "claimed"]]
    assert claimed.to_numpy().tolist() == [
        ["bn", "1", "collapses"],
        ["ln", "1", "stable"],
        ["in", "1", "stable"],
        ["gn", "1", "stable"],
        ["bn", "64", "92.3 %"],
        ["ln", "64", "90.1 %"],
        ["in", "64", "88.5 %"],
        ["gn", "64", "91.7 %"],
    ]


def test_what_was_measured_stands_beside_with_its_interval_and_number() -> None:
    study = in_study(*measured())
    seeds = 100 * mean_interval([0.7, 0.71, 0.72]).half_width
    for source in ("tutorial", "CharlesJWC"):
        assert row(study, "bn", 64, source)["measured here"] == f"71.0 ± {seeds:.1f} % (n = 3)"
    assert row(study, "bn", 1, "tutorial")["measured here"] == "1 diverged"
    assert row(study, "ln", 1, "tutorial")["measured here"] == "55.0 % (n = 1)"
    places = source_table(study).data[["norm", "batch_size"]]
    assert {*places.itertuples(index=False, name=None)} == {
        ("bn", 64),
        ("ln", 64),
        ("bn", 1),
        ("ln", 1),
        ("gn", 8),
    }


def test_a_published_figure_has_its_spread_number_and_source_and_a_line_of_its_own_below() -> None:
    study = in_study(one_run("gn", 8), one_run("in_affine", 8))
    found = row(study, "gn", 8, "BeFranke")
    assert found["published"] == "85.8 % (sd 0.4, n = 5, BeFranke)"
    assert (found["claimed"], found["claimed_in_words"]) == ("", "")
    assert row(study, "gn", 8, "CharlesJWC")["published"] == "91.2 % (n = 1, CharlesJWC)"
    # What this source calls LN is instance normalization with affine.
    assert row(study, "in_affine", 8, "CharlesJWC")["published"] == "90.6 % (n = 1, CharlesJWC)"
    here, first, second = source_table(study).notes
    assert here.startswith("here: normresnet; 1 epoch; adam; rate 0.001; schedule constant; ")
    assert "groups" not in first  # of its gn, not of the source
    assert first.startswith("BeFranke/GroupNorm at 954f6e7, computed from its committed results: ")
    assert "; sgd, momentum 0.9; rate 0.1 * batch / 32; " in first
    assert " Training images are never shuffled. " in first
    assert second.startswith("CharlesJWC/GroupNorm-pytorch at 03b0db3, read off a figure")
    assert second.endswith(" Not known of it: which epoch")


def test_where_the_spread_or_number_is_not_known_nothing_is_made_up() -> None:
    found = row(in_study(one_run("bn", 128)), "bn", 128, "hyeonseob-nam")
    assert found["published"] == "93.7 % (sd 0.2, n = unknown, hyeonseob-nam)"


def test_the_csv_has_the_figures_as_fractions_unrounded() -> None:
    text = to_csv(source_table(in_study(one_run("bn", 32, reached=0.75), one_run("bn", 64))))
    first, *_ = csv.DictReader(io.StringIO(text))
    figures = {name: float(first[name]) for name in ("published", "published_sd", "published_n")}
    assert figures == pytest.approx(
        {"published": 0.8640, "published_sd": 0.0034, "published_n": 5}, rel=1e-12
    )
    assert (first["test_accuracy"], first["n"], first["claimed"]) == ("0.75", "1", "")


def test_rows_are_in_the_order_of_batch_sizes_claims_sources_and_the_runs_norms() -> None:
    runs = [one_run(norm, size) for norm in ("gn", "bn") for size in (64, 8)]
    data = source_table(in_study(*runs)).data
    assert data[["batch_size", "source", "norm"]].to_numpy().tolist() == [
        [size, source, norm]
        for size, source in (
            (8, "BeFranke"),
            (8, "CharlesJWC"),
            (64, "tutorial"),
            (64, "CharlesJWC"),
        )
        for norm in ("gn", "bn")
    ]


def test_what_differs_is_of_the_runs_that_are_shown_and_of_the_source() -> None:
    five = {"seconds": (1.0,) * 5}
    study = in_study(
        one_run("bn", lr=0.01, state="diverged", **five),
        one_run("bn", 64, 1, lr=0.01, **five),
        one_run("gn", lr=0.001, **five),
    )
    assert row(study, "bn", 64, "tutorial")["differs"] == (f"{NETWORK}; JPEG copy; also rate")
    assert row(study, "gn", 64, "tutorial")["differs"] == f"{NETWORK}; JPEG copy"
    there = "normresnet, not ResNet-56; 5 epochs, not 100; JPEG copy; also optimizer, rate, "
    for norm in ("bn", "gn"):
        groups = "schedule, weight decay, augmentation"
        assert row(study, norm, 64, "CharlesJWC")["differs"] == there + groups


def test_where_rates_were_chosen_the_measured_figure_and_what_differs_are_of_the_chosen() -> None:
    wide = {"model.widths": [64, 128, 256, 512], "data.val_fraction": 0.1}
    wide["seconds"] = (1.0,) * 5
    study = in_study(
        one_run("bn", lr=0.001, reached=0.9, held_out=0.5, **wide),
        one_run("bn", lr=0.01, reached=0.8, held_out=0.6, **wide),
    )
    table = source_table(study)
    found = row(study, "bn", 64, "tutorial")
    assert found["measured here"] == "80.0 % (n = 1)"
    assert found["differs"] == ("rate 0.01, not 0.001; 45,000 of 50,000 training images; JPEG copy")
    assert "Learning rates are those that were best on held-out training images" in table.caption


def test_runs_that_did_not_begin_or_have_no_settings_have_no_known_protocol() -> None:
    refused = one_run("in", 64, state="refused", reason="a 1x1 map")
    study = in_study(one_run("bn"), refused)
    found = row(study, "in", 64, "tutorial")
    assert (found["measured here"], found["differs"]) == ("1 refused", "not known")
    assert not has_sources(in_study(refused))
    beside = in_study(refused, one_run("in", 64, 1))
    assert row(beside, "in", 64, "tutorial")["differs"].endswith("JPEG copy")
    bare = replace(study, configs={})
    assert {*source_table(bare).data["differs"]} == {"not known"}


@pytest.mark.parametrize("data", ["cifar10", "cifar10-jpeg"])
def test_only_runs_on_cifar10_stand_beside_figures_of_it(data: str) -> None:
    study = in_study(one_run("bn"))
    on_it = replace(study, runs=study.runs.assign(data=data))
    assert has_sources(on_it)
    assert has_claims(on_it)
    both = ["pets", data]
    mixed = in_study(one_run("bn"), one_run("bn", 64, 1, 0.75))
    mixed = replace(mixed, runs=mixed.runs.assign(data=both))
    assert row(mixed, "bn", 64, "tutorial")["measured here"] == "75.0 % (n = 1)"
    off_it = replace(study, runs=study.runs.assign(data="pets"))
    assert not has_sources(off_it)
    assert not has_claims(off_it)
    with pytest.raises(NormbenchError, match="nothing is claimed or published for these runs"):
        source_table(off_it)


def test_a_task_of_another_metric_has_nothing_to_compare_with() -> None:
    study = in_study(one_run("bn", task=REGRESSION))
    assert not has_sources(study)
    assert not has_claims(study)
    assert not has_claims(in_study(one_run("gn", 8)))
    assert not has_sources(in_study(one_run("gn", 3)))


def test_no_published_figure_changes_what_is_measured_or_decided(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    runs = [one_run(norm, 8, seed, 0.5 + seed / 100) for norm in ("bn", "gn") for seed in (0, 1)]
    study = in_study(*runs)
    before = source_table(study).data, [pair.adjusted for pair in every_pair(study)]
    halved = []
    for one in published():
        figure = one.figure.model_copy(update={"percent": one.figure.percent / 2})
        halved.append(replace(one, figure=figure))
    monkeypatch.setattr("normbench.analysis.tables.source.published", lambda: halved)
    after = source_table(study).data
    own = ["test_accuracy", "half_width", "n", "test_set_half_width"]
    pd.testing.assert_frame_equal(after[own], before[0][own])
    assert (after["published"] * 2).tolist() == pytest.approx(before[0]["published"].tolist())
    assert [pair.adjusted for pair in every_pair(study)] == before[1]


def test_the_notes_are_of_the_runs_in_the_table_only() -> None:
    lost = [
        one_run("gn", 3, 1, state="failed", reason="OSError"),
        one_run("none", 1, 0, state="failed"),
    ]
    notes = source_table(in_study(*measured(), *lost)).notes
    assert notes[0] == "bn, batch size 1: 1 diverged: the loss of step 3 is nan"
    assert [note.partition(":")[0].partition("/")[0] for note in notes[1:]] == [
        "here",
        "tutorial, which does not say how its figures were obtained",
        "BeFranke",
        "CharlesJWC",
    ]


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
    assert (found.value, found.n) == (pytest.approx(1.25), 2)
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


def test_times_of_other_batch_sizes_do_not_count() -> None:
    runs = [one_run("bn", 64), one_run("gn", 64), one_run("bn", 8), one_run("gn", 8)]
    seconds: Seconds = {"bn": [0.1], ("gn", 64): [0.11], ("gn", 8): [0.99]}
    study = timed(in_study(*runs), seconds)
    at_64, at_8 = relative_time(study, "gn"), relative_time(study, "gn", 8)
    assert at_64 is not None
    assert at_8 is not None
    assert (at_64.value, at_8.value) == (pytest.approx(1.1), pytest.approx(9.9))


def test_runs_of_a_norm_that_differ_in_more_than_the_seed_are_refused() -> None:
    with pytest.raises(NormbenchError, match=r"norm gn, batch size 64 differ in norm\.num_groups"):
        source_table(
            in_study(*(one_run("gn", 64, **{"norm.num_groups": count}) for count in (2, 4)))
        )


def test_no_accuracy_of_convolutional_networks_stands_beside_others() -> None:
    for model, is_shown in (("normresnet", True), ("mine.py:Net", True), ("lstm", False)):
        study = in_study(*(one_run(norm, 64, **{"model.name": model}) for norm in ("bn", "ln")))
        assert has_sources(study) == is_shown, model
