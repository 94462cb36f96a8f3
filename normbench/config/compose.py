"""From YAML files and settings to a RunConfig.

Hydra composes the chosen files of each group, once per distinct choice. Single values are set here
afterwards: Hydra accepts values of a wrong type, and answers mistakes with long, bad advice.
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
from normbench.config.schema import RunConfig, flatten, validate
from normbench.errors import NormbenchError, unknown


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


@lru_cache(maxsize=8)
def _groups(folder: Path) -> Mapping[str, list[str]]:
    found: dict[str, list[str]] = {}
    for file in sorted(folder.glob("*/[!_]*.yaml")):
        found.setdefault(file.parent.name, []).append(file.stem)
    # Sweeps are studies, not parts of a run's configuration.
    found.pop("sweep", None)
    return found


def _merge(settings: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    allowed = _groups(folder)
    rest = dict(settings)
    choices = {group: rest.pop(group) for group in allowed if group in rest}
    norm, own = choices.get("norm"), {}
    # A user's own class: `file.py:Class` or `package.module:Class`.
    if isinstance(norm, str) and ":" in norm and "," not in norm:
        own["norm"] = _own_norm(choices.pop("norm"), rest)
    for group, choice in choices.items():
        _check_choice(group, choice, allowed[group])
    values: dict[str, Any] = json.loads(_composed(tuple(choices.items()), folder)) | own
    keys = [key for key in flatten(values) if not key.endswith(".name")]
    for key, value in rest.items():
        if key not in keys:
            raise _refusal(values, keys, key)
        section, _, name = key.rpartition(".")
        place = values[section] if section else values
        place[name] = value
    return values


def _own_norm(choice: str, rest: dict[str, Any]) -> dict[str, Any]:
    """The section of a user's own norm; takes the norm's options out of `rest`."""
    options = {}
    for key in [key for key in rest if key.startswith("norm.")]:
        option = key.removeprefix("norm.")
        if not option.startswith("options."):
            expected = f"norm.options.{option}"
            raise NormbenchError(
                f"unknown key '{key}': an own norm's options are set as '{expected}'"
            )
        options[option.removeprefix("options.")] = rest.pop(key)
    section = {"name": choice, "file": None, "content": None, "options": options}
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
    if choice not in allowed:
        raise unknown(group, choice, allowed)


def _refusal(values: dict[str, Any], keys: list[str], key: str) -> NormbenchError:
    """The error for a key that is not among `keys`; `lr` is answered with `optim.lr`."""
    section, _, name = key.rpartition(".")
    within = [known for known in keys if known.startswith(f"{key}.")]
    if within:
        return NormbenchError(f"'{key}' is a section: set one of {', '.join(within)}")
    if section in keys:
        return NormbenchError(f"unknown key '{key}': '{section}' is a value, not a section")
    if section in values:
        chosen = values[section].get("name")
        if chosen and name == "name":
            return NormbenchError(f"'{key}' cannot be set: choose with {section}=NAME")
        beside = [known for known in keys if known.startswith(f"{section}.")]
        return unknown(f"key of {section} {chosen}" if chosen else "key", key, beside)
    meant = [f"'{known}'" for known in keys if known.endswith(f".{name}")]
    if meant:
        return NormbenchError(f"unknown key '{key}': did you mean {' or '.join(meant)}?")
    return unknown("key", key, values)


@lru_cache(maxsize=256)
def _composed(choices: tuple[tuple[str, str], ...], folder: Path) -> str:
    """Hydra's composition of the chosen files, as JSON; cached, since Hydra takes 50 to 200 ms."""
    import hydra
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    version = {"version_base": "1.3"} if hydra.__version__.startswith("1.3") else {}
    overrides = [f"{group}={choice}" for group, choice in choices]
    try:
        with _hydra_set_aside(), hydra.initialize_config_dir(str(folder.absolute()), **version):
            config = hydra.compose("train", overrides=overrides)
        return json.dumps(OmegaConf.to_container(config, resolve=True))
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
