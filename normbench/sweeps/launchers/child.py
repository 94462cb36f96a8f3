"""One run in a process of its own, so that whatever kills it kills nothing else.

The process is forked from a server that has imported torch once (Python's forkserver), which leaves a run 0.1 s of
start-up instead of several; it is as fresh as a new interpreter. Where forking is unsafe, on macOS, it is a new one.
"""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from functools import lru_cache
from multiprocessing import forkserver, resource_tracker
from multiprocessing.context import BaseContext
from typing import Any

from normbench.config.schema import RunConfig
from normbench.errors import NormbenchError, complaint
from normbench.runs.rundir import OVER, last_output, open_run, read_status, run_state
from normbench.sweeps.launchers.launcher import StopAsked, Work, train

GRACE_SECONDS = (
    20.0  # from asking a run to stop to killing it: it saves its checkpoint after the step it is in
)
LOADED = [
    "__main__",
    "normbench.train.run",
    "torch._dynamo",
]  # the last by torch.optim at its first use, for seconds


class Child:
    """A run in its process, from the moment it is made; `settle` it when its sentinel is ready."""

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
        self.timeout = timeout
        self._before = read_status(config.run_path)
        self._kill_at: float | None = None
        self._late = False
        surroundings = {**os.environ, **(environment or {})}
        process: Any = _context().Process  # type: ignore[attr-defined]
        self._process = process(
            target=_main, args=(config, restart, surroundings, work), daemon=True
        )
        self._process.start()
        self._start = time.monotonic()  # the first one waits for the server to have imported torch

    @property
    def sentinel(self) -> int:
        """What multiprocessing.connection.wait waits for."""
        sentinel: int = self._process.sentinel
        return sentinel

    def watch(self) -> None:
        """Stops a run that is over its time and kills one that does not stop; to be called now and then."""
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
        """Ends the process and whatever it has started, at once."""
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except ProcessLookupError:
            self._process.kill()

    def settle(self) -> None:
        """Once the process has ended: makes sure that the run's directory says how."""
        self._process.join()
        if self._kill_at is not None and not self._late and self._process.exitcode < 0:
            return  # asked to stop before it could listen, or too slow to: the same command goes on with it
        reason = f"over the time limit of {self.timeout:g} s" if self._late else self._exit()
        settle(self.config, self._before, reason, failed_anyway=self._late)

    def wait(self, should_stop: StopAsked, every: float) -> None:
        """Waits until the process has ended, asking `every` so many seconds whether to stop it, and settles it."""
        while self._process.is_alive():
            self._process.join(every)
            if should_stop():
                self.stop()
            self.watch()
        self.settle()

    def _exit(self) -> str:
        """How the process ended, in words."""
        code: int = self._process.exitcode
        last = next(
            (line for line in reversed(last_output(self.config.run_path)) if line.strip()),
            "no output",
        )
        if code < 0:
            hint = ", perhaps for want of memory" if -code == signal.SIGKILL else ""
            return f"killed by {signal.Signals(-code).name}{hint}"
        return f"ended with code {code}: {last.strip()}"


def settle(
    config: RunConfig, before: Mapping[str, Any], reason: str, *, failed_anyway: bool = False
) -> None:
    """Marks the run failed for `reason` unless its own status, which was `before`, says how it has ended since.

    A run that another process is training is left alone; where the disk is full it stays as killed, which is true.
    """
    state = run_state(config.run_path)
    if state == "damaged":
        return  # the summary names it; what is in it is for a person to look at
    status = read_status(config.run_path)
    told = status != before and state != "killed" and not (failed_anyway and state == "interrupted")
    if state in OVER or told:
        return
    with suppress(NormbenchError), open_run(config.run_path) as run:
        run.fail(config.to_yaml(), reason)


def print_to_file(config: RunConfig, restart: bool) -> None:
    """Sends all that this process prints to the run's output.log."""
    config.run_path.mkdir(parents=True, exist_ok=True)
    with (config.run_path / "output.log").open("wb" if restart else "ab") as log:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
            os.dup2(log.fileno(), stream.fileno())
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]


@lru_cache
def _context() -> BaseContext:
    if sys.platform == "darwin":
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(LOADED)
    resource_tracker.ensure_running()  # else the server starts it, and unblocks the signal
    before = signal.pthread_sigmask(
        signal.SIG_BLOCK, {signal.SIGINT}
    )  # inherited: Ctrl-C is for the scheduler alone
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return context


def _main(config: RunConfig, restart: bool, environment: Mapping[str, str], work: Work) -> None:
    """What the process does: with its own output file and process group, and never longer than its parent lives."""
    os.environ.clear()
    os.environ.update(environment)
    with suppress(PermissionError):  # a process that leads a group already stays where it is
        os.setsid()
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # forgets the Ctrl-C of a terminal that it has just left
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    print_to_file(config, restart)
    faulthandler.enable()
    threading.Thread(target=_stop_with_parent, daemon=True).start()
    try:
        work(config, restart)
    except Exception as error:
        print(complaint(error), file=sys.stderr)
        sys.exit(getattr(error, "exit_code", 1))


def _stop_with_parent() -> None:
    """Whatever ends the parent, this run saves its checkpoint and is there for the next command to go on with."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
