"""Runs from directories and from CSV files, which must say the same."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from normbench.analysis.loading import check_comparable, load_frames
from normbench.analysis.tables import to_csv, to_latex, to_markdown
from normbench.errors import NormbenchError, RunFailure

STUDY = Path(__file__).parents[2] / "results" / "first-sweep"


def test_a_study_is_read_from_its_folder_or_its_file_and_counts_once() -> None:
    (by_folder, _), (by_file, _) = load_frames([STUDY]), load_frames([STUDY / "runs.csv"])
    (twice, _) = load_frames([STUDY, STUDY])
    assert len(by_folder.runs) == len(by_file.runs) == len(twice.runs) == 12
    assert len(by_folder.metrics) == len(twice.metrics) == 24
    assert set(by_folder.environments) == set(by_folder.runs["run"])


def test_the_committed_tables_are_what_the_command_makes_of_the_committed_runs() -> None:
    for study in ("first-sweep", "first-light"):
        frames, _ = load_frames([STUDY.with_name(study)])
        assert (STUDY.with_name(study) / "table.md").read_text() == to_markdown(frames.runs)


def test_a_condition_keeps_the_rows_of_its_runs_in_every_table() -> None:
    frames, _ = load_frames([STUDY], "norm=bn and batch_size<=8")
    assert set(frames.runs["norm"]) == set(frames.metrics["norm"]) == set(frames.steps["norm"]) == {"bn"}
    assert sorted(frames.runs["batch_size"]) == [1, 8]
    with pytest.raises(NormbenchError, match="no runs match norm=zz"):
        load_frames([STUDY], "norm=zz")


def test_no_runs_and_no_table_are_named(tmp_path: Path) -> None:
    with pytest.raises(NormbenchError, match="no runs in"):
        load_frames([tmp_path])
    (tmp_path / "runs.csv").write_text("a,b\n1,2\n")
    with pytest.raises(RunFailure, match=r"runs\.csv' cannot be read: no column"):
        load_frames([tmp_path])


def test_a_damaged_run_is_left_out_with_a_note(tmp_path: Path) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.yaml").write_text("norm: {")
    frames, notes = load_frames([tmp_path, STUDY])
    assert len(frames.runs) == 12
    assert notes == [f"left out: {tmp_path / 'broken'}: config.yaml is damaged"]


def test_runs_of_different_data_epochs_or_precision_are_not_mixed() -> None:
    runs = load_frames([STUDY])[0].runs
    check_comparable(runs)
    for column, value in {"data": "other", "epochs": 99, "precision": "bf16"}.items():
        with pytest.raises(NormbenchError, match=f"runs of different {column}.*--where {column}="):
            check_comparable(pd.concat([runs, runs.assign(**{column: value})]))
    failed = runs.assign(status="failed", epochs=0)
    check_comparable(pd.concat([runs, failed]))


def test_the_latex_table_is_escaped_and_complete() -> None:
    latex = to_latex(load_frames([STUDY], "batch_size=1")[0].runs)
    assert r"bn & 14.7 \% & $\pm$ 0.7 \% & 1 \\" in latex
    assert latex.count(r"\begin") == latex.count(r"\end") == 2
    assert all(line.count("&") == 3 for line in latex.splitlines() if line.endswith(r"\\"))


def test_the_csv_table_has_every_figure_unrounded(tmp_path: Path) -> None:
    runs = load_frames([STUDY])[0].runs
    (tmp_path / "table.csv").write_text(to_csv(runs))
    back = pd.read_csv(tmp_path / "table.csv")
    assert back["test_accuracy"].tolist() == runs["test_accuracy"].tolist()
