"""The command line: parse, call, print. Commands import heavy packages themselves."""

from __future__ import annotations

import os
import shlex
import sys
import traceback

import typer

from normbench import __version__
from normbench.cli import (
    audit,
    bench,
    data,
    doctor,
    export,
    models,
    norms,
    recommend,
    runs,
    serve,
    stylize,
    sweep,
    tables,
    train,
)
from normbench.cli.commands import Command, GroupedCommands, usage_message
from normbench.errors import NormbenchError, first_line, user_place
from normbench.text import say

app = typer.Typer(
    cls=GroupedCommands,
    help="Compare normalization layers by measuring.",
    epilog="normbench COMMAND --help shows examples. --debug, anywhere, shows the traceback of "
    "an error; --version the version.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # importing rich takes longer than the rest of --help
    context_settings={"help_option_names": ["-h", "--help"]},
)
COMMANDS = (
    train.train,
    sweep.sweep,
    sweep.demo,
    tables.table,
    tables.compare,
    tables.plot,
    tables.report,
    serve.serve,
    export.export,
    audit.audit,
    recommend.recommend,
    bench.bench,
    norms.norms,
    models.models,
    stylize.stylize,
    doctor.doctor,
)
for command in COMMANDS:
    app.command(cls=Command)(command)
app.add_typer(runs.app, name="runs")
app.add_typer(data.app, name="data")


def main() -> None:
    """Runs the command line; a user's mistake becomes a line on standard error and exit code 2."""
    # torch's profiler counts memory, and would otherwise write to standard error.
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    if arguments == ["--version"]:
        say(f"normbench {__version__}")
        sys.exit(0)
    try:
        code = app(arguments, standalone_mode=False)
    except Exception as error:
        _explain(error, debug="--debug" in sys.argv)
    # Typer's answer to a Ctrl-C outside of training.
    if code == 130:
        _fail(_interrupted(arguments), 130)
    sys.exit(code)


def _interrupted(arguments: list[str]) -> str:
    """What an early Ctrl-C is told; a training goes on with the same command, --restart and all."""
    if not {"train", "sweep", "demo"} & {*arguments[:1]}:
        return "interrupted"
    return f"interrupted before the first step; go on with: {shlex.join(['normbench', *arguments])}"


def _explain(error: Exception, *, debug: bool) -> None:
    """Exits with one line and code 2 for a user's mistake; raises an error of normbench itself.

    The line of an error in the user's own code begins with its place there.
    """
    # Typer's answer to a group of commands without any of them is its help.
    if type(error).__name__ == "NoArgsIsHelpError":
        say(str(error), lines=True)
        sys.exit(0)
    # Only Typer's own errors about arguments have the method.
    if hasattr(error, "format_message"):
        _fail(usage_message(error), 2)
    place = user_place(error)
    if debug:
        say(traceback.format_exc().rstrip("\n"), lines=True, to=sys.stderr)
    if place is not None:
        message = str(error) if isinstance(error, NormbenchError) else first_line(error)
        more = "" if debug else "; --debug shows the traceback"
        _fail(f"{place}: {message}{more}", getattr(error, "exit_code", 1))
    if isinstance(error, NormbenchError):
        _fail(str(error), error.exit_code)
    raise error


def _fail(message: str, exit_code: int) -> None:
    say(f"normbench: {' '.join(message.split())}", to=sys.stderr)
    sys.exit(exit_code)
