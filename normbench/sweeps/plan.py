"""The plan of a sweep: distinct runs, their states on disk, and refusals, before any work."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from normbench.analysis.design import Design
from normbench.config.compose import from_settings
from normbench.config.grammar import literal
from normbench.config.schema import RunConfig
from normbench.errors import NormbenchError, Unsupported
from normbench.runs.records import OVER
from normbench.runs.rundir import RunDir
from normbench.runs.standing import UNUSABLE, standing
from normbench.sweeps.estimate import Estimator, duration
from normbench.sweeps.sweep import Sweep
from normbench.tasks.metric import Metric
from normbench.text import counted
from normbench.training.build import task_of
from normbench.training.engine import count_steps
from normbench.training.resolve import Resolver, count_train

UNFINISHED = ("new", "interrupted", "killed")
# Words for the states of runs, in the order of the plan's first line.
ENDS = ("done", "diverged", "failed", "damaged")
WORDS = (*ENDS, "running elsewhere", "resumable", "to do", "refused")


@dataclass(frozen=True)
class PlannedRun:
    """A run of the plan. state: `refused`, or as told by `as_on_disk`; num_steps: in all.

    held: how the run has ended by the tables of the study's folder; None where they lack it.
    settings: the sweep's settings of the run, by dotted key.
    """

    config: RunConfig
    state: str
    reason: str | None = None
    num_steps: int = 0
    held: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """The distinct runs of a sweep, in the sweep's order.

    duplicates: number of combinations equal to an earlier run; excluded: number of combinations
    left out by the sweep, by reason. metric: the task's primary one.
    """

    name: str
    runs: tuple[PlannedRun, ...]
    duplicates: int
    excluded: Mapping[str, int]
    design: Design
    metric: Metric

    def open(self, *, retry_failed: bool = False, restart: bool = False) -> list[RunConfig]:
        """Returns the runs to launch: by default new and unfinished runs.

        A damaged run is launched by `restart` only, a run held by another process never.
        """
        states = set(UNFINISHED)
        if retry_failed:
            states.add("failed")
        if restart:
            states.update(ENDS)
        return [run.config for run in self.runs if run.state in states]

    def describe(
        self,
        open_runs: Sequence[RunConfig],
        estimator: Estimator,
        jobs: int,
        details: Iterable[str] = (),
    ) -> Iterator[str]:
        """Yields the plan in a few lines: numbers of runs by state, refusals with reasons, time.

        open_runs: result of `open`; jobs: number of runs at a time; details: further lines after
        the first.
        """
        counts = Counter(map(word, self.runs))
        shown = [state for state in WORDS if counts[state] or state in ("done", "to do")]
        standing = ", ".join(f"{counts[state]} {state}" for state in shown)
        first = f"{self.name}: {counted(len(self.runs), 'run')}: {standing}"
        if len(open_runs) != len(self.open()):
            first += f"; {len(open_runs)} will run"
        yield first
        yield from details
        held = sum(run.held is not None and run.state == run.held for run in self.runs)
        if held:
            yield f"  {held} of them by the tables of the folder"
        refusals = Counter(run.reason for run in self.runs if run.state == "refused")
        for reason, number in refusals.items():
            more = f" ({number} runs)" if number > 1 else ""
            yield f"  refused: {reason}{more}"
        for excluded, number in self.excluded.items():
            yield f"  left out by the study: {counted(number, 'combination')}: {excluded}"
        if self.duplicates:
            yield f"  {counted(self.duplicates, 'combination')} left out that would repeat a run"
        to_run = {config.run_id for config in open_runs}
        if any(run.state == "failed" and run.config.run_id not in to_run for run in self.runs):
            yield "  failed runs are left as they are; --retry-failed goes on with them"
        if open_runs:
            yield _time_needed(open_runs, estimator, jobs)


def make_plan(
    sweep: Sweep,
    flags: Mapping[str, Any] | None = None,
    resolver: Resolver | None = None,
    held: Mapping[str, str] | None = None,
) -> Plan:
    """Plans a sweep; `flags` ({"system.runs_dir": "runs"}) override the settings.

    held: states of the finished runs in the study's folder, by run id: they count as done here.

    Raises NormbenchError for misspelled settings, for several tasks, and for a sweep without a
    single possible run.
    """
    resolver = resolver or Resolver()
    on_top = {key: literal(value) for key, value in (flags or {}).items()}
    runs: dict[str, PlannedRun] = {}
    excluded: Counter[str] = Counter()
    number = 0
    for settings, left_out in sweep.points():
        if left_out:
            excluded[left_out] += 1
            continue
        run = _planned(from_settings(settings | on_top), resolver, held or {})
        run = replace(run, settings=settings)
        runs.setdefault(run.config.run_id, run)
        number += 1
    tasks = {run.config.task.name for run in runs.values()}
    if len(tasks) > 1:
        names = ", ".join(sorted(tasks))
        raise NormbenchError(f"task: {names}: no table compares runs of several tasks; sweep each")
    if not runs:
        reasons = "; ".join(excluded) or "the study has no combination"
        raise NormbenchError(f"nothing to run: the study leaves out every combination: {reasons}")
    first = next(iter(runs.values())).config
    metric = task_of(first, resolver.source(first)).primary
    repeated = number - len(runs)
    plan = Plan(sweep.name, tuple(runs.values()), repeated, excluded, sweep.design, metric)
    if all(run.state == "refused" for run in plan.runs):
        raise NormbenchError(f"nothing to run: {plan.runs[0].reason}")
    return plan


def _planned(config: RunConfig, resolver: Resolver, held: Mapping[str, str]) -> PlannedRun:
    config, source = resolver.complete(config)
    num_train = count_train(config, source)
    try:
        resolver.check_supported(config, source, num_train)
    except Unsupported as error:
        return PlannedRun(config, "refused", str(error))
    steps = config.images_per_step, config.epochs, config.train.max_steps
    num_steps = count_steps(num_train, *steps)
    run = PlannedRun(config, "new", num_steps=num_steps, held=held.get(config.run_id))
    return as_on_disk(run)


def as_on_disk(run: PlannedRun) -> PlannedRun:
    """Returns the run with its present state; a refused run has no directory to ask.

    A run that the disk refuses counts as failed; one in a wrong directory or of another version,
    as damaged. One without a result here has the result that the study's folder holds.
    """
    if run.state == "refused":
        return run
    stands = standing(run.config.run_path)
    state = stands.state
    if state in UNUSABLE:
        state = "damaged"
    elif state == "unreachable":
        state = "failed"
    if run.held is not None and state not in (*OVER, "running"):
        return replace(run, state=run.held, reason=None)
    return replace(run, state=state, reason=stands.reason)


def word(run: PlannedRun) -> str:
    """How a run stands, as one of WORDS."""
    if run.state == "running":
        return "running elsewhere"
    if run.state not in UNFINISHED:
        return run.state
    return "resumable" if RunDir(run.config.run_path).has_checkpoint else "to do"


def _time_needed(configs: Sequence[RunConfig], estimator: Estimator, jobs: int) -> str:
    estimates = [estimator.seconds(config) for config in configs]
    known = [seconds for seconds in estimates if seconds is not None]
    if not known:
        return "  time: not known yet, no run of these kinds has finished or was timed"
    line = f"  time: about {duration(sum(known) / jobs)} for {counted(len(known), 'run')}"
    if jobs > 1:
        line += f", {jobs} at a time"
    rest = len(configs) - len(known)
    if rest:
        line += f", and {counted(rest, 'run')} of kinds of which none has finished or was timed"
    rough = sum(map(estimator.is_rough, configs))
    if rough:
        line += f"; roughly, since {rough} of them are of kinds that were not timed"
    return line
