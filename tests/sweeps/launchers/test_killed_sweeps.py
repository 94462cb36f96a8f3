"""Sweeps of the real command line that are killed: whatever is left, the same command completes it, nothing twice."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from contract import assert_as_executed_alone, until

from normbench.config.schema import RunConfig
from normbench.runs.rundir import is_held, read_position, read_status, run_state
from normbench.sweeps.plan import make_plan
from normbench.sweeps.sweep import Study

pytestmark = [
    pytest.mark.timeout(900),
    pytest.mark.skipif(
        not Path("/proc/self/fd").exists(), reason="finds the processes of runs in /proc"
    ),
]
TINY = [
    "data=synthetic",
    "data.num_train=640",
    "data.num_test=50",
    "model.widths=[8,16]",
    "train.log_every=5",
]
TINY += ["system.threads=1"]
ENDLESS = ["batch_size=8", "epochs=10000"]  # longer than any test waits


class Sweep:
    """`normbench sweep` in a session of its own, as a terminal has it; what it prints is in a file."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self._output = folder / f"output-{time.monotonic_ns()}.txt"
        with self._output.open("w") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "normbench", "sweep", *arguments],
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def output(self) -> str:
        return self._output.read_text()

    def until(self, condition: Callable[[], object]) -> None:
        """Waits for something to happen while the sweep goes on."""

        def happened() -> object:
            found = condition()
            assert found or self.process.poll() is None, f"it has ended too early:\n{self.output}"
            return found

        until(happened, patience=300)

    def exit_code(self) -> int:
        code = self.process.wait(300)
        until(lambda: not group_lives(self.process.pid))  # the fork server prints to the same file
        print(self.output)  # for whoever reads why a test failed
        return code

    def kill(self, number: int) -> int:
        """Sends a signal to the scheduler alone; its exit code."""
        self.process.send_signal(number)
        return self.exit_code()

    def ctrl_c(self) -> int:
        """What a terminal does: the signal goes to all processes in the foreground, those of runs are not."""
        os.killpg(self.process.pid, signal.SIGINT)
        return self.exit_code()


@pytest.fixture
def sweep(tmp_path: Path) -> Iterator[Callable[..., Sweep]]:
    """Starts sweeps in this test's folder, and leaves none behind."""
    sweeps: list[Sweep] = []

    def start(*arguments: str) -> Sweep:
        sweeps.append(Sweep(tmp_path, *arguments))
        return sweeps[-1]

    yield start
    for one in sweeps:
        if one.process.poll() is None:
            one.process.kill()
            one.process.wait()
    until(
        lambda: (
            not any(is_held(path) for path in (tmp_path / "results" / "runs").glob("normresnet-*"))
        )
    )


def planned(folder: Path, *settings: str) -> list[RunConfig]:
    """The runs of the sweep with these settings in `folder`, one thread each."""
    study = Study("sweep", ()).with_overrides([*settings])
    system = {"system.runs_dir": str(folder / "results" / "runs")}
    return [run.config for run in make_plan(study, system).runs]


def states(configs: list[RunConfig]) -> list[str]:
    return [run_state(config.run_path) for config in configs]


def unfinished(configs: list[RunConfig]) -> list[RunConfig]:
    return [config for config in configs if run_state(config.run_path) == "running"]


def trained(config: RunConfig) -> int:
    """How many steps the run has done, as far as its rows tell."""
    return read_position(config.run_path)


def holder(config: RunConfig) -> int | None:
    """The process that trains this run: the one that prints to its output.log."""
    log = str(config.run_path / "output.log")
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if str((folder / "fd" / "1").readlink()) == log:
                return int(folder.name)
        except OSError:
            continue  # gone, or not ours
    return None


def group_lives(group: int) -> bool:
    """Whether there is a process in this process group; runs have groups of their own."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, its_group, *_ = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(its_group) == group and state != "Z":
            return True
    return False


def is_asked_to_end(process: int) -> bool:
    """Whether a SIGTERM waits for this process, which is stopped."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    pending = [int(line.split()[1], 16) for line in lines if line.startswith(("SigPnd", "ShdPnd"))]
    return any(mask >> (signal.SIGTERM - 1) & 1 for mask in pending)


