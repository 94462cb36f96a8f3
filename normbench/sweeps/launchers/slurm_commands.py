"""Slurm's own commands: sinfo, squeue and scancel, and what they answer."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Collection

from normbench.errors import NormbenchError, RunFailure

RETRY_SECONDS = 5.0
# States of a task with a future; any state beyond the list is an end.
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
# Slurm never starts such a task again by itself: a daemon of a node has lost the task.
LOST = "launch failed requeued held"


def time_limit(partition: str | None) -> str:
    """Returns the longest time of a job in the partition; a longer run is requeued and resumes."""
    chosen = ["-p", partition] if partition else []
    found = ask("sinfo", "-h", "-o", "%P|%l", *chosen, patience=0)
    limits = dict(line.split("|") for line in found.splitlines())
    if not limits:
        raise NormbenchError(f"launcher slurm: there is no partition '{partition}': see sinfo")
    starred = [name for name in limits if name.endswith("*")]  # the default partition
    return limits[[*starred, *limits][0]].replace("infinite", "UNLIMITED")


def job_states() -> dict[str, str]:
    """Returns the state of each job of this user known to Slurm, by id, array tasks apart."""
    found = {}
    for line in ask("squeue", "--me", "-h", "-r", "-t", "all", "-o", "%i|%T|%r").splitlines():
        job, state, why = line.strip().split("|", 2)
        found[job] = LOST if why == LOST else state
    return found


def scancel(jobs: Collection[str], *options: str) -> None:
    """Asks tasks to save and end by a SIGTERM; Slurm kills the rest after KillWait."""
    if jobs:
        subprocess.run(["scancel", *options, *jobs], check=False, capture_output=True)


def ask(*command: str, patience: float = 120.0) -> str:
    """Returns the output of a Slurm command; waits `patience` seconds for the controller."""
    deadline = time.monotonic() + patience
    while True:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return done.stdout
        if time.monotonic() > deadline:
            kind = RunFailure if patience else NormbenchError  # without patience: nothing submitted
            raise kind(f"launcher slurm: {command[0]} fails: {last_line(done.stderr)}")
        time.sleep(RETRY_SECONDS)


def last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "no reason given"
