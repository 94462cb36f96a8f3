"""Runs as tasks of a Slurm job array, submitted with submitit (the extra `slurm`).

A task calls `execute` itself. On a preemption, a requeue or the end of its time it saves a checkpoint and goes on from
there when Slurm starts it again. Whether a task lives is asked of squeue, since many clusters keep no accounting, and
what became of its run is read from the run's directory; submitit's own pickled results are not looked at.
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
from collections.abc import Generator, Iterator, Mapping, Sequence
from itertools import islice
from typing import Annotated, Any

from pydantic import Field

from normbench.config.grammar import parse_assignments
from normbench.config.schema import RunConfig
from normbench.errors import NormbenchError, RunFailure, complaint
from normbench.runs.rundir import read_status
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

POLL_SECONDS = 5.0
MAX_ARRAY = 1000  # tasks; Slurm's own default limit is 1001
MAX_AT_ONCE = 256
MINUTES_TO_END = 5  # between our own time limit for a run and Slurm's for its task
ALIVE = {
    "PENDING",
    "RUNNING",
    "COMPLETING",
    "CONFIGURING",
    "SUSPENDED",
    "REQUEUED",
    "RESIZING",
    "SIGNALING",
    "STOPPED",
}


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
    sbatch: tuple[str, ...] = (),
) -> Launcher:
    """An array of Slurm jobs, `jobs` of them at a time; a preempted one is requeued and goes on."""
    parameters = _parameters(timeout, partition, cpus_per_run, int(gpus_per_run))
    parameters["additional_parameters"] |= parse_assignments(sbatch)

    def at_once(configs: Sequence[RunConfig]) -> int:
        return max(1, min(jobs or MAX_AT_ONCE, len(configs)))

    def launch(configs: Sequence[RunConfig], should_stop: StopAsked) -> Generator[Event]:
        limits = {"array_parallelism": at_once(configs)}
        waiting = iter(
            [share_elsewhere(config, at_once(configs), cpus_per_run) for config in configs]
        )
        while (chunk := list(islice(waiting, MAX_ARRAY))) and not should_stop():
            yield from _array(chunk, parameters | limits, Task(work, restart, timeout), should_stop)

    return Launcher(launch, at_once, "cuda" if gpus_per_run else "cpu")


class Task:
    """What one task of the array does; called on the node, perhaps several times, with the run's configuration."""

    def __init__(self, work: Work, restart: bool, timeout: float | None) -> None:
        self.work = work
        self.restart = restart
        self.timeout = timeout

    def __call__(self, config: RunConfig) -> None:
        """Trains the run; asks Slurm for another turn when the partition's time is up before the run's."""
        begin_anew = self.restart and "SLURM_RESTART_COUNT" not in os.environ
        before = read_status(config.run_path)
        print_to_file(config, begin_anew)
        heard: list[str] = []
        signal.signal(
            signal.SIGTERM, signal.SIG_DFL
        )  # submitit ignores it; training hears it, before there is no need
        signal.signal(
            signal.SIGUSR2, lambda *_: _stop(heard, "out of time")
        )  # in place of submitit's own
        if self.timeout is not None:
            timer = threading.Timer(self.timeout, _stop, (heard, "late"))
            timer.daemon = True
            timer.start()
        try:
            self.work(config, begin_anew)
        except NormbenchError as error:
            print(complaint(error), file=sys.stderr)
            settle(config, before, str(error))
        if "late" in heard:
            settle(config, before, f"over the time limit of {self.timeout:g} s", failed_anyway=True)
        elif heard and read_status(config.run_path).get("state") == "interrupted":
            subprocess.run(["scontrol", "requeue", os.environ["SLURM_JOB_ID"]], check=False)


def _stop(heard: list[str], reason: str) -> None:
    """Asks the training loop to save and end, as a SIGTERM from Slurm does."""
    heard.append(reason)
    os.kill(os.getpid(), signal.SIGTERM)


