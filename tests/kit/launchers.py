"""Launchers under test: tiny runs, work by script, sweeps as commands, and results to compare.

Processes and nodes unpickle work by module name: tests/ is on their path.
"""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

from kit.tiny import tiny
from normbench.config.schema import RunConfig
from normbench.errors import RunFailure
from normbench.runs.rundir import open_run
from normbench.runs.standing import standing
from normbench.runs.state import read_status
from normbench.sweeps.launchers import Event, Launcher, launchers
from normbench.sweeps.launchers.launcher import StopAsked, train
from normbench.sweeps.plan import make_plan
from normbench.sweeps.sweep import Sweep
from normbench.training.engine import Trainer

TESTS = Path(__file__).parents[1]
AT_MOST = 300.0  # seconds of waiting: a broken test leaves no process behind
CLOCKS = ("seconds", "per_second", "peak_memory_mib")  # ends of the names of measured columns
RUNS = tiny("data.augment=standard", "train.log_every=3")  # two epochs of seven steps


# Runs


def tiny_sweep(*settings: str) -> Sweep:
    """A sweep of tiny runs with further settings and axes."""
    return Sweep("tiny", ()).with_overrides(tiny(*settings))


def planned(folder: Path, *settings: str, threads: int | None = 1) -> list[RunConfig]:
    """The runs in `folder` of a sweep over RUNS with changed settings and axes."""
    sweep = tiny_sweep("data.augment=standard", "train.log_every=3", *settings)
    system = {"system.runs_dir": str(folder), "system.threads": threads}
    return [run.config for run in make_plan(sweep, system).runs]


def never() -> bool:
    return False


def launched(
    launcher: Launcher, configs: Sequence[RunConfig], should_stop: StopAsked = never
) -> list[Event]:
    """The events of a launch, with the data decoded before, as `run_plan` does."""
    # Not at the top: the import loads pandas, for seconds in every process that unpickles work.
    from normbench.sweeps.carry_out import prepare_data

    prepare_data(configs)
    return list(launcher.launch(configs, should_stop))


def states(configs: Sequence[RunConfig]) -> list[str]:
    return [standing(config.run_path).state for config in configs]


def reason(config: RunConfig) -> str:
    return str(read_status(config.run_path).get("reason"))


def environment(config: RunConfig) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((config.run_path / "env.json").read_text())
    return found


def times_resumed(configs: Sequence[RunConfig]) -> list[int]:
    return [len(environment(config)["resumed"]) for config in configs]


def modified(configs: Sequence[RunConfig]) -> dict[str, int]:
    """The time of writing of each file of the runs, except locks and output logs."""
    times = {}
    for config in configs:
        for file in config.run_path.glob("[!.]*"):
            if file.name != "output.log":
                times[f"{config.run_id}/{file.name}"] = file.stat().st_mtime_ns
    return times


def assert_same_numbers(first: Path, second: Path) -> None:
    """Compares metrics, steps and weights bit for bit; clocks may differ."""
    import torch

    assert _rows(first) == _rows(second)
    assert (first / "steps.csv").read_text() == (second / "steps.csv").read_text()
    weights, expected = (
        torch.load(path / "checkpoint.pt", weights_only=True)["model"] for path in (first, second)
    )
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weight, expected[name]) for name, weight in weights.items())


