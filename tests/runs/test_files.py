"""What is read of one run's files, against the csv module and file by file."""

from __future__ import annotations

import csv
import io
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kit.runs import id_of, seal

from normbench.analysis.loading import load_study, read_runs
from normbench.config.schema import ADDED, flatten
from normbench.runs.columns import COUNTED, read_columns
from normbench.runs.files import read_run, run_dirs
from normbench.runs.listing import list_runs
from normbench.runs.records import SCHEMA_VERSION, at, parse_record, write_record
from normbench.runs.standing import standing
from normbench.text import visible_in

WriteRun = Callable[..., Path]
Run = Callable[..., tuple[int, str, str]]
BN, GN = (id_of(f"normresnet-{norm}-b64-s0") for norm in ("bn", "gn"))
MEASURED = ("lr", "train_loss", "test_accuracy")
COUNT = st.integers(0, 2**53)
FINITE = st.floats(allow_nan=False, allow_infinity=False)
FIGURE = st.floats() | st.integers(-(10**6), 10**6)


@st.composite
def tables(draw: st.DrawFn) -> tuple[list[str], list[list[float]]]:
    """Names with epoch among them, and at least one row."""
    names = draw(
        st.permutations(
            ["epoch", *draw(st.lists(st.sampled_from([*COUNTED[1:], *MEASURED]), unique=True))]
        )
    )
    row = st.tuples(*(COUNT if name in COUNTED else FIGURE for name in names)).map(list)
    return list(names), draw(st.lists(row, min_size=1, max_size=8))


def as_csv(names: list[str], rows: list[list[Any]]) -> str:
    return "".join(",".join(map(str, line)) + "\n" for line in [names, *rows])


def slowly(text: str) -> dict[str, list[float]]:
    """The columns as csv.DictReader has them."""
    rows = list(csv.DictReader(io.StringIO(text)))
    return {name: [float(row[name]) for row in rows] for name in rows[0]}


@given(tables())
def test_columns_are_those_of_the_csv_module(table: tuple[list[str], list[list[float]]]) -> None:
    text = as_csv(*table)
    columns, oracle = read_columns(text), slowly(text)
    assert list(columns) == list(oracle)
    for name, column in columns.items():
        np.testing.assert_array_equal(column, oracle[name])
        assert column.dtype.kind == ("i" if name in COUNTED else "f")
        assert column.flags.owndata, "a column does not keep the whole table alive"


@given(tables(), st.integers(0, 10**6))
def test_a_last_row_without_its_end_is_as_if_it_were_not_there(
    table: tuple[list[str], list[list[float]]], cut: int
) -> None:
    names, rows = table
    whole = as_csv(names, rows)
    last = as_csv(names, [rows[-1]]).splitlines()[1]
    columns, oracle = read_columns(whole + last[: cut % (len(last) + 1)]), read_columns(whole)
    assert list(columns) == list(oracle)
    for name in columns:
        np.testing.assert_array_equal(columns[name], oracle[name])


@pytest.mark.parametrize("text", ["", "epoch", "epoch,loss\n", "epoch,loss\n1,2"])
def test_without_a_whole_row_there_is_no_column(text: str) -> None:
    assert read_columns(text) == {}


@pytest.mark.parametrize(
    "rows",
    [
        "1,2\n",
        "1,2,3,4\n",
        "1,2,3\n4,5\n",
        "1,2,3\n4,5,6,7\n",
        "1,2,3,4\n5,6\n",
        "1,2\n3,4,5,6\n",
        "1,2,3\n\n4,5,6\n",
    ],
)
def test_a_row_of_another_length_than_the_header_is_refused(rows: str) -> None:
    with pytest.raises(ValueError, match="another length"):
        read_columns(f"epoch,steps,loss\n{rows}")


@pytest.mark.parametrize("value", ["", "x", "1.0.0", "None", "1;2", "0x1", '"1"'])
def test_what_is_no_number_is_refused(value: str) -> None:
    with pytest.raises(ValueError, match="float"):
        read_columns(f"epoch,loss\n1,1.0\n2,{value}\n")


@pytest.mark.parametrize("name", ["epoch", "steps"])
@pytest.mark.parametrize("value", ["1.5", "nan", "inf", "-inf", "1e300"])
def test_a_count_that_is_no_whole_number_is_refused(name: str, value: str) -> None:
    names = dict.fromkeys(["epoch", name])
    with pytest.raises(ValueError, match="whole number"):
        read_columns(
            f"{','.join(names)}\n{','.join(value if one == name else '1' for one in names)}\n"
        )


def test_losses_may_be_nan_or_infinite() -> None:
    columns = read_columns("epoch,loss\n1,nan\n2,inf\n")
    assert math.isnan(columns["loss"][0])
    assert columns["loss"][1] == math.inf


def test_a_table_without_epochs_is_refused() -> None:
    with pytest.raises(ValueError, match="no epochs"):
        read_columns("steps,loss\n1,2\n")


# A run that is done has all of its epochs


def test_a_done_run_whose_rows_end_early_is_damaged_and_left_out(
    write_run: WriteRun, tmp_path: Path
) -> None:
    short = write_run(BN, (0.1, 0.2, 0.3), epochs=5)
    write_run(GN)
    assert read_run(short).damaged == {"metrics.csv": "ends at epoch 3 of 5"}
    (row,) = list_runs(tmp_path / "runs", ["norm=bn"]).rows
    assert (row["status"], row["reason"]) == ("damaged", "metrics.csv ends at epoch 3 of 5")
    study = read_runs(run_dirs(tmp_path / "runs"))
    assert study.runs["run"].tolist() == study.metrics["run"].unique().tolist() == [GN]
    assert study.notes == (f"left out: {short}: metrics.csv ends at epoch 3 of 5",)


