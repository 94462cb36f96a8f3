"""A run in a separate process: the death of a run harms no other run.

A server imports torch once and forks the processes (Python's forkserver): a run starts in 0.1 s
instead of several, in a process as fresh as a new interpreter. On macOS forking is unsafe.
"""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from multiprocessing import forkserver
from typing import Any

from normbench.atomic import disk_errors
from normbench.config.schema import RunConfig
from normbench.errors import NormbenchError, complaint
from normbench.runs.records import OVER
from normbench.runs.rundir import open_run
from normbench.runs.standing import UNUSABLE, standing
from normbench.runs.state import last_output, status_bytes
from normbench.sweeps.launchers.launcher import StopAsked, Work, train
from normbench.text import say
from normbench.training.signals import withheld_ctrl_c, without_the_program

# Between the request to stop and SIGKILL; the run finishes a step and saves a checkpoint.
GRACE_SECONDS = 20.0

# Runs that the summary names, and one that another process holds.
LEFT_ALONE = (*UNUSABLE, "running")


class Child:
    """A run in its process, started at once; call `settle` when the sentinel is ready."""

    def __init__(
        self,
        config: RunConfig,
        *,
        restart: bool = False,
        timeout: float | None = None,
        environment: Mapping[str, str] | None = None,
        work: Work = train,
    ) -> None:
        self.config = config
        self.restart = restart
        self.timeout = timeout
        self._before = status_bytes(config.run_path)
        self._kill_at: float | None = None
        self._late = False
        arguments = (config, restart, {**os.environ, **(environment or {})}, work)
        context = start_server([config])
        self._process = context.Process(target=_main, args=arguments, daemon=True)
        with without_the_program():
            self._process.start()
        # After the start: the first process waits for the server to import torch.
        self._start = time.monotonic()

    @property
    def sentinel(self) -> int:
        """The handle for multiprocessing.connection.wait."""
        sentinel: int = self._process.sentinel
        return sentinel

    def watch(self) -> None:
        """Stops a run over the time limit, kills a run deaf to the stop; called at every poll."""
        now = time.monotonic()
        if self.timeout is not None and now > self._start + self.timeout and self._kill_at is None:
            self._late = True
            self.stop()
        if self._kill_at is not None and now > self._kill_at:
            self.kill()

    def stop(self) -> None:
        """Asks the run to save its checkpoint and end."""
        if self._kill_at is None:
            self._kill_at = time.monotonic() + GRACE_SECONDS
            self._process.terminate()

    def kill(self) -> None:
        """Ends the process and every process started by the run, at once."""
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except ProcessLookupError:  # the process has no group yet
            self._process.kill()

    def settle(self) -> str | None:
        """Records the end of the process in the run's directory, where the run has not done so.

        Returns the reason of a failure that could not be recorded.
        """
        self._process.join()
        was_asked = self._kill_at is not None and not self._late
        if was_asked and self._process.exitcode < 0:
            return None  # asked to stop and killed: the same command resumes the run
        reason = f"over the time limit of {self.timeout:g} s" if self._late else self._exit()
        return settle(
            self.config,
            self._before,
            reason,
            restart=self.restart,
            failed_anyway=self._late,
        )

    def wait(self, should_stop: StopAsked, every: float) -> str | None:
        """Waits for the end and settles; asks `should_stop` every so many seconds."""
        while self._process.is_alive():
            self._process.join(every)
            if should_stop():
                self.stop()
            self.watch()
        return self.settle()

    def _exit(self) -> str:
        """Describes the end of the process: the signal, or the exit code and the last output."""
        code: int = self._process.exitcode
        if code < 0:
            hint = ", perhaps for want of memory" if code == -signal.SIGKILL else ""
            return f"killed by {signal.Signals(-code).name}{hint}"
        output = "\n".join(last_output(self.config.run_path)).strip() or "no output"
        return f"ended with code {code}: {output.splitlines()[-1].strip()}"


def settle(
    config: RunConfig,
    before: bytes | None,
    reason: str,
    *,
    restart: bool = False,
    failed_anyway: bool = False,
) -> str | None:
    """Marks the run failed for `reason`, unless its status has changed from `before` to an end.

    before: the bytes of status.json at the start. restart: the run was to begin anew, so that the
    old result is none. failed_anyway: an interrupted run counts as failed too. Returns the reason
    where the disk refuses the record or keeps an old result, else None.
    """
    stands = standing(config.run_path)
    has_changed = status_bytes(config.run_path) != before
    if stands.state in OVER:
        return reason if restart and not has_changed else None
    if stands.state in LEFT_ALONE:
        return None
    has_ended = has_changed and stands.state not in ("new", "killed", "unreachable")
    if has_ended and not (failed_anyway and stands.state == "interrupted"):
        return None
    try:
        with open_run(config.run_path) as run:
            run.fail(config.to_yaml(), reason)
    except (NormbenchError, OSError) as error:
        return reason if str(error) in reason else f"{reason} ({error})"
    return None


def print_to_file(config: RunConfig, restart: bool) -> None:
    """Redirects the output of this process to the run's output.log."""
    file = config.run_path / "output.log"
    with disk_errors(file):
        config.run_path.mkdir(parents=True, exist_ok=True)
        with file.open("wb" if restart else "ab") as log:
            for stream in (sys.stdout, sys.stderr):
                stream.flush()
                os.dup2(log.fileno(), stream.fileno())
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]


def preloaded(configs: Sequence[RunConfig]) -> list[str]:
    """Names the modules imported by the fork server of the runs.

    torch._dynamo takes 2 to 7 s to import, and only compilation needs the module.
    """
    compiler = ["torch._dynamo"] if any(config.runtime.compile for config in configs) else []
    return ["normbench.sweeps.launchers.child", "normbench.training.run", *compiler]


def start_server(configs: Sequence[RunConfig]) -> Any:
    """Returns the context of processes; starts the fork server unless already running."""
    if sys.platform == "darwin":
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(preloaded(configs))
    # Ctrl-C is for the scheduler alone.
    with withheld_ctrl_c(), without_the_program():
        forkserver.ensure_running()
    return context


def _main(config: RunConfig, restart: bool, environment: Mapping[str, str], work: Work) -> None:
    """Runs in the new process: redirects output, leads a process group, ends with the parent."""
    os.environ.clear()
    os.environ.update(environment)
    with suppress(PermissionError):  # the leader of a group stays in the group
        os.setsid()
    # Ignoring the signal discards a pending Ctrl-C of the terminal left by setsid.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    threading.Thread(target=_stop_with_parent, daemon=True).start()
    try:
        print_to_file(config, restart)
        faulthandler.enable()
        work(config, restart)
    except Exception as error:
        say(complaint(error), lines=True, to=sys.stderr)
        sys.exit(getattr(error, "exit_code", 1))


def _stop_with_parent() -> None:
    """Asks the run to stop when the parent has ended: the next command finds a saved checkpoint."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
