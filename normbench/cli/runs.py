"""normbench runs: what has been run, how two runs differ, removing, and joining studies."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from normbench.cli import complete
from normbench.cli.commands import Command
from normbench.cli.tables import write
from normbench.errors import NormbenchError, RunFailure
from normbench.text import say

app = typer.Typer(rich_markup_mode=None, invoke_without_command=True)

RunsDir = Annotated[Path, typer.Option(help="Where run directories are.")]
Run = Annotated[str, typer.Argument(autocompletion=complete.runs)]
DEFAULT_RUNS_DIR = Path("results/runs")


@app.callback()
def runs(
    context: typer.Context,
    where: Annotated[
        list[str] | None,
        typer.Option(help="A condition on a column or setting; with several, all hold."),
    ] = None,
    sort: Annotated[
        str | None, typer.Option(help="A column or setting; -KEY from the largest.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Every column and setting, as JSON.")
    ] = False,
    runs_dir: RunsDir = DEFAULT_RUNS_DIR,
) -> None:
    """List runs, compare two, remove some, join the parts of a study.

    \b
    normbench runs --where norm=bn,gn --where 'batch_size<=4' --sort -epochs
    normbench runs --where status=failed,diverged
    """
    if context.invoked_subcommand is not None:
        if where or sort is not None or as_json:
            raise NormbenchError(
                "--where, --sort and --json belong to normbench runs, "
                f"not to {context.invoked_subcommand}"
            )
        return
    from normbench.runs.listing import list_runs, to_json, to_text

    folder = runs_dir.expanduser()
    listing = list_runs(folder, where or (), sort)
    if as_json:
        say(to_json(listing), lines=True)
    elif listing.rows:
        say(to_text(listing), lines=True)
    elif where:
        say(f"no runs match {' '.join(where)}")
    else:
        say(f"no runs in {folder}")


@app.command("diff", cls=Command)
def diff(first: Run, second: Run, runs_dir: RunsDir = DEFAULT_RUNS_DIR) -> None:
    """Show two runs side by side: what they differ in, and final figures.

    FIRST and SECOND are ids, hashes, beginnings of these that no other run has, or paths.
    """
    from normbench.runs.diff import diff as compare
    from normbench.runs.diff import find_run

    folder = runs_dir.expanduser()
    say(compare(find_run(folder, first), find_run(folder, second)), lines=True)


@app.command("rm", cls=Command)
def remove(
    runs: Annotated[
        list[str] | None,
        typer.Argument(
            help="Ids, hashes, beginnings of these that no other run has, or paths.",
            autocompletion=complete.runs,
        ),
    ] = None,
    failed: Annotated[
        bool, typer.Option("--failed", help="All that failed or are damaged.")
    ] = False,
    runs_dir: RunsDir = DEFAULT_RUNS_DIR,
) -> None:
    """Remove runs that failed, or those named.

    One that is running is left alone.
    """
    from normbench.runs.diff import find_run
    from normbench.runs.listing import failed_runs
    from normbench.runs.rundir import remove_run

    if bool(runs) == failed:
        raise NormbenchError("say which runs to remove: by name, or all that failed with --failed")
    folder = runs_dir.expanduser()
    paths = [find_run(folder, name) for name in runs or ()]
    if failed:
        paths = failed_runs(folder)
        if not paths:
            say(f"no failed runs in {folder}")
    busy = 0
    for path in paths:
        try:
            remove_run(path)
            say(f"removed {path}")
        except RunFailure as error:
            busy += 1
            say(error, to=sys.stderr)
    sys.exit(1 if busy else 0)


@app.command("merge", cls=Command)
def merge(
    studies: Annotated[
        list[Path], typer.Argument(help="Folders of one study, or of run directories.")
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The folder for all of it, with its report.")
    ],
    bench: Annotated[
        Path | None, typer.Option(help="A bench.csv.  [default: those in the folders]")
    ] = None,
) -> None:
    """Join the parts of a study, made on several machines, into one folder.

    The result is the same, byte for byte, as of a study made in one place. A run with two
    different results is refused, and both are named.

    \b
    normbench runs merge results/batch-size /mnt/other/batch-size -o results/whole
    """
    write(studies, output, bench=bench, in_order=True)
