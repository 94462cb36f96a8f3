"""normbench sweep: many runs; and normbench demo: a small sweep in this process."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from normbench.cli import complete
from normbench.cli.options import Overrides, RunsDir, again, named_to_go_on
from normbench.errors import NormbenchError
from normbench.text import counted, say

if TYPE_CHECKING:
    from normbench.analysis.study import Study
    from normbench.config.schema import RunConfig
    from normbench.sweeps.estimate import Estimator
    from normbench.sweeps.launchers import Launcher
    from normbench.sweeps.plan import Plan
    from normbench.sweeps.sweep import Sweep
    from normbench.training.resolve import Resolver

Restart = Annotated[bool, typer.Option("--restart", help="Train again what is done.")]
RetryFailed = Annotated[bool, typer.Option("--retry-failed", help="Go on with failed runs too.")]
DEMO_ROUNDS = 9  # of the bench at the end of the demo


def sweep(
    study: Annotated[
        list[str] | None,
        typer.Argument(
            help="A study of configs/sweep/; key=value or key=a,b for settings and axes; "
            "launcher.KEY=value for options of the launcher.",
            autocompletion=complete.studies_and_settings,
        ),
    ] = None,
    jobs: Annotated[
        int | None,
        typer.Option("--jobs", "-j", help="Runs at a time; else one per core, or per GPU."),
    ] = None,
    launcher: Annotated[
        str,
        typer.Option(
            help="inline, processes, ray, slurm", autocompletion=complete.words(complete.LAUNCHERS)
        ),
    ] = "processes",
    retry_failed: RetryFailed = False,
    restart: Restart = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the plan, run nothing.")
    ] = False,
    no_timing: Annotated[
        bool,
        typer.Option(
            "--no-timing", help="Do not time a few steps to tell how long the runs will take."
        ),
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="Write the report here, with runs, tables and figures."
        ),
    ] = None,
    tuned_by: Annotated[
        Path | None,
        typer.Option(
            help="The folder of the study that has chosen the learning rates, for a study that "
            "says tuned_by.  [default: results/NAME]"
        ),
    ] = None,
    runs_dir: RunsDir = None,
) -> None:
    """Train every combination of some settings.

    Finished runs are never trained again: the same command goes on where it was broken off, and
    with --output also where the tables of that folder hold runs made elsewhere.
    Failed runs stay as rows with a reason until --retry-failed.

    \b
    normbench sweep norm=bn,ln,in,gn batch_size=1,8,64 'seed=range(0,3)' --dry-run
    normbench sweep norm=all,my_norms.py:MyNorm data=synthetic epochs=1
    normbench sweep batch_size epochs=1 --jobs 2 launcher.timeout=3600
    normbench sweep table --launcher ray launcher.address=auto launcher.gpus_per_run=0.25
    normbench sweep table --launcher slurm launcher.partition=cpu 'launcher.sbatch={account: x}'
    """
    from normbench.sweeps.launchers import launchers, split_settings

    options, arguments = split_settings(study or [])
    if jobs is not None:
        if "jobs" in options:
            raise NormbenchError("--jobs and launcher.jobs are the same option: give one of them")
        options["jobs"] = jobs
    chosen = launchers.build(launcher, restart, options=options)
    flags = {} if runs_dir is None else {"system.runs_dir": runs_dir}
    held = _held(output)
    planned = _sweep(arguments, tuned_by)
    plan, open_runs, estimator = _plan(
        planned,
        flags,
        chosen,
        held,
        retry_failed=retry_failed,
        restart=restart,
        is_timed=not no_timing,
        in_detail=dry_run,
    )
    if not dry_run:
        with named_to_go_on():
            _carry_out(plan, open_runs, chosen, output, held, estimator=estimator)


def demo(
    overrides: Overrides = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Where runs, tables, figures and report go.")
    ] = Path("results/demo"),
    retry_failed: RetryFailed = False,
    restart: Restart = False,
) -> None:
    """Compare four norms on built-in images in a minute: tables, figures and a report."""
    from normbench.sweeps.launchers import launchers

    inline = launchers.build("inline", restart)
    flags = {"system.runs_dir": str(output / "runs")}
    chosen = _sweep(["demo", *(overrides or ())])
    plan, open_runs, _ = _plan(
        chosen, flags, inline, None, retry_failed=retry_failed, restart=restart
    )
    with named_to_go_on():
        _carry_out(plan, open_runs, inline, output, rounds=DEMO_ROUNDS)


def _held(output: Path | None) -> Study | None:
    """The study that the folder holds already, on which this sweep goes on."""
    if output is None:
        return None
    from normbench.analysis.study_reader import read_study, study_in

    file = study_in(output)
    return None if file is None else read_study(file)


def _plan(
    sweep: Sweep,
    flags: dict[str, Any],
    launcher: Launcher,
    held: Study | None,
    *,
    retry_failed: bool,
    restart: bool,
    is_timed: bool = False,
    in_detail: bool = False,
) -> tuple[Plan, list[RunConfig], Estimator]:
    """Makes and prints the plan; returns it, the runs to launch, and what is known of their time.

    is_timed: kinds of runs of which no time is known are timed now; in_detail: the plan is printed
    with axes, data and cells.
    """
    from normbench.sweeps.plan import make_plan
    from normbench.sweeps.preview import preview
    from normbench.sweeps.sweep import AD_HOC
    from normbench.training.resolve import Resolver

    resolver = Resolver(launcher.device)
    states = {}
    # Runs without a report are planned without pandas.
    if held is not None:
        from normbench.sweeps.carry_out import held_states

        states = held_states(held)
    plan = make_plan(sweep, flags, resolver, states)
    open_runs = plan.open(retry_failed=retry_failed, restart=restart)
    estimator = _estimator(open_runs, launcher, resolver, is_timed=is_timed)
    details = preview(sweep, plan, open_runs, estimator, resolver) if in_detail else ()
    for line in plan.describe(open_runs, estimator, launcher.at_once(open_runs), details):
        say(line, flush=True)
    # A folder of another study is refused before anything is trained.
    if held is not None or plan.design.name != AD_HOC:
        from normbench.sweeps.carry_out import planned_study
        from normbench.sweeps.power import describe_power

        launched = [config.run_id for config in open_runs]
        for line in describe_power(plan, planned_study(plan, held, launched)):
            say(line, flush=True)
    return plan, open_runs, estimator


def _estimator(
    open_runs: list[RunConfig], launcher: Launcher, resolver: Resolver, *, is_timed: bool
) -> Estimator:
    """What is known of the time of these runs; kinds that lack any are timed now if `is_timed`."""
    from normbench.sweeps.estimate import Estimator
    from normbench.sweeps.step_times import MOST_SECONDS, StepTimes

    # Steps of this machine say nothing of another one.
    if launcher.device is not None:
        return Estimator()
    steps = StepTimes(resolver, launcher.threads(open_runs))
    estimator = Estimator(steps)
    missing = steps.missing(estimator.unfinished(open_runs)) if is_timed else []
    if missing:
        say(
            f"timing a few steps of {counted(len(missing), 'kind')} of runs, at most "
            f"{MOST_SECONDS:.0f} s in all (not with --no-timing); the times are kept",
            to=sys.stderr,
            flush=True,
        )
        steps.measure(missing)
    return estimator


def _carry_out(
    plan: Plan,
    open_runs: list[RunConfig],
    launcher: Launcher,
    output: Path | None,
    held: Study | None = None,
    rounds: int = 0,
    estimator: Estimator | None = None,
) -> None:
    """Runs the plan, times `rounds` of the finished runs, shows table, report, summary; exits."""
    from normbench.analysis.loading import benches, with_bench
    from normbench.analysis.study_files import check_folder, ordered
    from normbench.environment import command
    from normbench.sweeps.carry_out import exit_code, planned_study, run_plan, summary

    if output is not None:
        check_folder(output)
    plan = run_plan(plan, open_runs, launcher, estimator)
    # After the runs: modules that draw take seconds to import.
    from normbench.analysis.tables.comparison import comparison_table
    from normbench.analysis.tables.rendering import to_markdown
    from normbench.audit.whole_report import write_whole_report
    from normbench.timing.rounds import as_rounds
    from normbench.timing.steps import bench_steps

    results = planned_study(plan, held, [config.run_id for config in open_runs])
    if output is not None:
        results = ordered(results)
    timed = [run.config for run in plan.runs if rounds and run.state == "done"]
    if timed:
        results = with_bench(results, as_rounds([*bench_steps(timed, rounds, lambda: None)]))
    elif output is not None:
        results = with_bench(results, benches([output]))
    for note in results.notes:
        say(note, to=sys.stderr)
    if not results.runs.empty:
        say(f"\n{to_markdown(comparison_table(results))}", lines=True)
        if output is not None:
            page = write_whole_report(results, output, command())
            say(f"report: {page}\n", lines=True, flush=True)
    for line in summary(plan, again()):
        say(line)
    sys.exit(exit_code(plan))


def _sweep(arguments: list[str], tuned_by: Path | None = None) -> Sweep:
    """Returns the named study with settings on top, or the sweep of the settings alone."""
    from normbench.config.grammar import check_words
    from normbench.sweeps.sweep import AD_HOC, Sweep, load_sweep
    from normbench.sweeps.tuning import tuned

    if not arguments:
        raise NormbenchError(
            "say what to sweep: a study of configs/sweep/, or settings such as norm=bn,gn seed=0,1"
        )
    check_words(arguments)
    names = [argument for argument in arguments if "=" not in argument]
    overrides = [argument for argument in arguments if "=" in argument]
    if len(names) > 1:
        raise NormbenchError(f"one study at a time, not {' and '.join(names)}")
    sweep = load_sweep(names[0]) if names else Sweep(AD_HOC, ())
    return tuned(sweep.with_overrides(overrides), tuned_by)
