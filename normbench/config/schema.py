"""One run's configuration: what may be set, within which range, and the identity that follows from it.

The names are those of configs/*.yaml, which holds every default. A `Choice` names an entry of a registry; what it adds
to the fields here are that entry's own options, which its registry checks.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, PlainValidator, ValidationError

from normbench.errors import NormbenchError, invalid

LOADER: Any = getattr(
    yaml, "CSafeLoader", yaml.SafeLoader
)  # ten times as fast, where PyYAML was built with libyaml


def _on_off_or_auto(value: Any) -> Any:
    if value is True or value is False or value == "auto":
        return value
    raise ValueError("should be true, false or auto")


Switch = Annotated[bool | Literal["auto"], PlainValidator(_on_off_or_auto)]
Count = Annotated[int, Field(ge=1, le=2**31 - 1)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Channels = Annotated[tuple[float, float, float], Field(strict=False)]
PositiveChannels = Annotated[
    tuple[
        Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]
    ],
    Field(strict=False),
]


# Beginnings of the dotted keys that the cost of a step depends on.
COSTLY = (
    "norm.",
    "model.",
    "runtime.",
    "batch_size",
    "optim.name",
    "train.accumulate",
    "data.augment",
)

# Settings that came later: at these values they leave the ids of runs, and what a bench timed, as they were before.
ADDED = {"train.bn_evaluations": False, "runtime.cuda_graphs": False, "runtime.onednn": True}


class Section(BaseModel):
    """A frozen part of the configuration in which every key and type is checked."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Choice(Section):
    """An entry of a registry by its name, with that entry's own options."""

    model_config = ConfigDict(extra="allow")

    name: str

    @property
    def label(self) -> str:
        """The name without its place: of a norm of the user's own, file.py:Class, the class."""
        return self.name.rpartition(":")[2]

    @property
    def options(self) -> dict[str, Any]:
        """The options of the entry itself."""
        return dict(self.model_extra or {})


class DataConfig(Choice):
    """A data source and what is done to its images. `content` is filled in from the data, never by hand."""

    mean: Channels
    std: PositiveChannels
    augment: Literal["none", "standard"]
    val_fraction: Fraction
    limit_train: Count | None
    limit_test: Count | None
    content: str | None = None


class OptimConfig(Choice):
    """An optimizer and its learning rate over the run."""

    lr: Annotated[float, Field(gt=0)]
    lr_scaling: Literal["none", "linear", "sqrt"]
    reference_batch_size: Count
    schedule: Literal["constant", "cosine", "one_cycle"]
    warmup_fraction: Fraction


class TrainConfig(Section):
    """The loss and the steps."""

    label_smoothing: Fraction
    accumulate: Count
    max_steps: Count | None
    log_every: Count
    bn_evaluations: bool = False  # a default, so that runs from before it was there can be read


class RuntimeConfig(Section):
    """Where and how the arithmetic is done."""

    device: Literal["auto", "cpu", "cuda", "mps"]
    precision: Literal["auto", "fp32", "bf16"]
    channels_last: Switch
    compile: Switch
    cuda_graphs: bool = False  # defaults, for runs from before these two
    onednn: Switch = True


class SystemConfig(Section):
    """Paths, workers and progress: not in the run's id, since none changes a number by more than its rounding."""

    runs_dir: Annotated[str, Field(min_length=1)]
    cache_dir: str | None
    mirrors: Annotated[tuple[str, ...], Field(strict=False)]
    workers: Annotated[int, Field(ge=1, le=1024)] | None
    threads: Annotated[int, Field(ge=1, le=1024)] | None
    concurrent_runs: Count
    progress: Literal["auto", "bar", "lines", "none"]


class RunConfig(Section):
    """Everything that decides one run."""

    norm: Choice
    model: Choice
    data: DataConfig
    optim: OptimConfig
    train: TrainConfig
    runtime: RuntimeConfig
    batch_size: Count
    epochs: Count
    seed: Annotated[int, Field(ge=0)]
    system: SystemConfig

    def identity(self) -> dict[str, Any]:
        """All that can change a number: the whole configuration but `system`, and `data.content` for `data.root`."""
        values = self.model_dump(mode="json", exclude={"system"})
        values["data"].pop("root", None)
        if values["norm"].pop(
            "file", None
        ):  # an own norm is known by its class and content, wherever it lies
            values["norm"]["name"] = self.norm.label
        for name, default in ADDED.items():
            section, key = name.split(".")
            if values[section][key] == default:
                values[section].pop(key)
        return values

    @property
    def fingerprint(self) -> str:
        """The first 12 hex digits of the sha256 of `identity()`."""
        canonical = json.dumps(self.identity(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:12]

    @property
    def run_id(self) -> str:
        """`<model>-<norm>-b<batch>-s<seed>-<fingerprint>`, the name of the run's directory."""
        return f"{self.model.name}-{self.norm.label}-b{self.batch_size}-s{self.seed}-{self.fingerprint}"

    @property
    def run_path(self) -> Path:
        """The run's directory."""
        return Path(self.system.runs_dir).expanduser() / self.run_id

    def with_system(self, **values: Any) -> RunConfig:
        """The same run with other values in `system`, checked."""
        return self.model_copy(
            update={"system": SystemConfig(**{**self.system.model_dump(), **values})}
        )

    def to_yaml(self) -> str:
        """The configuration as YAML, in the order of the fields."""
        return yaml.safe_dump(
            self.model_dump(mode="json"), sort_keys=False, default_flow_style=None
        )


def from_yaml(text: str) -> RunConfig:
    """The configuration that `to_yaml` wrote. Raises NormbenchError where it is not a valid one, or not YAML."""
    try:
        return validate(yaml.load(text, LOADER))
    except (yaml.YAMLError, TypeError, ValueError):
        raise NormbenchError("the configuration is not one that normbench wrote") from None


def validate(values: Mapping[str, Any]) -> RunConfig:
    """The checked configuration. Raises NormbenchError with the first wrong key, the value and what is allowed."""
    try:
        return RunConfig.model_validate(dict(values))
    except ValidationError as error:
        raise invalid("", error) from None


def flatten(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one with dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in content.items():
        name = f"{prefix}{key}"
        flat |= flatten(value, f"{name}.") if isinstance(value, Mapping) else {name: value}
    return flat


def cost_settings(config: Mapping[str, Any]) -> dict[str, str]:
    """Of a configuration with dotted keys, as text, what the time and memory of a step depend on besides the images.

    A norm of the user's own goes by its class and content, as in `identity`.
    """
    costly = {
        key: value for key, value in config.items() if key.startswith(COSTLY) and key != "norm.file"
    }
    costly |= {"norm.name": config["norm.name"].rpartition(":")[2]}
    return {
        key: str(value) for key, value in costly.items() if key not in ADDED or value != ADDED[key]
    }
