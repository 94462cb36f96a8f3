"""One of a run's processes: `python -m normbench.training.worker FOLDER`, started by the agent.

The folder holds the run's configuration and the order to train. A process that fails writes there
why before the others notice that it is gone.
"""

from __future__ import annotations

import ctypes
import faulthandler
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from normbench.config.schema import RunConfig, from_yaml
from normbench.errors import NormbenchError, complaint, first_line, user_traceback
from normbench.text import say
from normbench.training.meeting import Meeting
from normbench.training.processes import Processes, loopback

# Decoding, and an own norm's trial by the main process, take minutes: the others wait.
PATIENCE = timedelta(hours=12)
PARENT_SECONDS = 0.5
PR_SET_PDEATHSIG = 1  # prctl(2)


def main(meeting: Meeting) -> None:
    """Trains as the process that the environment of torch's agent says; exits."""
    order = json.loads(meeting.order.read_text())
    die_with(order["agent"])
    faulthandler.enable()
    # Slurm sends it to all processes of a task that runs out of time: the agent hears it for all.
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    # Told as the command of the run.
    sys.argv = order["argv"]
    rank, attempt = int(os.environ["RANK"]), int(os.environ["TORCHELASTIC_RESTART_COUNT"])
    try:
        config = from_yaml(meeting.config.read_text())
        with joined(config, meeting, attempt) as processes:
            _train(config, processes, order, attempt)
    except Exception as error:
        code = _tell(meeting, attempt, rank, error)
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        # Threads of nccl may wait for processes that are gone.
        os._exit(code)


def _train(config: RunConfig, processes: Processes, order: Mapping[str, Any], attempt: int) -> None:
    from normbench.training.run import train_together

    if attempt > 0 and processes.is_main:
        again = f"restart {attempt} of {config.system.restarts}"
        say(f"a process has died: all go on from the last checkpoint ({again})", to=sys.stderr)
    train_together(
        config,
        processes,
        restart=order["restart"] and attempt == 0,
        patience=order["patience"],
    )


@contextmanager
def joined(config: RunConfig, meeting: Meeting, attempt: int) -> Iterator[Processes]:
    """Yields this process among those of the run."""
    rank, number = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    for library in ("GLOO", "NCCL"):
        os.environ.setdefault(f"{library}_SOCKET_IFNAME", loopback())
    backend = "gloo"
    if config.runtime.device == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        backend = "cpu:gloo,cuda:nccl"
    store = dist.FileStore(str(meeting.store(attempt)), number)  # type: ignore[attr-defined]
    dist.init_process_group(backend, store=store, rank=rank, world_size=number, timeout=PATIENCE)
    yield Processes(rank, number, meeting.stop)
    dist.destroy_process_group()


def die_with(agent: int) -> None:
    """Makes the kernel kill this process as soon as its agent is gone: no orphan trains on."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    else:
        threading.Thread(target=_watch, args=(agent,), daemon=True).start()
    if os.getppid() != agent:  # it has gone already
        os._exit(1)


def _watch(agent: int) -> None:
    while os.getppid() == agent:
        time.sleep(PARENT_SECONDS)
    os._exit(1)


def _tell(meeting: Meeting, attempt: int, rank: int, error: Exception) -> int:
    """Writes why this process fails; returns its exit code, 0 where a restart would not help."""
    if isinstance(error, NormbenchError):
        told = {"reason": str(error), "traceback": user_traceback(error)}
        meeting.tell_end({**told, "exit_code": error.exit_code})
        return 0
    # The others are gone because one of them has told of such a failure.
    if meeting.end() is not None:
        return 0
    told = {"reason": first_line(error), "traceback": complaint(error)}
    meeting.tell_failure(attempt, rank, told)
    return 1


if __name__ == "__main__":
    main(Meeting(Path(sys.argv[1])))
