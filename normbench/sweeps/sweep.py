"""A study: axes whose combinations are runs, settings that all of them share, and combinations left out with a reason.

It comes from configs/sweep/NAME.yaml, from the command line (`norm=bn,gn seed=range(0,3)`), or from both.
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
    """Keys that vary together, mostly one, and the values they take at each of the axis' points."""

    keys: tuple[str, ...]
    points: tuple[tuple[Any, ...], ...]


@dataclass(frozen=True)
class Exclusion:
    """Combinations that are left out: those where every key of `when` has one of its values."""

    when: Mapping[str, Sequence[Any]]
    reason: str

    def covers(self, settings: Mapping[str, Any]) -> bool:
        """Whether a run with these settings is left out."""
        return all(settings.get(key) in values for key, values in self.when.items())


@dataclass(frozen=True)
class Study:
    """Axes, shared settings and exclusions under a name."""

    name: str
    axes: tuple[Axis, ...]
    fixed: Mapping[str, Any] = field(default_factory=dict)
    exclusions: tuple[Exclusion, ...] = ()

    def points(self) -> Iterator[tuple[dict[str, Any], str | None]]:
        """The settings of every combination, and the reason why it is left out, if it is."""
        for combination in itertools.product(*(axis.points for axis in self.axes)):
            settings = dict(self.fixed)
            for axis, values in zip(self.axes, combination, strict=True):
                settings |= zip(axis.keys, values, strict=True)
            yield (
                settings,
                next((one.reason for one in self.exclusions if one.covers(settings)), None),
            )

    def with_overrides(self, overrides: Sequence[str]) -> Study:
        """The study with `key=value` and `key=a,b` on top: each takes the place of the axis or setting of its key.

        Raises NormbenchError for a part of a joint axis, whose other part would then mean nothing.
        """
        given = parse_axes(overrides, groups())
        for key, values in given.items():
            if key.startswith("system.") and len(values) > 1:
                raise NormbenchError(
                    f"'{key}' cannot be an axis: it is no part of what makes a run another run"
                )
        axes = tuple(kept for axis in self.axes if (kept := _overridden(axis, given)) is not None)
        placed = {axis.keys[0] for axis in axes if axis.keys[0] in given}
        new = [
            Axis((key,), tuple((value,) for value in given[key]))
            for key in given
            if key not in placed
        ]
        fixed = {key: value for key, value in self.fixed.items() if key not in given}
        return replace(self, axes=(*axes, *new), fixed=fixed)


def load_study(name: str) -> Study:
    """The study in configs/sweep/`name`.yaml. Raises NormbenchError for an unknown name or a file that is not one."""
    folder = config_dir() / "sweep"
    if name not in (names := [path.stem for path in folder.glob("*.yaml")]):
        raise unknown("study", name, names)
    try:
        return _read_study(name, yaml.safe_load((folder / f"{name}.yaml").read_text()))
    except (yaml.YAMLError, KeyError, TypeError, ValueError, AttributeError) as error:
        reason = " ".join(str(error).split())
        raise NormbenchError(
            f"configs/sweep/{name}.yaml is not a study with axes and fixed: {reason}"
        ) from None


def _read_study(name: str, content: dict[str, Any]) -> Study:
    if extra := content.keys() - {"axes", "fixed", "exclude"}:
        raise ValueError(f"'{min(extra)}' is none of axes, fixed, exclude")
    axes = tuple(_read_axis(keys, values) for keys, values in content["axes"].items())
    fixed = dict(content.get("fixed") or {})
    keys = Counter([*fixed, *(key for axis in axes for key in axis.keys)])
    if system := [key for axis in axes for key in axis.keys if key.startswith("system.")]:
        raise ValueError(f"'{system[0]}' cannot be an axis")
    if repeated := [key for key, number in keys.items() if number > 1]:
        raise ValueError(f"'{repeated[0]}' is there twice")
    exclusions = tuple(_read_exclusion(entry, set(keys)) for entry in content.get("exclude") or ())
    return Study(name, axes, fixed, exclusions)


def _read_axis(keys: str, values: Any) -> Axis:
    """`seed: [0, 1]`, `seed: range(0,3)`, or several keys at once: `norm, norm.num_groups: [[gn, 4], [gn, 32]]`."""
    names = tuple(key.strip() for key in keys.split(","))
    if isinstance(values, str):
        values = parse_axis(f"{keys}={values}", groups())[1]
    points = tuple((value,) if len(names) == 1 else tuple(value) for value in distinct(values))
    if not points or any(len(point) != len(names) for point in points):
        raise ValueError(
            f"axis '{keys}' needs points of {len(names)} value{'s' * (len(names) > 1)} each"
        )
    return Axis(names, points)


def _read_exclusion(entry: dict[str, Any], known: set[str]) -> Exclusion:
    if strange := entry["when"].keys() - known:
        raise ValueError(f"exclude: '{min(strange)}' is no axis and not fixed")
    when = {
        key: values if isinstance(values, list) else [values]
        for key, values in entry["when"].items()
    }
    return Exclusion(when, str(entry["reason"]))


def _overridden(axis: Axis, given: Mapping[str, Sequence[Any]]) -> Axis | None:
    """The axis with the values given for it; None where a joint axis is replaced as a whole."""
    replaced = [key for key in axis.keys if key in given]
    if not replaced:
        return axis
    if len(axis.keys) == 1:
        return Axis(axis.keys, tuple((value,) for value in given[axis.keys[0]]))
    if len(replaced) < len(axis.keys):
        joint = ", ".join(axis.keys)
        raise NormbenchError(
            f"'{replaced[0]}' belongs to the joint axis '{joint}' of this study: give all of it"
        )
    return None
