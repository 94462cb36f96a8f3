"""normbench runs: what has been run, how two runs differ, and removing what failed."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from normbench.cli.options import Debug
from normbench.errors import NormbenchError, RunFailure

app = typer.Typer(rich_markup_mode=None, invoke_without_command=True)

RunsDir = Annotated[Path, typer.Option(help="Where run directories are.")]
DEFAULT_RUNS_DIR = Path("results/runs")


@app.callback()
def runs(
    context: typer.Context,
    where: Annotated[str | None, typer.Option(help="Conditions on columns and settings.")] = None,
    sort: Annotated[
        str | None, typer.Option(help="A column or setting; -KEY from the largest.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Every column and setting, as JSON.")
    ] = False,
    runs_dir: RunsDir = DEFAULT_RUNS_DIR,
    debug: Debug = False,
) -> None:
    """List runs, compare two, remove some.

    \b
    normbench runs --where 'norm=bn,gn and batch_size<=4' --sort -test_accuracy
    normbench runs --where 'status=failed or test_accuracy<20%'
    """
    if context.invoked_subcommand is not None:
        if where is not None or sort is not None or as_json:
            raise NormbenchError(
                f"--where, --sort and --json belong to normbench runs, not to {context.invoked_subcommand}"
            )
        return
    from normbench.analysis.listing import list_runs, to_json, to_text

    table = list_runs(runs_dir.expanduser(), where, sort)
    print(to_json(table) if as_json else to_text(table))


@app.command("diff")
def diff(
    first: str, second: str, runs_dir: RunsDir = DEFAULT_RUNS_DIR, debug: Debug = False
) -> None:
    """Show two runs side by side: what they differ in, and final figures.

    FIRST and SECOND are ids, the first parts of ids, hashes, or paths.
    """
    from normbench.analysis.compare_runs import diff as compare
    from normbench.analysis.compare_runs import find_run

    print(compare(*(find_run(runs_dir.expanduser(), name) for name in (first, second))))


@app.command("rm")
def remove(
    runs: Annotated[list[str] | None, typer.Argument(help="Ids, their hashes, or paths.")] = None,
    failed: Annotated[
        bool, typer.Option("--failed", help="All that failed or are damaged.")
    ] = False,
    runs_dir: RunsDir = DEFAULT_RUNS_DIR,
    debug: Debug = False,
) -> None:
    """Remove runs that failed, or those named.

    One that is running is left alone.
    """
    from normbench.analysis.compare_runs import find_run
    from normbench.analysis.listing import list_runs
    from normbench.runs.rundir import remove_run

    if bool(runs) == failed:
        raise NormbenchError("say which runs to remove: by name, or all that failed with --failed")
    folder = runs_dir.expanduser()
    bad: list[str] = list_runs(folder, "status=failed,damaged")["run"].tolist() if failed else []
    busy = 0
    for path in [find_run(folder, name, whole=True) for name in runs or ()] + [
        folder / name for name in bad
    ]:
        try:
            remove_run(path)
            print(f"removed {path}")
        except RunFailure as error:
            busy += 1
            print(error, file=sys.stderr)
    if failed and not bad:
        print(f"no failed runs in {folder}")
    sys.exit(1 if busy else 0)
