"""Classes and functions given in Python instead of a name: known by their source, in this process.

A notebook has no file that a run could name. Its cells keep their text, which is hashed instead.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import linecache
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from normbench.errors import USER_FILES, NormbenchError

Make = Callable[..., Any]
GIVEN = "given"  # the place of a class that was given in Python
# Those of this process by name and content, and the content of the last of each name.
_given: dict[tuple[str, str], Make] = {}
_last_given: dict[str, str] = {}


def given_name(make: Make) -> str:
    """The name `given:Name` under which a class or function is found in this process.

    Its source, without what it is derived from or uses, is its content. Raises NormbenchError where
    the source cannot be found, as of a class made by a program.
    """
    if not inspect.isclass(make) and not inspect.isfunction(make):
        raise NormbenchError(f"{make!r} is no class and no function that makes a layer or network")
    name = f"{GIVEN}:{make.__name__}"
    source = _source_of(make)
    if source is None:
        raise NormbenchError(
            f"the source of {make.__name__} cannot be found, by which its runs are known: write "
            f"it to a file, and give file.py:{make.__name__}"
        )
    content = hashlib.sha256(source.encode()).hexdigest()[:16]
    _given[name, content] = make
    _last_given[name] = content
    return name


def find_given(noun: str, name: str, content: str | None) -> tuple[Make, str]:
    """The class or function of a name and content, of the last content where none is given.

    Raises NormbenchError where it is not known in this process.
    """
    wanted = content or _last_given.get(name, "")
    make = _given.get((name, wanted))
    if make is None:
        raise NormbenchError(
            f"{noun} {name}: it was given in Python, and is not known in this process: give the "
            "class itself, or write it to a file"
        )
    return make, wanted


def _source_of(make: Make) -> str | None:
    """The text of a class or function, in a notebook too; None where it cannot be found."""
    functions = [make]
    if inspect.isclass(make):
        functions = [value for value in vars(make).values() if inspect.isfunction(value)]
    if not functions:
        # Python finds such a class by its name, in a file but not in a notebook.
        with suppress(OSError, TypeError):
            return inspect.getsource(make)
        return None
    code = inspect.unwrap(functions[0]).__code__
    text = "".join(linecache.getlines(code.co_filename))
    USER_FILES.add(code.co_filename)
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.ClassDef | ast.FunctionDef) or node.name != make.__name__:
            continue
        first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
        last = node.end_lineno or node.lineno
        # Another class of the file may have the name: the one around the function is meant.
        if first <= code.co_firstlineno <= last:
            return "".join(text.splitlines(keepends=True)[first - 1 : last])
    return None
