"""Killed sweep commands: the same command completes the sweep, and trains nothing twice."""

from __future__ import annotations

import os
import shlex
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from kit.launchers import SweepCommand, modified, noted, planned, states, times_resumed, until
from kit.tiny import tiny

from normbench.config.schema import RunConfig
from normbench.runs.state import is_held, read_status

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not Path("/proc/self").exists(), reason="finds processes in /proc"),
]
Start = Callable[..., SweepCommand]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts `normbench sweep ... --jobs 2` in the folder of the test, and leaves none behind."""
    commands: list[SweepCommand] = []

    def sweep(*settings: str, code: str | None = None) -> SweepCommand:
        given = tiny("data.augment=standard", "train.log_every=3", "system.threads=1", *settings)
        commands.append(SweepCommand(tmp_path, *given, "--jobs", "2", code=code))
        return commands[-1]

    yield sweep
    for command in commands:
        if command.process.poll() is None:
            command.process.kill()
            command.process.wait()
    runs = tmp_path / "results" / "runs"
    until(lambda: not any(is_held(path) for path in runs.glob("normresnet-*")))


@pytest.fixture
def runs(tmp_path: Path) -> Callable[..., list[RunConfig]]:
    """Lists the runs of a sweep with given settings in the folder of the test."""
    return lambda *settings: planned(tmp_path / "results" / "runs", *settings)


def holding(folder: Path, *seeds: int) -> str:
    """Code of a command with runs held after nine steps, by seed."""
    script = dict.fromkeys(seeds, ("holds", 9))
    return f"kit.main(kit.Scripted({str(folder)!r}, {script}))"


def held(folder: Path) -> list[int]:
    """The processes of held runs."""
    return [int(process) for process in noted(folder, "held")]


def times_trained(config: RunConfig) -> int:
    """Counts the ends of the run's second epoch."""
    return (config.run_path / "output.log").read_text().count("epoch 2/2")


def has_ended(process: int) -> bool:
    return not Path(f"/proc/{process}").exists()


def is_asked_to_end(process: int) -> bool:
    """Whether a SIGTERM is pending for a stopped process."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    pending = [int(line.split()[1], 16) for line in lines if line.startswith(("SigPnd", "ShdPnd"))]
    return any(mask >> (signal.SIGTERM - 1) & 1 for mask in pending)


def fork_server(scheduler: int) -> int | None:
    """The fork server of a scheduler."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == scheduler and b"forkserver" in (folder / "cmdline").read_bytes():
                return int(folder.name)
        except OSError:
            continue
    return None


def test_a_sweep_killed_half_way_is_completed_by_the_same_command_with_no_run_trained_twice(
    tmp_path: Path,
    start: Start,
    runs: Callable[..., list[RunConfig]],
    assert_as_alone: Callable[..., None],
) -> None:
    settings = ["norm=bn,gn", "seed=range(0,5)"]
    configs = runs(*settings)
    first = start(*settings, code=holding(tmp_path, 3))
    first.until(lambda: held(tmp_path))
    first.kill()
    until(lambda: not any(is_held(config.run_path) for config in configs))
    done = [config for config in configs if states([config]) == ["done"]]
    assert 2 <= len(done) < 10
    begun = [read_status(config.run_path).get("started") for config in configs]
    before = modified(done)

    again = start(*settings)
    assert again.exit_code() == 0
    assert f"sweep: 10 runs: {len(done)} done, " in again.output
    assert again.output.splitlines()[-1] == "sweep: 10 done"
    assert modified(done) == before
    for config, started in zip(configs, begun, strict=True):
        # Runs broken off went on as the same runs.
        assert started in (None, read_status(config.run_path)["started"])
        assert times_trained(config) == 1
        assert len((config.run_path / "metrics.csv").read_text().splitlines()) == 3
    assert sum(times_resumed(configs)) >= 1
    assert_as_alone(configs)


def test_runs_whose_scheduler_is_killed_save_and_stop_by_themselves(
    tmp_path: Path, start: Start, runs: Callable[..., list[RunConfig]]
) -> None:
    scheduler = start("seed=0,1", code=holding(tmp_path, 0, 1))
    scheduler.until(lambda: len(held(tmp_path)) == 2)
    scheduler.kill()
    configs = runs("seed=0,1")
    until(lambda: states(configs) == ["interrupted", "interrupted"])
    assert all((config.run_path / "checkpoint.pt").exists() for config in configs)
    until(lambda: all(map(has_ended, held(tmp_path))))


def test_ctrl_c_stops_all_and_the_command_it_names_goes_on_to_the_same_numbers(
    tmp_path: Path,
    start: Start,
    runs: Callable[..., list[RunConfig]],
    assert_as_alone: Callable[..., None],
) -> None:
    configs = runs("seed=range(0,4)")
    first = start("seed=range(0,4)", code=holding(tmp_path, 1, 2))
    first.until(lambda: states(configs[:1]) == ["done"] and len(held(tmp_path)) == 2)
    assert first.ctrl_c() == 130
    assert "Traceback" not in first.output
    assert states(configs) == ["done", "interrupted", "interrupted", "new"]

    words, _, command = first.output.splitlines()[-1].partition(": normbench sweep ")
    assert words == "  not finished; the same command goes on"
    again = SweepCommand(tmp_path, *shlex.split(command))
    assert again.exit_code() == 0
    assert states(configs) == ["done"] * 4
    assert times_resumed(configs) == [0, 1, 1, 0]
    assert_as_alone(configs)


def test_ctrl_c_while_the_first_runs_are_about_to_start_is_an_interruption_too(
    start: Start, runs: Callable[..., list[RunConfig]]
) -> None:
    scheduler = start("seed=0,1", "epochs=10000")
    scheduler.until(lambda: fork_server(scheduler.process.pid))
    assert scheduler.ctrl_c() == 130
    assert "Traceback" not in scheduler.output
    assert "the same command goes on" in scheduler.output.splitlines()[-1]
    configs = runs("seed=0,1", "epochs=10000")
    assert set(states(configs)) <= {"new", "interrupted", "killed"}


def test_a_second_ctrl_c_does_not_wait_for_the_runs_and_loses_only_what_no_checkpoint_holds(
    tmp_path: Path, start: Start, runs: Callable[..., list[RunConfig]]
) -> None:
    scheduler = start("seed=0,1", code=holding(tmp_path, 0, 1))
    scheduler.until(lambda: len(held(tmp_path)) == 2)
    for process in held(tmp_path):
        os.kill(process, signal.SIGSTOP)  # cannot answer
    scheduler.process.send_signal(signal.SIGINT)
    scheduler.until(lambda: all(map(is_asked_to_end, held(tmp_path))))
    assert scheduler.ctrl_c() == 130
    assert "Traceback" not in scheduler.output
    until(lambda: states(runs("seed=0,1")) == ["killed", "killed"])


def test_two_of_the_same_sweep_at_the_same_time_share_it_and_train_nothing_twice(
    start: Start, runs: Callable[..., list[RunConfig]]
) -> None:
    settings = ["norm=bn,gn", "seed=0,1,2"]
    both = [start(*settings), start(*settings)]
    assert [command.exit_code() for command in both] == [0, 0]
    assert "Traceback" not in "".join(command.output for command in both)
    configs = runs(*settings)
    assert states(configs) == ["done"] * 6
    assert [times_trained(config) for config in configs] == [1] * 6
    assert times_resumed(configs) == [0] * 6
