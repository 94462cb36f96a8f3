"""A study before anything runs: which runs it comes to, how each of them stands, and what cannot work and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from normbench.config.compose import from_settings
from normbench.config.grammar import literal
from normbench.config.schema import RunConfig
from normbench.errors import NormbenchError, Unsupported
from normbench.runs.rundir import RunDir, run_state
from normbench.sweeps.estimate import Estimator, duration
from normbench.sweeps.sweep import Study
from normbench.train.engine import count_steps
from normbench.train.resolve import Resolver, count_train

RESUMABLE = ("interrupted", "killed")


@dataclass(frozen=True)
class PlannedRun:
    """A run of the plan. state: refused, or as `rundir.run_state` has it; num_steps: in all, if it can run."""

    config: RunConfig
    state: str
    reason: str | None = None
    num_steps: int = 0


@dataclass(frozen=True)
class Plan:
    """The distinct runs of a study in its order; how many combinations repeated one; what the study leaves out."""

    name: str
    runs: tuple[PlannedRun, ...]
    duplicates: int
    excluded: Mapping[str, int]

    def open(self, *, retry_failed: bool = False, restart: bool = False) -> list[RunConfig]:
        """What there is to run: all but what is over, running elsewhere, refused, and, unless retried, failed."""
        states = {"new", *RESUMABLE} | ({"failed"} if retry_failed else set())
        states |= {"done", "diverged", "failed", "damaged"} if restart else set()
        return [run.config for run in self.runs if run.state in states]

    def describe(
        self, open_runs: Sequence[RunConfig], estimator: Estimator, jobs: int
    ) -> Iterator[str]:
        """The plan in a few lines: the number of runs, how they stand, refusals with their reasons, the time.

        open_runs: what `open` gave, that is, what would run; jobs: how many of them at a time.
        """
        told = f"; {len(open_runs)} will run" if len(open_runs) != len(self.open()) else ""
        yield f"{self.name}: {_counted(len(self.runs), 'run')}: {self._standing()}{told}"
        for reason, number in Counter(
            run.reason for run in self.runs if run.state == "refused"
        ).items():
            yield f"  refused: {reason}" + (f" ({number} runs)" if number > 1 else "")
        for reason, number in self.excluded.items():
            yield f"  left out by the study: {_counted(number, 'combination')}: {reason}"
        if self.duplicates:
            yield f"  {_counted(self.duplicates, 'combination')} left out that would repeat a run"
        to_run = {config.run_id for config in open_runs}
        if any(run.state == "failed" and run.config.run_id not in to_run for run in self.runs):
            yield "  failed runs are left as they are; --retry-failed goes on with them"
        if open_runs:
            yield _time_needed(open_runs, estimator, jobs)

    def _standing(self) -> str:
        counts = Counter(_word(run) for run in self.runs)
        names = (
            "done",
            "diverged",
            "failed",
            "damaged",
            "running elsewhere",
            "resumable",
            "to do",
            "refused",
        )
        return ", ".join(
            f"{counts[name]} {name}" for name in names if counts[name] or name in ("done", "to do")
        )


def make_plan(
    study: Study, flags: Mapping[str, Any] | None = None, resolver: Resolver | None = None
) -> Plan:
    """The plan of a study; `flags` ({"system.runs_dir": "runs"}) go on top of it.

    Raises NormbenchError for whatever is spelled wrong, and where not one run can work.
    """
    resolver = resolver or Resolver()
    on_top = {key: literal(value) for key, value in (flags or {}).items()}
    runs: dict[str, PlannedRun] = {}
    excluded: Counter[str] = Counter()
    number = 0
    for point, left_out in study.points():
        if left_out:
            excluded[left_out] += 1
            continue
        run = _planned(from_settings({**point, **on_top}), resolver)
        runs.setdefault(run.config.run_id, run)
        number += 1
    plan = Plan(study.name, tuple(runs.values()), number - len(runs), excluded)
    if all(run.state == "refused" for run in plan.runs):
        first = next((run.reason for run in plan.runs), "the study leaves out every combination")
        raise NormbenchError(f"nothing to run: {first}")
    return plan


def _planned(config: RunConfig, resolver: Resolver) -> PlannedRun:
    config, source = resolver.complete(config)
    num_train = count_train(config, source)
    try:
        resolver.check_supported(config, source, num_train)
    except Unsupported as error:
        return PlannedRun(config, "refused", str(error))
    images_per_step = config.batch_size * config.train.accumulate
    num_steps = count_steps(num_train, images_per_step, config.epochs, config.train.max_steps)
    return PlannedRun(config, run_state(config.run_path), num_steps=num_steps)


def _word(run: PlannedRun) -> str:
    """A run's state as the plan counts it."""
    if run.state in RESUMABLE and RunDir(run.config.run_path).has_checkpoint:
        return "resumable"
    return {
        "new": "to do",
        "interrupted": "to do",
        "killed": "to do",
        "running": "running elsewhere",
    }.get(run.state, run.state)


def _time_needed(configs: Sequence[RunConfig], estimator: Estimator, jobs: int) -> str:
    known = [seconds for config in configs if (seconds := estimator.seconds(config)) is not None]
    if not known:
        return "  time: not known yet, no run of these kinds has finished"
    rest = len(configs) - len(known)
    unknown = f", and {_counted(rest, 'run')} of kinds of which none has finished" if rest else ""
    at_once = f", {jobs} at a time" if jobs > 1 else ""
    return f"  time: about {duration(sum(known) / jobs)} for {_counted(len(known), 'run')}{at_once}{unknown}"


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
