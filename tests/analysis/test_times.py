"""Which rounds of a bench are the cost of which run, and the file that they are kept in."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kit.runs import (
    NUM_TRAIN,
    TIMED_ON,
    in_study,
    one_run,
    rounds_of,
    rows_of,
    some_seconds,
    timed,
)

from normbench.analysis.captions import machine, time_note
from normbench.analysis.loading import benches, load_study, with_bench
from normbench.analysis.study import Study
from normbench.analysis.study_files import write_study
from normbench.analysis.tables.comparison import comparison_table
from normbench.analysis.tables.rendering import to_markdown
from normbench.analysis.tables.step_costs import costs_table
from normbench.analysis.times import Clock
from normbench.checksums import SUMS
from normbench.config.schema import flatten
from normbench.errors import NormbenchError, RunFailure
from normbench.timing.rounds import as_rounds, read_bench, setting_columns, write_rounds

CONFIG = flatten(one_run("gn", **{"norm.num_groups": 32}).config)


def of_one_run(**settings: Any) -> Study:
    """A run of gn with these settings."""
    return in_study(one_run("gn", run="run", **{"norm.num_groups": 32, **settings}))


def by_place(clock: Clock) -> dict[tuple[str, int], float]:
    """The seconds by race and round."""
    return {(race, number): seconds for (race, number, _), seconds in clock.items()}


# Which run


def test_a_bench_is_of_the_runs_with_its_cost_id_and_of_no_others() -> None:
    runs = [one_run("gn", 64, seed) for seed in (0, 1)]
    runs += [one_run("bn", 64), one_run("gn", 8), one_run("gn", state="refused")]
    rounds = as_rounds(rows_of(flatten(runs[0].config), [0.1]))
    assert list(with_bench(in_study(*runs), rounds).clocks) == [run.run for run in runs[:2]]
    # The settings of a row are only shown: the id alone says whose cost it is.
    renamed = with_bench(in_study(*runs), rounds.assign(**{"norm.name": "in"}))
    assert list(renamed.clocks) == [run.run for run in runs[:2]]


# How long


@settings(max_examples=15)
@given(
    batch_size=st.integers(1, 1000),
    accumulate=st.integers(1, 4),
    limit=st.none() | st.integers(10, 10_000),
    held_out=st.floats(0, 0.9),
    step=st.floats(1e-6, 100),
)
def test_an_epoch_is_a_step_for_every_batch_of_the_images_that_train(
    batch_size: int, accumulate: int, limit: int | None, held_out: float, step: float
) -> None:
    data = {"data.limit_train": limit, "data.val_fraction": held_out}
    study = of_one_run(batch_size=batch_size, **data, **{"train.accumulate": accumulate})
    rows = rows_of(study.configs["run"], [step, 2 * step], "race")
    study = with_bench(study, as_rounds(rows))
    there = limit or NUM_TRAIN
    num_steps = (there - round(there * held_out)) / batch_size / accumulate
    assert by_place(study.clocks["run"]) == pytest.approx(
        {("race", 0): num_steps * step, ("race", 1): num_steps * 2 * step}
    )


def test_every_seed_has_the_time_of_its_settings_and_each_race_counts() -> None:
    study = in_study(*(one_run(norm, 64, seed) for norm in ("bn", "gn") for seed in (0, 1)))
    bn, _, gn, _ = study.configs.values()
    rows = [*rows_of(bn, [1.0, 2.0], "a"), *rows_of(gn, [3.0], "a"), *rows_of(bn, [4.0], "b")]
    clocks = with_bench(study, as_rounds(rows)).clocks
    epoch = NUM_TRAIN / 64
    of_bn = {("a", 0): epoch, ("a", 1): 2 * epoch, ("b", 0): 4 * epoch}
    assert [*map(by_place, clocks.values())] == [
        of_bn,
        of_bn,
        {("a", 0): 3 * epoch},
        {("a", 0): 3 * epoch},
    ]
    assert list(clocks) == list(study.configs)


def test_a_bench_of_nothing_times_nothing() -> None:
    rounds = as_rounds(rows_of(CONFIG, [0.1])).iloc[:0]
    study = with_bench(of_one_run(), rounds)
    assert study.clocks == {}
    assert "not measured" in time_note(study)


def test_the_note_says_the_rounds_and_who_did_them() -> None:
    study = in_study(
        *(one_run(norm, batch_size) for norm in ("bn", "gn") for batch_size in (8, 64))
    )
    said = time_note(timed(study, some_seconds("bn", "gn", rounds=11)))
    assert (
        "11 rounds, on another processor, threads: 1, torch 2.16.0, commit fedcba987654. " in said
    )
    assert "of one process, without an interval, which takes 5 processes, since they differ" in said
    rounds = rounds_of(study, some_seconds("bn", "gn", rounds=11))
    twice = with_bench(
        study, pd.concat([rounds, rounds.assign(race="another day")], ignore_index=True)
    )
    assert "of 2 processes, " in time_note(twice)
    assert "22 rounds" in time_note(twice), "of both races"


def test_a_norm_timed_in_other_settings_than_bn_is_not_related_to_it_and_the_caption_says_so() -> (
    None
):
    """As runtime=fast may leave it, which keeps some norms contiguous."""
    other = {"runtime.channels_last": True}
    study = in_study(
        one_run("bn"), one_run("gn"), one_run("in", **other), one_run("ln", 8, **other)
    )
    table = comparison_table(timed(study, some_seconds("bn", "gn", "in", "ln"), processes=5))
    related = dict(zip(table.shown["norm"], table.shown["relative to bn"], strict=True))
    assert related["in"] == related["ln"] == "not measured"
    assert "x (" in related["gn"]
    assert (table.shown["time per epoch"] != "not measured").all()
    assert "In other settings than bn, so not related to it: in at batch 64. " in table.caption
    alike = timed(
        in_study(one_run("bn", **other), one_run("in", **other)), some_seconds("bn", "in"), 5
    )
    assert "x (" in comparison_table(alike).shown["relative to bn"].iloc[1]
    assert "In other settings" not in comparison_table(alike).caption


@pytest.mark.parametrize("other", [{"device": "a slower one"}, {"threads": 8}, {"torch": "2.17.0"}])
def test_seconds_of_several_machines_are_no_median(other: dict[str, object]) -> None:
    rows = [*rows_of(CONFIG, [0.1], "a"), *rows_of(CONFIG, [1.0], "b", **other)]
    with pytest.raises(
        NormbenchError,
        match=r"gn at batch 64 was timed on several machines .*: say by --bench which",
    ):
        with_bench(of_one_run(), as_rounds(rows))
    elsewhere = rows_of(CONFIG | {"batch_size": 8}, [1.0], "b", **other)
    assert (
        "run"
        in with_bench(of_one_run(), as_rounds([*rows_of(CONFIG, [0.1], "a"), *elsewhere])).clocks
    )


@pytest.mark.parametrize(
    ("commit", "dirty", "said"),
    [
        ("fedcba9876543210", False, "commit fedcba987654"),
        ("fedcba9876543210", True, "commit fedcba987654+"),
        (None, None, "commit of an installed package"),
    ],
)
def test_a_bench_says_the_commit_of_its_code_before_and_after_it_was_written(
    tmp_path: Path, commit: str | None, dirty: bool | None, said: str
) -> None:
    rounds = as_rounds(rows_of(CONFIG, [0.1], commit=commit, dirty=dirty))
    write_rounds(rounds, tmp_path / "bench.csv")
    assert machine(rounds).endswith(f", torch 2.16.0, {said}")
    assert machine(read_bench(tmp_path)) == machine(rounds)


# The file

OPTIONS = st.dictionaries(
    st.sampled_from(["norm.num_groups", "norm.eps", "norm.momentum", "norm.mode", "norm.axes"]),
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.sampled_from(["nan", "None", "a, b", 'say "x"']),
)
SECONDS = st.floats(1e-9, 1e9)


@settings(max_examples=10)
@given(
    options=st.lists(OPTIONS, min_size=1, max_size=4),
    seconds=st.lists(SECONDS, min_size=1, max_size=3),
)
def test_rounds_that_were_written_and_read_say_the_same(
    options: list[dict[str, Any]], seconds: list[float], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """To the last bit; norms have options of their own, none, or any."""
    folder = tmp_path_factory.mktemp("speed") / "new"
    configs = [
        CONFIG | {"norm.name": f"norm{index}"} | found for index, found in enumerate(options)
    ]
    rounds = as_rounds([row for config in configs for row in rows_of(config, seconds, dirty=True)])
    write_rounds(rounds, folder / "bench.csv")
    for place in (folder, folder / "bench.csv"):
        again = read_bench(place)
        assert list(again) == list(rounds)
        exact = [
            *setting_columns(rounds),
            "cost_id",
            "race",
            "round",
            "seconds",
            "device",
            "torch",
            "commit",
        ]
        assert again[exact].to_dict("list") == rounds[exact].to_dict("list")
        assert to_markdown(costs_table(again)) == to_markdown(costs_table(rounds))


def test_a_setting_that_a_norm_lacks_is_empty_and_one_that_is_none_says_so() -> None:
    rows = [
        *rows_of(CONFIG, [0.1]),
        *rows_of(CONFIG | {"norm.name": "x", "norm.momentum": None}, [0.1]),
    ]
    assert as_rounds(rows)["norm.momentum"].tolist() == ["", "None"]


@pytest.fixture
def bench_csv(tmp_path: Path) -> Path:
    """Two rounds of two norms."""
    rows = [*rows_of(CONFIG, [0.125, 0.25]), *rows_of(CONFIG | {"norm.name": "bn"}, [0.0625, 0.12])]
    write_rounds(as_rounds(rows), tmp_path / "bench.csv")
    return tmp_path / "bench.csv"


def refusal(path: Path) -> str:
    """What is said of a bench.csv that cannot be read, which is one line that names it."""
    with pytest.raises(RunFailure) as error:
        read_bench(path.parent)
    assert str(error.value).startswith(f"'{path}' cannot be read: ")
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: "",
        lambda text: "\n",
        lambda text: text.replace("0.125", "a while"),
        lambda text: text.replace("\n", ",1\n").replace(",1\n", "\n", 1),
        lambda text: text[:200] + '"' + text[200:],
        lambda text: f"{text}1,2,3,{','.join('4' * 99)}\n",
        lambda text: text.replace("0.125", "0"),
        lambda text: text.replace("0.125", "-0.125"),
        lambda text: text.replace("0.125", "inf"),
        lambda text: text.replace("0.125", ""),
        lambda text: text.rpartition(",")[0] + "\n",
        lambda text: text + text.splitlines()[-1] + "\n",
    ],
    ids=[
        *("empty", "an empty line", "a word", "longer rows", "an open quote", "a long last row"),
        *(
            "no time at all",
            "less than none",
            "forever",
            "no figure",
            "a cut row that ends in a newline",
            "a row twice",
        ),
    ],
)
def test_a_damaged_file_is_named_in_one_line(bench_csv: Path, spoil: Callable[[str], str]) -> None:
    bench_csv.write_text(spoil(bench_csv.read_text()))
    refusal(bench_csv)


def test_bytes_that_are_no_text_are_named_in_one_line(bench_csv: Path) -> None:
    bench_csv.write_bytes(b"\x89PNG\r\n\x1a\n\0\0\xff")
    refusal(bench_csv)


def test_a_file_that_is_cut_anywhere_in_its_last_row_is_refused(bench_csv: Path) -> None:
    """A number that has lost its last digits would be read as another one."""
    text = bench_csv.read_text()
    length = len(text.splitlines()[-1])
    for lost in range(1, length + 1):
        bench_csv.write_text(text[:-lost])
        refusal(bench_csv)


@pytest.mark.parametrize(
    "name",
    [
        "cost_id",
        "race",
        "round",
        "image",
        "device",
        "threads",
        "torch",
        "norm.name",
        "batch_size",
        "seconds",
        "peak_bytes",
        "train.accumulate",
    ],
)
def test_a_column_that_is_missing_is_named(bench_csv: Path, name: str) -> None:
    pd.read_csv(bench_csv).drop(columns=name).to_csv(bench_csv, index=False)
    assert refusal(bench_csv).endswith(f"no column {name}")


def test_no_file_is_a_mistake_and_a_folder_in_its_place_a_failure(tmp_path: Path) -> None:
    with pytest.raises(
        NormbenchError, match=r"^no bench\.csv in .*: `normbench bench -o .*` writes it$"
    ) as error:
        read_bench(tmp_path)
    assert error.value.exit_code == 2
    (tmp_path / "bench.csv").mkdir()
    refusal(tmp_path / "bench.csv")


# Where it is looked for


def runs_and_benches(tmp_path: Path) -> tuple[Study, Path, Path]:
    """bn and gn at batch 64 and bn at batch 8; a bench of the first two in one folder, of the last
    in another."""
    study = in_study(one_run("bn"), one_run("gn", **{"norm.num_groups": 2}), one_run("bn", 8))
    bn, gn, bn_at_8 = study.configs.values()
    write_rounds(
        as_rounds([*rows_of(bn, [0.1]), *rows_of(gn, [0.2])]), tmp_path / "a" / "bench.csv"
    )
    write_rounds(as_rounds(rows_of(bn_at_8, [0.3])), tmp_path / "b" / "bench.csv")
    return study, tmp_path / "a", tmp_path / "b"


def test_times_are_taken_from_the_folders_of_the_runs_as_far_as_there_are_any(
    tmp_path: Path,
) -> None:
    study, a, b = runs_and_benches(tmp_path)
    bn, gn, bn_at_8 = study.configs

    def timed_by(*paths: Path) -> set[str]:
        return {*with_bench(study, benches(paths)).clocks}

    assert timed_by(a) == {bn, gn}
    assert timed_by(a, b) == timed_by(b, a) == {bn, gn, bn_at_8}
    files = b / "runs.csv", tmp_path / "nowhere", a / "bench.csv"
    assert timed_by(*files) == {bn, gn, bn_at_8}
    assert timed_by(tmp_path) == set()
    (a / "bench.csv").write_text("race\n")
    with pytest.raises(RunFailure, match="cannot be read: no column"):
        benches([a])


def test_a_bench_that_lies_in_two_places_counts_once(tmp_path: Path) -> None:
    study, a, _ = runs_and_benches(tmp_path)
    write_rounds(read_bench(a), tmp_path / "copy" / "bench.csv")
    once = with_bench(study, benches([a]))
    twice = with_bench(study, benches([a, tmp_path / "copy", a]))
    assert twice.clocks == once.clocks


def test_a_study_keeps_its_rounds_and_another_bench_goes_before_them(tmp_path: Path) -> None:
    study = timed(in_study(one_run("bn"), one_run("gn", 8)), {"bn": [0.1] * 7, "gn": [0.2] * 7})
    write_study(study, tmp_path / "study")
    bn, gn = study.clocks
    for path in (tmp_path / "study", tmp_path / "study" / "runs.csv"):
        assert load_study([path]).clocks == study.clocks
        assert load_study([path], ["norm=gn"]).clocks == {gn: study.clocks[gn]}
    write_rounds(rounds_of(study, {"bn": [0.5]}), tmp_path / "other" / "bench.csv")
    assert load_study([tmp_path / "study"], bench=tmp_path / "other").clocks[bn] != study.clocks[bn]
    assert list(load_study([tmp_path / "study"], bench=tmp_path / "other").clocks) == [bn]
    with pytest.raises(NormbenchError, match=r"^no bench\.csv in .*nowhere: "):
        load_study([tmp_path / "study"], bench=tmp_path / "nowhere")
    write_study(in_study(one_run("bn")), tmp_path / "untimed")
    assert not (tmp_path / "untimed" / "bench.csv").exists()
    assert load_study([tmp_path / "untimed"]).clocks == {}


def test_runs_without_their_configurations_have_no_times(tmp_path: Path) -> None:
    write_study(timed(in_study(one_run("bn")), {"bn": [0.1]}), tmp_path)
    for name in ("configs.json", SUMS):
        (tmp_path / name).unlink()
    study = load_study([tmp_path])
    assert study.clocks == {}
    assert math.isnan(comparison_table(study).data["seconds"].iloc[0])


def test_the_machine_of_a_bench_is_not_taken_for_that_of_the_runs() -> None:
    caption = comparison_table(timed(in_study(one_run("bn")), {"bn": [0.1]})).caption
    assert f"on {TIMED_ON['device']}, threads: 1, torch 2.16.0" in caption
    assert "a processor, threads: 2, fp32, torch 2.15.0" in caption
