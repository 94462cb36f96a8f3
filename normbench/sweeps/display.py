"""What a person sees of a sweep: a line per finished run, and on a terminal a bar per active run and one for all."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from normbench.config.schema import RunConfig
from normbench.errors import NormbenchError
from normbench.runs.rundir import RunDir, read_position, read_status
from normbench.sweeps.estimate import Estimator, duration


class Display:
    """Plain lines on standard output: one per finished run, fit for a pipe and a log."""

    def __init__(self, steps: Mapping[str, int], estimator: Estimator, jobs: int) -> None:
        self.steps = steps
        self.estimator = estimator
        self.jobs = jobs
        self.ended = 0
        self._started: dict[str, float] = {}

    def run_started(self, config: RunConfig) -> None:
        """To be called when a run starts."""
        self._started[config.run_id] = time.monotonic()

    def run_ended(self, config: RunConfig) -> None:
        """To be called when a run has ended."""
        self.ended += 1
        self.estimator.learn(config)
        seconds = time.monotonic() - self._started.pop(config.run_id)
        width = len(str(len(self.steps)))
        self.say(
            f"[{self.ended:{width}}/{len(self.steps)}] {_outcome(config)}  {duration(seconds)}"
        )

    def say(self, line: str) -> None:
        """One line on standard output, at once."""
        print(line, flush=True)


class LiveDisplay(Display):
    """The same lines above bars that follow the rows which the active runs write."""

    def __init__(
        self,
        steps: Mapping[str, int],
        estimator: Estimator,
        jobs: int,
        open_runs: Sequence[RunConfig],
    ) -> None:
        super().__init__(steps, estimator, jobs)
        self._open_runs = open_runs
        self._left = {config.run_id: config for config in open_runs}
        self._bars: dict[str, TaskID] = {}
        columns = (
            TextColumn("{task.description}"),
            BarColumn(24),
            TextColumn("{task.fields[note]}"),
        )
        self.progress = _Followed(
            self._follow,
            *columns,
            console=Console(stderr=True),
            refresh_per_second=2,
            redirect_stdout=sys.stdout.isatty(),  # else what goes into a pipe would be drawn on the terminal
        )
        self._total = self.progress.add_task("all runs", total=len(steps), note="")

    def run_started(self, config: RunConfig) -> None:
        """Adds the run's bar."""
        super().run_started(config)
        self._bars[config.run_id] = self.progress.add_task(
            config.run_id, total=self.steps[config.run_id], note=""
        )

    def run_ended(self, config: RunConfig) -> None:
        """Takes the run's bar away and prints its line."""
        self._left.pop(config.run_id, None)
        self.progress.remove_task(self._bars.pop(config.run_id))
        super().run_ended(config)

    def say(self, line: str) -> None:
        """One line above the bars."""
        if sys.stdout.isatty():
            self.progress.console.print(line, highlight=False, markup=False, soft_wrap=True)
        else:
            print(line, flush=True)

    def _follow(self) -> None:
        for run_id, bar in list(self._bars.items()):
            done, steps = self._position(run_id), self.steps[run_id]
            with suppress(KeyError):  # it has ended meanwhile
                self.progress.update(bar, completed=done, note=f"step {done}/{steps}")
        left = self._seconds_left()
        note = f"{self.ended}/{len(self.steps)}" + (
            f", about {duration(left)} left" if left is not None else ""
        )
        self.progress.update(self._total, completed=self.ended, note=note)

    def _position(self, run_id: str) -> int:
        try:
            return read_position(self._left[run_id].run_path)
        except (NormbenchError, OSError, KeyError, ValueError):
            return 0  # not a row yet

    def _seconds_left(self) -> float | None:
        """What the runs that are left will take at this many a time; kinds not known yet count as the others' mean."""
        estimates = {config.run_id: self.estimator.seconds(config) for config in self._open_runs}
        known = [seconds for seconds in estimates.values() if seconds is not None]
        if not known:
            return None
        mean = sum(known) / len(known)
        parts = {
            run_id: 1 - self._position(run_id) / max(1, self.steps[run_id])
            for run_id in list(self._bars)
        }
        return (
            sum((estimates[name] or mean) * parts.get(name, 1.0) for name in list(self._left))
            / self.jobs
        )


class _Followed(Progress):
    """Bars that look where the runs are each time they are drawn."""

    def __init__(self, follow: Any, *columns: Any, **options: Any) -> None:
        self._follow = follow
        super().__init__(*columns, **options)

    def get_renderables(self) -> Iterable[RenderableType]:
        if self._tasks:
            self._follow()
        return super().get_renderables()


@contextmanager
def open_display(
    steps: Mapping[str, int],
    estimator: Estimator,
    jobs: int,
    open_runs: Sequence[RunConfig],
    *,
    live: bool,
) -> Iterator[Display]:
    """The display for runs of so many `steps`: with bars if `live`, where standard error is a terminal."""
    if not (live and sys.stderr.isatty()):
        yield Display(steps, estimator, jobs)
        return
    display = LiveDisplay(steps, estimator, jobs, open_runs)
    with display.progress:
        yield display


def _outcome(config: RunConfig) -> str:
    """How the run ended, in a few words."""
    try:
        status = read_status(config.run_path)
        metrics = RunDir(config.run_path).last_metrics()
    except NormbenchError as error:
        return f"damaged   {config.run_id}  {error}"
    state = status.get("state", "stopped")
    if not status:
        return f"{state:9} {config.run_id}  before it had begun"
    if state == "done" and "test_accuracy" not in metrics:
        return f"damaged   {config.run_id}  metrics.csv has no test accuracy"
    result = (
        f"test accuracy {metrics['test_accuracy']:.4f}"
        if state == "done"
        else f"{status.get('reason')}"
    )
    return f"{state:9} {config.run_id}  {result}"
