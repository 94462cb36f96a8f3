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

# Of one worker: the undisturbed run is trained once.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1200),
    pytest.mark.xdist_group("killed_processes"),
]
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
EPOCH = 60
FEW = 5


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
        ranks = [(rank_of(one), one) for one in found if one and one.says("training.worker")]
        return [one for _, one in sorted(ranks, key=lambda pair: pair[0])]

    @property
    def output(self) -> str:
        """What the command and its processes have printed so far."""
        return self._output.read_text()

    def until_steps(self, number: int) -> list[Process]:
        """Waits until the present processes have taken so many steps; returns the processes."""
        least = self._position()

        def are_taken() -> bool:
            nonlocal least
            assert self.command.poll() is None, self.end()
            # Rows that no checkpoint covers are dropped at the beginning.
            least = min(least, self._position())
            return self._position() >= least + number

        until(are_taken)
        workers = self.workers()
        assert len(workers) == 2
        return workers

    def end(self) -> tuple[int, str]:
        """Waits for the end; the exit code and the output."""
        self.command.wait(AT_MOST)
        assert "Traceback" not in self.output
        return self.command.returncode, self.output

    def _position(self) -> int:
        """The number of finished steps; 0 before the run has a directory."""
        return max(map(read_position, self.folder.glob("normresnet-*")), default=0)


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


# Ends of a run that is not over, in the order in which one run meets them


def on_a_full_disk(folder: Path) -> None:
    def fill() -> None:
        # Nobody writes more than this into a file: enough for some steps, too little for all.
        resource.setrlimit(resource.RLIMIT_FSIZE, (6_000, resource.RLIM_INFINITY))

    with commanded(folder, "--restarts", "2", prepare=fill) as command:
        code, output = command.end()
    assert code == 1
    (line,) = [line for line in output.splitlines() if line.startswith("normbench: ")]
    assert line.startswith("normbench: the disk is full")
    assert "restart" not in output
    assert standing(command.run).state == "failed"
    assert read_position(command.run) > 0


def asked_to_stop(folder: Path, sent: signal.Signals) -> None:
    """All processes save after the same step."""
    with commanded(folder) as command:
        workers = command.until_steps(FEW)
        command.command.send_signal(sent)
        code, output = command.end()
    stopped = read_position(command.run)
    assert code == 130
    assert f"stopped after step {stopped} of 180; go on with: normbench train" in output
    assert standing(command.run).state == "interrupted"
    assert not any(worker.is_alive() for worker in workers)


def killed_with_its_processes(folder: Path) -> None:
    """No process outlives the killed command, nor has any listened beyond the machine."""
    with commanded(folder) as command:
        workers = command.until_steps(FEW)
        assert {address for worker in workers for address in listening(worker)} == {"0100007F"}
        command.command.kill()
        until(lambda: not any(worker.is_alive() for worker in workers), patience=5)
    until(lambda: not is_held(command.run), patience=5)
    assert standing(command.run).state == "killed"


def with_a_killed_process(folder: Path) -> None:
    """Without restarts the run has failed."""
    with commanded(folder) as command:
        workers = command.until_steps(FEW)
        workers[1].kill()
        code, output = command.end()
    reason = "process 2 of 2 was killed by SIGKILL, perhaps for want of memory"
    assert (code, output.splitlines()[-1]) == (1, f"normbench: {reason}")
    assert (standing(command.run).state, standing(command.run).reason) == ("failed", reason)
    assert not any(worker.is_alive() for worker in workers)


def test_a_run_goes_on_after_every_end_to_the_numbers_of_an_undisturbed_run(
    tmp_path: Path, whole: Path
) -> None:
    """The same command goes on each time, and at last with restarts after kills to the end."""
    on_a_full_disk(tmp_path)
    asked_to_stop(tmp_path, signal.SIGINT)
    asked_to_stop(tmp_path, signal.SIGTERM)
    killed_with_its_processes(tmp_path)
    with_a_killed_process(tmp_path)
    with commanded(tmp_path, "--restarts", "2") as command:
        seen: list[Process] = []
        # The second kill comes after the end of an epoch, and its checkpoint.
        for restart, (rank, steps) in enumerate([(0, FEW), (1, EPOCH)], start=1):
            workers = command.until_steps(steps)
            assert not {*workers} & {*seen}
            seen += workers
            workers[rank].kill()
            again = f"all go on from the last checkpoint (restart {restart} of 2)"
            until(lambda said=f"a process has died: {again}": said in command.output)
        code, output = command.end()
    assert code == 0, output
    assert not any(worker.is_alive() for worker in seen)
    assert_same_numbers(command.run, whole)


def test_a_diverged_run_says_so(tmp_path: Path) -> None:
    with commanded(tmp_path, "optim.lr=1e30") as command:
        code, output = command.end()
    assert code == 3, output
    assert read_status(command.run)["state"] == "diverged"
