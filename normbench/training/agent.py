"""Starts the processes of one run and watches them, with torchrun's elastic agent.

The agent is this process: it alone answers to Ctrl-C, and starts all processes again where one has
died. Nothing listens beyond this machine: the agent meets nobody but itself, and its processes meet
over a file and talk over the loopback interface.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from torch.distributed import HashStore  # type: ignore[attr-defined]
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.elastic.rendezvous import (
    RendezvousHandler,
    RendezvousInfo,
    RendezvousParameters,
    rendezvous_handler_registry,
)
from torch.distributed.elastic.rendezvous.api import RendezvousStoreInfo
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from normbench.atomic import write_json, write_text
from normbench.config.schema import RunConfig
from normbench.errors import NormbenchError, RunFailure
from normbench.runs.rundir import open_run
from normbench.runs.state import read_status
from normbench.text import say
from normbench.training.meeting import Meeting
from normbench.training.signals import stop_signals

BACKEND = "normbench-alone"


def launch(config: RunConfig, *, restart: bool, patience: float) -> None:
    """Trains the run in `runtime.processes` processes until it ends.

    Asked to stop, all processes stop after the same step. Where one dies all start again from the
    last checkpoint, `system.restarts` times at most; a failure that a process tells of itself, as
    a full disk, would only come again. Raises RunFailure for both, and what a process raised for
    wrong input.
    """
    with tempfile.TemporaryDirectory(prefix="normbench-", ignore_cleanup_errors=True) as name:
        meeting = Meeting(Path(name))
        order = {"restart": restart, "patience": patience, "agent": os.getpid(), "argv": sys.argv}
        write_json(meeting.order, order)
        write_text(meeting.config, config.to_yaml())
        try:
            with stop_signals(then=meeting.stop.touch):
                _run_agent(config, meeting.folder)
        except ChildFailedError as error:
            _fail(config, meeting, error.failures)
        except KeyboardInterrupt:
            reason = "stopped at once: it goes on from the last checkpoint"
            _record(config, "interrupted", reason)
            if read_status(config.run_path).get("state") != "interrupted":
                raise
            raise KeyboardInterrupt(reason) from None
        told = meeting.end()
        if told is not None:
            # A process that does not write the run's directory may have told.
            _record(config, "failed", told["reason"])
            _raise_told(told)


def _run_agent(config: RunConfig, folder: Path) -> None:
    # Its lines say what the run's reason says, in a dozen lines.
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    rendezvous_handler_registry.register(BACKEND, _meet_nobody)
    how = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=config.runtime.processes,
        run_id=config.run_id,
        rdzv_backend=BACKEND,
        max_restarts=config.system.restarts,
        logs_specs=DefaultLogsSpecs(log_dir=str(folder)),
        signals_to_handle="",  # stop_signals asks the processes to save first
    )
    added = {
        # The package may have been found in a folder that a new interpreter does not look into.
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        # Its advice on parameters that a network might not use.
        "TORCH_CPP_LOG_LEVEL": "ERROR",
    }
    before = dict(os.environ)
    os.environ.update(added)
    try:
        elastic_launch(how, sys.executable)("-m", "normbench.training.worker", str(folder))
    finally:
        os.environ.clear()
        os.environ.update(before)


def _fail(config: RunConfig, meeting: Meeting, failures: dict[int, ProcessFailure]) -> None:
    """Records why the processes have failed; raises RunFailure."""
    killed = _first_killed(failures)
    codes = {failure.exitcode for failure in failures.values()}
    if meeting.stop.exists() and codes == {-signal.SIGTERM}:
        # A scheduler asks every process to end; these had not begun to listen.
        raise KeyboardInterrupt
    told: dict[str, Any] = {}
    if killed is None:
        told = meeting.first_failure(attempt=config.system.restarts) or {}
        rank, code = min((rank, failure.exitcode) for rank, failure in failures.items())
        reason = told.get("reason", f"process {rank + 1} ended with code {code}")
    else:
        name = signal.Signals(-failures[killed].exitcode).name
        hint = ", perhaps for want of memory" if name == "SIGKILL" else ""
        number = config.runtime.processes
        reason = f"process {killed + 1} of {number} was killed by {name}{hint}"
    with suppress(NormbenchError, OSError), open_run(config.run_path, patience=5) as run:
        if not run.is_over:
            run.fail(config.to_yaml(), reason)
    _raise_told({**told, "reason": reason, "exit_code": RunFailure.exit_code})


def _first_killed(failures: dict[int, ProcessFailure]) -> int | None:
    """The rank of a process that a signal ended before the agent ended the rest; None without."""
    first = min(failure.timestamp for failure in failures.values())
    for rank, failure in sorted(failures.items()):
        # The agent ends the rest by SIGTERM, and half a minute later by SIGKILL.
        is_early = failure.timestamp <= first + 1
        if is_early and failure.exitcode < 0 and failure.exitcode != -signal.SIGTERM:
            return rank
    return None


def _record(config: RunConfig, state: str, reason: str) -> None:
    """Records how a run that has begun ended, where its main process has not, nor another."""
    with suppress(NormbenchError, OSError):
        if read_status(config.run_path).get("state") == "running":
            with open_run(config.run_path, patience=5) as run:
                run.finish(state, reason)


def _raise_told(told: dict[str, Any]) -> None:
    """Raises what a process told, after the traceback that belongs to it."""
    if told.get("traceback"):
        say(told["traceback"].rstrip("\n"), lines=True, to=sys.stderr)
    kind = NormbenchError if told["exit_code"] == NormbenchError.exit_code else RunFailure
    raise kind(told["reason"])


class _Nobody(RendezvousHandler):
    """The meeting of a single agent, in its own memory: torch's own ways open a port to all."""

    def __init__(self, run_id: str) -> None:
        self._run_id = run_id

    def get_backend(self) -> str:
        return BACKEND

    def next_rendezvous(self) -> RendezvousInfo:
        # The processes meet over a file and ask for no port.
        nowhere = RendezvousStoreInfo(master_addr="127.0.0.1", master_port=0)
        return RendezvousInfo(HashStore(), 0, 1, nowhere)

    def is_closed(self) -> bool:
        return False

    def set_closed(self) -> None:
        """Does nothing."""

    def num_nodes_waiting(self) -> int:
        return 0

    def get_run_id(self) -> str:
        return self._run_id

    def shutdown(self) -> bool:
        return True


def _meet_nobody(parameters: RendezvousParameters) -> RendezvousHandler:
    return _Nobody(parameters.run_id)
