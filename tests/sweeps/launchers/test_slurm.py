"""Sweeps on a real Slurm of a single node: arrays, preemption, Ctrl-C, limits, refusals."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from filelock import FileLock
from kit.clusters import slurm_jobs
from kit.launchers import (
    RUNS,
    Scripted,
    SweepCommand,
    launched,
    never,
    noted,
    planned,
    reason,
    states,
    times_resumed,
)

from normbench.atomic import write_json
from normbench.config.schema import RunConfig
from normbench.sweeps.launchers import Event, Launcher, launchers
from normbench.sweeps.launchers import slurm as slurm_launcher
from normbench.sweeps.launchers.launcher import Work, train

ON_SLURM = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.xdist_group("slurm"),
    pytest.mark.usefixtures("slurm_node"),
]
Run = Callable[..., tuple[int, str, str]]
CompareAlone = Callable[..., None]


def on_slurm(test: Callable[..., None]) -> Callable[..., None]:
    for mark in ON_SLURM:
        test = mark(test)
    return test


def built(work: Work = train, **options: object) -> Launcher:
    return launchers.build("slurm", False, work, options={"partition": "cpu", **options})


@on_slurm
def test_a_preempted_run_is_run_again_and_goes_on_to_the_same_bits(
    tmp_path: Path, assert_as_alone: CompareAlone
) -> None:
    configs = planned(tmp_path / "runs", "seed=0")
    requeued: list[str] = []

    def preempt() -> bool:
        if noted(tmp_path, "held") and not requeued:
            requeued.extend(slurm_jobs(tmp_path / "runs"))
            subprocess.run(["scontrol", "requeue", *requeued], check=True)
        return False

    launched(built(Scripted(str(tmp_path), {0: ("holds", 9)})), configs, preempt)
    assert len(noted(tmp_path, "tries")) == 2
    assert states(configs) == ["done"]
    assert times_resumed(configs) == [1]
    assert_as_alone(configs)


@on_slurm
def test_a_run_over_its_time_is_failed_with_the_limit_and_keeps_its_checkpoint(
    tmp_path: Path,
) -> None:
    configs = planned(tmp_path / "runs", "seed=0")
    work = Scripted(str(tmp_path), {0: ("holds", 9)})
    launched(built(work, timeout=20), configs)
    assert states(configs) == ["failed"]
    assert reason(configs[0]) == "over the time limit of 20 s"
    assert (configs[0].run_path / "checkpoint.pt").exists()


@on_slurm
def test_ctrl_c_ends_every_task_of_the_array_and_the_same_command_goes_on(
    tmp_path: Path, assert_as_alone: CompareAlone
) -> None:
    settings = ["seed=0,1", "system.threads=1", "--runs-dir", str(tmp_path / "runs")]
    options = ["launcher.partition=cpu", "launcher.jobs=1", "launcher.sbatch={comment: ours}"]
    configs = planned(tmp_path / "runs", "seed=0,1")
    code = f"kit.main(kit.Scripted({str(tmp_path)!r}, {{0: ('holds', 9)}}))"
    arguments = [*RUNS, *settings, "--launcher", "slurm", *options]
    command = SweepCommand(tmp_path, *arguments, code=code)
    command.until(lambda: noted(tmp_path, "held"))
    (script,) = (tmp_path / "runs" / ".slurm").glob("*_submission.sh")
    assert "#SBATCH --array=0-1%1" in script.read_text()
    assert "#SBATCH --comment=ours" in script.read_text()
    assert command.ctrl_c() == 130
    assert states(configs) == ["interrupted", "new"]
    assert (configs[0].run_path / "checkpoint.pt").exists()
    assert slurm_jobs(tmp_path / "runs") == []
    words, _, again = command.output.splitlines()[-1].partition(": normbench sweep ")
    assert words == "  not finished; the same command goes on"
    assert SweepCommand(tmp_path, *shlex.split(again)).exit_code() == 0
    assert times_resumed(configs) == [1, 0]
    assert slurm_jobs(tmp_path / "runs") == []
    assert_as_alone(configs)


# With commands in place of Slurm's, which note how they are called


@pytest.fixture
def array(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Sequence[RunConfig], str], list[Event]]:
    """The events of an array 7 whose task 7_0 has a line of squeue, or "" for none."""
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(slurm_launcher, "_submit", lambda *arguments: ["7_0"])

    def events(configs: Sequence[RunConfig], line: str) -> list[Event]:
        for name, told in (("squeue", line and f"7_0|{line}"), ("scancel", "")):
            command = tmp_path / name
            note_call = f"echo {name} $* >> {tmp_path}/asked"
            command.write_text(f"#!/bin/sh\n{note_call}; printf '%s' '{told}'\n")
            command.chmod(0o755)
        (configs[0].run_path.parent / ".slurm").mkdir(parents=True, exist_ok=True)
        task = slurm_launcher.Task(train, False, None)
        return list(slurm_launcher._array(configs, {}, task, never))

    return events


def test_a_task_that_slurm_will_never_start_again_is_cancelled_and_its_run_has_failed(
    tmp_path: Path, array: Callable[..., list[Event]]
) -> None:
    configs = planned(tmp_path / "runs", "seed=0")
    events = array(configs, "PENDING|launch failed requeued held")
    assert [event.kind for event in events] == ["started", "ended"]
    assert states(configs) == ["failed"]
    assert reason(configs[0]) == "its Slurm job 7_0 ended as launch failed requeued held"
    assert "scancel 7_0" in noted(tmp_path, "asked")


def test_a_task_that_slurm_has_accepted_and_forgotten_has_not_failed(
    tmp_path: Path, array: Callable[..., list[Event]]
) -> None:
    configs = planned(tmp_path / "runs", "seed=0")
    events = array(configs, "")
    assert [event.kind for event in events] == ["started", "ended"]
    assert states(configs) == ["new"], "the same command submits it again"


def test_waiting_tasks_of_a_killed_sweep_are_cancelled_for_runs_submitted_again_and_for_no_others(
    tmp_path: Path, array: Callable[..., list[Event]]
) -> None:
    configs = planned(tmp_path / "runs", "seed=0")
    folder = tmp_path / "runs" / ".slurm"
    folder.mkdir(parents=True)
    mine = configs[0].run_id
    write_json(folder / "5.json", {"5_0": mine, "5_1": "another-run"})
    write_json(folder / "6.json", {"6_0": mine})
    (folder / "4.json").write_text("{damaged")
    with FileLock(folder / "6.lock"):  # a living sweep
        array(configs, "COMPLETED|None")
    asked = [line for line in noted(tmp_path, "asked") if line.startswith("scancel")]
    assert asked == ["scancel --state=PENDING 5_0"]
    assert not list(folder.glob("7.*"))


# Refused before anything is written


@on_slurm
def test_an_unknown_partition_is_refused(normbench: Run) -> None:
    options = ["--launcher", "slurm", "launcher.partition=nosuch"]
    code, out, error = normbench("sweep", "data=synthetic", "seed=0", *options)
    assert (code, out) == (2, "")
    assert error == "normbench: launcher slurm: there is no partition 'nosuch': see sinfo\n"


def test_a_machine_without_slurm_is_refused(
    normbench: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("submitit")
    monkeypatch.setenv("PATH", os.devnull)
    code, out, error = normbench("sweep", "data=synthetic", "seed=0", "--launcher", "slurm")
    assert (code, out) == (2, "")
    told = "normbench: launcher slurm: there is no sbatch here; run this where you submit jobs\n"
    assert error == told
