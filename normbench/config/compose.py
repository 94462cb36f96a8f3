"""From YAML files and settings to a RunConfig.

Hydra composes the chosen files of each group, once per distinct choice. Single values are set here
afterwards: Hydra accepts values of a wrong type, and answers mistakes with long, bad advice.
"""

from __future__ import annotations

import ast
import copy
import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from normbench.config.grammar import parse_assignments
from normbench.config.kept import Kept
from normbench.config.names import spoken
from normbench.config.schema import RunConfig, validate
from normbench.config.sections import Choice, ModelConfig
from normbench.errors import NormbenchError, unknown
from normbench.users_code import is_own

# The groups that take a user's own class too, by their sections.
OWN_GROUPS: Mapping[str, type[Choice]] = {"norm": Choice, "model": ModelConfig}


def compose(overrides: Sequence[str] = (), flags: Mapping[str, Any] | None = None) -> RunConfig:
    """The configuration of `overrides` ("norm=gn", "optim.lr=3e-4") and `flags` ({"seed": 1}).

    Raises NormbenchError for a key or value unknown, mistyped, out of range, given twice, or not
    single.
    """
    return from_settings(parse_assignments(overrides, flags))


def from_settings(settings: Mapping[str, Any]) -> RunConfig:
    """The configuration of parsed settings, by dotted key. Raises NormbenchError as `compose`."""
    return validate(_merge(settings, config_dir()))


def config_dir() -> Path:
    """The folder of YAML files: inside the package in a wheel, beside the package in a checkout."""
    package = Path(__file__).parents[1]
    inside = package / "configs"
    return inside if inside.is_dir() else package.parent / "configs"


def groups() -> Mapping[str, list[str]]:
    """The choices of each config group: {"norm": ["bn", "gn", ...], ...}."""
    return _groups(config_dir())


def studies(folder: Path) -> list[str]:
    """The names of the studies in a folder such as configs/: its files sweep/*.yaml."""
    return sorted(file.stem for file in (folder / "sweep").glob("*.yaml"))


@lru_cache(maxsize=8)
def _groups(folder: Path) -> Mapping[str, list[str]]:
    found = {}
    for group in sorted(folder.iterdir()):
        if group.is_dir() and group.name != "sweep":
            # Files named with an underscore, such as _common.yaml, are included by the rest.
            found[group.name] = sorted(file.stem for file in group.glob("[!_]*.yaml"))
    return found


def _merge(settings: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The values of the chosen files, with single values set."""
    allowed = _groups(folder)
    rest = dict(settings)
    choices = {group: rest.pop(group) for group in allowed if group in rest}
    own = {}
    for group in OWN_GROUPS:
        if _is_own(choices.get(group)):
            own[group] = _own_section(group, choices.pop(group), rest)
    for group, choice in choices.items():
        _check_choice(group, choice, allowed[group])
    values: dict[str, Any] = json.loads(_composed("train", folder))
    for group, choice in choices.items():
        values[group] = _section(group, choice, folder)
    values |= own
    for key, value in rest.items():
        _assign(values, key, value)
    return _interpolated(values)


def _is_own(choice: Any) -> bool:
    """Whether the choice is a user's own class: `file.py:Class` or `package.module:Class`."""
    return isinstance(choice, str) and is_own(choice) and "," not in choice


def _own_section(group: str, choice: str, rest: dict[str, Any]) -> dict[str, Any]:
    """The section of a user's own norm or model; takes its options out of `rest`."""
    options = {}
    prefix = f"{group}.options."
    common = {}  # the settings of every entry of the group
    for name, field in OWN_GROUPS[group].model_fields.items():
        if name not in Choice.model_fields:
            common[name] = field.default
    for key in tuple(rest):
        if key.startswith(prefix):
            options[key.removeprefix(prefix)] = rest.pop(key)
        elif key.startswith(f"{group}.") and key.removeprefix(f"{group}.") not in common:
            expected = prefix + key.removeprefix(f"{group}.")
            raise NormbenchError(
                f"unknown key '{key}': an own {group}'s options are set as '{expected}'"
            )
    section = {"name": choice, "file": None, "content": None, "options": options, **common}
    place, _, name = choice.rpartition(":")
    if place.endswith(".py"):
        # The name leaves out the folder: a run's identity must not depend on where the file lies.
        path = Path(place).expanduser().absolute()
        section |= {"name": f"{path.name}:{name}", "file": str(path)}
    return section


def _check_choice(group: str, choice: Any, allowed: Sequence[str]) -> None:
    if not isinstance(choice, str):
        raise NormbenchError(f"{group}={choice!r}: give one name of {', '.join(allowed)}")
    if "," in choice:
        raise NormbenchError(f"{group}={choice} is several values for one run: use sweep for that")
    if group in OWN_GROUPS and choice.endswith(".py"):
        raise _no_class(group, choice)
    if choice not in allowed:
        raise unknown(group, choice, allowed, spoken(choice) if group == "norm" else None)


def _no_class(group: str, choice: str) -> NormbenchError:
    """The error for a file without a class, with the classes that the file defines."""
    path = Path(choice).expanduser()
    try:
        tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError) as error:
        return NormbenchError(f"{group}={choice}: {error}")
    classes = [node.name for node in tree.body if isinstance(node, ast.ClassDef)]
    found = ", ".join(f"{choice}:{name}" for name in classes) or "the file defines no class"
    return NormbenchError(f"{group}={choice}: say which class: {found}")


