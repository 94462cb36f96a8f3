"""Conditions on runs: `key op value[,value]`, as in `norm=bn,gn` and `batch_size<=4`.

Values are written as in settings, `model.widths=[4,8]`, and 70.9% is 0.709. Hydra's parser would
read the commit 12e4 as a number, so values stay text here.
"""

from __future__ import annotations

import json
import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

from normbench.errors import NormbenchError, unknown

Record = Mapping[str, Any]
OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
EQUALITY = ("=", "!=")  # of text too, and of several values
CONDITION = re.compile(r"\s*([A-Za-z_][\w.]*)\s*(!=|<=|>=|=|<|>)\s*([^=<>].*)", re.DOTALL)
BETWEEN_VALUES = re.compile(r",(?![^\[]*\])")  # a comma outside a list
VALUE = re.compile(r"\[[^\[\]'\"]*\]|[^\[\]'\"]+")
# A second comparison in one condition, as in `norm=bn and batch_size<=4`.
JOINED = re.compile(r"[\s,][\w.]+\s*[!=<>]")


@dataclass(frozen=True)
class Condition:
    """A comparison of a key with one value, or with alternative values."""

    key: str
    sign: str
    values: tuple[str, ...]

    def holds(self, record: Record) -> bool:
        """Whether the record's value compares so with any value; for !=, with every value.

        A missing value is unequal to every value. Numbers are compared as numbers, anything else
        as text. Raises NormbenchError for a number smaller or larger than a word.
        """
        value = record.get(self.key)
        if is_missing(value):
            return self.sign == "!="
        if self.sign not in EQUALITY and _is_number(value) and number_in(self.values[0]) is None:
            compared = f"'{self.key}{self.sign}{self.values[0]}'"
            raise NormbenchError(f"{compared}: {self.key} is a number, {self.values[0]} is none")
        compare = OPERATORS[self.sign]
        found = [compare(*_comparable(value, given)) for given in self.values]
        return all(found) if self.sign == "!=" else any(found)


def select(records: Sequence[Record], conditions: Sequence[str]) -> list[Record]:
    """The records for which all conditions hold.

    Raises NormbenchError for an unreadable condition, for an unknown key, and for a number smaller
    or larger than a word.
    """
    known = {key for record in records for key in record}
    kept = list(records)
    for condition in map(parse, conditions):
        if records and condition.key not in known:
            raise unknown("key", condition.key, known)
        kept = [record for record in kept if condition.holds(record)]
    return kept


def parse(text: str) -> Condition:
    """The condition in `text`. Raises NormbenchError for none, or several."""
    found = CONDITION.fullmatch(text)
    key, sign, given = found.groups() if found else ("", "", "")
    if JOINED.search(given):
        raise NormbenchError(f"'{text}' is several conditions: give each its own --where")
    values = [value.strip() for value in BETWEEN_VALUES.split(given)]
    if not all(map(VALUE.fullmatch, values)):
        raise NormbenchError(
            f"cannot read '{text}': a condition is key op value, with op one of "
            f"{' '.join(OPERATORS)}, as in norm=bn,gn or batch_size<=4"
        )
    if len(values) > 1 and sign not in EQUALITY:
        raise NormbenchError(f"'{text}' compares with several values: only = and != take several")
    return Condition(key, sign, tuple(values))


def is_missing(value: Any) -> bool:
    """Whether a value is unknown: None, or not a number."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def text_of(value: Any) -> str:
    """A value as compared and shown: true, null, [4,8]; text unchanged."""
    if value is None or isinstance(value, bool | list | dict):
        return json.dumps(value, separators=(",", ":"), default=str)
    return str(value)


def rank(value: Any) -> tuple[bool, float, str]:
    """A key to sort by: numbers by size, numbers in text too, before words by the alphabet."""
    number = number_in(value) if isinstance(value, str) else value
    if _is_number(number):
        return (False, number, "")
    return (True, 0.0, text_of(value))


def number_in(text: str) -> float | None:
    """The number in a text, 70.9% being 0.709; None for words."""
    try:
        if text.endswith("%"):
            return float(text[:-1]) / 100
        # An integer stays exact: a float would round a large seed.
        return int(text) if text.lstrip("-").isdecimal() else float(text)
    except ValueError:
        return None


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _comparable(value: Any, given: str) -> tuple[Any, Any]:
    """Both as numbers where the record's value is a number, else both as text."""
    number = number_in(given)
    if _is_number(value) and number is not None:
        return value, number
    # `text_of` writes lists without spaces.
    return text_of(value), given.replace(" ", "") if given.startswith("[") else given
