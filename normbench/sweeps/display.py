"""The display of a sweep: a line per finished run, and on a terminal a bar per active run."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress

from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from normbench.config.schema import RunConfig
from normbench.errors import NormbenchError
from normbench.runs.files import read_run
from normbench.runs.records import task_of
from normbench.runs.standing import standing
from normbench.runs.state import read_position
from normbench.sweeps.estimate import Estimator, duration
from normbench.text import bars, in_notebook, say, visible

Steps = Mapping[str, int]  # number of steps, by run id
SECONDS_BETWEEN_LINES = 60.0


class Display:
    """Plain lines on standard output, a line per finished run, fit for a pipe and a log."""

    def __init__(
        self,
        open_runs: Sequence[RunConfig],
        steps: Steps,
        jobs: int,
        estimator: Estimator | None = None,
    ) -> None:
        self.open_runs = open_runs
        self.left = {config.run_id: config for config in open_runs}
        self.steps = steps
        self.estimator = estimator or Estimator()
        self.jobs = jobs
        self._started: dict[str, float] = {}
        self._speaking = threading.Lock()

    @property
    def ended(self) -> int:
        """The number of ended runs."""
        return len(self.open_runs) - len(self.left)

    def run_started(self, config: RunConfig) -> None:
        """Notes the time of the run's start."""
        self._started[config.run_id] = time.monotonic()

    def run_ended(self, config: RunConfig) -> None:
        """Prints the line of the run."""
        del self.left[config.run_id]
        self.estimator.learn(config)
        seconds = time.monotonic() - self._started.pop(config.run_id)
        total = len(self.open_runs)
        number = str(self.ended).rjust(len(str(total)))
        self.say(f"[{number}/{total}] {_outcome(config)}  {duration(seconds)}")

    def say(self, line: str) -> None:
        """Prints a line on standard output, at once."""
        with self._speaking:
            say(line, flush=True)

    def still_to_do(self) -> str:
        """How many runs have ended, and the time left where it is known, in a line."""
        positions = {run_id: self._position(run_id) for run_id in list(self._started)}
        told = f"{self.ended}/{len(self.open_runs)} runs ended"
        seconds = self._seconds_left(positions)
        return told if seconds is None else f"{told}, about {duration(seconds)} left"

    @contextmanager
    def telling(self, seconds: float) -> Iterator[None]:
        """Says every so many seconds, in a thread of its own, what is still to do."""
        is_over = threading.Event()

        def tell() -> None:
            with suppress(OSError):  # nobody reads any more
                while not is_over.wait(seconds):
                    self.say(self.still_to_do())

        thread = threading.Thread(target=tell, daemon=True)
        thread.start()
        try:
            yield
        finally:
            is_over.set()
            thread.join()

    def _position(self, run_id: str) -> int:
        try:
            return read_position(self.left[run_id].run_path)
        except (NormbenchError, OSError, KeyError, ValueError):
            return 0  # no row yet, a damaged file, or a run ended meanwhile

    def _seconds_left(self, positions: Mapping[str, int]) -> float | None:
        """Estimates the time of the runs left; None where nothing is known of any kind.

        A kind of which nothing is known counts as the mean of the known kinds.
        """
        estimates = {config.run_id: self.estimator.seconds(config) for config in self.open_runs}
        known = [seconds for seconds in estimates.values() if seconds is not None]
        if not known:
            return None
        mean = sum(known) / len(known)
        total = 0.0
        for run_id in list(self.left):
            done = positions.get(run_id, 0) / max(1, self.steps[run_id])
            total += (estimates[run_id] or mean) * (1 - done)
        return total / self.jobs


class NotebookDisplay(Display):
    """The lines of Display below a bar of the notebook's own."""

    def __init__(
        self,
        open_runs: Sequence[RunConfig],
        steps: Steps,
        jobs: int,
        estimator: Estimator | None,
    ) -> None:
        super().__init__(open_runs, steps, jobs, estimator)
        self.bar = bars()(total=len(open_runs), desc="runs", leave=False)

    def run_ended(self, config: RunConfig) -> None:
        """Moves the bar and prints the line of the run."""
        self.bar.update()
        super().run_ended(config)


