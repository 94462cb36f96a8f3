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

from normbench.analysis.design import DESIGNED, Design, Rate, read_design
from normbench.config.compose import config_dir, groups, studies
from normbench.config.grammar import distinct, parse_axes, parse_axis
from normbench.errors import NormbenchError, unknown
from normbench.runs.row import choice_label

LR = "optim.lr"
AD_HOC = "sweep"  # the name of a sweep that is no study of configs/sweep/


@dataclass(frozen=True)
class Axis:
    """Keys varied together, mostly a single key, and their values at each point of the axis."""

    keys: tuple[str, ...]
    points: tuple[tuple[Any, ...], ...]

    def __post_init__(self) -> None:
        for key in self.keys:
            if key.startswith("system.") and len(self.points) > 1:
                raise NormbenchError(
                    f"'{key}' cannot be an axis: it is no part of what makes a run another run"
                )


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
    """Axes, shared settings and exclusions under a name.

    design: what the study is to decide, and the learning rates that another study has chosen.
    """

    name: str
    axes: tuple[Axis, ...]
    fixed: Mapping[str, Any] = field(default_factory=dict)
    exclusions: tuple[Exclusion, ...] = ()
    design: Design = field(default_factory=lambda: Design(name=AD_HOC))

    def points(self) -> Iterator[tuple[dict[str, Any], str | None]]:
        """Yields the settings of every combination, with the reason for an exclusion or None."""
        for combination in itertools.product(*(axis.points for axis in self.axes)):
            settings = dict(self.fixed)
            for axis, values in zip(self.axes, combination, strict=True):
                settings |= zip(axis.keys, values, strict=True)
            reasons = [entry.reason for entry in self.exclusions if entry.covers(settings)]
            if self.design.tuned_by is not None:
                rate = self.rate_of(settings)
                if rate is None:
                    what = f"{choice_label(settings['norm'])} at this batch size"
                    chosen = f"{self.design.tuned_by} has chosen no learning rate yet"
                    reasons.append(f"{chosen} for {what}")
                else:
                    settings[LR] = rate.lr
            yield settings, next(iter(reasons), None)

    def rate_of(self, settings: Mapping[str, Any]) -> Rate | None:
        """The learning rate chosen by another study for a point's norm, batch size and settings."""
        return next((rate for rate in self.design.rates if rate.is_for(settings)), None)

    def with_overrides(self, overrides: Sequence[str]) -> Sweep:
        """Returns the sweep with `key=value` and `key=a,b` in place of earlier values of the keys.

        Raises NormbenchError as `with_values`.
        """
        return self.with_values(parse_axes(overrides, groups()))

    def with_values(self, given: Mapping[str, Sequence[Any]]) -> Sweep:
        """Returns the sweep with these values of the keys in place of earlier ones.

        Raises NormbenchError for part of a joint axis: the rest of the axis would mean nothing.
        """
        axes = []
        for axis in self.axes:
            replaced = [key for key in axis.keys if key in given]
            if 0 < len(replaced) < len(axis.keys):
                joint = ", ".join(axis.keys)
                raise NormbenchError(
                    f"'{replaced[0]}' belongs to the joint axis '{joint}' of this study: "
                    "give all of it"
                )
            if not replaced:
                axes.append(axis)
            elif len(axis.keys) == 1:
                axes.append(_single(replaced[0], given[replaced[0]]))
        placed = {axis.keys[0] for axis in axes}
        axes += [_single(key, values) for key, values in given.items() if key not in placed]
        fixed = {key: value for key, value in self.fixed.items() if key not in given}
        return replace(self, axes=tuple(axes), fixed=fixed)


def load_sweep(name: str) -> Sweep:
    """Reads configs/sweep/`name`.yaml. Raises NormbenchError for an unknown or malformed study."""
    folder = config_dir()
    if name not in studies(folder):
        raise unknown("study", name, studies(folder))
    file = folder / "sweep" / f"{name}.yaml"
    try:
        return _read_sweep(name, yaml.safe_load(file.read_text()))
    except (yaml.YAMLError, KeyError, TypeError, ValueError, AttributeError) as error:
        reason = " ".join(str(error).split())
        raise NormbenchError(
            f"configs/sweep/{name}.yaml is not a study with axes and fixed: {reason}"
        ) from None


def _read_sweep(name: str, content: dict[str, Any]) -> Sweep:
    extra = content.keys() - {"axes", "fixed", "exclude", *DESIGNED}
    if extra:
        allowed = ", ".join(("axes", "fixed", "exclude", *DESIGNED))
        raise ValueError(f"'{min(extra)}' is none of {allowed}")
    designed = {key: content[key] for key in DESIGNED if key in content}
    design = read_design({"name": name, **designed})
    axes = tuple(_read_axis(keys, values) for keys, values in content["axes"].items())
    fixed = dict(content.get("fixed") or {})
    keys = Counter(fixed.keys())
    for axis in axes:
        keys.update(axis.keys)
    for key, number in keys.items():
        if number > 1:
            raise ValueError(f"'{key}' is there twice")
    exclusions = tuple(_read_exclusion(entry, set(keys)) for entry in content.get("exclude") or ())
    if design.tuned_by is not None and not {"norm", "batch_size"} <= keys.keys():
        raise ValueError("tuned_by needs norm and batch_size as axes or fixed settings")
    sweep = Sweep(name, axes, fixed, exclusions, design)
    _check_comparisons(sweep)
    return sweep


def _check_comparisons(sweep: Sweep) -> None:
    """Raises ValueError for a primary comparison of norms or settings that the study never runs."""
    points = [settings for settings, _ in sweep.points()]
    for comparison in sweep.design.comparisons():
        for norm in (comparison.first, comparison.second):
            wanted = {"norm": norm, **comparison.at}
            if not any(wanted.items() <= point.items() for point in points):
                told = ", ".join(f"{key} {value}" for key, value in wanted.items())
                raise ValueError(f"primary: the study has no run with {told}")


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
