"""Runs from directories and from CSV files, which must say the same."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from kit.runs import REGRESSION, id_of, in_study, one_run, seal, write_runs
from kit.text import HOSTILE, steers

from normbench.analysis.captions import chosen_rates
from normbench.analysis.loading import check_comparable, load_study, read_runs
from normbench.analysis.outputs import outputs
from normbench.analysis.study import Study
from normbench.analysis.study_files import common_settings, write_study
from normbench.analysis.tables.comparison import comparison, comparison_table
from normbench.analysis.tables.rendering import to_latex, to_markdown
from normbench.checksums import SUMS
from normbench.errors import NormbenchError, RunFailure
from normbench.runs.files import RunFiles, refused_run, run_dirs
from normbench.runs.records import parse_record, write_record
from normbench.text import visible

WriteRun = Callable[..., Path]
RESULTS = Path(__file__).parents[2] / "results"
CUT = {"data": {"name": "cifar10_parquet", "limit_train": 1000, "limit_test": None}}
BN, GN, LN = (id_of(f"normresnet-{norm}-b64-s0") for norm in ("bn", "gn", "ln"))
GN_CUT = id_of(GN, **CUT)
FRACTION = st.floats(0, 1, exclude_min=True)


def assert_same(first: Study, second: Study) -> None:
    """Equal to the last digit, value by value; what is missing is missing in both."""
    for name in ("runs", "metrics", "steps"):
        one, other = getattr(first, name), getattr(second, name)
        assert list(one.columns) == list(other.columns), name
        assert len(one) == len(other), name
        for column in one:
            pairs = zip(one[column], other[column], strict=True)
            assert all(pd.isna(b) if pd.isna(a) else bool(a == b) for a, b in pairs), (
                f"{name}: {column}"
            )
    assert first.environments == second.environments
    assert first.configs == second.configs


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of a study of bn and gn at three batch sizes with two seeds each."""
    folder = tmp_path_factory.mktemp("written")
    runs = write_runs(folder / "runs", ("bn", "gn"), (1, 8, 64), (0, 1), epochs=2)
    write_study(read_runs(run_dirs(runs)), folder / "study")
    return folder / "study"


def test_a_study_is_read_from_its_folder_or_its_file_and_counts_once(written: Path) -> None:
    study = load_study([written])
    assert (len(study.runs), len(study.metrics)) == (12, 24)
    assert set(study.environments) == set(study.runs["run"])
    for paths in ([written / "runs.csv"], [written, written / "runs.csv"]):
        assert_same(load_study(paths), study)


@pytest.mark.parametrize("name", ["first-sweep", "first-light"])
def test_the_committed_tables_are_what_the_command_makes_of_the_committed_runs(name: str) -> None:
    folder = RESULTS / name
    study = load_study([folder])
    assert (folder / "table.md").read_text() == to_markdown(comparison_table(study))
    tables = {output.name: output.make(study) for output in outputs("table", study)}
    assert {path.stem for path in (folder / "tables").iterdir()} == set(tables)
    for stem, table in tables.items():
        assert (folder / "tables" / f"{stem}.md").read_text() == to_markdown(table)
        assert (folder / "tables" / f"{stem}.tex").read_text() == to_latex(table)


def test_conditions_keep_the_rows_of_their_runs_in_every_table(written: Path) -> None:
    study = load_study([written], ["norm=bn", "batch_size<=8"])
    assert (
        set(study.runs["norm"]) == set(study.metrics["norm"]) == set(study.steps["norm"]) == {"bn"}
    )
    assert sorted(study.runs["batch_size"]) == [1, 1, 8, 8]
    assert set(study.environments) == set(study.configs) == set(study.runs["run"])
    with pytest.raises(NormbenchError, match="no runs match norm=zz"):
        load_study([written], ["norm=zz"])


def test_a_condition_may_name_a_setting_that_all_runs_share(written: Path) -> None:
    assert len(load_study([written], ["optim.weight_decay=0"]).runs) == 12
    with pytest.raises(NormbenchError, match=r"no runs match train\.accumulate>1"):
        load_study([written], ["train.accumulate>1"])


