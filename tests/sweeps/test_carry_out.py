"""A plan carried out inline, by work without training: results, messages and tables."""

from __future__ import annotations

import shlex
import signal
from collections.abc import Callable
from dataclasses import replace
from itertools import permutations
from pathlib import Path

import pandas as pd
import pytest
from kit.launchers import tiny_sweep

from normbench.analysis.study_files import write_study
from normbench.analysis.tables.comparison import comparison_table
from normbench.analysis.tables.rendering import to_markdown
from normbench.checksums import SUMS
from normbench.config.schema import RunConfig
from normbench.errors import RunFailure
from normbench.runs.state import read_status
from normbench.sweeps.carry_out import exit_code, planned_study, run_plan, summary
from normbench.sweeps.launchers.inline import inline
from normbench.sweeps.plan import Plan, PlannedRun, make_plan

ON_A_PIXEL = "model.widths=[8,8,8,8,8,8]"  # a 1x1 map before the last norm
LeaveRun = Callable[..., Path]
Work = Callable[[RunConfig, bool], object]


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def tiny_plan(*settings: str) -> Plan:
    return make_plan(tiny_sweep(*settings))


def carry_out(plan: Plan, work: Work, *, retry_failed: bool = False, restart: bool = False) -> Plan:
    open_runs = plan.open(retry_failed=retry_failed, restart=restart)
    return run_plan(plan, open_runs, inline(restart, work))


def states(plan: Plan) -> list[str]:
    return [run.state for run in plan.runs]


@pytest.fixture
def trained() -> list[tuple[str, int]]:
    """Norm and seed of every run finished by `finish`."""
    return []


@pytest.fixture
def finish(leave_run: LeaveRun, trained: list[tuple[str, int]]) -> Work:
    """Work that leaves a finished run."""

    def work(config: RunConfig, restart: bool) -> None:
        trained.append((config.norm.name, config.seed))
        leave_run(config)

    return work


# Survival


def test_every_run_ends_in_its_state_whatever_the_others_do(leave_run: LeaveRun) -> None:
    def work(config: RunConfig, restart: bool) -> None:
        match config.seed:
            case 0:
                raise RuntimeError("out of luck\nwith details")
            case 1:
                raise RunFailure("no space left")
            case 2:
                leave_run(config, "diverged", "the loss of step 3 is nan")
            case 3:
                pass
            case 4:
                leave_run(config, "running")  # and dies without a word
            case 5:
                leave_run(config)

    ended = carry_out(tiny_plan("seed=range(0,6)"), work)
    assert states(ended) == ["failed", "failed", "diverged", "failed", "failed", "done"]
    reasons = [str(read_status(run.config.run_path)["reason"]) for run in ended.runs[:5]]
    assert reasons == [
        "RuntimeError: out of luck",
        "no space left",
        "the loss of step 3 is nan",
        *["it ended without saying how"] * 2,
    ]
    assert exit_code(ended) == 1
    assert all((run.config.run_path / "config.yaml").exists() for run in ended.runs)


def test_a_run_that_leaves_its_status_damaged_does_not_stop_the_others(leave_run: LeaveRun) -> None:
    def work(config: RunConfig, restart: bool) -> None:
        path = leave_run(config)
        if config.seed == 0:
            (path / "status.json").write_text("{")

    ended = carry_out(tiny_plan("seed=0,1"), work)
    assert states(ended) == ["damaged", "done"]
    assert any("damaged" in line for line in summary(ended, "again"))
    assert planned_study(ended).runs["seed"].tolist() == [1]


def test_the_advice_about_a_damaged_run_helps(
    normbench: Callable[..., tuple[int, str, str]], leave_run: LeaveRun, finish: Work
) -> None:
    path = leave_run(tiny_plan("seed=0,1").runs[0].config)
    (path / "metrics.csv").write_text("")
    ended = carry_out(tiny_plan("seed=0,1"), finish)
    assert states(ended) == ["damaged", "done"]
    (advice,) = [line for line in summary(ended, "again") if "normbench runs rm" in line]
    command = advice.partition("(normbench ")[2].partition(")")[0]
    assert normbench(*shlex.split(command))[0] == 0
    assert states(carry_out(tiny_plan("seed=0,1"), finish)) == ["done", "done"]


def test_a_run_whose_other_files_are_damaged_does_not_hide_the_others(
    leave_run: LeaveRun, finish: Work
) -> None:
    ended = carry_out(tiny_plan("seed=0,1"), finish)
    (ended.runs[0].config.run_path / "metrics.csv").unlink()
    again = carry_out(tiny_plan("seed=0,1"), finish)
    study = planned_study(again)
    assert study.runs["seed"].tolist() == [1]
    assert study.notes == (f"left out: {again.runs[0].config.run_path}: metrics.csv is missing",)


