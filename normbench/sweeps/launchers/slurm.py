"""Runs as tasks of a Slurm job array, submitted with submitit (the extra `slurm`).

On preemption, on requeue and at the end of the time a task saves a checkpoint, and resumes when
started again. squeue tells the states of tasks, since many clusters keep no accounting.
"""

from __future__ import annotations

import math
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Collection, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any

from filelock import FileLock
from pydantic import Field, TypeAdapter

from normbench.atomic import write_json
from normbench.config.schema import RunConfig
from normbench.errors import NormbenchError, complaint
from normbench.runs.standing import standing
from normbench.runs.state import status_bytes
from normbench.sweeps.launchers.child import print_to_file, settle
from normbench.sweeps.launchers.launcher import (
    Event,
    Jobs,
    Launcher,
    Number,
    Seconds,
    StopAsked,
    Work,
    launchers,
    share_elsewhere,
    train,
)
from normbench.sweeps.launchers.slurm_commands import (
    ALIVE,
    LOST,
    job_states,
    last_line,
    scancel,
    time_limit,
)
from normbench.text import say

POLL_SECONDS = 5.0
MAX_ARRAY = 1000  # tasks; Slurm's own default limit is 1001
MAX_AT_ONCE = 256
MINUTES_TO_END = 5  # between the time limit of a run and Slurm's limit for the task


@launchers.register("slurm", title="Slurm")
def slurm(
    restart: bool = False,
    work: Work = train,
    *,
    jobs: Jobs = None,
    timeout: Seconds = None,
    partition: str | None = None,
    cpus_per_run: Number = 1,
    gpus_per_run: Annotated[float, Field(ge=0, multiple_of=1)] = 0,
    sbatch: dict[str, str | int] | None = None,
) -> Launcher:
    """An array of Slurm jobs, `jobs` at a time; preempted jobs are requeued and go on.

    A run of several processes has `cpus_per_run` and `gpus_per_run` for each of them. Runs of
    equal numbers of processes are an array; one array follows the other.
    """
    parameters = _parameters(timeout, partition)
    parameters["additional_parameters"] |= sbatch or {}

    def at_once(configs: Sequence[RunConfig]) -> int:
        return max(1, min(jobs or MAX_AT_ONCE, len(configs)))

    def launch(configs: Sequence[RunConfig], should_stop: StopAsked) -> Generator[Event]:
        num_jobs = at_once(configs)
        limited = parameters | {"array_parallelism": num_jobs}
        task = Task(work, restart, timeout)
        shared = [share_elsewhere(config, num_jobs, cpus_per_run) for config in configs]
        for processes in dict.fromkeys(config.runtime.processes for config in shared):
            reserved = limited | _reserved(processes, cpus_per_run, int(gpus_per_run))
            alike = [config for config in shared if config.runtime.processes == processes]
            for start in range(0, len(alike), MAX_ARRAY):
                if should_stop():
                    return
                yield from _array(alike[start : start + MAX_ARRAY], reserved, task, should_stop)

    return Launcher(launch, at_once, "cuda" if gpus_per_run else "cpu")


class Task:
    """The function of a task, called on the node with a configuration, and again when requeued."""

    def __init__(self, work: Work, restart: bool, timeout: float | None) -> None:
        self.work = work
        self.restart = restart
        self.timeout = timeout

    def __call__(self, config: RunConfig) -> None:
        """Trains the run; asks Slurm for another turn where the task's time ends before the run."""
        begin_anew = self.restart and "SLURM_RESTART_COUNT" not in os.environ
        before = status_bytes(config.run_path)
        print_to_file(config, begin_anew)
        heard: list[str] = []
        # submitit ignores SIGTERM; the training loop listens, and before training nothing is lost.
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        # Replaces submitit's handler, made to pickle the task instead of saving a checkpoint.
        signal.signal(signal.SIGUSR2, lambda *_: _stop(heard, "out of time"))
        if self.timeout is not None:
            timer = threading.Timer(self.timeout, _stop, (heard, "late"))
            timer.daemon = True
            timer.start()
        try:
            self.work(config, begin_anew)
        except NormbenchError as error:
            say(complaint(error), lines=True, to=sys.stderr)
            settle(config, before, str(error), restart=begin_anew)
        if "late" in heard:
            settle(config, before, f"over the time limit of {self.timeout:g} s", failed_anyway=True)
        elif heard and standing(config.run_path).state == "interrupted":
            subprocess.run(["scontrol", "requeue", os.environ["SLURM_JOB_ID"]], check=False)


def _stop(heard: list[str], reason: str) -> None:
    """Asks the training loop to save and end, as a SIGTERM from Slurm does."""
    heard.append(reason)
    os.kill(os.getpid(), signal.SIGTERM)


