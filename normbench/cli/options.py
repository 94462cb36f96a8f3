"""Shared by several commands: arguments, exit codes, and the command line to resume with."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from normbench.cli import complete
from normbench.text import say

# By a run's outcome; a failed run raises.
EXIT_CODES = {"done": 0, "diverged": 3, "interrupted": 130}

Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        help="Any setting of configs/ as key=value: norm.num_groups=32 optim.lr=3e-4",
        autocompletion=complete.settings,
    ),
]
RunsDir = Annotated[str | None, typer.Option(help="Where run directories are.")]


def again() -> str:
    """The command line to resume with: the given arguments without options that start afresh."""
    once = ("--restart", "--retry-failed")
    arguments = [argument for argument in sys.argv[1:] if argument not in once]
    return shlex.join(["normbench", *arguments])


@contextmanager
def named_to_go_on() -> Iterator[None]:
    """A Ctrl-C within names the command that goes on with what has begun; exit code 130."""
    try:
        yield
    except KeyboardInterrupt:
        say(f"normbench: interrupted; go on with: {again()}", to=sys.stderr)
        sys.exit(130)
