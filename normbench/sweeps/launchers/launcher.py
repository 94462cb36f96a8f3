"""The interface of launchers and their registry. A launcher is a function in a separate file."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field

from normbench.config.grammar import parse_axes
from normbench.config.schema import RunConfig
from normbench.errors import NormbenchError
from normbench.registry import Registry

StopAsked = Callable[[], bool]
Work = Callable[[RunConfig, bool], object]  # trains a run; True: from the beginning

Number = Annotated[int, Field(ge=1, le=100_000)]
Jobs = Number | None
Seconds = Annotated[float, Field(gt=0)] | None

PREFIX = "launcher."


@dataclass(frozen=True)
class Event:
    """The start or the end of a run; the result is in the run's directory.

    trouble: the reason of a failure that could not be written to the run's directory.
    """

    kind: Literal["started", "ended"]
    config: RunConfig
    trouble: str | None = None


@dataclass(frozen=True)
class Launcher:
    """A way to execute runs.

    launch: starts the runs and yields an event for each start and end. Asked to stop, launches no
    more runs, stops the active runs and yields their ends.
    at_once: number of active runs at a time.
    threads: of a run of one process; None for torch's default.
    device: `cpu` or `cuda`, where runs execute on machines unknown here.
    """

    launch: Callable[[Sequence[RunConfig], StopAsked], Generator[Event]]
    at_once: Callable[[Sequence[RunConfig]], int]
    device: str | None = None
    threads: Callable[[Sequence[RunConfig]], int | None] = lambda configs: None


def split_settings(overrides: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """Separates the options of a launcher (`launcher.jobs=2`) from the settings of the runs.

    Raises NormbenchError for an option given twice or with several values.
    """
    own = [text for text in overrides if text.startswith(PREFIX)]
    settings = [text for text in overrides if not text.startswith(PREFIX)]
    options = {}
    for key, values in parse_axes(own, {}).items():
        if len(values) > 1:
            raise NormbenchError(f"'{key}' takes one value: a launcher's option is no axis")
        options[key.removeprefix(PREFIX)] = values[0]
    return options, settings


def share(config: RunConfig, num_runs: int, threads: int | None) -> RunConfig:
    """Returns the configuration of a run among `num_runs` at a time, with a share of threads.

    threads: of each process of the run. The share depends on the number of places and not on the
    number of runs left: a run resumed alone reaches the same numbers.
    """
    concurrent_runs = max(num_runs, config.system.concurrent_runs)
    own = config.system.threads or threads
    return config.with_system(threads=own, concurrent_runs=concurrent_runs, progress="lines")


def most_processes(configs: Sequence[RunConfig]) -> int:
    """Returns the processes of the run with the most: every place of a sweep has room for them."""
    return max((config.runtime.processes for config in configs), default=1)


def share_elsewhere(config: RunConfig, num_runs: int, threads: int) -> RunConfig:
    """Returns `share` for a machine with another current folder: the runs folder is absolute."""
    folder = str(config.run_path.parent.absolute())
    return share(config, num_runs, threads).with_system(runs_dir=folder)


def train(config: RunConfig, restart: bool) -> object:
    """Executes the run: the work of every launcher.

    Waits up to 30 s for a predecessor to save a checkpoint.
    """
    from normbench.training.run import execute

    return execute(config, restart=restart, patience=30)


# Parameters of an entry: restart, the work of each run, and keyword-only the launcher's options.
launchers: Registry[Launcher] = Registry("launcher")
