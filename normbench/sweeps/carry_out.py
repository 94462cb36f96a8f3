"""A plan carried out: what is open in it is launched, what happens is shown, and how everything stands is told."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace

from normbench.analysis.loading import read_runs
from normbench.analysis.study import Study
from normbench.config.schema import RunConfig
from normbench.data.cache import load
from normbench.runs.files import refused_run
from normbench.runs.rundir import last_output, read_status, run_state
from normbench.sweeps.display import open_display
from normbench.sweeps.estimate import Estimator
from normbench.sweeps.launchers import Launcher
from normbench.sweeps.plan import Plan, PlannedRun
from normbench.train.resolve import Resolver, data_home
from normbench.train.signals import stop_signals

MAX_SHOWN = 20  # failed runs in the summary


def run_plan(plan: Plan, open_runs: Sequence[RunConfig], launcher: Launcher, *, live: bool) -> Plan:
    """Launches `open_runs` of the plan until all have ended or somebody asks to stop; the plan as it stands then.

    live: show bars where standard error is a terminal.
    """
    prepare_data(open_runs)
    steps = {run.config.run_id: run.num_steps for run in plan.runs}
    steps = {config.run_id: steps[config.run_id] for config in open_runs}
    jobs = launcher.at_once(open_runs)
    with (
        stop_signals() as should_stop,
        open_display(steps, Estimator(), jobs, open_runs, live=live) as display,
        closing(launcher.launch(open_runs, should_stop)) as events,
    ):
        for event in events:
            if event.kind == "started":
                display.run_started(event.config)
            else:
                display.run_ended(event.config)
    return replace(
        plan, runs=tuple(replace(run, state=_state_now(run.config, run.state)) for run in plan.runs)
    )


def prepare_data(configs: Sequence[RunConfig]) -> None:
    """Decodes the data of all runs once, so that no run waits for another to do it."""
    resolver = Resolver()
    sources = {
        config.data.content: (resolver.source(config), data_home(config)) for config in configs
    }
    for source, home in sources.values():
        load(source, home)


def planned_study(planned: Sequence[PlannedRun]) -> Study:
    """The tables of the planned runs that have begun, with a row for each that was refused; without damaged ones."""
    begun = [run for run in planned if run.state not in ("refused", "damaged", "new")]
    refused = [run for run in planned if run.state == "refused"]
    return read_runs(
        (run.config.run_path for run in begun if (run.config.run_path / "config.yaml").exists()),
        (
            refused_run(run.config.run_id, run.config.model_dump(mode="json"), run.reason or "")
            for run in refused
        ),
    )


def summary(plan: Plan, again: str) -> Iterator[str]:
    """The last lines of a sweep: how many runs stand how, what failed and why, and the command that goes on."""
    counts = Counter(run.state for run in plan.runs)
    yield f"{plan.name}: " + ", ".join(
        f"{number} {state}" for state, number in counts.most_common()
    )
    for run in plan.runs:
        if run.state == "damaged":
            yield f"  damaged: {run.config.run_path}: remove it with normbench runs rm --failed, then run this again"
    failed = [run.config for run in plan.runs if run.state == "failed"]
    for config in failed[:MAX_SHOWN]:
        yield f"  failed: {config.run_id}: {read_status(config.run_path).get('reason')}"
        yield from (f"    | {line}" for line in last_output(config.run_path, 3))
    if len(failed) > MAX_SHOWN:
        yield f"  and {len(failed) - MAX_SHOWN} more: normbench runs --where status=failed"
    if failed:
        yield f"  retry with: {again} --retry-failed"
    if _is_unfinished(plan):
        yield f"  not finished; the same command goes on: {again}"


def exit_code(plan: Plan) -> int:
    """130 for an unfinished sweep, 1 if a run has failed or is damaged, 3 if one has diverged, else 0."""
    states = {run.state for run in plan.runs}
    if _is_unfinished(plan):
        return 130
    return 1 if states & {"failed", "damaged"} else 3 if "diverged" in states else 0


def _is_unfinished(plan: Plan) -> bool:
    return any(run.state in ("new", "running", "interrupted", "killed") for run in plan.runs)


def _state_now(config: RunConfig, state: str) -> str:
    return state if state == "refused" else run_state(config.run_path)
