"""normbench sweep: many runs; and normbench demo, which is a small sweep in this process."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from normbench.cli.options import Debug, Overrides, RunsDir, again
from normbench.errors import NormbenchError

if TYPE_CHECKING:
    from normbench.config.schema import RunConfig
    from normbench.sweeps.launchers import Launcher
    from normbench.sweeps.plan import Plan
    from normbench.sweeps.sweep import Study

Restart = Annotated[bool, typer.Option("--restart", help="Train again what is done.")]
RetryFailed = Annotated[bool, typer.Option("--retry-failed", help="Go on with failed runs too.")]


def sweep(
    study: Annotated[
        list[str] | None,
        typer.Argument(
            help="A study of configs/sweep/, and key=value or key=a,b for settings and axes."
        ),
    ] = None,
    jobs: Annotated[
        int | None,
        typer.Option("--jobs", "-j", help="Runs at a time; else one per core, or per GPU."),
    ] = None,
    launcher: Annotated[str, typer.Option(help="inline, processes, ray, slurm")] = "processes",
    timeout: Annotated[float | None, typer.Option(help="Seconds that one run may take.")] = None,
    retry_failed: RetryFailed = False,
    restart: Restart = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the plan, run nothing.")
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="Write the report here, with runs, tables and figures."
        ),
    ] = None,
    runs_dir: RunsDir = None,
    runs_per_gpu: Annotated[
        int | None, typer.Option(help="processes: runs that share a GPU.")
    ] = None,
    cpus_per_run: Annotated[int | None, typer.Option(help="ray, slurm: cores of a run.")] = None,
    gpus_per_run: Annotated[
        float | None, typer.Option(help="ray: GPUs of a run, as 0.25; slurm: whole.")
    ] = None,
    address: Annotated[
        str | None, typer.Option(help="ray: the cluster; auto: the one that runs here.")
    ] = None,
    partition: Annotated[str | None, typer.Option(help="slurm: the partition.")] = None,
    sbatch: Annotated[
        list[str] | None, typer.Option(help="slurm: any other of its options, as account=x.")
    ] = None,
    debug: Debug = False,
) -> None:
    """Train every combination of some settings.

    What is done is never done again; the same command goes on where it was broken off, and failed runs stay as rows
    with a reason until --retry-failed.

    \b
    normbench sweep norm=bn,ln,in,gn batch_size=1,8,64 'seed=range(0,3)' --dry-run
    normbench sweep batch_size epochs=1 --jobs 2
    normbench sweep table --launcher ray --address auto --gpus-per-run 0.25
    normbench sweep table --launcher slurm --partition cpu
    """
    from normbench.sweeps.launchers import launchers

    given: dict[str, Any] = {
        "jobs": jobs,
        "timeout": timeout,
        "runs_per_gpu": runs_per_gpu,
        "cpus_per_run": cpus_per_run,
        "gpus_per_run": gpus_per_run,
        "address": address,
        "partition": partition,
        "sbatch": tuple(sbatch) if sbatch else None,
    }
    options = {key: value for key, value in given.items() if value is not None}
    chosen = launchers.build(launcher, restart, options=options)
    flags = {} if runs_dir is None else {"system.runs_dir": runs_dir}
    plan, open_runs = _plan(
        _study(study or []), flags, chosen, retry_failed=retry_failed, restart=restart
    )
    if not dry_run:
        _carry_out(plan, open_runs, chosen, output, live=launcher != "inline")


def demo(
    overrides: Overrides = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Where runs, tables, figures and report go.")
    ] = Path("results/demo"),
    retry_failed: RetryFailed = False,
    restart: Restart = False,
    debug: Debug = False,
) -> None:
    """Compare four norms on built-in synthetic images: tables, figures and a report in a minute, no download."""
    from normbench.sweeps.launchers import launchers

    inline = launchers.build("inline", restart)
    flags = {"system.runs_dir": str(output / "runs")}
    plan, open_runs = _plan(
        _study(["demo", *(overrides or ())]),
        flags,
        inline,
        retry_failed=retry_failed,
        restart=restart,
    )
    _carry_out(plan, open_runs, inline, output, live=False, rounds=9)


def _plan(
    study: Study,
    flags: dict[str, Any],
    launcher: Launcher,
    *,
    retry_failed: bool = False,
    restart: bool = False,
) -> tuple[Plan, list[RunConfig]]:
    """The plan, printed, and the runs in it that are to be launched."""
    from normbench.sweeps.estimate import Estimator
    from normbench.sweeps.plan import make_plan
    from normbench.train.resolve import Resolver

    plan = make_plan(study, flags, Resolver(launcher.device))
    open_runs = plan.open(retry_failed=retry_failed, restart=restart)
    for line in plan.describe(open_runs, Estimator(), launcher.at_once(open_runs)):
        print(line, flush=True)
    return plan, open_runs


def _carry_out(
    plan: Plan,
    open_runs: list[RunConfig],
    launcher: Launcher,
    output: Path | None,
    *,
    live: bool,
    rounds: int = 0,
) -> None:
    """Runs the plan, then shows how it stands; exits. rounds: of a bench of its finished runs, if any is wanted."""
    from normbench.analysis.loading import benches, with_bench
    from normbench.analysis.study_files import check_folder
    from normbench.environment import command
    from normbench.sweeps.carry_out import exit_code, planned_study, run_plan, summary

    if output is not None:
        check_folder(output)
    plan = run_plan(plan, open_runs, launcher, live=live)
    # Drawing takes seconds to import: not before the runs.
    from normbench.analysis.report import write_report
    from normbench.analysis.tables.comparison import comparison_table
    from normbench.analysis.tables.rendering import to_markdown
    from normbench.timing.rounds import as_rounds
    from normbench.timing.steps import bench_steps

    results = planned_study(plan.runs)
    timed = [run.config for run in plan.runs if rounds and run.state == "done"]
    if timed:
        results = with_bench(results, as_rounds([*bench_steps(timed, rounds, lambda: None)]))
    elif output is not None:
        results = with_bench(results, benches([output]))
    for note in results.notes:
        print(note, file=sys.stderr)
    if not results.runs.empty:
        print(f"\n{to_markdown(comparison_table(results))}")
        if output is not None:
            print(f"report: {write_report(results, output, command())}\n", flush=True)
    for line in summary(plan, again()):
        print(line)
    sys.exit(exit_code(plan))


def _study(arguments: list[str]) -> Study:
    """The study that the arguments name, with their settings on top, or the one that their settings are."""
    from normbench.sweeps.sweep import Study, load_study

    names = [argument for argument in arguments if "=" not in argument]
    overrides = [argument for argument in arguments if "=" in argument]
    if len(names) > 1:
        raise NormbenchError(f"one study at a time, not {' and '.join(names)}")
    if not arguments:
        raise NormbenchError(
            "say what to sweep: a study of configs/sweep/, or settings such as norm=bn,gn seed=0,1"
        )
    return (load_study(names[0]) if names else Study("sweep", ())).with_overrides(overrides)
