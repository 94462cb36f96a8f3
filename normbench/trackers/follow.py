"""A run that trains, followed by trackers, none of which can stop it or change a number."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from normbench.config.schema import flatten, from_yaml
from normbench.errors import NormbenchError, first_line
from normbench.runs.files import read_run, read_steps
from normbench.runs.rundir import PICTURE, RunDir
from normbench.text import say
from normbench.trackers.tracker import (
    Tracker,
    subject_of,
    tell_epoch,
    tell_rows,
    tell_step,
    trackers,
)


def check_trackers(names: Sequence[str], *, here: bool) -> None:
    """Raises NormbenchError for a tracker that is unknown, given twice, or, `here`, not there."""
    if len({*names}) < len(names):
        raise NormbenchError(f"system.trackers={','.join(names)}: name each tracker once")
    for name in names:
        trackers.check(name, {})
        if here:
            trackers.build(name)


def followed(run: RunDir, names: Sequence[str]) -> RunDir:
    """The run's directory, which tells these trackers what is written into it."""
    return FollowedRun(run.path, tuple(names)) if names else run


@dataclass
class FollowedRun(RunDir):
    """The directory of a run that trackers follow; their records lie beside it, by tool.

    A tracker that fails is told no more, and a line on standard error says so.
    """

    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        self._trackers: dict[str, Tracker] = {}
        self._row: Mapping[str, Any] | None = None

    def begin(self, config: str, environment: Mapping[str, Any]) -> None:
        """Writes as any run's directory, and opens a record with each tracker."""
        is_new = not self.has_checkpoint
        super().begin(config, environment)
        for name in self.names:
            with self._unharmed(name):
                settings = flatten(from_yaml(config).model_dump(mode="json"))
                subject = subject_of(self.path.name, settings, environment)
                open_record = trackers.build(name)
                self._trackers[name] = open_record(self._folder(name), subject, is_new)

    def load_checkpoint(self) -> tuple[dict[str, Any], str | None]:
        """Gives the checkpoint, and tells the rows that it covers."""
        found = super().load_checkpoint()
        if self._trackers:
            metrics, steps = read_run(self.path).metrics, read_steps(self.path) or {}
            self._tell(lambda tracker: tell_rows(tracker, metrics, steps))
        return found

    def append_step(self, row: Mapping[str, Any]) -> None:
        """Writes and tells the row of a logged step."""
        super().append_step(row)
        self._tell(lambda tracker: tell_step(tracker, row))

    def append_metrics(self, row: Mapping[str, Any]) -> None:
        """Writes the row of an epoch; it is told when a checkpoint covers it."""
        super().append_metrics(row)
        self._row = row

    def save_checkpoint(self, state: Mapping[str, Any]) -> None:
        """Writes the checkpoint, and tells the row of the epoch before it."""
        super().save_checkpoint(state)
        row, self._row = self._row, None
        if row is not None:
            self._tell(lambda tracker: tell_epoch(tracker, row))

    def finish(self, state: str, reason: str | None = None) -> None:
        """Writes and tells how the run ended."""
        super().finish(state, reason)
        file = self.path / PICTURE

        def end(tracker: Tracker) -> None:
            tracker.end(state, reason, file.read_bytes() if file.exists() else None)

        self._tell(end)
        self._trackers.clear()

    def _folder(self, name: str) -> Path:
        return self.path.parent / name

    def _tell(self, tell: Callable[[Tracker], None]) -> None:
        for name, tracker in [*self._trackers.items()]:
            with self._unharmed(name):
                tell(tracker)

    @contextmanager
    def _unharmed(self, name: str) -> Iterator[None]:
        """Keeps a tracker's failure from the run."""
        try:
            yield
        except Exception as error:
            self._trackers.pop(name, None)
            again = ["normbench", "export", str(self.path), "--to", name, str(self._folder(name))]
            say(
                f"warning: tracker {name} failed and follows the run no more ({first_line(error)});"
                f" later its whole record: {shlex.join(again)}",
                to=sys.stderr,
            )
