"""Reads a whole run, for tables, lists and plans alike. No content of any file raises."""

from __future__ import annotations

import errno
import hashlib
import re
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from normbench.config.safe_yaml import LOADER
from normbench.config.schema import SECTIONS, validate
from normbench.errors import NormbenchError
from normbench.runs import correct
from normbench.runs.columns import Columns, check_metrics, check_steps, read_columns
from normbench.runs.records import (
    OVER,
    UnknownSchema,
    WrongField,
    at,
    check_environment,
    check_status,
    check_text,
    parse_record,
    task_of,
)
from normbench.runs.rundir import ALWAYS, PICTURE, SEALED
from normbench.text import visible, visible_in

SECTION = re.compile(r"^(?=[^\s#-])", re.MULTILINE)  # the beginning of a top-level key
MAX_BYTES = 2**28  # of a file: a million logged steps take 60 MB


@dataclass(frozen=True)
class RunFiles:
    """The content of a run directory, empty for absent files; its texts are visible.

    metrics: the columns of metrics.csv by name, with a value per epoch. correct: the bits of
    correct.bits. picture: the file picture.png. damaged: the damage of each damaged file, by name.
    foreign: what another version of normbench has written, likewise. owner: the id that the
    configuration has, other than the name of the directory: a copied or renamed run. unreachable:
    the file that the disk refuses to give.
    """

    run: str
    config: dict[str, Any]
    environment: dict[str, Any]
    status: dict[str, Any]
    metrics: Columns
    correct: bytes | None = None
    picture: bytes | None = None
    damaged: dict[str, str] = field(default_factory=dict)
    foreign: dict[str, str] = field(default_factory=dict)
    owner: str | None = None
    unreachable: str | None = None

    @property
    def is_over(self) -> bool:
        """Whether status.json says that the run has a result."""
        return self.status.get("state") in OVER


def run_dirs(folder: Path) -> list[Path]:
    """The directories in `folder` with a config.yaml or a status.json, by name, b8 before b64."""
    if not folder.is_dir():
        return []
    found = [path for path in folder.iterdir() if path.name[0] != "." and is_run(path)]
    return sorted(found, key=lambda path: by_numbers(path.name))


def is_run(path: Path) -> bool:
    """Whether `path` is the directory of a run; a directory that cannot be read may be one."""
    try:
        return any((path / name).exists() for name in ("config.yaml", "status.json"))
    except OSError as error:
        return error.errno == errno.EACCES


def read_run(path: Path) -> RunFiles:
    """The files of the run at `path`, each as far as possible; never raises for any content."""
    found: dict[str, Any] = {}
    damaged: dict[str, str] = {}
    foreign: dict[str, str] = {}
    digests: dict[str, str] = {}
    unreachable = None
    for name, parse in PARSERS.items():
        try:
            content = _bytes_of(path / name)
            if content is not None:
                digests[name] = hashlib.sha256(content).hexdigest()
                # The steps of a finished run are known by their checksum.
                if name != "steps.csv" or not _is_over(found):
                    found[name] = parse(content)
        except OSError as error:
            unreachable = f"'{path / name}' cannot be read: {error.strerror}"
        except UnknownSchema as error:
            foreign[name] = str(error)
        except NormbenchError as error:
            foreign[name] = f"is not of this version of normbench: {error}"
        except (ValueError, RecursionError, yaml.YAMLError) as error:
            damaged[name] = _damage(error)
    config, run_id = found.get("config.yaml", ({}, None))
    environment, status = found.get("env.json", {}), found.get("status.json", {})
    metrics = found.get("metrics.csv", {})
    if not config and "config.yaml" not in foreign and (status or "status.json" in damaged):
        damaged.setdefault("config.yaml", "is missing")
    bits = found.get(correct.FILE)
    if config and not damaged:
        try:
            check_metrics(metrics, task_of(environment), config)
        except ValueError as error:
            damaged["metrics.csv"] = str(error)
    if _is_over(found):
        damaged = _broken_seals(status, digests) | damaged
    if status.get("state") == "done" and config and not damaged:
        damaged = _lack(metrics, config) | _disagreement(bits, metrics, environment, config)
    run = path.resolve().name
    return RunFiles(
        run,
        visible_in(config),
        visible_in(environment),
        visible_in(status, lines=True),
        metrics,
        bits,
        found.get(PICTURE),
        damaged,
        foreign,
        run_id if run_id != run else None,
        unreachable,
    )


