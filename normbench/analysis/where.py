"""Conditions on runs: reads `norm=bn,gn and batch_size<=4 or status=failed` and chooses the runs for which it holds.

`key op value` joined by `and` and `or`, where `and` binds tighter; op is = == != < <= > >=. `norm=bn,gn` means any of
them, `norm!=bn,gn` none. Quotes keep a value with spaces or commas together, and so do brackets: `model.widths=[4,8]`.
"""

from __future__ import annotations

import json
import math
import operator
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from normbench.errors import NormbenchError, unknown

Record = Mapping[str, Any]
OPERATORS = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
VALUE = re.compile(r"""\s*("[^"]*"|'[^']*'|\[[^\]]*\]|[^\s"'\[\]=<>!(),]+)\s*""")
CONDITION = re.compile(rf"\s*([\w.]+)\s*(==|!=|<=|>=|=|<|>)({VALUE.pattern}(?:,{VALUE.pattern})*)")
JOINT = re.compile(r"\s*(and|or)\b", re.IGNORECASE)


@dataclass(frozen=True)
class Condition:
    """One comparison; several values are alternatives."""

    key: str
    operator: str
    values: tuple[str, ...]

    def holds(self, record: Record) -> bool:
        """Whether the record's value compares so: as numbers where both are, else as text. A missing one only to !=."""
        value = record.get(self.key)
        if is_missing(value):
            return self.operator == "!="
        quantify = all if self.operator == "!=" else any
        return quantify(
            OPERATORS[self.operator](*_comparable(value, given)) for given in self.values
        )


def select(records: Sequence[Record], text: str) -> list[Record]:
    """The records for which the condition in `text` holds.

    Raises NormbenchError where it cannot be read, or names a key that no record has.
    """
    alternatives = parse(text)
    known = {key for record in records for key in record}
    for condition in (condition for group in alternatives for condition in group):
        if records and condition.key not in known:
            raise unknown("key", condition.key, known)
    return [
        record
        for record in records
        if any(all(c.holds(record) for c in group) for group in alternatives)
    ]


def parse(text: str) -> list[list[Condition]]:
    """The condition as alternatives (`or`), each a list of what must hold together (`and`)."""
    alternatives: list[list[Condition]] = [[]]
    position = 0
    while found := CONDITION.match(text, position):
        alternatives[-1].append(_condition(*found.group(1, 2, 3)))
        position = found.end()
        if position == len(text):
            return alternatives
        if (joint := JOINT.match(text, position)) is None:
            break
        if joint[1].lower() == "or":
            alternatives.append([])
        position = joint.end()
    where = f"at '{rest}'" if (rest := text[position:].strip()) else "at its end"
    raise NormbenchError(
        f"cannot read the condition '{text}' {where}: write key op value, op one of {' '.join(OPERATORS)}, "
        "joined by and / or, as in norm=bn,gn and batch_size<=4"
    )


def is_missing(value: Any) -> bool:
    """Whether a run has no such value: None, or not a number."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def text_of(value: Any) -> str:
    """A value as it is compared and shown: true, null, [4,8], and anything else as it is."""
    if value is None or isinstance(value, bool | list | dict):
        return json.dumps(value, separators=(",", ":"), default=str)
    return str(value)


def _condition(key: str, sign: str, values: str) -> Condition:
    given = tuple(_unquoted(value) for value in VALUE.findall(values))
    if sign not in ("=", "==", "!=") and len(given) > 1:
        raise NormbenchError(
            f"'{key}{sign}{values.strip()}' compares with several values: only = and != take a list"
        )
    return Condition(key, sign.replace("==", "="), given)


def _unquoted(value: str) -> str:
    if value[0] in "\"'":
        return value[1:-1]
    return re.sub(r"\s", "", value) if value[0] == "[" else value


def _comparable(value: Any, given: str) -> tuple[Any, Any]:
    number = _number(given)
    if isinstance(value, int | float) and not isinstance(value, bool) and number is not None:
        return value, number
    return text_of(value), given


def _number(text: str) -> float | None:
    """The number that `text` is, 70.9% being 0.709; None for any other text."""
    try:
        return int(text)  # exactly, however long
    except ValueError:
        pass
    try:
        number = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        return None
    return None if math.isnan(number) else number
