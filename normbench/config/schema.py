"""One run's configuration as a whole, and the ids that follow from its values."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import Field, ValidationError

from normbench.config.safe_yaml import LOADER
from normbench.config.sections import (
    Choice,
    Count,
    DataConfig,
    ModelConfig,
    OptimConfig,
    RuntimeConfig,
    Section,
    SystemConfig,
    TrainConfig,
)
from normbench.errors import NormbenchError, invalid

RUN_ID = re.compile(r".+-b\d+(-p\d+)?-s\d+-[0-9a-f]{12}", re.DOTALL)

CONTENT = "_content"

# The time and memory of a training step depend on keys with these beginnings, and on the images.
COST_KEYS = (
    "task.",
    "norm.",
    "model.",
    "runtime.",
    "batch_size",
    "optim.name",
    "optim.agc",
    "train.accumulate",
    "data.augment",
)

# Settings that came after runs had ids, each with the value that those runs have.
ADDED = (
    ("runtime", "processes", 1),
    ("model", "init_scale", 1.0),
    ("train", "appearance", False),
    ("optim", "agc", None),
    ("optim", "decay_norm", False),
)
# The same of options of a task, data source, norm, network or optimizer, which only runs of that
# one have.
ADDED_OPTIONS = (
    ("task", "any_style", False),
    ("data", "size", None),
    ("data", "test_fraction", None),
)
# Options by which images are found and decoded: images are known by `data.content` instead.
DECODING = ("root", "size", "test_fraction")


class RunConfig(Section):
    """Everything that decides one run."""

    task: Choice
    norm: Choice
    model: ModelConfig
    data: DataConfig
    optim: OptimConfig
    train: TrainConfig
    runtime: RuntimeConfig
    batch_size: Count
    epochs: Count
    seed: Annotated[int, Field(ge=0)]
    system: SystemConfig

    def identity(self) -> dict[str, Any]:
        """The values that can change a number: all but `system` and the places of files.

        Images are known by `data.content` instead of the options by which they were found and
        decoded, other files likewise; a user's own norm or model by its class and content instead
        of its file.
        """
        values = self.model_dump(mode="json", exclude={"system"})
        for option in DECODING:
            values["data"].pop(option, None)
        # A run keeps the id that it had before a setting was there.
        for section, setting, before in (*ADDED, *ADDED_OPTIONS):
            if values[section].get(setting, before) == before:
                values[section].pop(setting, None)
        # A file or folder that an option of the task names is known by OPTION_content.
        for key, content in self.task.options.items():
            if key.endswith(CONTENT) and content is not None:
                del values["task"][key.removesuffix(CONTENT)]
        for section, choice in (("norm", self.norm), ("model", self.model)):
            if values[section].pop("file", None):
                values[section]["name"] = choice.label
        return values

    @property
    def images_per_step(self) -> int:
        """The images of an optimizer step, of all processes and accumulated batches."""
        return self.batch_size * self.train.accumulate * self.runtime.processes

    @property
    def subset_seed(self) -> int:
        """The seed by which the subset and the held-out images are drawn."""
        return self.seed if self.data.subset_seed is None else self.data.subset_seed

    @property
    def fingerprint(self) -> str:
        """The first 12 hex digits of the sha256 of `identity()`."""
        return _short_hash(self.identity())

    @property
    def run_id(self) -> str:
        """`<model>-<norm>-b<batch>[-p<processes>]-s<seed>-<fingerprint>`, the directory's name."""
        processes = self.runtime.processes
        batch = f"b{self.batch_size}" + (f"-p{processes}" if processes > 1 else "")
        return f"{self.model.label}-{self.norm.label}-{batch}-s{self.seed}-{self.fingerprint}"

    @property
    def run_path(self) -> Path:
        """The run's directory."""
        return Path(self.system.runs_dir).expanduser() / self.run_id

    def cost_settings(self) -> dict[str, Any]:
        """The settings, by dotted key, on which the time and memory of a training step depend."""
        settings = flatten(self.identity())
        return {key: value for key, value in settings.items() if key.startswith(COST_KEYS)}

    def cost_id(self, image_shape: tuple[int, ...], num_outputs: int) -> str:
        """A hash of all that decides a step's cost: runs and benches of equal cost share it."""
        return _short_hash([self.cost_settings(), image_shape, num_outputs])

    def with_system(self, **values: Any) -> RunConfig:
        """The same run with other values in `system`, checked."""
        system = SystemConfig(**{**self.system.model_dump(), **values})
        return self.model_copy(update={"system": system})

    def with_runtime(self, **values: Any) -> RunConfig:
        """The configuration with other values in `runtime`, not checked."""
        return self.model_copy(update={"runtime": self.runtime.model_copy(update=values)})

    def to_yaml(self) -> str:
        """The configuration as YAML, in the order of the fields."""
        values = self.model_dump(mode="json")
        return yaml.safe_dump(values, sort_keys=False, default_flow_style=None)


def in_processes(batch_size: int, processes: int) -> str:
    """A batch size in words: `8`, or `2 a process, 4 processes`."""
    return str(batch_size) if processes == 1 else f"{batch_size} a process, {processes} processes"


def is_run_id(name: str) -> bool:
    """Whether a name has the form of `RunConfig.run_id`."""
    return RUN_ID.fullmatch(name) is not None


SECTIONS = frozenset(RunConfig.model_fields)


def from_yaml(text: str) -> RunConfig:
    """Reads what `to_yaml` wrote. Raises NormbenchError for an invalid configuration or no YAML."""
    try:
        return validate(yaml.load(text, LOADER))
    except (yaml.YAMLError, TypeError, ValueError, RecursionError):
        raise NormbenchError("the configuration is not one that normbench wrote") from None


def validate(values: Mapping[str, Any]) -> RunConfig:
    """Checks a configuration. Raises NormbenchError for the first wrong key, with its value."""
    for key, value in flatten(values).items():
        try:
            str(value).encode()
        except UnicodeEncodeError:
            raise NormbenchError(f"{key}: {value!r} is no text that a file can hold") from None
    try:
        return RunConfig.model_validate(dict(values))
    except ValidationError as error:
        raise invalid("", error) from None


def flatten(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one mapping with dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in content.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _short_hash(content: Any) -> str:
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:12]