def _is_over(found: Mapping[str, Any]) -> bool:
    return found.get("status.json", {}).get("state") in OVER


def refused_run(run: str, config: dict[str, Any], reason: str) -> RunFiles:
    """A planned run refused before training."""
    status = {"state": "refused", "reason": visible(reason, lines=True)}
    return RunFiles(run, visible_in(config), {}, status, {})


def read_steps(path: Path) -> Columns | None:
    """The logged steps of the run at `path`, by column; None for a damaged file."""
    try:
        content = _bytes_of(path / "steps.csv")
        return {} if content is None else _parse_steps(content)
    except (ValueError, OSError):
        return None


def _bytes_of(file: Path) -> bytes | None:
    """The content of a regular file; None without a file. Raises ValueError for anything else."""
    if not file.exists():
        return None
    found = file.stat()
    if not stat.S_ISREG(found.st_mode):  # opening a pipe would wait for ever
        raise NoFile("is no file")
    if found.st_size > MAX_BYTES:
        raise NoFile(f"is larger than {MAX_BYTES >> 20} MiB")
    return file.read_bytes()


class NoFile(ValueError):
    """Something else than a file of usual size."""


def _damage(error: Exception) -> str:
    """What is wrong with a file, for `config.yaml {what}`."""
    if isinstance(error, NoFile | WrongField):
        return str(error)
    return "is damaged"


def _broken_seals(status: Mapping[str, Any], digests: Mapping[str, str]) -> dict[str, str]:
    """The files of a finished run that are not as the run left them, with what has happened."""
    broken = {}
    for name in SEALED:
        digest = digests.get(name)
        if digest is None and (name in ALWAYS or name in status.get("sha256", {})):
            broken[name] = "is missing"
        elif digest != status.get("sha256", {}).get(name):
            broken[name] = "was changed after the run"
    return broken


def _lack(metrics: Columns, config: Mapping[str, Any]) -> dict[str, str]:
    """The damage of a finished run without a row per epoch; limited steps may end it early."""
    number, planned = len(metrics.get("epoch", ())), config["epochs"]
    if number == planned or (number and config["train"]["max_steps"]):
        return {}
    return {"metrics.csv": f"ends at epoch {number} of {planned}"}


def _disagreement(
    bits: bytes | None,
    metrics: Columns,
    environment: Mapping[str, Any],
    config: Mapping[str, Any],
) -> dict[str, str]:
    """The damage of a finished run whose bits are not those of its last row."""
    if bits is None:
        return {}
    column = f"test_{task_of(environment).primary.name}"
    number = config["data"]["limit_test"] or at(environment, "data.num_test")
    try:
        correct.check(bits, number, metrics[column][-1])
    except (ValueError, KeyError, TypeError) as error:
        return {correct.FILE: str(error)}
    return {}


def by_numbers(name: str) -> tuple[tuple[int, str], ...]:
    """The key by which names are sorted so that b8 comes before b64."""
    parts = re.split(r"(?<=\D)(?=\d)|-", name)
    return tuple((len(part), part) for part in parts)


def _parse_config(text: str) -> tuple[dict[str, Any], str]:
    """A configuration and its run id.

    Raises ValueError for half a configuration, and NormbenchError for a key or value not known.
    """
    sections: dict[str, Any] = {}
    for section in SECTION.split(text):
        sections |= _parse_section(section)
    if SECTIONS - sections.keys():
        raise ValueError("half a configuration")
    config = validate(sections)
    values = config.model_dump(mode="json")
    check_text(values)
    return values, config.run_id


@lru_cache(maxsize=1024)
def _parse_section(text: str) -> dict[str, Any]:
    """A section of a configuration, cached: runs share sections, and YAML dominates reading."""
    section = yaml.load(text, LOADER)
    if not isinstance(section, dict | None):
        raise ValueError("no mapping")
    return section or {}


def _parse_steps(content: bytes) -> Columns:
    columns = read_columns(content.decode())
    check_steps(columns)
    return columns


# In the order of reading: the status says whether the steps are known by their checksum.
PARSERS: dict[str, Callable[[bytes], Any]] = {
    "status.json": lambda content: check_status(parse_record(content.decode())),
    "config.yaml": lambda content: _parse_config(content.decode()),
    "env.json": lambda content: check_environment(parse_record(content.decode())),
    "metrics.csv": lambda content: read_columns(content.decode()),
    "steps.csv": _parse_steps,
    correct.FILE: bytes,
    PICTURE: bytes,
}
