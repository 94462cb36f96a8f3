"""Defines the errors of every module: a line with the value given, the allowed ones, the nearest.

The command line and the scripts print the line and exit with `exit_code`.
"""

from __future__ import annotations

import difflib
import traceback
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError

# Files of the user's own code that have been run: an error from such a file keeps its traceback.
USER_FILES: set[str] = set()


class NormbenchError(Exception):
    """Wrong input, refused before anything is done or written. Exit code 2."""

    exit_code = 2


class Unsupported(NormbenchError):
    """A combination that cannot work, such as a norm on too few values; a sweep leaves it out."""


class RunFailure(NormbenchError):
    """Right input and a failing world (disk full, network down, run locked). Exit code 1."""

    exit_code = 1


def unknown(
    noun: str, given: str, allowed: Iterable[str], meant: str | None = None
) -> NormbenchError:
    """Makes the error for a name not among `allowed`, with the one that is meant, or the nearest.

    meant: the allowed name, where it is known what people call so.
    """
    names = sorted(allowed)
    if meant is None:
        # Of dotted names the last part is compared: who writes `lr` means `optim.lr`.
        whole = {name.rpartition(".")[2]: name for name in names}
        near = difflib.get_close_matches(given.rpartition(".")[2], whole, n=1, cutoff=0.5)
        meant = whole[near[0]] if near else None
    hint = f"did you mean '{meant}'? " if meant else ""
    listed = ", ".join(names[:40]) or "none"
    if len(names) > 40:
        listed += f" and {len(names) - 40} more"
    return NormbenchError(f"unknown {noun} '{given}': {hint}allowed: {listed}")


def first_line(error: BaseException) -> str:
    """The error's type and the first line of its message: `ValueError: expected 3 channels`."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def complaint(error: BaseException) -> str:
    """The text to print: the user's own traceback if any, and a NormbenchError's line.

    Any other error without a frame in the user's code gives its whole traceback.
    """
    theirs = user_traceback(error) or ""
    if isinstance(error, NormbenchError):
        return f"{theirs}{error}"
    return (theirs or "".join(traceback.format_exception(error))).rstrip("\n")


def user_traceback(error: BaseException) -> str | None:
    """The traceback of an error or its cause from the user's code on; None without user's code."""
    raised = error.__cause__ or error
    frames = traceback.extract_tb(raised.__traceback__)
    message = "".join(traceback.format_exception_only(raised))
    for index, frame in enumerate(frames):
        if frame.filename in USER_FILES:
            own = "".join(traceback.format_list(frames[index:]))
            return f"Traceback of your code:\n{own}{message}"
    # A file with a syntax error never ran: its place is in the message.
    if isinstance(raised, SyntaxError) and raised.filename in USER_FILES:
        return message
    return None


def user_place(error: BaseException) -> str | None:
    """Where the user's code raised an error or its cause, as `my_norms.py:12`; None elsewhere."""
    raised = error.__cause__ or error
    frames = traceback.extract_tb(raised.__traceback__)
    places = [(frame.filename, frame.lineno) for frame in frames if frame.filename in USER_FILES]
    # A file with a syntax error never ran.
    if isinstance(raised, SyntaxError) and raised.filename in USER_FILES:
        places.append((raised.filename, raised.lineno))
    if not places:
        return None
    file, line = places[-1]
    here = Path.cwd()
    path = Path(file)
    return f"{path.relative_to(here) if path.is_relative_to(here) else path}:{line}"


def invalid(prefix: str, error: ValidationError) -> NormbenchError:
    """Makes one line of pydantic's first complaint, with the key as on the command line."""
    first = error.errors(include_url=False)[0]
    key = ".".join(map(str, [prefix, *first["loc"]])).removeprefix(".")
    message = first["msg"].removeprefix("Value error, ").removeprefix("Input ")
    message = (
        message.replace("a valid tuple", "a list")
        .partition(" after validation")[0]
        .partition(", unable to parse string")[0]
    )
    # Of a missing or superfluous key pydantic gives no wrong value.
    if first["type"] not in ("missing", "extra_forbidden"):
        message += f", not {first['input']!r}"
    return NormbenchError(f"{key}: {message}")
