"""What a configuration comes to on this machine, with this data: the questions asked before any work.

After `resolve` no value says auto, every option has passed its registry, the data are known by their content, and the
norm can work at every site of the model. Only then does the configuration have the run's id.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from normbench.atomic import disk_errors
from normbench.config.schema import Choice, RunConfig
from normbench.data import DataHome, Source, sources
from normbench.data.cache import cached_source, default_cache_dir
from normbench.errors import NormbenchError, Unsupported
from normbench.models import Site, models, norm_sites, unsupported
from normbench.norms import norms
from normbench.registry import Registry
from normbench.train.choose import PLAIN, choose, plain
from normbench.train.engine import count_steps
from normbench.train.optim import optimizers, schedule
from normbench.train.runtime import (
    check_compiler,
    check_cuda_graphs,
    check_onednn,
    resolve_device,
    resolve_precision,
)


def resolve(config: RunConfig) -> tuple[RunConfig, Source]:
    """The configuration as it will run, and its data source. Resolving a second time changes nothing.

    Raises NormbenchError for whatever cannot work; nothing has been written by then but what was measured for an auto.
    """
    return Resolver().resolve(config)


@dataclass
class Resolver:
    """Resolves configurations; what it has found out about data and models for one of them serves the next.

    device: where the runs will be, `cpu` or `cuda`, if that is another machine than this one: what only that machine
    can tell (native bf16, a compiler) is then left to it.
    """

    device: str | None = None
    _sources: dict[str, Source] = field(default_factory=dict)
    _sites: dict[str, list[Site]] = field(default_factory=dict)

    def resolve(self, config: RunConfig) -> tuple[RunConfig, Source]:
        """As the function `resolve`. Raises Unsupported where the norm cannot work on this model, batch and data."""
        config, source = self.complete(config)
        self.check_supported(config, source, count_train(config, source))
        return config, source

    def complete(self, config: RunConfig) -> tuple[RunConfig, Source]:
        """As `resolve`, before it is asked whether the norm can work there."""
        source = self.source(config)
        config = config.model_copy(
            update={
                "norm": _checked(norms, config.norm),
                "model": _checked(models, config.model),
                "optim": _checked(optimizers, config.optim),
                "data": _with_content(_checked(sources, config.data), source),
                "runtime": _resolved_runtime(config)
                if self.device is None
                else _runtime_on(self.device, config),
            }
        )
        _check_optimizer(config)
        _check_runs_dir(Path(config.system.runs_dir).expanduser())
        if "auto" in (getattr(config.runtime, name) for name in PLAIN):
            config = self._chosen(config, source)
        return config, source

    def check_supported(self, config: RunConfig, source: Source, num_train: int) -> None:
        """Raises Unsupported where the norm cannot work in a full batch or in the last, short one of `num_train`."""
        spec = norms.build(config.norm.name, options=config.norm.options)
        sites = self.norm_sites(config.model, source)
        for batch_size in {min(config.batch_size, num_train), num_train % config.batch_size} - {0}:
            if refusal := unsupported(spec, sites, batch_size):
                what = f"norm {config.norm.name} cannot train {config.model.name} at batch {batch_size}"
                raise Unsupported(f"{what}: {refusal.reason}") from refusal.error

    def _chosen(self, config: RunConfig, source: Source) -> RunConfig:
        """With layout, oneDNN and compilation as a measurement chooses; the plain ones where the norm cannot work."""
        num_train = count_train(config, source)
        try:
            self.check_supported(config, source, num_train)
        except Unsupported:
            return plain(config)
        images_per_step = config.batch_size * config.train.accumulate
        num_steps = count_steps(num_train, images_per_step, config.epochs, config.train.max_steps)
        tried = config.model_copy(update={"batch_size": min(config.batch_size, num_train)})
        chosen = choose(tried, source, num_steps, data_home(config).cache_dir)
        return config.model_copy(update={"runtime": chosen.runtime})

    def source(self, config: RunConfig) -> Source:
        """By its content from the cache, if that is known, else from the files it is made of."""
        home = data_home(config)
        key = repr((config.data.name, config.data.content, config.data.options, home))
        if key not in self._sources:
            build = partial(sources.build, config.data.name, home, options=config.data.options)
            known = cached_source(config.data.content, home) if config.data.content else None
            self._sources[key] = known or build()
        return self._sources[key]

    def norm_sites(self, model: Choice, source: Source) -> list[Site]:
        """The shape (c, h, w) of the input of each norm in this model on these images."""
        key = repr((model, source.classes, source.image_shape))
        if key not in self._sites:
            build = partial(_build_model, model, len(source.classes))
            self._sites[key] = norm_sites(build, source.image_shape)
        return self._sites[key]


def count_train(config: RunConfig, source: Source) -> int:
    """How many images will train, to within the rounding by class. Raises NormbenchError where there are too few."""
    data = config.data
    for side, limit, there in (
        ("train", data.limit_train, source.num_train),
        ("test", data.limit_test, source.num_test),
    ):
        if limit is not None and limit > there:
            raise NormbenchError(f"data.limit_{side}={limit}: there are {there} {side} images")
    num_train = data.limit_train or source.num_train
    num_val = round(num_train * data.val_fraction)
    if data.val_fraction > 0 and num_val == 0:
        raise NormbenchError(
            f"data.val_fraction={data.val_fraction} leaves {num_train} images to train and 0 to validate"
        )
    return num_train - num_val


def _check_runs_dir(path: Path) -> None:
    """Raises NormbenchError where no run directory can be, before the data are decoded for it."""
    with disk_errors(path):
        if path.exists() and not path.is_dir():
            raise NormbenchError(f"system.runs_dir: '{path}' is not a folder")


def data_home(config: RunConfig) -> DataHome:
    """Where the configuration's `system` section keeps data on this machine."""
    system = config.system
    cache_dir = Path(system.cache_dir).expanduser() if system.cache_dir else default_cache_dir()
    return DataHome(cache_dir, system.mirrors, system.workers or os.cpu_count() or 1)


