"""A sweep: axes whose combinations are runs, settings of all runs, and excluded combinations.

A sweep comes from configs/sweep/NAME.yaml (the user's word is "study"), from the command line
(`norm=bn,gn seed=range(0,3)`), or from both.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import yaml

from normbench.config.compose import config_dir, groups
from normbench.config.grammar import distinct, parse_axes, parse_axis
from normbench.errors import NormbenchError, unknown


@dataclass(frozen=True)
class Axis:
    """Keys varied together, mostly a single key, and their values at each point of the axis."""

    keys: tuple[str, ...]
    points: tuple[tuple[Any, ...], ...]


@dataclass(frozen=True)
class Exclusion:
    """Combinations left out: every key of `when` has a value from the list."""

    when: Mapping[str, Sequence[Any]]
    reason: str

    def covers(self, settings: Mapping[str, Any]) -> bool:
        """Tells whether a run with these settings is left out."""
        return all(settings.get(key) in values for key, values in self.when.items())


@dataclass(frozen=True)
class Sweep:
    """Axes, shared settings and exclusions under a name."""

    name: str
    axes: tuple[Axis, ...]
    fixed: Mapping[str, Any] = field(default_factory=dict)
    exclusions: tuple[Exclusion, ...] = ()

    def points(self) -> Iterator[tuple[dict[str, Any], str | None]]:
        """Yields the settings of every combination, with the reason for an exclusion or None."""
        for combination in itertools.product(*(axis.points for axis in self.axes)):
            settings = dict(self.fixed)
            for axis, values in zip(self.axes, combination, strict=True):
                settings |= zip(axis.keys, values, strict=True)
            reasons = (entry.reason for entry in self.exclusions if entry.covers(settings))
            yield settings, next(reasons, None)

    def with_overrides(self, overrides: Sequence[str]) -> Sweep:
        """Returns the sweep with `key=value` and `key=a,b` in place of earlier values of the keys.

        Raises NormbenchError for part of a joint axis: the rest of the axis would mean nothing.
        """
        given = parse_axes(overrides, groups())
        for key, values in given.items():
            if key.startswith("system.") and len(values) > 1:
                raise NormbenchError(
                    f"'{key}' cannot be an axis: it is no part of what makes a run another run"
                )
        kept = [_overridden(axis, given) for axis in self.axes]
        axes = [axis for axis in kept if axis is not None]
        placed = {axis.keys[0] for axis in axes}
        axes += [_single(key, values) for key, values in given.items() if key not in placed]
        fixed = {key: value for key, value in self.fixed.items() if key not in given}
        return replace(self, axes=tuple(axes), fixed=fixed)


def load_sweep(name: str) -> Sweep:
    """Reads configs/sweep/`name`.yaml. Raises NormbenchError for an unknown or malformed study."""
    folder = config_dir() / "sweep"
    names = [path.stem for path in folder.glob("*.yaml")]
    if name not in names:
        raise unknown("study", name, names)
    try:
        return _read_sweep(name, yaml.safe_load((folder / f"{name}.yaml").read_text()))
    except (yaml.YAMLError, KeyError, TypeError, ValueError, AttributeError) as error:
        reason = " ".join(str(error).split())
        raise NormbenchError(
            f"configs/sweep/{name}.yaml is not a study with axes and fixed: {reason}"
        ) from None


def _read_sweep(name: str, content: dict[str, Any]) -> Sweep:
    extra = content.keys() - {"axes", "fixed", "exclude"}
    if extra:
        raise ValueError(f"'{min(extra)}' is none of axes, fixed, exclude")
    axes = tuple(_read_axis(keys, values) for keys, values in content["axes"].items())
    fixed = dict(content.get("fixed") or {})
    keys = Counter(fixed.keys())
    for axis in axes:
        keys.update(axis.keys)
        for key in axis.keys:
            if key.startswith("system."):
                raise ValueError(f"'{key}' cannot be an axis")
    for key, number in keys.items():
        if number > 1:
            raise ValueError(f"'{key}' is there twice")
    exclusions = tuple(_read_exclusion(entry, set(keys)) for entry in content.get("exclude") or ())
    return Sweep(name, axes, fixed, exclusions)


def _read_axis(keys: str, values: Any) -> Axis:
    """Reads `seed: [0, 1]`, `seed: range(0,3)`, or jointly `norm, norm.num_groups: [[gn, 4]]`."""
    names = tuple(key.strip() for key in keys.split(","))
    if isinstance(values, str):
        _, values = parse_axis(f"{keys}={values}", groups())
    points = distinct(values)
    if len(names) == 1:
        points = [[value] for value in points]
    if not points or any(len(point) != len(names) for point in points):
        noun = "value" if len(names) == 1 else "values"
        raise ValueError(f"axis '{keys}' needs points of {len(names)} {noun} each")
    return Axis(names, tuple(tuple(point) for point in points))


def _read_exclusion(entry: dict[str, Any], known: set[str]) -> Exclusion:
    strange = entry["when"].keys() - known
    if strange:
        raise ValueError(f"exclude: '{min(strange)}' is no axis and not fixed")
    when = {}
    for key, values in entry["when"].items():
        when[key] = values if isinstance(values, list) else [values]
    return Exclusion(when, str(entry["reason"]))


def _single(key: str, values: Sequence[Any]) -> Axis:
    return Axis((key,), tuple((value,) for value in values))


def _overridden(axis: Axis, given: Mapping[str, Sequence[Any]]) -> Axis | None:
    """Returns the axis with the values given for the key; None for a joint axis replaced whole."""
    replaced = [key for key in axis.keys if key in given]
    if not replaced:
        return axis
    if len(axis.keys) == 1:
        return _single(replaced[0], given[replaced[0]])
    if len(replaced) < len(axis.keys):
        joint = ", ".join(axis.keys)
        raise NormbenchError(
            f"'{replaced[0]}' belongs to the joint axis '{joint}' of this study: give all of it"
        )
    return None
