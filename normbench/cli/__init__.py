"""The command line: parse, call one function, print. Heavy imports stay inside the commands, so that help is quick."""

from __future__ import annotations

import os
import sys
import traceback

import typer

from normbench.cli import bench, data, doctor, norms, runs, sweep, tables, train
from normbench.errors import NormbenchError, user_traceback

app = typer.Typer(
    help="Compare normalization layers by measuring.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # importing rich takes longer than all the rest of --help
    context_settings={"help_option_names": ["-h", "--help"]},
)
ABOUT_RUNS = (tables.table, tables.compare, tables.plot, tables.report)
for command in (
    train.train,
    sweep.sweep,
    sweep.demo,
    *ABOUT_RUNS,
    bench.bench,
    norms.norms,
    doctor.doctor,
):
    app.command()(command)
app.add_typer(runs.app, name="runs")
app.add_typer(data.app, name="data")


def main() -> None:
    """Runs the command line; a user's mistake becomes one line on standard error and its exit code."""
    os.environ.setdefault(
        "KINETO_LOG_LEVEL", "99"
    )  # or torch's profiler, which counts memory, talks on standard error
    try:
        code = app(standalone_mode=False)
        if (
            code == 130
        ):  # Typer's answer to a Ctrl-C that no command has handled: they exit by themselves
            _fail("interrupted", 130)
        sys.exit(code)
    except Exception as error:
        _explain(error)


def _explain(error: Exception) -> None:
    """One line and exit code 2 for a user's mistake, before it what the user's own code raised; all of the rest."""
    if message := getattr(
        error, "format_message", None
    ):  # only Typer's own errors about arguments have one
        _fail(message(), 2)
    theirs = user_traceback(error)
    if "--debug" in sys.argv:
        traceback.print_exc()
    elif theirs is not None:
        print(theirs, end="", file=sys.stderr)
    if isinstance(error, NormbenchError):
        _fail(str(error), error.exit_code)
    if theirs is None:
        raise error
    sys.exit(1)


def _fail(message: str, exit_code: int) -> None:
    print(f"normbench: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(exit_code)