class LiveDisplay(Display):
    """The lines of Display above bars; a bar follows the files of an active run."""

    def __init__(
        self,
        open_runs: Sequence[RunConfig],
        steps: Steps,
        jobs: int,
        estimator: Estimator | None = None,
    ) -> None:
        super().__init__(open_runs, steps, jobs, estimator)
        self._bars: dict[str, TaskID] = {}
        self.progress = _Followed(
            TextColumn("{task.description}"),
            BarColumn(24),
            TextColumn("{task.fields[note]}"),
            console=Console(stderr=True),
            refresh_per_second=2,
            # Otherwise lines meant for a pipe would be drawn on the terminal.
            redirect_stdout=sys.stdout.isatty(),
        )
        self._all = self.progress.add_task("all runs", total=len(self.open_runs), note="")
        self.progress.follow = self._follow

    def run_started(self, config: RunConfig) -> None:
        """Adds the run's bar."""
        super().run_started(config)
        total = self.steps[config.run_id]
        self._bars[config.run_id] = self.progress.add_task(config.run_id, total=total, note="")

    def run_ended(self, config: RunConfig) -> None:
        """Removes the run's bar and prints the run's line."""
        self.progress.remove_task(self._bars.pop(config.run_id))
        super().run_ended(config)

    def say(self, line: str) -> None:
        """Prints a line above the bars."""
        if sys.stdout.isatty():
            self.progress.console.print(
                visible(line), highlight=False, markup=False, emoji=False, soft_wrap=True
            )
        else:
            super().say(line)

    def _follow(self) -> None:
        """Moves the bars. Called by the drawing thread, while runs start and end in another."""
        positions = {}
        for run_id, bar in list(self._bars.items()):
            position = positions[run_id] = self._position(run_id)
            note = f"step {position}/{self.steps[run_id]}"
            with suppress(KeyError):  # the run has ended meanwhile
                self.progress.update(bar, completed=position, note=note)
        note = f"{self.ended}/{len(self.open_runs)}"
        seconds = self._seconds_left(positions)
        if seconds:
            note += f", about {duration(seconds)} left"
        self.progress.update(self._all, completed=self.ended, note=note)


class _Followed(Progress):
    """Bars brought up to date by `follow` before each drawing."""

    follow: Callable[[], None]

    def get_renderables(self) -> Iterable[RenderableType]:
        if self._tasks:
            self.follow()
        return super().get_renderables()


@contextmanager
def open_display(
    open_runs: Sequence[RunConfig],
    steps: Steps,
    jobs: int,
    estimator: Estimator | None = None,
) -> Iterator[Display]:
    """Yields the display of `open_runs`, `jobs` at a time; with bars in notebooks and terminals.

    Elsewhere the time left is a line every SECONDS_BETWEEN_LINES.
    """
    if in_notebook():
        shown = NotebookDisplay(open_runs, steps, jobs, estimator)
        with closing(shown.bar):
            yield shown
        return
    if not sys.stderr.isatty():
        display = Display(open_runs, steps, jobs, estimator)
        with display.telling(SECONDS_BETWEEN_LINES):
            yield display
        return
    live = LiveDisplay(open_runs, steps, jobs, estimator)
    with live.progress:
        yield live


def _outcome(config: RunConfig) -> str:
    files = read_run(config.run_path)
    stands = standing(config.run_path, files)
    state = "stopped" if stands.state == "new" else stands.state
    result = stands.reason or "before it had begun"
    if state == "done":
        metric = task_of(files.environment).primary
        reached = files.metrics[f"test_{metric.name}"][-1]
        result = f"test {metric.title} {metric.finer().show(reached)}"
    return f"{state:9} {config.run_id}  {result}"
