"""A study's folder goes on anywhere: copied, continued, made in parts and merged."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from kit.tiny import tiny

from normbench.analysis.design import read_design
from normbench.analysis.study_files import write_study
from normbench.analysis.study_reader import read_study
from normbench.training.engine import Stopped

Run = Callable[..., tuple[int, str, str]]
NORMS = "norm=bn,gn"


def sweep(normbench: Run, output: str, runs: str, *settings: str) -> str:
    """The output of a sweep whose runs and folder lie under these names."""
    given = ("sweep", *tiny(*settings), "--launcher", "inline", "--runs-dir", runs, "-o", output)
    code, out, err = normbench(*given)
    assert code == 0, err
    return out


def tables(folder: Path) -> dict[str, bytes]:
    """All that a study's folder says, but for the page, which names the command."""
    files = [path for path in sorted(folder.rglob("*")) if path.suffix in (".csv", ".md", ".tex")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def records(folder: Path) -> dict[str, bytes]:
    """The tables without clocks and moments: the runs of another machine have others."""
    study = read_study(folder / "runs.csv")
    kept = [name for name in study.metrics if not name.endswith(("seconds", "second", "_mib"))]
    return {
        "metrics": study.metrics[kept].to_csv().encode(),
        "correct": repr(sorted(study.correct.items())).encode(),
        "runs": study.runs[["run", "test_accuracy", "status"]].to_csv().encode(),
    }


def test_a_copied_folder_is_gone_on_with_and_what_it_holds_is_not_trained_again(
    normbench: Run, tmp_path: Path
) -> None:
    sweep(normbench, "a", "there", NORMS, "seed=0,1")
    (tmp_path / "elsewhere").mkdir()
    shutil.copytree(tmp_path / "a", tmp_path / "elsewhere" / "a")
    out = sweep(normbench, "elsewhere/a", "here", NORMS, "seed=0,1,2")
    assert "6 runs: 4 done, 2 to do\n  4 of them by the tables of the folder\n" in out
    assert len(list((tmp_path / "here").glob("normresnet*"))) == 2
    sweep(normbench, "whole", "there", NORMS, "seed=0,1,2")
    assert records(tmp_path / "elsewhere" / "a") == records(tmp_path / "whole")


def test_two_parts_merged_are_the_study_made_in_one_place_byte_for_byte(
    normbench: Run, tmp_path: Path
) -> None:
    # One folder of runs, so that clocks are the same; the parts know nothing of each other.
    sweep(normbench, "part-2", "runs", NORMS, "seed=2")
    sweep(normbench, "part-1", "runs", NORMS, "seed=0,1")
    sweep(normbench, "whole", "runs", NORMS, "seed=0,1,2")
    for order in (["part-1", "part-2"], ["part-2", "part-1"], ["part-2", "whole", "part-1"]):
        merged = "-".join(order)
        assert normbench("runs", "merge", *order, "-o", merged)[0] == 0
        assert tables(tmp_path / merged) == tables(tmp_path / "whole")
        for name in ("env.json", "configs.json", "study.json", "SHA256SUMS"):
            assert (tmp_path / merged / name).read_bytes() == (
                tmp_path / "whole" / name
            ).read_bytes()


def test_a_folder_without_a_design_goes_on_with_that_of_the_sweep(
    normbench: Run, tmp_path: Path
) -> None:
    sweep(normbench, "a", "there", NORMS, "seed=0")
    study = replace(read_study(tmp_path / "a" / "runs.csv"), design=None)
    write_study(study, tmp_path / "b")
    out = sweep(normbench, "b", "here", NORMS, "seed=0,1")
    assert "  2 of them by the tables of the folder\n" in out
    assert read_study(tmp_path / "b" / "runs.csv").design is not None


@pytest.fixture
def two_results(normbench: Run, tmp_path: Path) -> tuple[Path, str]:
    """The folders `a` and `b`, in which one run has two results; the id of that run."""
    sweep(normbench, "a", "runs", NORMS, "seed=0")
    study = read_study(tmp_path / "a" / "runs.csv")
    run = str(study.runs["run"][0])
    for table in (study.runs, study.metrics):
        table.loc[table["run"] == run, "test_loss"] += 0.5
    write_study(study, tmp_path / "b")
    return tmp_path / "b", run


def test_two_results_of_one_run_are_refused_and_both_are_named(
    normbench: Run, two_results: tuple[Path, str]
) -> None:
    other, run = two_results
    for command in (("runs", "merge", "a", "b", "-o", "c"), ("report", "a", "b", "-o", "c")):
        code, _, err = normbench(*command)
        assert code == 1
        assert f"{run} has two different results: test_loss is " in err
        assert "in 'a'" in err
        assert "in 'b'" in err
        assert len(err.splitlines()) == 1
    given = (*tiny(NORMS, "seed=0"), "--launcher", "inline", "--runs-dir", "runs")
    before = tables(other)
    code, _, err = normbench("sweep", *given, "-o", "b")
    assert code == 1
    assert f"{run} has two different results" in err
    assert tables(other) == before


def test_trained_again_a_run_replaces_what_the_folder_held(
    normbench: Run, two_results: tuple[Path, str], tmp_path: Path
) -> None:
    given = (*tiny(NORMS, "seed=0"), "--launcher", "inline", "--runs-dir", "runs", "--restart")
    assert normbench("sweep", *given, "-o", "b")[0] == 0
    assert records(tmp_path / "b") == records(tmp_path / "a")


def test_a_held_result_stands_until_another_replaces_it(
    normbench: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep(normbench, "a", "there", NORMS, "seed=0")
    before = records(tmp_path / "a")
    monkeypatch.setattr("normbench.training.run._train_all_epochs", broken_off)
    given = (*tiny(NORMS, "seed=0"), "--launcher", "inline", "--runs-dir", "here", "--restart")
    code, out, _ = normbench("sweep", *given, "-o", "a")
    assert code == 130
    assert "not finished; the same command goes on" in out
    assert records(tmp_path / "a") == before


def broken_off(*arguments: object) -> None:
    raise Stopped


def test_a_run_that_diverged_in_one_part_and_not_in_the_other_has_two_results(
    normbench: Run, tmp_path: Path
) -> None:
    sweep(normbench, "a", "runs", NORMS, "seed=0")
    study = read_study(tmp_path / "a" / "runs.csv")
    run = str(study.runs["run"][0])
    study.runs.loc[0, "status"] = "diverged"
    correct = {name: bits for name, bits in study.correct.items() if name != run}
    write_study(replace(study, correct=correct), tmp_path / "b")
    code, _, err = normbench("runs", "merge", "a", "b", "-o", "c")
    assert code == 1
    assert f"{run} has two different results: its state is " in err


def test_bits_that_are_another_run_s_or_nobody_s_are_refused(
    normbench: Run, tmp_path: Path
) -> None:
    sweep(normbench, "a", "runs", NORMS, "seed=0")
    study = read_study(tmp_path / "a" / "runs.csv")
    first, second = study.correct
    half = bytes([0b10101010] * len(study.correct[first]))
    for name, correct, told in (
        ("half", {**study.correct, first: half}, "does not agree"),
        ("short", {**study.correct, first: b"1"}, "has 1 bytes for"),
        ("nobody", {"nobody": study.correct[second]}, "not finished in runs.csv: nobody"),
    ):
        write_study(replace(study, correct=correct), tmp_path / name)
        code, _, err = normbench("table", name)
        assert code == 1
        assert told in err


def test_another_design_is_refused_before_anything_is_trained(
    normbench: Run, tmp_path: Path
) -> None:
    sweep(normbench, "a", "runs", NORMS, "seed=0")
    study = read_study(tmp_path / "a" / "runs.csv")
    other = read_design({"name": "sweep", "smallest_difference": 1})
    write_study(replace(study, design=other), tmp_path / "b")
    given = (*tiny(NORMS, "seed=0,1"), "--launcher", "inline", "--runs-dir", "new", "-o", "b")
    for options in ([], ["--dry-run"], ["--restart"]):
        code, _, err = normbench("sweep", *given, *options)
        assert code == 2
        assert "parts of the study sweep with different designs" in err
    assert not (tmp_path / "new").exists()


def test_a_study_without_design_and_bits_leaves_none_of_an_earlier_one(
    normbench: Run, tmp_path: Path
) -> None:
    sweep(normbench, "a", "runs", NORMS, "seed=0")
    study = read_study(tmp_path / "a" / "runs.csv")
    write_study(replace(study, design=None, correct={}), tmp_path / "a")
    again = read_study(tmp_path / "a" / "runs.csv")
    assert (again.design, again.correct, again.notes) == (None, {}, ())


def test_runs_of_another_sweep_are_not_mixed_in(normbench: Run, tmp_path: Path) -> None:
    sweep(normbench, "a", "runs", "norm=bn", "seed=0")
    before = tables(tmp_path / "a")
    given = (*tiny("norm=gn", "seed=0"), "--launcher", "inline", "--runs-dir", "runs", "-o", "a")
    code, _, err = normbench("sweep", *given)
    assert code == 2
    assert "holds runs that are not of this sweep" in err
    assert tables(tmp_path / "a") == before
    assert len(pd.read_csv(tmp_path / "a" / "runs.csv")) == 1
