"""Shows text from files, names and servers without letting it steer a terminal, a table or a page.

Everything that the command line prints goes through `say`; what a study reads, through
`visible_in`.
"""

from __future__ import annotations

import re
import sys
import threading
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, TextIO

# Control characters (C0, DEL, C1), line and paragraph separators, bidirectional embeddings,
# overrides and isolates, halves of surrogate pairs, and the two characters that XML forbids.
HIDDEN = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]")
HIDDEN_IN_LINES = re.compile(rf"(?!\n){HIDDEN.pattern}")


def visible(text: str, *, lines: bool = False) -> str:
    r"""The text with its control characters as escapes: `\x1b`, `\n`, `\u202e`, `\ud800`.

    Everything else is unchanged, umlauts and emoji too. Text that is visible stays as it is.
    lines: line breaks are kept.
    """
    if text.isprintable():  # has none of these, and is told sooner
        return text
    hidden = HIDDEN_IN_LINES if lines else HIDDEN
    return hidden.sub(_escaped, text)


def visible_in(content: Any, *, lines: bool = False) -> Any:
    """The content of a file, in which every text and key of lists and mappings is visible."""
    if isinstance(content, str):
        return visible(content, lines=lines)
    if isinstance(content, Mapping):
        changed = {}
        for key, value in content.items():
            changed[visible_in(key, lines=lines)] = visible_in(value, lines=lines)
        return changed
    if isinstance(content, list | tuple):
        return [visible_in(item, lines=lines) for item in content]
    return content


def markdown_cell(text: str) -> str:
    """The text as a cell of a Markdown table: a `|` would end the cell."""
    # Backslashes before it are doubled, lest they escape the escape.
    return re.sub(r"(\\*)\|", r"\1\1\\|", visible(text))


def as_list(words: Sequence[object], conjunction: str = "and") -> str:
    """Words as a list: `gn`, `gn and ln`, `gn, ln and in`."""
    *most, last = map(str, words or [""])
    return f"{', '.join(most)} {conjunction} {last}" if most else last


def counted(number: int, noun: str) -> str:
    """A number with its noun: `1 run`, `3 runs`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def say(
    text: object, *, lines: bool = False, to: TextIO | None = None, flush: bool = False
) -> None:
    """Prints visible text: a line, or several `lines`; to standard output or the stream `to`."""
    print(visible(str(text), lines=lines), file=to, flush=flush)


def in_notebook() -> bool:
    """Whether this is a notebook, which shows bars although its streams are no terminal."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return shell is not None and "IPKernelApp" in shell.config


@cache
def bars() -> Any:
    """The class tqdm, whose bars are a notebook's own in a notebook."""
    from tqdm.auto import tqdm

    # Its own lock is shared by processes; a killed process would leave a warning about it.
    tqdm.set_lock(threading.RLock())
    return tqdm


def hides_bars() -> bool | None:
    """What tqdm's `disable` should be: None shows bars on a terminal alone."""
    return False if in_notebook() else None


def _escaped(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode()