def fork_server(scheduler: int) -> int | None:
    """The process that this scheduler's runs are forked from."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == scheduler and b"forkserver" in (folder / "cmdline").read_bytes():
                return int(folder.name)
        except OSError:
            continue
    return None


def times_trained(config: RunConfig) -> int:
    """How often the run has come to the end of its one epoch."""
    return (config.run_path / "output.log").read_text().count("epoch 1/1")


def modified(configs: list[RunConfig]) -> dict[Path, int]:
    """When each file of these runs was written."""
    files = [
        file for config in configs for file in config.run_path.iterdir() if file.name != ".lock"
    ]
    return {file: file.stat().st_mtime_ns for file in files}


def test_a_sweep_killed_half_way_is_completed_by_the_same_command_with_no_run_trained_twice(
    tmp_path: Path, sweep: Callable[..., Sweep]
) -> None:
    settings = ["norm=bn,ln,in,gn", "batch_size=1,8,64", "seed=0,1", "data=synthetic", "epochs=1"]
    settings += [
        "data.num_train=160",
        "data.num_test=20",
        "model.widths=[4,8]",
        "train.log_every=5",
        "system.threads=1",
    ]
    configs = planned(tmp_path, *settings)
    assert len(configs) == 24

    first = sweep(*settings, "--jobs", "2")
    first.until(
        lambda: states(configs).count("done") >= 11 and any(map(trained, unfinished(configs)))
    )
    assert first.kill(signal.SIGKILL) == -signal.SIGKILL
    until(lambda: not any(is_held(config.run_path) for config in configs))
    done = [config for config in configs if run_state(config.run_path) == "done"]
    assert 11 <= len(done) < 24
    started = {
        config.run_id: read_status(config.run_path)["started"]
        for config in configs
        if trained(config)
    }
    before = modified(done)

    again = sweep(*settings, "--jobs", "2")
    assert again.exit_code() == 0
    assert f"sweep: 24 runs: {len(done)} done, " in again.output
    assert again.output.splitlines()[-1] == "sweep: 24 done"
    assert modified(done) == before
    ended = {config.run_id: read_status(config.run_path)["started"] for config in configs}
    assert ended | started == ended  # a run that was broken off went on as the same one
    assert [times_trained(config) for config in configs] == [1] * 24
    assert all(
        len((config.run_path / "metrics.csv").read_text().splitlines()) == 2 for config in configs
    )
    assert_as_executed_alone(configs[::5], tmp_path / "alone")


def test_runs_whose_scheduler_is_killed_save_and_stop_by_themselves(
    tmp_path: Path, sweep: Callable[..., Sweep]
) -> None:
    settings = [*TINY, *ENDLESS, "seed=0,1"]
    configs = planned(tmp_path, *settings)
    scheduler = sweep(*settings, "--jobs", "2")
    scheduler.until(lambda: all(trained(config) > 0 for config in configs))
    processes = [holder(config) for config in configs]
    assert None not in processes
    assert scheduler.kill(signal.SIGKILL) == -signal.SIGKILL
    until(lambda: states(configs) == ["interrupted", "interrupted"])
    assert all((config.run_path / "checkpoint.pt").exists() for config in configs)
    until(lambda: not any(Path(f"/proc/{process}").exists() for process in processes))


def test_ctrl_c_stops_all_and_the_command_it_names_goes_on_to_the_same_numbers(
    tmp_path: Path, sweep: Callable[..., Sweep]
) -> None:
    settings = [*TINY, "batch_size=8", "epochs=2", "seed=0,1,2,3"]  # 160 steps each
    configs = planned(tmp_path, *settings)
    first = sweep(*settings, "--jobs", "2")
    first.until(
        lambda: (
            "done" in states(configs)
            and any(20 < trained(config) < 80 for config in unfinished(configs))
        )
    )
    assert first.ctrl_c() == 130
    assert "Traceback" not in first.output
    assert set(states(configs)) <= {"done", "interrupted", "new"}
    interrupted = [config for config in configs if run_state(config.run_path) == "interrupted"]
    assert interrupted
    assert all(
        (config.run_path / "checkpoint.pt").exists() for config in interrupted if trained(config)
    )

    words, _, command = first.output.splitlines()[-1].partition(": ")
    assert words == "  not finished; the same command goes on"
    program, sweep_command, *arguments = shlex.split(command)
    assert (program, sweep_command) == ("normbench", "sweep")
    assert sweep(*arguments).exit_code() == 0
    assert states(configs) == ["done"] * 4
    resumed = [
        config
        for config in configs
        if json.loads((config.run_path / "env.json").read_text())["resumed"]
    ]
    assert resumed
    assert set(resumed) <= set(interrupted)
    assert_as_executed_alone(configs, tmp_path / "alone")


def test_ctrl_c_while_the_first_runs_are_about_to_start_is_an_interruption_too(
    tmp_path: Path, sweep: Callable[..., Sweep]
) -> None:
    settings = [*TINY, *ENDLESS, "seed=0,1"]
    scheduler = sweep(*settings, "--jobs", "2")
    scheduler.until(lambda: fork_server(scheduler.process.pid))
    assert scheduler.ctrl_c() == 130
    assert "Traceback" not in scheduler.output
    assert "the same command goes on" in scheduler.output.splitlines()[-1]
    assert set(states(planned(tmp_path, *settings))) <= {"new", "interrupted", "killed"}


def test_a_second_ctrl_c_does_not_wait_for_the_runs_and_loses_only_what_no_checkpoint_holds(
    tmp_path: Path, sweep: Callable[..., Sweep]
) -> None:
    settings = [*TINY, *ENDLESS, "seed=0,1"]
    configs = planned(tmp_path, *settings)
    scheduler = sweep(*settings, "--jobs", "2")
    scheduler.until(lambda: all(trained(config) > 0 for config in configs))
    processes = [process for config in configs if (process := holder(config)) is not None]
    for process in processes:
        os.kill(process, signal.SIGSTOP)  # they cannot answer
    scheduler.process.send_signal(signal.SIGINT)
    scheduler.until(lambda: all(map(is_asked_to_end, processes)))
    assert scheduler.ctrl_c() == 130
    assert "Traceback" not in scheduler.output
    until(lambda: states(configs) == ["killed", "killed"])


def test_a_killed_run_is_failed_with_a_reason_and_a_retry_completes_the_sweep(
    tmp_path: Path, sweep: Callable[..., Sweep]
) -> None:
    settings = [*TINY, "batch_size=8", "epochs=2", "seed=0,1,2"]
    configs = planned(tmp_path, *settings)
    first = sweep(*settings, "--jobs", "2")
    killed: list[int] = []

    def kill_one() -> bool:
        if trained(configs[1]) > 0 and (process := holder(configs[1])) is not None:
            os.kill(process, signal.SIGKILL)
            killed.append(process)
        return bool(killed)

    first.until(kill_one)
    assert first.exit_code() == 1
    assert states(configs) == ["done", "failed", "done"]
    assert str(read_status(configs[1].run_path)["reason"]).startswith("killed by SIGKILL")
    assert f"failed: {configs[1].run_id}: killed by SIGKILL" in first.output
    done = modified([configs[0], configs[2]])
    words, _, command = first.output.splitlines()[-1].partition(": normbench sweep ")
    assert words == "  retry with"
    assert sweep(*shlex.split(command)).exit_code() == 0
    assert states(configs) == ["done"] * 3
    assert modified([configs[0], configs[2]]) == done
    assert_as_executed_alone(configs, tmp_path / "alone")


def test_two_of_the_same_sweep_at_the_same_time_share_it_and_train_nothing_twice(
    tmp_path: Path, sweep: Callable[..., Sweep]
) -> None:
    settings = [*TINY, "norm=bn,gn", "batch_size=8", "epochs=1", "seed=0,1,2"]
    configs = planned(tmp_path, *settings)
    both = [sweep(*settings, "--jobs", "2"), sweep(*settings, "--jobs", "2")]
    assert [one.exit_code() for one in both] == [0, 0]
    assert "Traceback" not in "".join(one.output for one in both)
    assert states(configs) == ["done"] * 6
    assert [times_trained(config) for config in configs] == [1] * 6
    assert all(
        not json.loads((config.run_path / "env.json").read_text())["resumed"] for config in configs
    )
