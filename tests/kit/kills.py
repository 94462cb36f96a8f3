"""Random kills under a sweep: slow work, its processes, and the laws that hold afterwards."""

from __future__ import annotations

import itertools
import os
import re
import signal
import time
import uuid
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from kit.launchers import AT_MOST, SweepCommand, at_steps, note, noted, until
from normbench.config.schema import RunConfig
from normbench.runs.state import is_held
from normbench.sweeps.launchers.launcher import train

# How often each kind of kill happens in a test run; 20 for the table of the docs.
ROUNDS = int(os.environ.get("NORMBENCH_KILLS", "1"))
MAX_COMMANDS = 12  # to complete a sweep after the last kill
UNFINISHED = {"new", "interrupted", "killed", "running"}


# Processes


@dataclass(frozen=True)
class Process:
    """A process, told by the time of its start from a later one of the same number."""

    pid: int
    started: str

    def is_alive(self) -> bool:
        """Whether the process runs; a zombie does not."""
        return process(self.pid) == self

    def parent(self) -> Process | None:
        """The process that started this one; None where either has ended."""
        fields = _fields(self.pid)
        return process(int(fields[1])) if self.is_alive() and fields else None

    def kill(self) -> bool:
        """Kills the process; whether it was there to be killed."""
        if self.is_alive():
            os.kill(self.pid, signal.SIGKILL)
            return True
        return False

    def says(self, word: str) -> bool:
        """Whether the command line has the word."""
        try:
            return word.encode() in Path(f"/proc/{self.pid}/cmdline").read_bytes()
        except OSError:
            return False


def process(pid: int) -> Process | None:
    """The living process of this number."""
    fields = _fields(pid)
    return Process(pid, fields[19]) if fields and fields[0] != "Z" else None


def _fields(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the state on; [] without such a process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


# Work


@dataclass(frozen=True)
class Slow:
    """Work that takes `seconds` a step until the folder has the file `go`.

    Notes every step under `steps`: the run, the call of the work, and the process.
    """

    folder: str
    seconds: float

    def __call__(self, config: RunConfig, restart: bool) -> None:
        own = process(os.getpid())
        assert own is not None
        line = f"{config.run_id} {uuid.uuid4().hex} {own.pid} {own.started}"

        def dwell(step: int) -> None:
            note(self.folder, "steps", line)
            if not (Path(self.folder) / "go").exists():
                time.sleep(self.seconds)

        with at_steps(dwell):
            train(config, restart)


def training(folder: Path) -> dict[str, Process]:
    """The living process of each run in training, by the run's id."""
    last = {}
    for line in noted(folder, "steps"):
        run, _, pid, started = line.split()
        last[run] = Process(int(pid), started)
    return {run: found for run, found in last.items() if found.is_alive()}


# Commands


class Besieged:
    """A sweep whose command is given again whenever it has ended before its runs were done.

    failed: the reasons of failed runs in the summaries of all commands, by run id.
    """

    def __init__(self, start: Callable[[], SweepCommand]) -> None:
        self._start = start
        self.command = start()
        self.failed: dict[str, str] = {}

    def until(self, condition: Callable[[], object]) -> None:
        """Waits for an event while the sweep goes on."""

        def happened() -> object:
            if self.command.process.poll() is not None:
                assert self._end() != 0, "too few runs: all were done before the last kill"
                self.command = self._start()
            return condition()

        until(happened)

    def kill(self) -> None:
        """Kills the scheduler, and gives the command again."""
        self.command.kill()
        self.command = self._start()

    def finish(self) -> None:
        """Gives the command until it says that every run is done."""
        for _ in range(MAX_COMMANDS):
            if self._end() == 0:
                return
            self.command = self._start()
        raise AssertionError(f"not done after {MAX_COMMANDS} commands")

    def _end(self) -> int:
        """Waits for the end of the command; returns the exit code, checked by the summary."""
        self.command.process.wait(AT_MOST * ROUNDS)
        code = self.command.exit_code()
        output = self.command.output
        assert "Traceback" not in output
        summary = re.findall(r"^sweep: (.*)$", output, re.MULTILINE)[-1]
        states = {part.partition(" ")[2] for part in summary.split(", ")}
        finished = 1 if states - {"done"} else 0
        assert code == (130 if states & UNFINISHED else finished)
        self.failed |= dict(re.findall(r"^  failed: (\S+): (.*)$", output, re.MULTILINE))
        return code


# Laws


def assert_one_at_a_time(folder: Path) -> None:
    """No run has had a step of one training between the steps of another."""
    calls = defaultdict(list)
    for line in noted(folder, "steps"):
        run, call, *_ = line.split()
        calls[run].append(call)
    for in_order in calls.values():
        turns = [call for call, _ in itertools.groupby(in_order)]
        assert len(turns) == len(set(turns))


def assert_nothing_left(runs: Path) -> None:
    """No process trains, and no file of a broken-off writer is left in the folder of runs."""
    until(lambda: not any(is_held(run) for run in runs.glob("normresnet-*")))
    left = [*runs.rglob("*.tmp"), *runs.glob(".shared-*"), *runs.glob(".removed-*")]
    assert left == []
