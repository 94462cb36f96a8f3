"""Sweeps on a real Slurm of one node: the one that SLURM_CONF names, or one that scripts/slurm_local.sh starts."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from sweeps import (
    TINY,
    assert_equals_inline,
    ended,
    noted,
    runs,
    started,
    states,
    statuses,
    sweep,
    times_resumed,
    until,
)

from normbench import cli

pytestmark = pytest.mark.timeout(600)
SCRIPT = Path(__file__).parents[3] / "scripts" / "slurm_local.sh"
SLURM = ["--launcher", "slurm", "--partition", "cpu"]


@pytest.fixture(scope="module")
def slurm() -> Iterator[None]:
    """A Slurm that answers; one that is not ours is left as it is."""
    pytest.importorskip("submitit")
    if (
        shutil.which("sinfo")
        and subprocess.run(["sinfo", "-h", "-p", "cpu"], capture_output=True).stdout
    ):
        yield
        return
    done = subprocess.run(["bash", SCRIPT, "start"], capture_output=True, text=True)
    if (
        done.returncode != 0
    ):  # not root, or no Slurm installed: .ci/run installs it, so there these tests run
        pytest.skip(f"no Slurm: {done.stderr.strip()}")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("SLURM_CONF", done.stdout.partition("=")[2].strip())
        yield
    subprocess.run(["bash", SCRIPT, "stop"], check=True)


def jobs(folder: Path) -> list[str]:
    """The tasks of the sweeps in `folder` that Slurm has not done with; others' jobs are none of ours."""
    arrays = {path.name.partition("_")[0] for path in (folder / ".slurm").glob("*_submission.sh")}
    listed = subprocess.run(
        ["squeue", "--me", "-h", "-r", "-o", "%i"], capture_output=True, text=True, check=True
    )
    return [job for job in listed.stdout.split() if job.partition("_")[0] in arrays]


@pytest.mark.usefixtures("slurm")
def test_a_sweep_is_one_array_with_a_limit_and_its_numbers_are_those_of_inline(
    tmp_path: Path,
) -> None:
    study = ["norm=bn,gn", "seed=0,1", "epochs=2", *TINY]
    code, out, _ = sweep(*study, "--runs-dir", str(tmp_path / "runs"), *SLURM, "--jobs", "2")
    assert code == 0
    assert "4 done" in out
    assert set(states(tmp_path / "runs").values()) == {"done"}
    (script,) = (tmp_path / "runs" / ".slurm").glob("*_submission.sh")
    assert "#SBATCH --array=0-3%2" in script.read_text()
    assert jobs(tmp_path / "runs") == []
    assert_equals_inline(tmp_path / "runs", study, tmp_path / "inline")


@pytest.mark.usefixtures("slurm")
def test_a_preempted_run_is_run_again_and_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    study = ["norm=bn", "epochs=3", *TINY]
    code = f"sweeps.main(sweeps.Held({str(tmp_path)!r}, after_steps=13))"
    with started(*study, "--runs-dir", str(tmp_path / "runs"), *SLURM, code=code) as process:
        until(lambda: noted(tmp_path, "held"), process)
        subprocess.run(["scontrol", "requeue", *jobs(tmp_path / "runs")], check=True)
        assert ended(process)[0] == 0
    assert len(noted(tmp_path, "tries")) == 2
    assert times_resumed(runs(tmp_path / "runs")["bn-s0"]) == 1
    assert_equals_inline(tmp_path / "runs", study, tmp_path / "inline")


@pytest.mark.usefixtures("slurm")
def test_a_killed_run_is_failed_with_its_slurm_state_and_the_others_go_on(tmp_path: Path) -> None:
    arguments = ["seed=0,1,2", "epochs=1", *TINY, "--runs-dir", str(tmp_path / "runs"), *SLURM]
    code, out, _ = sweep(*arguments, code=f"sweeps.main(sweeps.Dying({str(tmp_path)!r}))")
    assert code == 1
    assert states(tmp_path / "runs") == {"bn-s0": "done", "bn-s1": "failed", "bn-s2": "done"}
    reason = statuses(tmp_path / "runs")["bn-s1"]["reason"]
    assert reason.endswith("ended as FAILED")
    assert reason in out
    assert len(noted(tmp_path, "tries")) == 3


@pytest.mark.usefixtures("slurm")
def test_ctrl_c_ends_every_task_and_the_same_command_goes_on(tmp_path: Path) -> None:
    study = ["seed=0,1", "epochs=3", *TINY]
    arguments = [*study, "--runs-dir", str(tmp_path / "runs"), *SLURM, "--jobs", "1"]
    with started(
        *arguments, code=f"sweeps.main(sweeps.Held({str(tmp_path)!r}, after_steps=13))"
    ) as process:
        until(lambda: noted(tmp_path, "held"), process)
        process.send_signal(signal.SIGINT)
        code, out, _ = ended(process)
    assert code == 130
    assert "the same command goes on" in out
    assert states(tmp_path / "runs") == {"bn-s0": "interrupted"}
    assert (runs(tmp_path / "runs")["bn-s0"] / "checkpoint.pt").exists()
    assert jobs(tmp_path / "runs") == []
    assert sweep(*arguments)[0] == 0
    assert times_resumed(runs(tmp_path / "runs")["bn-s0"]) == 1
    assert_equals_inline(tmp_path / "runs", study, tmp_path / "inline")


@pytest.mark.usefixtures("slurm")
def test_a_run_over_its_time_is_failed_with_the_limit_and_keeps_its_checkpoint(
    tmp_path: Path,
) -> None:
    arguments = [
        "norm=bn",
        "epochs=3",
        *TINY,
        "--runs-dir",
        str(tmp_path / "runs"),
        *SLURM,
        "--timeout",
        "30",
    ]
    code, _, _ = sweep(
        *arguments, code=f"sweeps.main(sweeps.Held({str(tmp_path)!r}, after_steps=13))"
    )
    assert code == 1
    status = statuses(tmp_path / "runs")["bn-s0"]
    assert (status["state"], status["reason"]) == ("failed", "over the time limit of 30 s")
    assert (runs(tmp_path / "runs")["bn-s0"] / "checkpoint.pt").exists()


# Refused before anything is written


def refusal(
    arguments: list[str],
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> str:
    """The one line of a sweep that is refused with exit code 2 and has left nothing in `folder`."""
    monkeypatch.setattr(
        sys, "argv", ["normbench", "sweep", *TINY, "--runs-dir", str(folder / "runs"), *arguments]
    )
    with pytest.raises(SystemExit) as stop:
        cli.main()
    error = capsys.readouterr().err
    assert stop.value.code == 2
    assert error.count("\n") == 1
    assert not (folder / "runs").exists()
    return error


@pytest.mark.usefixtures("slurm")
def test_an_unknown_partition_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    error = refusal(["--launcher", "slurm", "--partition", "nosuch"], tmp_path, monkeypatch, capsys)
    assert error == "normbench: launcher slurm: there is no partition 'nosuch': see sinfo\n"


def test_a_machine_without_slurm_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("submitit")
    monkeypatch.setenv("PATH", os.devnull)
    error = refusal(["--launcher", "slurm"], tmp_path, monkeypatch, capsys)
    assert (
        error
        == "normbench: launcher slurm: there is no sbatch here; run this where you submit jobs\n"
    )
