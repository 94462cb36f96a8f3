"""What a launcher is. Each is a registered function of its options, in a file of its own."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from normbench.config.schema import RunConfig
from normbench.registry import Registry

StopAsked = Callable[[], bool]
Work = Callable[[RunConfig, bool], object]  # trains a run; the flag says whether to begin anew

Number = Annotated[int, Field(ge=1, le=100_000)]
Jobs = Number | None
Seconds = Annotated[float, Field(gt=0)] | None


@dataclass(frozen=True)
class Event:
    """A run has started or ended; what came of it is in its directory."""

    kind: Literal["started", "ended"]
    config: RunConfig


@dataclass(frozen=True)
class Launcher:
    """A way to execute runs.

    launch: starts the runs and says when each has started and ended, until all have, or until it is asked to stop:
    then it stops those that run and starts no more. at_once: how many of these runs it has going at a time.
    device: where the runs will be, `cpu` or `cuda`, if that is on other machines.
    """

    launch: Callable[[Sequence[RunConfig], StopAsked], Generator[Event]]
    at_once: Callable[[Sequence[RunConfig]], int]
    device: str | None = None


def share(config: RunConfig, num_runs: int, threads: int | None) -> RunConfig:
    """The configuration of a run that may have company: its threads, unless set, and a note of how many runs there are.

    The threads are those of its place, however few runs are left, so that one that goes on alone goes on to the same
    numbers.
    """
    concurrent_runs = max(num_runs, config.system.concurrent_runs)
    own = config.system.threads or threads
    return config.with_system(threads=own, concurrent_runs=concurrent_runs, progress="lines")


def share_elsewhere(config: RunConfig, num_runs: int, threads: int) -> RunConfig:
    """As `share`, for a machine where this folder is not the current one."""
    folder = str(config.run_path.parent.absolute())
    return share(config, num_runs, threads).with_system(runs_dir=folder)


def train(config: RunConfig, restart: bool) -> object:
    """The work of every launcher: `execute`, patient with a predecessor that is still on its way out."""
    from normbench.train.run import execute

    return execute(config, restart=restart, patience=30)


# An entry takes whether to restart runs and the work to do on each, and its own options.
launchers: Registry[Launcher] = Registry("launcher")
