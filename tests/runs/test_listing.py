"""The list of runs: every directory is a row, whatever state it is in."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kit.runs import REGRESSION, id_of, seal

from normbench.analysis.loading import read_runs
from normbench.errors import NormbenchError
from normbench.runs.files import run_dirs
from normbench.runs.listing import Listing, list_runs, to_json, to_text
from normbench.runs.records import parse_record, write_record
from normbench.runs.rundir import open_run

WriteRun = Callable[..., Path]
FILES = ("config.yaml", "env.json", "status.json", "metrics.csv")
BN, LN = (id_of(f"normresnet-{norm}-b64-s0") for norm in ("bn", "ln"))
GN = id_of("normresnet-gn-b64-s0", norm={"name": "gn", "g": 8})


def values(listing: Listing, column: str) -> list[Any]:
    return [row.get(column) for row in listing.rows]


def found(listing: Listing) -> list[Any]:
    return values(listing, "run")


@pytest.fixture
def runs_dir(tmp_path: Path, write_run: WriteRun) -> Path:
    """One run done, one failed after its first epoch, one diverged before it, and what is no
    run."""
    write_run(LN, (), state="diverged", reason="the loss of step 3 is nan")
    write_run(
        GN,
        (0.6,),
        state="failed",
        reason="OutOfMemoryError: no room\nfor more",
        norm={"name": "gn", "g": 8},
    )
    write_run(BN)
    (tmp_path / "runs" / "notes").mkdir()
    (tmp_path / "runs" / ".removed-x").mkdir()
    (tmp_path / "runs" / ".removed-x" / "config.yaml").write_text("")
    return tmp_path / "runs"


def test_the_list_agrees_with_the_table_that_studies_are_made_of(runs_dir: Path) -> None:
    study = read_runs(run_dirs(runs_dir)).runs
    listing = list_runs(runs_dir)
    columns = [name for name in listing.columns if name in study and "." not in name]
    assert columns == list(study.columns)
    for name in columns:
        pairs = zip([row.get(name) for row in listing.rows], study[name], strict=True)
        assert all(a == b or (pd.isna(a) and pd.isna(b)) for a, b in pairs), name


def test_a_run_that_is_over_has_its_last_epochs_figures_and_the_median_of_seconds(
    runs_dir: Path,
) -> None:
    (row,) = list_runs(runs_dir, ["status=done"]).rows
    names = ("run", "epochs", "planned_epochs", "test_accuracy", "test_loss")
    assert [row[name] for name in names] == [BN, 2, 2, 0.75, 0.5]
    assert row["median_train_seconds"] == 11.5
    assert row["started"] == "2026-01-01T00:00:00+00:00"


def test_a_run_without_rows_has_empty_figures(runs_dir: Path) -> None:
    (row,) = list_runs(runs_dir, ["norm=ln"]).rows
    assert row["epochs"] == 0
    assert row["train_loss"] is row["test_accuracy"] is row["median_train_seconds"] is None


def test_a_norm_with_defects_is_named_below_the_runs(runs_dir: Path) -> None:
    environment = parse_record((runs_dir / BN / "env.json").read_text())
    defects = ["evaluates with batch mates", "does not repeat itself"]
    write_record(runs_dir / BN / "env.json", environment | {"broken": defects})
    seal(runs_dir / BN)
    listing = list_runs(runs_dir)
    assert values(listing, "broken") == [" and ".join(defects), None, None]
    told = f"bn {' and '.join(defects)}: its figures are not comparable"
    assert to_text(listing).splitlines().count(told) == 1


def test_every_key_of_the_configuration_can_be_asked_for(runs_dir: Path) -> None:
    where = ["norm.g=8", "optim.lr<0.01", "data.name=cifar10_parquet", "model.widths=[4,8]"]
    assert found(list_runs(runs_dir, where)) == [GN]
    with pytest.raises(NormbenchError, match=r"unknown key 'norm\.gg': did you mean 'norm\.g'\?"):
        list_runs(runs_dir, ["norm.gg=8"])


@pytest.mark.parametrize(
    ("sort", "expected"),
    [
        (None, [BN, GN, LN]),
        ("test_accuracy", [GN, BN, LN]),
        ("-test_accuracy", [BN, GN, LN]),
        ("-run", [LN, GN, BN]),
        ("norm.g", [GN, BN, LN]),
        ("-norm.g", [GN, BN, LN]),
        ("-seed", [BN, GN, LN]),
    ],
)
def test_runs_are_sorted_by_a_key_with_those_that_lack_it_last(
    runs_dir: Path, sort: str | None, expected: list[str]
) -> None:
    assert found(list_runs(runs_dir, sort=sort)) == expected


def test_an_unknown_sort_key_names_the_nearest_even_where_nothing_matches(runs_dir: Path) -> None:
    with pytest.raises(
        NormbenchError, match="unknown key 'test_acuracy': did you mean 'test_accuracy'"
    ):
        list_runs(runs_dir, ["norm=none"], "test_acuracy")


def test_the_text_shows_how_each_run_stands_and_counts_them(runs_dir: Path) -> None:
    assert to_text(list_runs(runs_dir)) == (
        "run                                status    epochs  accuracy  s/epoch  reason\n"
        f"{BN}  done         2/2    75.0 %     11.5\n"
        f"{GN}  failed       1/2    60.0 %     11.0  OutOfMemoryError: no room...\n"
        f"{LN}  diverged     0/2                     the loss of step 3 is nan\n"
        "\n"
        "3 runs: 1 done, 1 diverged, 1 failed"
    )


def test_the_text_fits_100_columns_and_marks_seconds_of_a_shared_machine(
    tmp_path: Path, write_run: WriteRun
) -> None:
    write_run(
        f"convnext-filter_response-b1024-s123-{'a' * 12}",
        state="failed",
        reason="why " * 50,
        concurrent_runs=2,
    )
    text = to_text(list_runs(tmp_path / "runs"))
    assert max(map(len, text.splitlines())) == 100
    assert "  11.5*  why why" in text
    assert text.endswith(
        "* shared the machine with other runs: not to be compared\n1 run: 1 failed"
    )


def test_runs_of_two_tasks_have_a_column_for_the_metric_of_each(
    tmp_path: Path, write_run: WriteRun
) -> None:
    write_run(BN)
    other = write_run("normresnet-gn-b64-s0", (0.5, 0.25), task=REGRESSION)
    header, bn, gn, *_ = to_text(list_runs(tmp_path / "runs")).splitlines()
    assert header.split()[3:] == ["accuracy", "squared", "error", "s/epoch"]
    assert bn.split()[3:] == ["75.0", "%", "11.5"]
    assert gn.split()[3:] == ["0.2500", "11.5"]
    assert found(list_runs(tmp_path / "runs", ["task=regression"])) == [other.name]
    assert found(list_runs(tmp_path / "runs", ["test_squared_error<0.3"])) == [other.name]


def test_the_json_has_every_column_and_null_for_what_is_missing(
    runs_dir: Path, write_run: WriteRun
) -> None:
    write_run("normresnet-in-b64-s0", (), state="failed")
    records = json.loads(
        to_json(list_runs(runs_dir)), parse_constant=lambda name: pytest.fail(name)
    )
    by_norm = {record["norm"]: record for record in records}
    assert by_norm["gn"]["norm.g"] == 8
    assert by_norm["bn"]["norm.g"] is None
    assert by_norm["bn"]["model.widths"] == [4, 8]
    assert by_norm["in"]["test_accuracy"] is by_norm["in"]["train_loss"] is None
    assert len({frozenset(record) for record in records}) == 1


def test_a_run_that_a_process_holds_is_running_and_one_that_it_left_was_killed(
    tmp_path: Path, write_run: WriteRun
) -> None:
    path = write_run(BN, (0.5,), state="running")
    with open_run(path):
        assert values(list_runs(tmp_path / "runs"), "status") == ["running"]
    listing = list_runs(tmp_path / "runs", ["status=killed"])
    assert values(listing, "reason") == ["its process is gone"]
    assert "killed     1/2" in to_text(listing)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(
    "content", [b"", b"\x00\xff\xfe", b"a: [", b"[1, 2]\n", b"{", b"epoch,x\n1,2,3\n", b"a\n\n1\n"]
)
def test_a_damaged_file_makes_a_damaged_row_that_names_it(
    runs_dir: Path, name: str, content: bytes
) -> None:
    (runs_dir / BN / name).write_bytes(content)
    (row,) = [row for row in list_runs(runs_dir).rows if row["run"] == BN]
    is_table = name == "metrics.csv" and content in (b"", b"{", b"a: [", b"[1, 2]\n")
    damage = f"{name} {'was changed after the run' if is_table else 'is damaged'}"
    assert (row["status"], row["reason"]) == ("damaged", damage)
    # env.json says which metrics there are, so without it the figures are not known either.
    is_known = name not in ("metrics.csv", "env.json")
    assert (row.get("test_accuracy") == 0.75) is is_known, "what is known is shown"
    assert "damaged" in to_text(list_runs(runs_dir))
    study = read_runs([runs_dir / BN, runs_dir / GN])
    assert study.runs["run"].tolist() == [GN]
    assert study.notes == (f"left out: {runs_dir / BN}: {damage}",)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100)
@given(name=st.sampled_from(FILES), fraction=st.floats(0, 1), junk=st.binary(max_size=5))
def test_no_file_cut_anywhere_keeps_the_list_from_being_shown(
    write_run: WriteRun, tmp_path: Path, name: str, fraction: float, junk: bytes
) -> None:
    file = write_run(BN) / name
    whole = file.read_bytes()
    file.write_bytes(whole[: int(fraction * len(whole))] + junk)
    listing = list_runs(tmp_path / "runs")
    shutil.rmtree(tmp_path / "runs")
    assert values(listing, "status") in (["done"], ["damaged"])
    assert BN in to_text(listing)
    json.loads(to_json(listing))


def test_a_last_row_that_a_power_cut_left_unfinished_is_not_read(runs_dir: Path) -> None:
    with (runs_dir / GN / "metrics.csv").open("a") as file:
        file.write("2,20,0.001,0.5,0.9")
    (row,) = list_runs(runs_dir, ["norm=gn"]).rows
    assert (row["status"], row["epochs"], row["test_accuracy"]) == ("failed", 1, 0.6)
    assert read_runs([runs_dir / GN]).metrics["test_accuracy"].tolist() == [0.6]


def test_a_run_that_is_done_and_has_no_rows_is_damaged(runs_dir: Path) -> None:
    (runs_dir / BN / "metrics.csv").unlink()
    assert values(list_runs(runs_dir, ["norm=bn"]), "reason") == ["metrics.csv is missing"]


def test_a_run_that_failed_before_it_knew_its_environment_is_a_row_of_both_tables(
    runs_dir: Path,
) -> None:
    for name in ("env.json", "metrics.csv"):
        (runs_dir / GN / name).unlink()
    assert values(list_runs(runs_dir, ["norm=gn"]), "status") == ["failed"]
    study = read_runs([runs_dir / BN, runs_dir / GN])
    row = study.runs.iloc[1]
    assert (row["status"], row["reason"], row["epochs"]) == (
        "failed",
        "OutOfMemoryError: no room\nfor more",
        0,
    )
    assert row[["test_accuracy", "threads", "data", "commit"]].isna().all()
    assert study.runs["threads"].tolist()[0] == 2
    assert "2.0" not in study.runs[["threads", "num_test"]].to_csv(), (
        "a count stays one beside a gap"
    )
    assert list(study.environments) == [BN]
    assert study.metrics["run"].unique().tolist() == [BN]


def test_validation_accuracy_is_a_column_where_any_run_has_one(
    runs_dir: Path, write_run: WriteRun
) -> None:
    assert "val_accuracy" not in read_runs(run_dirs(runs_dir)).runs
    assert set(values(list_runs(runs_dir), "val_accuracy")) == {None}
    path = write_run(BN, (0.5, 0.75), **{"data.val_fraction": 0.1})
    held_out = read_runs(run_dirs(runs_dir)).runs.set_index("run")["val_accuracy"]
    assert held_out[path.name] == 0.75
    assert held_out.drop(path.name).isna().all()
    assert found(list_runs(runs_dir, ["val_accuracy>0.7"])) == [path.name]


def test_figures_are_read_to_the_last_digit(runs_dir: Path, write_run: WriteRun) -> None:
    accuracy = 0.1 + 0.2
    path = write_run("normresnet-in-b64-s0", (accuracy,))
    study = read_runs([path])
    assert (
        study.runs["test_accuracy"].tolist()
        == study.metrics["test_accuracy"].tolist()
        == [accuracy]
    )


def test_a_folder_in_which_no_lock_can_be_taken_is_listed_by_its_status(
    runs_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path) -> bool:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("normbench.runs.standing.is_held", refuse)
    assert values(list_runs(runs_dir), "status") == ["done", "failed", "diverged"]