def _checked(registry: Registry[Any], choice: Any) -> Any:
    """The choice with all its options checked and converted by the registry that owns them."""
    options = registry.check(choice.name, choice.options)
    known = {name: getattr(choice, name) for name in type(choice).model_fields}
    return type(choice)(**known, **_as_yaml(options))


def _as_yaml(options: dict[str, Any]) -> dict[str, Any]:
    return {
        key: list(value) if isinstance(value, tuple) else value for key, value in options.items()
    }


def _with_content(data: Any, source: Source) -> Any:
    if data.content not in (None, source.content):
        raise NormbenchError(
            f"data: the images under '{data.name}' are not those this configuration was made for"
        )
    return data.model_copy(update={"content": source.content})


def _resolved_runtime(config: RunConfig) -> Any:
    device = resolve_device(config.runtime.device)
    precision = resolve_precision(config.runtime.precision, device)
    if config.runtime.compile != "auto":
        check_compiler(config.runtime.compile, device)
    check_cuda_graphs(config.runtime.cuda_graphs, device)
    check_onednn(config.runtime.onednn, device)
    onednn = (
        config.runtime.onednn if device == "cpu" else True
    )  # elsewhere there is nothing to measure
    return config.runtime.model_copy(
        update={"device": device, "precision": precision, "onednn": onednn}
    )


def _runtime_on(device: str, config: RunConfig) -> Any:
    """What can be said here of a runtime on another machine, which will ask itself once more."""
    runtime = config.runtime
    if runtime.device not in ("auto", device):
        raise NormbenchError(
            f"runtime.device={runtime.device}: the runs are given {device}; see --gpus-per-run"
        )
    for name, allowed in {
        "precision": "fp32 or bf16",
        **dict.fromkeys(PLAIN, "true or false"),
    }.items():
        if getattr(runtime, name) == "auto":
            raise NormbenchError(
                f"runtime.{name}=auto: another machine is not known here; say {allowed}"
            )
    return runtime.model_copy(update={"device": device})


def _check_optimizer(config: RunConfig) -> None:
    """Combinations of options are refused by what they belong to."""
    schedule(config.optim.schedule, config.optim.warmup_fraction)
    optimizers.build(config.optim.name, options=config.optim.options)


def _build_model(model: Choice, num_classes: int, layers: Any) -> Any:
    return models.build(model.name, layers, num_classes, options=model.options)
