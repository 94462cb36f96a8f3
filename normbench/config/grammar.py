"""Reads `key=value` and the sweeps `a,b`, `choice()`, `range()`, `glob()` with Hydra's own parser.

Refuses some input Hydra takes in silence: keys added or deleted, Hydra's own settings, a key given
twice, an expansion to nothing.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from normbench.errors import NormbenchError

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override


# The names of options of the command line, taken as keys too.
SHORT = {
    "lr": "optim.lr",
    "device": "runtime.device",
    "precision": "runtime.precision",
    "processes": "runtime.processes",
    "restarts": "system.restarts",
    "runs_dir": "system.runs_dir",
}
ALL = "all"  # of a sweep: every norm that there is
# What Hydra's grammar has for a key, a word or path, and a number, without the rarer spellings.
KEY = re.compile(r"(?!hydra\b)[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", re.ASCII)
WORD = re.compile(r"(\.{0,2}/)?[A-Za-z_][\w./-]*", re.ASCII)
NUMBER = re.compile(r"(0|[1-9][0-9]{0,17})(\.[0-9]+)?(e-?[0-9]+)?")
RESERVED = ("true", "false", "null", "inf", "nan")
RANGE = re.compile(r"range\((0|[1-9][0-9]{0,5}),(0|[1-9][0-9]{0,5})\)")


def check_words(arguments: Sequence[str]) -> None:
    """Raises NormbenchError for values with a space between them, such as `norm=bn, gn`."""
    for first, second in pairwise(arguments):
        if first.endswith(","):
            raise NormbenchError(
                f"'{first} {second}': write several values without a space, as in {first}{second}"
            )


def parse_assignments(
    overrides: Sequence[str], flags: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Returns keys and values of `flags`, then of `overrides`.

    Raises NormbenchError for a key given twice.
    """
    return _once_each(overrides, map(parse_assignment, overrides), flags)


def parse_axes(
    overrides: Sequence[str], groups: Mapping[str, Sequence[str]]
) -> dict[str, list[Any]]:
    """Returns each key with its values; `groups` are the names for `glob()` to choose from.

    Raises NormbenchError for a key given twice, no value at all, `shuffle()`, and `interval()`.
    """
    return _once_each(overrides, (parse_axis(text, groups) for text in overrides))


def parse_assignment(text: str) -> tuple[str, Any]:
    """Returns the key and the value of `key=value`. Raises NormbenchError for several values."""
    key, values = _plain_values(text)
    if len(values) == 1:
        return key, values[0]
    override = _parse(text)
    if override is None:
        return _plain_text(text)
    if override.is_sweep_override():
        raise NormbenchError(f"'{text}' is several values for one run: use sweep for that")
    return override.key_or_group, _plain(override.value())


def parse_axis(text: str, groups: Mapping[str, Sequence[str]]) -> tuple[str, list[Any]]:
    """Returns the key of `key=a,b` and its distinct values, in the order given."""
    key, values = _plain_values(text)
    if not values:
        key, values = _plain_range(text)
    if not values:
        key, values = _values_by_hydra(text, groups)
    values = distinct(values)
    if key == "norm" and ALL in values:
        place = values.index(ALL)
        values = distinct([*values[:place], *groups[key], *values[place + 1 :]])
    if not values:
        raise NormbenchError(f"'{text}' expands to no value at all")
    return key, values


def literal(value: Any) -> Any:
    """Escapes ${...}, which OmegaConf would read as an interpolation."""
    return value.replace("${", "\\${") if isinstance(value, str) else value


def distinct(values: Iterable[Any]) -> list[Any]:
    """Returns the values without repetition, in their order."""
    # By repr, since lists have no hash and 1 == True == 1.0 are three values.
    return list({repr(value): value for value in values}.values())


