"""Which rounds of a bench are the cost of which run, and the file that they are kept in."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kit.runs import MACHINE, NUM_TRAIN, in_study, one_run, rounds_of, rows_of, some_seconds, timed

from normbench.analysis.loading import load_study, write_study
from normbench.analysis.study import Clock, Study
from normbench.analysis.tables.comparison import comparison_table
from normbench.analysis.tables.costs import costs_table
from normbench.analysis.tables.rendering import to_markdown
from normbench.analysis.times import time_note, with_bench, with_times
from normbench.config.compose import compose
from normbench.config.schema import flatten
from normbench.errors import NormbenchError, RunFailure
from normbench.timing.rounds import (
    as_rounds,
    basis_of,
    columns_of_settings,
    read_bench,
    write_rounds,
)

CONFIG = flatten(
    compose([], {"norm": "gn", "data": "synthetic", "runtime.device": "cpu"}).identity()
)
ENVIRONMENT = {"data": {"name": "synthetic", "num_train": 10_000, "image_shape": [3, 32, 32]}}
COSTLY = {
    "norm.name": "ln",
    "norm.eps": 0.001,
    "norm.num_groups": 16,
    "model.name": "another",
    "model.widths": [64, 128, 256],
    "data.augment": "standard",
    "optim.name": "sgd",
    "train.accumulate": 2,
    "runtime.device": "cuda",
    "runtime.precision": "bf16",
    "runtime.channels_last": True,
    "runtime.compile": True,
    "runtime.cuda_graphs": True,
    "runtime.onednn": False,
    "batch_size": 65,
}
FREE = {
    "seed": 7,
    "epochs": 99,
    "optim.lr": 0.5,
    "optim.schedule": "cosine",
    "optim.betas": [0.5, 0.9],
    "train.label_smoothing": 0.1,
    "train.max_steps": 10,
    "train.log_every": 1,
    "data.name": "image_folder",
    "data.content": "sha256-0",
    "data.mean": [0.1, 0.2, 0.3],
    "data.val_fraction": 0.25,
    "data.limit_train": 640,
    "data.limit_test": 10,
}


def of_one_run(config: dict[str, Any], environment: dict[str, Any] = ENVIRONMENT) -> Study:
    """A run of this configuration, by its dotted keys."""
    runs = pd.DataFrame(
        {"run": ["run"], "norm": config["norm.name"], "batch_size": config["batch_size"]}
    )
    empty = pd.DataFrame(columns=["run"])
    return Study(runs, empty, empty, {"run": environment}, {"run": config})


def is_timed(
    config: dict[str, Any], by: list[dict[str, Any]], environment: dict[str, Any] = ENVIRONMENT
) -> bool:
    """Whether the run takes its time from these rows."""
    return "run" in with_bench(of_one_run(config, environment), as_rounds(by)).clocks


def by_place(clock: Clock) -> dict[tuple[str, int], float]:
    """The seconds by race and round."""
    return {(race, number): seconds for (race, number, _), seconds in clock.items()}


# Which run


@given(st.sets(st.sampled_from(sorted(COSTLY | FREE)), max_size=4))
def test_a_bench_is_of_the_runs_with_the_same_costly_settings_and_of_no_others(
    changed: set[str],
) -> None:
    other = CONFIG | {key: value for key, value in (COSTLY | FREE).items() if key in changed}
    same = not changed & {*COSTLY}
    assert is_timed(CONFIG, rows_of(other, [0.1])) == same
    assert is_timed(other, rows_of(CONFIG, [0.1])) == same
    assert is_timed(other, [*rows_of(CONFIG, [0.1]), *rows_of(other, [0.2])])


def test_every_setting_that_is_changed_here_is_one_of_a_run() -> None:
    assert {*COSTLY | FREE} - {*CONFIG} == {"runtime.cuda_graphs", "runtime.onednn"}
    assert all(CONFIG.get(key) != value for key, value in (COSTLY | FREE).items())


@pytest.mark.parametrize("known", [{}, {"runtime.cuda_graphs": False}, {"runtime.onednn": True}])
def test_runs_from_before_there_were_graphs_are_as_those_without(known: dict[str, bool]) -> None:
    for other in ({}, {"runtime.cuda_graphs": False}, {"runtime.onednn": True}):
        assert is_timed(CONFIG | known, rows_of(CONFIG | other, [0.1]))


def test_images_of_another_size_are_another_cost() -> None:
    rows = rows_of(CONFIG, [0.1], image="3x32x32")
    for shape, same in (([3, 32, 32], True), ([3, 64, 64], False), ([1, 32, 32], False)):
        assert (
            is_timed(CONFIG, rows, {"data": {**ENVIRONMENT["data"], "image_shape": shape}}) == same
        )


def test_another_number_of_classes_is_another_cost() -> None:
    rows = rows_of(CONFIG, [0.1], classes=40)
    for number, same in ((40, True), (10, False)):
        classes = [str(i) for i in range(number)]
        assert is_timed(CONFIG, rows, {"data": {**ENVIRONMENT["data"], "classes": classes}}) == same
    assert not is_timed(CONFIG, rows), "which were ten where nothing is said"


def test_a_bench_from_before_it_said_the_classes_was_of_ten(bench_csv: Path) -> None:
    pd.read_csv(bench_csv).drop(columns="classes").to_csv(bench_csv, index=False)
    assert "run" in with_bench(of_one_run(CONFIG), read_bench(bench_csv)).clocks


@pytest.mark.parametrize(
    ("name", "known"), [("cifar10", True), ("cifar10-jpeg", True), ("image_folder", False)]
)
def test_images_of_runs_that_do_not_say_their_size_are_those_of_their_data(
    name: str, known: bool
) -> None:
    environment = {"data": {"name": name, "num_train": 50_000}}
    assert is_timed(CONFIG, rows_of(CONFIG, [0.1]), environment) == known
    assert not is_timed(CONFIG, rows_of(CONFIG, [0.1], image="3x64x64"), environment)


def test_a_run_that_never_knew_its_data_has_no_time() -> None:
    assert not is_timed(CONFIG, rows_of(CONFIG, [0.1]), {})


def test_a_norm_of_the_user_s_own_goes_by_its_class_content_and_options_wherever_it_lies() -> None:
    own = {
        "norm.name": "my_norms.py:Mine",
        "norm.file": "/home/a/my_norms.py",
        "norm.content": "01",
        "norm.alpha": 0.5,
    }
    rows = rows_of(CONFIG | own, [0.1])
    assert rows[0]["norm.name"] == "Mine"
    assert "norm.file" not in rows[0]
    moved = {"norm.name": "/tmp/b/other.py:Mine", "norm.file": "/tmp/b/other.py"}
    assert is_timed(CONFIG | own | moved, rows)
    for other in (
        {"norm.content": "02"},
        {"norm.alpha": 0.6},
        {"norm.name": "my_norms.py:Another"},
    ):
        assert not is_timed(CONFIG | own | other, rows)


# How long


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
    config = CONFIG | data | {"batch_size": batch_size, "train.accumulate": accumulate}
    study = with_bench(of_one_run(config), as_rounds(rows_of(config, [step, 2 * step], "race")))
    there = limit or 10_000
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
    study = with_bench(of_one_run(CONFIG), rounds)
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
    rounds = rounds_of(study, some_seconds("bn", "gn", rounds=11))
    twice = with_bench(
        study, pd.concat([rounds, rounds.assign(race="another day")], ignore_index=True)
    )
    assert "22 rounds" in time_note(twice), "of both races"


def test_a_norm_timed_in_other_settings_than_bn_is_not_related_to_it_and_the_caption_says_so() -> (
    None
):
    """As runtime=fast leaves it, which chooses for each norm by itself."""
    other = {"runtime.channels_last": True, "runtime.onednn": False}
    study = in_study(
        one_run("bn"), one_run("gn"), one_run("in", **other), one_run("ln", 8, **other)
    )
    table = comparison_table(timed(study, some_seconds("bn", "gn", "in", "ln")))
    related = dict(zip(table.shown["norm"], table.shown["relative to bn"], strict=True))
    assert related["in"] == related["ln"] == "not measured"
    assert "x (" in related["gn"]
    assert (table.shown["time per epoch"] != "not measured").all()
    assert "In other settings than bn, so not related to it: in at batch 64. " in table.caption
    alike = timed(
        in_study(one_run("bn", **other), one_run("in", **other)), some_seconds("bn", "in")
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
        with_bench(of_one_run(CONFIG), as_rounds(rows))
    elsewhere = rows_of(CONFIG | {"batch_size": 8}, [1.0], "b", **other)
    assert (
        "run"
        in with_bench(
            of_one_run(CONFIG), as_rounds([*rows_of(CONFIG, [0.1], "a"), *elsewhere])
        ).clocks
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
    assert basis_of(rounds).endswith(f", torch 2.16.0, {said}")
    assert basis_of(read_bench(tmp_path)) == basis_of(rounds)


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
            *columns_of_settings(rounds),
            "race",
            "round",
            "seconds",
            "device",
            "torch",
            "commit",
        ]
        assert again[exact].to_dict("list") == rounds[exact].to_dict("list")
        assert to_markdown(costs_table(again)) == to_markdown(costs_table(rounds))
        for config in configs:
            clocks = [with_bench(of_one_run(config), table).clocks for table in (again, rounds)]
            assert clocks[0] == clocks[1] != {}


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
    """bn and gn at batch 64 and bn at batch 8; a bench of the first two in one folder, of the last in another."""
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
    assert {*with_times(study, [a]).clocks} == {bn, gn}
    assert {
        *with_times(study, [b / "runs.csv", tmp_path / "nowhere", a / "bench.csv"]).clocks
    } == {bn, gn, bn_at_8}
    assert (
        {*with_times(study, [a, b]).clocks}
        == {*with_times(study, [b, a]).clocks}
        == {bn, gn, bn_at_8}
    )
    assert with_times(study, [tmp_path]) is study
    (a / "bench.csv").write_text("race\n")
    with pytest.raises(RunFailure, match="cannot be read: no column"):
        with_times(study, [a])


def test_a_bench_that_lies_in_two_places_counts_once(tmp_path: Path) -> None:
    study, a, _ = runs_and_benches(tmp_path)
    write_rounds(read_bench(a), tmp_path / "copy" / "bench.csv")
    once, twice = with_times(study, [a]), with_times(study, [a, tmp_path / "copy", a])
    assert twice.clocks == once.clocks


def test_a_study_keeps_its_rounds_and_another_bench_goes_before_them(tmp_path: Path) -> None:
    study = timed(in_study(one_run("bn"), one_run("gn", 8)), {"bn": [0.1] * 7, "gn": [0.2] * 7})
    write_study(study, tmp_path / "study")
    bn, gn = study.clocks
    for path in (tmp_path / "study", tmp_path / "study" / "runs.csv"):
        assert load_study([path]).clocks == study.clocks
        assert load_study([path], "norm=gn").clocks == {gn: study.clocks[gn]}
    write_rounds(rounds_of(study, {"bn": [0.5]}), tmp_path / "other" / "bench.csv")
    assert (
        load_study([tmp_path / "study"], bench=tmp_path / "other").clocks[bn] != study.clocks[bn]
    )
    assert list(load_study([tmp_path / "study"], bench=tmp_path / "other").clocks) == [bn]
    with pytest.raises(NormbenchError, match=r"^no bench\.csv in .*nowhere: "):
        load_study([tmp_path / "study"], bench=tmp_path / "nowhere")
    write_study(in_study(one_run("bn")), tmp_path / "untimed")
    assert not (tmp_path / "untimed" / "bench.csv").exists()
    assert load_study([tmp_path / "untimed"]).clocks == {}


def test_runs_without_their_configurations_have_no_times(tmp_path: Path) -> None:
    write_study(timed(in_study(one_run("bn")), {"bn": [0.1]}), tmp_path)
    (tmp_path / "configs.json").unlink()
    study = load_study([tmp_path])
    assert study.clocks == {}
    assert math.isnan(comparison_table(study).data["seconds"].iloc[0])


def test_the_machine_of_a_bench_is_not_taken_for_that_of_the_runs() -> None:
    caption = comparison_table(timed(in_study(one_run("bn")), {"bn": [0.1]})).caption
    assert f"on {MACHINE['device']}, threads: 1, torch 2.16.0" in caption
    assert "a processor, threads: 2, fp32, torch 2.15.0" in caption
