"""Reads a whole run for tables and lists, each file as far as possible.

`normbench runs` lists damaged runs with their damage; tables leave damaged runs out, with a note.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import yaml

from normbench.config.schema import LOADER
from normbench.errors import RunFailure
from normbench.runs.rundir import SCHEMA_VERSION
from normbench.runs.state import OVER, run_state
from normbench.tasks.metric import TaskRecord

Columns = dict[str, npt.NDArray[Any]]
SECTION = re.compile(r"^(?=[^\s#-])", re.MULTILINE)  # the beginning of a top-level key
COUNTED = ("epoch", "steps", "step")  # whole numbers; the rest is measured
IDENTITY = ("model.name", "norm.name", "batch_size", "seed")


@dataclass(frozen=True)
class RunFiles:
    """The content of a run directory, empty for absent files.

    metrics: the columns of metrics.csv by name, with a value per epoch. damaged: the damage of
    each damaged file, by name.
    """

    run: str
    config: dict[str, Any]
    environment: dict[str, Any]
    status: dict[str, Any]
    metrics: Columns
    damaged: dict[str, str]


def run_dirs(folder: Path) -> list[Path]:
    """The directories in `folder` with a config.yaml, by name, b8 before b64."""
    found = [path.parent for path in folder.glob("[!.]*/config.yaml")]
    return sorted(found, key=_by_numbers)


def half_written(folder: Path) -> list[Path]:
    """The directories in `folder` with a status.json and no config.yaml."""
    begun = sorted(path.parent for path in folder.glob("[!.]*/status.json"))
    return [path for path in begun if not (path / "config.yaml").exists()]


def read_run(path: Path) -> RunFiles:
    """The files of the run at `path`, each as far as possible; never raises for any content."""
    found: dict[str, Any] = {}
    damaged: dict[str, str] = {}
    for name, parse in PARSERS.items():
        try:
            found[name] = parse((path / name).read_text())
        except FileNotFoundError:
            pass
        except UnknownSchema as error:
            damaged[name] = str(error)
        except (ValueError, OSError, RecursionError, yaml.YAMLError):
            damaged[name] = "is damaged"
    config, environment, status, metrics = (found.get(name, {}) for name in PARSERS)
    if not config:
        damaged.setdefault("config.yaml", "is damaged")
    if status.get("state") == "done":
        lack = _lack(metrics, config)
        if lack:
            damaged.setdefault("metrics.csv", lack)
    return RunFiles(path.resolve().name, config, environment, status, metrics, damaged)


def standing(path: Path, files: RunFiles) -> dict[str, Any]:
    """`status` and `reason` of a run without a result, by damage and lock; else {}."""
    if files.damaged:
        damage = "; ".join(f"{name} {what}" for name, what in files.damaged.items())
        return {"status": "damaged", "reason": damage}
    if files.status.get("state") in OVER:
        return {}
    try:
        state = run_state(path)
    except (OSError, RunFailure):  # no right to take locks in the folder
        return {}
    reason = "its process is gone" if state == "killed" else files.status.get("reason")
    return {"status": state, "reason": reason}


def refused_run(run: str, config: dict[str, Any], reason: str) -> RunFiles:
    """A planned run refused before training."""
    return RunFiles(run, config, {}, {"state": "refused", "reason": reason}, {}, {})


def read_columns(text: str) -> Columns:
    """The columns of a CSV file of numbers, without an unfinished last row, as a power cut leaves.

    Raises ValueError for a row of another length than the header, and for words.
    """
    whole_lines = text.split("\n")[:-1]
    names, *rows = [line.split(",") for line in whole_lines] or [[]]
    if not rows:
        return {}
    if {len(row) for row in rows} != {len(names)} or "epoch" not in names:
        raise ValueError("a row of another length than the header, or no epochs")
    columns = {}
    for name, column in zip(names, np.array(rows, dtype=float).T, strict=True):
        columns[name] = column.copy()
        if name in COUNTED:
            if not (np.abs(column) <= 2**53).all() or (column % 1 != 0).any():
                raise ValueError("a count that is no whole number")
            columns[name] = column.astype(np.int64)
    return columns


def read_steps(path: Path) -> Columns | None:
    """The logged steps of the run at `path`, by column; None for a damaged file."""
    file = path / "steps.csv"
    try:
        return read_columns(file.read_text()) if file.exists() else {}
    except (ValueError, OSError):
        return None


def at(content: Any, key: str) -> Any:
    """The value under a dotted key, or None."""
    for part in key.split("."):
        content = content.get(part) if isinstance(content, Mapping) else None
    return content


def defects_of(environment: Mapping[str, Any]) -> list[str]:
    """The defects, in an env.json, of an own norm by which its figures are not comparable.

    Raises ValueError for anything but a list of texts.
    """
    found = environment.get("broken", [])
    if not isinstance(found, list) or not all(isinstance(defect, str) for defect in found):
        raise ValueError("broken is no list of texts")
    return found


def known_schema(content: Any) -> dict[str, Any]:
    """The content. Raises ValueError for anything but a mapping, and UnknownSchema."""
    if not isinstance(content, dict):
        raise ValueError("no mapping")
    version = content.get("schema_version", SCHEMA_VERSION)
    if version != SCHEMA_VERSION:
        raise UnknownSchema(version)
    return content


class UnknownSchema(ValueError):
    """A file of another version of normbench, whose keys may mean something else."""

    def __init__(self, version: object) -> None:
        super().__init__(f"is of schema {version}, this normbench reads {SCHEMA_VERSION}")


def _lack(metrics: Columns, config: Mapping[str, Any]) -> str | None:
    """The damage of a finished run without a row per epoch; limited steps may end it early."""
    epochs = metrics.get("epoch", np.array([]))
    if not len(epochs) or (epochs != np.arange(1, len(epochs) + 1)).any():
        return "is damaged"
    planned = at(config, "epochs")
    if at(config, "train.max_steps") or planned in (None, len(epochs)):
        return None
    return f"ends at epoch {len(epochs)} of {planned}"


def _by_numbers(path: Path) -> list[tuple[int, str]]:
    parts = re.split(r"(?<=\D)(?=\d)|-", path.name)
    return [(len(part), part) for part in parts]


def _parse_config(text: str) -> dict[str, Any]:
    """A configuration with all of IDENTITY: half a config.yaml can be valid YAML."""
    config: dict[str, Any] = {}
    for section in SECTION.split(text):
        config |= _parse_section(section)
    if any(at(config, key) is None for key in IDENTITY):
        raise ValueError("half a configuration")
    return config


@lru_cache(maxsize=1024)
def _parse_section(text: str) -> dict[str, Any]:
    """A section of a configuration, cached: runs share sections, and YAML dominates reading."""
    section = yaml.load(text, LOADER)
    if not isinstance(section, dict | None):
        raise ValueError("no mapping")
    return section or {}


def _parse_environment(text: str) -> dict[str, Any]:
    environment = known_schema(json.loads(text))
    defects_of(environment)  # a ValueError here names the damaged file
    if "task" in environment:
        TaskRecord.from_json(environment["task"])  # and here
    return environment


def _parse_status(text: str) -> dict[str, Any]:
    status = known_schema(json.loads(text))
    if not isinstance(at(status, "state"), str):
        raise ValueError("no state")
    return status


PARSERS: dict[str, Callable[[str], Any]] = {
    "config.yaml": _parse_config,
    "env.json": _parse_environment,
    "status.json": _parse_status,
    "metrics.csv": read_columns,
}
