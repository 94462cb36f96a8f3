"""The sections of a run's configuration: names, types and ranges.

The names are those of configs/*.yaml, where every default stands; a default here is that of
configurations from before a setting was there. A `Choice` names an entry of a registry; keys beyond
its fields are the entry's own options, which the registry checks.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainValidator


def _bool_or_fast(value: Any) -> Any:
    # By identity: 1 == True, and a `Literal[True]` of pydantic takes 1 as well.
    if value is True or value is False or value == "fast":
        return value
    raise ValueError("should be true, false or fast")


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


Layout = Annotated[bool | Literal["fast"], PlainValidator(_bool_or_fast)]
Count = Annotated[int, Field(ge=1, le=2**31 - 1)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]
Names = Annotated[tuple[str, ...], BeforeValidator(_listed), Field(strict=False)]  # or one name
Channels = Annotated[tuple[float, float, float], Field(strict=False)]
PositiveChannels = Annotated[tuple[Positive, Positive, Positive], Field(strict=False)]


class Section(BaseModel):
    """A frozen part of the configuration in which every key and type is checked."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Choice(Section):
    """A registry entry by name, with the entry's own options."""

    model_config = ConfigDict(extra="allow")

    name: str

    @property
    def label(self) -> str:
        """The name as shown: a user's own `file.py:Class` is called by its class."""
        return self.name.rpartition(":")[2]

    @property
    def options(self) -> dict[str, Any]:
        """The options of the entry itself."""
        return dict(self.model_extra or {})


class DataConfig(Choice):
    """A data source and the treatment of its images; `content` is a hash of the data."""

    mean: Channels
    std: PositiveChannels
    augment: Literal["none", "standard"]
    val_fraction: Fraction
    limit_train: Count | None
    limit_test: Count | None
    subset_seed: Annotated[int, Field(ge=0)] | None
    content: str | None = None


class ModelConfig(Choice):
    """A network; `init_scale` multiplies its initial weights, but no bias, gamma or beta."""

    init_scale: Positive = 1.0


class OptimConfig(Choice):
    """An optimizer and its learning rate over the run."""

    lr: Positive
    lr_scaling: Literal["none", "linear", "sqrt"]
    reference_batch_size: Count
    schedule: Literal["constant", "cosine", "one_cycle"]
    warmup_fraction: Fraction
    agc: Positive | None = None
    decay_norm: bool = False


class TrainConfig(Section):
    """Steps, logging, and additional evaluations: BatchNorm's, and under changed appearance."""

    accumulate: Count
    max_steps: Count | None
    log_every: Count
    bn_evaluations: bool
    appearance: bool = False


class RuntimeConfig(Section):
    """Device, precision, layout, compilation; `auto` and `fast` are resolved before the id."""

    device: Literal["auto", "cpu", "cuda", "mps"]
    precision: Literal["auto", "fast", "fp32", "bf16", "fp16"]
    channels_last: Layout
    compile: bool
    cuda_graphs: bool
    processes: Annotated[int, Field(ge=1, le=1024)] = 1  # each with batch_size images a batch


class SystemConfig(Section):
    """Paths, workers, progress: left out of the run id, since none changes more than rounding."""

    runs_dir: Annotated[str, Field(min_length=1)]
    cache_dir: str | None
    mirrors: Annotated[tuple[str, ...], Field(strict=False)]
    workers: Annotated[int, Field(ge=1, le=1024)] | None
    threads: Annotated[int, Field(ge=1, le=1024)] | None
    concurrent_runs: Count
    restarts: Annotated[int, Field(ge=0, le=1000)] = 0
    progress: Literal["auto", "bar", "lines", "none"]
    trackers: Names = ()
