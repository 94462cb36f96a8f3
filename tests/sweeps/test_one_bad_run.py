"""A run whose directory the disk refuses fails with its reason, and stops no other run."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from kit.disk import Disk, asked, refuse
from kit.launchers import tiny_sweep

from normbench.sweeps.carry_out import exit_code, run_plan, summary
from normbench.sweeps.launchers import launchers
from normbench.sweeps.plan import Plan, make_plan

Obstacle = Callable[[Path], object]


def a_file(path: Path) -> None:
    """A file in the place of the run's directory."""
    path.parent.mkdir(parents=True)
    path.write_text("notes")


def directory(name: str) -> Obstacle:
    """A directory in the place of a file of the run."""

    def make(path: Path) -> None:
        (path / name).mkdir(parents=True)

    make.__name__ = f"directory {name}"
    return make


def a_pipe(path: Path) -> None:
    path.mkdir(parents=True)
    os.mkfifo(path / "status.json")


def a_loop(path: Path) -> None:
    """A folder that cannot be found, whatever asks for it."""
    path.parent.mkdir(parents=True)
    path.symlink_to(path)


NAMES = (".lock", "config.yaml", "env.json", "status.json", "metrics.csv", "steps.csv")
OBSTACLES = [a_file, a_pipe, a_loop, *map(directory, NAMES), directory("checkpoint.pt")]


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def planned() -> Plan:
    return make_plan(tiny_sweep("seed=0,1", "epochs=1", "train.log_every=4"))


def assert_only_the_first_failed(ended: Plan) -> None:
    first, second = ended.runs
    assert first.state in ("failed", "damaged")
    assert second.state == "done"
    assert first.reason
    assert exit_code(ended) == 1
    lines = list(summary(ended, "the command"))
    assert any(first.config.run_id in line and str(first.reason) in line for line in lines)
    assert not any("the same command goes on" in line for line in lines)


@pytest.mark.parametrize("obstacle", OBSTACLES, ids=lambda obstacle: obstacle.__name__)
def test_a_bad_directory_fails_its_own_run_alone(obstacle: Obstacle) -> None:
    plan = planned()
    obstacle(plan.runs[0].config.run_path)
    plan = planned()
    ended = run_plan(plan, plan.open(retry_failed=True), launchers.build("inline", False))
    assert_only_the_first_failed(ended)


@pytest.mark.slow
@pytest.mark.parametrize("name", [".lock", "output.log", "metrics.csv"])
def test_a_bad_directory_fails_its_own_run_alone_in_processes(name: str) -> None:
    plan = planned()
    directory(name)(plan.runs[0].config.run_path)
    plan = planned()
    ended = run_plan(plan, plan.open(retry_failed=True), launchers.build("processes", False))
    assert_only_the_first_failed(ended)


@pytest.mark.parametrize("code", [errno.EIO, errno.EACCES, errno.ENOSPC])
def test_a_disk_that_refuses_everything_fails_the_run_inline_with_its_reason(code: int) -> None:
    plan = planned()
    with asked(Disk(refuse(code), 20, lasting=True)):
        ended = run_plan(plan, plan.open(), launchers.build("inline", False))
    assert [run.state for run in ended.runs] == ["failed", "failed"]
    assert exit_code(ended) == 1
    told = "the disk is full" if code == errno.ENOSPC else os.strerror(code)
    assert all(told in str(run.reason) for run in ended.runs)
    again = planned()
    ended = run_plan(again, again.open(retry_failed=True), launchers.build("inline", False))
    assert [run.state for run in ended.runs] == ["done", "done"]
