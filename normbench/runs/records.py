"""The JSON files of a run, status.json and env.json: their fields, types, and checksum."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from normbench.atomic import write_json
from normbench.checksums import sealed, unsealed
from normbench.tasks.metric import UNKNOWN_TASK, TaskRecord

SCHEMA_VERSION = 2
OVER = ("done", "diverged")  # the states of a run with a result

MAX_DEPTH = 50

Count = Annotated[int, Field(ge=1)]


class WrongField(ValueError):
    """A field of another type than normbench writes."""


class UnknownSchema(ValueError):
    """A file of another version of normbench, whose keys may mean something else."""

    def __init__(self, version: object) -> None:
        super().__init__(f"is of schema {version}, this normbench reads {SCHEMA_VERSION}")


class Record(BaseModel):
    """Fields of which each has the type that normbench writes; more fields are allowed."""

    model_config = ConfigDict(frozen=True, extra="allow", strict=True)


class Status(Record):
    """status.json: the state of a run, the reason, and times in ISO 8601.

    sha256: of a run that is over, the checksums of its other files by name.
    """

    state: Literal["running", "done", "diverged", "failed", "interrupted"]
    reason: str | None = None
    started: str | None = None
    finished: str | None = None
    sha256: dict[str, str] = {}


class DataRecord(Record):
    """The section `data` of env.json."""

    name: str | None = None
    content: str | None = None
    image_shape: Annotated[tuple[Count, Count, Count], Field(strict=False)] | None = None
    num_train: Count | None = None
    num_test: Count | None = None


class Hardware(Record):
    """The section `hardware` of env.json."""

    device: str | None = None
    device_name: str | None = None
    threads: Count | None = None


class Commit(Record):
    """The section `git` of env.json."""

    commit: str | None = None
    dirty: bool | None = None


class Session(Record):
    """What env.json says of every process that trained a part of the run."""

    started: str | None = None
    command: str | None = None
    concurrent_runs: Count | None = None
    versions: dict[str, str] = {}
    hardware: Hardware = Hardware()
    git: Commit = Commit()


class Environment(Session):
    """env.json: task, data, and the sessions of a run, of which the first is the file itself.

    broken: the defects of an own norm by which its figures are not comparable.
    """

    task: dict[str, Any] | None = None
    data: DataRecord = DataRecord()
    cost_id: str | None = None
    broken: list[str] = []
    resumed: list[Session] = []


def write_record(path: Path, content: dict[str, Any]) -> None:
    """Writes status.json or env.json, with version and checksum."""
    write_json(path, sealed({"schema_version": SCHEMA_VERSION, **content}))


def parse_record(text: str) -> dict[str, Any]:
    """The content given to `write_record`. Raises UnknownSchema, ValueError for any other text."""
    content = json.loads(text)
    if not isinstance(content, dict):
        raise ValueError("no object")
    if content.get("schema_version") != SCHEMA_VERSION:
        raise UnknownSchema(content.get("schema_version"))
    plain = unsealed(content)
    del plain["schema_version"]
    check_text(plain)
    return plain


def check_text(content: Any) -> None:
    """Raises ValueError for half of a pair of UTF-16 codes, which no file can hold, and for depth.

    What normbench writes is never nested deeper than a few levels.
    """
    json.dumps(content, ensure_ascii=False).encode()
    level = [content]
    for _ in range(MAX_DEPTH):
        nodes = [node for node in level if isinstance(node, list | dict)]
        level = [inner for node in nodes for inner in _inside(node)]
    if level:
        raise ValueError("nested too deeply")


def _inside(node: list[Any] | dict[Any, Any]) -> Iterable[Any]:
    return node.values() if isinstance(node, dict) else node


def check_status(content: dict[str, Any]) -> dict[str, Any]:
    """The content of status.json. Raises ValueError for a field of a wrong type."""
    check_record(Status, content)
    return content


def check_environment(content: dict[str, Any]) -> dict[str, Any]:
    """The content of env.json. Raises ValueError for a field of a wrong type."""
    check_record(Environment, content)
    if content.get("task") is not None:
        TaskRecord.from_json(content["task"])
    return content


def task_of(environment: Mapping[str, Any]) -> TaskRecord:
    """The task in an env.json, or UNKNOWN_TASK."""
    task = environment.get("task")
    return UNKNOWN_TASK if task is None else TaskRecord.from_json(task)


def defects_of(environment: Mapping[str, Any]) -> list[str]:
    """The defects, in an env.json, of an own norm by which its figures are not comparable."""
    found: list[str] = environment.get("broken", [])
    return found


def at(content: Any, key: str) -> Any:
    """The value under a dotted key, or None."""
    for part in key.split("."):
        content = content.get(part) if isinstance(content, Mapping) else None
    return content


def check_record(record: type[Record], content: Any) -> None:
    """Raises WrongField for the first field that is missing or of a wrong type."""
    try:
        record.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise WrongField(f"has a wrong {place}") from None