def test_nothing_that_is_over_is_done_again(
    finish: Work, trained: list[tuple[str, int]], leave_run: LeaveRun
) -> None:
    plan = tiny_plan("norm=bn,gn", "seed=0,1")
    leave_run(plan.runs[1].config, "diverged", "nan")
    leave_run(plan.runs[3].config, "failed", "bad luck")
    ended = carry_out(tiny_plan("norm=bn,gn", "seed=0,1"), finish)
    assert trained == [("bn", 0), ("gn", 0)]
    assert states(ended) == ["done", "diverged", "done", "failed"]
    carry_out(tiny_plan("norm=bn,gn", "seed=0,1"), finish)
    assert len(trained) == 2
    carry_out(tiny_plan("norm=bn,gn", "seed=0,1"), finish, retry_failed=True)
    assert trained[2:] == [("gn", 1)]
    carry_out(tiny_plan("norm=bn,gn", "seed=0,1"), finish, restart=True)
    assert sorted(trained[3:]) == [("bn", 0), ("bn", 1), ("gn", 0), ("gn", 1)]


def test_a_refused_run_is_never_launched_and_stays_refused(
    finish: Work, trained: list[tuple[str, int]]
) -> None:
    ended = carry_out(tiny_plan(ON_A_PIXEL, "norm=ln,in"), finish)
    assert trained == [("ln", 0)]
    assert states(ended) == ["done", "refused"]
    assert exit_code(ended) == 0


def test_a_run_that_was_interrupted_ends_the_sweep_and_the_same_command_goes_on(
    leave_run: LeaveRun, finish: Work, trained: list[tuple[str, int]]
) -> None:
    ended = carry_out(
        tiny_plan("seed=0,1"), lambda config, restart: leave_run(config, "interrupted", "stopped")
    )
    assert states(ended) == ["interrupted", "new"]
    assert list(summary(ended, "normbench sweep tiny")) == [
        "tiny: 1 interrupted, 1 new",
        "  not finished; the same command goes on: normbench sweep tiny",
    ]
    ended = carry_out(tiny_plan("seed=0,1"), finish)
    assert states(ended) == ["done", "done"]
    assert list(summary(ended, "again")) == ["tiny: 2 done"]
    assert trained == [("bn", 0), ("bn", 1)]


def test_a_ctrl_c_lets_no_other_run_begin(finish: Work, trained: list[tuple[str, int]]) -> None:
    def work(config: RunConfig, restart: bool) -> None:
        if not trained:
            signal.raise_signal(signal.SIGINT)
        finish(config, restart)

    ended = carry_out(tiny_plan("seed=0,1"), work)
    assert states(ended) == ["done", "new"]
    assert exit_code(ended) == 130


def test_each_finished_run_is_one_line_that_says_how_many_there_are(
    leave_run: LeaveRun, capsys: pytest.CaptureFixture[str]
) -> None:
    leave_run(tiny_plan().runs[0].config)
    carry_out(tiny_plan("seed=range(0,3)"), lambda config, restart: leave_run(config, reached=0.25))
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["[1/2]", "[2/2]"]
    assert all(" done " in line and "test accuracy 25.00 %" in line for line in lines)


# Messages


@pytest.mark.parametrize(
    ("code", "states"),
    [
        (0, ["done", "refused"]),
        (3, ["diverged"]),
        (1, ["failed", "damaged"]),
        (130, ["new", "interrupted", "killed", "running"]),
    ],
)
def test_the_exit_code_is_that_of_the_worst_whatever_the_order(
    code: int, states: list[str]
) -> None:
    plan = tiny_plan()
    config = plan.runs[0].config
    milder = {0: [], 3: ["refused"], 1: ["diverged"], 130: ["failed", "damaged", "diverged"]}
    for state in states:
        for order in permutations(["done", state, *milder[code]]):
            runs = tuple(PlannedRun(config, found) for found in order)
            assert exit_code(replace(plan, runs=runs)) == code
    assert exit_code(replace(plan, runs=())) == 0


def test_the_last_lines_name_what_failed_its_last_output_and_how_to_retry(
    leave_run: LeaveRun,
) -> None:
    plan = tiny_plan("norm=gn,bn", "seed=0,1")
    for run in plan.runs[:3]:
        leave_run(run.config)
    path = leave_run(plan.runs[3].config, "failed", "killed by SIGKILL")
    (path / "output.log").write_text("one\ntwo\nthree\nfour\n")
    ended = carry_out(tiny_plan("norm=gn,bn", "seed=0,1"), lambda config, restart: None)
    assert list(summary(ended, "normbench sweep tiny")) == [
        "tiny: 3 done, 1 failed",
        f"  failed: {path.name}: killed by SIGKILL",
        "    | two",
        "    | three",
        "    | four",
        "  retry with: normbench sweep tiny --retry-failed",
    ]


def test_of_many_failed_runs_the_summary_shows_some_and_how_to_list_the_others() -> None:
    ended = carry_out(tiny_plan("seed=range(0,23)"), lambda config, restart: None)
    lines = list(summary(ended, "again"))
    assert sum(line.startswith("  failed: ") for line in lines) == 20
    assert lines[-2:] == [
        "  and 3 more: normbench runs --where status=failed",
        "  retry with: again --retry-failed",
    ]