@pytest.mark.parametrize("state", ["failed", "diverged", "interrupted", "running"])
def test_a_run_that_is_not_done_may_end_early(write_run: WriteRun, state: str) -> None:
    assert read_run(write_run(BN, (0.1, 0.2), state=state, epochs=5)).damaged == {}


def test_a_run_of_limited_steps_may_end_early(write_run: WriteRun) -> None:
    limited = {"epochs": 5, "train": {"max_steps": 30}}
    assert read_run(write_run(BN, (0.1, 0.2, 0.3), **limited)).damaged == {}
    unlimited = {"epochs": 5, "train": {"max_steps": None}}
    assert "metrics.csv" in read_run(write_run(GN, (0.1, 0.2, 0.3), **unlimited)).damaged


@pytest.mark.parametrize("epochs", [(1, 3), (2, 3), (1, 1), (2, 1), (0, 1)])
def test_a_done_run_whose_epochs_do_not_follow_each_other_is_damaged(
    write_run: WriteRun, epochs: tuple[int, int]
) -> None:
    path = write_run(BN)
    header, *rows = (path / "metrics.csv").read_text().splitlines()
    changed = [f"{epoch},{row.partition(',')[2]}" for epoch, row in zip(epochs, rows, strict=True)]
    (path / "metrics.csv").write_text("\n".join([header, *changed, ""]))
    seal(path)
    follow = "has epochs or steps that do not follow each other"
    assert read_run(path).damaged == {"metrics.csv": follow}


# Configurations


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    text=st.text(min_size=1),
    value=st.text() | st.lists(st.text()) | st.none() | st.booleans() | FINITE,
)
def test_a_configuration_is_read_as_yaml_reads_the_whole_of_it(
    write_run: WriteRun, text: str, value: object
) -> None:
    changed = {
        "norm": {"text": text, "value": value},
        "system": {"runs_dir": text, "mirrors": [text, text * 40]},
    }
    path = write_run(BN, **changed)
    files, oracle = read_run(path), yaml.safe_load((path / "config.yaml").read_text())
    shutil.rmtree(path)
    assert files.damaged == {}
    # Runs from before a setting was there lack its key.
    for section, setting, before in ADDED:
        oracle[section].setdefault(setting, before)
    oracle["system"].setdefault("restarts", 0)
    oracle["system"].setdefault("trackers", [])
    assert files.config == visible_in(oracle | {"data": oracle["data"] | {"content": None}})


def test_a_run_without_its_configuration_is_left_out_with_a_note(
    write_run: WriteRun, tmp_path: Path
) -> None:
    path = write_run(BN)
    write_run(GN)
    (path / "config.yaml").unlink()
    study = load_study([tmp_path / "runs"])
    assert study.runs["run"].tolist() == [GN]
    assert study.notes == (f"left out: {path}: config.yaml is missing",)


# Files of another version


def test_a_run_of_another_schema_is_foreign_and_no_failure_to_be_removed(
    write_run: WriteRun, normbench: Run, tmp_path: Path
) -> None:
    path = write_run(BN)
    write_run(GN)
    content = json.loads((path / "status.json").read_text())
    (path / "status.json").write_text(json.dumps(content | {"schema_version": 99}))
    told = f"status.json is of schema 99, this normbench reads {SCHEMA_VERSION}"
    study = read_runs(run_dirs(tmp_path / "runs"))
    assert study.runs["run"].tolist() == [GN]
    assert study.notes == (f"left out: {path}: {told}",)
    (row,) = list_runs(tmp_path / "runs", ["status=foreign"]).rows
    assert row["reason"] == told
    assert standing(path).state == "foreign"
    assert normbench("runs", "rm", "--failed", "--runs-dir", str(tmp_path / "runs"))[0] == 0
    assert path.exists()


def test_a_setting_that_this_version_does_not_know_is_foreign(write_run: WriteRun) -> None:
    path = write_run(BN, state="interrupted")
    file = path / "config.yaml"
    file.write_text(file.read_text().replace("log_every", "log_often"))
    stands = standing(path)
    assert stands.state == "foreign"
    assert "config.yaml is not of this version of normbench: train.log_" in str(stands.reason)


@pytest.mark.parametrize("broken", [3, "mates", [1], None])
def test_defects_of_a_norm_that_are_no_texts_are_damage(write_run: WriteRun, broken: Any) -> None:
    path = write_run(BN)
    content = parse_record((path / "env.json").read_text())
    write_record(path / "env.json", content | {"broken": broken})
    seal(path)
    (damage,) = read_run(path).damaged.values()
    assert "has a wrong broken" in damage


def test_damaged_steps_of_a_finished_run_leave_it_out_of_tables_and_are_listed(
    write_run: WriteRun, tmp_path: Path
) -> None:
    path = write_run(BN)
    (path / "steps.csv").write_text("step,epoch,loss,lr\n0,1,x,0.1\n")
    study = read_runs([path])
    assert study.runs.empty
    assert study.notes == (f"left out: {path}: steps.csv was changed after the run",)
    assert [row["status"] for row in list_runs(tmp_path / "runs").rows] == ["damaged"]


# Keys


def test_nested_keys_are_dotted_and_found_again() -> None:
    content = {"norm": {"name": "gn", "options": {"groups": 4}}, "seed": 0, "widths": [1, 2]}
    flat = flatten(content)
    assert flat == {"norm.name": "gn", "norm.options.groups": 4, "seed": 0, "widths": [1, 2]}
    assert {key: at(content, key) for key in flat} == flat
    for missing in ("norm.nam", "seed.x", "norm.name.x", "x"):
        assert at(content, missing) is None
