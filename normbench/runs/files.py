"""What one run directory holds, each file as far as it can be read: what `normbench runs` and tables are made of."""

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
from normbench.runs.rundir import OVER, SCHEMA_VERSION, run_state
from normbench.tasks.metric import TaskRecord

Columns = dict[str, npt.NDArray[Any]]
SECTION = re.compile(r"^(?=[^\s#-])", re.MULTILINE)  # where a top-level key begins
COUNTED = ("epoch", "steps", "step")  # the other columns are measured


@dataclass(frozen=True)
class RunFiles:
    """What a run directory holds. A file that is not there says nothing; `damaged` says of a file what is wrong.

    metrics: by its name, each column of metrics.csv with a value per epoch.
    """

    run: str
    config: dict[str, Any]
    environment: dict[str, Any]
    status: dict[str, Any]
    metrics: Columns
    damaged: dict[str, str]


def run_dirs(folder: Path) -> list[Path]:
    """The run directories in `folder`, by name, b8 before b64: those with a config.yaml."""
    found = [
        path.parent for path in folder.glob("*/config.yaml") if not path.parent.name.startswith(".")
    ]
    return sorted(
        found,
        key=lambda path: [(len(part), part) for part in re.split(r"(?<=\D)(?=\d)|-", path.name)],
    )


def half_written(folder: Path) -> list[Path]:
    """Directories in `folder` with a run's status but no configuration."""
    found = sorted(
        path.parent for path in folder.glob("*/status.json") if not path.parent.name.startswith(".")
    )
    return [path for path in found if not (path / "config.yaml").exists()]


def read_run(path: Path) -> RunFiles:
    """The files of a run, each as far as it can be read; never raises for what is in them."""
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
    config, status, metrics = (
        found.get(name, {}) for name in ("config.yaml", "status.json", "metrics.csv")
    )
    if not config:
        damaged.setdefault("config.yaml", "is damaged")
    if status.get("state") == "done" and (lack := _lack(metrics, config)):
        damaged.setdefault("metrics.csv", lack)
    return RunFiles(
        path.resolve().name, config, found.get("env.json", {}), status, metrics, damaged
    )


def standing(path: Path, files: RunFiles) -> dict[str, Any]:
    """Status and reason where its files alone do not tell: `damaged` if one cannot be read, else as the lock has it."""
    if files.damaged:
        return {
            "status": "damaged",
            "reason": "; ".join(f"{name} {what}" for name, what in files.damaged.items()),
        }
    if files.status.get("state") in OVER:
        return {}
    try:
        state = run_state(path)
    except (OSError, RunFailure):  # a folder in which this user cannot take the lock
        return {}
    return {
        "status": state,
        "reason": "its process is gone" if state == "killed" else files.status.get("reason"),
    }


def refused_run(run: str, config: dict[str, Any], reason: str) -> RunFiles:
    """A run that was planned and cannot be trained, as what its files would say."""
    return RunFiles(run, config, {}, {"state": "refused", "reason": reason}, {}, {})


def read_columns(text: str) -> Columns:
    """A CSV file of numbers by columns, without a last row that a power cut has left unfinished.

    Raises ValueError for a row of another length than the header, and for what is no number.
    """
    header, _, body = text.partition("\n")
    whole_lines = body[: body.rfind("\n") + 1]
    names = header.strip().split(",")
    if not whole_lines:
        return {}
    signs = np.frombuffer(whole_lines.encode(), np.uint8)
    commas_before = np.cumsum(signs == ord(","))[signs == ord("\n")]
    if (np.diff(commas_before, prepend=0) != len(names) - 1).any() or "epoch" not in names:
        raise ValueError("a row of another length than the header, or no epochs")
    table = np.array(whole_lines.replace("\n", ",").split(",")[:-1], dtype=float).reshape(
        -1, len(names)
    )
    columns = {name: column.copy() for name, column in zip(names, table.T, strict=True)}
    return {
        name: _counts(column) if name in COUNTED else column for name, column in columns.items()
    }


def read_steps(path: Path) -> Columns | None:
    """The logged steps of the run at `path`, by column; None where they cannot be read."""
    file = path / "steps.csv"
    try:
        return read_columns(file.read_text()) if file.exists() else {}
    except (ValueError, OSError):
        return None


def at(content: Any, key: str) -> Any:
    """The value under a dotted key; None where there is none."""
    for part in key.split("."):
        content = content.get(part) if isinstance(content, Mapping) else None
    return content


def known_schema(content: Any) -> dict[str, Any]:
    """The mapping; raises ValueError for none, and UnknownSchema. Files without a version are of the first."""
    if not isinstance(content, dict):
        raise ValueError("no mapping")
    if (version := content.get("schema_version", SCHEMA_VERSION)) != SCHEMA_VERSION:
        raise UnknownSchema(version)
    return content


class UnknownSchema(ValueError):
    """Files that a newer normbench has written, which may mean something else."""

    def __init__(self, version: object) -> None:
        super().__init__(f"is of schema {version}, this normbench reads {SCHEMA_VERSION}")


def _lack(metrics: Columns, config: Mapping[str, Any]) -> str | None:
    """What the rows of a run that is done lack: it has one of every epoch, unless its steps were limited."""
    epochs = metrics.get("epoch", np.array([]))
    planned = None if at(config, "train.max_steps") else at(config, "epochs")
    if not len(epochs) or (epochs != np.arange(1, len(epochs) + 1)).any():
        return "is damaged"
    return (
        f"ends at epoch {len(epochs)} of {planned}"
        if planned is not None and len(epochs) != planned
        else None
    )


def _counts(column: npt.NDArray[Any]) -> npt.NDArray[Any]:
    if not (np.abs(column) <= 2**53).all() or (column % 1 != 0).any():
        raise ValueError("a count that is no whole number")
    return column.astype(np.int64)


def _parse_config(text: str) -> dict[str, Any]:
    """Half a config.yaml can be valid YAML: what names the run must be in it."""
    config: dict[str, Any] = {}
    for section in SECTION.split(text):
        config |= _parse_section(section)
    if any(at(config, key) is None for key in ("model.name", "norm.name", "batch_size", "seed")):
        raise ValueError("half a configuration")
    return config


@lru_cache(maxsize=1024)
def _parse_section(text: str) -> dict[str, Any]:
    """One section of a configuration; runs share most of theirs, and parsing YAML is most of the time of reading."""
    section = yaml.load(text, LOADER)
    if not isinstance(section, dict | None):
        raise ValueError("no mapping")
    return section or {}


def _parse_environment(text: str) -> dict[str, Any]:
    environment = known_schema(json.loads(text))
    if "task" in environment:
        TaskRecord.from_json(environment["task"])  # a ValueError here names the damaged file
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
