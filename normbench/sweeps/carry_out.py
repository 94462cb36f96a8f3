"""Carries out a plan: launches open runs, shows their progress, and sums up the results."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace

from normbench.analysis.design import united
from normbench.analysis.joining import join
from normbench.analysis.loading import read_runs
from normbench.analysis.study import Study
from normbench.config.schema import RunConfig
from normbench.data.cache import load
from normbench.errors import NormbenchError
from normbench.runs.files import is_run, refused_run
from normbench.runs.records import OVER
from normbench.runs.state import last_output
from normbench.sweeps.display import open_display
from normbench.sweeps.estimate import Estimator
from normbench.sweeps.launchers import Launcher
from normbench.sweeps.plan import UNFINISHED, Plan, PlannedRun, as_on_disk
from normbench.sweeps.sweep import AD_HOC
from normbench.training.resolve import Resolver, data_home
from normbench.training.signals import stop_signals

MAX_SHOWN = 20  # failed runs in the summary


def run_plan(
    plan: Plan,
    open_runs: Sequence[RunConfig],
    launcher: Launcher,
    estimator: Estimator | None = None,
) -> Plan:
    """Launches `open_runs` until all have ended or a signal asks to stop; returns the new plan.

    estimator: what is known of the time of the runs.
    """
    prepare_data(open_runs)
    steps = {run.config.run_id: run.num_steps for run in plan.runs}
    jobs = launcher.at_once(open_runs)
    troubles: dict[str, str] = {}
    with (
        stop_signals() as should_stop,
        open_display(open_runs, steps, jobs, estimator) as display,
        closing(launcher.launch(open_runs, should_stop)) as events,
    ):
        for event in events:
            if event.kind == "started":
                display.run_started(event.config)
            else:
                display.run_ended(event.config)
                if event.trouble is not None:
                    troubles[event.config.run_id] = event.trouble
    launched = {config.run_id for config in open_runs}
    runs = [replace(run, held=None) if run.config.run_id in launched else run for run in plan.runs]
    return replace(plan, runs=tuple(_updated(run, troubles) for run in runs))


def prepare_data(configs: Sequence[RunConfig]) -> None:
    """Decodes the data of all runs once; runs started together would each decode the data."""
    by_content = {config.data.content: config for config in configs}
    for config in by_content.values():
        load(Resolver().source(config), data_home(config))


def held_states(held: Study) -> dict[str, str]:
    """The states of the runs with a result in a study's folder, by id."""
    over = held.runs[held.runs["status"].isin(OVER)]
    return dict(zip(over["run"], over["status"], strict=True))


def planned_study(plan: Plan, held: Study | None = None, launched: Collection[str] = ()) -> Study:
    """The study of all runs begun, with a row for each refused run.

    held: what the study's folder holds, of this machine and others; it stands until a result of
    the `launched` runs here replaces it.
    Raises NormbenchError where the folder holds another study, and RunFailure where one run has
    two different results.
    """
    begun, refused = [], []
    for run in plan.runs:
        config = run.config
        if run.state == "refused":
            settings = config.model_dump(mode="json")
            refused.append(refused_run(config.run_id, settings, run.reason or ""))
        elif is_run(config.run_path):
            begun.append(config.run_path)
    made = read_runs(begun, refused)
    if held is None:
        return replace(made, design=plan.design)
    # A folder without a design was written by report, or before folders kept one.
    design = united([plan.design, held.design or plan.design])
    if design is None:
        raise NormbenchError("--output: that folder holds another study: name another folder")
    ids = {run.config.run_id for run in plan.runs}
    strange = {*held.runs["run"]} - ids
    # A named study may grow in its folder: by further seeds, say.
    if strange and (held.design is None or plan.design.name == AD_HOC):
        raise NormbenchError(
            f"--output: that folder holds runs that are not of this sweep, as {min(strange)}: "
            "name another folder"
        )
    over = made.runs.loc[made.runs["status"].isin(OVER), "run"]
    earlier = held.only({*held.runs["run"]} - ({*launched} & {*over}))
    parts = [("the runs of this machine", made), ("the study's folder", earlier)]
    filled = [part for part in parts if not part[1].runs.empty]
    whole = join(filled) if filled else made
    return replace(whole, notes=made.notes, design=design)


def summary(plan: Plan, again: str) -> Iterator[str]:
    """Yields the last lines of a sweep: runs by state, failures, and `again`, the next command."""
    counts = Counter(run.state for run in plan.runs)
    states = [f"{number} {state}" for state, number in counts.most_common()]
    yield f"{plan.name}: {', '.join(states)}"
    for run in plan.runs:
        if run.state == "damaged":
            path = shlex.quote(str(run.config.run_path))
            yield f"  damaged: {run.config.run_id}: {run.reason}"
            yield f"    move it away or remove it (normbench runs rm {path}), then run this again"
    failed = [run for run in plan.runs if run.state == "failed"]
    for run in failed[:MAX_SHOWN]:
        yield f"  failed: {run.config.run_id}: {run.reason}"
        for line in last_output(run.config.run_path, 3):
            yield f"    | {line}"
    if len(failed) > MAX_SHOWN:
        yield f"  and {len(failed) - MAX_SHOWN} more: normbench runs --where status=failed"
    if failed:
        yield f"  retry with: {again} --retry-failed"
    if _is_unfinished(plan):
        yield f"  not finished; the same command goes on: {again}"


def exit_code(plan: Plan) -> int:
    """Returns 130 for an unfinished sweep, 1 for a failed or damaged run, 3 for a diverged run."""
    if _is_unfinished(plan):
        return 130
    states = {run.state for run in plan.runs}
    if states & {"failed", "damaged"}:
        return 1
    return 3 if "diverged" in states else 0


def _is_unfinished(plan: Plan) -> bool:
    return any(run.state in (*UNFINISHED, "running") for run in plan.runs)


def _updated(run: PlannedRun, troubles: Mapping[str, str]) -> PlannedRun:
    """Returns the run with its present state, failed where its end could not be recorded."""
    trouble = troubles.get(run.config.run_id)
    if trouble is not None:
        return replace(run, state="failed", reason=trouble)
    return as_on_disk(run)