@pytest.mark.parametrize(
    ("made", "told"),
    [
        ((), "there is no such folder"),
        (("place",), "it is a file"),
        (("place/one/runs.csv", "place/two/runs.csv"), "name one or several: .*one, .*two$"),
        (("place/notes.txt",), "no folder of it has a run's config.yaml"),
    ],
)
def test_a_place_without_runs_says_what_is_there(
    made: tuple[str, ...], told: str, tmp_path: Path
) -> None:
    for name in made:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    with pytest.raises(NormbenchError, match=told):
        load_study([tmp_path / "place"])


def test_no_runs_and_no_table_are_named(tmp_path: Path) -> None:
    with pytest.raises(NormbenchError, match=r"no runs in .*: the folder is empty"):
        load_study([tmp_path])
    (tmp_path / "runs.csv").write_text("a,b\n1,2\n")
    with pytest.raises(RunFailure, match=r"runs\.csv' cannot be read: no column"):
        load_study([tmp_path])


def test_a_damaged_run_is_left_out_with_a_note(write_run: WriteRun, tmp_path: Path) -> None:
    path = write_run(BN)
    broken = tmp_path / "runs" / "broken"
    broken.mkdir()
    (broken / "config.yaml").write_text("norm: {")
    (tmp_path / "alone").mkdir()
    broken.rename(tmp_path / "alone" / "broken")
    study = load_study([tmp_path / "alone", path])
    assert study.runs["run"].tolist() == [BN]
    assert study.notes == (f"left out: {tmp_path / 'alone' / 'broken'}: config.yaml is damaged",)
    with pytest.raises(
        NormbenchError, match=r"no runs in .*; left out: .*broken: config\.yaml is damaged"
    ):
        load_study([tmp_path / "alone"])


