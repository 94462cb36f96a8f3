"""Reads `key=value` and the sweeps `a,b`, `choice()`, `range()`, `glob()` with Hydra's own parser.

Refuses some input Hydra takes in silence: keys added or deleted, Hydra's own settings, a key given
twice, an expansion to nothing.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from normbench.errors import NormbenchError

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override


def parse_assignments(
    overrides: Sequence[str], flags: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Keys and values of `flags`, then of `overrides`.

    Raises NormbenchError for a key given twice.
    """
    return _once_each(overrides, map(parse_assignment, overrides), flags or {})


def parse_axes(
    overrides: Sequence[str], groups: Mapping[str, Sequence[str]]
) -> dict[str, list[Any]]:
    """The values of each key; `groups` are the names for `glob()` to choose from.

    Raises NormbenchError for a key given twice, no value at all, `shuffle()`, and `interval()`.
    """
    return _once_each(overrides, (parse_axis(text, groups) for text in overrides), {})


def parse_assignment(text: str) -> tuple[str, Any]:
    """The key and the value of `key=value`. Raises NormbenchError for several values."""
    override = _parse(text)
    if override is None:
        return _plain_text(text)
    if override.is_sweep_override():
        raise NormbenchError(f"'{text}' is several values for one run: use sweep for that")
    return override.key_or_group, _plain(override.value())


def parse_axis(text: str, groups: Mapping[str, Sequence[str]]) -> tuple[str, list[Any]]:
    """The key of `key=a,b` and its distinct values, in the order given."""
    override = _parse(text)
    if override is None:
        key, value = _plain_text(text)
        # The name of a norm or data source needs no character outside the grammar.
        if key in groups:
            raise _unreadable(text)
        return key, [value]
    key = override.key_or_group
    if not override.is_sweep_override():
        return key, [_plain(override.value())]
    values = _expand(text, override, groups)
    if not values:
        raise NormbenchError(f"'{text}' expands to no value at all")
    return key, values


def distinct(values: Iterable[Any]) -> list[Any]:
    """The values without repetition, in their order."""
    # By repr, since lists have no hash and 1 == True == 1.0 are three values.
    return list({repr(value): value for value in values}.values())


def _once_each(
    overrides: Sequence[str], pairs: Iterable[tuple[str, Any]], flags: Mapping[str, Any]
) -> dict[str, Any]:
    assignments = dict(flags)
    for text, (key, value) in zip(overrides, pairs, strict=True):
        if key in assignments:
            raise NormbenchError(f"'{key}' is given twice: as {assignments[key]!r} and in '{text}'")
        assignments[key] = value
    return assignments


def _parse(text: str) -> Override | None:
    """Parses with Hydra; None where the grammar fails, as for an umlaut or a '=' in a path.

    Raises NormbenchError for additions, deletions, Hydra's settings, packages and shuffle().
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    if re.search(r"\bshuffle\(", text):
        raise _refused(text, "the order of runs changes nothing, so there is no shuffle()")
    try:
        override = OverridesParser.create().parse_override(text)
    except HydraException:
        return None
    if text.startswith(("+", "~")):
        raise _refused(text, "keys are neither added nor deleted, only set: write key=value")
    if re.match(r"hydra\b", override.key_or_group) or override.package:
        raise _refused(text, "Hydra's own settings and packages have no effect here")
    return override


def _plain_text(text: str) -> tuple[str, Any]:
    """Takes everything after the first '=' literally. Raises NormbenchError for a broken sweep."""
    plain = re.fullmatch(r"([A-Za-z_][\w.]*)=(.+)", text)
    if plain is None or re.match(r"(choice|range|glob|interval|shuffle|sort|tag)\(", plain[2]):
        raise _unreadable(text)
    return plain[1], plain[2]


def _refused(text: str, reason: str) -> NormbenchError:
    return NormbenchError(f"'{text}': {reason}")


def _unreadable(text: str) -> NormbenchError:
    return NormbenchError(f"cannot read '{text}': write key=value, as in batch_size=8 or norm=gn")


def _expand(text: str, override: Override, groups: Mapping[str, Sequence[str]]) -> list[Any]:
    from hydra.core.override_parser.types import Glob, IntervalSweep, RangeSweep
    from hydra.errors import HydraException

    sweep: Any = override.value()
    if isinstance(sweep, IntervalSweep):
        raise _refused(text, "an interval has no end of values; list them, or use range()")
    if isinstance(sweep, Glob):
        if override.key_or_group not in groups:
            raise _refused(text, f"glob() chooses among {', '.join(groups)}")
        return list(sweep.filter(list(groups[override.key_or_group])))
    if isinstance(sweep, RangeSweep):
        for name in ("start", "stop", "step"):
            number = getattr(sweep, name)
            if not math.isfinite(number):
                raise NormbenchError(f"'{text}' has no end")
            # The decimal as written: a range of binary numbers misses 0.3 and its end.
            if isinstance(number, float):
                setattr(sweep, name, Decimal(str(number)))
    try:
        values = [_plain(value) for value in override.sweep_iterator()]
    except (HydraException, ValueError) as error:
        raise NormbenchError(f"cannot expand '{text}': {error}") from None
    if any(isinstance(value, Glob) for value in values):
        raise _refused(text, "glob() is a list by itself")
    return distinct(values)


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
