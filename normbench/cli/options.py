"""What several commands share: arguments, exit codes, and the command that goes on."""

from __future__ import annotations

import shlex
import sys
from typing import Annotated

import typer

EXIT_CODES = {"done": 0, "diverged": 3, "interrupted": 130}  # of a run's outcome; what fails raises

Overrides = Annotated[
    list[str] | None,
    typer.Argument(help="Any setting of configs/ as key=value: norm.num_groups=32 optim.lr=3e-4"),
]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
RunsDir = Annotated[str | None, typer.Option(help="Where run directories are.")]


def again() -> str:
    """This command line without the options that are for once only: what goes on where it was broken off."""
    once = ("--restart", "--retry-failed")
    return shlex.join(
        ["normbench", *(argument for argument in sys.argv[1:] if argument not in once)]
    )