def _once_each(
    overrides: Sequence[str],
    pairs: Iterable[tuple[str, Any]],
    flags: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    assignments = {key: literal(value) for key, value in (flags or {}).items()}
    for text, (given, value) in zip(overrides, pairs, strict=True):
        key = SHORT.get(given, given)
        if key in assignments:
            raise NormbenchError(f"'{key}' is given twice: as {assignments[key]!r} and in '{text}'")
        assignments[key] = value
    return assignments


def _plain_values(text: str) -> tuple[str, list[Any]]:
    """The key and the values of plain words and numbers; no value where Hydra has to read them.

    Importing Hydra takes longer than all else that a command does before torch is imported.
    """
    key, _, given = text.partition("=")
    values: list[Any] = []
    for word in given.split(","):
        number = NUMBER.fullmatch(word)
        if number is not None:
            values.append(int(word) if word.isdigit() else float(word))
        elif WORD.fullmatch(word) and word.lower() not in RESERVED:
            values.append(word)
        else:
            return key, []
    return key, values if KEY.fullmatch(key) else []


def _plain_range(text: str) -> tuple[str, list[int]]:
    """The key and the numbers of a range of whole numbers; none where Hydra has to read it."""
    key, _, given = text.partition("=")
    ends = RANGE.fullmatch(given)
    if ends is None or not KEY.fullmatch(key):
        return key, []
    return key, [*range(int(ends[1]), int(ends[2]))]


def _values_by_hydra(text: str, groups: Mapping[str, Sequence[str]]) -> tuple[str, list[Any]]:
    override = _parse(text)
    if override is None:
        key, value = _plain_text(text)
        # The name of a norm or data source needs no character outside the grammar.
        if key in groups:
            raise _unreadable(text)
        return key, [value]
    if override.is_sweep_override():
        return override.key_or_group, _expand(text, override, groups)
    return override.key_or_group, [_plain(override.value())]


def _parse(text: str) -> Override | None:
    """Parses with Hydra; None where the grammar fails, as for an umlaut or a '=' in a path.

    Raises NormbenchError for additions, deletions, Hydra's settings, packages and shuffle().
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    if re.search(r"\bshuffle\(", text):
        reason = "the order of runs changes nothing, so there is no shuffle()"
        raise NormbenchError(f"'{text}': {reason}")
    try:
        override = OverridesParser.create().parse_override(text)
    except HydraException:
        return None
    if override.is_add() or override.is_force_add() or override.is_delete():
        reason = "keys are neither added nor deleted, only set: write key=value"
        raise NormbenchError(f"'{text}': {reason}")
    if override.key_or_group.split(".")[0].split("/")[0] == "hydra" or override.package:
        raise NormbenchError(f"'{text}': Hydra's own settings and packages have no effect here")
    return override


def _plain_text(text: str) -> tuple[str, Any]:
    """Takes everything after the first '=' literally. Raises NormbenchError for a broken sweep."""
    plain = re.fullmatch(r"([A-Za-z_][\w.]*)=(.+)", text)
    if plain is None or re.match(r"(choice|range|glob|interval|shuffle|sort|tag)\(", plain[2]):
        raise _unreadable(text)
    return plain[1], literal(plain[2])


def _unreadable(text: str) -> NormbenchError:
    return NormbenchError(f"cannot read '{text}': write key=value, as in batch_size=8 or norm=gn")


def _expand(text: str, override: Override, groups: Mapping[str, Sequence[str]]) -> list[Any]:
    from hydra.core.override_parser.types import Glob, IntervalSweep, RangeSweep
    from hydra.errors import HydraException

    sweep: Any = override.value()
    if isinstance(sweep, IntervalSweep):
        reason = "an interval has no end of values; list them, or use range()"
        raise NormbenchError(f"'{text}': {reason}")
    if isinstance(sweep, Glob):
        if override.key_or_group not in groups:
            raise NormbenchError(f"'{text}': glob() chooses among {', '.join(groups)}")
        return list(sweep.filter(list(groups[override.key_or_group])))
    if isinstance(sweep, RangeSweep):
        ends: list[Any] = [_exact(number) for number in (sweep.start, sweep.stop, sweep.step)]
        if not all(map(math.isfinite, ends)):
            raise NormbenchError(f"'{text}' has no end")
        sweep.start, sweep.stop, sweep.step = ends
    try:
        values = [_plain(value) for value in override.sweep_iterator()]
    except (HydraException, ValueError) as error:
        raise NormbenchError(f"cannot expand '{text}': {error}") from None
    if any(isinstance(value, Glob) for value in values):
        raise NormbenchError(f"'{text}': glob() is a list by itself")
    return values


def _exact(number: Any) -> Any:
    """The decimal number as written: a range of binary numbers misses 0.3 and its end."""
    return Decimal(str(number)) if isinstance(number, float) else number


def _plain(value: Any) -> Any:
    """Turns Hydra's quoted strings, at any depth, into strings."""
    from hydra.core.override_parser.types import QuotedString

    if isinstance(value, QuotedString):
        return value.text
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {_plain(key): _plain(item) for key, item in value.items()}
    return value
