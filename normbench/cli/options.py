"""Shared by several commands: arguments, exit codes, and the command line to resume with."""

from __future__ import annotations

import shlex
import sys
from typing import Annotated

import typer

# By a run's outcome; a failed run raises.
EXIT_CODES = {"done": 0, "diverged": 3, "interrupted": 130}

Overrides = Annotated[
    list[str] | None,
    typer.Argument(help="Any setting of configs/ as key=value: norm.num_groups=32 optim.lr=3e-4"),
]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
RunsDir = Annotated[str | None, typer.Option(help="Where run directories are.")]


def again() -> str:
    """The command line to resume with: the given arguments without options that start afresh."""
    once = ("--restart", "--retry-failed")
    arguments = [argument for argument in sys.argv[1:] if argument not in once]
    return shlex.join(["normbench", *arguments])
