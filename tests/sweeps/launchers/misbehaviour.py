"""Work that crashes, waits, ignores signals or tells where it is. Processes find it here: they unpickle it by name."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn
from unittest import mock

from normbench.config.schema import RunConfig
from normbench.errors import RunFailure
from normbench.runs.rundir import open_run
from normbench.sweeps.launchers.launcher import train
from normbench.train.engine import Trainer

AT_MOST = 300.0  # seconds that work waits for what a test does: a broken test leaves nothing behind


def note(folder: str, name: str, line: object) -> None:
    """Appends a line to a file of the test's, whole even when several processes do."""
    descriptor = os.open(Path(folder) / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(descriptor, f"{line}\n".encode())
    os.close(descriptor)


def noted(folder: Path, name: str) -> list[str]:
    return (folder / name).read_text().splitlines() if (folder / name).exists() else []


def _raise() -> NoReturn:
    raise RuntimeError("the work is broken")


def _refuse() -> NoReturn:
    raise RunFailure("the disk is full")


def _exit() -> NoReturn:
    print("last words", flush=True)
    os._exit(7)


CRASHES: dict[str, Callable[[], object]] = {
    "raises": _raise,
    "refuses": _refuse,
    "exits": lambda: sys.exit(7),
    "exits at once": _exit,
    "is killed": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "segfaults": lambda: os.kill(os.getpid(), signal.SIGSEGV),
}


@dataclass(frozen=True)
class Crashing:
    """Work that trains, but where the seed is 1 it crashes: before it has begun, or after so many steps."""

    how: str
    after_steps: int | None = None

    def __call__(self, config: RunConfig, restart: bool) -> None:
        if config.seed != 1:
            train(config, restart)
        elif self.after_steps is None:
            CRASHES[self.how]()
        else:
            with at_step(self.after_steps, CRASHES[self.how]):
                train(config, restart)


@dataclass(frozen=True)
class CrashingRarely:
    """Work that trains, but crashes where the seed is 7 modulo 20; it notes every time that it is called."""

    folder: str

    def __call__(self, config: RunConfig, restart: bool) -> None:
        note(self.folder, "calls", config.seed)
        if config.seed % 20 == 7:
            CRASHES["is killed" if config.seed % 40 == 7 else "exits at once"]()
        train(config, restart)


@dataclass(frozen=True)
class Held:
    """Work that trains, and after so many steps notes `held` and waits there until it is asked to stop."""

    folder: str
    after_steps: int

    def __call__(self, config: RunConfig, restart: bool) -> None:
        def wait() -> None:
            listening = signal.getsignal(
                signal.SIGTERM
            )  # the run's own: it changes when it has heard
            note(self.folder, "held", os.getpid())
            end = time.monotonic() + AT_MOST
            while signal.getsignal(signal.SIGTERM) is listening and time.monotonic() < end:
                time.sleep(0.01)

        with at_step(self.after_steps, wait):
            train(config, restart)


@dataclass(frozen=True)
class Starting:
    """Work that notes `starting` and never comes to begin; deaf: it does not listen to SIGTERM either."""

    folder: str
    deaf: bool = False

    def __call__(self, config: RunConfig, restart: bool) -> None:
        if self.deaf:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        started = subprocess.Popen(["sleep", str(AT_MOST)])
        note(self.folder, "grandchildren", started.pid)
        note(self.folder, "starting", os.getpid())
        time.sleep(AT_MOST)


@dataclass(frozen=True)
class Telling:
    """Work that trains nothing and notes a variable of its environment, its directory, and from when to when it ran."""

    folder: str
    variable: str

    def __call__(self, config: RunConfig, restart: bool) -> None:
        start = time.monotonic()
        time.sleep(0.2)
        with open_run(config.run_path) as run:
            run.finish("done")
        value = os.environ.get(self.variable)
        note(self.folder, "told", f"{value}|{Path.cwd()}|{start}|{time.monotonic()}")


@dataclass(frozen=True)
class Silent:
    """Work that ends and has said nothing."""

    def __call__(self, config: RunConfig, restart: bool) -> None:
        pass


@contextmanager
def at_step(number: int, happens: Callable[[], object]) -> Iterator[None]:
    """Within, something happens when a run has done so many steps."""
    take_step = Trainer.take_step

    def wrapped(self: Trainer, *arguments: object) -> object:
        if self.step == number:
            happens()
        return take_step(self, *arguments)  # type: ignore[arg-type]

    with mock.patch.object(Trainer, "take_step", wrapped):
        yield