def _array(
    configs: Sequence[RunConfig], parameters: Mapping[str, Any], task: Task, should_stop: StopAsked
) -> Iterator[Event]:
    before = {config.run_id: status_bytes(config.run_path) for config in configs}
    running: set[str] = set()
    listed: set[str] = set()
    missed: set[str] = set()
    with _submitted(configs, parameters, task) as waiting:
        while waiting:
            if should_stop():
                scancel(waiting)
            states = job_states()
            listed |= states.keys()
            once = waiting.keys() - states.keys() - missed
            missed = waiting.keys() - states.keys()
            for job, config in list(waiting.items()):
                if job in once:  # perhaps not listed yet: asked for again
                    continue
                state = states.get(job, "gone")
                if state != "PENDING" and job not in running:
                    running.add(job)
                    yield Event("started", config)
                if state not in ALIVE:
                    del waiting[job]
                    if state == LOST:
                        scancel([job])
                    trouble = None
                    # A cancelled task has not failed, nor has one that a dying controller has
                    # accepted and forgotten: the same command submits it again.
                    if not should_stop() and job in listed:
                        reason = f"its Slurm job {job} ended as {state}"
                        earlier = before[config.run_id]
                        trouble = settle(config, earlier, reason, restart=task.restart)
                    yield Event("ended", config, trouble)
            if waiting:
                time.sleep(POLL_SECONDS)


@contextmanager
def _submitted(
    configs: Sequence[RunConfig], parameters: Mapping[str, Any], task: Task
) -> Iterator[dict[str, RunConfig]]:
    """Submits the array; yields the runs by task, and cancels the tasks that are left in there."""
    folder = configs[0].run_path.parent / ".slurm"
    _cancel_orphans(folder, {config.run_id for config in configs})
    waiting = dict(zip(_submit(configs, parameters, task), configs, strict=True))
    array = next(iter(waiting)).partition("_")[0]
    try:
        with FileLock(folder / f"{array}.lock"):  # held as long as this sweep lives
            write_json(folder / f"{array}.json", {job: run.run_id for job, run in waiting.items()})
            yield waiting
    finally:
        scancel(waiting)
        with suppress(OSError):
            (folder / f"{array}.json").unlink()
            (folder / f"{array}.lock").unlink()


def _cancel_orphans(folder: Path, run_ids: Collection[str]) -> None:
    """Cancels tasks of killed sweeps that wait to start, for runs about to be submitted again."""
    for tasks in folder.glob("*.json"):
        # The lock of a living sweep cannot be taken (an OSError), and a damaged file not be read.
        with suppress(OSError, ValueError), FileLock(tasks.with_suffix(".lock"), timeout=0):
            runs = TypeAdapter(dict[str, str]).validate_json(tasks.read_bytes())
            orphans = [job for job, run in runs.items() if run in run_ids]
            scancel(orphans, "--state=PENDING")


def _submit(configs: Sequence[RunConfig], parameters: Mapping[str, Any], task: Task) -> list[str]:
    """Submits the array; returns the ids of the tasks, as shown by squeue."""
    import submitit

    executor = submitit.SlurmExecutor(configs[0].run_path.parent / ".slurm")
    executor.update_parameters(**parameters)
    try:
        return [str(job.job_id) for job in executor.map_array(task, configs)]
    except (submitit.core.utils.FailedJobError, subprocess.CalledProcessError) as error:
        raise NormbenchError(f"launcher slurm: sbatch refuses: {last_line(str(error))}") from None


def _reserved(processes: int, cpus_per_run: int, gpus_per_run: int) -> dict[str, Any]:
    """What a task of a run of so many processes reserves."""
    reserved = {"cpus_per_task": cpus_per_run * processes}
    if gpus_per_run:
        reserved["gpus_per_node"] = gpus_per_run * processes
    return reserved


def _parameters(timeout: float | None, partition: str | None) -> dict[str, Any]:
    try:
        import submitit  # noqa: F401
    except ModuleNotFoundError:
        raise NormbenchError(
            "launcher slurm needs submitit: pip install 'normbench[slurm]'"
        ) from None
    for command in ("sbatch", "squeue", "scancel", "sinfo"):
        if shutil.which(command) is None:
            raise NormbenchError(
                f"launcher slurm: there is no {command} here; run this where you submit jobs"
            )
    # Asked with a timeout too: an unknown partition is refused here.
    limit: str | int = time_limit(partition)
    if timeout is not None:
        limit = math.ceil(timeout / 60) + MINUTES_TO_END
    parameters: dict[str, Any] = {
        "job_name": "normbench",
        "stderr_to_stdout": True,
        "additional_parameters": {"requeue": True, "time": limit},
    }
    if partition is not None:
        parameters["partition"] = partition
    return parameters