def _assign(values: dict[str, Any], key: str, value: Any) -> None:
    """Sets a dotted key. Raises NormbenchError where no single value has the key."""
    *sections, last = key.split(".")
    node: Any = values
    for depth, section in enumerate(sections):
        if section not in _keys(node):
            raise _unknown_key(values, key, depth)
        node = node[section]
    # The name decides which keys a section has: files are chosen before single values are set.
    if last == "name" and sections:
        raise NormbenchError(f"'{key}' cannot be set: choose with {sections[0]}=NAME")
    if last not in _keys(node):
        raise _unknown_key(values, key, len(sections))
    if isinstance(node[last], dict):
        settable = ", ".join(f"{key}.{name}" for name in _keys(node[last]))
        raise NormbenchError(f"'{key}' is a section: set one of {settable}")
    node[last] = value


def _unknown_key(values: dict[str, Any], key: str, depth: int) -> NormbenchError:
    """The error for a key whose part at `depth` is unknown. `lr` is told about `optim.lr`."""
    parts = key.split(".")
    known, noun = values, "key"
    # Most wrong keys are names of a section's key, without the section.
    if depth == 0:
        sections = [section for section in values if parts[-1] in _keys(values[section])]
        if sections:
            meant = " or ".join(f"'{section}.{parts[-1]}'" for section in sections)
            return NormbenchError(f"unknown key '{key}': did you mean {meant}?")
    elif "name" in values[parts[0]]:
        noun = f"key of {parts[0]} {values[parts[0]]['name']}"
    for part in parts[:depth]:
        known = known[part]
    if not _keys(known):
        prefix = ".".join(parts[:depth])
        return NormbenchError(f"unknown key '{key}': '{prefix}' is a value, not a section")
    return unknown(noun, key, [".".join([*parts[:depth], name]) for name in _keys(known)])


def _keys(section: Any) -> list[str]:
    """The keys of a section, without the name of the choice; none of a single value."""
    return [key for key in section if key != "name"] if isinstance(section, dict) else []


def _interpolated(values: dict[str, Any]) -> dict[str, Any]:
    """The values with each `${key}` replaced by the value of the key."""
    # Resolving takes OmegaConf some milliseconds, and a sweep composes hundreds of runs.
    if "${" not in str(values):
        return values
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        resolved: Any = OmegaConf.to_container(OmegaConf.create(values), resolve=True)
    except OmegaConfBaseException as error:
        reason = str(error).splitlines()[0]
        raise NormbenchError(f"cannot resolve an interpolation: {reason}") from None
    return dict(resolved)


def _section(group: str, choice: str, folder: Path) -> Any:
    """What the chosen file gives for its group.

    Composed alone: all groups together take Hydra three times as long, for each choice of a sweep.
    """
    composed = json.loads(_composed(f"{group}/{choice}", folder))
    if composed.keys() != {group}:
        strange = ", ".join(sorted(composed.keys() - {group})) or "nothing"
        raise NormbenchError(
            f"configs/{group}/{choice}.yaml sets {strange}; allowed: keys of {group}"
        )
    return composed[group]


def _composed(name: str, folder: Path) -> str:
    """Hydra's composition of a file with its defaults, as JSON; kept: Hydra takes some 50 ms."""
    kept = _kept(folder)
    text = kept.get(name)
    if text is None:
        text = _by_hydra(name, folder)
        kept.add(name, text)
    return text


@lru_cache(maxsize=8)
def _kept(folder: Path) -> Kept:
    return Kept(folder)


def _by_hydra(name: str, folder: Path) -> str:
    import hydra
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    version = {"version_base": "1.3"} if hydra.__version__.startswith("1.3") else {}
    try:
        with (
            _hydra_set_aside(),
            hydra.initialize_config_dir(str(folder.absolute()), **version),
            warnings.catch_warnings(),
        ):
            # Without `_self_` a file's own keys come last, as in any file of a group.
            warnings.filterwarnings("ignore", ".*Defaults list is missing `_self_`")
            config = hydra.compose(name)
        return json.dumps(OmegaConf.to_container(config, resolve=False))
    except YAMLError as error:
        where = " ".join(str(getattr(error, "problem_mark", "")).split())
        raise NormbenchError(f"a config file is not YAML: {where or error}") from None
    except (HydraException, OmegaConfBaseException) as error:
        reason = " ".join(str(error).split())
        raise NormbenchError(f"the config files do not compose: {reason}") from None


@contextmanager
def _hydra_set_aside() -> Iterator[None]:
    """Saves and restores Hydra's global state: a notebook or program may be using Hydra too."""
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.singleton import Singleton

    before = copy.copy(Singleton.get_state())
    GlobalHydra.instance().clear()
    try:
        yield
    finally:
        Singleton.set_state(before)
