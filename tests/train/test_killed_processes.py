"""A run of several processes from the command line: kills, Ctrl-C, a full disk, divergence."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from kit.kills import Process, process
from kit.launchers import AT_MOST, assert_same_numbers, search_path, until
from kit.tiny import tiny

from normbench.runs.standing import standing
from normbench.runs.state import is_held, read_position, read_status

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]
# Three epochs of 60 steps; 2 processes of 4 images.
SETTINGS = tiny(
    "norm=bn",
    "data.num_train=480",
    "data.augment=standard",
    "batch_size=4",
    "epochs=3",
    "train.log_every=1",
    "runtime.device=cpu",
    "system.threads=1",
)
FIRST_EPOCH = 60


class Command:
    """`normbench train --processes 2`, with the run's directory in `folder`."""

    def __init__(
        self, folder: Path, *arguments: str, prepare: Callable[[], None] | None = None
    ) -> None:
        self.folder = folder
        flags = ["--processes", "2", "--runs-dir", str(folder), *arguments]
        self._output = folder / f"output-{time.monotonic_ns()}.txt"
        with self._output.open("w") as file:
            self.command = subprocess.Popen(
                [sys.executable, "-m", "normbench", "train", *SETTINGS, *flags],
                stdout=file,
                stderr=subprocess.STDOUT,
                env={**os.environ, "PYTHONPATH": search_path(), "OMP_NUM_THREADS": "1"},
                preexec_fn=prepare,
            )

    @property
    def run(self) -> Path:
        """The directory of the run."""
        (run,) = self.folder.glob("normresnet-*")
        return run

    def workers(self) -> list[Process]:
        """The processes of the run, by rank."""
        children = Path(f"/proc/{self.command.pid}/task/{self.command.pid}/children")
        found = [process(int(pid)) for pid in children.read_text().split()]
        ranks = [(rank_of(one), one) for one in found if one and one.says("train.worker")]
        return [one for _, one in sorted(ranks, key=lambda pair: pair[0])]

    def until_step(self, step: int) -> list[Process]:
        """Waits for a step; returns the processes of the run."""

        def is_there() -> bool:
            assert self.command.poll() is None, self.end()
            runs = [*self.folder.glob("normresnet-*")]
            return bool(runs) and read_position(runs[0]) >= step

        until(is_there)
        workers = self.workers()
        assert len(workers) == 2
        return workers

    def end(self) -> tuple[int, str]:
        """Waits for the end; the exit code and the output."""
        self.command.wait(AT_MOST)
        output = self._output.read_text()
        assert "Traceback" not in output
        return self.command.returncode, output


@contextmanager
def commanded(folder: Path, *arguments: str, **given: Any) -> Iterator[Command]:
    """A command that a broken test does not leave behind."""
    command = Command(folder, *arguments, **given)
    try:
        yield command
    finally:
        command.command.kill()
        command.command.wait()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that nothing has disturbed."""
    with commanded(tmp_path_factory.mktemp("whole")) as command:
        code, output = command.end()
        assert code == 0, output
        return command.run


def listening(worker: Process) -> list[str]:
    """The addresses on which a process listens, as the kernel writes them: 127.0.0.1 backwards."""
    links = [str(file.readlink()) for file in Path(f"/proc/{worker.pid}/fd").iterdir()]
    found = []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{worker.pid}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in links:
                found.append(fields[1].partition(":")[0])
    return found


def rank_of(worker: Process) -> int:
    """The rank in a worker's environment."""
    content = Path(f"/proc/{worker.pid}/environ").read_bytes().split(b"\0")
    (rank,) = [int(entry[5:]) for entry in content if entry.startswith(b"RANK=")]
    return rank


def assert_goes_on(command: Command, whole: Path) -> None:
    """The same command ends with the numbers of the undisturbed run."""
    with commanded(command.folder) as again:
        code, output = again.end()
        assert code == 0, output
    assert_same_numbers(command.run, whole)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_process_makes_all_start_again(tmp_path: Path, whole: Path, rank: int) -> None:
    with commanded(tmp_path, "--restarts", "1") as command:
        workers = command.until_step(FIRST_EPOCH + 10)
        workers[rank].kill()
        code, output = command.end()
    assert code == 0
    assert "a process has died: all go on from the last checkpoint (restart 1 of 1)" in output
    assert not any(worker.is_alive() for worker in workers)
    assert_same_numbers(command.run, whole)


def test_without_restarts_a_killed_process_ends_the_run(tmp_path: Path, whole: Path) -> None:
    with commanded(tmp_path) as command:
        workers = command.until_step(FIRST_EPOCH + 10)
        workers[1].kill()
        code, output = command.end()
    reason = "process 2 of 2 was killed by SIGKILL, perhaps for want of memory"
    assert (code, output.splitlines()[-1]) == (1, f"normbench: {reason}")
    assert (standing(command.run).state, standing(command.run).reason) == ("failed", reason)
    assert not any(worker.is_alive() for worker in workers)
    assert_goes_on(command, whole)


def test_no_process_outlives_the_killed_command_or_listens_beyond_the_machine(
    tmp_path: Path, whole: Path
) -> None:
    with commanded(tmp_path) as command:
        workers = command.until_step(FIRST_EPOCH + 10)
        assert {address for worker in workers for address in listening(worker)} == {"0100007F"}
        command.command.kill()
        until(lambda: not any(worker.is_alive() for worker in workers), patience=5)
    until(lambda: not is_held(command.run), patience=5)
    assert standing(command.run).state == "killed"
    assert_goes_on(command, whole)


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_asked_to_stop_all_processes_save_after_a_step(
    tmp_path: Path, whole: Path, sent: signal.Signals
) -> None:
    with commanded(tmp_path) as command:
        workers = command.until_step(10)
        command.command.send_signal(sent)
        code, output = command.end()
    stopped = read_position(command.run)
    assert code == 130
    assert f"stopped after step {stopped} of 180; go on with: normbench train" in output
    assert standing(command.run).state == "interrupted"
    assert not any(worker.is_alive() for worker in workers)
    assert_goes_on(command, whole)


def test_a_full_disk_is_told_once(tmp_path: Path, whole: Path) -> None:
    def fill() -> None:
        # Nobody writes more than this into a file: enough for some steps, too little for all.
        resource.setrlimit(resource.RLIMIT_FSIZE, (6_000, resource.RLIM_INFINITY))

    with commanded(tmp_path, "--restarts", "2", prepare=fill) as command:
        code, output = command.end()
    assert code == 1
    (line,) = [line for line in output.splitlines() if line.startswith("normbench: ")]
    assert line.startswith("normbench: the disk is full")
    assert "restart" not in output
    assert standing(command.run).state == "failed"
    assert_goes_on(command, whole)


def test_a_diverged_run_says_so(tmp_path: Path) -> None:
    with commanded(tmp_path, "optim.lr=1e30") as command:
        code, output = command.end()
    assert code == 3, output
    assert read_status(command.run)["state"] == "diverged"
