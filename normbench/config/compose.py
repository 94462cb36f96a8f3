"""From YAML files and settings to a RunConfig.

Hydra composes the chosen files of each group, once per distinct choice; single values are then set here, because its
own errors are long and give bad advice, and because it takes wrong types.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from normbench.config.grammar import parse_assignments
from normbench.config.schema import RunConfig, validate
from normbench.errors import NormbenchError, unknown


def compose(overrides: Sequence[str] = (), flags: Mapping[str, Any] | None = None) -> RunConfig:
    """The configuration that `overrides` ("norm=gn", "optim.lr=3e-4") and `flags` ({"batch_size": 8}) ask for.

    Raises NormbenchError for anything unknown, mistyped, out of range, given twice, or not a single value.
    """
    return from_settings(parse_assignments(overrides, flags))


def from_settings(settings: Mapping[str, Any]) -> RunConfig:
    """The configuration with these keys set: `compose` for what has been parsed before."""
    return validate(_merge(settings, config_dir()))


def config_dir() -> Path:
    """The folder of YAML files: inside the package in a wheel, beside it in a checkout."""
    package = Path(__file__).parents[1]
    inside = package / "configs"
    return inside if inside.is_dir() else package.parent / "configs"


def groups(folder: Path | None = None) -> dict[str, list[str]]:
    """The choices of each config group: {"norm": ["bn", "gn", ...], ...}."""
    return dict(_groups(folder or config_dir()))


@lru_cache(maxsize=8)
def _groups(folder: Path) -> dict[str, list[str]]:
    parents = [path for path in sorted(folder.iterdir()) if path.is_dir() and path.name != "sweep"]
    return {
        p.name: sorted(f.stem for f in p.glob("*.yaml") if not f.stem.startswith("_"))
        for p in parents
    }


def _merge(assignments: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    allowed = groups(folder)
    choices = {key: value for key, value in assignments.items() if key in allowed}
    rest = {key: value for key, value in assignments.items() if key not in allowed}
    own = _own_norm(choices.pop("norm")) if _is_own(choices.get("norm")) else None
    for group, choice in choices.items():
        _check_choice(group, choice, allowed[group])
    values: dict[str, Any] = json.loads(_composed(tuple(sorted(choices.items())), folder))
    if own is not None:
        values["norm"] = own | {"options": _own_options(rest)}
    for key, value in rest.items():
        _assign(values, key, value)
    if "${" not in str(values):
        return values
    try:
        resolved: Any = OmegaConf.to_container(OmegaConf.create(values), resolve=True)
    except OmegaConfBaseException as error:
        raise NormbenchError(
            f"cannot resolve an interpolation: {str(error).splitlines()[0]}"
        ) from None
    return dict(resolved)


def _is_own(choice: Any) -> bool:
    """Whether a choice of norm is the user's own: `file.py:Class` or `package.module:Class`."""
    return isinstance(choice, str) and ":" in choice and "," not in choice


def _own_norm(choice: str) -> dict[str, Any]:
    """The section of an own norm: its file goes by its own name, wherever it lies; the rest is filled in later."""
    place, _, name = choice.rpartition(":")
    if not place.endswith(".py"):
        return {"name": choice, "file": None, "content": None}
    path = Path(place).expanduser().absolute()
    return {"name": f"{path.name}:{name}", "file": str(path), "content": None}


def _own_options(rest: dict[str, Any]) -> dict[str, Any]:
    """Takes the options of an own norm out of the other settings."""
    prefix = "norm.options."
    if wrong := [key for key in rest if key.startswith("norm.") and not key.startswith(prefix)]:
        should = prefix + wrong[0].removeprefix("norm.")
        raise NormbenchError(
            f"unknown key '{wrong[0]}': an own norm's options are set as '{should}'"
        )
    return {key.removeprefix(prefix): rest.pop(key) for key in list(rest) if key.startswith(prefix)}


def _check_choice(group: str, choice: Any, allowed: Sequence[str]) -> None:
    if not isinstance(choice, str):
        raise NormbenchError(f"{group}={choice!r}: give one name of {', '.join(allowed)}")
    if "," in choice:
        raise NormbenchError(f"{group}={choice} is several values for one run: use sweep for that")
    if choice not in allowed:
        raise unknown(group, choice, allowed)


def _assign(values: dict[str, Any], key: str, value: Any) -> None:
    """Sets the dotted `key`, which must exist and be a single value."""
    *sections, last = key.split(".")
    node: Any = values
    for depth, section in enumerate([*sections, last]):
        if not isinstance(node, dict) or section not in node:
            raise _unknown_key(values, key, depth)
        parent, node = node, node[section]
    if isinstance(node, dict):
        raise NormbenchError(
            f"'{key}' is a section: set one of {', '.join(f'{key}.{name}' for name in node if name != 'name')}"
        )
    if last == "name" and sections:
        raise NormbenchError(f"'{key}' cannot be set: choose with {sections[0]}=NAME")
    parent[last] = value


def _unknown_key(values: dict[str, Any], key: str, depth: int) -> NormbenchError:
    """The error for a key that is unknown from its part at `depth` on; lr alone is told that it is optim.lr."""
    parts = key.split(".")
    namesakes = [
        f"{section}.{parts[-1]}"
        for section in _keys(values, [])
        if parts[-1] in _keys(values, [section])
    ]
    if namesakes and not depth:
        return NormbenchError(
            f"unknown key '{key}': did you mean {' or '.join(map(repr, namesakes))}?"
        )
    siblings = [".".join([*parts[:depth], name]) for name in _keys(values, parts[:depth])]
    if not siblings:
        return NormbenchError(
            f"unknown key '{key}': '{'.'.join(parts[:depth])}' is a value, not a section"
        )
    chosen = values[parts[0]].get("name") if depth else None
    return unknown(f"key of {parts[0]} {chosen}" if chosen else "key", key, siblings)


def _keys(values: dict[str, Any], path: Sequence[str]) -> list[str]:
    """The keys of the section at `path`; none where it is a value."""
    node: Any = values
    for part in path:
        node = node[part]
    return [key for key in node if key != "name"] if isinstance(node, dict) else []


@lru_cache(maxsize=256)
def _composed(choices: tuple[tuple[str, str], ...], folder: Path) -> str:
    """What Hydra makes of the chosen files, as JSON; 50 to 200 ms, so once per distinct choice."""
    import hydra
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    version = {"version_base": "1.3"} if hydra.__version__.startswith("1.3") else {}
    try:
        with _hydra_set_aside(), hydra.initialize_config_dir(str(folder.absolute()), **version):
            config = hydra.compose(
                "train", overrides=[f"{group}={choice}" for group, choice in choices]
            )
        container: Any = OmegaConf.to_container(config, resolve=False)
    except YAMLError as error:
        where = " ".join(str(getattr(error, "problem_mark", "")).split())
        raise NormbenchError(f"a config file is not YAML: {where or error}") from None
    except (HydraException, OmegaConfBaseException) as error:
        raise NormbenchError(
            f"the config files do not compose: {' '.join(str(error).split())}"
        ) from None
    return json.dumps(container)


@contextmanager
def _hydra_set_aside() -> Iterator[None]:
    """Hydra keeps global state; a notebook or program around us may be using it."""
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.singleton import Singleton

    before = copy.copy(Singleton.get_state())
    GlobalHydra.instance().clear()
    try:
        yield
    finally:
        Singleton.set_state(before)
