"""What a user reads when something is wrong: one line that says what was given, what is allowed, and the nearest name.

Every module raises these; the command line and the scripts print the line and exit with `exit_code`.
"""

from __future__ import annotations

import difflib
import traceback
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError


MAX_NAMES = 40  # in one message


USER_FILES: set[str] = (
    set()
)  # the user's own code that has been run: what it raises is shown with its own traceback


class NormbenchError(Exception):
    """Wrong input: nothing has been done or written. Exit code 2."""

    exit_code = 2


class Unsupported(NormbenchError):
    """A combination that is spelled right and cannot work, such as a norm on too few values. A sweep leaves it out."""


class RunFailure(NormbenchError):
    """The input was right, the world was not (disk full, network down, run locked). Exit code 1."""

    exit_code = 1


def unknown(noun: str, given: str, allowed: Iterable[str]) -> NormbenchError:
    """The error for a name that is not among `allowed`, with the nearest that is, by the last part of dotted names."""
    names = sorted(allowed)
    whole = {name.rpartition(".")[2]: name for name in names}
    near = difflib.get_close_matches(given.rpartition(".")[2], whole, n=1, cutoff=0.5)
    hint = f"did you mean '{whole[near[0]]}'? " if near else ""
    more = f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
    return NormbenchError(
        f"unknown {noun} '{given}': {hint}allowed: {', '.join(names[:MAX_NAMES]) or 'none'}{more}"
    )


def complaint(error: BaseException) -> str:
    """What to print of an error: one line if it is ours, else its traceback; before both what the user's code raised.

    Where the error came up in the user's own code our part of the traceback stays out of it.
    """
    theirs = user_traceback(error)
    if isinstance(error, NormbenchError):
        return "".join([theirs or "", str(error)])
    return (theirs or "".join(traceback.format_exception(error))).rstrip("\n")


def user_traceback(error: BaseException) -> str | None:
    """The traceback from the first line of the user's own code on, if the error, or its cause, came up in there."""
    raised = error.__cause__ or error
    frames = traceback.extract_tb(raised.__traceback__)
    first = next(
        (index for index, frame in enumerate(frames) if frame.filename in USER_FILES), None
    )
    is_syntax = isinstance(raised, SyntaxError) and raised.filename in USER_FILES
    if first is None and not is_syntax:
        return None
    own = (
        []
        if first is None
        else ["Traceback of your code:\n", *traceback.format_list(frames[first:])]
    )
    return "".join([*own, *traceback.format_exception_only(raised)])


def invalid(prefix: str, error: ValidationError) -> NormbenchError:
    """The first complaint of a pydantic validation as one line, with the key written as it is on the command line."""
    first = error.errors(include_url=False)[0]
    key = ".".join(filter(None, [prefix, *map(str, first["loc"])]))
    message = (
        first["msg"]
        .removeprefix("Value error, ")
        .removeprefix("Input ")
        .partition(" after validation")[0]
    )
    given = "" if first["type"] in ("missing", "extra_forbidden") else f", not {first['input']!r}"
    return NormbenchError(f"{key}: {message}{given}")