def _rows(path: Path) -> list[dict[str, str]]:
    with (path / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        for column in [name for name in row if name.endswith(CLOCKS)]:
            del row[column]
    return rows


def assert_each_started_and_ended_once(
    events: Sequence[Event], configs: Sequence[RunConfig]
) -> None:
    order = [(event.config.run_id, event.kind) for event in events]
    assert len(order) == 2 * len(configs)
    for config in configs:
        started = order.index((config.run_id, "started"))
        assert started < order.index((config.run_id, "ended"))


def until(condition: Callable[[], object], patience: float = AT_MOST) -> None:
    """Waits for an event."""
    end = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < end, "this did not happen in time"
        time.sleep(0.02)


# Work


def note(folder: str | Path, name: str, line: object) -> None:
    """Appends a line to a file of the test, whole even when several processes do."""
    descriptor = os.open(Path(folder) / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(descriptor, f"{line}\n".encode())
    os.close(descriptor)


def noted(folder: Path, name: str) -> list[str]:
    return (folder / name).read_text().splitlines() if (folder / name).exists() else []


def _raises(folder: str) -> None:
    raise RuntimeError("the work is broken")


def _refuses(folder: str) -> None:
    raise RunFailure("the disk is full")


def _exits(folder: str) -> None:
    sys.exit(7)


def _exits_at_once(folder: str) -> None:
    print("last words", flush=True)
    os._exit(7)


def _is_killed(folder: str) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _segfaults(folder: str) -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def _says_nothing(folder: str) -> None:
    pass


def _holds(folder: str) -> None:
    """Notes the process under `held`; waits for the file `go` or a request to stop."""
    listening = signal.getsignal(signal.SIGTERM)  # the run's own: changes when the signal arrives
    note(folder, "held", os.getpid())
    end = time.monotonic() + AT_MOST
    while signal.getsignal(signal.SIGTERM) is listening and time.monotonic() < end:
        if (Path(folder) / "go").exists():
            return
        time.sleep(0.01)


def _sleeps(folder: str) -> None:
    """Notes the process under `starting`, and never begins to train."""
    note(folder, "starting", os.getpid())
    time.sleep(AT_MOST)


def _sleeps_deaf(folder: str) -> None:
    """Sleeps without hearing SIGTERM, beside a child noted under `grandchildren`."""
    note(folder, "grandchildren", subprocess.Popen(["sleep", str(AT_MOST)]).pid)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    _sleeps(folder)


ACTS: dict[str, Callable[[str], None]] = {
    "raises": _raises,
    "refuses": _refuses,
    "exits": _exits,
    "exits at once": _exits_at_once,
    "is killed": _is_killed,
    "segfaults": _segfaults,
    "says nothing": _says_nothing,
    "holds": _holds,
    "sleeps": _sleeps,
    "sleeps deaf": _sleeps_deaf,
}


@dataclass(frozen=True)
class Scripted:
    """Work that trains, and acts at the runs of the script.

    script: by seed, the act and the number of steps before the act; None: no training.
    Each call is noted under `tries`.
    """

    folder: str
    script: Mapping[int, tuple[str, int | None]]

    def __call__(self, config: RunConfig, restart: bool) -> None:
        note(self.folder, "tries", config.run_id)
        if config.seed not in self.script:
            train(config, restart)
            return
        act, after_steps = self.script[config.seed]
        if after_steps is None:
            ACTS[act](self.folder)
        else:
            with at_step(after_steps, partial(ACTS[act], self.folder)):
                train(config, restart)


@dataclass(frozen=True)
class SeldomTraining(Scripted):
    """Scripted work in which a run of no act trains at every tenth seed, else diverges at once."""

    def __call__(self, config: RunConfig, restart: bool) -> None:
        if config.seed in self.script or config.seed % 10 == 0:
            super().__call__(config, restart)
            return
        note(self.folder, "tries", config.run_id)
        _diverge(config)


@dataclass(frozen=True)
class Telling:
    """Work without training; notes a variable of the environment, the folder, start and end."""

    folder: str
    variable: str

    def __call__(self, config: RunConfig, restart: bool) -> None:
        start = time.monotonic()
        time.sleep(0.2)
        _diverge(config)
        value = os.environ.get(self.variable)
        note(self.folder, "told", f"{value}|{Path.cwd()}|{start}|{time.monotonic()}")


def _diverge(config: RunConfig) -> None:
    """Records a run as diverged, without training."""
    with open_run(config.run_path) as run:
        run.begin(config.to_yaml(), {})
        run.finish("diverged")


@contextmanager
def at_steps(happens: Callable[[int], object]) -> Iterator[None]:
    """Within, something happens before every step, with the number of steps done."""
    take_step = Trainer.take_step

    def wrapped(self: Trainer, *arguments: Any) -> object:
        happens(self.step)
        return take_step(self, *arguments)

    with mock.patch.object(Trainer, "take_step", wrapped):
        yield


@contextmanager
def at_step(number: int, happens: Callable[[], object]) -> Iterator[None]:
    """Within, something happens when a run has done so many steps."""

    def if_there(step: int) -> None:
        if step == number:
            happens()

    with at_steps(if_there):
        yield


# Commands


def search_path() -> str:
    """The PYTHONPATH of processes that unpickle work of the tests."""
    known = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    return os.pathsep.join(dict.fromkeys([str(TESTS), *filter(None, known)]))


def main(work: object) -> None:
    """The command line with scripted work, for a process of the tests."""
    from normbench import cli

    build = launchers.build

    def build_with_work(name: str, restart: bool, options: Mapping[str, Any]) -> Launcher:
        return build(name, restart, work, options=options)

    launchers.build = build_with_work  # type: ignore[assignment, method-assign]
    cli.main()


class SweepCommand:
    """`normbench sweep` in a new session, as from a terminal, with the output in a file.

    Its runs are not timed beforehand.

    code: run in place of normbench's main function, with `kit.launchers` imported.
    within: a command that executes the command after it.
    """

    def __init__(
        self, folder: Path, *arguments: str, code: str | None = None, within: Sequence[str] = ()
    ) -> None:
        main = (
            ["-m", "normbench"] if code is None else ["-c", f"import kit.launchers as kit; {code}"]
        )
        timing = [] if "--no-timing" in arguments else ["--no-timing"]
        self._output = folder / f"output-{time.monotonic_ns()}.txt"
        with self._output.open("w") as file:
            self.process = subprocess.Popen(
                [*within, sys.executable, *main, "sweep", *arguments, *timing],
                cwd=folder,
                env={**os.environ, "PYTHONPATH": search_path()},
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def output(self) -> str:
        return self._output.read_text()

    def until(self, condition: Callable[[], object]) -> None:
        """Waits for an event while the sweep goes on."""

        def happened() -> object:
            found = condition()
            assert found or self.process.poll() is None, f"ended too early:\n{self.output}"
            return found

        until(happened)

    def exit_code(self) -> int:
        """Waits for the end of the command and of the fork server; both write to the file."""
        code = self.process.wait(AT_MOST)
        until(lambda: not _group_lives(self.process.pid))
        print(self.output)  # shown by pytest where a test fails
        return code

    def kill(self) -> None:
        """Kills the scheduler alone."""
        self.process.kill()
        assert self.exit_code() == -signal.SIGKILL

    def ctrl_c(self) -> int:
        """Interrupts all processes in the foreground, as a terminal does; returns the exit code."""
        os.killpg(self.process.pid, signal.SIGINT)
        return self.exit_code()


def _group_lives(group: int) -> bool:
    """Whether a process group has a living process; runs have separate groups."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, its_group, *_ = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(its_group) == group and state != "Z":
            return True
    return False