def _array(
    configs: Sequence[RunConfig], parameters: Mapping[str, Any], task: Task, should_stop: StopAsked
) -> Iterator[Event]:
    """One job array from submission to the end of its last task."""
    before = [read_status(config.run_path) for config in configs]
    ids = _submit(configs, parameters, task)
    waiting, running = dict(zip(ids, zip(configs, before, strict=True), strict=True)), set[str]()
    try:
        while waiting:
            if should_stop():
                _scancel(waiting)
            states = _states()
            for job in list(waiting):
                config, status = waiting[job]
                state = states.get(job, "gone")
                if state != "PENDING" and job not in running:
                    running.add(job)
                    yield Event("started", config)
                if state not in ALIVE:
                    del waiting[job]
                    if (
                        not should_stop()
                    ):  # else we have cancelled it, and the same command goes on with it
                        settle(config, status, f"its Slurm job {job} ended as {state}")
                    yield Event("ended", config)
            time.sleep(POLL_SECONDS if waiting else 0)
    finally:
        _scancel(waiting)


def _submit(configs: Sequence[RunConfig], parameters: Mapping[str, Any], task: Task) -> list[str]:
    """The ids of the array's tasks, as squeue shows them. Raises NormbenchError where Slurm refuses."""
    import submitit

    folder = configs[0].run_path.parent / ".slurm"
    executor = submitit.SlurmExecutor(folder)
    executor.update_parameters(**parameters)
    try:
        return [str(job.job_id) for job in executor.map_array(task, configs)]
    except (submitit.core.utils.FailedJobError, subprocess.CalledProcessError) as error:
        raise NormbenchError(f"launcher slurm: sbatch refuses: {_last_line(str(error))}") from None


def _parameters(
    timeout: float | None, partition: str | None, cpus_per_run: int, gpus_per_run: int
) -> dict[str, Any]:
    """The arguments of submitit's executor. Raises NormbenchError where there is no Slurm or no submitit."""
    try:
        import submitit  # noqa: F401
    except ModuleNotFoundError:
        raise NormbenchError(
            "launcher slurm needs submitit: pip install 'normbench[slurm]'"
        ) from None
    if shutil.which("sbatch") is None:
        raise NormbenchError(
            "launcher slurm: there is no sbatch here; run this where you submit jobs"
        )
    own_limit = None if timeout is None else math.ceil(timeout / 60) + MINUTES_TO_END
    parameters: dict[str, Any] = {
        "job_name": "normbench",
        "cpus_per_task": cpus_per_run,
        "stderr_to_stdout": True,
        "additional_parameters": {"requeue": True, "time": own_limit or _time_limit(partition)},
    }
    if partition is not None:
        parameters["partition"] = partition
    if gpus_per_run:
        parameters["gpus_per_node"] = gpus_per_run
    return parameters


def _time_limit(partition: str | None) -> str:
    """The longest that a job may take there: a run that needs more is requeued and goes on."""
    chosen = ["-p", partition] if partition else []
    found = _ask("sinfo", "-h", "-o", "%P|%l", *chosen, patience=0)
    limits = dict(line.split("|") for line in found.splitlines())
    default = next((name for name in limits if name.endswith("*")), next(iter(limits), None))
    if default is None:
        raise NormbenchError(f"launcher slurm: there is no partition '{partition}': see sinfo")
    return limits[default].replace("infinite", "UNLIMITED")


def _states() -> dict[str, str]:
    """The state of each of this user's jobs that Slurm still knows, by id; array tasks one by one."""
    lines = _ask("squeue", "--me", "-h", "-r", "-t", "all", "-o", "%i|%T").splitlines()
    return dict(line.strip().split("|") for line in lines)


def _scancel(jobs: Mapping[str, Any]) -> None:
    """Asks the tasks to save and end: they get a SIGTERM, and a SIGKILL after the cluster's KillWait."""
    if jobs:
        subprocess.run(["scancel", *jobs], check=False, capture_output=True)


def _ask(*command: str, patience: float = 120.0) -> str:
    """What Slurm answers; a controller that is away is asked again for a while."""
    deadline = time.monotonic() + patience
    while True:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return done.stdout
        if time.monotonic() > deadline:
            kind = RunFailure if patience else NormbenchError  # nothing has been submitted yet
            raise kind(f"launcher slurm: {command[0]} fails: {_last_line(done.stderr)}")
        time.sleep(POLL_SECONDS)


def _last_line(text: str) -> str:
    return next(
        (line.strip() for line in reversed(text.splitlines()) if line.strip()), "no reason given"
    )