def test_a_damaged_run_beside_a_study_is_left_out_with_a_note(
    written: Path, tmp_path: Path
) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.yaml").write_text("norm: {")
    study = load_study([tmp_path, written])
    assert len(study.runs) == 12
    assert study.notes == (f"left out: {tmp_path / 'broken'}: config.yaml is damaged",)


@pytest.mark.parametrize(
    ("column", "value"),
    [("task", "regression"), ("data", "other"), ("epochs", 99), ("precision", "bf16")],
)
def test_runs_of_different_task_data_epochs_or_precision_are_not_mixed(
    column: str, value: object
) -> None:
    study = in_study(one_run("bn"), one_run("gn"))
    check_comparable(study)
    mixed = replace(study, runs=pd.concat([study.runs, study.runs.assign(**{column: value})]))
    with pytest.raises(NormbenchError, match=f"runs of different {column}.*--where {column}="):
        check_comparable(mixed)
    check_comparable(mixed, apart=["norm", column])
    with pytest.raises(NormbenchError, match=f"runs of different {column}"):
        check_comparable(mixed, apart=["norm"])
    failed = study.runs.assign(status="failed", **{column: value})
    check_comparable(replace(study, runs=pd.concat([study.runs, failed])))


def test_batch_sizes_may_have_epochs_of_their_own() -> None:
    """As in the study zoo: norms are compared within a batch size."""
    runs = [one_run(norm, batch_size) for norm in ("bn", "gn") for batch_size in (2, 64)]
    study = in_study(*runs)
    table = study.runs
    epochs = table["epochs"].where(table["batch_size"] == 64, 7)
    check_comparable(replace(study, runs=table.assign(epochs=epochs)))
    epochs[table["norm"] == "gn"] = 7
    with pytest.raises(NormbenchError, match="runs of different epochs"):
        check_comparable(replace(study, runs=table.assign(epochs=epochs)))


def test_runs_of_several_tasks_have_no_metric_in_common() -> None:
    study = in_study(one_run("bn"), one_run("gn", task=REGRESSION))
    with pytest.raises(NormbenchError, match="runs of different task: classification, regression"):
        comparison_table(study)
    assert study.at(task="regression").primary == REGRESSION.primary


# A study is written and read again


@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    runs=st.lists(
        st.tuples(FRACTION, FRACTION, st.sampled_from(["done", "failed", "interrupted"])),
        min_size=1,
        max_size=4,
    )
)
def test_a_study_gives_the_runs_that_it_was_written_from(
    runs: list[tuple[float, float, str]],
    write_run: WriteRun,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("study")
    paths = []
    for seed, (first, second, state) in enumerate(runs):
        path = write_run(f"normresnet-bn-b64-s{seed}-0", (first, second), state=state)
        (path / "steps.csv").write_text(
            f"step,epoch,loss,lr\n0,1,{first},{second}\n5,2,{second},{first}\n"
        )
        seal(path)
        paths.append(path.rename(folder / path.name))
    study = read_runs(paths)
    write_study(study, folder / "out")
    assert_same(study, load_study([folder / "out"]))


def test_settings_and_gaps_are_read_as_they_were_written(
    write_run: WriteRun, tmp_path: Path
) -> None:
    write_run(BN, torch="2.10")
    write_run(GN, **CUT)
    write_run(BN, **CUT)
    failed = write_run(LN, (), state="failed", reason='OSError: gone,\n"for good"')
    (failed / "env.json").unlink()
    refused = refused_run(
        "normresnet-in-b1-s0-3", {"norm": {"name": "in"}, "model": {"name": "normresnet"}}, "1x1"
    )
    study = read_runs(run_dirs(tmp_path / "runs"), [refused])
    limits = study.runs.set_index("run")["data.limit_train"]
    assert limits[[BN, id_of(BN, **CUT), GN_CUT, LN]].tolist() == ["None", "1000", "1000", "None"]
    assert limits[refused.run] == ""
    write_study(study, tmp_path / "out")
    assert_same(study, load_study([tmp_path / "out"]))


def test_a_study_of_one_run_and_one_without_any_row_are_read_again(
    write_run: WriteRun, tmp_path: Path
) -> None:
    for name, accuracies, state in ((BN, (0.5,), "done"), (GN, (), "failed")):
        study = read_runs([write_run(name, accuracies, state=state)])
        write_study(study, tmp_path / state)
        assert_same(study, load_study([tmp_path / state]))


def test_what_all_configurations_share_is_written_once(write_run: WriteRun, tmp_path: Path) -> None:
    write_run(BN)
    write_run(GN)
    study = read_runs(run_dirs(tmp_path / "runs"))
    write_study(study, tmp_path / "out")
    written = json.loads((tmp_path / "out" / "configs.json").read_text())
    assert written["runs"] == {BN: {"norm.name": "bn"}, GN: {"norm.name": "gn"}}
    assert written["shared"] == common_settings(study.configs)
    assert not [key for key in written["shared"] if key.startswith("system.")], (
        "where a run was made is no setting"
    )


@pytest.mark.parametrize(
    "content", ["[]", "{", '{"runs": {}, "schema_version": 99}', '{"runs": {"x": 1}}']
)
def test_configurations_that_cannot_be_read_are_named_with_their_study(
    write_run: WriteRun, tmp_path: Path, content: str
) -> None:
    write_study(read_runs([write_run(BN)]), tmp_path / "out")
    (tmp_path / "out" / "configs.json").write_text(content)
    with pytest.raises(RunFailure, match=r"configs\.json' cannot be read: "):
        load_study([tmp_path / "out"])


# Several studies


def studies(write_run: WriteRun, tmp_path: Path) -> tuple[Path, Path]:
    """Two studies: bn and gn, and the same bn with ln and a gn on fewer images."""
    bn, gn, ln = write_run(BN), write_run(GN), write_run(LN)
    short = write_run(GN, **CUT)
    first, second = tmp_path / "first", tmp_path / "second"
    write_study(read_runs([bn, gn]), first)
    write_study(read_runs([bn, short, ln]), second)
    return first, second


def test_two_studies_have_a_column_for_the_setting_in_which_they_differ(
    write_run: WriteRun, tmp_path: Path
) -> None:
    first, second = studies(write_run, tmp_path)
    for path in (first, second):
        assert not [name for name in load_study([path]).runs if "." in name]
    study = load_study([first, second])
    assert study.runs.set_index("run")["data.limit_train"].to_dict() == {
        BN: "None",
        GN: "None",
        GN_CUT: "1000",
        LN: "None",
    }
    assert [name for name in study.runs if "." in name] == ["data.limit_train"]


def test_joined_studies_and_the_directories_they_came_from_are_the_same_runs(
    write_run: WriteRun, tmp_path: Path
) -> None:
    first, second = studies(write_run, tmp_path)
    runs = tmp_path / "runs"
    assert_same(
        load_study([first, second]),
        read_runs([runs / BN, runs / GN, runs / GN_CUT, runs / LN]),
    )
    assert_same(load_study([first, second]), load_study([first, second, runs, runs / BN, first]))


def test_a_run_that_two_folders_hold_counts_once(write_run: WriteRun, tmp_path: Path) -> None:
    path = write_run(BN)
    copy = tmp_path / "copies" / BN
    copy.mkdir(parents=True)
    for file in path.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    for paths in (
        [path, copy],
        [path.parent, copy.parent],
        [path, path.parent / ".." / "runs" / BN],
    ):
        study = load_study(paths)
        assert study.runs["run"].tolist() == [BN]
        assert study.metrics["epoch"].tolist() == [1, 2]


def test_a_study_without_its_configurations_is_shown_alone_or_not_at_all(
    write_run: WriteRun, tmp_path: Path
) -> None:
    first, second = studies(write_run, tmp_path)
    for name in ("configs.json", SUMS):
        (first / name).unlink()
    assert len(load_study([first]).runs) == 2
    for paths in ([first, second], [second, first], [first, tmp_path / "runs"]):
        with pytest.raises(
            NormbenchError, match=r"a runs\.csv without its configs\.json .*: show it alone"
        ):
            load_study(paths)


# Runs that ended otherwise


def test_a_run_whose_process_is_gone_was_killed(write_run: WriteRun) -> None:
    path = write_run(BN, (0.5,), state="running")
    row = read_runs([path]).runs.iloc[0]
    assert (row["status"], row["reason"], row["epochs"]) == ("killed", "its process is gone", 1)


def test_refused_runs_follow_with_their_reason_and_their_configuration(write_run: WriteRun) -> None:
    config = {
        "norm": {"name": "in"},
        "model": {"name": "normresnet"},
        "batch_size": 8,
        "seed": 1,
        "optim": {"lr": 0.1},
    }
    study = read_runs([write_run(BN)], [refused_run("refused-in", config, "a 1x1 map")])
    row = study.runs.iloc[1]
    keys = ["run", "norm", "batch_size", "seed", "lr", "status", "reason", "epochs"]
    assert row[keys].tolist() == ["refused-in", "in", 8, 1, 0.1, "refused", "a 1x1 map", 0]
    assert study.metrics["run"].unique().tolist() == [BN]
    assert study.configs["refused-in"]["optim.lr"] == 0.1
    assert list(study.environments) == [BN]


@pytest.mark.parametrize("setting", ["optim.lr_scaling", "optim.weight_decay", "train.accumulate"])
def test_every_setting_in_which_runs_of_a_norm_differ_is_a_column(
    write_run: WriteRun, tmp_path: Path, setting: str
) -> None:
    _, _, key = setting.partition(".")
    values = ["none", "linear"] if key == "lr_scaling" else [1, 2]
    for seed, value in enumerate(values):
        write_run(f"normresnet-bn-b64-s{seed}", **{setting: value})
    found = read_runs(run_dirs(tmp_path / "runs")).runs[setting].tolist()
    assert found == [str(value) for value in values]


# Scale


def count_calls(work: Callable[[], object]) -> int:
    """The calls of Python functions that a piece of work makes: how it grows, without a clock."""
    calls = 0

    def profile(frame: object, event: str, argument: object) -> None:
        nonlocal calls
        calls += event == "call"

    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        work()
    finally:
        sys.setprofile(before)
    return calls


def test_more_epochs_cost_no_more_calls(write_run: WriteRun, tmp_path: Path) -> None:
    counts = []
    for epochs in (5, 50):
        folder = tmp_path / str(epochs)
        folder.mkdir()
        for seed in range(20):
            path = write_run(f"normresnet-bn-b64-s{seed}-{epochs}", (0.5,) * epochs)
            rows = "".join(f"{step},{1 + step // 10},1.0,0.1\n" for step in range(10 * epochs))
            (path / "steps.csv").write_text(f"step,epoch,loss,lr\n{rows}")
            seal(path)
            path.rename(folder / path.name)
        read_runs(run_dirs(folder))  # what is imported only once
        counts.append(count_calls(lambda: read_runs(run_dirs(folder))))  # noqa: B023
        study = read_runs(run_dirs(folder))
        numbers = len(study.runs), len(study.metrics), len(study.steps)
        assert numbers == (20, 20 * epochs, 200 * epochs)
    assert counts[1] - counts[0] < 20 < counts[0], "not a call for every run, let alone each row"


# Files of a study that are not whole


@pytest.mark.parametrize(
    ("name", "spoil", "message"),
    [
        (
            "metrics.csv",
            lambda text: text[:-9],
            r"metrics\.csv' cannot be read: it ends within a row",
        ),
        (
            "metrics.csv",
            lambda text: text.replace("train_loss", "x"),
            r"metrics\.csv' .* no column train_loss",
        ),
        ("metrics.csv", lambda text: "", r"metrics\.csv' cannot be read: it ends within a row"),
        (
            "runs.csv",
            lambda text: text.replace(",done,", ",,"),
            r"runs\.csv' cannot be read: a run of a status that does not exist",
        ),
        (
            "runs.csv",
            lambda text: text.replace(",64,", ",many,"),
            r"runs\.csv' .* batch_size is not a number",
        ),
        (
            "env.json",
            lambda text: text.replace('"cost_id": "', '"cost_id": 2, "_": "', 1),
            r"env\.json' cannot be read: has a wrong cost_id",
        ),
        ("env.json", lambda text: text[: len(text) // 2], r"env\.json' cannot be read"),
        (
            "env.json",
            lambda text: text.replace('"cost_id"', '"broken": 3, "cost_id"', 1),
            r"env\.json' cannot be read: has a wrong broken",
        ),
    ],
)
def test_a_file_of_a_study_that_is_not_whole_is_named(
    written: Path, tmp_path: Path, name: str, spoil: Callable[[str], str], message: str
) -> None:
    shutil.copytree(written, tmp_path / "study")
    file = tmp_path / "study" / name
    file.write_text(spoil(file.read_text()))
    with pytest.raises(RunFailure, match=message):
        load_study([tmp_path / "study"])


def test_done_runs_without_any_row_of_metrics_are_refused(written: Path, tmp_path: Path) -> None:
    shutil.copytree(written, tmp_path / "study")
    (tmp_path / "study" / "metrics.csv").unlink()
    with pytest.raises(RunFailure, match=r"metrics\.csv' is missing"):
        load_study([tmp_path / "study"])


def test_one_place_without_runs_among_several_is_named(written: Path, tmp_path: Path) -> None:
    with pytest.raises(NormbenchError, match=r"no runs in .*nowhere"):
        load_study([written, tmp_path / "nowhere"])


def test_batch_8_comes_before_batch_64(write_run: WriteRun, tmp_path: Path) -> None:
    for batch_size in (64, 8, 1, 128):
        write_run(f"normresnet-bn-b{batch_size}-s0")
    assert load_study([tmp_path / "runs"]).runs["batch_size"].tolist() == [1, 8, 64, 128]


def test_a_rate_at_which_seeds_diverged_is_not_chosen() -> None:
    def run(seed: int, rate: float, state: str, held_out: float) -> RunFiles:
        return one_run("bn", 0.5, seed=seed, lr=rate, held_out=held_out, state=state)

    runs = [
        run(0, 0.1, "done", 0.9),
        run(1, 0.1, "diverged", 0.0),
        run(0, 0.01, "done", 0.6),
        run(1, 0.01, "done", 0.6),
    ]
    study = in_study(*runs)
    assert study.chosen.runs["run"].tolist() == [one.run for one in runs[2:]]
    assert "bn 0.01" in chosen_rates(study)


def test_runs_on_different_data_are_never_averaged(write_run: WriteRun, tmp_path: Path) -> None:
    for data in ("cifar10", "synthetic"):
        write_run(BN, data={"name": data, "limit_train": None, "limit_test": None})
    study = load_study([tmp_path / "runs"])
    assert sorted(study.runs["data.name"]) == ["cifar10", "synthetic"]
    assert len(comparison(study)) == 2


def test_an_own_norm_goes_by_its_class_and_its_options_by_their_names() -> None:
    runs = [
        one_run(
            "my_norms.py:MyNorm",
            64,
            seed,
            **{"norm.options": {"alpha": alpha}, "norm.content": "0123"},
        )
        for seed in (0, 1)
        for alpha in (0.5, 1.0)
    ]
    study = in_study(*runs)
    assert set(study.runs["norm"]) == {"MyNorm"}
    assert set(study.labelled.runs["line"]) == {"MyNorm alpha 0.5", "MyNorm alpha 1.0"}
    edited = in_study(
        one_run("my_norms.py:MyNorm", 64, 0, **{"norm.content": "4567"}), runs[0]
    ).runs
    assert edited["norm.content"].nunique() == 2


# Texts that are read back as they were, visible


# Halves of pairs are damage, and not read.
HELD = HOSTILE.map(lambda text: text.encode(errors="ignore").decode() or "nothing")
WORDS = st.sampled_from(["2.10", "12e4", "nan", "None", "NA", "1", "True", "-1", "=1", "'=1", "'1"])


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(WORDS | HELD, WORDS | HELD)
@example("12e4", "2.10")
@example("nan", "nan")
def test_texts_of_a_study_are_read_back_equal(tmp_path: Path, word: str, text: str) -> None:
    runs = [one_run(word, seed=seed, run=f"{word}{seed}", **{"norm.note": text}) for seed in (0, 1)]
    runs += [one_run(word, run=f"{word}2", state="failed", reason=text, **{"norm.note": "x"})]
    for run in runs:
        run.environment["versions"]["torch"] = run.environment["git"]["commit"] = word
        run.environment["hardware"]["device_name"] = run.environment["data"]["name"] = text
    study = in_study(*runs)
    write_study(study, tmp_path)
    assert_same(load_study([tmp_path]), study)
    assert study.runs["torch"].tolist() == [visible(word)] * 3
    for file in tmp_path.iterdir():
        assert not steers(file.read_text())


def test_a_study_with_nesting_without_end_is_refused_in_one_line(written: Path) -> None:
    for file in ("env.json", "configs.json"):
        before = (written / file).read_text()
        (written / file).write_text('{"a": ' + "[" * 10**5 + "]" * 10**5 + "}")
        with pytest.raises(RunFailure, match="cannot be read: "):
            load_study([written])
        (written / file).write_text(before)


def test_a_run_with_deep_nesting_is_left_out_with_a_note(
    write_run: WriteRun, tmp_path: Path
) -> None:
    path = write_run(BN)
    write_run(GN)
    content = parse_record((path / "env.json").read_text())
    write_record(path / "env.json", content | {"deep": json.loads("[" * 600 + "]" * 600)})
    seal(path)
    study = load_study([tmp_path / "runs"])
    assert study.runs["run"].tolist() == [GN]
    assert study.notes == (f"left out: {path}: env.json is damaged",)
