"""Conditions on runs, in the grammar of settings: `norm=bn,gn`, `batch_size<=4`.

A condition is `key op value[,value]` with op among = != < <= > >=. Values are written as in
settings, `model.widths=[4,8]`, and 70.9% is 0.709. `norm=bn,gn` holds for both norms,
`norm!=bn,gn` for neither.
"""

from __future__ import annotations

import json
import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

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
VALUE = re.compile(r"\[[^\]'\"]*\]|[^\s,\[\]'\"][^,\[\]'\"]*")
VALUES = rf"(?:{VALUE.pattern})(?:,\s*(?:{VALUE.pattern})\s*)*"
CONDITION = re.compile(rf"\s*([A-Za-z_][\w.]*)\s*(!=|<=|>=|=|<|>)\s*(?![=<>])({VALUES})\s*")
# A second comparison in one condition, as in `norm=bn and batch_size<=4`.
JOINED = re.compile(r"[\s,][\w.]+\s*[!=<>]")


@dataclass(frozen=True)
class Condition:
    """A comparison of a key with one value, or with alternative values."""

    key: str
    sign: str
    values: tuple[str, ...]

    def holds(self, record: Record) -> bool:
        """Whether the record's value compares so; a missing value is unequal to every value.

        Numbers are compared as numbers, anything else as text.
        """
        value = record.get(self.key)
        if is_missing(value):
            return self.sign == "!="
        compare = OPERATORS[self.sign]
        found = [compare(*_comparable(value, given)) for given in self.values]
        return all(found) if self.sign == "!=" else any(found)


def select(records: Sequence[Record], conditions: Sequence[str]) -> list[Record]:
    """The records for which all conditions hold.

    Raises NormbenchError for an unreadable condition, and for an unknown key.
    """
    parsed = [parse(text) for text in conditions]
    known = {key for record in records for key in record}
    for condition in parsed:
        if records and condition.key not in known:
            raise unknown("key", condition.key, known)
    return [record for record in records if all(one.holds(record) for one in parsed)]


def parse(text: str) -> Condition:
    """The condition in `text`. Raises NormbenchError for none, or several."""
    found = CONDITION.fullmatch(text)
    if found is None:
        raise NormbenchError(
            f"cannot read '{text}': a condition is key op value, with op one of "
            f"{' '.join(OPERATORS)}, as in norm=bn,gn or batch_size<=4"
        )
    key, sign, given = found.groups()
    if JOINED.search(given):
        raise NormbenchError(f"'{text}' is several conditions: give each its own --where")
    values = tuple(_tight(value) for value in VALUE.findall(given))
    if len(values) > 1 and sign not in ("=", "!="):
        raise NormbenchError(f"'{text}' compares with several values: only = and != take several")
    return Condition(key, sign, values)


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
    if isinstance(number, bool) or not isinstance(number, int | float):
        return (True, 0.0, text_of(value))
    return (False, number, "")


def number_in(text: str) -> float | None:
    """The number in a text, 70.9% being 0.709; None for words."""
    try:
        return int(text)  # an integer stays exact: a float would round a large seed
    except ValueError:
        pass
    try:
        number = float(text.removesuffix("%"))
    except ValueError:
        return None
    if math.isnan(number):
        return None
    return number / 100 if text.endswith("%") else number


def _comparable(value: Any, given: str) -> tuple[Any, Any]:
    """Both as numbers where the record's value is a number, else both as text.

    The commit 12e4 is text, although it reads as a number.
    """
    number = number_in(given)
    if isinstance(value, int | float) and not isinstance(value, bool) and number is not None:
        return value, number
    return text_of(value), given


def _tight(value: str) -> str:
    """A value without outer spaces, a list without spaces, as `text_of` writes lists."""
    return re.sub(r"\s", "", value) if value.startswith("[") else value.strip()