# Tables


def compared(plan: Plan, folder: Path) -> tuple[set[str], pd.DataFrame, str]:
    """The files of the written study, runs.csv, and the comparison table."""
    study = planned_study(plan)
    write_study(study, folder)
    files = {path.name for path in folder.iterdir()}
    return files, pd.read_csv(folder / "runs.csv"), to_markdown(comparison_table(study))


TABLES = {"runs.csv", "metrics.csv", "steps.csv"}
FILES = TABLES | {"env.json", "configs.json", "study.json", SUMS}


def test_runs_that_differ_only_in_their_seed_are_a_row(finish: Work, tmp_path: Path) -> None:
    files, runs, table = compared(
        carry_out(tiny_plan("norm=bn,gn", "seed=0,1"), finish), tmp_path / "out"
    )
    assert files == FILES
    assert runs[["norm", "seed", "status"]].values.tolist() == [
        [n, s, "done"] for n in ("bn", "gn") for s in (0, 1)
    ]
    assert len(pd.read_csv(tmp_path / "out" / "metrics.csv")) == 8
    assert [line.split("|")[1].strip() for line in table.splitlines()[2:4]] == ["bn", "gn"]


@pytest.mark.parametrize(
    "axis", ["norm.num_groups=2,4", "batch_size=8,16", "optim.lr=0.1,0.2", "epochs=1,2"]
)
def test_what_runs_of_a_norm_differ_in_is_a_row_each(
    finish: Work, tmp_path: Path, axis: str
) -> None:
    files, _, table = compared(
        carry_out(tiny_plan("norm=gn", axis, "seed=0,1"), finish), tmp_path / "out"
    )
    assert files == FILES
    rows = table.split("\n\n")[0].splitlines()[2:]
    assert [row.split("|")[-2].strip() for row in rows] == ["2", "2"]  # runs
    values = axis.partition("=")[2].split(",")
    assert [row.split("|")[2].strip() for row in rows] == values


def test_a_refused_run_is_a_row_with_its_reason(finish: Work, tmp_path: Path) -> None:
    _, runs, table = compared(
        carry_out(tiny_plan(ON_A_PIXEL, "norm=ln,in"), finish), tmp_path / "out"
    )
    assert runs["status"].tolist() == ["done", "refused"]
    assert "a 1x1 map" in runs["reason"].tolist()[1]
    assert "1 refused" in table
    assert f"- in: 1 refused: {runs['reason'].tolist()[1]}\n" in table


def test_a_norm_refused_at_one_batch_size_differs_from_itself_in_nothing_else(
    finish: Work, tmp_path: Path
) -> None:
    _, runs, table = compared(
        carry_out(tiny_plan(ON_A_PIXEL, "norm=bn", "batch_size=1,4"), finish), tmp_path / "out"
    )
    assert runs["batch_size"].tolist() == [4, 1]
    assert not [name for name in runs if "." in name]
    assert "runtime" not in table


@pytest.mark.parametrize("concurrent_runs", [1, 2])
def test_the_caption_of_runs_that_were_not_timed_in_turns_says_so_beside_a_refused_one(
    leave_run: LeaveRun, tmp_path: Path, concurrent_runs: int
) -> None:
    def work(config: RunConfig, restart: bool) -> None:
        leave_run(config.with_system(concurrent_runs=concurrent_runs))

    _, _, table = compared(carry_out(tiny_plan(ON_A_PIXEL, "norm=ln,in"), work), tmp_path / "out")
    assert "Times are not measured here: normbench bench does that." in table
    assert "time per epoch" not in table
    assert "a processor, threads: 1, fp32, torch 2.15.0, commit 0123456789ab." in table


def test_accuracies_on_held_out_images_are_a_column_where_there_are_any(
    finish: Work, tmp_path: Path
) -> None:
    _, runs, _ = compared(
        carry_out(tiny_plan("data.val_fraction=0.1"), finish), tmp_path / "held-out"
    )
    assert runs["val_accuracy"].tolist() == [0.5]
    _, runs, _ = compared(carry_out(tiny_plan(), finish), tmp_path / "without")
    assert "val_accuracy" not in runs


def test_runs_that_failed_before_their_first_epoch_are_rows_too(tmp_path: Path) -> None:
    _, runs, table = compared(
        carry_out(tiny_plan("norm=bn,gn"), lambda config, restart: None), tmp_path / "out"
    )
    assert runs["status"].tolist() == ["failed", "failed"]
    assert runs["reason"].tolist() == ["it ended without saying how"] * 2
    assert "None of 2 runs finished." in table


def test_a_run_that_has_not_begun_is_in_no_table(leave_run: LeaveRun) -> None:
    ended = carry_out(
        tiny_plan("seed=0,1"),
        lambda config, restart: leave_run(config, "interrupted", "stopped", epochs=1),
    )
    assert planned_study(ended).runs["status"].tolist() == ["interrupted"]
    assert planned_study(tiny_plan("seed=7,8")).runs.empty
