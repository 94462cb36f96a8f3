"""Accuracies on CIFAR-10 that others have published, with their sources: published.yaml.

They are shown beside what was measured. No mean, interval or verdict contains one.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from normbench.analysis.protocol import Protocol
from normbench.config.safe_yaml import LOADER

FILE = Path(__file__).with_name("published.yaml")
OBTAINED = {
    "read": "read in its text or logs",
    "computed": "computed from its committed results",
    "figure": "read off a figure, to about 0.1 points",
}


class Entry(BaseModel):
    """A part of published.yaml, of which every key and type is checked."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Figure(Entry):
    """An accuracy of a source, in percent; the fields are described in published.yaml."""

    norm: str | None
    called: str | None = None
    batch_size: Annotated[int, Field(ge=1)] | None
    percent: Annotated[float, Field(ge=0, le=100)]
    sd: Annotated[float, Field(gt=0)] | None = None
    n: Annotated[int, Field(ge=1)] | None = None
    groups: int | str | None = None


class Source(Entry):
    """A source with one protocol, and its accuracies."""

    source: str
    commit: str | None = None
    obtained: Literal["read", "computed", "figure"]
    protocol: Protocol
    remark: str = ""
    figures: list[Figure]

    @property
    def short(self) -> str:
        """The name in a cell of a table: the owner of the repository."""
        return self.source.partition("/")[0]


@dataclass(frozen=True)
class Published:
    """An accuracy with its source and protocol, the groups of this accuracy included."""

    figure: Figure
    source: Source
    protocol: Protocol


SOURCES = TypeAdapter(list[Source])


@cache
def published() -> tuple[Published, ...]:
    """All accuracies of published.yaml, in the order of the file."""
    found = []
    for source in SOURCES.validate_python(yaml.load(FILE.read_text(), LOADER)):
        for figure in source.figures:
            own = Protocol(**source.protocol.model_dump() | {"groups": figure.groups})
            found.append(Published(figure, source, own))
    return tuple(found)
